//! `reserve/`: room and inodes for a seal and a commit on a disk that is full, so
//! that a step can always be put away or discarded and the stage always be ended.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, fallocate};

use crate::error::Result;
use crate::sys::at;

/// The directory's name in the state directory.
pub const DIR: &str = "reserve";
/// Many times the size of a `stage.json`.
const SIZE: i64 = 1 << 20;
/// The journal's record, the layer's manifest and `stage.json` are new files, each
/// of them while the one before is still there.
const FILES: u32 = 4;

/// Takes the room, if it is not taken yet and there is any.
pub fn keep(state_dir: &Path) {
    let dir = state_dir.join(DIR);
    let mut made = std::fs::DirBuilder::new();
    if made.mode(0o700).create(&dir).is_err() {
        return;
    }
    let fill = || -> Result<()> {
        for name in 0..FILES {
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o600);
            let file = options.open(dir.join(name.to_string()))?;
            if name == 0 {
                fallocate(&file, FallocateFlags::empty(), 0, SIZE)?;
            }
        }
        Ok(())
    };
    if let Err(error) = fill() {
        log::debug!("{}: {error}", dir.display());
        spend(state_dir);
    }
}

/// Gives the room back to the disk.
pub fn spend(state_dir: &Path) {
    let _ = at::remove_all(AT_FDCWD, &state_dir.join(DIR));
}

/// Runs `write`, and on a full disk once more with the room.
///
/// # Errors
/// What `write` reports.
pub fn or_spend<T>(state_dir: &Path, write: impl Fn() -> Result<T>) -> Result<T> {
    match write() {
        Err(error) if matches!(error.errno(), Errno::ENOSPC | Errno::EDQUOT) => {
            spend(state_dir);
            write()
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_room_is_taken_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path());
        keep(dir.path());
        let meta = dir.path().join(DIR).join("0").metadata().unwrap();
        assert!(meta.blocks() * 512 >= SIZE.cast_unsigned());
        spend(dir.path());
        assert!(!dir.path().join(DIR).exists());
    }
}
