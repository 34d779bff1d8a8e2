//! Requests about steps: that are begun, and then merged, kept or discarded, by whoever asks.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::queue::{By, Turn};
use super::render;
use super::requests::{Requests, code_of};
use crate::control::{Connection, OfOne, Reply};
use crate::error::Error;
use crate::stage::survivors::{self, Survivor};
use crate::stage::{Beginning, Failure, Overrides, Stage, Start};

/// Waits until it is the step's turn at locked paths, without the stage: its end must
/// not wait for that.
pub(super) fn in_turn<'a>(
    requests: &'a Requests,
    step: &str,
    beginning: &Beginning,
    connection: &Connection,
) -> Result<Option<Turn<'a>>, Failure> {
    let locked = {
        let stage = requests.stage_to_enter()?;
        let locked = stage.locked_paths(&stage.private_paths(&beginning.private)?);
        if !locked.is_empty() {
            // It would wait for nothing.
            stage.check_possible(step, beginning)?;
        }
        locked
    };
    Ok(requests
        .queue
        .enter(step, locked, By::One, connection.as_fd())?)
}

/// How long what runs in a step has to end whose connection is gone.
const GRACE_OF_LEFT: Duration = Duration::from_secs(10);

/// The state that a step is asked to begin on.
pub fn start(like: Option<String>, after: Option<String>) -> Result<Start, Failure> {
    match (like, after) {
        (None, None) => Ok(Start::Stage),
        (Some(like), None) => Ok(Start::Like(like)),
        (None, Some(after)) => Ok(Start::After(after)),
        (Some(_), Some(_)) => {
            let text = "a step can begin like one step, or after one, not both";
            Err(Failure::Usage(text.to_owned()))
        }
    }
}

/// Opens a step that others run commands in; one that is tied ends with its connection.
pub fn begin(
    requests: &Requests,
    step: &str,
    beginning: &Beginning,
    tied: bool,
    connection: &Connection,
) -> Result<Reply, Failure> {
    let turn = in_turn(requests, step, beginning, connection)?;
    let stage = requests.stage_to_enter()?;
    let (view, cost) = stage.begin_with(step, beginning)?;
    requests.steps.add(step, view.mount.clone(), None);
    if tied {
        requests.steps.tie(step, connection.id);
    }
    // Until it is sealed or discarded: whatever runs in it may use them.
    if let Some(turn) = turn {
        turn.keep();
    }
    render::with_cost(&view, cost)
}

/// Ends what is left in an open step, and begins it once more.
pub fn reset(requests: &Requests, step: &str, grace: Duration) -> Result<Reply, Failure> {
    let stage = requests.stage_to_enter()?;
    let views: Vec<PathBuf> = requests.steps.idle(step, true)?.into_iter().collect();
    let steps = [step.to_owned()];
    let ended = end_left(&stage, &steps, &views, grace)?;
    let view = match stage.reset(step) {
        Ok(view) => view,
        Err(failure) => {
            stage.return_to_slots(&steps);
            if stage.view_of(step).is_err() {
                ended_by_hand(requests, step);
            }
            return Err(failure);
        }
    };
    let text = with_survivors(&ended, "");
    let mut data = serde_json::to_value(&view).map_err(Error::from)?;
    data["survivors"] = json!(ended);
    Ok(Reply::Report { text, data })
}

/// Discards what was tied to a connection that has ended.
pub fn left(requests: &Requests, connection: u64) {
    for (step, view) in requests.steps.tied_to(connection) {
        // The end of the stage sees to it otherwise.
        let Ok(stage) = requests.stage() else {
            return;
        };
        log::warn!("step '{step}': the connection that it was tied to is gone");
        let ended = end_left(&stage, std::slice::from_ref(&step), &[view], GRACE_OF_LEFT);
        if let Some(sentence) = ended.ok().as_deref().and_then(survivors::sentence) {
            log::info!("{sentence}");
        }
        match stage.discard(&step) {
            Ok(()) => ended_by_hand(requests, &step),
            Err(failure) => log::warn!("step '{step}' cannot be discarded: {failure}"),
        }
    }
}

