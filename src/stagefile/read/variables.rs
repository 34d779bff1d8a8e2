//! `variables` and `envVariables`.

use std::collections::BTreeMap;

use super::Reader;
use crate::stagefile::place::shown;
use crate::stagefile::yaml::Node;
use crate::stagefile::{Place, Text, Variable, check};

/// How long the values of all variables of a list may be together, in bytes.
const LONGEST: usize = 4 << 20;

impl Reader {
    /// `variables: [{name, type, value}]`.
    pub fn variables(&mut self, node: Option<&Node>) -> Vec<Variable> {
        let mut variables: Vec<Variable> = Vec::new();
        let Some(node) = node else {
            return variables;
        };
        for item in self.short_list(node, "variables") {
            let Some((place, variable)) = self.variable(item) else {
                continue;
            };
            if variables.iter().any(|other| other.name == variable.name) {
                let text = format!("a variable '{}' is there already", shown(&variable.name));
                self.problem(place, text);
                continue;
            }
            variables.push(variable);
        }
        variables
    }

    fn variable(&mut self, node: &Node) -> Option<(Place, Variable)> {
        let mut fields = self.fields(node, "a variable")?;
        let place = fields.place;
        let name = fields.take("name");
        let kind = fields.take("type");
        let value = fields.take("value");
        let default = fields.take("default");
        fields.skip(&["description", "required"]);
        fields.finish(self);
        let kinds = [("String", false), ("Number", false), ("Secret", true)];
        let secret = match kind {
            Some(node) => self.choice(node, "type of a variable", &kinds)?,
            None => false,
        };
        let Some(name) = name else {
            self.problem(place, "a variable has no 'name'");
            return None;
        };
        let name_place = name.place;
        let name = self.raw(name, "the name of a variable")?.to_owned();
        if !is_name(&name) {
            let text = format!(
                "the name of a variable consists of letters, digits, '_', '-' and '.', not '{}'",
                shown(&name)
            );
            self.problem(name_place, text);
            return None;
        }
        let value = match value.or(default) {
            Some(node) => self.text(node, "the value of a variable")?,
            None => Text::literal("", place),
        };
        // The value of a secret is its name in the place where secrets are kept.
        let value = match value.as_literal().map(str::trim) {
            Some(id) if secret && !id.is_empty() => {
                let reference = format!("<+secrets.getValue(\"{}\")>", id.replace('"', ""));
                let parsed = crate::stagefile::parse::text(&reference, value.place, &[]);
                self.ok(parsed)?
            }
            _ => value,
        };
        Some((
            place,
            Variable {
                name,
                value,
                secret,
            },
        ))
    }

    /// Gives variables their values, whatever their order. What was given on the command line
    /// under a variable's name goes before what the file says.
    pub fn resolve(&mut self, of: &str, variables: &mut [Variable]) {
        let mut open: BTreeMap<usize, String> = BTreeMap::new();
        for (index, variable) in variables.iter_mut().enumerate() {
            let key = format!("{of}.variables.{}", variable.name);
            self.used.insert(key.clone());
            match self.context.get(&key) {
                Some(value) => variable.value = Text::literal(value, variable.value.place),
                None => {
                    open.insert(index, key);
                }
            }
        }
        let mut length = 0;
        loop {
            let before = open.len();
            let mut known = Vec::new();
            for (index, key) in &open {
                let value = &variables[*index].value;
                if check::is_known(value, &self.context) {
                    check::text(value, &self.context, &mut self.used, &mut self.problems);
                    // One whose value is wrong is told once, not again where it is used.
                    let value = value.evaluate(&self.context);
                    let value = self.ok(value).unwrap_or_default();
                    length += value.len();
                    if length > LONGEST {
                        let place = variables[*index].value.place;
                        self.problem(
                            place,
                            "the variables' values are longer than 4 MiB together",
                        );
                        return;
                    }
                    known.push((*index, key.clone(), value));
                }
            }
            for (index, key, value) in known {
                self.context.set(key, value);
                open.remove(&index);
            }
            if open.len() == before || open.is_empty() {
                break;
            }
        }
        self.unresolved(&open, variables);
    }

    /// What is left after that lacks something, or is in a circle, or is made of such.
    fn unresolved(&mut self, open: &BTreeMap<usize, String>, variables: &[Variable]) {
        for key in open.values() {
            self.context.set(key.clone(), "");
        }
        let before = self.problems.len();
        for (index, key) in open {
            let mut unknown = Vec::new();
            let value = &variables[*index].value;
            check::text(value, &self.context, &mut self.used, &mut unknown);
            for problem in &mut unknown {
                if !problem.what.contains("did you mean") {
                    let hint = format!("; or give its value with --var '{key}=VALUE'");
                    problem.what.push_str(&hint);
                }
            }
            self.problems.append(&mut unknown);
        }
        if self.problems.len() == before {
            for index in open.keys() {
                let variable = &variables[*index];
                let text = format!("the variable '{}' is made of itself", variable.name);
                self.problem(variable.value.place, text);
            }
        }
    }

    /// `envVariables: {NAME: value}`.
    pub fn env(&mut self, node: Option<&Node>) -> Vec<Variable> {
        let mut variables = Vec::new();
        let Some(node) = node else {
            return variables;
        };
        for entry in self.entries(node, "envVariables") {
            if entry.key.is_empty() || entry.key.contains('=') {
                let text = format!(
                    "'{}' cannot name an environment variable",
                    shown(&entry.key)
                );
                self.problem(entry.place, text);
                continue;
            }
            let value = if entry.node.is_null() {
                Some(Text::literal("", entry.node.place))
            } else {
                self.text(&entry.node, "the value of an environment variable")
            };
            if let Some(value) = value {
                variables.push(Variable {
                    name: entry.key.clone(),
                    value,
                    secret: false,
                });
            }
        }
        variables
    }
}

fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    !name.is_empty() && name.len() <= 128 && name.chars().all(good)
}
