//! Background steps: commands that clients run in the stage view.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde_json::json;

use super::requests::Requests;
use super::steps::with_survivors;
use crate::control::{Connection, Reply};
use crate::error::Result;
use crate::stage::survivors::{self, Survivor};
use crate::stage::{Failure, Stage};

/// Between looks whether who runs a step has heard of its end.
const LOOK: Duration = Duration::from_millis(20);

/// Lets the client run a command in the stage view. What is left of it when it has
/// ended, or the client is gone, is ended.
pub fn run(
    requests: &Requests,
    step: &str,
    grace: Duration,
    connection: &mut Connection,
) -> Result<Reply, Failure> {
    let _untold = requests.steps.untold();
    let pid = connection.peer()?;
    let view = requests.stage_to_enter()?.begin_background(step, pid)?;
    let mark = view.hidden_by.clone();
    let entered = Reply::Entered {
        view,
        others: Vec::new(),
        note: String::new(),
    };
    let ended = match connection.ended(&entered) {
        Some(_) => end_all(&[mark], grace, Some(connection.as_fd())),
        None => {
            log::warn!("step '{step}': its command line is gone");
            end_all(&[mark], grace, None)
        }
    };
    // The end of the stage is that of the table.
    if let Ok(stage) = requests.stage() {
        stage.end_background(step);
    }
    let ended = ended?;
    let data = json!({ "survivors": ended });
    let text = with_survivors(&ended, "");
    // Here, since the end of the stage waits for it.
    connection.answer(&Reply::Report { text, data })?;
    Ok(Reply::done())
}

fn end_all(
    marks: &[String],
    grace: Duration,
    over: Option<BorrowedFd<'_>>,
) -> Result<Vec<Survivor>> {
    survivors::end_all(|| Ok(survivors::find_marked(marks)), grace, over)
}

/// Ends a background step, and returns when who runs it has been told.
pub fn stop(
    requests: &Requests,
    step: &str,
    grace: Duration,
    connection: &Connection,
) -> Result<Reply, Failure> {
    let mark = {
        let stage = requests.stage()?;
        stage
            .background_mark(step)
            .ok_or_else(|| no_background(&stage, step))?
    };
    let mut ended = Vec::new();
    // It may be too early for the first: the client may not have started the command yet.
    loop {
        ended.extend(end_all(
            std::slice::from_ref(&mark),
            grace,
            Some(connection.as_fd()),
        )?);
        let now = requests.stage()?.background_mark(step);
        if now.as_ref() != Some(&mark) || connection.given_up() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let data = json!({ "survivors": ended });
    let text = with_survivors(&ended, "");
    Ok(Reply::Report { text, data })
}

fn no_background(stage: &Stage, step: &str) -> Failure {
    match stage.steps().iter().any(|known| known.name == step) {
        true => Failure::Usage(format!(
            "step '{step}' is no background step: `step keep {step}` or `step discard {step}` ends it"
        )),
        false => Failure::NotFound(format!("there is no background step '{step}'")),
    }
}

/// Ends all of them with the stage. Returns their names.
pub fn end_with_stage(stage: &Stage, grace: Duration) -> Vec<String> {
    let names: Vec<String> = stage
        .background_steps()
        .into_iter()
        .map(|known| known.name)
        .collect();
    let marks = names.iter().filter_map(|name| stage.background_mark(name));
    match end_all(&marks.collect::<Vec<_>>(), grace, None) {
        Ok(ended) if ended.is_empty() => {}
        Ok(ended) => log::info!("{}", survivors::sentence(&ended).unwrap_or_default()),
        Err(error) => log::warn!("{error}"),
    }
    names
}
