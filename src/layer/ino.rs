//! Inode numbers of a stage.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::tree::Ino;

/// Numbers with this device index are ours; smaller ones are of base disks.
const OWN: u64 = 16;
/// Bits below the device index.
pub(super) const DEVICE_SHIFT: u32 = 48;
/// Bits that one run of the daemon may use.
const RUN_SHIFT: u32 = 32;

/// Hands out inode numbers that are never used twice in a stage.
///
/// All stay below 2^53, because JavaScript reads `st_ino` into a double and
/// npm's tar tells hard links apart by it. Every run of the daemon takes a
/// range of its own, named by a number that `stage.json` counts up.
#[derive(Debug)]
pub struct Inos {
    next: AtomicU64,
}

impl Inos {
    /// The numbers of the `run`th start of the stage (1..=65535).
    pub fn new(run: u64) -> Inos {
        Inos {
            next: AtomicU64::new((OWN << DEVICE_SHIFT) + (run << RUN_SHIFT)),
        }
    }

    /// A number nobody else has.
    pub fn allocate(&self) -> Ino {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of a file of a base disk, if it fits: `device` counts the
    /// base's disks from 1.
    pub(super) fn of_base(device: u64, number: u64) -> Option<Ino> {
        (device > 0 && device < OWN && number < 1 << DEVICE_SHIFT)
            .then_some(device << DEVICE_SHIFT | number)
    }
}
