//! The one form of a name that can be written in several ways.

/// The form under which a [`super::Context`] has it.
///
/// - `variables.x` is `stage.variables.x`;
/// - results of steps are `steps.GROUP.STEP/status` and `steps.GROUP.STEP/output.NAME`, looked up
///   from the inside out; with `execution.` before it, from the stage only;
/// - all else is as it is written.
pub fn canonical(segments: &[&str]) -> String {
    match segments {
        ["variables", name @ ..] => format!("stage.variables.{}", name.join(".")),
        ["stage", "spec", "execution", "steps", rest @ ..]
        | ["spec", "execution", "steps", rest @ ..]
        | ["execution", "steps", rest @ ..] => results("execution.steps", rest),
        [
            "pipeline",
            "stages",
            stage,
            "spec",
            "execution",
            "steps",
            rest @ ..,
        ] => results(&format!("pipeline.stages.{stage}.steps"), rest),
        ["stepGroup", "steps", rest @ ..] | ["steps", rest @ ..] => results("steps", rest),
        _ => segments.join("."),
    }
}

/// `A.steps.B.output.outputVariables.X` is `A.B/output.X`.
fn results(of: &str, segments: &[&str]) -> String {
    let mut path = Vec::new();
    let mut rest = segments;
    while let [name, others @ ..] = rest {
        path.push(*name);
        rest = others;
        match rest {
            ["steps", others @ ..] => rest = others,
            _ => break,
        }
    }
    let path = path.join(".");
    match rest {
        ["output", "outputVariables", name] => format!("{of}.{path}/output.{name}"),
        ["status" | "currentStatus"] => format!("{of}.{path}/status"),
        _ => format!("{of}.{path}/{}", rest.join(".")),
    }
}

/// What a form says of a step: whether it is looked up from the stage only, the identifiers, and
/// what of the step.
pub fn of_step(key: &str) -> Option<(bool, &str, &str)> {
    let (absolute, rest) = match key.strip_prefix("execution.steps.") {
        Some(rest) => (true, rest),
        None => (false, key.strip_prefix("steps.")?),
    };
    let (path, what) = rest.split_once('/')?;
    Some((absolute, path, what))
}
