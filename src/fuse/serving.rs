//! What serving a request needs, shared by the thread that reads requests and
//! the workers; and how results become replies.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{
    BackingId, Generation, Notifier, OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr,
    Request,
};
use nix::fcntl::OFlag;

use super::convert::{FOREVER, errno, file_attr};
use super::following;
use super::modes::{Access, Modes};
use super::nods::Nods;
use super::stats::Stats;
use crate::error::Result;
use crate::tree::{Attr, Ino};
use crate::view::{Caller, Unprivileged, View};

#[derive(Debug)]
pub(super) struct Serving {
    pub view: Arc<View>,
    pub stats: Arc<Stats>,
    pub modes: Arc<Modes>,
    pub nods: Arc<Nods>,
    pub notifier: Arc<OnceLock<Notifier>>,
    pub passthrough: OnceLock<bool>,
}

impl Serving {
    pub fn ttl(&self, ino: Ino) -> Duration {
        if self.modes.written_past_us(ino) {
            Duration::ZERO
        } else {
            FOREVER
        }
    }

    pub fn reply_entry(&self, result: Result<Attr>, reply: ReplyEntry) {
        let result = result.map(|attr| (self.ttl(attr.ino), attr));
        following::give_way();
        match result {
            Ok((ttl, attr)) => {
                reply.entry_with_ttls(&ttl, &FOREVER, &file_attr(&attr), Generation(0));
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// Answers that it is done, to who only tells of it.
    pub fn nod_entry(&self, parent: Ino, name: &std::ffi::OsStr, reply: ReplyEntry) {
        self.reply_entry(self.view.lookup(parent, name), reply);
    }

    pub fn reply_attr(&self, result: Result<Attr>, reply: ReplyAttr) {
        let result = result.map(|attr| (self.ttl(attr.ino), attr));
        following::give_way();
        match result {
            Ok((ttl, attr)) => reply.attr(&ttl, &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// Has the kernel read an inode's content and attributes anew.
    pub fn forget_pages(&self, ino: fuser::INodeNo) {
        self.collect_pages(ino, 0);
    }

    /// The same for the content from byte `from` on. The kernel first writes back what
    /// is dirty there, and waits for that (fs/fuse/inode.c, fuse_reverse_inval_inode).
    pub fn collect_pages(&self, ino: fuser::INodeNo, from: i64) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(ino, from, 0)
        {
            log::warn!("inode {}: {error}", ino.0);
        }
    }

    /// Chooses how a newly opened inode is served.
    pub fn choose(
        &self,
        ino: Ino,
        handle: u64,
        access: Access,
        passthrough: bool,
        open_backing: impl FnOnce(&std::os::fd::OwnedFd) -> std::io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        // The kernel opens the file behind with the flags of now, and it keeps
        // them when fcntl(2) takes O_DIRECT off ours: an EINVAL for every write
        // of odd length (fs/backing-file.c, backing_file_open).
        let allowed = passthrough && !access.direct && self.passthrough.get() == Some(&true);
        self.modes.enter(ino, access, || {
            if !allowed {
                return None;
            }
            let file = self.view.backing(handle).ok()?;
            match open_backing(file.file()) {
                Ok(backing) => {
                    self.view.forget_file(handle);
                    Some(backing)
                }
                Err(error) => {
                    log::debug!("no passthrough for inode {ino}: {error}");
                    None
                }
            }
        })
    }
}

pub(super) fn done(result: Result<()>, reply: ReplyEmpty) {
    following::give_way();
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn caller(request: &Request, umask: u32) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        umask,
    }
}

/// Who asks, for a request that clears setuid and setgid.
pub(super) fn by(request: &Request) -> Unprivileged {
    Unprivileged {
        gid: request.gid(),
        pid: request.pid(),
    }
}

/// Who asks, if not root. That a process has `CAP_FSETID`, or that root has not,
/// most requests do not say.
pub(super) fn unprivileged(request: &Request) -> Option<Unprivileged> {
    (request.uid() != 0).then(|| by(request))
}

pub(super) fn open_flags(flags: OpenFlags) -> OFlag {
    OFlag::from_bits_truncate(flags.0)
}

/// Answers getxattr(2) and listxattr(2), which ask for the size first.
pub(super) fn reply_bytes(result: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    following::give_way();
    match result {
        Ok(bytes) => {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            if size == 0 {
                reply.size(length);
            } else if length > size {
                reply.error(fuser::Errno::ERANGE);
            } else {
                reply.data(&bytes);
            }
        }
        Err(error) => reply.error(errno(&error)),
    }
}
