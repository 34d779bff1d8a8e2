//! `reserve/`: room and inodes for a seal and a commit on a disk that is full, so
//! that a step can always be put away or discarded and the stage always be ended.
//!
//! In small files, each of which is an inode too: what a commit frees on a full disk
//! is there for every writer, and whoever is quicker than [`keep`] has it for good.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use crate::error::Result;

/// The directory's name in the state directory.
pub const DIR: &str = "reserve";
/// With all of them, many times the size of a `stage.json`.
const FILES: u64 = 16;
/// A multiple of [`STEP`].
const SIZE: u64 = 64 << 10;
/// The least room that is worth taking.
const STEP: u64 = 4 << 10;
/// No more of a small disk than one part in so many.
const SHARE: u64 = 8;

fn file(state_dir: &Path, number: u64) -> PathBuf {
    state_dir.join(DIR).join(number.to_string())
}

/// Takes what is missing of the room, or as much of that as there is. What is taken
/// stays taken.
pub fn keep(state_dir: &Path) {
    let fill = || -> Result<()> {
        let disk = statvfs(state_dir)?;
        let mut files = FILES.min(disk.blocks() * disk.fragment_size() / SHARE / SIZE);
        // Some filesystems make inodes as they need them, and tell none: Btrfs.
        if disk.files() > 0 {
            files = files.min(disk.files() / SHARE);
        }
        match std::fs::DirBuilder::new()
            .mode(0o700)
            .create(state_dir.join(DIR))
        {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error.into());
            }
            _ => {}
        }
        // To the last, whatever fails: where there is no room, a file is an inode still.
        let mut filled = Ok(());
        for number in 0..files {
            filled = filled.and(fill_one(&file(state_dir, number)));
        }
        filled
    };
    if let Err(error) = fill() {
        log::debug!("{}: {error}", state_dir.join(DIR).display());
    }
}

/// Makes the file as large as it should be, or as the disk lets it.
fn fill_one(path: &Path) -> Result<()> {
    let mut taken = path.metadata().map_or(0, |meta| meta.len());
    if taken >= SIZE {
        return Ok(());
    }
    let mut options = File::options();
    let file = options.append(true).create(true).mode(0o600).open(path)?;
    let mut step = SIZE;
    while taken < SIZE {
        let more = step.min(SIZE - taken);
        let (at, len) = (taken.cast_signed(), more.cast_signed());
        match fallocate(&file, FallocateFlags::empty(), at, len) {
            Ok(()) => taken += more,
            Err(_) if step > STEP => step /= 2,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Gives a part of the room back to the disk. Returns whether there was any.
fn spend_one(state_dir: &Path) -> bool {
    let mut files = (0..FILES).rev();
    files.any(|number| std::fs::remove_file(file(state_dir, number)).is_ok())
}

/// Gives all of the room back to the disk.
pub fn spend(state_dir: &Path) {
    while spend_one(state_dir) {}
}

/// Runs `write`, and on a full disk again, each time with a little more of the room.
///
/// # Errors
/// What `write` reports when all of the room is not enough.
pub fn or_spend<T>(state_dir: &Path, write: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match write() {
            Err(error) if matches!(error.errno(), Errno::ENOSPC | Errno::EDQUOT) => {
                if !spend_one(state_dir) {
                    keep(state_dir);
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::error::Error;

    fn taken(state_dir: &Path) -> u64 {
        let metas = (0..FILES).filter_map(|number| file(state_dir, number).metadata().ok());
        metas.map(|meta| meta.blocks() * 512).sum()
    }

    #[test]
    fn the_room_is_taken_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path());
        assert!(taken(dir.path()) >= FILES * SIZE);
        // As a daemon leaves it that was killed while it took the room.
        std::fs::write(file(dir.path(), 3), "").unwrap();
        keep(dir.path());
        assert!(taken(dir.path()) >= FILES * SIZE);
        spend(dir.path());
        assert_eq!(taken(dir.path()), 0);
    }

    #[test]
    fn no_more_is_spent_than_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path());
        let full = || Error::new(Errno::ENOSPC, "full".to_owned());
        let tries = Cell::new(0);
        let third = || {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { Err(full()) } else { Ok(()) }
        };
        or_spend(dir.path(), third).unwrap();
        assert!(taken(dir.path()) >= (FILES - 2) * SIZE);
        or_spend(dir.path(), || Err::<(), _>(full())).unwrap_err();
        assert!(taken(dir.path()) >= FILES * SIZE, "taken again");
    }
}
