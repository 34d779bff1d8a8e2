//! The `*at` calls on paths below a directory descriptor.
//!
//! A path inside a layer can be longer than `PATH_MAX` (a deep tree below a
//! deep state directory), so every call walks in pieces where it must.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

use super::inode::{Attr, Kind, Time};
use crate::error::Result;

/// `PATH_MAX` less its final NUL (limits.h).
const PATH_LIMIT: usize = 4095;

/// Runs `call` with a descriptor and a path short enough for one system call.
fn within<T>(
    dir: BorrowedFd<'_>,
    path: &Path,
    call: impl FnOnce(BorrowedFd<'_>, &Path) -> Result<T>,
) -> Result<T> {
    if path.as_os_str().is_empty() {
        return call(dir, Path::new("."));
    }
    if path.as_os_str().len() <= PATH_LIMIT {
        return call(dir, path);
    }
    let mut components = path.components();
    let mut head = PathBuf::new();
    for component in components.by_ref() {
        head.push(component);
        if head.as_os_str().len() > PATH_LIMIT - 256 {
            break;
        }
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let next = nix::fcntl::openat(dir, &head, flags, Mode::empty())?;
    within(next.as_fd(), components.as_path(), call)
}

/// `openat(2)`; never follows a final symbolic link, always close-on-exec.
///
/// # Errors
/// As openat(2).
pub fn open(dir: impl AsFd, path: &Path, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    within(dir.as_fd(), path, |dir, path| {
        Ok(nix::fcntl::openat(
            dir,
            path,
            flags,
            Mode::from_bits_truncate(mode),
        )?)
    })
}

/// Opens a directory for reading its entries or as a starting point.
///
/// # Errors
/// As openat(2).
pub fn open_dir(dir: impl AsFd, path: &Path) -> Result<OwnedFd> {
    open(dir, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)
}

/// A raw `stat`: attributes plus what only the underlying disk knows.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Attributes; `ino` is 0.
    pub attr: Attr,
    /// The disk's own inode number.
    pub ino: u64,
    /// The disk's device.
    pub dev: u64,
}

fn time(sec: i64, nsec: i64) -> Time {
    Time {
        sec,
        nsec: u32::try_from(nsec).unwrap_or(0),
    }
}

fn from_stat(stat: &libc::stat) -> Stat {
    Stat {
        attr: Attr {
            ino: 0,
            kind: Kind::from_mode(stat.st_mode),
            perm: stat.st_mode & 0o7777,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size: stat.st_size.cast_unsigned(),
            blocks: stat.st_blocks.cast_unsigned(),
            blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        },
        ino: stat.st_ino,
        dev: stat.st_dev,
    }
}

/// `fstatat(2)` without following a final symbolic link.
///
/// # Errors
/// As fstatat(2).
pub fn stat(dir: impl AsFd, path: &Path) -> Result<Stat> {
    within(dir.as_fd(), path, |dir, path| {
        let stat = nix::sys::stat::fstatat(dir, path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(from_stat(&stat))
    })
}

/// Whether an entry is immutable or append-only (ioctl_iflags(2)): then not even
/// root renames or removes it, or what is in it.
///
/// # Errors
/// As statx(2).
pub fn is_fixed(dir: impl AsFd, path: &Path) -> Result<bool> {
    within(dir.as_fd(), path, |dir, path| {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        let mut buffer = std::mem::MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: the path ends with a NUL, and the buffer is a whole statx.
        let done = unsafe {
            libc::statx(
                dir.as_raw_fd(),
                path.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                0,
                buffer.as_mut_ptr(),
            )
        };
        Errno::result(done)?;
        // SAFETY: all zeroes is a valid statx, and the kernel has filled it.
        let found = unsafe { buffer.assume_init() };
        let fixed =
            u64::from((libc::STATX_ATTR_IMMUTABLE | libc::STATX_ATTR_APPEND).cast_unsigned());
        Ok(found.stx_attributes & fixed != 0)
    })
}

/// [`stat`], with absence as `None`.
///
/// # Errors
/// As fstatat(2), but for `ENOENT` and `ENOTDIR`.
pub fn stat_if_there(dir: impl AsFd, path: &Path) -> Result<Option<Stat>> {
    match stat(dir, path) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `fstat(2)`.
///
/// # Errors
/// As fstat(2).
pub fn fstat(fd: impl AsFd) -> Result<Stat> {
    Ok(from_stat(&nix::sys::stat::fstat(fd)?))
}

/// `readlinkat(2)`.
///
/// # Errors
/// As readlinkat(2).
pub fn readlink(dir: impl AsFd, path: &Path) -> Result<OsString> {
    within(dir.as_fd(), path, |dir, path| {
        Ok(nix::fcntl::readlinkat(dir, path)?)
    })
}

/// `mkdirat(2)`.
///
/// # Errors
/// As mkdirat(2).
pub fn mkdir(dir: impl AsFd, path: &Path, mode: u32) -> Result<()> {
    within(dir.as_fd(), path, |dir, path| {
        Ok(nix::sys::stat::mkdirat(
            dir,
            path,
            Mode::from_bits_truncate(mode),
        )?)
    })
}

/// `mkdirat(2)` for a directory that may be there already.
///
/// # Errors
/// As mkdirat(2), but for `EEXIST`.
pub fn mkdir_if_missing(dir: impl AsFd, path: &Path, mode: u32) -> Result<()> {
    match mkdir(dir, path, mode) {
        Err(error) if error.errno() == Errno::EEXIST => Ok(()),
        other => other,
    }
}

/// `mknodat(2)` for any type but directories and symbolic links.
///
/// # Errors
/// As mknodat(2).
pub fn mknod(dir: impl AsFd, path: &Path, kind: Kind, perm: u32, rdev: u64) -> Result<()> {
    let kind = SFlag::from_bits_truncate(kind.mode_bits());
    within(dir.as_fd(), path, |dir, path| {
        Ok(nix::sys::stat::mknodat(
            dir,
            path,
            kind,
            Mode::from_bits_truncate(perm),
            rdev,
        )?)
    })
}

/// `symlinkat(2)`.
///
/// # Errors
/// As symlinkat(2).
pub fn symlink(target: &OsStr, dir: impl AsFd, path: &Path) -> Result<()> {
    within(dir.as_fd(), path, |dir, path| {
        Ok(nix::unistd::symlinkat(target, dir, path)?)
    })
}

/// `linkat(2)`; a final symbolic link is linked itself.
///
/// # Errors
/// As linkat(2).
pub fn link(old_dir: impl AsFd, old: &Path, new_dir: impl AsFd, new: &Path) -> Result<()> {
    within(old_dir.as_fd(), old, |old_dir, old| {
        within(new_dir.as_fd(), new, |new_dir, new| {
            Ok(nix::unistd::linkat(
                old_dir,
                old,
                new_dir,
                new,
                AtFlags::empty(),
            )?)
        })
    })
}

/// `unlinkat(2)` for anything but a directory.
///
/// # Errors
/// As unlinkat(2).
pub fn unlink(dir: impl AsFd, path: &Path) -> Result<()> {
    within(dir.as_fd(), path, |dir, path| {
        Ok(nix::unistd::unlinkat(
            dir,
            path,
            nix::unistd::UnlinkatFlags::NoRemoveDir,
        )?)
    })
}

/// `unlinkat(2)` for an empty directory.
///
/// # Errors
/// As rmdir(2).
pub fn rmdir(dir: impl AsFd, path: &Path) -> Result<()> {
    within(dir.as_fd(), path, |dir, path| {
        Ok(nix::unistd::unlinkat(
            dir,
            path,
            nix::unistd::UnlinkatFlags::RemoveDir,
        )?)
    })
}

/// A directory that is being emptied.
struct Level {
    /// Its name in the one above.
    name: OsString,
    /// Device and inode.
    id: (u64, u64),
    rest: std::vec::IntoIter<DirEntry>,
}

fn level(dir: &OwnedFd, name: OsString) -> Result<Level> {
    let stat = fstat(dir)?;
    Ok(Level {
        name,
        id: (stat.dev, stat.ino),
        rest: list(dir, Path::new(""))?.into_iter(),
    })
}

/// Removes what is no directory; false for one.
fn unlink_unless_dir(dir: impl AsFd, path: &Path) -> Result<bool> {
    match unlink(&dir, path) {
        Ok(()) => Ok(true),
        Err(error) => match error.errno() {
            Errno::ENOENT => Ok(true),
            Errno::EISDIR => Ok(false),
            // Also said of a file that must not be removed (unlink(2)).
            Errno::EPERM if stat(dir, path)?.attr.is_dir() => Ok(false),
            _ => Err(error),
        },
    }
}

/// Removes a whole subtree, or a file; absence is no failure.
///
/// However deep it is, one directory is open at a time: the way up is `..`,
/// which has to lead to where it came from.
///
/// # Errors
/// As unlinkat(2) and readdir(3); `ESTALE` for a directory that is moved
/// meanwhile.
pub fn remove_all(dir: impl AsFd, path: &Path) -> Result<()> {
    let dir = dir.as_fd();
    if unlink_unless_dir(dir, path)? {
        return Ok(());
    }
    let mut here = open_dir(dir, path)?;
    let mut levels = vec![level(&here, OsString::new())?];
    while let Some(current) = levels.last_mut() {
        if let Some(entry) = current.rest.next() {
            let name = Path::new(&entry.name);
            if !unlink_unless_dir(&here, name)? {
                here = open_dir(&here, name)?;
                levels.push(level(&here, entry.name)?);
            }
            continue;
        }
        let emptied = levels.pop();
        if let (Some(above), Some(emptied)) = (levels.last(), emptied) {
            here = open_dir(&here, Path::new(".."))?;
            let stat = fstat(&here)?;
            if (stat.dev, stat.ino) != above.id {
                return Err(Errno::ESTALE.into());
            }
            rmdir(&here, Path::new(&emptied.name))?;
        }
    }
    rmdir(dir, path)
}

/// `renameat2(2)`.
///
/// # Errors
/// As renameat2(2).
pub fn rename(
    old_dir: impl AsFd,
    old: &Path,
    new_dir: impl AsFd,
    new: &Path,
    flags: RenameFlags,
) -> Result<()> {
    within(old_dir.as_fd(), old, |old_dir, old| {
        within(new_dir.as_fd(), new, |new_dir, new| {
            Ok(nix::fcntl::renameat2(old_dir, old, new_dir, new, flags)?)
        })
    })
}

/// `fchmodat(2)`; not for symbolic links, which have no mode of their own.
///
/// # Errors
/// As fchmodat(2).
pub fn chmod(dir: impl AsFd, path: &Path, perm: u32) -> Result<()> {
    within(dir.as_fd(), path, |dir, path| {
        let mode = Mode::from_bits_truncate(perm);
        Ok(nix::sys::stat::fchmodat(
            dir,
            path,
            mode,
            FchmodatFlags::FollowSymlink,
        )?)
    })
}

/// `fchownat(2)` without following a final symbolic link; `None` leaves as is.
///
/// # Errors
/// As fchownat(2).
pub fn chown(dir: impl AsFd, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    within(dir.as_fd(), path, |dir, path| {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(nix::unistd::fchownat(
            dir,
            path,
            uid,
            gid,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?)
    })
}

/// What to set a timestamp to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it (`UTIME_OMIT`).
    Keep,
    /// The present (`UTIME_NOW`).
    Now,
    /// This time.
    To(Time),
}

impl SetTime {
    fn spec(self) -> TimeSpec {
        match self {
            SetTime::Keep => TimeSpec::UTIME_OMIT,
            SetTime::Now => TimeSpec::UTIME_NOW,
            SetTime::To(time) => TimeSpec::new(time.sec, i64::from(time.nsec)),
        }
    }
}

/// `utimensat(2)` without following a final symbolic link.
///
/// # Errors
/// As utimensat(2).
pub fn utimens(dir: impl AsFd, path: &Path, atime: SetTime, mtime: SetTime) -> Result<()> {
    within(dir.as_fd(), path, |dir, path| {
        let flags = UtimensatFlags::NoFollowSymlink;
        Ok(nix::sys::stat::utimensat(
            dir,
            path,
            &atime.spec(),
            &mtime.spec(),
            flags,
        )?)
    })
}

/// `futimens(3)`.
///
/// # Errors
/// As futimens(3).
pub fn futimens(fd: impl AsFd, atime: SetTime, mtime: SetTime) -> Result<()> {
    Ok(nix::sys::stat::futimens(fd, &atime.spec(), &mtime.spec())?)
}

/// One entry of a directory on disk.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Its type, where the disk tells.
    pub kind: Option<Kind>,
    /// The disk's inode number.
    pub ino: u64,
}

/// Lists a directory without `.` and `..`.
///
/// # Errors
/// As openat(2) and getdents64(2).
pub fn list(dir: impl AsFd, path: &Path) -> Result<Vec<DirEntry>> {
    let fd = open_dir(dir, path)?;
    let mut entries = Vec::new();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        // SAFETY: the buffer is valid for its whole length and the kernel
        // writes no more than that.
        let filled = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                fd.as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        let filled = usize::try_from(Errno::result(filled)?).unwrap_or(0);
        if filled == 0 {
            return Ok(entries);
        }
        // struct linux_dirent64 (getdents64(2)): d_ino u64, d_off i64,
        // d_reclen u16, d_type u8, then the NUL-terminated name.
        let mut rest = &buffer[..filled];
        while rest.len() > 19 {
            let ino = u64::from_ne_bytes(rest[..8].try_into().unwrap_or_default());
            let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            if length < 20 || length > rest.len() {
                return Err(Errno::EIO.into());
            }
            let kind = match rest[18] {
                libc::DT_UNKNOWN => None,
                d_type => Some(Kind::from_mode(u32::from(d_type) << 12)),
            };
            let bytes = &rest[19..length];
            let end = bytes
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(bytes.len());
            let name = &bytes[..end];
            if name != b"." && name != b".." {
                let name = OsString::from_vec(name.to_vec());
                entries.push(DirEntry { name, kind, ino });
            }
            rest = &rest[length..];
        }
    }
}

/// The `/proc` path that names what lies at `path` below a descriptor, for
/// calls that have no `*at` form (xattr(7) before 6.13).
pub(super) fn proc_path(dir: BorrowedFd<'_>, path: &Path) -> Result<CString> {
    let mut bytes = format!("/proc/self/fd/{}", dir.as_raw_fd()).into_bytes();
    if !path.as_os_str().is_empty() {
        bytes.push(b'/');
        bytes.extend_from_slice(path.as_os_str().as_bytes());
    }
    CString::new(bytes).map_err(|_| Errno::EINVAL.into())
}

/// Walks down so that what remains of `path` fits one call through `/proc`.
pub(super) fn near<T>(
    dir: BorrowedFd<'_>,
    path: &Path,
    call: impl FnOnce(BorrowedFd<'_>, &Path) -> Result<T>,
) -> Result<T> {
    if path.as_os_str().len() + 32 <= PATH_LIMIT {
        return call(dir, path);
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or_default();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let near = open(dir, parent, flags, 0)?;
    call(near.as_fd(), Path::new(name))
}

/// Duplicates a descriptor, close-on-exec.
///
/// # Errors
/// As fcntl(2) `F_DUPFD_CLOEXEC`.
pub fn dup(fd: impl AsFd) -> Result<OwnedFd> {
    Ok(fd.as_fd().try_clone_to_owned()?)
}

/// Opens again what a descriptor refers to, with other flags (`/proc/self/fd`).
///
/// # Errors
/// As open(2).
pub fn reopen(fd: impl AsFd, flags: OFlag) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(nix::fcntl::open(
        path.as_str(),
        flags | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?)
}

/// Takes ownership of a descriptor number that was handed over by `exec`.
///
/// # Errors
/// `EBADF` if the number is not open.
pub fn adopt(number: i32) -> Result<OwnedFd> {
    // SAFETY: F_GETFD only reads the descriptor table.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: the number is open (just checked) and the caller hands it over.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
