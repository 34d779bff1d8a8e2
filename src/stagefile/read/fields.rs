//! The fields of a map: each is read, named as left out, or an error.

use super::{LONGEST_LIST, MOST, Reader};
use crate::stagefile::place::shown;
use crate::stagefile::yaml::{Entry, Node, Value};
use crate::stagefile::{Place, Problem};

/// A map that is being read.
pub struct Fields<'n> {
    entries: &'n [Entry],
    taken: Vec<bool>,
    known: Vec<&'static str>,
    /// Names that belong elsewhere, and where.
    elsewhere: Vec<(&'static [&'static str], &'static str)>,
    /// What it describes: `a step`.
    pub what: &'static str,
    /// Where it begins.
    pub place: Place,
}

impl<'n> Fields<'n> {
    fn entry(&mut self, name: &'static str) -> Option<&'n Entry> {
        self.known.push(name);
        let index = self.entries.iter().position(|entry| entry.key == name)?;
        self.taken[index] = true;
        Some(&self.entries[index])
    }

    /// A field's value, unless it is not there or nothing.
    pub fn take(&mut self, name: &'static str) -> Option<&'n Node> {
        let entry = self.entry(name)?;
        Some(&*entry.node).filter(|node| !node.is_null())
    }

    /// Where a field is, and its value.
    pub fn take_with_place(&mut self, name: &'static str) -> Option<(Place, &'n Node)> {
        let entry = self.entry(name)?;
        (!entry.node.is_null()).then_some((entry.place, &*entry.node))
    }

    /// Fields that are for people, or for what draws pipelines, and change nothing in Harness
    /// either.
    pub fn skip(&mut self, names: &[&'static str]) {
        for name in names {
            self.entry(name);
        }
    }

    /// Fields that mean something in Harness and nothing here; each is named to the user.
    pub fn leave_out(&mut self, reader: &mut Reader, names: &[&'static str], why: &'static str) {
        for name in names {
            let field = self.take_with_place(name);
            // An empty list asks for nothing; Harness's editor writes them.
            let empty = |node: &Node| matches!(&node.value, Value::List(list) if list.is_empty());
            if let Some((place, _)) = field.filter(|(_, node)| !empty(node)) {
                reader.left_out(name, place, why);
            }
        }
    }

    /// Says of names that are not fields here where they belong.
    pub fn elsewhere(&mut self, names: &'static [&'static str], belongs: &'static str) {
        self.elsewhere.push((names, belongs));
    }

    /// What was not asked for is an error.
    pub fn finish(self, reader: &mut Reader) {
        for (entry, taken) in self.entries.iter().zip(&self.taken) {
            if !taken {
                let hint = match reader.problems.len() < MOST {
                    true => self.hint(&entry.key),
                    false => String::new(),
                };
                let name = shown(&entry.key);
                let text = format!("unknown field '{name}' of {}{hint}", self.what);
                reader.problem(entry.place, text);
            }
        }
    }

    fn hint(&self, name: &str) -> String {
        let found = self
            .elsewhere
            .iter()
            .find(|(names, _)| names.contains(&name));
        if let Some((_, belongs)) = found {
            return format!("; {belongs}");
        }
        match nearest(name, self.known.iter().copied()) {
            Some(known) => format!("; did you mean '{known}'?"),
            None if self.known.is_empty() => "; it has no fields".to_owned(),
            None => format!("; it has {}", listed(&self.known)),
        }
    }
}

fn listed(names: &[&str]) -> String {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// The name that was probably meant.
pub fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if name.len() > 80 {
        return None;
    }
    let lower = name.to_lowercase();
    let near = |known: &'k str| {
        let other = known.to_lowercase();
        let distance = distance(&lower, &other);
        let alike = lower.chars().zip(other.chars());
        let alike = alike.take_while(|(a, b)| a == b).count();
        // A letter of four, two of five; of names that begin alike, more at the end.
        let most = match alike >= 4 && alike * 2 >= known.len() {
            true => known.len() / 2,
            false => 1 + known.len().saturating_sub(1) / 4,
        };
        (distance <= most && distance < known.len()).then_some((distance, known))
    };
    let found = known.filter_map(near).min_by_key(|(distance, _)| *distance);
    found.map(|(_, known)| known)
}

/// How many characters were added, left out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(x != y);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

impl Reader {
    /// The fields of a map, or a problem.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &'static str) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            let text = format!("{what} is a map of fields, not {}", node.kind());
            self.problem(node.place, text);
            return None;
        };
        Some(Fields {
            entries,
            taken: vec![false; entries.len()],
            known: Vec::new(),
            elsewhere: Vec::new(),
            what,
            place: entries.first().map_or(node.place, |entry| entry.place),
        })
    }

    /// The elements of a list, or a problem.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> Vec<&'n Node> {
        match &node.value {
            Value::List(list) => list.iter().map(|node| &**node).collect(),
            _ => {
                let text = format!("{what} is a list, not {}", node.kind());
                self.problem(node.place, text);
                Vec::new()
            }
        }
    }

    /// The elements of a list that is compared with itself; one that is very long is a problem.
    pub fn short_list<'n>(&mut self, node: &'n Node, what: &str) -> Vec<&'n Node> {
        let mut items = self.list(node, what);
        if items.len() > LONGEST_LIST {
            let text = format!("{what} has more than {LONGEST_LIST} entries");
            self.problem(node.place, text);
            items.clear();
        }
        items
    }

    /// The keys and values of a map of the user's own names, or a problem.
    pub fn entries<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            _ => {
                let text = format!("{what} is a map, not {}", node.kind());
                self.problem(node.place, text);
                &[]
            }
        }
    }

    /// Adds a problem.
    pub fn problem(&mut self, place: Place, what: impl Into<String>) {
        self.problems.push(Problem::new(place, what));
    }

    /// The value, or nothing and a problem.
    pub fn ok<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found() {
        let known = [
            "command",
            "shell",
            "envVariables",
            "failureStrategies",
            "when",
        ];
        for (written, meant) in [
            ("commmand", Some("command")),
            ("Command", Some("command")),
            ("comamnd", Some("command")),
            ("envVariable", Some("envVariables")),
            ("environmentVariables", None),
            ("failureStrategy", Some("failureStrategies")),
            ("wehn", Some("when")),
            ("x", None),
            ("then", Some("when")),
            ("that", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known.into_iter()), meant, "{written}");
        }
    }
}
