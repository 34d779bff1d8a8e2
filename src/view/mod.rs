//! One view's filesystem: a stack plus a private open layer, as inodes.
//!
//! It knows nothing of FUSE: requests are plain calls, inodes are numbers.
//! Lock order: `state`, then the locks of `node::Node` in the order told
//! there. No lock is held while file content is copied.

mod attr;
mod copy_up;
mod create;
mod dir;
mod follow;
mod held;
mod io;
mod link;
mod lookup;
mod lower;
mod name;
mod node;
mod privileges;
mod reads;
mod refresh;
mod remove;
mod rename;
mod xattr;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use nix::errno::Errno;

use crate::error::Result;
use crate::layer::{BLOCK, Inos, OpenLayer, Stack, fill_open};
use crate::sys::memory;
use crate::sys::ordered::{Rank, ReadGuard, RwLock};
use crate::tree::{Ino, Kind};

pub use attr::{SetAttr, StatFs};
pub use create::Caller;
pub use dir::Emit;
pub use io::{Opened, Whence};
pub use privileges::Unprivileged;
pub use rename::RenameMode;
pub use xattr::{ACCESS_ACL, SetXattr};

use lower::DirHere;
use name::Place;
use node::{Here, Node};
use reads::Notes;

/// The attributes that stand for a name that does not exist: inode 0.
pub fn missing() -> crate::tree::Attr {
    lookup::empty_attr(Kind::File)
}

/// The root's inode number: it holds one entry per mapped path, or is the only one.
pub const ROOT: Ino = 1;
/// The number of what would hold the mapped paths, where the root is the only one. Files have
/// larger ones.
const ABOVE: Ino = 2;

/// Which files are not copied before they are written, but taken over in parts.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// The size of the largest file that is copied as a whole, in bytes.
    pub whole: u64,
    /// The size of a part, in bytes.
    pub block: u64,
}

impl Parts {
    /// For who works in a step: what is in the open layer as a whole the kernel reads
    /// and writes by itself, so a copy soon pays.
    pub const STEP: Parts = Parts {
        whole: 256 << 20,
        block: BLOCK,
    };
    /// For an open layer that others are to understand.
    pub const NONE: Parts = Parts {
        whole: u64::MAX,
        block: BLOCK,
    };
    /// For a live view, where it does not.
    pub const LIVE: Parts = Parts {
        whole: 1 << 20,
        block: BLOCK,
    };
}

/// Where the root lies, which is in every layer.
fn root(stack: &Stack) -> Here {
    let dir = DirHere::new(stack.roots(), Path::new(""), None, true);
    Here::Dir(Arc::new(dir))
}

/// What a view looks at now.
#[derive(Debug)]
struct Layers {
    /// Counted up whenever the stack changes under the view.
    generation: u64,
    stack: Stack,
    open: Arc<OpenLayer>,
}

/// An open handle.
#[derive(Debug)]
struct Handle {
    node: Arc<Node>,
    writable: bool,
}

/// One view's filesystem.
#[derive(Debug)]
pub struct View {
    /// Read for every request; written to swap layers and to rename directories.
    state: RwLock<Layers>,
    nodes: DashMap<Ino, Arc<Node>>,
    handles: DashMap<u64, Handle>,
    next_handle: AtomicU64,
    inos: Arc<Inos>,
    /// Numbers of entries of layers that carry none, by layer and path.
    unnumbered: DashMap<(usize, PathBuf), Ino>,
    /// The inode that holds the mapped paths.
    top: Ino,
    /// Whether the open layer may hold copies of metadata.
    metacopies: bool,
    live: bool,
    parts: Parts,
    /// What was seen of the stack, unless the view is live.
    notes: Option<Notes>,
    closed: AtomicBool,
    /// How many nodes were dropped since memory was given back.
    dropped: AtomicUsize,
}

/// So many nodes are worth giving back what they took.
const MANY: usize = 1 << 14;

impl View {
    /// A view of `stack` that writes to `open`. A `live` view (the stage's own)
    /// can have its layers replaced while it is used.
    ///
    /// # Errors
    /// None today; a layer may have to be asked one day.
    pub fn new(stack: Stack, open: OpenLayer, inos: Arc<Inos>, live: bool) -> Result<Arc<View>> {
        let parts = match live {
            true => Parts::LIVE,
            false => Parts::STEP,
        };
        View::with_parts(stack, open, inos, live, parts)
    }

    /// [`View::new`], with another idea of which files are large.
    ///
    /// # Errors
    /// As [`View::new`].
    pub fn with_parts(
        stack: Stack,
        open: OpenLayer,
        inos: Arc<Inos>,
        live: bool,
        parts: Parts,
    ) -> Result<Arc<View>> {
        let notes = (!live).then(Notes::new);
        let view = View::over(stack, open, inos, ROOT, live, parts, notes);
        Ok(Arc::new(view))
    }

