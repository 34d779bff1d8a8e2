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

/// Aborts a connection: every request in flight fails, and every later one.
/// `minor` is the minor number of the mount's device. A connection that is gone
/// already is no failure.
///
/// # Errors
/// As fsopen(2), fsmount(2), openat(2) and write(2).
pub fn abort(minor: &str) -> Result<()> {
    let control = control().context(|| "look at the FUSE connections")?;
    let path = Path::new(minor).join("abort");
    match at::open(&control, &path, OFlag::O_WRONLY, 0) {
        Ok(file) => Ok(File::from(file).write_all(b"1")?),
        Err(error) if error.errno() == Errno::ENOENT => Ok(()),
        Err(error) => Err(error.context(format_args!("connection {minor}"))),
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

#[cfg(test)]
mod tests {
    #[test]
    fn a_connection_that_is_gone_is_no_failure() {
        if nix::unistd::geteuid().is_root() {
            super::abort("4294967295").unwrap();
        }
    }
}
