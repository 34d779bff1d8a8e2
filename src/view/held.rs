//! The end of a view some of whose files others can still write.

use std::path::PathBuf;

use super::View;
use super::node::{Here, UpperAt};
use crate::error::Result;
use crate::layer::replace_by_copy;
use crate::tree::Ino;

impl View {
    /// Parts files of the open layer from whoever writes them past us: the layer
    /// gets copies, which are as the files are now. For a view that nobody uses
    /// through its mount any more. Returns their paths.
    ///
    /// # Errors
    /// What the disk reports, `ENOSPC` above all.
    pub fn part_from_writers(&self, held: &[Ino]) -> Result<Vec<(Ino, PathBuf)>> {
        let state = self.state.write();
        let mut paths = Vec::new();
        for ino in held {
            let Some(node) = self.nodes.get(ino).map(|node| node.clone()) else {
                continue;
            };
            let named = match &node.inner.read().here {
                Here::Upper { at, .. } => *at != UpperAt::Orphan,
                _ => false,
            };
            if let (true, Some(path)) = (named, node.upper_path()) {
                replace_by_copy(&state.open, &path)?;
                node.inner.write().set_file(None);
                paths.push((*ino, node.path()));
            }
        }
        Ok(paths)
    }
}
