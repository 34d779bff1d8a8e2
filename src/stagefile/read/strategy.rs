//! `strategy`.

use super::Reader;
use crate::stagefile::place::shown;
use crate::stagefile::yaml::{Node, Value};
use crate::stagefile::{Items, Place, Strategy, StrategyKind, Text};

/// How many axes a matrix may have.
const MOST_AXES: usize = 32;

impl Reader {
    /// `strategy`: one of `matrix`, `repeat` and `parallelism`.
    pub fn strategy(&mut self, node: Option<&Node>) -> Option<Strategy> {
        let node = node?;
        let mut fields = self.fields(node, "a strategy")?;
        let place = fields.place;
        let matrix = fields.take("matrix");
        let repeat = fields.take("repeat");
        let parallelism = fields.take("parallelism");
        let mut concurrency = self.concurrency(fields.take("maxConcurrency"));
        fields.elsewhere(&["times", "items"], "it belongs in 'repeat'");
        fields.elsewhere(&["exclude", "nodeName"], "it belongs in 'matrix'");
        fields.finish(self);
        let kind = match (matrix, repeat, parallelism) {
            (Some(node), None, None) => self.matrix(node, &mut concurrency)?,
            (None, Some(node), None) => self.repeat(node, &mut concurrency)?,
            (None, None, Some(node)) => StrategyKind::Parallelism(self.text(node, "parallelism")?),
            _ => {
                let text = "a strategy is one of 'matrix', 'repeat' and 'parallelism'";
                self.problem(place, text);
                return None;
            }
        };
        Some(Strategy {
            kind,
            max_concurrency: concurrency,
            place,
        })
    }

    fn concurrency(&mut self, node: Option<&Node>) -> Option<Text> {
        self.text(node?, "maxConcurrency")
    }

    /// Harness's pages have `maxConcurrency` beside `matrix` and in it; so both are read.
    fn inner_concurrency(
        &mut self,
        place: Place,
        node: Option<&Node>,
        concurrency: &mut Option<Text>,
    ) {
        let Some(inner) = self.concurrency(node) else {
            return;
        };
        if concurrency.is_some() {
            self.problem(place, "maxConcurrency is there twice");
        }
        *concurrency = Some(inner);
    }

    fn matrix(&mut self, node: &Node, concurrency: &mut Option<Text>) -> Option<StrategyKind> {
        let mut axes = Vec::new();
        let mut exclude = Vec::new();
        let mut node_name = None;
        for entry in self.entries(node, "matrix") {
            let value = &*entry.node;
            match entry.key.as_str() {
                "exclude" => exclude = self.exclude(value),
                "nodeName" => node_name = self.text(value, "nodeName"),
                "maxConcurrency" => {
                    self.inner_concurrency(entry.place, Some(value), concurrency);
                }
                name if !is_axis(name) => {
                    let text = format!(
                        "an axis is named with letters, digits and '_', not '{}'",
                        shown(name)
                    );
                    self.problem(entry.place, text);
                }
                name => {
                    if let Some(items) = self.items(value, "an axis of the matrix") {
                        axes.push((name.to_owned(), items));
                    }
                }
            }
        }
        if axes.len() > MOST_AXES {
            let text = format!("a matrix has at most {MOST_AXES} axes");
            self.problem(node.place, text);
            return None;
        }
        if axes.is_empty() {
            self.problem(
                node.place,
                "a matrix has no axis, such as 'python: [3.11, 3.12]'",
            );
            return None;
        }
        for (name, value) in exclude.iter().flatten() {
            if !axes.iter().any(|(axis, _)| axis == name) {
                let names: Vec<&str> = axes.iter().map(|(axis, _)| axis.as_str()).collect();
                let text = format!(
                    "exclude names '{}', which is no axis of the matrix: {}",
                    shown(name),
                    names.join(", ")
                );
                self.problem(value.place, text);
            }
        }
        Some(StrategyKind::Matrix {
            axes,
            exclude,
            node_name,
        })
    }

    fn exclude(&mut self, node: &Node) -> Vec<Vec<(String, Text)>> {
        let mut rules = Vec::new();
        for item in self.short_list(node, "exclude") {
            let mut rule = Vec::new();
            for entry in self.entries(item, "an entry of exclude") {
                if let Some(text) = self.text(&entry.node, "a value of exclude") {
                    rule.push((entry.key.clone(), text));
                }
            }
            if rule.is_empty() {
                self.problem(item.place, "an entry of exclude names no axis");
            } else {
                rules.push(rule);
            }
        }
        rules
    }

    fn repeat(&mut self, node: &Node, concurrency: &mut Option<Text>) -> Option<StrategyKind> {
        let mut fields = self.fields(node, "repeat")?;
        let place = fields.place;
        let times = fields.take("times");
        let items = fields.take("items");
        let node_name = fields.take("nodeName");
        let inner = fields.take("maxConcurrency");
        fields.finish(self);
        self.inner_concurrency(place, inner, concurrency);
        let node_name = match node_name {
            Some(node) => self.text(node, "nodeName"),
            None => None,
        };
        match (times, items) {
            (Some(node), None) => Some(StrategyKind::Times(self.text(node, "times")?)),
            (None, Some(node)) => Some(StrategyKind::Items {
                items: self.items(node, "items")?,
                node_name,
            }),
            _ => {
                self.problem(place, "repeat has either 'times' or 'items'");
                None
            }
        }
    }

    fn items(&mut self, node: &Node, what: &str) -> Option<Items> {
        let Value::List(list) = &node.value else {
            let text = self.text(node, what)?;
            if text.as_literal().is_some() {
                let text = format!("{what} is a list, or an expression that gives one");
                self.problem(node.place, text);
                return None;
            }
            return Some(Items::Text(text));
        };
        if list.is_empty() {
            self.problem(node.place, format!("{what} has no values"));
            return None;
        }
        let mut texts = Vec::new();
        for item in list {
            texts.push(self.text(item, "a value of a strategy")?);
        }
        Some(Items::List(texts))
    }
}

fn is_axis(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.len() <= 128 && name.chars().all(good)
}
