//! What becomes of open files when a merge or a restore gives a view another
//! stack.
//!
//! A name that was only seen in the old stack may be gone, while the file has
//! another in the new one: then whoever has it open goes on with the same file.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lower::Lower;
use super::name::Place;
use super::node::{Here, Node};
use super::{Layers, View};
use crate::error::Result;
use crate::layer::Stack;
use crate::tree::union::{Entry, LayerSet};
use crate::tree::{Ino, Kind};

/// The entries of the layers that a stack has got, by number.
struct Arrived {
    /// The number of layers below them.
    depth: usize,
    /// The uppermost layer first.
    paths: HashMap<Ino, Vec<(usize, PathBuf)>>,
}

impl Arrived {
    fn read(stack: &Stack, depth: usize) -> Result<Arrived> {
        let mut paths: HashMap<Ino, Vec<(usize, PathBuf)>> = HashMap::new();
        for layer in (depth..stack.layers().len()).rev() {
            let mut dirs = vec![PathBuf::new()];
            while let Some(dir) = dirs.pop() {
                for name in stack.layer(layer).names(&dir)? {
                    let path = dir.join(&name.name);
                    if let Some(Entry::Present(attr, _)) = LayerSet::entry(stack, layer, &path)? {
                        paths
                            .entry(attr.ino)
                            .or_default()
                            .push((layer, path.clone()));
                    }
                    if name.kind == Some(Kind::Dir) {
                        dirs.push(path);
                    }
                }
            }
        }
        Ok(Arrived { depth, paths })
    }

    fn of(&self, ino: Ino) -> &[(usize, PathBuf)] {
        self.paths.get(&ino).map_or(&[], Vec::as_slice)
    }

    /// Where a place has gone with a directory above it.
    fn moved(&self, place: &Place) -> Vec<PathBuf> {
        let mut below = PathBuf::from(&*place.name);
        let mut at = Some(place.parent.clone());
        while let Some(dir) = at {
            let moved = self.of(dir.ino);
            if !moved.is_empty() {
                return moved.iter().map(|(_, path)| path.join(&below)).collect();
            }
            let Some(place) = dir.place() else { break };
            below = Path::new(&*place.name).join(below);
            at = Some(place.parent);
        }
        Vec::new()
    }
}

impl View {
    /// Finds the open files again in a stack that is not just the old one with
    /// what was the open layer on top. Nothing else runs meanwhile, and the new
    /// open layer is empty.
    ///
    /// The new stack has the lowest `depth` layers of the old one.
    pub(super) fn follow_open_files(&self, depth: usize, state: &Layers) {
        let mut seen = HashSet::new();
        let mut nodes: Vec<Arc<Node>> = self.handles.iter().map(|one| one.node.clone()).collect();
        nodes.retain(|node| seen.insert(node.ino));
        let mut arrived = None;
        for node in nodes {
            if let Err(error) = self.follow(state, &node, depth, &mut arrived) {
                // The swap is committed; nobody can be told.
                log::error!("open file {}: {error}", node.path().display());
                self.lose(state, &node);
            }
        }
    }

    fn follow(
        &self,
        state: &Layers,
        node: &Arc<Node>,
        depth: usize,
        arrived: &mut Option<Arrived>,
    ) -> Result<()> {
        let (here, places) = {
            let inner = node.inner.read();
            (inner.here.clone(), inner.places())
        };
        if let Some((here, places)) = self.look_again(state, node, &places)? {
            self.seat(state, node, here, places);
            return Ok(());
        }
        let arrived = match arrived {
            Some(arrived) => arrived,
            None => arrived.insert(Arrived::read(&state.stack, depth)?),
        };
        let mut paths: Vec<PathBuf> = places.iter().flat_map(|at| arrived.moved(at)).collect();
        paths.extend(arrived.of(node.ino).iter().map(|(_, path)| path.clone()));
        if let Here::Below(lower) = &here {
            // Its name in the stage came later than the state that is restored.
            paths.push(lower.path());
        }
        for path in paths {
            if self.follow_to(state, node, &path)? {
                return Ok(());
            }
        }
        match &here {
            Here::Below(lower) => self.follow_below(state, node, lower, arrived),
            Here::Upper { .. } => self.follow_upper(state, node, arrived),
            _ => Ok(()),
        }
    }

    /// Seats a node at a path of the new stack, if that leads to it.
    fn follow_to(&self, state: &Layers, node: &Arc<Node>, path: &Path) -> Result<bool> {
        match state.stack.find(path)? {
            Some(found) if found.attr.ino == node.ino => {}
            _ => return Ok(false),
        }
        let mut at = self.node(self.top)?;
        for name in path {
            let next = {
                let _names = at.names().read();
                self.child(state, &at, name)?
            };
            let Some((next, _)) = next else {
                return Ok(false);
            };
            at = next;
        }
        Ok(Arc::ptr_eq(&at, node))
    }

    /// No name is known of a file that was in the stack.
    fn follow_below(
        &self,
        state: &Layers,
        node: &Arc<Node>,
        lower: &Lower,
        arrived: &Arrived,
    ) -> Result<()> {
        if lower.layer() >= arrived.depth {
            // Its layer may be removed soon: hold what can be read.
            let content = self.content(state, node, false)?;
            self.lose(state, node);
            node.inner.write().here = Here::Detached {
                content,
                sealed: true,
            };
            return Ok(());
        }
        let unlinked = node.inner.read().unlinked;
        if !unlinked && lower.found(node.ino)?.attr.nlink > 1 {
            let now = self.found_now(state, lower)?;
            if let Some((lower, _)) = now.filter(|(_, nlink)| *nlink > 0) {
                // Under names that nobody has seen.
                self.seat(state, node, Here::Below(lower), Vec::new());
                return Ok(());
            }
        }
        self.lose(state, node);
        Ok(())
    }

    /// No name is known of a file that was in the open layer. That is sealed
    /// now, and where the stack has it still, it can be copied up from there.
    fn follow_upper(&self, state: &Layers, node: &Arc<Node>, arrived: &Arrived) -> Result<()> {
        self.lose(state, node);
        let Some((layer, path)) = arrived.of(node.ino).last() else {
            return Ok(());
        };
        if let Some(Entry::Present(_, marks)) = LayerSet::entry(&state.stack, *layer, path)? {
            let lower = Lower::alone(&state.stack, *layer, path, &marks);
            node.inner.write().here = Here::Below(lower);
        }
        Ok(())
    }
}
