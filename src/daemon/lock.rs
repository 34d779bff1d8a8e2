//! One daemon per state directory.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::control;
use crate::error::{Context, Error, Result};
use crate::sys::process::Process;

/// The server's own lock in the state directory: it may outlive its supervisor.
pub const FILE: &str = "lock";
/// How long a supervisor that cleans up may take.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// Held for as long as a daemon uses a state directory (flock(2)): the kernel
/// lets go of it however the process ends.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

impl StateLock {
    /// Locks a state directory, or a file in it.
    ///
    /// A supervisor that is cleaning up after a death is waited for.
    ///
    /// # Errors
    /// `EBUSY` when another daemon holds it.
    pub fn take(path: &Path, state_dir: &Path) -> Result<StateLock> {
        let open = || File::open(path).context(|| path.display().to_string());
        let mut result = Flock::lock(open()?, FlockArg::LockExclusiveNonblock);
        if result.is_err()
            && let Some(death) = control::death(state_dir)
            && let Ok(supervisor) = Process::open(death.supervisor)
        {
            let mut polled = [PollFd::new(supervisor.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(CLEAN_UP).unwrap_or(PollTimeout::MAX);
            let _ = nix::poll::poll(&mut polled, timeout);
            result = Flock::lock(open()?, FlockArg::LockExclusiveNonblock);
        }
        match result {
            Ok(lock) => Ok(StateLock(lock)),
            Err((_, Errno::EWOULDBLOCK)) => {
                let text = format!("another daemon uses {}", state_dir.display());
                Err(Error::new(Errno::EBUSY, text))
            }
            Err((_, errno)) => Err(errno).context(|| format!("lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let lock = StateLock::take(dir.path(), dir.path()).unwrap();
        let second = StateLock::take(dir.path(), dir.path()).unwrap_err();
        assert_eq!(second.errno(), Errno::EBUSY);
        drop(lock);
        StateLock::take(dir.path(), dir.path()).unwrap();
    }
}
