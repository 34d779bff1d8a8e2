//! `reserve`: room for a commit on a disk that is full, so that a step can
//! always be discarded and the stage always be ended.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

/// The file's name in the state directory.
pub const FILE: &str = "reserve";
/// Many times the size of a `stage.json`.
const SIZE: i64 = 1 << 20;

/// Takes the room, if it is not taken yet and there is any.
pub fn keep(state_dir: &Path) {
    let path = state_dir.join(FILE);
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let Ok(file) = options.open(&path) else {
        return;
    };
    if let Err(errno) = fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
        log::debug!("{}: {errno}", path.display());
        spend(state_dir);
    }
}

/// Gives the room back to the disk.
pub fn spend(state_dir: &Path) {
    let _ = std::fs::remove_file(state_dir.join(FILE));
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
        let meta = dir.path().join(FILE).metadata().unwrap();
        assert!(meta.blocks() * 512 >= SIZE.cast_unsigned());
        spend(dir.path());
        assert!(!dir.path().join(FILE).exists());
    }
}
