//! Whether a stage that is being started is still wanted.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};

/// Looks for whoever waits for the stage, and for signals that end it. An import
/// may take long, and nobody serves requests or waits for signals meanwhile.
pub struct Wanted<'a> {
    ready: &'a File,
    signals: SignalFd,
}

impl<'a> Wanted<'a> {
    /// `ready` is where it is said that the stage is ready; `signals` are blocked.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn new(ready: &'a File, signals: &SigSet) -> Result<Wanted<'a>> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(signals, flags)?;
        Ok(Wanted { ready, signals })
    }

    /// Whether it is worth to go on.
    ///
    /// # Errors
    /// `ECANCELED` with one sentence if not.
    pub fn check(&self) -> Result<()> {
        // poll(2): POLLERR tells that the read end of a pipe is closed; it is
        // asked for by asking for nothing. A signal that is seen stays pending.
        let mut polled = [
            PollFd::new(self.ready.as_fd(), PollFlags::empty()),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        if nix::poll::poll(&mut polled, PollTimeout::ZERO).unwrap_or(0) == 0 {
            return Ok(());
        }
        let gone = polled[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLERR));
        let text = if gone {
            "the command that started the stage is gone"
        } else {
            "it was told to end before the stage was ready"
        };
        Err(Error::new(Errno::ECANCELED, text))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn who_waits_is_seen_to_leave() {
        let (reader, writer) = std::io::pipe().unwrap();
        let writer = File::from(OwnedFd::from(writer));
        let wanted = Wanted::new(&writer, &SigSet::empty()).unwrap();
        wanted.check().unwrap();
        drop(reader);
        let error = wanted.check().unwrap_err();
        assert_eq!(error.errno(), Errno::ECANCELED);
        let null = File::open("/dev/null").unwrap();
        Wanted::new(&null, &SigSet::empty())
            .unwrap()
            .check()
            .unwrap();
    }
}
