//! Other processes, held by descriptor so that a number used again is no danger.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::error::Result;

/// A process that cannot be mistaken for a later one with the same number
/// (pidfd_open(2)). Readable, to poll(2), once the process has ended.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// Takes hold of the process that has this number now.
    ///
    /// # Errors
    /// As pidfd_open(2): `ESRCH` when there is none.
    pub fn open(pid: i32) -> Result<Process> {
        // SAFETY: both arguments are plain numbers.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel just returned this descriptor and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Process { pid, fd })
    }

    /// Sends a signal; a process that has ended meanwhile is no failure.
    ///
    /// # Errors
    /// As pidfd_send_signal(2), but for `ESRCH`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open; a null siginfo means the default one.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal as i32,
                no_info,
                0,
            )
        };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl std::os::fd::AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes every descriptor but the three standard ones close when another
/// program is executed (close_range(2)): a daemon must not hold open what its
/// starter's callers forgot to close.
///
/// # Errors
/// As close_range(2).
pub fn close_on_exec() -> Result<()> {
    // SAFETY: only sets a flag on descriptors, closes none.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(done)?;
    Ok(())
}