    /// A view that shows one mapped path of `stack`, called `name`, as its root, and notes nothing
    /// of what is seen.
    ///
    /// # Errors
    /// What the disk reports; `ENOENT` where there is no such path.
    pub fn alone(
        stack: Stack,
        open: OpenLayer,
        inos: Arc<Inos>,
        name: &std::ffi::OsStr,
    ) -> Result<Arc<View>> {
        let view = View::over(stack, open, inos, ABOVE, false, Parts::NONE, None);
        {
            let state = view.layers()?;
            let parent = view.node(ABOVE)?;
            let found = view.resolve(&state, &parent, name)?.ok_or(Errno::ENOENT)?;
            let place = Place {
                parent,
                name: name.into(),
            };
            let root = Node::new(ROOT, Kind::Dir, Some(place), 0, found.here);
            root.count_lookup();
            view.nodes.insert(ROOT, Arc::new(root));
        }
        Ok(Arc::new(view))
    }

    fn over(
        stack: Stack,
        open: OpenLayer,
        inos: Arc<Inos>,
        top: Ino,
        live: bool,
        parts: Parts,
        notes: Option<Notes>,
    ) -> View {
        let root = root(&stack);
        let nodes = DashMap::new();
        let root = Node::new(top, Kind::Dir, None, 0, root);
        root.count_lookup();
        nodes.insert(top, Arc::new(root));
        View {
            metacopies: open.manner().parts,
            state: RwLock::new(
                Rank::View,
                Layers {
                    generation: 0,
                    stack,
                    open: Arc::new(open),
                },
            ),
            nodes,
            handles: DashMap::new(),
            next_handle: AtomicU64::new(1),
            inos,
            unnumbered: DashMap::new(),
            top,
            live,
            parts,
            notes,
            closed: AtomicBool::new(false),
            dropped: AtomicUsize::new(0),
        }
    }

