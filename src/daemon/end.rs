//! The end of a stage: processes, binds, views, state.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::requests::Requests;
use crate::control::STAGE_FILE;
use crate::error::{Error, Result};
use crate::export::{self, ApplyReport, InPlace};
use crate::stage::{EndReport, Failure, Stage, bind, occupants, survivors};

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

/// How to end it.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Leave what `mount --resume` needs.
    pub keep_state: bool,
    /// Write the tree to where it came from.
    pub apply: Option<InPlaceOf>,
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
/// What could not be done. If it was the tree that could not be written to where
/// it came from, the stage goes on as if nothing had been asked. Otherwise the
/// state is kept, the server ends with a failure, and its supervisor unmounts
/// what is left.
pub fn end(requests: &Requests, how: How) -> Result<(EndReport, Option<ApplyReport>), NotEnded> {
    if !requests.start_ending() {
        return Err(NotEnded::ByOther);
    }
    // Their commands first: whoever runs one waits for it, and then puts its step away.
    end_commands(requests, how.grace);
    requests.steps.wait_for_runs(how.grace);
    let Some(stage) = requests.stage.take(how.patience) else {
        requests.stop_ending();
        let text = "requests to the stage are still in progress; try again when they have ended";
        let error = Error::new(Errno::EBUSY, text);
        return Err(NotEnded::Failed(error.into()));
    };
    // Steps that were just beginning, and those whose command lines do not go on.
    end_commands(requests, how.grace);
    if how.keep_state {
        for step in requests.steps.cut_off() {
            if let Err(error) = stage.discard(&step) {
                log::warn!("step '{step}': {error}");
            }
        }
    }
    let mapped = &requests.mapped;
    let own = [
        nix::unistd::getpid().as_raw(),
        nix::unistd::getppid().as_raw(),
    ];
    let occupants = occupants::find(mapped, &own);
    let applying = match how.apply.map(|of| uncover(&stage, mapped, of)) {
        Some(Err(failure)) => {
            match cover_again(&stage, mapped) {
                Ok(()) => {
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
        Some(Ok(committed)) => Some(committed),
        None => None,
    };
    requests.remove_socket(stage.state_dir());
    let result = finish(&stage, mapped, applying, how.keep_state);
    let (mut report, applied) = result.map_err(|failure| {
        keep(&stage);
        NotEnded::Failed(failure)
    })?;
    report.problems.extend(occupants.at_the_end());
    for problem in &report.problems {
        log::warn!("{problem}");
    }
    if !how.keep_state {
        super::forget_files(stage.state_dir());
    }
    Ok((report, applied))
}

/// Ends what runs in steps.
fn end_commands(requests: &Requests, grace: Duration) {
    match survivors::end(&requests.views(), grace) {
        Ok(ended) if ended.is_empty() => {}
        Ok(ended) => log::info!("{}", survivors::sentence(&ended).unwrap_or_default()),
        Err(error) => log::warn!("{error}"),
    }
}

/// Takes the stage away from above its base and commits the apply to it.
fn uncover(stage: &Stage, mapped: &[PathBuf], of: InPlaceOf) -> Result<InPlace, Failure> {
    // First, so that nobody comes in and writes after the head is sealed.
    bind::unbind(mapped)?;
    let stack = stage.current_stack()?;
    let all = of == InPlaceOf::All;
    Ok(InPlace::commit(&stack, mapped, all, stage.state_dir())?)
}

/// The opposite, when nothing was committed.
fn cover_again(stage: &Stage, mapped: &[PathBuf]) -> Result<(), Failure> {
    bind::unbind(mapped)?;
    Ok(bind::bind_mapped(&stage.open_stage_view()?, mapped)?)
}

fn finish(
    stage: &Stage,
    mapped: &[PathBuf],
    applying: Option<InPlace>,
    keep_state: bool,
) -> Result<(EndReport, Option<ApplyReport>), Failure> {
    let applied = match applying {
        Some(committed) => Some(committed.carry_out()?),
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
    if !state_dir.join(STAGE_FILE).exists() {
        // The apply was done before the removal began: what is there is the user's again.
        return Ok(None);
    }
    let report = export::finish(state_dir)?;
    if report.is_some() {
        super::remove_state(state_dir)?;
    }
    Ok(report)
}
