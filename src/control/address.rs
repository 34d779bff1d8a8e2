//! The address of a socket, however long its path is.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::error::{Context, Result};

/// What an address has room for (unix(7), `sun_path`), with its last zero.
const ROOM: usize = 108;

/// A path to the socket that can be bound or connected to, for as long as this
/// lives.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    /// The directory, where the path leads through its descriptor.
    _dir: Option<File>,
}

impl Address {
    /// The address of the socket at a path.
    ///
    /// # Errors
    /// As open(2) on the directory of a long one.
    pub fn of(socket: &Path) -> Result<Address> {
        use std::os::unix::fs::OpenOptionsExt;
        let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Ok(Address::plain(socket));
        };
        if socket.as_os_str().len() < ROOM {
            return Ok(Address::plain(socket));
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut options = File::options();
        let opened = options.read(true).custom_flags(flags.bits()).open(dir);
        let opened = opened.context(|| dir.display().to_string())?;
        let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
        Ok(Address {
            path: Path::new(&link).join(name),
            _dir: Some(opened),
        })
    }

    fn plain(socket: &Path) -> Address {
        Address {
            path: socket.to_path_buf(),
            _dir: None,
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
