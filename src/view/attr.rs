//! getattr, setattr, readlink, statfs.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use super::node::{Content, Here, Node};
use super::privileges::{Unprivileged, without_privileges};
use super::{Layers, View};
use crate::error::Result;
use crate::layer::Backing;
use crate::layer::copy_up::Extent;
use crate::sys::at::{self, SetTime};
use crate::tree::{Attr, Ino, Kind, Time};

/// What to change of an inode; `None` leaves as is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits, 0..=0o7777.
    pub perm: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// The caller, if it may not keep setuid and setgid on what it changes.
    pub unprivileged: Option<Unprivileged>,
}

impl SetAttr {
    /// True if the kernel changes nothing but wants setuid and setgid gone: before
    /// a write past us, fallocate, copy_file_range, and in chown(path, -1, -1)
    /// (fs/fuse/dir.c, fuse_setattr, leaves such a request empty).
    fn is_empty(&self) -> bool {
        self.perm.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.size.is_none()
            && self.atime.is_none()
            && self.mtime.is_none()
    }

    /// Whose change takes setuid and setgid before anything else: who changes the
    /// length, the owner, or nothing (see [`SetAttr::is_empty`]).
    fn drops_privileges_of(&self) -> Option<Unprivileged> {
        let drops =
            self.size.is_some() || self.uid.is_some() || self.gid.is_some() || self.is_empty();
        self.unprivileged.filter(|_| drops)
    }

    fn times(&self) -> (SetTime, SetTime) {
        let or_keep = |time: Option<SetTime>| time.unwrap_or(SetTime::Keep);
        (or_keep(self.atime), or_keep(self.mtime))
    }
}

/// What statfs(2) tells, in its own units.
#[derive(Clone, Copy, Debug)]
pub struct StatFs {
    /// Size of the units that blocks are counted in, in bytes.
    pub block_size: u32,
    /// All blocks, free ones, and those free for everybody.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for unprivileged users.
    pub blocks_available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

/// Changes an open file that no layer holds any more.
fn change_detached(content: &Backing, set: &SetAttr) -> Result<()> {
    let fd = content.file();
    let chmod = |perm: u32| nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(perm));
    if let Some(who) = set.drops_privileges_of() {
        chmod(who.without_privileges(&at::fstat(fd)?.attr))?;
    }
    if let Some(size) = set.size {
        content.truncate(size)?;
    }
    if set.uid.is_some() || set.gid.is_some() {
        let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
        nix::unistd::fchown(fd, uid, gid)?;
    }
    if let Some(perm) = set.perm {
        chmod(perm)?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        let (atime, mtime) = set.times();
        at::futimens(fd, atime, mtime)?;
    }
    Ok(())
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Time {
        sec: since.as_secs().cast_signed(),
        nsec: since.subsec_nanos(),
    }
}

