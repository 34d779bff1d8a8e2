//! A lower directory of an overlay: whatever is in it, and never written.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use super::{DiskNumbers, DiskTree, Layer};
use crate::error::Result;
use crate::tree::Ino;
use crate::tree::union::{Entry, Name};

static NO_CHANGES: LazyLock<HashMap<Ino, i64>> = LazyLock::new(HashMap::new);

/// A lower directory, through a read-only clone of its mount.
#[derive(Debug)]
pub struct Lower {
    id: String,
    tree: DiskTree,
}

impl Lower {
    /// Shows the directory `root` as the mapped path `lead`; messages call it `id`.
    pub fn new(id: String, root: OwnedFd, lead: OsString, numbers: Arc<DiskNumbers>) -> Lower {
        let tree = DiskTree::of_lower(root, lead, numbers);
        Lower { id, tree }
    }
}

impl Layer for Lower {
    fn id(&self) -> &str {
        &self.id
    }

    fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        self.tree.entry(path)
    }

    fn names(&self, path: &Path) -> Result<Vec<Name>> {
        self.tree.names(path)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd> {
        self.tree.open(path)
    }

    fn readlink(&self, path: &Path) -> Result<OsString> {
        self.tree.readlink(path)
    }

    fn xattr(&self, path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
        self.tree.xattr(path, name)
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<OsString>> {
        self.tree.xattrs(path)
    }

    fn link_changes(&self) -> &HashMap<Ino, i64> {
        &NO_CHANGES
    }
}
