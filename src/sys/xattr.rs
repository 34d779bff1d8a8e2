//! Extended attributes of what lies at a path below a descriptor, or of an
//! open file. Symbolic links are not followed (xattr(7)), but for the `/proc`
//! link that an empty path, the descriptor itself, has to go through.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;

use super::at::{near, proc_path};
use crate::error::Result;

fn name(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL.into())
}

/// Calls with a buffer, growing it as long as the kernel answers `ERANGE`.
fn read(call: impl Fn(*mut libc::c_void, usize) -> isize) -> Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 256];
    loop {
        match Errno::result(call(buffer.as_mut_ptr().cast(), buffer.len())) {
            Ok(length) => {
                buffer.truncate(usize::try_from(length).unwrap_or(0));
                return Ok(buffer);
            }
            // XATTR_SIZE_MAX and XATTR_LIST_MAX are 64 KiB (limits.h).
            Err(Errno::ERANGE) if buffer.len() < 64 << 10 => buffer.resize(64 << 10, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn absent_is_none(value: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.errno() {
            Errno::ENODATA | Errno::EOPNOTSUPP => Ok(None),
            _ => Err(error),
        },
    }
}

/// `lgetxattr(2)`; `None` where there is no such attribute.
///
/// # Errors
/// As lgetxattr(2).
pub fn get(dir: impl AsFd, path: &Path, attribute: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
    let attribute = name(attribute.as_ref())?;
    near(dir.as_fd(), path, |dir, path| {
        let whole = path.as_os_str().is_empty();
        let path = proc_path(dir, path)?;
        absent_is_none(read(|buffer, size| {
            // SAFETY: both strings are NUL-terminated, the buffer has `size` bytes.
            unsafe {
                if whole {
                    libc::getxattr(path.as_ptr(), attribute.as_ptr(), buffer, size)
                } else {
                    libc::lgetxattr(path.as_ptr(), attribute.as_ptr(), buffer, size)
                }
            }
        }))
    })
}

/// `lsetxattr(2)`; `flags` as there (`XATTR_CREATE`, `XATTR_REPLACE` or 0).
///
/// # Errors
/// As lsetxattr(2).
pub fn set(
    dir: impl AsFd,
    path: &Path,
    attribute: impl AsRef<OsStr>,
    value: &[u8],
    flags: i32,
) -> Result<()> {
    let attribute = name(attribute.as_ref())?;
    near(dir.as_fd(), path, |dir, path| {
        let call = match path.as_os_str().is_empty() {
            true => libc::setxattr,
            false => libc::lsetxattr,
        };
        let path = proc_path(dir, path)?;
        // SAFETY: both strings are NUL-terminated, the value is valid for its length.
        let done = unsafe {
            call(
                path.as_ptr(),
                attribute.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                flags,
            )
        };
        Errno::result(done)?;
        Ok(())
    })
}

/// `lremovexattr(2)`.
///
/// # Errors
/// As lremovexattr(2).
pub fn remove(dir: impl AsFd, path: &Path, attribute: impl AsRef<OsStr>) -> Result<()> {
    let attribute = name(attribute.as_ref())?;
    near(dir.as_fd(), path, |dir, path| {
        let call = match path.as_os_str().is_empty() {
            true => libc::removexattr,
            false => libc::lremovexattr,
        };
        let path = proc_path(dir, path)?;
        // SAFETY: both strings are NUL-terminated.
        Errno::result(unsafe { call(path.as_ptr(), attribute.as_ptr()) })?;
        Ok(())
    })
}

fn split(list: Vec<u8>) -> Vec<OsString> {
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect()
}

/// `llistxattr(2)`.
///
/// # Errors
/// As llistxattr(2), but for `EOPNOTSUPP`, which is an empty list.
pub fn list(dir: impl AsFd, path: &Path) -> Result<Vec<OsString>> {
    near(dir.as_fd(), path, |dir, path| {
        let whole = path.as_os_str().is_empty();
        let path = proc_path(dir, path)?;
        let list = absent_is_none(read(|buffer, size| {
            // SAFETY: the path is NUL-terminated, the buffer has `size` bytes.
            unsafe {
                if whole {
                    libc::listxattr(path.as_ptr(), buffer.cast(), size)
                } else {
                    libc::llistxattr(path.as_ptr(), buffer.cast(), size)
                }
            }
        }))?;
        Ok(split(list.unwrap_or_default()))
    })
}

/// `fsetxattr(2)`.
///
/// # Errors
/// As fsetxattr(2).
pub fn fset(fd: impl AsFd, attribute: impl AsRef<OsStr>, value: &[u8]) -> Result<()> {
    let attribute = name(attribute.as_ref())?;
    // SAFETY: the name is NUL-terminated, the value is valid for its length.
    let done = unsafe {
        libc::fsetxattr(
            fd.as_fd().as_raw_fd(),
            attribute.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(done)?;
    Ok(())
}
