//! The questions about content that a merge asks of the floor above.

use std::path::Path;

use serde::Serialize;

use super::Side;

/// How a side's entry differs from what it covers in the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Not at all, or in its times only: a copy-up that came to nothing.
    Nothing,
    /// In mode, owner or extended attributes, with equal content.
    Metadata,
    /// In type, content, link target or device number.
    Content,
}

/// How the entries of the two sides differ from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// Not at all, or in their times only.
    Identical,
    /// Equal content, other metadata.
    SameContent,
    /// Other content.
    Different,
}

/// What a report says about one side's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Length in bytes.
    pub size: u64,
    /// Digest of the content, such as `sha256:…`, where the caller has it or wants to compute it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Answers questions about content, as lazily as it likes.
///
/// Only paths that both sides have to do with are asked about, so a merge of two large layers
/// that touch different files reads nothing. Paths have the form they have in a
/// [`Delta`](super::Delta) and are to be looked up in the named side's *view*: the base with that
/// side's layers above it.
pub trait Compare {
    /// What a failed look-up yields.
    type Error;

    /// How the side's entry differs from what it covers in the base: the same path or, below a
    /// directory that the side renamed, the path it had before. For a directory only its own
    /// metadata counts. Asked only where the kind has stayed the same.
    fn effect(&mut self, side: Side, path: &Path) -> Result<Effect, Self::Error>;

    /// How the two sides' entries, of one kind, differ. For directories only their own metadata
    /// counts: [`Sameness::SameContent`] says that it differs.
    fn same(&mut self, path: &Path) -> Result<Sameness, Self::Error>;

    /// How an inode of the base differs, in the side's view, from what it is there. `name` is one
    /// of the names it has in that view; in the base it may have others.
    fn inode(&mut self, side: Side, inode: u64, name: &Path) -> Result<Effect, Self::Error>;

    /// As [`Compare::same`], for an inode that the sides may have under different names.
    fn same_inode(&mut self, stage: &Path, step: &Path) -> Result<Sameness, Self::Error>;

    /// Whether the base's content (empty if there was no file) is a prefix of both sides'.
    fn appended(&mut self, path: &Path) -> Result<bool, Self::Error>;

    /// Whether the side's view has anything at the path.
    fn exists(&mut self, side: Side, path: &Path) -> Result<bool, Self::Error>;

    /// Size and digest of the side's file, for reports.
    fn facts(&mut self, _side: Side, _path: &Path) -> Result<Option<Facts>, Self::Error> {
        Ok(None)
    }
}
