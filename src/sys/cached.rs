//! Where a path leads, as the kernel remembers it. The filesystem there is not
//! asked, so one that does not answer holds nobody up (statx(2)).

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::error::Result;

/// The mount that something lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lies {
    /// `major:minor`, as in mountinfo; but on Btrfs each subvolume has its own.
    pub device: String,
    /// The number of the mount, as in mountinfo; `None` before Linux 5.8.
    pub mount: Option<u64>,
}

/// Where the end of a path lies; links of `/proc` (proc_pid_cwd(5), …) are
/// followed.
///
/// # Errors
/// As statx(2).
pub fn lies(path: &Path) -> Result<Lies> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let mut buffer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path ends with a NUL, and the buffer is a whole statx.
    let done = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT,
            libc::STATX_MNT_ID,
            buffer.as_mut_ptr(),
        )
    };
    Errno::result(done)?;
    // SAFETY: all zeroes is a valid statx, and the kernel has filled it.
    let found = unsafe { buffer.assume_init() };
    Ok(Lies {
        device: format!("{}:{}", found.stx_dev_major, found.stx_dev_minor),
        mount: (found.stx_mask & libc::STATX_MNT_ID != 0).then_some(found.stx_mnt_id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mountinfo;

    #[test]
    fn what_it_tells_is_in_mountinfo() {
        let proc = lies(Path::new("/proc/self/status")).unwrap();
        let mounts = mountinfo::own().unwrap();
        let named = mounts.iter().rfind(|mount| mount.at == Path::new("/proc"));
        let named = named.unwrap();
        assert_eq!((&named.device, Some(named.id)), (&proc.device, proc.mount));
        assert!(lies(Path::new("/proc/none")).is_err());
    }
}
