//! When an inode has to be in the open layer: directories at once, files with
//! as much of their content as the request needs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::node::{Content, DirHere, Here, Inherit, Inner, Node, OpenFile, UpperAt};
use super::refresh::last_attributes;
use super::{Layers, View};
use crate::error::Result;
use crate::layer::copy_up::{self, Extent, Spot};
use crate::layer::{OpenLayer, Stack, TREE};
use crate::sys::at::{self, SetTime};
use crate::sys::{copy, xattr};
use crate::tree::union::Found;
use crate::tree::{Kind, marker};

/// Files larger than this are copied by a worker, not by the thread that reads
/// requests, in bytes.
const SLOW: u64 = 128 << 10;

const CAPABILITY: &str = "security.capability";

/// What is left to do for a file, found under the lock, done without it.
enum Work {
    Nothing,
    Copy(Stack, Arc<Found>),
    Complete {
        from: OwnedFd,
        to: OwnedFd,
        size: u64,
        /// `security.capability`, which the kernel takes from a file that is
        /// written; but nobody changed this one yet.
        capability: Option<Vec<u8>>,
    },
}

/// Gives a copy of the metadata its content.
fn complete(from: &OwnedFd, to: &OwnedFd, size: u64, capability: Option<&[u8]>) -> Result<()> {
    copy::file(from, to, size)?;
    match capability {
        Some(capability) => xattr::fset(to, CAPABILITY, capability),
        None => Ok(()),
    }
}

impl View {
    /// True when a copy-up to write this inode may take so long that the thread
    /// that reads requests should not do it.
    pub fn copies_much(&self, ino: crate::tree::Ino) -> bool {
        let Ok(node) = self.node(ino) else {
            return false;
        };
        if node.kind != Kind::File {
            return false;
        }
        let much = match &node.inner.read().here {
            Here::Below { found, .. } => found.attr.size > SLOW,
            Here::Upper { content, .. } => matches!(content, Content::Below { .. }),
            _ => false,
        };
        // Somebody may be at it already, whom the request would have to wait for.
        much || node.copying.try_lock().is_none()
    }

    /// Brings a directory and all above it into the open layer.
    pub(super) fn ensure_upper(&self, state: &Layers, node: &Arc<Node>) -> Result<DirHere> {
        let dir = self.directory(state, node)?;
        if dir.upper {
            return Ok(dir);
        }
        let parent = node.place().ok_or(Errno::ENOENT)?.parent;
        self.ensure_upper(state, &parent)?;
        let _copying = node.copying.lock();
        let dir = self.directory(state, node)?;
        if dir.upper {
            return Ok(dir);
        }
        let path = node.path();
        let found = Found {
            attr: crate::tree::Attr {
                ino: node.ino,
                ..dir.attr.ok_or(Errno::ENOENT)?
            },
            marks: Default::default(),
            parts: dir.below.to_vec(),
        };
        copy_up::directory(
            &state.open,
            &state.stack,
            &found,
            &Path::new(TREE).join(path),
        )?;
        let dir = DirHere { upper: true, ..dir };
        node.inner.write().here = Here::Dir(dir.clone());
        Ok(dir)
    }

