//! Other flags for what is mounted.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::error::{Context, Error, Result};
use crate::sys::mountinfo;
use crate::tree::shown::shown;

/// What statvfs(3) and mount(2) call the same.
const FLAGS: [(FsFlags, MsFlags); 6] = [
    (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
    (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
    (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
    (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
    (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
];

/// Sets and clears flags of an overlay that is mounted; the others stay as they are.
///
/// # Errors
/// `EINVAL` where there is none; as mount(2), `EBUSY` where a file is open for writing.
pub fn remount(at: &Path, set: MsFlags, cleared: MsFlags) -> Result<()> {
    let mounts = mountinfo::own()?;
    let top = mounts.iter().rev().find(|mount| mount.at == at);
    let ours = top.is_some_and(|top| mountinfo::is_ours(&top.kind) && !top.is_of_stage());
    if !ours {
        let text = format!("no overlay of harness-fs is mounted at {}", shown(at));
        return Err(Error::new(Errno::EINVAL, text));
    }
    let now = statvfs(at).context(|| shown(at).into_owned())?.flags();
    let known = FLAGS.iter().filter(|(theirs, _)| now.contains(*theirs));
    let before = known.fold(MsFlags::empty(), |all, (_, flag)| all | *flag);
    let flags = MsFlags::MS_REMOUNT | (before - cleared) | set;
    let none = None::<&str>;
    nix::mount::mount(none, at, none, flags, none).map_err(|errno| {
        let text = match errno {
            Errno::EBUSY => format!(
                "{} cannot be made read-only while a file in it is open for writing",
                shown(at)
            ),
            errno => format!("remount {}: {}", shown(at), errno.desc()),
        };
        Error::new(errno, text)
    })
}
