//! What an expression is worth.

use std::cmp::Ordering;

use super::expression::{Expression, Method, Operator, Piece, Reference, Text};
use super::reference::of_step;
use super::{Condition, Context, Place, Problem, When, WhenStatus};

/// The longest text that an expression may grow to, in bytes.
const LONGEST: usize = 1 << 20;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Text.
    Text(String),
    /// What `split` gives.
    List(Vec<String>),
}

impl Text {
    /// The text with each expression replaced by its value.
    ///
    /// # Errors
    /// An expression that has no value, such as a result of a step that did not run, or that is a
    /// list.
    pub fn evaluate(&self, context: &Context) -> Result<String, Problem> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Expression(expression) => {
                    let value = expression.evaluate(context, self.place)?;
                    match value {
                        Value::Null => return Err(no_value(expression, self.place)),
                        Value::List(_) => {
                            let what = "a list cannot stand in text; it is for repeat and matrix";
                            return Err(Problem::new(place_of(expression, self.place), what));
                        }
                        value => text.push_str(&value.to_text()),
                    }
                }
            }
            if text.len() > LONGEST {
                let what = "with its expressions the text is longer than 1 MiB";
                return Err(Problem::new(self.place, what));
            }
        }
        Ok(text)
    }

    /// The value: that of the expression if the text is nothing but one.
    pub(super) fn value(&self, context: &Context) -> Result<Value, Problem> {
        match self.pieces.as_slice() {
            [Piece::Expression(expression)] => expression.evaluate(context, self.place),
            _ => self.evaluate(context).map(Value::Text),
        }
    }
}

fn place_of(expression: &Expression, around: Place) -> Place {
    match expression {
        Expression::Reference(reference) => reference.place,
        Expression::Call(_, _, _, place) => *place,
        Expression::Text(text) => text.place,
        _ => around,
    }
}

fn no_value(expression: &Expression, around: Place) -> Problem {
    let what = match expression {
        Expression::Reference(reference) => format!("<+{}> has no value", reference.written),
        _ => "the expression has no value".to_owned(),
    };
    Problem::new(place_of(expression, around), what)
}

impl Condition {
    /// Whether it says yes.
    ///
    /// # Errors
    /// A value that is neither true nor false.
    pub fn holds(&self, context: &Context) -> Result<bool, Problem> {
        let value = self.expression.evaluate(context, self.place)?;
        value.truth().ok_or_else(|| {
            let what = format!(
                "the condition says '{}', which is neither true nor false",
                super::place::shown(&value.to_text())
            );
            Problem::new(self.place, what)
        })
    }
}

impl When {
    /// Whether what it is on runs, if the stage `failed` so far or did not. Without a `when`,
    /// things run as long as nothing has failed.
    ///
    /// # Errors
    /// As [`Condition::holds`], which is asked only if the status is right.
    pub fn holds(when: Option<&When>, failed: bool, context: &Context) -> Result<bool, Problem> {
        let status = When::status_holds(when, failed);
        match when.and_then(|when| when.condition.as_ref()) {
            Some(condition) if status => condition.holds(context),
            _ => Ok(status),
        }
    }

    fn status_holds(when: Option<&When>, failed: bool) -> bool {
        match when.map(|when| when.status).unwrap_or_default() {
            WhenStatus::Success => !failed,
            WhenStatus::Failure => failed,
            WhenStatus::All => true,
        }
    }

    /// Whether what it is on does not run, asked before it is known which runs its strategy
    /// gives. A condition that needs their values leaves that open.
    pub fn excludes_all(when: Option<&When>, failed: bool, context: &Context) -> bool {
        if !When::status_holds(when, failed) {
            return true;
        }
        let of_a_run = |key: &str| {
            let kinds = ["matrix.", "repeat.", "strategy."];
            kinds.iter().any(|kind| key.starts_with(kind))
        };
        let settled = |reference: &Reference| {
            let key = reference.key.as_str();
            !of_a_run(key) && (of_step(key).is_some() || context.get(key).is_some())
        };
        when.and_then(|when| when.condition.as_ref())
            .filter(|condition| condition.expression.refers_only_to(&settled))
            .is_some_and(|condition| matches!(condition.holds(context), Ok(false)))
    }
}

impl Value {
    pub(super) fn to_text(&self) -> String {
        match self {
            Value::Null => "null".to_owned(),
            Value::Bool(bool) => bool.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::List(items) => items.join(","),
        }
    }

    fn truth(&self) -> Option<bool> {
        match self {
            Value::Bool(bool) => Some(*bool),
            Value::Text(text) if text.trim() == "true" => Some(true),
            Value::Text(text) if text.trim() == "false" => Some(false),
            Value::Null => Some(false),
            _ => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            // Not `inf` and `nan`, which f64 would take.
            Value::Text(text) if text.bytes().all(|b| b"0123456789.-".contains(&b)) => {
                text.parse().ok()
            }
            _ => None,
        }
    }

    /// Text is compared with text as text; with a number as a number, if it is one.
    fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Null, _) | (_, Value::Null) => false,
            (Value::Number(_), _) | (_, Value::Number(_)) => {
                match (self.number(), other.number()) {
                    (Some(a), Some(b)) => a == b,
                    _ => false,
                }
            }
            (Value::Bool(a), b) | (b, Value::Bool(a)) => b.truth() == Some(*a),
            _ => self.to_text() == other.to_text(),
        }
    }

    fn order(&self, other: &Value) -> Option<Ordering> {
        match (self.number(), other.number()) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => match (self, other) {
                (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
                _ => None,
            },
        }
    }
}

