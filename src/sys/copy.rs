//! Copying file content: by reflink where the disk can, else inside the
//! kernel, keeping holes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::Whence;

use crate::error::Result;

mod ioctl {
    #![allow(missing_docs)]
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// How much is copied between two questions whether it is still wanted.
const ASK_AFTER: u64 = 64 << 20;

/// Makes `to` share all blocks of `from` (`FICLONE`, ioctl_ficlone(2)).
/// Returns false where the disk cannot do it.
///
/// # Errors
/// As ioctl_ficlone(2), but for those that mean "cannot".
pub fn reflink(from: impl AsFd, to: impl AsFd) -> Result<bool> {
    let source = u64::from(from.as_fd().as_raw_fd().cast_unsigned());
    // SAFETY: both descriptors are open for the length of the call.
    match unsafe { ioctl::ficlone(to.as_fd().as_raw_fd(), source) } {
        Ok(_) => Ok(true),
        Err(
            Errno::EOPNOTSUPP
            | Errno::EXDEV
            | Errno::EINVAL
            | Errno::ENOTTY
            | Errno::ENOSYS
            | Errno::ETXTBSY,
        ) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes a range of a file to the disk and waits for it, though a loss of power
/// may take it yet (sync_file_range(2)).
///
/// # Errors
/// As sync_file_range(2), above all what an earlier write of the range met.
pub fn write_out(file: impl AsFd, offset: u64, length: u64) -> Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let file = file.as_fd().as_raw_fd();
    let (offset, length) = (offset.cast_signed(), length.cast_signed());
    // SAFETY: the descriptor is open for the length of the call; no memory is passed.
    let done = unsafe { libc::sync_file_range(file, offset, length, flags) };
    Errno::result(done)?;
    Ok(())
}

/// Copies a range inside the kernel (copy_file_range(2)), through our memory
/// where the two disks cannot. Returns how much was copied, less than `length`
/// only at the end of `from`.
///
/// # Errors
/// As copy_file_range(2), read(2), write(2).
pub fn range(
    from: BorrowedFd<'_>,
    from_offset: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
    length: u64,
) -> Result<u64> {
    let mut done = 0;
    while done < length {
        let mut source = (from_offset + done).cast_signed();
        let mut target = (to_offset + done).cast_signed();
        let step = usize::try_from((length - done).min(1 << 30)).unwrap_or(1 << 30);
        match nix::fcntl::copy_file_range(from, Some(&mut source), to, Some(&mut target), step) {
            Ok(0) => return Ok(done),
            Ok(copied) => done += copied as u64,
            Err(Errno::EINTR) => {}
            Err(Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                let copied = through(
                    |at, buffer| read_at(from, at, buffer),
                    from_offset + done,
                    to,
                    to_offset + done,
                    length - done,
                )?;
                return Ok(done + copied);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// Copies a range that `read` reads through our memory. Returns how much was
/// copied, less than `length` only where `read` has no more.
///
/// # Errors
/// What `read` reports, or as write(2).
pub fn through(
    read: impl Fn(u64, &mut [u8]) -> Result<usize>,
    from_offset: u64,
    to: impl AsFd,
    to_offset: u64,
    length: u64,
) -> Result<u64> {
    let mut buffer = vec![0_u8; 256 << 10];
    let mut done = 0;
    while done < length {
        let step = usize::try_from((length - done).min(buffer.len() as u64)).unwrap_or(0);
        let got = read(from_offset + done, &mut buffer[..step])?;
        if got == 0 {
            break;
        }
        let mut written = 0;
        while written < got {
            written += write_at(
                &to,
                to_offset + done + written as u64,
                &buffer[written..got],
            )?;
        }
        done += got as u64;
    }
    Ok(done)
}

/// Reads from `offset`; short only at the end of the file.
///
/// # Errors
/// As pread(2).
pub fn read_at(file: impl AsFd, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let at = (offset + done as u64).cast_signed();
        match nix::sys::uio::pread(file.as_fd(), &mut buffer[done..], at) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// Writes all of `data` at `offset`, or as much as there is room for.
///
/// # Errors
/// As pwrite(2), if nothing was written.
pub fn write_at(file: impl AsFd, offset: u64, data: &[u8]) -> Result<usize> {
    let mut done = 0;
    while done < data.len() {
        let at = (offset + done as u64).cast_signed();
        match nix::sys::uio::pwrite(file.as_fd(), &data[done..], at) {
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// Where data begins at or after `at` in a file of `size` bytes, and where it
/// ends; both are `size` when only a hole is left. A disk that cannot tell has
/// data everywhere. The descriptor's own position changes.
///
/// # Errors
/// As lseek(2).
pub fn data(file: impl AsFd, at: u64, size: u64) -> Result<(u64, u64)> {
    let file = file.as_fd();
    let data = match nix::unistd::lseek(file, at.cast_signed(), Whence::SeekData) {
        Ok(data) => data.cast_unsigned().min(size),
        // lseek(2): ENXIO means that only a hole is left.
        Err(Errno::ENXIO) => return Ok((size, size)),
        Err(Errno::EINVAL) => at,
        Err(errno) => return Err(errno.into()),
    };
    let end = match nix::unistd::lseek(file, data.cast_signed(), Whence::SeekHole) {
        Ok(hole) => hole.cast_unsigned().min(size),
        Err(_) => size,
    };
    Ok((data, end))
}

/// Copies a whole file of `size` bytes into an empty one, with its holes.
///
/// # Errors
/// As copy_file_range(2), lseek(2), ftruncate(2).
pub fn file(from: impl AsFd, to: impl AsFd, size: u64) -> Result<()> {
    file_while(from, to, size, &|| Ok(()))
}

/// As [`file()`], for as long as that is wanted.
///
/// # Errors
/// As [`file()`], and what `wanted` says.
pub fn file_while(
    from: impl AsFd,
    to: impl AsFd,
    size: u64,
    wanted: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    if size == 0 || reflink(from, to)? {
        return Ok(());
    }
    nix::unistd::ftruncate(to, size.cast_signed())?;
    let mut at = 0_u64;
    while at < size {
        wanted()?;
        let (start, end) = data(from, at, size)?;
        let end = end.min(start + ASK_AFTER);
        if start == end || range(from, start, to, start, end - start)? == 0 {
            return Ok(());
        }
        at = end;
    }
    Ok(())
}

/// Reads what is in the page cache without waiting for the disk (preadv2(2)
/// with `RWF_NOWAIT`). `None` if nothing is; a disk that cannot tell is read as
/// usual.
///
/// # Errors
/// As preadv2(2).
pub fn read_nowait(file: impl AsFd, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
    let vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let offset = offset.cast_signed();
    let fd = file.as_fd();
    // SAFETY: the vector describes `buffer`, which is valid and ours to write.
    let got = unsafe {
        libc::preadv2(
            fd.as_raw_fd(),
            &raw const vector,
            1,
            offset,
            libc::RWF_NOWAIT,
        )
    };
    match Errno::result(got) {
        Ok(count) => Ok(Some(count.unsigned_abs())),
        Err(Errno::EAGAIN) => Ok(None),
        Err(Errno::EOPNOTSUPP) => Ok(Some(nix::sys::uio::pread(fd, buffer, offset)?)),
        Err(errno) => Err(errno.into()),
    }
}
