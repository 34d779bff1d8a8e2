//! A stack of immutable layers, as one tree to read.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::{Backing, Layer, Origin, Partial};
use crate::error::{Error, Result};
use crate::tree::union::{self, Entry, Found, LayerSet, Name, Part};
use crate::tree::{Ino, Kind};

/// Immutable layers, the lowest first. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Stack {
    layers: Arc<[Arc<dyn Layer>]>,
}

impl Default for Stack {
    fn default() -> Stack {
        Stack::new(Vec::new())
    }
}

impl Stack {
    /// A stack of these layers, the lowest first.
    pub fn new(layers: Vec<Arc<dyn Layer>>) -> Stack {
        Stack {
            layers: layers.into(),
        }
    }

    /// The layers, the lowest first.
    pub fn layers(&self) -> &[Arc<dyn Layer>] {
        &self.layers
    }

    /// The layer with this index.
    pub fn layer(&self, index: usize) -> &Arc<dyn Layer> {
        &self.layers[index]
    }

    /// True for the same stack, not just for one of the same layers.
    pub fn is(&self, other: &Stack) -> bool {
        Arc::ptr_eq(&self.layers, &other.layers)
    }

    /// How many of the lowest layers this stack has in common with another.
    pub fn common_depth(&self, other: &Stack) -> usize {
        let pairs = self.layers.iter().zip(other.layers());
        pairs
            .take_while(|(a, b)| std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b)))
            .count()
    }

    /// This stack with one more layer on top.
    #[must_use]
    pub fn with(&self, layer: Arc<dyn Layer>) -> Stack {
        Stack {
            layers: self.layers.iter().cloned().chain([layer]).collect(),
        }
    }

    /// The lowest `depth` layers.
    #[must_use]
    pub fn below(&self, depth: usize) -> Stack {
        Stack {
            layers: self.layers[..depth.min(self.layers.len())].into(),
        }
    }

    /// The parts of the tree's root.
    pub fn roots(&self) -> Vec<Part> {
        union::roots(self.layers.len())
    }

    /// Resolves a path; symbolic links are not followed.
    ///
    /// # Errors
    /// What the layers report.
    pub fn find(&self, path: &Path) -> Result<Option<Found>> {
        union::resolve(self, self.layers.len(), path)
    }

    /// Looks one name up in a united directory.
    ///
    /// # Errors
    /// What the layers report.
    pub fn lookup(&self, parts: &[Part], name: &OsStr) -> Result<Option<Found>> {
        union::lookup(self, parts, name)
    }

    /// The names of a united directory, sorted by bytes, each with the layer it
    /// comes from.
    ///
    /// # Errors
    /// What the layers report.
    pub fn list(&self, parts: &[Part]) -> Result<BTreeMap<OsString, (usize, Name)>> {
        union::names(self, parts)
    }

    /// Where the content of a regular file lies.
    ///
    /// # Errors
    /// `EIO` if a metadata-only copy leads nowhere, or what the layers report.
    pub fn content(&self, file: &Found) -> Result<Part> {
        union::content(self, file)?.ok_or_else(|| {
            let path = file.parts[0].path.display();
            Error::new(
                Errno::EIO,
                format!("{path}: the content below a metadata copy is gone"),
            )
        })
    }

    /// Opens the content of a regular file for reading. Where some of it lies
    /// elsewhere it is brought together first: who reads a little of a large file
    /// takes [`Stack::backing`].
    ///
    /// # Errors
    /// As [`Stack::content`] and openat(2); `ENOSPC` where there is no room to
    /// bring it together.
    pub fn open(&self, file: &Found) -> Result<OwnedFd> {
        let part = self.content(file)?;
        let layer = &self.layers[part.layer];
        match layer.block_map(&part.path)? {
            None => layer.open(&part.path),
            Some(map) => {
                let below = self.backing_of(map.origin(), part.layer)?;
                layer.open_whole(&part.path, &Arc::new(below))
            }
        }
    }

    /// Opens the content of a regular file for reading, as it lies.
    ///
    /// # Errors
    /// As [`Stack::content`] and openat(2).
    pub fn backing(&self, file: &Found) -> Result<Backing> {
        self.backing_at(&self.content(file)?)
    }

    /// Opens the content of the regular file at a place, as it lies.
    ///
    /// # Errors
    /// As openat(2); `EIO` if a layer is missing that has some of it.
    pub fn backing_at(&self, part: &Part) -> Result<Backing> {
        let layer = &self.layers[part.layer];
        let map = layer.block_map(&part.path)?;
        // After its map: a file that is completed in between is read as it was.
        let file = layer.open(&part.path)?;
        let Some(map) = map else {
            return Ok(Backing::Whole(file));
        };
        let below = Arc::new(self.backing_of(map.origin(), part.layer)?);
        Ok(Backing::Partial(Partial::new(file, None, map, below)))
    }

    /// Opens what a partial file of the layer `above` has below.
    ///
    /// # Errors
    /// As [`Stack::backing_at`].
    pub fn backing_of(&self, origin: &Origin, above: usize) -> Result<Backing> {
        let below = self.layers.iter().take(above);
        let layer = below
            .into_iter()
            .rposition(|layer| layer.id() == origin.layer);
        let path = Arc::from(origin.path.as_path());
        match layer {
            Some(layer) => self.backing_at(&Part { layer, path }),
            None => {
                let text = format!("{}: layer {} is gone", origin.path.display(), origin.layer);
                Err(Error::new(Errno::EIO, text))
            }
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As readlinkat(2).
    pub fn readlink(&self, link: &Found) -> Result<OsString> {
        let part = &link.parts[0];
        self.layers[part.layer].readlink(&part.path)
    }

    /// All extended attributes with their values, sorted by name, as a view
    /// shows them.
    ///
    /// # Errors
    /// As llistxattr(2) and lgetxattr(2).
    pub fn xattrs(&self, entry: &Found) -> Result<BTreeMap<OsString, Vec<u8>>> {
        let part = &entry.parts[0];
        let layer = &self.layers[part.layer];
        let mut all = BTreeMap::new();
        for name in layer.xattrs(&part.path)? {
            if let Some(value) = layer.xattr(&part.path, &name)? {
                all.insert(name, value);
            }
        }
        Ok(all)
    }
}

/// Adds what `above` change to the number of names of an inode.
fn count_links<'a>(
    mut nlink: u32,
    ino: Ino,
    above: impl Iterator<Item = &'a HashMap<Ino, i64>>,
) -> u32 {
    for changes in above {
        if let Some(change) = changes.get(&ino) {
            let sum = i64::from(nlink) + change;
            nlink = u32::try_from(sum.max(0)).unwrap_or(u32::MAX);
        }
    }
    nlink
}

impl LayerSet for Stack {
    type Error = Error;

    fn depth(&self) -> usize {
        self.layers.len()
    }

    fn entry(&self, layer: usize, path: &Path) -> Result<Option<Entry>> {
        let mut entry = self.layers[layer].entry(path)?;
        if let Some(Entry::Present(attr, _)) = &mut entry
            && attr.kind != Kind::Dir
        {
            let above = self.layers[layer + 1..]
                .iter()
                .map(|layer| layer.link_changes());
            attr.nlink = count_links(attr.nlink, attr.ino, above);
        }
        Ok(entry)
    }

    fn names(&self, layer: usize, path: &Path) -> Result<Vec<Name>> {
        self.layers[layer].names(path)
    }
}
