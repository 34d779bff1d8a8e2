//! Mounts: clones, binds, namespaces.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use super::mountinfo;
use crate::error::{Context, Error, Result};

/// `FSCONFIG_CMD_CREATE` and `FSMOUNT_CLOEXEC` (linux/mount.h).
const CREATE: libc::c_uint = 6;
const CLOEXEC: libc::c_uint = 1;

/// A filesystem of this kind that is mounted nowhere, with its usual options.
///
/// # Errors
/// As fsopen(2), fsconfig(2) and fsmount(2).
pub fn detached(kind: &CStr) -> Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated; the call returns a new descriptor or fails.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) };
    let context = owned(context)?;
    // SAFETY: the descriptor is open; this command takes neither key nor value.
    let made = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_void>(),
            0,
        )
    };
    Errno::result(made)?;
    // SAFETY: the descriptor is open; the call returns a new descriptor or fails.
    let mount = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, 0) };
    owned(mount)
}

fn owned(number: libc::c_long) -> Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(number)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL.into())
}

/// Clones the mount that `path` lies in, with `path` as its root, into a
/// detached mount that cannot be written through (open_tree(2),
/// mount_setattr(2)).
///
/// # Errors
/// As those two calls.
pub fn clone_read_only(path: &Path) -> Result<OwnedFd> {
    let c = c_path(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is NUL-terminated; the call returns a new descriptor or fails.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c.as_ptr(), flags) };
    let fd = Errno::result(fd).context(|| format!("open_tree {}", path.display()))?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty C string, the struct is valid for its size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).context(|| format!("mount_setattr {}", path.display()))?;
    Ok(fd)
}

/// Sees to it that a detached mount hears of nothing that is mounted elsewhere
/// (mount_setattr(2), mount_namespaces(7)).
///
/// # Errors
/// As mount_setattr(2).
pub fn make_private(mount: impl AsFd) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty C string, the struct is valid for its size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).context(|| "mount_setattr")?;
    Ok(())
}

/// Clones the mount at `path` below a directory (`OPEN_TREE_CLONE`), to be
/// attached elsewhere with [`attach`].
///
/// # Errors
/// As open_tree(2).
pub fn clone_mount(dir: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let c = c_path(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is NUL-terminated; the call returns a new descriptor or fails.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            dir.as_fd().as_raw_fd(),
            c.as_ptr(),
            flags,
        )
    };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a detached mount at `target` (move_mount(2)).
///
/// # Errors
/// As move_mount(2).
pub fn attach(mount: impl AsFd, target: &Path) -> Result<()> {
    let c = c_path(target)?;
    // SAFETY: both strings are NUL-terminated, the descriptor is open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            c.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(done).context(|| format!("move_mount to {}", target.display()))?;
    Ok(())
}

/// Takes the topmost mount at `target` and all below it away, also while it is
/// in use (umount2(2) with `MNT_DETACH`); no mount there is no failure.
///
/// # Errors
/// As umount2(2), but for `EINVAL` and `ENOENT`.
pub fn detach(target: &Path) -> Result<()> {
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    match nix::mount::umount2(target, flags) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("unmount {}", target.display())),
    }
}

/// Gives the calling thread a copy of the mounts of its own, which hears of
/// changes outside and tells of none (mount_namespaces(7)).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, which it takes; else as unshare(2) and mount(2).
pub fn unshare() -> Result<()> {
    match nix::sched::unshare(CloneFlags::CLONE_NEWNS) {
        Err(Errno::EPERM) => {
            let text = "a mount namespace for the step needs the capability CAP_SYS_ADMIN, which is \
                        not here: run it with the capabilities that the stage was mounted with";
            return Err(Error::new(Errno::EPERM, text));
        }
        made => made.context(|| "unshare the mount namespace")?,
    }
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .context(|| "make / a slave mount")
}

/// Mounts a small filesystem of its own at `target`, fills it, and makes it one
/// that nobody can write to, and whose copies hear of what is mounted in it.
///
/// # Errors
/// As mount(2), or what filling it reports; then nothing is mounted.
pub fn small(
    source: &str,
    target: &Path,
    inodes: usize,
    fill: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("size=4k,nr_inodes={inodes},mode=0555");
    let kind = Some("tmpfs");
    nix::mount::mount(Some(source), target, kind, flags, Some(options.as_str()))
        .context(|| format!("mount {}", target.display()))?;
    let finish = || -> Result<()> {
        fill()?;
        let read_only = flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        for flags in [read_only, MsFlags::MS_SHARED] {
            nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
                .context(|| format!("mount {}", target.display()))?;
        }
        Ok(())
    };
    finish().inspect_err(|_| drop(detach(target)))
}

/// What an empty directory is mounted from that hides another one.
pub const HIDING: &str = "harness-fs-hidden";

/// Puts an empty directory that nobody can write to over `target`, mounted from
/// `source`: [`HIDING`], or that and something more. `but_for` is bound into it, under
/// a name.
///
/// # Errors
/// As mount(2).
pub fn hide(target: &Path, source: &str, but_for: Option<(&Path, OwnedFd)>) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = "size=4k,nr_inodes=2,mode=0555";
    let hide = || -> Result<()> {
        nix::mount::mount(Some(source), target, Some("tmpfs"), flags, Some(options))?;
        if let Some((name, tree)) = but_for {
            let place = target.join(name);
            std::fs::File::create_new(&place)?;
            attach(tree, &place)?;
        }
        let flags = flags | MsFlags::MS_RDONLY | MsFlags::MS_REMOUNT;
        Ok(nix::mount::mount(
            Some(source),
            target,
            Some("tmpfs"),
            flags,
            Some(options),
        )?)
    };
    hide().context(|| format!("hide {}", target.display()))
}

fn hides(mount: &mountinfo::Mount) -> bool {
    mount.source.as_bytes().starts_with(HIDING.as_bytes())
}

/// Whether [`hide`] has covered `target`.
///
/// # Errors
/// As read(2) on the list of mounts.
pub fn is_hidden(target: &Path) -> Result<bool> {
    let mounts = mountinfo::own()?;
    let top = mounts.iter().rev().find(|mount| mount.at == target);
    Ok(top.is_some_and(|top| top.kind == "tmpfs" && hides(top)))
}
