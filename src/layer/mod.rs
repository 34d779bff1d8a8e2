//! Layers on disk, and the stack they make.

mod base;
pub mod copy_up;
mod disk;
mod forget;
mod held;
mod ino;
mod manifest;
mod open;
mod reads;
mod seal;
mod stack;
mod walk;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::error::Result;
use crate::tree::Ino;
use crate::tree::union::{Entry, Name};

pub use base::Base;
pub use disk::{DiskTree, Whiteouts, set_ino};
pub use forget::forget_root;
pub use held::{part_from_writers, replace_by_copy};
pub use ino::Inos;
pub use manifest::Manifest;
pub use open::{LinkState, OpenLayer, TREE};
pub use reads::{read_reads, write_reads};
pub use seal::{
    SealedLayer, finish_seal, read_open, seal, seal_unswept, sweep_or_leave, sweep_sealed,
};
pub use stack::Stack;
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
