//! Layers on disk, and the stack they make.

mod backing;
mod base;
mod block_map;
pub mod copy_up;
mod disk;
mod fill;
mod forget;
mod held;
mod ino;
mod lower;
mod manifest;
mod numbers;
mod open;
mod partial;
mod reads;
mod seal;
mod stack;
mod upper;
mod walk;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::tree::Ino;
use crate::tree::union::{Entry, Name};

pub use backing::Backing;
pub use base::Base;
pub use block_map::{BLOCK, BlockMap, Origin};
pub use disk::{DiskTree, Whiteouts, set_ino};
pub use fill::fill_open;
pub use forget::forget_root;
pub use held::{part_from_writers, replace_by_copy};
pub use ino::Inos;
pub use lower::Lower;
pub use manifest::Manifest;
pub use numbers::DiskNumbers;
pub use open::{LinkState, Manner, OpenLayer, TREE};
pub use partial::Partial;
pub use reads::{read_reads, write_reads};
pub use seal::{
    SealedLayer, finish_seal, read_open, seal, seal_unswept, sweep_or_leave, sweep_sealed,
};
pub use stack::Stack;
pub use upper::{Scratch, settle};
pub use walk::{Visit, walk};

/// An immutable layer: the base, or a sealed diff.
///
/// Paths are relative to the layer's root; their first component is the index
/// of a mapped path. A layer need not be a directory.
pub trait Layer: Send + Sync + Debug {
    /// Its name in the stage; the base is `base`.
    fn id(&self) -> &str;

    /// The entry at `path`; absence is `Ok(None)`.
    ///
    /// # Errors
    /// `EIO` and the like from where the layer is stored.
    fn entry(&self, path: &Path) -> Result<Option<Entry>>;

    /// The names in the directory at `path`, whiteouts among them, in any order.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, or what the storage reports.
    fn names(&self, path: &Path) -> Result<Vec<Name>>;

    /// Opens a file's own content for reading. It cannot be written through.
    ///
    /// # Errors
    /// As openat(2).
    fn open(&self, path: &Path) -> Result<OwnedFd>;

    /// The map of a file, if some of its content lies in a layer below.
    ///
    /// # Errors
    /// `EIO` and the like from where the layer is stored.
    fn block_map(&self, _path: &Path) -> Result<Option<Arc<BlockMap>>> {
        Ok(None)
    }

    /// One path of each file that was so when the layer was sealed.
    ///
    /// # Errors
    /// As for [`Layer::block_map`].
    fn partial_files(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    /// Takes over what a file still has in `below`, for as long as `go_on` says.
    /// Nothing changes that shows. Returns whether all of it is its own.
    ///
    /// # Errors
    /// What the disk reports; it can be repeated.
    fn fill(
        &self,
        _path: &Path,
        _below: &Arc<Backing>,
        _go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        Ok(true)
    }

    /// As [`Layer::open`], for a file that still has content in `below`: the
    /// descriptor reads all of it.
    ///
    /// # Errors
    /// As openat(2), and `ENOSPC` where there is no room for it.
    fn open_whole(&self, path: &Path, below: &Arc<Backing>) -> Result<OwnedFd> {
        self.fill(path, below, &mut || true)?;
        self.open(path)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As readlinkat(2).
    fn readlink(&self, path: &Path) -> Result<OsString>;

    /// An extended attribute under the name it has in a view.
    ///
    /// # Errors
    /// As lgetxattr(2), but for absence, which is `None`.
    fn xattr(&self, path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>>;

    /// The names of the extended attributes as a view shows them.
    ///
    /// # Errors
    /// As llistxattr(2).
    fn xattrs(&self, path: &Path) -> Result<Vec<OsString>>;

    /// By how much this layer changes the number of names of inodes that lie
    /// in layers below it.
    fn link_changes(&self) -> &HashMap<Ino, i64>;
}
