//! How each open inode is served: by the kernel from its backing file
//! (passthrough), or by us through the page cache.
//!
//! The kernel answers `EIO` when one inode is open in both ways, or through two
//! backing ids (fs/fuse/iomode.c), so the mode stays while any handle is open.

use std::sync::Arc;

use dashmap::DashMap;
use fuser::{BackingId, OpenFlags};

use crate::tree::Ino;

/// `__FMODE_EXEC` (include/linux/fs.h): the kernel opens a file so to run it, and
/// keeps it open while it runs.
const EXEC: i32 = 0x20;

/// What a handle is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub writes: bool,
    pub runs: bool,
    /// `O_DIRECT`.
    pub direct: bool,
    /// Can be mapped, shared and writable: mmap(2) asks for `O_RDWR`.
    pub maps: bool,
}

impl Access {
    /// By the flags that a handle is opened and released with.
    pub fn of(flags: OpenFlags) -> Access {
        Access {
            writes: flags.0 & libc::O_ACCMODE != libc::O_RDONLY,
            runs: flags.0 & EXEC != 0,
            direct: flags.0 & libc::O_DIRECT != 0,
            maps: flags.0 & libc::O_ACCMODE == libc::O_RDWR,
        }
    }
}

#[derive(Debug)]
struct Mode {
    opens: u32,
    /// Handles that may write past us.
    writers: u32,
    /// Handles that the kernel runs a program from.
    running: u32,
    /// Handles that may have a shared mapping for writing.
    mappers: u32,
    backing: Option<Arc<BackingId>>,
}

/// The inodes that are open, with their mode.
#[derive(Debug, Default)]
pub(super) struct Modes {
    open: DashMap<Ino, Mode>,
}

impl Modes {
    /// One more handle. Where none is open yet, `make` may choose passthrough.
    pub fn enter(
        &self,
        ino: Ino,
        access: Access,
        make: impl FnOnce() -> Option<BackingId>,
    ) -> Option<Arc<BackingId>> {
        let mut mode = self.open.entry(ino).or_insert_with(|| Mode {
            opens: 0,
            writers: 0,
            running: 0,
            mappers: 0,
            backing: None,
        });
        if mode.opens == 0 {
            mode.backing = make().map(Arc::new);
        }
        mode.opens += 1;
        mode.running += u32::from(access.runs);
        mode.mappers += u32::from(access.maps);
        if access.writes && mode.backing.is_some() {
            mode.writers += 1;
        }
        mode.backing.clone()
    }

    /// One handle less. True if writes may have gone past us through it.
    pub fn leave(&self, ino: Ino, access: Access) -> bool {
        let mut past = false;
        let unused = match self.open.get_mut(&ino) {
            Some(mut mode) => {
                mode.opens = mode.opens.saturating_sub(1);
                mode.running = mode.running.saturating_sub(u32::from(access.runs));
                mode.mappers = mode.mappers.saturating_sub(u32::from(access.maps));
                if access.writes && mode.backing.is_some() {
                    mode.writers = mode.writers.saturating_sub(1);
                    past = true;
                }
                mode.opens == 0
            }
            None => false,
        };
        if unused {
            self.open.remove_if(&ino, |_, mode| mode.opens == 0);
        }
        past
    }

    /// Those that somebody may write past us.
    pub fn all_written_past_us(&self) -> Vec<Ino> {
        let written = self.open.iter().filter(|mode| mode.writers > 0);
        written.map(|mode| *mode.key()).collect()
    }

    /// True while the inode is a program that runs.
    pub fn runs(&self, ino: Ino) -> bool {
        self.open.get(&ino).is_some_and(|mode| mode.running > 0)
    }

    /// True while the kernel may hold what was stored through a mapping and that we
    /// have not been told. A mapping keeps its handle open (mmap(2)).
    pub fn may_hold_stores(&self, ino: Ino) -> bool {
        self.open
            .get(&ino)
            .is_some_and(|mode| mode.mappers > 0 && mode.backing.is_none())
    }

    /// True while somebody may write the inode past us: its attributes are then
    /// good for one answer only.
    pub fn written_past_us(&self, ino: Ino) -> bool {
        self.open.get(&ino).is_some_and(|mode| mode.writers > 0)
    }
}
