//! What a file's content lies in: one file of one layer, or several.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::unistd::Whence;

use super::Partial;
use crate::error::Result;
use crate::sys::copy;

/// The content of a file, open.
#[derive(Debug)]
pub enum Backing {
    /// All of it in one file.
    Whole(OwnedFd),
    /// Some of it still below.
    Partial(Partial),
}

impl Backing {
    /// The uppermost file: attributes are to be read and changed there.
    pub fn file(&self) -> &OwnedFd {
        match self {
            Backing::Whole(file) => file,
            Backing::Partial(partial) => partial.file(),
        }
    }

    /// How many descriptors it takes; a file that others share counts for each.
    pub fn descriptors(&self) -> u64 {
        match self {
            Backing::Whole(_) => 1,
            Backing::Partial(partial) => 2 + partial.below().descriptors(),
        }
    }

    /// In how many files besides the uppermost some of it may lie.
    pub fn depth(&self) -> usize {
        match self {
            Backing::Whole(_) => 0,
            Backing::Partial(partial) => 1 + partial.below().depth(),
        }
    }

    /// Reads from `offset`; short only at the end of the file.
    ///
    /// # Errors
    /// As pread(2).
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Backing::Whole(file) => copy::read_at(file, offset, buffer),
            Backing::Partial(partial) => partial.read_at(offset, buffer),
        }
    }

    /// [`Backing::read_at`] from memory alone: `None` where the disk would have to
    /// be waited for. May be short before the end.
    ///
    /// # Errors
    /// As preadv2(2).
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self {
            Backing::Whole(file) => copy::read_nowait(file, offset, buffer),
            Backing::Partial(partial) => partial.read_now(offset, buffer),
        }
    }

    /// Writes all of `data`, or as much as there is room for.
    ///
    /// # Errors
    /// As pwrite(2), if nothing was written.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize> {
        match self {
            Backing::Whole(file) => copy::write_at(file, offset, data),
            Backing::Partial(partial) => partial.write_at(offset, data),
        }
    }

    /// Sets the length.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn truncate(&self, size: u64) -> Result<()> {
        match self {
            Backing::Whole(file) => Ok(nix::unistd::ftruncate(file, size.cast_signed())?),
            Backing::Partial(partial) => partial.truncate(size),
        }
    }

    /// Allocates, punches or zeroes a range.
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn allocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> Result<()> {
        match self {
            Backing::Whole(file) => {
                let (offset, length) = (offset.cast_signed(), length.cast_signed());
                Ok(nix::fcntl::fallocate(file, mode, offset, length)?)
            }
            Backing::Partial(partial) => partial.allocate(mode, offset, length),
        }
    }

    /// The next data, or the next hole, from `offset` on.
    ///
    /// # Errors
    /// As lseek(2), `ENXIO` behind the end.
    pub fn seek(&self, offset: i64, for_data: bool) -> Result<i64> {
        match self {
            Backing::Whole(file) => {
                let whence = match for_data {
                    true => Whence::SeekData,
                    false => Whence::SeekHole,
                };
                // The descriptor's own position is used by nobody.
                Ok(nix::unistd::lseek(file, offset, whence)?)
            }
            Backing::Partial(partial) => {
                let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                Ok(partial.seek(offset, for_data)?.cast_signed())
            }
        }
    }

    /// As [`copy::data`].
    ///
    /// # Errors
    /// As lseek(2).
    pub fn data(&self, at: u64, size: u64) -> Result<(u64, u64)> {
        match self {
            Backing::Whole(file) => copy::data(file, at, size),
            Backing::Partial(partial) => partial.data(at, size),
        }
    }

    /// Brings it to the disk; only its content with `data_only`.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self, data_only: bool) -> Result<()> {
        match self {
            Backing::Whole(file) if data_only => Ok(nix::unistd::fdatasync(file)?),
            Backing::Whole(file) => Ok(nix::unistd::fsync(file)?),
            Backing::Partial(partial) => partial.sync(data_only),
        }
    }

    /// Copies a range into another file. Returns how much was copied, less than
    /// `length` only at the end of this one.
    ///
    /// # Errors
    /// As copy_file_range(2), pread(2), pwrite(2).
    pub fn copy_to(&self, offset: u64, to: &Backing, to_offset: u64, length: u64) -> Result<u64> {
        if let (Backing::Whole(from), Backing::Whole(to)) = (self, to) {
            return copy::range(from.as_fd(), offset, to.as_fd(), to_offset, length);
        }
        let mut buffer = vec![0; 256 << 10];
        let mut done = 0;
        while done < length {
            let step = usize::try_from(length - done)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let got = self.read_at(offset + done, &mut buffer[..step])?;
            let mut written = 0;
            while written < got {
                written += to.write_at(to_offset + done + written as u64, &buffer[written..got])?;
            }
            done += got as u64;
            if got < step {
                break;
            }
        }
        Ok(done)
    }

    /// Copies all of a file of `size` bytes into an empty one, with its holes.
    ///
    /// # Errors
    /// As [`copy::file()`].
    pub fn copy_all(&self, to: &OwnedFd, size: u64) -> Result<()> {
        let Backing::Partial(partial) = self else {
            return copy::file(self.file(), to, size);
        };
        nix::unistd::ftruncate(to, size.cast_signed())?;
        let mut at = 0;
        while at < size {
            let (start, end) = self.data(at, size)?;
            copy::through(
                |at, buffer| partial.read_at(at, buffer),
                start,
                to,
                start,
                end - start,
            )?;
            at = end;
        }
        Ok(())
    }
}
