//! The end of a stage: processes, binds, views, state.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::background;
use super::requests::Requests;
use crate::control::has_stage;
use crate::error::{Error, Result};
use crate::export::{self, ApplyReport, InPlace};
use crate::stage::survivors::{self, Guests};
use crate::stage::{EndReport, Failure, Phase, Stage, bind, occupants, slots};

/// Why a stage was not ended.
#[derive(Debug)]
pub enum NotEnded {
    /// Another request is ending it.
    ByOther,
    /// One sentence.
    Failed(Failure),
}

/// What is written to where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlaceOf {
    /// The workspace.
    Workspace,
    /// Every mapped path.
    All,
}

/// Where the tree is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apply {
    /// To where it came from.
    InPlace(InPlaceOf),
    /// To a directory outside of the stage.
    Elsewhere {
        /// The directory.
        dir: PathBuf,
        /// Every mapped path below its own name, not the workspace alone.
        all: bool,
    },
}

/// How to end it.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Leave what `mount --resume` needs.
    pub keep_state: bool,
    /// Write the tree somewhere first.
    pub apply: Option<Apply>,
    /// How long processes in steps have to end before they are killed, and then
    /// their command lines to say so.
    pub grace: Duration,
    /// How long requests in flight have.
    pub patience: Duration,
}

/// Ends the stage: no more requests, no more processes in steps, nothing
/// mounted, and no state unless it is to be kept.
///
/// # Errors
/// What could not be done. If it was the tree that could not be written, the stage
/// goes on, without what was cut off. Otherwise the state is kept, the server ends
/// with a failure, and its supervisor unmounts what is left.
pub fn end(requests: &Requests, how: How) -> Result<(EndReport, Option<ApplyReport>), NotEnded> {
    if !requests.start_ending() {
        return Err(NotEnded::ByOther);
    }
    let running = requests.steps.cut_off();
    let guests = match requests.stage() {
        Ok(stage) => leave_slots(&stage),
        Err(_) => Guests::default(),
    };
    // Their commands first: whoever runs one waits for it, and then puts its step away.
    end_commands(requests, &guests, how.grace);
    // Then what they may have used.
    let end_background = |stage: &Stage| background::end_with_stage(stage, how.grace);
    let mut background = requests
        .stage()
        .map_or_else(|_| Vec::new(), |stage| end_background(&stage));
    requests.steps.wait_for_runs(how.grace);
    let Some(stage) = requests.stage.take(how.patience) else {
        requests.stop_ending();
        if let Ok(stage) = requests.stage() {
            stage.return_to_slots(&open_steps(&stage));
        }
        let text = "requests to the stage are still in progress; try again when they have ended";
        let error = Error::new(Errno::EBUSY, text);
        return Err(NotEnded::Failed(error.into()));
    };
    // Steps that were just beginning, and those whose command lines do not go on.
    let guests = leave_slots(&stage);
    end_commands(requests, &guests, how.grace);
    for step in end_background(&stage) {
        if !background.contains(&step) {
            background.push(step);
        }
    }
    if how.keep_state {
        discard_open(&stage, &requests.steps.cut_off());
    }
    let mapped = &requests.mapped;
    let own = [
        nix::unistd::getpid().as_raw(),
        nix::unistd::getppid().as_raw(),
    ];
    let occupants = occupants::find(mapped, &own);
    let applying = match how.apply.map(|to| uncover(requests, &stage, &to)) {
        Some(Err(failure)) => {
            match cover_again(&stage, mapped) {
                Ok(()) => {
                    stage.return_to_slots(&open_steps(&stage));
                    requests.stage.give_back(stage);
                    requests.stop_ending();
                }
                Err(second) => {
                    log::error!("{second}");
                    requests.remove_socket(stage.state_dir());
                    keep(&stage);
                }
            }
            return Err(NotEnded::Failed(failure));
        }
        Some(Ok(applying)) => Some(applying),
        None => None,
    };
    requests.remove_socket(stage.state_dir());
    let result = finish(&stage, mapped, applying, how.keep_state);
    let (mut report, applied) = result.map_err(|failure| {
        keep(&stage);
        NotEnded::Failed(failure)
    })?;
    report.problems.extend(occupants.at_the_end());
    report.background_steps = background;
    for step in running {
        if !stage.knows_of(&step) && !report.discarded_steps.contains(&step) {
            report.discarded_steps.push(step);
        }
    }
    for problem in &report.problems {
        log::warn!("{problem}");
    }
    if !how.keep_state {
        super::forget_files(stage.state_dir());
    }
    Ok((report, applied))
}

