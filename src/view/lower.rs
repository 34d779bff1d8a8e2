//! Where directories, and entries that are untouched, lie in the stack.
//!
//! Most of the inodes that the kernel knows are of this kind, so a node keeps what leads to the
//! entry and nothing that is found there: nobody changes a layer, and what the kernel is told of
//! an inode it remembers.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;

use super::name::Name;
use crate::error::Result;
use crate::layer::{Backing, Stack};
use crate::tree::marker::Marks;
use crate::tree::union::{Entry, Found, LayerSet, Part};
use crate::tree::{Attr, Ino};

/// Where a directory lies: parts of the stack, and perhaps the open layer.
#[derive(Clone, Debug)]
pub(super) struct DirHere {
    /// Its parts in the stack, uppermost first; empty where it is opaque.
    pub below: Arc<[Part]>,
    /// Its path as the stack shows it.
    pub origin: Arc<Path>,
    /// Its attributes in the stack, if it is there.
    pub attr: Option<Attr>,
    /// It exists in the open layer.
    pub upper: bool,
    /// For its entries in each of the parts.
    grounds: OnceLock<Box<[Arc<Ground>]>>,
}

/// What the entries that one layer has in one directory have in common.
#[derive(Debug)]
pub(super) struct Ground {
    stack: Stack,
    /// The directory in its layer.
    dir: Part,
    /// Of one that has no content of its own: where more of it may lie, as [`Found::parts`].
    metacopy: Option<Box<[Part]>>,
}

impl DirHere {
    /// A directory that has these parts in the stack.
    pub fn new(below: Vec<Part>, origin: &Path, attr: Option<Attr>, upper: bool) -> DirHere {
        DirHere {
            below: below.into(),
            origin: origin.into(),
            attr,
            upper,
            grounds: OnceLock::new(),
        }
    }

    /// One of which the stack shows nothing.
    pub fn only_upper() -> DirHere {
        DirHere::new(Vec::new(), Path::new(""), None, true)
    }

    /// This one, when it is in the open layer as well.
    pub fn in_upper(&self) -> DirHere {
        DirHere {
            upper: true,
            ..self.clone()
        }
    }

    /// What all of its entries have in common that a layer of the stack has there.
    pub fn ground(&self, stack: &Stack, layer: usize) -> Option<Arc<Ground>> {
        let new = |part: &Part| Ground::new(stack, part);
        let grounds = self
            .grounds
            .get_or_init(|| self.below.iter().map(new).collect());
        let known = grounds.iter().find(|ground| ground.is_of(stack, layer));
        known.cloned().or_else(|| {
            let part = self.below.iter().find(|part| part.layer == layer);
            part.map(new)
        })
    }
}

impl Ground {
    pub fn new(stack: &Stack, dir: &Part) -> Arc<Ground> {
        Arc::new(Ground {
            stack: stack.clone(),
            dir: dir.clone(),
            metacopy: None,
        })
    }

    /// True for what a layer of this stack has in a directory.
    pub fn is_of(&self, stack: &Stack, layer: usize) -> bool {
        self.dir.layer == layer && self.stack.is(stack)
    }
}

/// An entry of the stack that is no directory.
#[derive(Clone, Debug)]
pub(super) struct Lower {
    ground: Arc<Ground>,
    name: Name,
}

impl Lower {
    /// An entry on ground that it shares with others, with these markers and parts.
    pub fn on(ground: Arc<Ground>, name: &OsStr, marks: &Marks, parts: &[Part]) -> Lower {
        let ground = match marks.metacopy {
            false => ground,
            true => Arc::new(Ground {
                stack: ground.stack.clone(),
                dir: ground.dir.clone(),
                metacopy: Some(parts.into()),
            }),
        };
        let name = name.into();
        Lower { ground, name }
    }

    /// The entry with these parts.
    pub fn at(stack: &Stack, parts: &[Part], marks: &Marks) -> Lower {
        let (layer, path) = match parts {
            [first, ..] => (first.layer, &*first.path),
            [] => (0, Path::new("")),
        };
        let dir = Part {
            layer,
            path: path.parent().unwrap_or(Path::new("")).into(),
        };
        let name = path.file_name().unwrap_or_default();
        Lower::on(Ground::new(stack, &dir), name, marks, parts)
    }

    /// The entry at a path of a layer that says itself where the rest of it is, if that is elsewhere.
    pub fn alone(stack: &Stack, layer: usize, path: &Path, marks: &Marks) -> Lower {
        let path = path.into();
        Lower::at(stack, &[Part { layer, path }], marks)
    }

    /// The index of its layer.
    pub fn layer(&self) -> usize {
        self.ground.dir.layer
    }

    /// Its path in that layer.
    pub fn path(&self) -> PathBuf {
        self.ground.dir.path.join(&self.name)
    }

    /// The stack that it was found in.
    pub fn stack(&self) -> &Stack {
        &self.ground.stack
    }

    /// What its name resolves to, under the number that it has in the stage.
    ///
    /// `ESTALE` if its layer has been removed.
    pub fn found(&self, ino: Ino) -> Result<Found> {
        let (layer, path) = (self.layer(), self.path());
        match LayerSet::entry(self.stack(), layer, &path)? {
            Some(Entry::Present(attr, marks)) => {
                let attr = Attr { ino, ..attr };
                let parts = match &self.ground.metacopy {
                    Some(parts) => parts.to_vec(),
                    None => vec![Part {
                        layer,
                        path: path.into(),
                    }],
                };
                Ok(Found { attr, marks, parts })
            }
            _ => Err(Errno::ESTALE.into()),
        }
    }

    /// Opens the content of a file, as it lies.
    pub fn backing(&self, ino: Ino) -> Result<Backing> {
        match &self.ground.metacopy {
            None => self.stack().backing_at(&Part {
                layer: self.layer(),
                path: self.path().into(),
            }),
            Some(_) => self.stack().backing(&self.found(ino)?),
        }
    }

    /// The target of a symbolic link.
    pub fn readlink(&self) -> Result<OsString> {
        self.stack().layer(self.layer()).readlink(&self.path())
    }

    /// An extended attribute under the name it has in the view.
    pub fn xattr(&self, name: &OsStr) -> Result<Option<Vec<u8>>> {
        self.stack().layer(self.layer()).xattr(&self.path(), name)
    }

    /// The names of the extended attributes as the view shows them.
    pub fn xattrs(&self) -> Result<Vec<OsString>> {
        self.stack().layer(self.layer()).xattrs(&self.path())
    }
}
