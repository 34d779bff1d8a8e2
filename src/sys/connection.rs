//! FUSE connections: ending one from outside of its session (fusectl,
//! Documentation/filesystems/fuse/fuse.rst).

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::at;
use crate::error::{Context, Result};

/// `FSCONFIG_CMD_CREATE` and `FSMOUNT_CLOEXEC` (linux/mount.h).
const CREATE: libc::c_uint = 6;
const CLOEXEC: libc::c_uint = 1;

/// The means to end one connection.
///
/// Numbers of connections are used again as soon as one is gone, so a number
/// must be turned into this while something is mounted there; from then on it
/// is that connection or none.
#[derive(Debug)]
pub struct Abort(File);

impl Abort {
    /// `minor` is the minor number of the mount's device.
    ///
    /// # Errors
    /// As fsopen(2), fsmount(2) and openat(2).
    pub fn of(minor: &str) -> Result<Abort> {
        let open = || {
            let path = Path::new(minor).join("abort");
            at::open(control()?, &path, OFlag::O_WRONLY, 0)
        };
        let file = open().context(|| format!("FUSE connection {minor}"))?;
        Ok(Abort(file.into()))
    }

    /// Makes every request in flight fail, and every later one. Where there is no
    /// such connection any more, nothing happens.
    ///
    /// # Errors
    /// As write(2).
    pub fn abort(&self) -> Result<()> {
        Ok((&self.0).write_all(b"1")?)
    }
}

/// The filesystem that lists the connections, mounted nowhere: containers have
/// it at no path, and a place to mount it at would have to be written to.
fn control() -> Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated; the call returns a new descriptor or fails.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"fusectl".as_ptr(), CLOEXEC) };
    let context = owned(context)?;
    // SAFETY: the descriptor is open; this command takes neither key nor value.
    let made = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_void>(),
            0,
        )
    };
    Errno::result(made)?;
    // SAFETY: the descriptor is open; the call returns a new descriptor or fails.
    let mount = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, 0) };
    owned(mount)
}

fn owned(number: libc::c_long) -> Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(number)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
