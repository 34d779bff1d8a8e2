//! When an inode has to be in the open layer: directories at once, files with
//! as much of their content as the request needs.

use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::lookup::Resolved;
use super::lower::DirHere;
use super::node::{Content, Here, Inherit, Inner, Node, OpenFile, UpperAt};
use super::{Layers, View};
use crate::error::Result;
use crate::layer::copy_up::{self, Extent, Prepared, Spot};
use crate::layer::{Backing, BlockMap, OpenLayer, Partial, Stack, TREE};
use crate::sys::{at, xattr};
use crate::tree::union::{Found, Part};
use crate::tree::{Attr, Ino, Kind, marker};

/// Files larger than this are copied by a worker, not by the thread that reads
/// requests, in bytes.
const SLOW: u64 = 128 << 10;

/// What is left to do for a file, found under the lock, done without it.
enum Work {
    Nothing,
    Copy(Stack, Found),
    /// Give a copy of the metadata its content, which lies here, so many bytes.
    Complete(Stack, Arc<Part>, u64),
}

impl View {
    /// True when a copy-up of this inode to such an extent may take so long, or
    /// wait so long for another, that the thread that reads requests should not
    /// do it.
    pub fn copies_much(&self, ino: Ino, extent: Extent) -> bool {
        self.node(ino)
            .is_ok_and(|node| self.node_copies_much(&node, extent))
    }

    pub(super) fn node_copies_much(&self, node: &Arc<Node>, extent: Extent) -> bool {
        if node.kind != Kind::File {
            return false;
        }
        if self.live {
            // A seal may have moved it down since.
            let Ok(state) = self.layers() else {
                return false;
            };
            if self.refresh(&state, node).is_err() {
                return false;
            }
        }
        let (here, named) = {
            let inner = node.inner.read();
            (inner.here.clone(), inner.place.is_some() && self.metacopies)
        };
        let much = match here {
            Here::Below(lower) => lower.found(node.ino).is_ok_and(|found| {
                // Only a copy under the one name there is can point at where
                // the content lies.
                let points = found.attr.nlink <= 1 && named;
                let content = match extent {
                    Extent::Whole | Extent::Partial(_) => true,
                    Extent::Metadata => !points,
                    Extent::Empty => false,
                };
                content && found.attr.size > SLOW
            }),
            Here::Upper { content, .. } => {
                matches!(content, Content::Below { .. }) && extent == Extent::Whole
            }
            _ => false,
        };
        // Somebody may be at it already, whom the request would have to wait for.
        much || node.copying.is_locked()
    }

    /// Brings a directory and all above it into the open layer.
    pub(super) fn ensure_upper(&self, state: &Layers, node: &Arc<Node>) -> Result<Arc<DirHere>> {
        let dir = self.directory(state, node)?;
        if dir.upper {
            return Ok(dir);
        }
        state.open.writable()?;
        // From the top, and not each by way of the one above it: no depth of a
        // tree is a depth of our stack.
        let mut above = Vec::new();
        let mut at = node.place().ok_or(Errno::ENOENT)?.parent;
        while !self.directory(state, &at)?.upper {
            let parent = at.place().ok_or(Errno::ENOENT)?.parent;
            above.push(std::mem::replace(&mut at, parent));
        }
        for directory in above.iter().rev() {
            self.ensure_one(state, directory)?;
        }
        self.ensure_one(state, node)
    }

