//! Extended attributes of what lies at a path below a descriptor, or of an
//! open file. Symbolic links are not followed (xattr(7)), but for the `/proc`
//! link that an empty path, the descriptor itself, has to go through.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::LazyLock;

use nix::errno::Errno;

use super::at::{near, proc_path};
use crate::error::Result;

fn name(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL.into())
}

/// `getxattrat(2)` and `listxattrat(2)`, Linux 6.13: without them, what is told of
/// a path below a descriptor goes through `/proc`, which takes a third longer.
/// The numbers are those of every architecture that Rust knows.
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;

/// `struct xattr_args` (linux/xattr.h).
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// Whether the kernel, and what filters system calls in a container, have them.
static HAS_XATTRAT: LazyLock<bool> = LazyLock::new(|| {
    let root = c"/";
    // SAFETY: the path is NUL-terminated, and no buffer is given.
    let size = unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            libc::AT_FDCWD,
            root.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            std::ptr::null_mut::<libc::c_char>(),
            0_usize,
        )
    };
    size >= 0
});

/// Where a path is handed to the kernel.
enum At<'a> {
    /// Below a descriptor.
    Below(BorrowedFd<'a>, CString),
    /// Below a descriptor, by way of `/proc`.
    Proc(CString),
    /// The descriptor itself, which may be one that has only been opened for its
    /// path: only `/proc` leads to such.
    Whole(CString),
}

impl<'a> At<'a> {
    fn new(dir: BorrowedFd<'a>, path: &Path) -> Result<At<'a>> {
        let bytes = path.as_os_str().as_bytes();
        Ok(match bytes.is_empty() {
            true => At::Whole(proc_path(dir, path)?),
            false if *HAS_XATTRAT => {
                At::Below(dir, CString::new(bytes).map_err(|_| Errno::EINVAL)?)
            }
            false => At::Proc(proc_path(dir, path)?),
        })
    }

    fn get(&self, attribute: &CStr, buffer: &mut [u8]) -> isize {
        let (name, value, size) = (attribute.as_ptr(), buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the strings are NUL-terminated, the buffer has `size` bytes.
        unsafe {
            match self {
                At::Whole(path) => libc::getxattr(path.as_ptr(), name, value.cast(), size),
                At::Proc(path) => libc::lgetxattr(path.as_ptr(), name, value.cast(), size),
                At::Below(dir, path) => {
                    let args = XattrArgs {
                        value: value.expose_provenance() as u64,
                        size: u32::try_from(size).unwrap_or(u32::MAX),
                        flags: 0,
                    };
                    libc::syscall(
                        SYS_GETXATTRAT,
                        dir.as_raw_fd(),
                        path.as_ptr(),
                        libc::AT_SYMLINK_NOFOLLOW,
                        name,
                        &raw const args,
                        size_of::<XattrArgs>(),
                    ) as isize
                }
            }
        }
    }

    fn list(&self, buffer: &mut [u8]) -> isize {
        let (names, size) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the path is NUL-terminated, the buffer has `size` bytes.
        unsafe {
            match self {
                At::Whole(path) => libc::listxattr(path.as_ptr(), names.cast(), size),
                At::Proc(path) => libc::llistxattr(path.as_ptr(), names.cast(), size),
                At::Below(dir, path) => libc::syscall(
                    SYS_LISTXATTRAT,
                    dir.as_raw_fd(),
                    path.as_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                    names,
                    size,
                ) as isize,
            }
        }
    }
}

/// Calls with a buffer, growing it as long as the kernel answers `ERANGE`.
fn read(call: impl Fn(&mut [u8]) -> isize) -> Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 256];
    loop {
        match Errno::result(call(&mut buffer)) {
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
        let at = At::new(dir, path)?;
        absent_is_none(read(|buffer| at.get(&attribute, buffer)))
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

/// XFS lists an ACL twice, once under the name that it has on disk
/// (`xfs_xattr_put_listent`, fs/xfs/xfs_xattr.c). Taken for a user's attribute it
/// would be shown, compared and copied beside the ACL itself.
const DISK_NAMES_OF_ACLS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

fn split(list: &[u8]) -> Vec<OsString> {
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !DISK_NAMES_OF_ACLS.contains(name))
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect()
}

/// `llistxattr(2)`, without the second names that XFS gives to ACLs.
///
/// # Errors
/// As llistxattr(2), but for `EOPNOTSUPP`, which is an empty list.
pub fn list(dir: impl AsFd, path: &Path) -> Result<Vec<OsString>> {
    near(dir.as_fd(), path, |dir, path| {
        let at = At::new(dir, path)?;
        let list = absent_is_none(read(|buffer| at.list(buffer)))?;
        Ok(split(&list.unwrap_or_default()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_with_and_without_the_newer_calls_tell_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("gone", dir.path().join("link")).expect("a link");
        let root = std::fs::File::open(dir.path()).expect("opened");
        let (path, long) = (Path::new("link"), vec![b'v'; 600]);
        set(&root, path, "trusted.long", &long, 0).expect("set");
        set(&root, path, "trusted.short", b"s", 0).expect("set");
        let mut ways = vec![At::Proc(proc_path(root.as_fd(), path).expect("a path"))];
        if *HAS_XATTRAT {
            ways.push(At::Below(root.as_fd(), c"link".to_owned()));
        }
        for way in ways {
            let got = read(|buffer| way.get(c"trusted.long", buffer)).expect("got");
            assert_eq!(got, long);
            let none = read(|buffer| way.get(c"trusted.none", buffer)).expect_err("none");
            assert_eq!(none.errno(), Errno::ENODATA);
            let mut names = split(&read(|buffer| way.list(buffer)).expect("listed"));
            names.retain(|name| name.as_bytes().starts_with(b"trusted."));
            names.sort();
            assert_eq!(names, ["trusted.long", "trusted.short"]);
        }
    }

    #[test]
    fn an_acl_on_xfs_is_listed_once() {
        let list = b"user.x\0system.posix_acl_access\0trusted.SGI_ACL_FILE\0\
            system.posix_acl_default\0trusted.SGI_ACL_DEFAULT\0trusted.SGI\0";
        let names = [
            "user.x",
            "system.posix_acl_access",
            "system.posix_acl_default",
            "trusted.SGI",
        ];
        assert_eq!(split(list), names);
    }
}
