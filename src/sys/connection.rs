//! FUSE connections: ending one from outside of its session (fusectl,
//! Documentation/filesystems/fuse/fuse.rst).

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;

use super::{at, mount};
use crate::error::{Context, Result};

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
    mount::detached(c"fusectl")
}
