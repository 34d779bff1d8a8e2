//! Whether a stage whose daemon has ended can be resumed: nobody is told to try
//! what cannot work.

use std::path::Path;

use nix::errno::Errno;

use crate::error::Error;
use crate::export;
use crate::stage::State;

/// Why the stage in a state directory cannot be resumed, if it cannot.
///
/// One that is over but for the rest of an `unmount --apply` needs no reading:
/// whoever resumes it finishes that.
pub fn not_resumable(state_dir: &Path) -> Option<Error> {
    let error = State::read_to_resume(state_dir).err()?;
    let over = || matches!(export::unfinished(state_dir), Ok(Some(apply)) if apply.committed);
    if error.errno() == Errno::ENOENT || over() {
        return None;
    }
    let text = format!("the stage cannot be resumed because {error}");
    Some(Error::new(error.errno(), text))
}

/// The same, with what to do about it.
pub fn only_discarded(state_dir: &Path) -> Option<Error> {
    let error = not_resumable(state_dir)?;
    let text = format!("{error}; `harness-fs unmount` discards it");
    Some(Error::new(error.errno(), text))
}
