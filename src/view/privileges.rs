//! What a file loses of setuid and setgid when somebody changes it who may not
//! keep them (`CAP_FSETID`, capabilities(7)).

use crate::sys::process;
use crate::tree::Attr;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// Somebody without that privilege.
#[derive(Clone, Copy, Debug)]
pub struct Unprivileged {
    /// Its group.
    pub gid: u32,
    /// Its thread, which has its other groups; 0 if it is not seen from here.
    pub pid: u32,
}

impl Unprivileged {
    /// What cannot be told counts as no.
    fn is_in(self, gid: u32) -> bool {
        gid == self.gid || process::groups(self.pid).is_ok_and(|groups| groups.contains(&gid))
    }

    /// What a new ACL leaves of the permission bits: no setgid for a group that
    /// whoever sets it is not in (fs/posix_acl.c, posix_acl_update_mode).
    pub(super) fn without_setgid(self, attr: &Attr) -> u32 {
        if attr.perm & SETGID != 0 && !self.is_in(attr.gid) {
            attr.perm & !SETGID
        } else {
            attr.perm
        }
    }

    /// What a write leaves of the permission bits: neither setuid nor setgid, but
    /// for a setgid that makes no program and is of a group of the writer's
    /// (fs/attr.c, setattr_should_drop_sgid).
    pub(super) fn without_privileges(self, attr: &Attr) -> u32 {
        let perm = self.without_setgid(attr);
        without_privileges(perm)
    }
}

/// What a change of owner by anybody leaves of the permission bits (chown(2)): no
/// setuid, and no setgid where it means a program.
pub(super) fn without_privileges(perm: u32) -> u32 {
    let mut perm = perm & !SETUID;
    if perm & GROUP_EXECUTE != 0 {
        perm &= !SETGID;
    }
    perm
}
