//! Listing directories, without a handle: the cookie says where to go on.

use std::ffi::OsStr;
use std::sync::Arc;

use super::lookup::From;
use super::node::Node;
use super::{Layers, ROOT, View};
use crate::error::Result;
use crate::tree::listing::{Listed, Listing};
use crate::tree::union::Entry;
use crate::tree::{Attr, Ino, Kind};

/// One entry handed to whoever lists a directory.
#[derive(Clone, Copy, Debug)]
pub struct Emit<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// Its type.
    pub kind: Kind,
    /// Its inode number.
    pub ino: Ino,
    /// Where to go on after it.
    pub cookie: u64,
    /// Its attributes, if they were asked for; counted as a lookup if taken.
    pub attr: Option<&'a Attr>,
}

impl View {
    /// The directory's names, of the open layer and of the stack.
    fn listing(&self, state: &Layers, node: &Arc<Node>) -> Result<Listing> {
        let dir = self.directory(state, node)?;
        let mut listing = Listing::default();
        for (name, (_, entry)) in state.stack.list(&dir.below)? {
            if let Some(kind) = entry.kind {
                let ino = entry.ino;
                listing.insert(Listed { name, kind, ino });
            }
        }
        if dir.upper {
            for entry in state.open.tree().names(&node.path())? {
                match entry.kind {
                    Some(kind) => {
                        // A copied-up entry keeps the number it has below only
                        // by its marker, which is read when it is needed.
                        let ino = 0;
                        listing.insert(Listed {
                            name: entry.name,
                            kind,
                            ino,
                        });
                    }
                    None => listing.remove(&entry.name),
                }
            }
        }
        Ok(listing)
    }

    /// True when a directory shows no names. Its names are locked.
    pub(super) fn is_empty(&self, state: &Layers, node: &Arc<Node>) -> Result<bool> {
        {
            let inner = node.inner.read();
            if let Some(listing) = inner.listing()
                && inner.generation == state.generation
            {
                return Ok(listing.is_empty());
            }
        }
        let dir = self.directory(state, node)?;
        if dir.below.is_empty() {
            let names = state.open.tree().names(&node.path())?;
            return Ok(names.iter().all(|name| name.kind.is_none()));
        }
        Ok(self.listing(state, node)?.is_empty())
    }

    /// Hands the names after `cookie` to `emit` until it answers false. `.` and
    /// `..` have the cookies 1 and 2. With `attributes` each comes with its
    /// attributes, and counts as looked up when `emit` took it.
    ///
    /// # Errors
    /// `ENOTDIR`, or what the disk reports.
    pub fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        attributes: bool,
        emit: &mut dyn FnMut(Emit<'_>) -> bool,
    ) -> Result<()> {
        let state = self.layers()?;
        let node = self.node(ino)?;
        let _names = node.names().read();
        self.directory(&state, &node)?;
        self.saw_names(&node);
        if cookie == 0 {
            // Whoever starts anew wants what is there now.
            node.inner.write().set_listing(None);
        }
        if cookie < 1 && !emit(dot(OsStr::new("."), node.ino, 1)) {
            return Ok(());
        }
        let parent = match node.place() {
            // Also where something would be above it: a filesystem's root is its own parent.
            Some(place) if node.ino != ROOT => place.parent.ino,
            _ => ROOT,
        };
        if cookie < 2 && !emit(dot(OsStr::new(".."), parent, 2)) {
            return Ok(());
        }
        if node.inner.read().listing().is_none() {
            let listing = self.listing(&state, &node)?;
            node.inner.write().set_listing(Some(listing));
        }
        let mut at = cookie.max(2);
        loop {
            // A batch at a time: `inner` is not held while entries are looked up.
            let batch: Vec<(u64, Listed)> = match node.inner.read().listing() {
                Some(listing) => listing
                    .after(at)
                    .take(64)
                    .map(|(cookie, listed)| (cookie, listed.clone()))
                    .collect(),
                None => return Ok(()),
            };
            let Some((last, _)) = batch.last() else {
                // Done: a directory that was listed once is not kept in memory.
                node.inner.write().set_listing(None);
                return Ok(());
            };
            at = *last;
            for (cookie, listed) in &batch {
                if !self.emit_one(&state, &node, *cookie, listed, attributes, emit)? {
                    return Ok(());
                }
            }
        }
    }

    fn emit_one(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        cookie: u64,
        listed: &Listed,
        attributes: bool,
        emit: &mut dyn FnMut(Emit<'_>) -> bool,
    ) -> Result<bool> {
        let Listed { name, kind, ino } = listed;
        if attributes {
            let (child, from) = self.child_from(state, parent, name)?;
            let Some((child, attr)) = child else {
                return Ok(true);
            };
            let taken = emit(Emit {
                name,
                kind: attr.kind,
                ino: attr.ino,
                cookie,
                attr: Some(&attr),
            });
            if taken {
                child.count_lookup();
                if from == From::Stack {
                    self.told_of(parent, name);
                }
            } else {
                drop(child);
                self.evict(attr.ino);
            }
            return Ok(taken);
        }
        // Whoever reads the number off the entry reads its type there as well:
        // a user's own 0:0 device lies on disk as a file.
        let (ino, kind) = if *ino == 0 {
            match state.open.entry(&parent.path().join(name))? {
                Some(Entry::Present(attr, _)) if attr.ino != 0 => (attr.ino, attr.kind),
                _ => match self.resolve(state, parent, name)? {
                    Some(resolved) => (resolved.attr.ino, resolved.attr.kind),
                    None => return Ok(true),
                },
            }
        } else {
            (*ino, *kind)
        };
        Ok(emit(Emit {
            name,
            kind,
            ino,
            cookie,
            attr: None,
        }))
    }

    /// Brings a directory's own changes to the disk.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn fsyncdir(&self, ino: Ino) -> Result<()> {
        let state = self.layers()?;
        let node = self.node(ino)?;
        self.refresh(&state, &node)?;
        if let Some(path) = node.upper_path() {
            let dir = crate::sys::at::open_dir(&*state.open, &path)?;
            nix::unistd::fsync(&dir)?;
        }
        Ok(())
    }
}

fn dot(name: &OsStr, ino: Ino, cookie: u64) -> Emit<'_> {
    Emit {
        name,
        kind: Kind::Dir,
        ino,
        cookie,
        attr: None,
    }
}
