//! Reads a stage file into the model, and all that is wrong with it into a list.

mod failure;
mod fields;
mod scalars;
mod stage;
mod steps;
mod strategy;
mod variables;
mod workspace;

use std::collections::BTreeMap;

use super::place::shown;
use super::yaml;
use super::{Context, Notice, Place, Problem, Stage, check, parse};

pub use fields::nearest;

/// What says which run of a stage with a strategy it is.
const ITERATION: &str = "strategy.iteration";

/// So many problems are told at most. For so many it is worth looking what was meant.
pub const MOST: usize = 100;

/// How many entries a list may have that is compared with itself: variables, axes, paths.
const LONGEST_LIST: usize = 1000;

/// What comes from outside of the file.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Which stage of a pipeline: its identifier or name.
    pub stage: Option<String>,
    /// Values of `--var NAME=VALUE`, with names as they stand in `<+…>`; see [`variable`].
    /// `strategy.iteration` says which run of a stage with a strategy it is.
    pub variables: Vec<(String, String)>,
    /// The environment, for `<+env.NAME>`.
    pub env: BTreeMap<String, String>,
}

/// Reads `NAME=VALUE`, where the name is one that can stand in `<+…>`, and may be quoted in it:
/// `pipeline.variables.tag=1.2`, `secrets.getValue("npm")=x`.
///
/// # Errors
/// What is wrong with it.
pub fn variable(text: &str) -> Result<(String, String), String> {
    // An `=` in the quotes of a secret's name belongs to the name.
    let mut quote = None;
    let at = text.char_indices().find(|(_, c)| {
        match (quote, *c) {
            (None, '"' | '\'') => quote = Some(*c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        quote.is_none() && *c == '='
    });
    let Some((at, _)) = at else {
        return Err("not NAME=VALUE, such as pipeline.variables.tag=1.2".to_owned());
    };
    let name = parse::name(text[..at].trim())?;
    let why = match name.split('.').next().unwrap_or_default() {
        "env" => "it is the environment's: set it there",
        "strategy" if name == "strategy.iteration" => return Ok((name, text[at + 1..].to_owned())),
        "matrix" | "repeat" | "strategy" => "a strategy of the file gives it",
        "steps" | "execution" => "it is the result of a step",
        "step" | "stepGroup" => "the file gives it",
        "stage" if !name.starts_with("stage.variables.") => "the file gives it",
        _ => return Ok((name, text[at + 1..].to_owned())),
    };
    Err(format!("{} cannot be given: {why}", shown(&name)))
}

/// Reads a stage file: a stage, what stands in its `spec`, or a pipeline with one CI stage.
///
/// What the file leaves to others is in the stage's notices.
///
/// # Errors
/// All that is wrong with it, by line; never empty.
pub fn read(text: &str, given: &Given) -> Result<Stage, Vec<Problem>> {
    let mut problems = Vec::new();
    let document = match yaml::read(text, &mut problems) {
        Ok(document) => document,
        Err(problem) => {
            problems.push(problem);
            return Err(sorted(problems));
        }
    };
    let mut context = Context::default();
    let mut iteration = None;
    for (name, value) in &given.env {
        context.set(format!("env.{name}"), value.clone());
    }
    for (name, value) in &given.variables {
        match parse::name(name) {
            // Which run of the stage it is, if it has a strategy of its own; else it says nothing.
            Ok(key) if key == ITERATION => iteration = Some(value.clone()),
            Ok(key) => context.set(key, value.clone()),
            Err(text) => problems.push(Problem::new(Place { line: 1, column: 1 }, text)),
        }
    }
    let mut reader = Reader {
        expressions: expressions_in(text),
        problems,
        left_out: BTreeMap::new(),
        notices: Vec::new(),
        used: check::Used::new(),
        iteration,
        context,
    };
    let stage = reader.document(&document, given.stage.as_deref());
    match stage {
        Some(mut stage) => {
            check::stage(&stage, &mut reader.used, &mut reader.problems);
            if reader.problems.is_empty() {
                reader.unused(given);
                stage.notices = reader.all_notices();
                return Ok(stage);
            }
            Err(sorted(reader.problems))
        }
        None => Err(sorted(reader.problems)),
    }
}

/// In the file's order, each once: what an alias repeats is wrong once.
fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort();
    problems.dedup();
    if problems.len() > MOST {
        let more = problems.len() - MOST;
        problems.truncate(MOST);
        let place = problems.last().map_or(Place::default(), |last| last.place);
        problems.push(Problem::new(place, format!("and {more} more problems")));
    }
    problems
}

/// Where each `<+` of a text is.
fn expressions_in(text: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (mut column, mut before) = (1, 0);
        for (at, _) in line.match_indices("<+") {
            column += line[before..at].chars().count();
            before = at;
            places.push(Place {
                line: index + 1,
                column,
            });
        }
    }
    places
}

/// A file that is being read.
pub struct Reader {
    /// Where a `<+` is, in order.
    expressions: Vec<Place>,
    problems: Vec<Problem>,
    /// By reason and field: where.
    left_out: BTreeMap<(&'static str, String), Vec<Place>>,
    notices: Vec<Notice>,
    /// What texts refer to.
    used: check::Used,
    /// The run that was asked for of a stage with a strategy.
    iteration: Option<String>,
    /// What is known before the stage runs.
    context: Context,
}

impl Reader {
    /// Remembers that a field is left out.
    fn left_out(&mut self, field: &str, place: Place, why: &'static str) {
        let places = self.left_out.entry((why, field.to_owned())).or_default();
        if !places.contains(&place) {
            places.push(place);
        }
    }

    /// Names values that were given for nothing: a name may be misspelt.
    fn unused(&mut self, given: &Given) {
        for (name, _) in &given.variables {
            let key = parse::name(name).unwrap_or_default();
            if !self.used.contains(&key) {
                self.notices.push(Notice {
                    place: Place::default(),
                    text: format!("ignored: --var {} (the stage does not use it)", shown(name)),
                });
            }
        }
    }

    /// One notice for each field that is left out, however often it is there.
    fn all_notices(self) -> Vec<Notice> {
        let mut notices = self.notices;
        for ((why, field), mut places) in self.left_out {
            places.sort();
            let lines: Vec<String> = places.iter().map(|place| place.line.to_string()).collect();
            let line = if lines.len() == 1 { "line" } else { "lines" };
            notices.push(Notice {
                place: places.first().copied().unwrap_or_default(),
                text: format!("ignored: {field} at {line} {} ({why})", lines.join(", ")),
            });
        }
        notices.sort();
        notices
    }
}
