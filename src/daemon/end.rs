//! The end of a stage: processes, binds, views, state.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use super::requests::Requests;
use crate::error::Error;
use crate::export::{self, ApplyReport};
use crate::stage::{EndReport, Failure, Stage, bind, occupants, survivors};

/// Why a stage was not ended.
#[derive(Debug)]
pub enum NotEnded {
    /// Another request is ending it.
    ByOther,
    /// One sentence.
    Failed(Failure),
}

/// How to end it.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Leave what `mount --resume` needs.
    pub keep_state: bool,
    /// Once nothing is mounted any more, write the tree here.
    pub apply: Option<PathBuf>,
    /// How long processes in steps have to end before they are killed.
    pub grace: Duration,
    /// How long requests in flight have.
    pub patience: Duration,
}

/// Ends the stage: no more requests, no more processes in steps, nothing
/// mounted, and no state unless it is to be kept.
///
/// # Errors
/// What could not be done. The state is kept then; the server ends with a
/// failure, and its supervisor unmounts what is left.
pub fn end(requests: &Requests, how: How) -> Result<(EndReport, Option<ApplyReport>), NotEnded> {
    if !requests.start_ending() {
        return Err(NotEnded::ByOther);
    }
    // Their commands first: whoever runs one waits for it.
    match survivors::end(&requests.views(), how.grace) {
        Ok(ended) if ended.is_empty() => {}
        Ok(ended) => log::info!("{}", survivors::sentence(&ended).unwrap_or_default()),
        Err(error) => log::warn!("{error}"),
    }
    let Some(stage) = requests.stage.take(how.patience) else {
        requests.stop_ending();
        let text = "requests to the stage are still in progress; try again when they have ended";
        let error = Error::new(Errno::EBUSY, text);
        return Err(NotEnded::Failed(error.into()));
    };
    requests.remove_socket(stage.state_dir());
    let result = finish(&stage, &requests.mapped, &how);
    if result.is_err()
        && let Err(second) = stage.end(true)
    {
        log::error!("{second}");
    }
    result.map_err(NotEnded::Failed)
}

fn finish(
    stage: &Stage,
    mapped: &[PathBuf],
    how: &How,
) -> Result<(EndReport, Option<ApplyReport>), Failure> {
    let stack = match &how.apply {
        Some(_) => Some(stage.current_stack()?),
        None => None,
    };
    let own = [
        nix::unistd::getpid().as_raw(),
        nix::unistd::getppid().as_raw(),
    ];
    let occupants = occupants::find(mapped, &own);
    bind::unbind(mapped)?;
    let applied = match (&how.apply, stack) {
        (Some(dir), Some(stack)) => Some(export::apply(&stack, mapped, dir)?),
        _ => None,
    };
    let mut report = stage.end(how.keep_state)?;
    report.problems.extend(occupants.at_the_end());
    for problem in &report.problems {
        log::warn!("{problem}");
    }
    if !how.keep_state {
        super::forget_files(stage.state_dir());
    }
    Ok((report, applied))
}
