//! `<+…>`: what it is made of. `parse` reads it, `evaluate` gives it a value.

use super::Place;

/// Literal text with expressions in it, to be evaluated when the step begins.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// Where it begins.
    pub place: Place,
    pub(super) pieces: Vec<Piece>,
}

impl Text {
    /// Text without expressions.
    pub fn literal(text: impl Into<String>, place: Place) -> Text {
        Text {
            place,
            pieces: vec![Piece::Literal(text.into())],
        }
    }

    /// Whether its text outside of expressions has `part` in it.
    pub fn has_literal(&self, part: &str) -> bool {
        let mut pieces = self.pieces.iter();
        pieces.any(|piece| matches!(piece, Piece::Literal(text) if text.contains(part)))
    }

    /// The text, if there are no expressions in it.
    pub fn as_literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// A part of a [`Text`].
#[derive(Clone, Debug)]
pub enum Piece {
    /// As it stands.
    Literal(String),
    /// What stands in `<+…>`.
    Expression(Expression),
}

/// An expression.
#[derive(Clone, Debug)]
pub enum Expression {
    /// `null`, and what has no value.
    Null,
    /// `true` and `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string, which may hold expressions.
    Text(Text),
    /// A name with dots.
    Reference(Reference),
    /// `!a`
    Not(Box<Expression>),
    /// `a OPERATOR b`
    Binary(Operator, Box<(Expression, Expression)>),
    /// `a ? b : c`
    Choice(Box<(Expression, Expression, Expression)>),
    /// `a.method(b, …)`
    Call(Box<Expression>, Method, Vec<Expression>, Place),
}

/// What stands between two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `||`
    Or,
    /// `&&`
    And,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `+`
    Plus,
}

/// The methods of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `contains(part)`
    Contains,
    /// `startsWith(part)`
    StartsWith,
    /// `endsWith(part)`
    EndsWith,
    /// `equals(other)`
    Equals,
    /// `toLowerCase()`
    ToLowerCase,
    /// `toUpperCase()`
    ToUpperCase,
    /// `trim()`
    Trim,
    /// `isEmpty()`
    IsEmpty,
    /// `length()`
    Length,
    /// `replace(what, with)`
    Replace,
    /// `split(separator)`: a list, for `repeat` and `matrix`.
    Split,
}

/// A name with dots, in the one form that [`super::Context`] knows it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The form that is looked up, such as `stage.variables.tag`.
    pub key: String,
    /// As it is written.
    pub written: String,
    /// Where it is.
    pub place: Place,
}

impl Expression {
    /// Whether all that it refers to is so.
    pub fn refers_only_to(&self, so: &dyn Fn(&Reference) -> bool) -> bool {
        let fits = |part: &Expression| part.refers_only_to(so);
        match self {
            Expression::Null | Expression::Bool(_) | Expression::Number(_) => true,
            Expression::Text(text) => text.refers_only_to(so),
            Expression::Reference(reference) => so(reference),
            Expression::Not(inner) => fits(inner),
            Expression::Binary(_, sides) => fits(&sides.0) && fits(&sides.1),
            Expression::Choice(parts) => [&parts.0, &parts.1, &parts.2].into_iter().all(fits),
            Expression::Call(of, _, arguments, _) => fits(of) && arguments.iter().all(fits),
        }
    }
}

impl Text {
    /// Whether all that it refers to is so.
    pub fn refers_only_to(&self, so: &dyn Fn(&Reference) -> bool) -> bool {
        self.pieces.iter().all(|piece| match piece {
            Piece::Literal(_) => true,
            Piece::Expression(expression) => expression.refers_only_to(so),
        })
    }
}