    /// The same for a directory whose own directory is in the open layer.
    fn ensure_one(&self, state: &Layers, node: &Arc<Node>) -> Result<Arc<DirHere>> {
        let _copying = node.copying.lock();
        let dir = self.directory(state, node)?;
        if dir.upper {
            return Ok(dir);
        }
        let path = node.path();
        let found = Found {
            attr: Attr {
                ino: node.ino,
                ..dir.attr.ok_or(Errno::ENOENT)?
            },
            marks: Default::default(),
            parts: dir.below.to_vec(),
        };
        let to = Path::new(TREE).join(path);
        let dir = match copy_up::directory(&state.open, &state.stack, &found, &to) {
            Ok(()) => Arc::new(dir.in_upper()),
            Err(error) if error.errno() == Errno::EEXIST => {
                self.upper_again(state, node)?.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        node.inner.write().here = Here::Dir(dir.clone());
        Ok(dir)
    }

    /// A directory that is in the open layer already, whatever its node says.
    fn upper_again(&self, state: &Layers, node: &Arc<Node>) -> Result<Option<Arc<DirHere>>> {
        let place = node.place().ok_or(Errno::ENOENT)?;
        let resolved = self.resolve(state, &place.parent, &place.name)?;
        Ok(resolved.and_then(|resolved| match resolved.here {
            Here::Dir(dir) if dir.upper => Some(dir),
            _ => None,
        }))
    }

    /// Brings an inode into the open layer, to the extent asked for. Takes no
    /// lock that other inodes need while content is copied.
    pub(super) fn copy_up(&self, node: &Arc<Node>, extent: Extent) -> Result<()> {
        if node.is_dir() {
            let state = self.layers()?;
            self.refresh(&state, node)?;
            // What is removed has no place to be copied to.
            if node.dir().is_some() {
                self.ensure_upper(&state, node)?;
            }
            return Ok(());
        }
        {
            let state = self.layers()?;
            self.refresh(&state, node)?;
            if self.settled(node, extent) {
                return Ok(());
            }
            state.open.writable()?;
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
                    Some(place) if single && extent == Extent::Metadata && self.metacopies => {
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
                    let extent = self.in_parts(extent, found.attr.size, node);
                    let prepared = copy_up::prepare(&open, &stack, &found, &origin, extent);
                    let state = self.layers()?;
                    if state.generation != generation {
                        // What was made lies in a layer that is sealed by now, whose
                        // `work/` is gone, or that was kept because it was empty.
                        if let Ok(prepared) = &prepared {
                            copy_up::drop_prepared(&open, prepared);
                        }
                        continue;
                    }
                    let prepared = prepared?;
                    let placed = self.place_copy(&state, node, &found, &prepared, extent);
                    if !matches!(placed, Ok(true)) {
                        copy_up::drop_prepared(&state.open, &prepared);
                    }
                    if placed? {
                        return Ok(());
                    }
                }
                Work::Complete(stack, part, size) => {
                    let content = || -> Result<Option<Prepared>> {
                        if extent != Extent::Whole {
                            return Ok(None);
                        }
                        let extent = self.in_parts(extent, size, node);
                        copy_up::content(&open, &stack, &part, size, extent).map(Some)
                    };
                    let content = content();
                    let state = self.layers()?;
                    if state.generation != generation {
                        if let Ok(Some(content)) = &content {
                            copy_up::drop_prepared(&open, content);
                        }
                        continue;
                    }
                    let content = content?;
                    let done =
                        node.in_place_alone(|| self.complete(&state, node, content.as_ref()));
                    if !matches!(done, Ok(true))
                        && let Some(content) = &content
                    {
                        copy_up::drop_prepared(&state.open, content);
                    }
                    if done? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Makes a copy of metadata a whole file, with this content, or with none
    /// for who empties it next. False if it is no longer such a copy.
    fn complete(&self, state: &Layers, node: &Node, content: Option<&Prepared>) -> Result<bool> {
        let below = matches!(
            node.inner.read().here,
            Here::Upper {
                content: Content::Below { .. },
                ..
            }
        );
        let Some(path) = node.upper_path().filter(|_| below) else {
            return Ok(false);
        };
        match content {
            Some(content) => copy_up::complete(&state.open, content, &path, node.ino)?,
            None => {
                // Of a daemon that died between the map and its file.
                state.open.forget_map(node.ino);
                copy_up::drop_metacopy(&state.open, &path)?;
            }
        }
        let mut inner = node.inner.write();
        if let Here::Upper { content, .. } = &mut inner.here {
            *content = Content::Whole;
        }
        inner.set_file(None);
        Ok(true)
    }

    /// Large files are not copied before they are written, but block by block.
    fn in_parts(&self, extent: Extent, size: u64, node: &Node) -> Extent {
        let parts = self.parts;
        match extent {
            Extent::Whole if node.kind == Kind::File && size > parts.whole => {
                Extent::Partial(parts.block)
            }
            extent => extent,
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
            Here::Below(lower) => {
                let found = lower.found(node.ino)?;
                Ok(Work::Copy(lower.stack().clone(), found))
            }
            Here::Upper {
                content: Content::Below { stack, part },
                ..
            } if extent != Extent::Metadata => {
                let stat = || {
                    let path = node.upper_path().ok_or(Errno::ENOENT)?;
                    at::stat(&*state.open, &path)
                };
                Ok(Work::Complete(stack, part, node.in_place(stat)?.attr.size))
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
                part: Arc::new(state.stack.content(found)?),
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
        let _names = place.as_ref().map(|place| place.parent.names().write());
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
        if self.live
            && let Some(place) = &place
        {
            match self.resolve(state, &place.parent, &place.name)? {
                Some(Resolved { attr, here }) if attr.ino == node.ino => {
                    if !matches!(here, Here::Below { .. }) {
                        return Ok(false);
                    }
                }
                // The copy must never cover another file.
                _ => return Err(Errno::ESTALE.into()),
            }
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
            inner.set_file(None);
            return Ok(true);
        }
        // Its last name, or its last handle, went away just now. (Not so at a
        // name: those are locked.)
        if unlinked && inner.opens == 0 {
            inner.here = Here::Gone(Box::new(Attr {
                nlink: 0,
                ..found.attr
            }));
        }
        drop(inner);
        state.open.forget_map(node.ino);
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
        if let Work::Complete(stack, part, size) = self.work(state, node, Extent::Whole)? {
            let extent = self.in_parts(Extent::Whole, size, node);
            let content = copy_up::content(&state.open, &stack, &part, size, extent)?;
            self.complete(state, node, Some(&content))
                .inspect_err(|_| copy_up::drop_prepared(&state.open, &content))?;
        }
        Ok(())
    }

    /// [`View::content`] for who holds no lock but the view's.
    pub(super) fn kept_content(
        &self,
        state: &Layers,
        node: &Node,
        writable: bool,
    ) -> Result<Arc<Backing>> {
        let kept = node.inner.read().kept(writable);
        match kept {
            Some(content) => Ok(content),
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
    ) -> Result<Arc<Backing>> {
        loop {
            let (here, generation, kept) = {
                let inner = node.inner.read();
                if let Some(content) = inner.kept(writable) {
                    return Ok(content);
                }
                (inner.here.clone(), inner.generation, inner.opens > 0)
            };
            let (content, writable) = match &here {
                Here::Detached { sealed: true, .. } if writable => {
                    return Err(Errno::ESTALE.into());
                }
                Here::Detached { content, .. } => return Ok(content.clone()),
                Here::Below(lower) => (lower.backing(node.ino)?, false),
                Here::Upper {
                    content: Content::Below { stack, part },
                    ..
                } => (stack.backing_at(part)?, false),
                Here::Upper { .. } => {
                    let path = node.upper_path().ok_or(Errno::ENOENT)?;
                    (self.upper_content(state, node, &path)?, true)
                }
                Here::Dir(_) => return Err(Errno::EISDIR.into()),
                Here::Gone(_) => return Err(Errno::ESTALE.into()),
            };
            let content = Arc::new(content);
            if kept {
                let mut inner = node.inner.write();
                if inner.generation != generation || !inner.here.same_content(&here) {
                    // Copied up while it was opened: not what is to be kept.
                    continue;
                }
                inner.set_file(OpenFile::keep(content.clone(), writable));
            }
            return Ok(content);
        }
    }

    fn upper_content(&self, state: &Layers, node: &Node, path: &Path) -> Result<Backing> {
        let map = state.open.map(node.ino);
        let file = at::open(&*state.open, path, OFlag::O_RDWR, 0)?;
        let Some(map) = map.filter(|map| !map.is_whole()) else {
            return Ok(Backing::Whole(file));
        };
        let on_disk = at::open(&*state.open, &BlockMap::path_of(node.ino), OFlag::O_RDWR, 0)?;
        let stack = &state.stack;
        let below = Arc::new(stack.backing_of(map.origin(), stack.layers().len())?);
        let partial = Partial::new(file, Some(on_disk), map, below);
        partial.settle_end()?;
        Ok(Backing::Partial(partial))
    }

    /// What a directory hands down to new entries (inode(7), acl(5)).
    pub(super) fn inheritance(&self, state: &Layers, dir: &Arc<Node>) -> Result<Inherit> {
        if let Some(inherit) = dir.inner.read().inherit() {
            return Ok(inherit);
        }
        let path = dir.upper_path().ok_or(Errno::ENOENT)?;
        let attr = at::stat(&*state.open, &path)?.attr;
        let acl = xattr::get(&*state.open, &path, "system.posix_acl_default")?;
        let inherit = Inherit {
            gid: (attr.perm & 0o2000 != 0).then_some(attr.gid),
            acl: acl.is_some(),
        };
        dir.inner.write().set_inherit(Some(inherit));
        Ok(inherit)
    }
}
