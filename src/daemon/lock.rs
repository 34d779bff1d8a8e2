//! One daemon per state directory.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
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
    /// there is none, or no more.
    ///
    /// # Errors
    /// As [`StateLock::take`].
    pub fn of_server(state_dir: &Path) -> Result<Option<StateLock>> {
        match StateLock::take(&state_dir.join(FILE), state_dir) {
            Err(error) if error.errno() == Errno::ENOENT => Ok(None),
            taken => taken.map(Some),
        }
    }

    /// Locks a state directory, or a file in it.
    ///
    /// A supervisor that is cleaning up after a death is waited for, and so is
    /// a daemon that can no longer be talked to, because it is ending.
    ///
    /// # Errors
    /// `EBUSY` when another daemon holds it; `ENOENT` when it is gone.
    pub fn take(path: &Path, state_dir: &Path) -> Result<StateLock> {
        StateLock::take_with(path, state_dir, &|| try_lock(path))
    }

    /// As [`StateLock::take`], and makes what is not there, or no more: a daemon
    /// that ends takes its state directory along.
    ///
    /// # Errors
    /// `EBUSY` when another daemon holds it, or what `make` reports.
    pub fn make(path: &Path, state_dir: &Path, make: &dyn Fn() -> Result<()>) -> Result<StateLock> {
        StateLock::take_with(path, state_dir, &|| {
            loop {
                make()?;
                match try_lock(path) {
                    Err(error) if error.errno() == Errno::ENOENT => {}
                    tried => return tried,
                }
            }
        })
    }

    fn take_with(
        path: &Path,
        state_dir: &Path,
        try_lock: &dyn Fn() -> Result<Tried>,
    ) -> Result<StateLock> {
        let mut result = try_lock()?;
        if result.is_err()
            && let Some(death) = control::death(state_dir)
            && let Ok(supervisor) = Process::open(death.supervisor)
        {
            let mut polled = [PollFd::new(supervisor.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(CLEAN_UP).unwrap_or(PollTimeout::MAX);
            let _ = nix::poll::poll(&mut polled, timeout);
            result = try_lock()?;
        }
        let socket = state_dir.join(control::SOCKET);
        let deadline = Instant::now() + CLEAN_UP;
        while matches!(result, Err(Errno::EWOULDBLOCK))
            && !socket.exists()
            && Instant::now() < deadline
        {
            // flock(2) has no timeout.
            std::thread::sleep(Duration::from_millis(20));
            result = try_lock()?;
        }
        match result {
            Ok(lock) => Ok(StateLock(lock)),
            Err(Errno::EWOULDBLOCK) => {
                let text = format!("another daemon uses {}", state_dir.display());
                Err(Error::new(Errno::EBUSY, text))
            }
            Err(errno) => Err(errno).context(|| format!("lock {}", path.display())),
        }
    }
}

type Tried = std::result::Result<Flock<File>, Errno>;

/// Locks what is at `path` once it is locked.
fn try_lock(path: &Path) -> Result<Tried> {
    let context = || path.display().to_string();
    loop {
        let file = File::open(path).context(context)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, errno)) => return Ok(Err(errno)),
        };
        // The one before us may have removed what we have locked.
        let ours = lock.metadata().context(context)?;
        let there = path.metadata();
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(Ok(lock));
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

    #[test]
    fn what_its_holder_removes_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let made = std::sync::atomic::AtomicU32::new(0);
        let make = || {
            made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(std::fs::create_dir_all(&path)?)
        };
        let first = StateLock::make(&path, &path, &make).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| StateLock::make(&path, &path, &make));
            while made.load(std::sync::atomic::Ordering::Relaxed) < 3 {
                std::thread::yield_now();
            }
            std::fs::remove_dir(&path).unwrap();
            drop(first);
            let _second = second.join().unwrap().unwrap();
            assert!(path.is_dir());
            // The one at the path is locked, not the one that is gone.
            let other = try_lock(&path).unwrap().unwrap_err();
            assert_eq!(other, Errno::EWOULDBLOCK);
        });
        std::fs::remove_dir(&path).unwrap();
        let gone = StateLock::take(&path, &path).unwrap_err();
        assert_eq!(gone.errno(), Errno::ENOENT);
        assert!(StateLock::of_server(&path).unwrap().is_none());
    }
}
