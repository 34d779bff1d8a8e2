//! What becomes of inodes when the stack changes under them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::lookup::{Resolved, empty_attr};
use super::node::{DirHere, Here, Node, Place};
use super::{Layers, ROOT, View};
use crate::error::Result;
use crate::layer::Stack;
use crate::tree::union::{Entry, Found, LayerSet, Part};
use crate::tree::{Attr, Ino, Kind};

impl View {
    /// Where a directory lies, resolved anew if the stack has changed.
    ///
    /// `ENOTDIR` for anything else, `ENOENT` for a removed one.
    pub(super) fn directory(&self, state: &Layers, node: &Arc<Node>) -> Result<DirHere> {
        self.refresh(state, node)?;
        match &node.inner.read().here {
            Here::Dir(dir) => Ok(dir.clone()),
            Here::Gone(_) if node.is_dir() => Err(Errno::ENOENT.into()),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    /// Brings a node up to the stack's present generation: it is looked up
    /// again under its last name. What is no longer there lives on as long as
    /// somebody holds it.
    pub(super) fn refresh(&self, state: &Layers, node: &Arc<Node>) -> Result<()> {
        let place = {
            let inner = node.inner.read();
            let settled = matches!(inner.here, Here::Gone(_) | Here::Detached { .. });
            if inner.generation == state.generation || settled {
                return Ok(());
            }
            inner.place.clone()
        };
        let Some(Place { parent, name }) = place else {
            if node.ino != ROOT {
                return self.refresh_unnamed(state, node);
            }
            let mut inner = node.inner.write();
            inner.here = Here::Dir(DirHere {
                below: state.stack.roots().into(),
                origin: Arc::from(Path::new("")),
                attr: None,
                upper: true,
            });
            inner.listing = None;
            inner.generation = state.generation;
            return Ok(());
        };
        let resolved = match self.directory(state, &parent) {
            Ok(_) => self.resolve(state, &parent, &name)?,
            Err(error) if error.errno() == Errno::ENOENT => None,
            Err(error) => return Err(error),
        };
        let same = |resolved: &Resolved| {
            parent.ino == ROOT && resolved.attr.kind == node.kind || resolved.attr.ino == node.ino
        };
        let mut inner = node.inner.write();
        match resolved.filter(same) {
            Some(resolved) => {
                inner.here = resolved.here;
            }
            None => match (&inner.here, &inner.file) {
                // Its old layer is still there to be read; another of its names
                // may yet be found, so it stays to be looked up again.
                (Here::Below { .. }, _) => return Ok(()),
                // It lies in a sealed layer, under names that other layers
                // have taken: to be read, never to be written.
                (_, Some(file)) => {
                    inner.here = Here::Detached {
                        fd: file.fd.clone(),
                        sealed: true,
                    }
                }
                (here, None) => inner.here = Here::Gone(Box::new(last_attributes(node, here))),
            },
        }
        inner.file = None;
        inner.listing = None;
        inner.inherit = None;
        inner.generation = state.generation;
        Ok(())
    }

    /// The same for a file that is open, while none of its names is known: it
    /// had several, and only those were seen that are gone by now. The others
    /// have to be searched for, or they would part from what is written here.
    fn refresh_unnamed(&self, state: &Layers, node: &Arc<Node>) -> Result<()> {
        {
            let inner = node.inner.read();
            let lost = matches!(inner.here, Here::Upper { .. });
            if !lost || inner.unlinked || inner.opens == 0 {
                return Ok(());
            }
        }
        // It was in the open layer: now in a sealed one, and surely near the top.
        let layers = (0..state.stack.layers().len()).rev();
        for layer in layers {
            let Some(found) = find_in_layer(&state.stack, layer, node.ino)? else {
                continue;
            };
            let mut inner = node.inner.write();
            inner.here = Here::Below {
                stack: state.stack.clone(),
                found: Arc::new(found),
            };
            inner.file = None;
            inner.generation = state.generation;
            return Ok(());
        }
        Ok(())
    }
}

/// Searches one layer for a file by its number.
fn find_in_layer(stack: &Stack, layer: usize, ino: Ino) -> Result<Option<Found>> {
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for name in stack.layer(layer).names(&dir)? {
            let path = dir.join(&name.name);
            match name.kind {
                None => {}
                Some(Kind::Dir) => dirs.push(path),
                Some(_) => match LayerSet::entry(stack, layer, &path)? {
                    Some(Entry::Present(attr, marks)) if attr.ino == ino => {
                        let path = path.into();
                        let parts = vec![Part { layer, path }];
                        return Ok(Some(Found { attr, marks, parts }));
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
        Here::Below { found, .. } => Some(found.attr),
        Here::Gone(attr) => Some(**attr),
        _ => None,
    };
    Attr {
        ino: node.ino,
        nlink: 0,
        ..known.unwrap_or_else(|| empty_attr(node.kind))
    }
}
