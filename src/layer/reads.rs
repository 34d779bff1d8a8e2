//! `reads`: what a step has seen of the tree that it began on, beside its layer.
//!
//! A line with the version of the format, then a zstd frame of what [`Reads::write`] gives. It is
//! not part of the layer's content: without it the layer is as good, and only what the step may
//! have missed is not known.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags};

use crate::error::{Context, Error, Result};
use crate::sys::at;
use crate::tree::reads::Reads;

const FILE: &str = "reads";
const VERSION: &[u8] = b"harness-fs reads 1\n";
/// No file that we write holds more, uncompressed, in bytes.
const MOST: u64 = 64 << 20;
/// Time counts for more than room.
const LEVEL: i32 = 1;

/// Writes it into a layer's directory, whole or not at all.
///
/// # Errors
/// As write(2), fsync(2) and renameat(2).
pub fn write_reads(layer: impl AsFd, reads: &Reads) -> Result<()> {
    let dir = layer.as_fd();
    let temporary = Path::new("reads.new");
    let write = || -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let mut file = File::from(at::open(dir, temporary, flags, 0o600)?);
        file.write_all(VERSION)?;
        let mut frame = zstd::Encoder::new(&file, LEVEL)?;
        frame.write_all(&reads.write())?;
        frame.finish()?;
        file.sync_all()?;
        at::rename(dir, temporary, dir, Path::new(FILE), RenameFlags::empty())
    };
    write().inspect_err(|_| {
        let _ = at::unlink(dir, temporary);
    })
}

/// Reads it, `None` if it was not written.
///
/// # Errors
/// As openat(2), or `EINVAL` for what is of another version, or damaged.
pub fn read_reads(layer: impl AsFd) -> Result<Option<Reads>> {
    let file = match at::open(layer, Path::new(FILE), OFlag::O_RDONLY, 0) {
        Err(error) if error.errno() == Errno::ENOENT => return Ok(None),
        file => File::from(file?),
    };
    let mut version = [0; VERSION.len()];
    (&file).read_exact(&mut version).context(|| FILE)?;
    if version != VERSION {
        return Err(Error::new(Errno::EINVAL, "it is of another version"));
    }
    let mut bytes = Vec::new();
    let mut frame = zstd::Decoder::new(&file)?.take(MOST + 1);
    frame.read_to_end(&mut bytes).context(|| FILE)?;
    let reads = match bytes.len() as u64 > MOST {
        true => None,
        false => Reads::read(&bytes),
    };
    match reads {
        Some(reads) => Ok(Some(reads)),
        None => Err(Error::new(Errno::EINVAL, "it is damaged")),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::sync::Arc;

    use super::*;
    use crate::tree::reads::Sight;

    fn some() -> Reads {
        let mut reads = Reads::default();
        let dir = reads.dir(&Arc::from(Path::new("0/src")));
        reads.note(dir, OsStr::new("main.c"), Sight::READ);
        reads
    }

    #[test]
    fn it_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap();
        assert_eq!(read_reads(open()).unwrap(), None);
        write_reads(open(), &some()).unwrap();
        let back = read_reads(open()).unwrap().unwrap();
        assert_eq!(back.write(), some().write());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_ours_is_an_error_and_nothing_worse() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        write_reads(open(), &some()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut later = whole.clone();
        later[VERSION.len() - 2] = b'2';
        std::fs::write(&path, later).unwrap();
        assert!(
            read_reads(open())
                .unwrap_err()
                .to_string()
                .contains("version")
        );
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read_reads(open()).is_err(), "{length} bytes");
        }
        let mut bomb = VERSION.to_vec();
        let zeros = std::io::Read::take(std::io::repeat(0), MOST * 2);
        bomb.extend(zstd::encode_all(zeros, 1).unwrap());
        std::fs::write(&path, bomb).unwrap();
        assert!(
            read_reads(open())
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
    }
}
