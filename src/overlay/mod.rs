//! A view on directories that the user names, without a stage: what `mount -t overlay` does, and
//! fuse-overlayfs.
//!
//! A process of its own serves it from the mount to the unmount. The upper directory is in the
//! kernel's format all the while; what the kernel does not know lies in the work directory, and
//! goes at the end (`layer::settle`).

mod check;
mod claim;
mod remount;
mod serve;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use nix::mount::MsFlags;
use serde::{Deserialize, Serialize};

pub use check::check;
pub use remount::remount;
pub use serve::{serve, serve_detached};

/// The hidden subcommand of the process that serves one.
pub const SERVE: &str = "overlay-serve";

/// What is to be mounted. All paths are absolute and without symbolic links.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The lower directories, the uppermost first.
    #[serde(with = "crate::tree::shown::all")]
    pub lower: Vec<PathBuf>,
    /// Where changes go; nothing can be changed without.
    pub upper: Option<Upper>,
    /// Where it is mounted.
    #[serde(with = "crate::tree::shown")]
    pub at: PathBuf,
    /// What `mount` shows as the source.
    pub source: String,
    /// How it is mounted.
    pub flags: Flags,
    /// Let the kernel read and write files of the upper directory by itself.
    pub passthrough: bool,
    /// A change of metadata alone copies no content.
    pub metacopy: bool,
    /// A lower directory can be renamed.
    pub redirects: bool,
    /// Where the log goes: standard error if not to a file.
    pub log: Option<PathBuf>,
}

/// The directories that are written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upper {
    /// What was changed.
    #[serde(with = "crate::tree::shown")]
    pub dir: PathBuf,
    /// On the same mount, for what is not complete yet.
    #[serde(with = "crate::tree::shown")]
    pub work: PathBuf,
}

/// Flags of mount(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags(u64);

impl Flags {
    /// Those of a set.
    pub fn of(flags: MsFlags) -> Flags {
        Flags(flags.bits())
    }

    /// The set.
    pub fn set(self) -> MsFlags {
        MsFlags::from_bits_truncate(self.0)
    }

    /// Whether nothing is to be written.
    pub fn read_only(self) -> bool {
        self.set().contains(MsFlags::MS_RDONLY)
    }
}

/// The one line that the process writes which serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Said {
    /// It is mounted.
    Mounted,
    /// It is not going to be: one sentence.
    Failed(String),
}

impl Said {
    fn say(&self, to: &mut impl Write) -> bool {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        to.write_all(&line).is_ok()
    }

    /// Waits for the line; a process that ends without one has failed.
    pub fn wait(from: impl Read) -> Said {
        let mut line = String::new();
        let read = BufReader::new(from).read_line(&mut line);
        let said = read.ok().and_then(|_| serde_json::from_str(&line).ok());
        said.unwrap_or_else(|| Said::Failed("the process that serves it has ended".to_owned()))
    }
}
