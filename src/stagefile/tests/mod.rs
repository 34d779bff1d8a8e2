//! What stage files mean, field by field, and what is said about wrong ones.

mod errors;
mod expressions;
mod fields;
mod hostile;
mod loops;
mod outline;
mod page;

use super::*;

/// Reads a file that must be good.
fn good(text: &str) -> Stage {
    good_with(text, &[])
}

/// The same, with values of `--var`.
fn good_with(text: &str, variables: &[(&str, &str)]) -> Stage {
    match read(text, &given(variables)) {
        Ok(stage) => stage,
        Err(problems) => panic!("{problems:#?}\n{text}"),
    }
}

fn given(variables: &[(&str, &str)]) -> Given {
    Given {
        stage: None,
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        env: [("HOME".to_owned(), "/root".to_owned())].into(),
    }
}

/// All that is wrong with a file, as `LINE: what`.
fn wrong(text: &str) -> Vec<String> {
    match read(text, &given(&[])) {
        Ok(stage) => panic!("it was read: {stage:#?}\n{text}"),
        Err(problems) => problems
            .iter()
            .map(|problem| format!("{}: {}", problem.place.line, problem.what))
            .collect(),
    }
}

/// A stage of these steps, which begin in line 3.
fn of_steps(steps: &str) -> String {
    let steps: String = steps
        .trim_matches('\n')
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    format!("execution:\n  steps:\n{steps}")
}

/// A stage of one step, whose fields these are; they begin in line 4, and `spec` is among them.
fn of_step(fields: &str) -> String {
    let fields: String = fields
        .trim_matches('\n')
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    of_steps(&format!("- step:\n    identifier: s\n{fields}"))
}

fn only_step(stage: &Stage) -> &Step {
    match stage.body.as_slice() {
        [Node::Step(step)] => step,
        other => panic!("{other:#?}"),
    }
}