/// The view of an open step, for one more command; the connection stays with
/// the command until it has ended.
pub fn exec(
    requests: &Requests,
    step: &str,
    note: String,
    connection: &mut Connection,
) -> Result<Reply, Failure> {
    let locked = {
        let stage = requests.stage_to_enter()?;
        stage.view_of(step)?;
        stage.locked_paths_of(step)
    };
    // It has its turn, unless it was left open by a `step run`.
    let _turn = requests
        .queue
        .enter(step, locked, By::Any, connection.as_fd())?;
    let view = requests.stage_to_enter()?.view_of(step)?;
    requests.steps.count_exec(step, 1);
    let entered = Reply::Entered {
        view,
        others: Vec::new(),
        note,
    };
    connection.ended(&entered);
    requests.steps.count_exec(step, -1);
    Ok(Reply::done())
}

/// Ends what is left in the steps and merges them, all or none.
pub fn merge(
    requests: &Requests,
    steps: &[String],
    all: &Overrides,
    mut each: BTreeMap<String, OfOne>,
    grace: Duration,
) -> Result<Reply, Failure> {
    let stage = requests.stage()?;
    let of_one = |step: &String| {
        let one = each.remove(step).unwrap_or_default();
        let overrides = Overrides {
            on_conflict: one.on_conflict.or(all.on_conflict),
            keep_both_as: all.keep_both_as.clone(),
            only: one.only,
            strict: all.strict,
        };
        (step.clone(), overrides)
    };
    let overrides: BTreeMap<String, Overrides> = steps.iter().map(of_one).collect();
    if let Some(other) = each.into_keys().next() {
        let text =
            format!("something is said of step '{other}', which is not among those to merge");
        return Err(Failure::Usage(text));
    }
    let mut views = Vec::new();
    for step in steps {
        views.extend(requests.steps.idle(step, true)?);
    }
    let ended = end_left(&stage, steps, &views, grace)?;
    stage.complete_files_of(steps);
    let merged = stage.merge_each(steps, &overrides);
    if merged.is_err() {
        stage.return_to_slots(steps);
        // In those that are sealed already nothing runs any more.
        let sealed = steps.iter().filter(|step| stage.view_of(step).is_err());
        sealed.for_each(|step| requests.queue.forget(step));
    }
    match &merged {
        Ok(_) | Err(Failure::Conflict(_)) => {
            steps.iter().for_each(|step| ended_by_hand(requests, step));
        }
        // There may be room for it another time, whatever the layers are tied to.
        Err(Failure::Failed(_)) => {
            let sealed = steps.iter().filter(|step| stage.view_of(step).is_err());
            sealed.for_each(|step| ended_by_hand(requests, step));
        }
        Err(Failure::Usage(_) | Failure::NotFound(_)) => {}
    }
    let report = merged?;
    let text = with_survivors(&ended, &render::merged(&report));
    let mut data = serde_json::to_value(&report).map_err(Error::from)?;
    data["survivors"] = json!(ended);
    with_groups(&stage, steps, text, data)
}

/// Ends what is left in an open step and makes its layer, which stays tied to what the
/// step is tied to.
pub fn seal(
    requests: &Requests,
    step: &str,
    only: &[String],
    grace: Duration,
) -> Result<Reply, Failure> {
    let stage = requests.stage()?;
    let views: Vec<PathBuf> = requests.steps.idle(step, true)?.into_iter().collect();
    let steps = [step.to_owned()];
    let ended = end_left(&stage, &steps, &views, grace)?;
    stage.complete_files_of(&steps);
    let sealed = match only {
        [] => stage.seal_step(step),
        only => stage.seal_part(step, only),
    };
    let sealed = sealed.inspect_err(|_| stage.return_to_slots(&steps))?;
    // Nothing runs in it any more; a group that it is merged with may wait for
    // others to have their turn.
    requests.queue.forget(step);
    let text = with_survivors(&ended, "");
    let mut data = serde_json::to_value(&sealed).map_err(Error::from)?;
    data["survivors"] = json!(ended);
    Ok(Reply::Report { text, data })
}

