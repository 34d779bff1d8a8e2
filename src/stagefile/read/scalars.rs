//! Text, numbers, yes and no, times.

use std::time::Duration;

use super::Reader;
use super::fields::nearest;
use crate::stagefile::place::shown;
use crate::stagefile::yaml::{Node, Value};
use crate::stagefile::{Condition, Place, Text, check, parse};

/// Far beyond any step, and small enough to be added to a moment.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Reader {
    /// What a scalar says, as it is written.
    pub fn raw<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text),
            _ => {
                let text = format!("{what} is text, not {}", node.kind());
                self.problem(node.place, text);
                None
            }
        }
    }

    /// Text with expressions, to be evaluated later.
    pub fn text(&mut self, node: &Node, what: &str) -> Option<Text> {
        let source = self.raw(node, what)?;
        for method in input_limits(source) {
            let field = format!("<+input>.{method}");
            self.left_out(&field, node.place, "only Harness asks for the value");
        }
        if let Some(default) = input_default(source) {
            return Some(Text::literal(default, node.place));
        }
        let places = self.expression_places(node, source);
        let text = parse::text(source, node.place, &places);
        self.ok(text)
    }

    /// A condition.
    pub fn condition(&mut self, node: &Node) -> Option<Condition> {
        let source = self.raw(node, "condition")?;
        let places = self.expression_places(node, source);
        let expression = parse::condition(source, node.place, &places);
        Some(Condition {
            expression: self.ok(expression)?,
            source: source.to_owned(),
            place: node.place,
        })
    }

    /// Text whose value must be known before the stage runs.
    pub fn known(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.text(node, what)?;
        self.evaluated(&text)
    }

    /// The value of a text, or problems with what it refers to.
    pub fn evaluated(&mut self, text: &Text) -> Option<String> {
        let before = self.problems.len();
        check::text(text, &self.context, &mut self.used, &mut self.problems);
        if self.problems.len() > before {
            return None;
        }
        let value = text.evaluate(&self.context);
        self.ok(value)
    }

    /// `true` or `false`.
    pub fn bool(&mut self, node: &Node, what: &str) -> Option<bool> {
        let text = self.known(node, what)?;
        match text.to_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                let text = format!("{what} is true or false, not '{}'", shown(&text));
                self.problem(node.place, text);
                None
            }
        }
    }

    /// A whole number up to `most`.
    pub fn number(&mut self, node: &Node, what: &str, most: u32) -> Option<u32> {
        let text = self.known(node, what)?;
        match text.trim().parse::<u32>() {
            Ok(number) if number <= most => Some(number),
            _ => {
                let text = format!(
                    "{what} is a number from 0 to {most}, not '{}'",
                    shown(&text)
                );
                self.problem(node.place, text);
                None
            }
        }
    }

    /// One of several words.
    pub fn choice<T: Copy>(
        &mut self,
        node: &Node,
        what: &str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let text = self.known(node, what)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint = match nearest(&text, names.iter().copied()) {
            Some(name) => format!("did you mean '{name}'?"),
            None => format!("it is one of {}", names.join(", ")),
        };
        self.problem(
            node.place,
            format!("unknown {what} '{}'; {hint}", shown(&text)),
        );
        None
    }

    /// `10m`, `1h 30m`.
    pub fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let text = self.known(node, what)?;
        // Harness takes an empty one as none.
        if text.is_empty() {
            return None;
        }
        match duration(&text) {
            Some(duration) if !duration.is_zero() => Some(duration),
            _ => {
                let text = format!(
                    "{what} is a time such as 30s, 10m, 1h 30m or 1d, not '{}'",
                    shown(&text)
                );
                self.problem(node.place, text);
                None
            }
        }
    }

    /// A name for people.
    pub fn name(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.known(node, what)?;
        let wrong = if text.trim().is_empty() {
            "is empty"
        } else if text.chars().count() > 128 {
            "is longer than 128 characters"
        } else if text != shown(&text) && text.chars().count() <= 80 || text.contains('\n') {
            "contains control characters"
        } else {
            return Some(text);
        };
        self.problem(node.place, format!("{what} '{}' {wrong}", shown(&text)));
        None
    }

    /// Where each `<+` of a scalar is, if the file has them as the text does; else none, and
    /// expressions are said to be where the text begins.
    fn expression_places(&self, node: &Node, source: &str) -> Vec<Place> {
        let wanted = source.matches("<+").count();
        if wanted == 0 {
            return Vec::new();
        }
        // They are in order.
        let all = &self.expressions;
        let first = all.partition_point(|place| *place < node.place);
        let behind = all.partition_point(|place| *place < node.end);
        let places = all.get(first..behind).unwrap_or_default().to_vec();
        if places.len() == wanted {
            places
        } else {
            vec![node.place; wanted]
        }
    }
}

/// Reads a time.
pub fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 6] = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
        ("w", 604_800_000),
    ];
    let mut rest = text.trim();
    let mut millis = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end])?;
        millis = millis.checked_add(number.checked_mul(*unit)?)?;
        rest = rest[end..].trim_start();
    }
    let duration = Duration::from_millis(millis);
    (duration <= LONGEST).then_some(duration)
}

/// The default of a runtime input: `<+input>.default(x)`.
fn input_default(source: &str) -> Option<&str> {
    let methods = source.trim().strip_prefix("<+input>")?;
    let (_, rest) = methods.split_once(".default(")?;
    let end = rest.find(')')?;
    Some(&rest[..end])
}

/// What a runtime input says of the values that it takes, besides its default.
fn input_limits(source: &str) -> Vec<&'static str> {
    let methods = source.trim().strip_prefix("<+input>").unwrap_or_default();
    let known = ["allowedValues", "regex", "executionInput"];
    let said = |method: &&str| methods.contains(&format!(".{method}("));
    known.into_iter().filter(said).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [
            ("10s", 10),
            ("10m", 600),
            ("1h 30m", 5400),
            ("1h30m", 5400),
            ("1d", 86_400),
            ("2w", 1_209_600),
            (" 5 m ", 300),
            ("500ms 500ms", 1),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "10",
            "m",
            "-1s",
            "1y",
            "1h x",
            "99999999999999999999s",
            "11000d",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_runtime_input_has_its_default() {
        assert_eq!(input_default("<+input>.default(main)"), Some("main"));
        let both = "<+input>.allowedValues(a,b).default(b)";
        assert_eq!(input_default(both), Some("b"));
        assert_eq!(input_default("<+input>"), None);
        assert_eq!(input_default("x <+input>.default(main)"), None);
    }
}