    /// Gives all files of the open layer the content that they still have below.
    /// Requests wait meanwhile: for a view that nobody works in any more.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn complete_files(&self) -> Result<()> {
        if self.state.read().open.maps().is_empty() {
            return Ok(());
        }
        let state = self.state.write();
        fill_open(&state.open, &state.stack)
    }

    /// [`OpenLayer::settle_maps`], for a view that nobody works in any more.
    ///
    /// # Errors
    /// As there.
    pub fn settle_maps(&self) -> Result<()> {
        self.state.write().open.settle_maps()
    }

    /// True for the stage's own view.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Keeps requests out, lets `change` make a new stack and an empty open
    /// layer from the present ones, and goes on with those. An open layer that is
    /// empty already may be given back, and must not be made anew in its place:
    /// somebody may be making a copy in its `work/`. Open handles live on: what is
    /// unchanged stays the same inode, what is not stays readable.
    ///
    /// # Errors
    /// What `change` reports; then nothing has changed.
    pub fn replace(
        &self,
        change: impl FnOnce(&Stack, &Arc<OpenLayer>) -> Result<(Stack, Arc<OpenLayer>)>,
    ) -> Result<()> {
        let mut state = self.state.write();
        self.hold_open_files(&state)?;
        let clean = state.open.is_clean()?;
        let changed = change(&state.stack, &state.open);
        // Even a seal that failed may have written names into the open layer.
        state.generation += 1;
        let (stack, open) = changed?;
        let depth = state.stack.common_depth(&stack);
        self.unnumbered.retain(|(layer, _), _| *layer < depth);
        // A seal shows the same names as before.
        let before = state.stack.layers().len();
        let sealed = before + usize::from(!clean);
        let only_sealed = depth == before && stack.layers().len() == sealed;
        state.stack = stack;
        state.open = open;
        if !only_sealed {
            self.follow_open_files(depth, &state);
        }
        Ok(())
    }

    /// Opens the content of every file of the open layer that somebody has
    /// open: the layer is about to move, and orphans have no place in the next.
    fn hold_open_files(&self, state: &Layers) -> Result<()> {
        let held: Vec<Arc<Node>> = self.handles.iter().map(|one| one.node.clone()).collect();
        for node in held {
            if matches!(node.inner.read().here, Here::Upper { .. }) {
                // Of an earlier open layer, perhaps.
                self.refresh(state, &node)?;
            }
            let at = match &node.inner.read().here {
                Here::Upper { at, .. } => *at,
                _ => continue,
            };
            if at == node::UpperAt::Orphan {
                self.complete_orphan(state, &node)?;
                let content = self.content(state, &node, true)?;
                node.inner.write().here = Here::Detached {
                    content,
                    sealed: false,
                };
            } else {
                self.content(state, &node, false)?;
            }
        }
        Ok(())
    }

    /// The stack below the open layer.
    pub fn stack(&self) -> Stack {
        self.state.read().stack.clone()
    }

    /// True when nothing was changed in the open layer.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn is_clean(&self) -> Result<bool> {
        self.state.read().open.is_clean()
    }

    /// Where the open layer lies.
    pub fn open_layer_path(&self) -> PathBuf {
        self.state.read().open.path().to_path_buf()
    }

    /// The paths of the files that are open for writing now.
    pub fn busy(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self
            .handles
            .iter()
            .filter(|handle| handle.writable && handle.node.place().is_some())
            .map(|handle| handle.node.path())
            .collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// How many files of the open layer are open for writing now, and how large they
    /// are together that are small enough to be copied as a whole when they are next
    /// written.
    pub fn being_written(&self) -> (usize, u64) {
        let generation = self.state.read().generation;
        let mut inodes: Vec<Ino> = self
            .handles
            .iter()
            .filter(|handle| {
                let inner = handle.node.inner.read();
                let here = matches!(inner.here, Here::Upper { .. });
                handle.writable && here && inner.generation == generation
            })
            .map(|handle| handle.node.ino)
            .collect();
        inodes.sort_unstable();
        inodes.dedup();
        let sizes = inodes.iter().filter_map(|ino| self.getattr(*ino).ok());
        let sizes = sizes.map(|attr| attr.size);
        let sizes = sizes.filter(|size| *size <= self.parts.whole);
        (inodes.len(), sizes.sum())
    }

    /// The inodes that are open for writing now, and so may be mapped: the
    /// kernel may hold changes of them that it has not told yet.
    pub fn writable(&self) -> Vec<Ino> {
        let mut inodes: Vec<Ino> = self
            .handles
            .iter()
            .filter(|handle| handle.writable)
            .map(|handle| handle.node.ino)
            .collect();
        inodes.sort_unstable();
        inodes.dedup();
        inodes
    }

    /// Ends the view: every later request fails with `ENODEV`. Returns the open
    /// layer, to seal or to drop.
    ///
    /// # Errors
    /// None today.
    pub fn close(self: &Arc<Self>) -> Result<Arc<OpenLayer>> {
        let state = self.state.write();
        self.closed.store(true, Ordering::Release);
        self.handles.clear();
        self.nodes.clear();
        Ok(state.open.clone())
    }

    /// True if the kernel may know this inode, and so something below it.
    pub fn knows(&self, ino: Ino) -> bool {
        self.nodes.contains_key(&ino)
    }

    fn layers(&self) -> Result<ReadGuard<'_, Layers>> {
        let state = self.state.read();
        if self.closed.load(Ordering::Acquire) {
            return Err(Errno::ENODEV.into());
        }
        Ok(state)
    }

    fn node(&self, ino: Ino) -> Result<Arc<Node>> {
        match self.nodes.get(&ino) {
            Some(node) => Ok(node.clone()),
            None => Err(Errno::ESTALE.into()),
        }
    }

    fn handle(&self, handle: u64) -> Result<Arc<Node>> {
        match self.handles.get(&handle) {
            Some(handle) => Ok(handle.node.clone()),
            None => Err(Errno::EBADF.into()),
        }
    }

    /// How many inodes the kernel remembers, the root among them.
    pub fn inodes(&self) -> usize {
        self.nodes.len()
    }

    /// The kernel forgets `count` of the answers that named an inode. True when
    /// so many were forgotten that it is time for [`View::give_back`].
    pub fn forget(&self, ino: Ino, count: u64) -> bool {
        let Ok(node) = self.node(ino) else {
            return false;
        };
        node.forget(count);
        drop(node);
        let dropped = self.evict(ino);
        if dropped == 0 {
            return false;
        }
        let before = self.dropped.fetch_add(dropped, Ordering::Relaxed);
        let all = before + dropped;
        // Looked at now and then, and done when there is as much to be had as a
        // third of what is kept: so in all it takes a fixed part of the time that
        // forgetting takes.
        before / MANY != all / MANY && all >= self.nodes.len() / 3
    }

    /// Gives back the memory of what the kernel has forgotten. Takes some
    /// milliseconds.
    pub fn give_back(&self) {
        self.dropped.store(0, Ordering::Relaxed);
        if self.nodes.len() < self.nodes.capacity() / 4 {
            self.nodes.shrink_to_fit();
        }
        memory::give_back_free();
    }

    /// Drops a node that neither the kernel, nor a handle, nor a child's place
    /// needs, and then perhaps its parents. Returns how many were dropped.
    fn evict(&self, ino: Ino) -> usize {
        let mut dropped = 0;
        let mut next = vec![ino];
        while let Some(ino) = next.pop() {
            if ino == self.top {
                continue;
            }
            let gone = self.nodes.remove_if(&ino, |_, node| {
                !node.is_known() && Arc::strong_count(node) == 1 && node.inner.read().opens == 0
            });
            if let Some((_, node)) = gone {
                next.extend(node.inner.read().parents());
                dropped += 1;
            }
        }
        dropped
    }
}
