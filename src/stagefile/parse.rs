//! Reads `<+…>` in text, and conditions.

use super::expression::{Expression, Method, Operator, Piece, Reference, Text};
use super::place::shown;
use super::{Place, Problem};

/// How deep brackets of all kinds may be in each other.
const DEEPEST: usize = 24;

/// Of how many parts one expression may consist: evaluating it, and dropping it, recurse.
const MOST: usize = 400;

/// Reads text with expressions in it. `places` are those of each `<+` in it, in order.
///
/// # Errors
/// The first expression that cannot be read.
pub fn text(source: &str, place: Place, places: &[Place]) -> Result<Text, Problem> {
    let mut parser = Parser::new(source, place, places);
    let pieces = parser.pieces()?;
    Ok(Text { place, pieces })
}

/// Reads a condition: an expression in which names stand in `<+…>`.
///
/// # Errors
/// What cannot be read.
pub fn condition(source: &str, place: Place, places: &[Place]) -> Result<Expression, Problem> {
    let mut parser = Parser::new(source, place, places);
    let expression = parser.choice()?;
    parser.skip_blanks();
    if parser.rest().is_empty() {
        return Ok(expression);
    }
    Err(parser.unexpected("the end, or an operator such as == or &&"))
}

/// Reads the name of something that an expression can refer to, as it is given on the command
/// line: without `<+` and `>`.
///
/// # Errors
/// A sentence.
pub fn name(source: &str) -> Result<String, String> {
    let place = Place::default();
    let mut parser = Parser::new(source, place, &[]);
    parser.inside = 1;
    match parser.postfix() {
        Ok(Expression::Reference(reference)) if parser.rest().is_empty() => Ok(reference.key),
        _ => Err(format!(
            "'{}' is not a name such as pipeline.variables.tag or secrets.getValue(\"npm\")",
            shown(source)
        )),
    }
}

struct Parser<'s> {
    source: &'s str,
    at: usize,
    place: Place,
    /// Of the `<+` that have not come yet.
    places: &'s [Place],
    depth: usize,
    parts: usize,
    /// How many `<+` are open: only in them a bare name is a reference.
    inside: usize,
    /// Whether a `>` ends the innermost `<+`, rather than compares: in parentheses it compares.
    closes: bool,
}

impl<'s> Parser<'s> {
    fn new(source: &'s str, place: Place, places: &'s [Place]) -> Parser<'s> {
        Parser {
            source,
            at: 0,
            place,
            places,
            depth: 0,
            parts: 0,
            inside: 0,
            closes: false,
        }
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn problem(&self, what: impl Into<String>) -> Problem {
        Problem::new(self.place, what)
    }

    fn unexpected(&self, wanted: &str) -> Problem {
        let rest = self.rest();
        if rest.is_empty() {
            return self.problem(format!(
                "the expression ends where {wanted} should come: '{}'",
                shown(self.source.trim())
            ));
        }
        let end = rest
            .char_indices()
            .nth(20)
            .map_or(rest.len(), |(index, _)| index);
        let found = rest[..end].lines().next().unwrap_or_default();
        self.problem(format!(
            "in the expression, '{}' stands where {wanted} should come",
            shown(found)
        ))
    }

