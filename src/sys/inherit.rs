//! What a directory hands down to all that is made in it: its default ACL
//! (acl(5), "Object creation and default ACLs"), and with setgid its group
//! (inode(7)).

use std::os::fd::AsFd;
use std::path::Path;

use super::{at, xattr};
use crate::error::Result;

/// Takes both from a directory, which may itself have inherited them, and gives
/// it exactly the mode `perm`.
///
/// # Errors
/// As lgetxattr(2), lremovexattr(2) and fchmodat(2).
pub fn hand_nothing_down(dir: impl AsFd, path: &Path, perm: u32) -> Result<()> {
    let dir = dir.as_fd();
    for acl in ["system.posix_acl_default", "system.posix_acl_access"] {
        if xattr::get(dir, path, acl)?.is_some() {
            xattr::remove(dir, path, acl)?;
        }
    }
    at::chmod(dir, path, perm)
}