/// Takes all steps out of their slots; returns the containers that saw them.
fn leave_slots(stage: &Stage) -> Guests {
    let left = stage.leave_slots(&open_steps(stage));
    left.unwrap_or_else(|error| {
        log::warn!("{error}");
        Guests::default()
    })
}

fn open_steps(stage: &Stage) -> Vec<String> {
    let steps = stage.steps().into_iter();
    let open = steps.filter(|step| step.state == Phase::Open);
    open.map(|step| step.name).collect()
}

/// Ends what runs in steps.
fn end_commands(requests: &Requests, guests: &Guests, grace: Duration) {
    match survivors::end_in_containers(&requests.views(), guests, grace) {
        Ok(ended) if ended.is_empty() => {}
        Ok(ended) => log::info!("{}", survivors::sentence(&ended).unwrap_or_default()),
        Err(error) => log::warn!("{error}"),
    }
}

/// Discards the steps of which the command was cut off, of those given, and merges
/// the groups that waited for nothing else.
fn discard_open(stage: &Stage, steps: &[String]) {
    let mut discarded = Vec::new();
    for step in stage.steps() {
        // One that has been sealed meanwhile did succeed.
        if step.state != Phase::Open || !steps.contains(&step.name) {
            continue;
        }
        match stage.discard_cut_off(&step.name) {
            Ok(()) => discarded.push(step.name),
            Err(error) => log::warn!("step '{}': {error}", step.name),
        }
    }
    for group in stage.end_groups_without(&discarded) {
        match group.merged {
            Ok(_) => log::info!("merged group '{}'", group.group),
            Err(failure) => log::warn!("group '{}': {failure}", group.group),
        }
    }
}

/// An apply that has come as far as it may before the stage ends.
enum Applying {
    Committed(InPlace),
    Done(ApplyReport),
}

/// Takes the stage away from above its base, and commits the apply to it or
/// writes the tree elsewhere.
fn uncover(requests: &Requests, stage: &Stage, to: &Apply) -> Result<Applying, Failure> {
    let mapped = &requests.mapped;
    // First, so that nobody comes in and writes after the head is sealed.
    bind::unbind(mapped)?;
    match to {
        Apply::InPlace(of) => {
            let stack = stage.current_stack()?;
            let all = *of == InPlaceOf::All;
            let committed = InPlace::commit(&stack, mapped, all, stage.state_dir())?;
            Ok(Applying::Committed(committed))
        }
        Apply::Elsewhere { dir, all } => {
            // Who asks for the end of the stage gets it, still there or not.
            let wanted = &|| Ok(());
            Ok(Applying::Done(requests.applied(stage, dir, *all, wanted)?))
        }
    }
}

/// The opposite, when nothing was committed.
fn cover_again(stage: &Stage, mapped: &[PathBuf]) -> Result<(), Failure> {
    bind::unbind(mapped)?;
    Ok(bind::bind_mapped(&stage.open_stage_view()?, mapped)?)
}

fn finish(
    stage: &Stage,
    mapped: &[PathBuf],
    applying: Option<Applying>,
    keep_state: bool,
) -> Result<(EndReport, Option<ApplyReport>), Failure> {
    let applied = match applying {
        Some(Applying::Committed(committed)) => Some(committed.carry_out()?),
        Some(Applying::Done(report)) => Some(report),
        None => {
            bind::unbind(mapped)?;
            None
        }
    };
    Ok((stage.end(keep_state)?, applied))
}

fn keep(stage: &Stage) {
    if let Err(second) = stage.end(true) {
        log::error!("{second}");
    }
}

/// Ends an `unmount --apply` that was cut off, where nobody serves the stage. If
/// it had passed its commit point, the rest of the tree is written, and the
/// stage is over: its state is removed, and a report returned.
///
/// # Errors
/// What is in the way, with the path; it can be repeated.
pub fn finish_apply(state_dir: &Path, label: &str) -> Result<Option<ApplyReport>> {
    super::clean(state_dir, label)?;
    if !has_stage(state_dir)? {
        // The apply was done before the removal began: what is there is the user's again.
        return Ok(None);
    }
    let report = export::finish(state_dir)?;
    if report.is_some() {
        super::remove_state(state_dir)?;
        slots::close(label)?;
    }
    Ok(report)
}
