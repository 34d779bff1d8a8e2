//! Who has a file open, as a lease on it tells (fcntl(2)).

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::Result;

/// Whether anybody can write to a file through what is open or mapped now: a
/// read lease is refused then, however the file was reached. The kernel counts
/// writers of a file that FUSE passes requests on to as it does all others. The
/// file must be open for reading only; `None` where no lease can be had.
///
/// # Errors
/// As fcntl(2), but for what says that there are no leases here.
pub fn is_written(file: impl AsFd) -> Result<Option<bool>> {
    let set = |kind: libc::c_int| {
        // SAFETY: the descriptor is open for the call; the argument is a number.
        Errno::result(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_SETLEASE, kind) })
    };
    match set(libc::F_RDLCK) {
        Ok(_) => {
            // At once: it is broken by a signal that would end this process.
            set(libc::F_UNLCK)?;
            Ok(Some(false))
        }
        Err(Errno::EAGAIN) => Ok(Some(true)),
        // A disk that has none, or a file of another owner without CAP_LEASE.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EACCES | Errno::ENOLCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn writers_are_seen_and_readers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(is_written(&file).unwrap(), Some(true));
        drop(writer);
        let _reader = File::open(&path).unwrap();
        // A child of another test has it open too, from fork(2) to execve(2).
        let deadline = Instant::now() + Duration::from_secs(60);
        while is_written(&file).unwrap() == Some(true) {
            assert!(Instant::now() < deadline);
        }
        assert_eq!(is_written(&file).unwrap(), Some(false));
    }
}