    /// Takes a token if it is next.
    fn take(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), Problem> {
        if self.take(token) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("'{token}'")))
        }
    }

    fn part(&mut self) -> Result<(), Problem> {
        self.parts += 1;
        if self.parts > MOST {
            return Err(self.problem(format!("an expression of more than {MOST} parts")));
        }
        Ok(())
    }

    fn deeper<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        if self.depth == DEEPEST {
            return Err(self.problem(format!("an expression nested more than {DEEPEST} deep")));
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// Literal text and expressions up to the end.
    fn pieces(&mut self) -> Result<Vec<Piece>, Problem> {
        let mut pieces = Vec::new();
        while !self.rest().is_empty() {
            let rest = self.rest();
            let Some(start) = rest.find("<+") else {
                pieces.push(Piece::Literal(rest.to_owned()));
                break;
            };
            if start > 0 {
                pieces.push(Piece::Literal(rest[..start].to_owned()));
            }
            self.at += start;
            if self.inside == 0 {
                self.parts = 0;
            }
            let expression = self.bracketed()?;
            pieces.push(Piece::Expression(expression));
        }
        Ok(pieces)
    }

    /// `<+ expression >`
    fn bracketed(&mut self) -> Result<Expression, Problem> {
        let outside = self.place;
        if let [first, others @ ..] = self.places {
            self.place = *first;
            self.places = others;
        }
        self.at += "<+".len();
        let closes = std::mem::replace(&mut self.closes, true);
        self.inside += 1;
        let expression = self.deeper(Parser::choice)?;
        self.inside -= 1;
        self.skip_blanks();
        if !self.rest().starts_with('>') {
            return Err(self.unexpected("the '>' that ends it"));
        }
        self.at += 1;
        self.closes = closes;
        self.place = outside;
        Ok(expression)
    }

    fn choice(&mut self) -> Result<Expression, Problem> {
        let condition = self.binary(0)?;
        if !self.take("?") {
            return Ok(condition);
        }
        self.part()?;
        let yes = self.deeper(Parser::choice)?;
        self.expect(":")?;
        let no = self.deeper(Parser::choice)?;
        Ok(Expression::Choice(Box::new((condition, yes, no))))
    }

    fn operator(&mut self, level: usize) -> Option<Operator> {
        const LEVELS: [&[(&str, Operator)]; 5] = [
            &[("||", Operator::Or)],
            &[("&&", Operator::And)],
            &[("==", Operator::Equal), ("!=", Operator::NotEqual)],
            &[
                ("<=", Operator::LessOrEqual),
                (">=", Operator::GreaterOrEqual),
                ("<", Operator::Less),
                (">", Operator::Greater),
            ],
            &[("+", Operator::Plus)],
        ];
        self.skip_blanks();
        let rest = self.rest();
        if rest.starts_with("<+") || (self.closes && rest.starts_with('>')) {
            return None;
        }
        let found = LEVELS[level]
            .iter()
            .find(|(token, _)| rest.starts_with(token))?;
        self.at += found.0.len();
        Some(found.1)
    }

    /// Operators of this level and those that bind closer.
    fn binary(&mut self, level: usize) -> Result<Expression, Problem> {
        if level == 5 {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = self.operator(level) {
            self.part()?;
            let right = self.binary(level + 1)?;
            left = Expression::Binary(operator, Box::new((left, right)));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expression, Problem> {
        self.skip_blanks();
        if self.rest().starts_with('!') && !self.rest().starts_with("!=") {
            self.at += 1;
            self.part()?;
            let inner = self.deeper(Parser::unary)?;
            return Ok(Expression::Not(Box::new(inner)));
        }
        self.postfix()
    }

    fn postfix(&mut self) -> Result<Expression, Problem> {
        let mut value = self.primary()?;
        while self.rest().starts_with('.') {
            self.at += 1;
            let word = self.word();
            value = self.call(value, &word)?;
        }
        Ok(value)
    }

    /// The arguments of a method, from the '(' on.
    fn call(&mut self, of: Expression, word: &str) -> Result<Expression, Problem> {
        self.part()?;
        let known = METHODS.iter().find(|(name, ..)| *name == word);
        let Some((_, method, takes)) = known else {
            let names: Vec<&str> = METHODS.iter().map(|(name, ..)| *name).collect();
            return Err(self.problem(format!(
                "'{}' is no method that is known here: {}",
                shown(word),
                names.join(", ")
            )));
        };
        let arguments = self.arguments()?;
        if arguments.len() != *takes {
            return Err(self.problem(format!(
                "{word}() takes {takes} arguments, not {}",
                arguments.len()
            )));
        }
        Ok(Expression::Call(
            Box::new(of),
            *method,
            arguments,
            self.place,
        ))
    }

    fn arguments(&mut self) -> Result<Vec<Expression>, Problem> {
        self.expect("(")?;
        let mut arguments = Vec::new();
        if self.take(")") {
            return Ok(arguments);
        }
        let closes = std::mem::replace(&mut self.closes, false);
        loop {
            let argument = self.deeper(Parser::choice)?;
            arguments.push(argument);
            if self.take(")") {
                break;
            }
            self.expect(",")?;
        }
        self.closes = closes;
        Ok(arguments)
    }

    fn primary(&mut self) -> Result<Expression, Problem> {
        self.part()?;
        self.skip_blanks();
        let rest = self.rest();
        if rest.starts_with("<+") {
            return self.bracketed();
        }
        match rest.chars().next() {
            Some('(') => {
                self.at += 1;
                let closes = std::mem::replace(&mut self.closes, false);
                let inner = self.deeper(Parser::choice)?;
                self.expect(")")?;
                self.closes = closes;
                Ok(inner)
            }
            Some(quote @ ('"' | '\'')) => self.string(quote),
            Some('0'..='9' | '-') => self.number(),
            Some(c) if is_word(c) => self.name(),
            _ => Err(self.unexpected("a name, a quoted text or a number")),
        }
    }

    /// What stands in quotes; it may hold expressions.
    fn string(&mut self, quote: char) -> Result<Expression, Problem> {
        self.at += 1;
        let mut pieces = Vec::new();
        let mut literal = String::new();
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next() else {
                return Err(self.problem(format!(
                    "a quoted text has no end: '{}'",
                    shown(self.source.trim())
                )));
            };
            if rest.starts_with("<+") {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                let expression = self.bracketed()?;
                pieces.push(Piece::Expression(expression));
                continue;
            }
            self.at += c.len_utf8();
            if c == quote {
                break;
            }
            // Only the quote and the backslash itself: `\d` of a pattern stays.
            let next = self.rest().chars().next();
            match next.filter(|next| c == '\\' && (*next == quote || *next == '\\')) {
                Some(next) => {
                    literal.push(next);
                    self.at += next.len_utf8();
                }
                None => literal.push(c),
            }
        }
        pieces.push(Piece::Literal(literal));
        pieces.retain(|piece| !matches!(piece, Piece::Literal(text) if text.is_empty()));
        let place = self.place;
        Ok(Expression::Text(Text { place, pieces }))
    }

    fn number(&mut self) -> Result<Expression, Problem> {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .find(|(index, c)| !(c.is_ascii_digit() || *c == '.' || (*c == '-' && *index == 0)))
            .map_or(rest.len(), |(index, _)| index);
        match rest[..end].parse::<f64>() {
            Ok(number) => {
                self.at += end;
                Ok(Expression::Number(number))
            }
            Err(_) => Err(self.unexpected("a number")),
        }
    }

    fn word(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    /// A bare word, or a name with dots, up to the method that is called on it.
    fn name(&mut self) -> Result<Expression, Problem> {
        let start = self.at;
        let mut segments = vec![self.word()];
        if let [word] = segments.as_slice() {
            match word.as_str() {
                "true" => return Ok(Expression::Bool(true)),
                "false" => return Ok(Expression::Bool(false)),
                "null" => return Ok(Expression::Null),
                _ => {}
            }
        }
        let mut method = None;
        while self.rest().starts_with('.') {
            let dot = self.at;
            self.at += 1;
            let word = self.word();
            if word.is_empty() {
                return Err(self.unexpected("a name after the '.'"));
            }
            if !self.rest().starts_with('(') {
                segments.push(word);
                continue;
            }
            let quoted = self.quoted_argument();
            match (word.as_str(), quoted) {
                // `steps.get("a").status` is `steps.a.status`.
                ("get", Some(key)) => segments.push(key),
                ("getValue", Some(key)) if segments == ["secrets"] => {
                    segments.push(format!("getValue(\"{key}\")"));
                }
                _ => {
                    self.at = dot + 1 + word.len();
                    method = Some(word);
                    break;
                }
            }
        }
        let written = &self.source[start..self.at];
        if self.inside == 0 {
            return Err(self.problem(format!(
                "'{}' is neither quoted nor in <+…>",
                shown(written)
            )));
        }
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let reference = Expression::Reference(Reference {
            key: super::reference::canonical(&segments),
            written: match &method {
                Some(method) => written[..written.len() - method.len() - 1].to_owned(),
                None => written.to_owned(),
            },
            place: self.place,
        });
        match method {
            Some(method) => self.call(reference, &method),
            None => Ok(reference),
        }
    }

    /// `("text")`, taken; or nothing, and nothing is taken.
    fn quoted_argument(&mut self) -> Option<String> {
        let inner = self.rest().strip_prefix('(')?.trim_start();
        let quote = inner.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let inner = &inner[1..];
        let end = inner.find(quote)?;
        let after = inner[end + 1..].trim_start().strip_prefix(')')?;
        let text = inner[..end].to_owned();
        if text.contains("<+") {
            return None;
        }
        self.at = self.source.len() - after.len();
        Some(text)
    }
}

const METHODS: [(&str, Method, usize); 11] = [
    ("contains", Method::Contains, 1),
    ("startsWith", Method::StartsWith, 1),
    ("endsWith", Method::EndsWith, 1),
    ("equals", Method::Equals, 1),
    ("toLowerCase", Method::ToLowerCase, 0),
    ("toUpperCase", Method::ToUpperCase, 0),
    ("trim", Method::Trim, 0),
    ("isEmpty", Method::IsEmpty, 0),
    ("length", Method::Length, 0),
    ("replace", Method::Replace, 2),
    ("split", Method::Split, 1),
];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '$')
}
