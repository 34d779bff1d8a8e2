//! What becomes of inodes when the stack changes under them.

use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;

use super::lookup::{Resolved, empty_attr};
use super::lower::{DirHere, Lower};
use super::name::Place;
use super::node::{Here, Node};
use super::{Layers, View};
use crate::error::Result;
use crate::layer::Stack;
use crate::tree::union::{Entry, LayerSet};
use crate::tree::{Attr, Ino, Kind};

impl View {
    /// Where a directory lies, resolved anew if the stack has changed.
    ///
    /// `ENOTDIR` for anything else, `ENOENT` or `ESTALE` for a removed one.
    pub(super) fn directory(&self, state: &Layers, node: &Arc<Node>) -> Result<Arc<DirHere>> {
        self.refresh(state, node)?;
        let here = node.inner.read().here.clone();
        match here {
            Here::Dir(dir) => Ok(dir),
            Here::Gone(_) if node.is_dir() => Err(node.gone().into()),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    /// Brings a node up to the stack's present generation: it is looked up
    /// again under the names it had. What is no longer there lives on as long
    /// as somebody has it open.
    ///
    /// Others may do the same meanwhile, and even copy the node up: who comes
    /// late changes nothing.
    pub(super) fn refresh(&self, state: &Layers, node: &Arc<Node>) -> Result<()> {
        let Some((places, _)) = unsettled(state, node) else {
            return Ok(());
        };
        // What lies above comes first, from the top: each then finds its own
        // directory settled, and no depth of a tree is a depth of our stack.
        for place in places {
            let mut above = Vec::new();
            let mut at = Some(place.parent);
            while let Some(directory) = at {
                if unsettled(state, &directory).is_none() {
                    break;
                }
                at = directory.place().map(|place| place.parent);
                above.push(directory);
            }
            for directory in above.iter().rev() {
                self.refresh_one(state, directory)?;
            }
        }
        self.refresh_one(state, node)
    }

    /// The same for a node whose directories are up to date.
    fn refresh_one(&self, state: &Layers, node: &Arc<Node>) -> Result<()> {
        let Some((places, unlinked)) = unsettled(state, node) else {
            return Ok(());
        };
        if node.ino == self.top {
            self.seat(state, node, super::root(&state.stack), Vec::new());
            return Ok(());
        }
        if unlinked {
            node.inner.write().generation = state.generation;
            return Ok(());
        }
        if let Some((here, places)) = self.look_again(state, node, &places)? {
            self.seat(state, node, here, places);
        } else if places.is_empty()
            && let Some(here) = self.unnamed(state, node)?
        {
            self.seat(state, node, here, Vec::new());
        } else {
            self.lose(state, node);
        }
        Ok(())
    }

    /// Which of these names still lead to a node, and where it lies by them.
    pub(super) fn look_again(
        &self,
        state: &Layers,
        node: &Arc<Node>,
        places: &[Place],
    ) -> Result<Option<(Here, Vec<Place>)>> {
        let mut here = None;
        let mut kept = Vec::new();
        for place in places {
            let Place { parent, name } = place;
            let resolved = match self.directory(state, parent) {
                Ok(_) => self.resolve(state, parent, name)?,
                Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ESTALE) => None,
                Err(error) => return Err(error),
            };
            let Some(Resolved { attr, here: now }) = resolved else {
                continue;
            };
            if attr.ino == node.ino || parent.ino == self.top && attr.kind == node.kind {
                here.get_or_insert(now);
                kept.push(place.clone());
            }
        }
        Ok(here.map(|here| (here, kept)))
    }

    /// Where a file lies now that is open, and none of whose names is known: it
    /// had several, and only those were seen that are gone by now. The others
    /// have to be searched for, or they would part from what is written here.
    fn unnamed(&self, state: &Layers, node: &Arc<Node>) -> Result<Option<Here>> {
        let (here, opens) = {
            let inner = node.inner.read();
            (inner.here.clone(), inner.opens)
        };
        let stack = state.stack.clone();
        match here {
            _ if opens == 0 => Ok(None),
            Here::Below(lower) => {
                let now = self.found_now(state, &lower)?;
                Ok(now.map(|(lower, _)| Here::Below(lower)))
            }
            // It was in the open layer: now in a sealed one, surely near the top.
            Here::Upper { .. } => {
                for layer in (0..stack.layers().len()).rev() {
                    if let Some(lower) = find_in_layer(&stack, layer, node.ino)? {
                        return Ok(Some(Here::Below(lower)));
                    }
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// What lies where this was found, in the stack of today, and its number of
    /// names, which may be another.
    pub(super) fn found_now(&self, state: &Layers, lower: &Lower) -> Result<Option<(Lower, u32)>> {
        let (stack, layer, path) = (&state.stack, lower.layer(), lower.path());
        match LayerSet::entry(stack, layer, &path)? {
            Some(Entry::Present(attr, marks)) => Ok(Some((
                Lower::alone(stack, layer, &path, &marks),
                attr.nlink,
            ))),
            _ => Ok(None),
        }
    }

    /// Puts a node where it was found, unless somebody else did.
    pub(super) fn seat(&self, state: &Layers, node: &Node, here: Here, places: Vec<Place>) {
        let mut inner = node.inner.write();
        if inner.generation == state.generation {
            return;
        }
        let before = inner.places();
        inner.seat(state.generation, here, places);
        drop(inner);
        self.evict_parents(before);
    }

    /// Settles what becomes of a node that no name leads to, unless somebody
    /// else did.
    pub(super) fn lose(&self, state: &Layers, node: &Node) {
        let here = node.inner.read().here.clone();
        let last = last_attributes(node, &here);
        let mut inner = node.inner.write();
        if inner.generation == state.generation {
            return;
        }
        let before = inner.places();
        let here = match (&inner.here, inner.file()) {
            // Its old layer is still there to be read.
            (here @ Here::Below(_), _) if inner.opens > 0 => here.clone(),
            // It lies in a sealed layer, under names that other layers have
            // taken: to be read, never to be written.
            (Here::Upper { .. }, Some(file)) => Here::Detached {
                content: file.content.clone(),
                sealed: true,
            },
            _ => Here::Gone(Box::new(last)),
        };
        inner.lose(state.generation, here);
        drop(inner);
        self.evict_parents(before);
    }

    /// Some of these places are left: their directories may be forgotten.
    pub(super) fn evict_parents(&self, places: Vec<Place>) {
        for Place { parent, .. } in places {
            let ino = parent.ino;
            drop(parent);
            self.evict(ino);
        }
    }
}

/// The names of a node that is not up to date, and whether it has none any more.
fn unsettled(state: &Layers, node: &Node) -> Option<(Vec<Place>, bool)> {
    let inner = node.inner.read();
    let settled = matches!(inner.here, Here::Gone(_) | Here::Detached { .. });
    let known = inner.generation == state.generation || settled;
    (!known).then(|| (inner.places(), inner.unlinked))
}

/// Searches one layer for a file by its number.
fn find_in_layer(stack: &Stack, layer: usize, ino: Ino) -> Result<Option<Lower>> {
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for name in stack.layer(layer).names(&dir)? {
            let path = dir.join(&name.name);
            match name.kind {
                None => {}
                Some(Kind::Dir) => dirs.push(path),
                Some(_) => match LayerSet::entry(stack, layer, &path)? {
                    Some(Entry::Present(attr, marks)) if attr.ino == ino => {
                        return Ok(Some(Lower::alone(stack, layer, &path, &marks)));
                    }
                    _ => {}
                },
            }
        }
    }
    Ok(None)
}

/// The attributes that are left of an inode that no layer holds any more.
pub(super) fn last_attributes(node: &Node, here: &Here) -> Attr {
    let known = match here {
        Here::Dir(dir) => dir.attr,
        Here::Below(lower) => lower.found(node.ino).ok().map(|found| found.attr),
        Here::Gone(attr) => Some(**attr),
        _ => None,
    };
    Attr {
        ino: node.ino,
        nlink: 0,
        ..known.unwrap_or_else(|| empty_attr(node.kind))
    }
}