/// Ends what is left in an open step and puts it aside.
pub fn keep(
    requests: &Requests,
    step: &str,
    exit: Option<u8>,
    grace: Duration,
) -> Result<Reply, Failure> {
    let stage = requests.stage()?;
    let views: Vec<PathBuf> = requests.steps.idle(step, true)?.into_iter().collect();
    let steps = [step.to_owned()];
    let ended = end_left(&stage, &steps, &views, grace)?;
    stage.complete_files_of(&steps);
    let kept = stage.put_aside(step, exit.map(i32::from));
    let kept = kept.inspect_err(|_| stage.return_to_slots(&steps))?;
    ended_by_hand(requests, step);
    let text = with_survivors(&ended, &render::kept(&kept));
    let mut data = serde_json::to_value(&kept).map_err(Error::from)?;
    data["survivors"] = json!(ended);
    with_groups(&stage, &steps, text, data)
}

/// Ends what is left in a step and forgets it.
pub fn discard(requests: &Requests, step: &str, grace: Duration) -> Result<Reply, Failure> {
    let stage = requests.stage()?;
    let views: Vec<PathBuf> = requests.steps.idle(step, false)?.into_iter().collect();
    let steps = [step.to_owned()];
    let ended = end_and_discard(requests, &stage, step, &views, grace)?;
    let text = with_survivors(&ended, "");
    let data = json!({ "survivors": ended });
    with_groups(&stage, &steps, text, data)
}

/// Ends what is left in a step, and forgets it.
pub(super) fn end_and_discard(
    requests: &Requests,
    stage: &Stage,
    step: &str,
    views: &[PathBuf],
    grace: Duration,
) -> Result<Vec<Survivor>, Failure> {
    let steps = [step.to_owned()];
    let ended = end_left(stage, &steps, views, grace)?;
    let discarded = stage.discard(step);
    discarded.inspect_err(|_| stage.return_to_slots(&steps))?;
    ended_by_hand(requests, step);
    Ok(ended)
}

/// Takes open steps out of their slots, and ends what is left in them.
fn end_left(
    stage: &Stage,
    steps: &[String],
    views: &[PathBuf],
    grace: Duration,
) -> Result<Vec<Survivor>, Failure> {
    // First: a container that lives on must not pass for a part of the step.
    let guests = stage.leave_slots(steps)?;
    let ended = survivors::end_in_containers(views, &guests, grace);
    if ended.is_err() {
        stage.return_to_slots(steps);
    }
    Ok(ended?)
}

/// A step of `step begin` has come to its end, and so has its turn.
fn ended_by_hand(requests: &Requests, step: &str) {
    requests.steps.remove(step);
    requests.queue.forget(step);
}

/// Merges the groups that waited for these steps alone, and adds what became of
/// them to what became of the steps.
fn with_groups(
    stage: &Stage,
    steps: &[String],
    mut text: String,
    mut data: Value,
) -> Result<Reply, Failure> {
    let mut groups = Vec::new();
    let mut not_merged = None;
    for end in stage.end_groups_without(steps) {
        let group = end.group;
        text.push_str(&format!("group '{group}' was waiting for nothing else\n"));
        match end.merged {
            Ok(report) => {
                text.push_str(&render::merged(&report));
                let mut data = serde_json::to_value(&report).map_err(Error::from)?;
                data["group"] = json!(group);
                groups.push(data);
            }
            Err(failure) => {
                let (message, data) = match &failure {
                    Failure::Conflict(report) => (render::conflict(report), json!(report)),
                    other => (
                        format!("{other}; `group close {group}` tries it again\n"),
                        Value::Null,
                    ),
                };
                text.push_str(&message);
                not_merged = Some((code_of(&failure), data));
            }
        }
    }
    data["groups"] = Value::Array(groups);
    Ok(match not_merged {
        None => Reply::Report { text, data },
        Some((code, data)) => Reply::Failure {
            code,
            message: text,
            data,
        },
    })
}

pub(super) fn with_survivors(survivors: &[Survivor], text: &str) -> String {
    match survivors::sentence(survivors) {
        Some(sentence) => format!("{sentence}\n{text}"),
        None => text.to_owned(),
    }
}
