//! The tables of `docs/json.md` name the fields that there are: each that is
//! named is printed, and each that is printed at the top is named.

use serde_json::Value;

use super::document::Document;

/// A field of a table: the line, its name, and whether it may be missing.
fn fields(text: &str) -> Vec<(usize, &str, bool)> {
    let rows = text.lines().enumerate();
    rows.filter_map(|(index, line)| {
        let (name, what) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((index + 1, name, what.starts_with("*optional*")))
    })
    .collect()
}

/// What a name such as `conflicts[].stage.writer` leads to; of a list or a map
/// (`*`) the first.
fn at<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let mut value = value;
    for part in name.split('.') {
        let key = part.trim_end_matches("[]");
        value = match key {
            "" => value,
            "*" => value.as_object()?.values().next()?,
            key => value.get(key)?,
        };
        if part.ends_with("[]") {
            value = value.get(0)?;
        }
    }
    Some(value)
}

/// The names of the fields at the top.
fn top(value: &Value) -> Vec<&String> {
    let object = value.get(0).unwrap_or(value);
    object
        .as_object()
        .map_or(Vec::new(), |object| object.keys().collect())
}

/// Checks the tables against what the commands have printed.
pub fn check(text: &str, document: &Document, printed: &[String]) {
    let fields = fields(text);
    let mut wrong = String::new();
    let lines: Vec<usize> = document
        .commands
        .iter()
        .map(|command| command.line)
        .collect();
    for (index, line) in lines.iter().enumerate() {
        let next = lines.get(index + 1).copied().unwrap_or(usize::MAX);
        let table = fields.iter().filter(|(at, _, _)| at > line && *at < next);
        let table: Vec<_> = table.collect();
        if table.is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&printed[index]).unwrap();
        for (line, name, optional) in &table {
            if !optional && at(&value, name).is_none() {
                wrong += &format!("docs/json.md:{line}: there is no '{name}' in {value}\n");
            }
        }
        for key in top(&value) {
            let names = |name: &str| {
                let name = name.strip_prefix("[].").unwrap_or(name);
                name.split(['.', '[']).next() == Some(key)
            };
            if !table.iter().any(|(_, name, _)| names(name)) {
                wrong += &format!("docs/json.md:{line}: '{key}' is not in the table\n");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