/// Changes what is left of a removed inode, for who still holds it: a directory
/// by a descriptor, a file by `O_PATH`.
fn change_gone(node: &Node, set: &SetAttr) -> Result<Attr> {
    let gone = node.gone();
    let mut inner = node.inner.write();
    let Here::Gone(attr) = &mut inner.here else {
        return Err(Errno::ESTALE.into());
    };
    if gone != Errno::ENOENT || set.size.is_some() {
        return Err(gone.into());
    }
    if node.kind == Kind::File
        && let Some(who) = set.drops_privileges_of()
    {
        attr.perm = who.without_privileges(attr);
    }
    if set.uid.is_some() || set.gid.is_some() {
        if node.kind == Kind::File {
            attr.perm = without_privileges(attr.perm);
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
    }
    attr.perm = set.perm.unwrap_or(attr.perm);
    let now = now();
    for (time, change) in [
        (&mut attr.atime, set.atime),
        (&mut attr.mtime, set.mtime),
        (&mut attr.ctime, Some(SetTime::Now)),
    ] {
        match change {
            Some(SetTime::To(to)) => *time = to,
            Some(SetTime::Now) => *time = now,
            _ => {}
        }
    }
    Ok(Attr {
        ino: node.ino,
        ..**attr
    })
}

impl View {
    /// The attributes of an inode.
    ///
    /// # Errors
    /// `ESTALE` for an unknown number, or what the disk reports.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        let state = self.layers()?;
        let node = self.node(ino)?;
        self.refresh(&state, &node)?;
        node.in_place(|| self.attributes(&state, &node))
    }

    pub(super) fn attributes(&self, state: &Layers, node: &Arc<Node>) -> Result<Attr> {
        self.attributes_from(state, node, None)
    }

    /// [`View::attributes`] where it is known already what the stack has, if the
    /// inode is untouched.
    pub(super) fn attributes_from(
        &self,
        state: &Layers,
        node: &Arc<Node>,
        below: Option<Attr>,
    ) -> Result<Attr> {
        let (here, unlinked) = {
            let inner = node.inner.read();
            (inner.here.clone(), inner.unlinked)
        };
        let mut attr = match here {
            Here::Dir(_) if node.ino == self.top => {
                let mut attr = at::stat(&*state.open, Path::new("tree"))?.attr;
                attr.perm = 0o755;
                attr
            }
            Here::Dir(dir) => {
                let mut attr = match (dir.upper, dir.attr) {
                    (false, Some(attr)) => attr,
                    _ => {
                        let path = node.upper_path().ok_or(Errno::ENOENT)?;
                        at::stat(&*state.open, &path)?.attr
                    }
                };
                // As overlayfs does it: 1 says that nobody counted.
                if dir.below.len() + usize::from(dir.upper) > 1 {
                    attr.nlink = 1;
                }
                attr
            }
            Here::Below(lower) => {
                let mut attr = match below {
                    Some(attr) => attr,
                    None => lower.found(node.ino)?.attr,
                };
                if let Some(links) = state.open.link_state(node.ino) {
                    attr.nlink = links.nlink;
                }
                attr
            }
            Here::Upper { content, .. } => {
                let path = node.upper_path().ok_or(Errno::ENOENT)?;
                let mut attr = at::stat(&*state.open, &path)?.attr;
                attr.nlink = match state.open.link_state(node.ino) {
                    Some(links) => links.nlink,
                    None => attr.nlink,
                };
                if let Content::Below { stack, part } = content
                    && let Some(crate::tree::union::Entry::Present(below, _)) =
                        stack.layer(part.layer).entry(&part.path)?
                {
                    attr.blocks = below.blocks;
                }
                if attr.kind != node.kind {
                    // A user's own 0:0 device, kept as a marked file.
                    attr.kind = node.kind;
                    attr.rdev = 0;
                    attr.size = 0;
                }
                attr
            }
            Here::Detached { content, .. } => {
                let mut attr = at::fstat(content.file())?.attr;
                attr.nlink = 0;
                attr
            }
            Here::Gone(attr) => *attr,
        };
        if unlinked {
            attr.nlink = 0;
        }
        attr.ino = node.ino;
        Ok(attr)
    }

    /// Changes attributes, and answers with the new ones.
    ///
    /// # Errors
    /// As chmod(2), chown(2), utimensat(2), truncate(2); `ENOSPC` if a copy-up
    /// finds no room.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let node = self.node(ino)?;
        if set.size.is_some() && node.kind != Kind::File {
            return Err(if node.is_dir() {
                Errno::EISDIR
            } else {
                Errno::EINVAL
            }
            .into());
        }
        let extent = match set.size {
            Some(0) => Extent::Empty,
            Some(_) => Extent::Whole,
            None => Extent::Metadata,
        };
        loop {
            self.copy_up(&node, extent)?;
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            let here = node.inner.read().here.clone();
            match here {
                Here::Detached { sealed: true, .. } => return Err(Errno::ESTALE.into()),
                Here::Detached { content, .. } => {
                    change_detached(&content, set)?;
                    return self.attributes(&state, &node);
                }
                Here::Gone(_) => return change_gone(&node, set),
                _ => {}
            }
            let done = node.in_place(|| {
                let path = self.ready_path(&node, extent)?;
                let changed = self.change(&state, &node, &path, set);
                Some(changed.and_then(|()| self.attributes(&state, &node)))
            });
            if let Some(done) = done {
                return done;
            }
        }
    }

    fn change(&self, state: &Layers, node: &Node, path: &Path, set: &SetAttr) -> Result<()> {
        let open = &*state.open;
        if node.kind == Kind::File
            && let Some(who) = set.drops_privileges_of()
        {
            let attr = at::stat(open, path)?.attr;
            let kept = who.without_privileges(&attr);
            if kept != attr.perm {
                at::chmod(open, path, kept)?;
            }
        }
        if let Some(size) = set.size {
            self.content(state, node, true)?.truncate(size)?;
            if size == 0 {
                node.marks.rewritten();
            }
        }
        if set.uid.is_some() || set.gid.is_some() {
            // The host's kernel drops setuid, setgid and capabilities here as
            // for anybody (fs/open.c, chown_common).
            at::chown(open, path, set.uid, set.gid)?;
        }
        if let Some(perm) = set.perm
            && node.kind != Kind::Symlink
        {
            at::chmod(open, path, perm)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let (atime, mtime) = set.times();
            at::utimens(open, path, atime, mtime)?;
        }
        if set.is_empty() {
            // chown(path, -1, -1) is a change of status (chown(2)).
            let attr = at::stat(open, path)?.attr;
            match node.kind {
                // Its owner, since a change of mode would be one of what the link leads to.
                Kind::Symlink => at::chown(open, path, Some(attr.uid), None)?,
                _ => at::chmod(open, path, attr.perm)?,
            }
        }
        if node.is_dir() {
            node.inner.write().set_inherit(None);
        }
        Ok(())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for anything else, or what the disk reports.
    pub fn readlink(&self, ino: Ino) -> Result<OsString> {
        let state = self.layers()?;
        let node = self.node(ino)?;
        if node.kind != Kind::Symlink {
            return Err(Errno::EINVAL.into());
        }
        self.refresh(&state, &node)?;
        let here = node.inner.read().here.clone();
        match here {
            Here::Below(lower) => {
                self.saw_content(&node);
                lower.readlink()
            }
            _ => node.in_place(|| {
                let path = node.upper_path().ok_or(node.gone())?;
                at::readlink(&*state.open, &path)
            }),
        }
    }

    /// The room that is left where the open layer lies.
    ///
    /// # Errors
    /// As statfs(2).
    pub fn statfs(&self) -> Result<StatFs> {
        let state = self.layers()?;
        let stat = nix::sys::statvfs::fstatvfs(state.open.room())?;
        Ok(StatFs {
            block_size: u32::try_from(stat.fragment_size()).unwrap_or(4096),
            blocks: stat.blocks(),
            blocks_free: stat.blocks_free(),
            blocks_available: stat.blocks_available(),
            files: stat.files(),
            files_free: stat.files_free(),
        })
    }

    /// The node's path in the open layer, if it is there to the wanted extent.
    pub(super) fn ready_path(&self, node: &Node, extent: Extent) -> Option<std::path::PathBuf> {
        let ready = match &node.inner.read().here {
            Here::Dir(dir) => dir.upper,
            Here::Upper {
                content: Content::Whole,
                ..
            } => true,
            Here::Upper { .. } => extent == Extent::Metadata,
            _ => false,
        };
        if ready { node.upper_path() } else { None }
    }
}
