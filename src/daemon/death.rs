//! How the server ended, and the file that tells the next command.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::wait::WaitStatus;

use crate::control::{DIED, Death};
use crate::error::{Context, Result};

/// Added to the exit code of a failure that was told before the stage was
/// ready, so that the supervisor takes it for no death.
pub const START_FAILED: u8 = 64;

/// How the server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Clean,
    /// It could not start and said why; the exit code.
    NotStarted(u8),
    /// It died; as in "was killed by SIGKILL".
    Died(String),
}

impl End {
    /// Reads it from the server's wait status; `None` while it lives.
    pub fn of(status: WaitStatus) -> Option<End> {
        match status {
            WaitStatus::Exited(_, 0) => Some(End::Clean),
            WaitStatus::Exited(_, code) => Some(match u8::try_from(code) {
                Ok(code) if code > START_FAILED && code <= START_FAILED + 5 => {
                    End::NotStarted(code - START_FAILED)
                }
                _ => End::Died(format!("has ended with code {code}")),
            }),
            WaitStatus::Signaled(_, signal, _) => {
                Some(End::Died(format!("was killed by {}", signal.as_str())))
            }
            _ => None,
        }
    }
}

/// Writes down why the daemon ended, for the next command.
///
/// # Errors
/// As write(2) and rename(2).
pub fn write(state_dir: &Path, reason: &str) -> Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let death = Death {
        reason: reason.to_owned(),
        at: since.map_or(0, |since| since.as_secs()),
        supervisor: nix::unistd::getpid().as_raw(),
    };
    let temporary = state_dir.join("died.new");
    std::fs::write(&temporary, serde_json::to_vec(&death)?)?;
    std::fs::rename(&temporary, state_dir.join(DIED)).context(|| DIED)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let pid = Pid::from_raw(1);
        let exited = |code| End::of(WaitStatus::Exited(pid, code));
        assert_eq!(exited(0), Some(End::Clean));
        assert_eq!(exited(66), Some(End::NotStarted(2)));
        assert_eq!(
            exited(101),
            Some(End::Died("has ended with code 101".into()))
        );
        let killed = End::of(WaitStatus::Signaled(pid, Signal::SIGKILL, false));
        assert_eq!(killed, Some(End::Died("was killed by SIGKILL".into())));
        assert_eq!(End::of(WaitStatus::StillAlive), None);
    }

    #[test]
    fn the_next_command_reads_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "was killed by SIGBUS").unwrap();
        let death = crate::control::death(dir.path()).unwrap();
        assert_eq!(death.reason, "was killed by SIGBUS");
        assert!(death.at > 0);
    }
}