    /// Brings an inode into the open layer, to the extent asked for. Takes no
    /// lock that other inodes need while content is copied.
    pub(super) fn copy_up(&self, node: &Arc<Node>, extent: Extent) -> Result<()> {
        if node.is_dir() {
            let state = self.layers()?;
            self.ensure_upper(&state, node)?;
            return Ok(());
        }
        {
            let state = self.layers()?;
            self.refresh(&state, node)?;
            if self.settled(node, extent) {
                return Ok(());
            }
        }
        let _copying = node.copying.lock();
        loop {
            let (work, generation, open, origin, extent) = {
                let state = self.layers()?;
                self.refresh(&state, node)?;
                if self.settled(node, extent) {
                    return Ok(());
                }
                let work = self.work(&state, node, extent)?;
                // Only a copy of metadata points at where it comes from, and
                // only a file with one name can have such.
                let single = matches!(&work, Work::Copy(_, found) if found.attr.nlink <= 1);
                let origin = match node.place() {
                    Some(place) if single && extent == Extent::Metadata => {
                        let parent = self.directory(&state, &place.parent)?;
                        Some(parent.origin.join(&place.name))
                    }
                    _ => None,
                };
                let origin = origin.filter(|path| path.as_os_str().len() <= marker::REDIRECT_MAX);
                let extent = match (extent, &origin, &work) {
                    (Extent::Metadata, None, Work::Copy(..)) => Extent::Whole,
                    _ => extent,
                };
                (
                    work,
                    state.generation,
                    state.open.clone(),
                    origin.unwrap_or_default(),
                    extent,
                )
            };
            match work {
                Work::Nothing => return Ok(()),
                Work::Copy(stack, found) => {
                    let prepared = copy_up::prepare(&open, &stack, &found, &origin, extent);
                    let state = self.layers()?;
                    if state.generation != generation {
                        // What was made lies in a layer that is sealed by now,
                        // whose `work/` is gone.
                        continue;
                    }
                    let prepared = prepared?;
                    if self.place_copy(&state, node, &found, &prepared, extent)? {
                        return Ok(());
                    }
                    copy_up::drop_prepared(&state.open, &prepared);
                }
                Work::Complete {
                    from,
                    to,
                    size,
                    capability,
                } => {
                    let before = at::fstat(&to)?.attr;
                    if extent == Extent::Whole {
                        complete(&from, &to, size, capability.as_deref())?;
                    }
                    let state = self.layers()?;
                    if state.generation != generation {
                        continue;
                    }
                    let path = node.upper_path().ok_or(Errno::ENOENT)?;
                    copy_up::drop_metacopy(&open, &path)?;
                    let (atime, mtime) = (SetTime::To(before.atime), SetTime::To(before.mtime));
                    at::futimens(&to, atime, mtime)?;
                    let mut inner = node.inner.write();
                    if let Here::Upper { content, .. } = &mut inner.here {
                        *content = Content::Whole;
                    }
                    inner.file = None;
                    return Ok(());
                }
            }
        }
    }

    fn settled(&self, node: &Node, extent: Extent) -> bool {
        match &node.inner.read().here {
            Here::Below { .. } => false,
            Here::Upper { content, .. } => {
                matches!(content, Content::Whole) || extent == Extent::Metadata
            }
            _ => true,
        }
    }

    fn work(&self, state: &Layers, node: &Node, extent: Extent) -> Result<Work> {
        let here = node.inner.read().here.clone();
        match here {
            Here::Below { stack, found } => Ok(Work::Copy(stack, found)),
            Here::Upper {
                content: Content::Below { stack, part },
                ..
            } if extent != Extent::Metadata => {
                let path = node.upper_path().ok_or(Errno::ENOENT)?;
                let to = at::open(&*state.open, &path, OFlag::O_RDWR, 0)?;
                let size = at::fstat(&to)?.attr.size;
                let from = stack.layer(part.layer).open(&part.path)?;
                Ok(Work::Complete {
                    from,
                    to,
                    size,
                    capability: xattr::get(&*state.open, &path, CAPABILITY)?,
                })
            }
            _ => Ok(Work::Nothing),
        }
    }

    /// Shows a prepared copy. False if the inode has changed its place
    /// meanwhile, or was copied up by somebody else.
    fn place_copy(
        &self,
        state: &Layers,
        node: &Arc<Node>,
        found: &Found,
        prepared: &copy_up::Prepared,
        extent: Extent,
    ) -> Result<bool> {
        let content = if extent == Extent::Metadata && node.kind == Kind::File {
            Content::Below {
                stack: state.stack.clone(),
                part: state.stack.content(found)?,
            }
        } else {
            Content::Whole
        };
        let (place, unlinked) = {
            let inner = node.inner.read();
            (inner.place.clone(), inner.unlinked)
        };
        let (at, place) = match place {
            _ if unlinked => (UpperAt::Orphan, None),
            // Several names, or one that nobody has seen yet.
            Some(place) if found.attr.nlink <= 1 => (UpperAt::Name, Some(place)),
            _ => (UpperAt::Index, None),
        };
        if let Some(place) = &place {
            self.ensure_upper(state, &place.parent)?;
        }
        let _names = place.as_ref().map(|place| place.parent.names.write());
        let as_before = |inner: &Inner| {
            let there = match (&place, &inner.place) {
                (Some(then), Some(now)) => now.is(&then.parent, &then.name),
                (then, _) => then.is_none(),
            };
            there && inner.unlinked == unlinked && matches!(inner.here, Here::Below { .. })
        };
        if !as_before(&node.inner.read()) {
            return Ok(false);
        }
        let name = place.as_ref().map(|at| at.parent.upper_child(&at.name));
        let spot = match (at, &name) {
            (UpperAt::Name, Some(name)) => Spot::Name(name),
            (UpperAt::Orphan, _) => Spot::Orphan,
            _ => Spot::Index,
        };
        copy_up::place(&state.open, found, prepared, spot)?;
        let mut inner = node.inner.write();
        if as_before(&inner) && !(unlinked && inner.opens == 0) {
            inner.here = Here::Upper { at, content };
            inner.file = None;
            return Ok(true);
        }
        // Its last name, or its last handle, went away just now. (Not so at a
        // name: those are locked.)
        if unlinked && inner.opens == 0 {
            inner.here = Here::Gone(Box::new(last_attributes(node, &inner.here)));
        }
        drop(inner);
        let left = match at {
            UpperAt::Orphan => OpenLayer::orphan_path(node.ino),
            _ => OpenLayer::index_path(node.ino),
        };
        at::unlink(&*state.open, &left)?;
        Ok(false)
    }

