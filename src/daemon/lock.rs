//! One daemon per state directory.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

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
    /// Takes what a server holds, which may outlive its supervisor; nothing if
    /// there never was one.
    ///
    /// # Errors
    /// As [`StateLock::take`].
    pub fn of_server(state_dir: &Path) -> Result<Option<StateLock>> {
        let path = state_dir.join(FILE);
        let there = path.exists();
        there.then(|| StateLock::take(&path, state_dir)).transpose()
    }

    /// Locks a state directory, or a file in it.
    ///
    /// A supervisor that is cleaning up after a death is waited for, and so is
    /// a daemon that can no longer be talked to, because it is ending.
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
        let socket = state_dir.join(control::SOCKET);
        let deadline = Instant::now() + CLEAN_UP;
        while matches!(result, Err((_, Errno::EWOULDBLOCK)))
            && !socket.exists()
            && Instant::now() < deadline
        {
            // flock(2) has no timeout.
            std::thread::sleep(Duration::from_millis(20));
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
        let socket = dir.path().join(control::SOCKET);
        std::fs::write(&socket, "").unwrap();
        let second = StateLock::take(dir.path(), dir.path()).unwrap_err();
        assert_eq!(second.errno(), Errno::EBUSY);
        // Without its socket it is waited for.
        std::fs::remove_file(&socket).unwrap();
        let path = dir.path().to_path_buf();
        let waits = std::thread::spawn(move || StateLock::take(&path, &path).map(drop));
        drop(lock);
        waits.join().unwrap().unwrap();
    }
}