impl Expression {
    pub(super) fn evaluate(&self, context: &Context, around: Place) -> Result<Value, Problem> {
        Ok(match self {
            Expression::Null => Value::Null,
            Expression::Bool(bool) => Value::Bool(*bool),
            Expression::Number(number) => Value::Number(*number),
            Expression::Text(text) => Value::Text(text.evaluate(context)?),
            Expression::Reference(reference) => match context.get(&reference.key) {
                Some(value) => Value::Text(value.to_owned()),
                None => Value::Null,
            },
            Expression::Not(inner) => Value::Bool(!inner.truth(context, around)?),
            Expression::Choice(parts) => {
                let (condition, yes, no) = &**parts;
                let chosen = if condition.truth(context, around)? {
                    yes
                } else {
                    no
                };
                chosen.evaluate(context, around)?
            }
            Expression::Binary(operator, sides) => {
                binary(*operator, &sides.0, &sides.1, context, around)?
            }
            Expression::Call(of, method, arguments, place) => {
                call(of, *method, arguments, context, *place)?
            }
        })
    }

    fn truth(&self, context: &Context, around: Place) -> Result<bool, Problem> {
        let value = self.evaluate(context, around)?;
        value.truth().ok_or_else(|| {
            let what = format!(
                "'{}' is neither true nor false",
                super::place::shown(&value.to_text())
            );
            Problem::new(place_of(self, around), what)
        })
    }
}

fn binary(
    operator: Operator,
    left: &Expression,
    right: &Expression,
    context: &Context,
    around: Place,
) -> Result<Value, Problem> {
    match operator {
        Operator::Or => {
            return Ok(Value::Bool(
                left.truth(context, around)? || right.truth(context, around)?,
            ));
        }
        Operator::And => {
            return Ok(Value::Bool(
                left.truth(context, around)? && right.truth(context, around)?,
            ));
        }
        _ => {}
    }
    let (a, b) = (
        left.evaluate(context, around)?,
        right.evaluate(context, around)?,
    );
    let compared = |accept: fn(Ordering) -> bool| match a.order(&b) {
        Some(order) => Ok(Value::Bool(accept(order))),
        None => {
            let what = format!(
                "'{}' and '{}' cannot be compared",
                super::place::shown(&a.to_text()),
                super::place::shown(&b.to_text())
            );
            Err(Problem::new(place_of(left, around), what))
        }
    };
    match operator {
        Operator::Equal => Ok(Value::Bool(a.equals(&b))),
        Operator::NotEqual => Ok(Value::Bool(!a.equals(&b))),
        Operator::Less => compared(Ordering::is_lt),
        Operator::LessOrEqual => compared(Ordering::is_le),
        Operator::Greater => compared(Ordering::is_gt),
        Operator::GreaterOrEqual => compared(Ordering::is_ge),
        Operator::Plus | Operator::Or | Operator::And => match (&a, &b) {
            (Value::Null, _) => Err(no_value(left, around)),
            (_, Value::Null) => Err(no_value(right, around)),
            _ => match (a.number(), b.number()) {
                (Some(a), Some(b)) => Ok(Value::Number(a + b)),
                _ => bounded(a.to_text() + &b.to_text(), around),
            },
        },
    }
}

fn bounded(text: String, place: Place) -> Result<Value, Problem> {
    if text.len() > LONGEST {
        let what = "the expression's value is longer than 1 MiB";
        return Err(Problem::new(place, what));
    }
    Ok(Value::Text(text))
}

fn call(
    of: &Expression,
    method: Method,
    arguments: &[Expression],
    context: &Context,
    place: Place,
) -> Result<Value, Problem> {
    let value = of.evaluate(context, place)?;
    if method == Method::IsEmpty && value == Value::Null {
        return Ok(Value::Bool(true));
    }
    if value == Value::Null {
        return Err(no_value(of, place));
    }
    let text = value.to_text();
    let mut given = Vec::new();
    for argument in arguments {
        match argument.evaluate(context, place)? {
            Value::Null => return Err(no_value(argument, place)),
            value => given.push(value.to_text()),
        }
    }
    let argument = |index: usize| given.get(index).map_or("", String::as_str);
    Ok(match method {
        Method::Contains => Value::Bool(match &value {
            Value::List(items) => items.iter().any(|item| item == argument(0)),
            _ => text.contains(argument(0)),
        }),
        Method::StartsWith => Value::Bool(text.starts_with(argument(0))),
        Method::EndsWith => Value::Bool(text.ends_with(argument(0))),
        Method::Equals => Value::Bool(text == argument(0)),
        Method::ToLowerCase => Value::Text(text.to_lowercase()),
        Method::ToUpperCase => Value::Text(text.to_uppercase()),
        Method::Trim => Value::Text(text.trim().to_owned()),
        Method::IsEmpty => Value::Bool(text.is_empty()),
        #[expect(clippy::cast_precision_loss, reason = "bounded to 1 MiB")]
        Method::Length => Value::Number(text.chars().count() as f64),
        Method::Replace => {
            // What it would grow to is known before it is made.
            let matches = text.matches(argument(0)).count();
            if matches.saturating_mul(argument(1).len()) > LONGEST {
                let what = "the expression's value is longer than 1 MiB";
                return Err(Problem::new(place, what));
            }
            return bounded(text.replace(argument(0), argument(1)), place);
        }
        Method::Split if argument(0).is_empty() => {
            let what = "split() takes what stands between the items, such as split(\",\")";
            return Err(Problem::new(place, what));
        }
        Method::Split => Value::List(text.split(argument(0)).map(str::to_owned).collect()),
    })
}