    /// Copies what an unlinked file still has below: it is about to be no more
    /// than a descriptor. Nothing else runs meanwhile.
    pub(super) fn complete_orphan(&self, state: &Layers, node: &Node) -> Result<()> {
        if let Work::Complete {
            from,
            to,
            size,
            capability,
        } = self.work(state, node, Extent::Whole)?
        {
            let before = at::fstat(&to)?.attr;
            complete(&from, &to, size, capability.as_deref())?;
            at::futimens(&to, SetTime::To(before.atime), SetTime::To(before.mtime))?;
            let mut inner = node.inner.write();
            if let Here::Upper { content, .. } = &mut inner.here {
                *content = Content::Whole;
            }
            inner.file = None;
        }
        Ok(())
    }

    /// [`View::content`] for who holds no lock but the view's.
    pub(super) fn kept_content(
        &self,
        state: &Layers,
        node: &Node,
        writable: bool,
    ) -> Result<Arc<OwnedFd>> {
        let kept = node.inner.read().kept(writable);
        match kept {
            Some(fd) => Ok(fd),
            None => node.in_place(|| self.content(state, node, writable)),
        }
    }

    /// The content of a file, opened once for all who use it. `writable` only
    /// for files whose content is in the open layer.
    pub(super) fn content(
        &self,
        state: &Layers,
        node: &Node,
        writable: bool,
    ) -> Result<Arc<OwnedFd>> {
        loop {
            let (here, generation, kept) = {
                let inner = node.inner.read();
                if let Some(fd) = inner.kept(writable) {
                    return Ok(fd);
                }
                (inner.here.clone(), inner.generation, inner.opens > 0)
            };
            let (fd, writable) = match &here {
                Here::Detached { sealed: true, .. } if writable => {
                    return Err(Errno::ESTALE.into());
                }
                Here::Detached { fd, .. } => return Ok(fd.clone()),
                Here::Below { stack, found } => (stack.open(found)?, false),
                Here::Upper {
                    content: Content::Below { stack, part },
                    ..
                } => (stack.layer(part.layer).open(&part.path)?, false),
                Here::Upper { .. } => {
                    let path = node.upper_path().ok_or(Errno::ENOENT)?;
                    (at::open(&*state.open, &path, OFlag::O_RDWR, 0)?, true)
                }
                Here::Dir(_) => return Err(Errno::EISDIR.into()),
                Here::Gone(_) => return Err(Errno::ESTALE.into()),
            };
            let fd = Arc::new(fd);
            if kept {
                let mut inner = node.inner.write();
                if inner.generation != generation || !inner.here.same_content(&here) {
                    // Copied up while it was opened: not what is to be kept.
                    continue;
                }
                inner.file = Some(OpenFile {
                    fd: fd.clone(),
                    writable,
                });
            }
            return Ok(fd);
        }
    }

    /// What a directory hands down to new entries (inode(7), acl(5)).
    pub(super) fn inheritance(&self, state: &Layers, dir: &Arc<Node>) -> Result<Inherit> {
        if let Some(inherit) = dir.inner.read().inherit {
            return Ok(inherit);
        }
        let path = dir.upper_path().ok_or(Errno::ENOENT)?;
        let attr = at::stat(&*state.open, &path)?.attr;
        let acl = xattr::get(&*state.open, &path, "system.posix_acl_default")?;
        let inherit = Inherit {
            gid: (attr.perm & 0o2000 != 0).then_some(attr.gid),
            acl: acl.is_some(),
        };
        dir.inner.write().inherit = Some(inherit);
        Ok(inherit)
    }
}
