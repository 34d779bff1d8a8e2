//! What one side did at one path.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::tree::Kind;

/// One of the two sides of a merge.
///
/// The stage is the earlier: what was pushed since the step began. The step is the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The layers pushed since the step began.
    Stage,
    /// The layer being merged.
    Step,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::Stage => Side::Step,
            Side::Step => Side::Stage,
        }
    }
}

/// Where the content of a file in a layer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// In the layer itself. Also the answer for everything that is no regular file.
    #[default]
    Own,
    /// Partly in the layer, partly below it (a partial file).
    Partial,
    /// All below: the layer changed metadata only (metacopy).
    Below,
}

/// What one side did at a path, seen from the base both sides share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The name was removed (a whiteout). Whatever was below is gone with it.
    Deleted {
        /// As [`Present::was`]. `None` is a whiteout over nothing: no change, but it still hides
        /// what the other side put there once it lies on top.
        was: Option<Kind>,
    },
    /// The name is there, in the layer.
    Present(Present),
}

/// An entry that a layer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// What it is now.
    pub kind: Kind,
    /// What the base shows at this name through the *parent* of the entry, `None` if nothing: the
    /// parent's own place for a merged directory, the place it was renamed from for a renamed
    /// one, nothing below an opaque or a new directory.
    pub was: Option<Kind>,
    /// Directories: nothing below shows through. Over no directory it means nothing to the
    /// result, but it hides what the other side put there once it lies on top.
    pub opaque: bool,
    /// Directories: the content below is the base's at that path (a redirect), which uses the
    /// same form as the paths of a delta.
    pub redirect_from: Option<PathBuf>,
    /// Regular files: where the content is.
    pub content: Content,
    /// The inode's number where it has more than one name, in the base or in the layer. The same
    /// number on both sides means the same inode of the base.
    pub link: Option<u64>,
}

impl Present {
    /// A plain entry: content of its own, one name, neither opaque nor renamed.
    pub fn new(kind: Kind, was: Option<Kind>) -> Present {
        Present {
            kind,
            was,
            opaque: false,
            redirect_from: None,
            content: Content::Own,
            link: None,
        }
    }

    /// Where the base keeps what shows through this directory, `None` if nothing of the base does.
    /// `above` is that of the directory it is in, under this name.
    pub fn origin(&self, name: &OsStr, above: Option<&Path>) -> Option<PathBuf> {
        if let Some(from) = &self.redirect_from {
            return Some(from.clone());
        }
        if self.opaque || self.was != Some(Kind::Dir) {
            return None;
        }
        above.map(|above| above.join(name))
    }

    /// Whether this is a directory that took the place of another one (or came from elsewhere),
    /// so that the names below are not the ones that the base has here.
    pub fn replaces_directory(&self) -> bool {
        self.kind == Kind::Dir
            && (self.redirect_from.is_some() || (self.opaque && self.was == Some(Kind::Dir)))
    }
}

impl From<Present> for Change {
    fn from(present: Present) -> Change {
        Change::Present(present)
    }
}

impl Change {
    /// What the base has at this name (see [`Present::was`]).
    pub fn was(&self) -> Option<Kind> {
        match self {
            Change::Deleted { was } => *was,
            Change::Present(present) => present.was,
        }
    }

    /// What the side has at this name, `None` if nothing.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Change::Deleted { .. } => None,
            Change::Present(present) => Some(present.kind),
        }
    }

    /// The entry, if it was not a deletion.
    pub fn present(&self) -> Option<&Present> {
        match self {
            Change::Deleted { .. } => None,
            Change::Present(present) => Some(present),
        }
    }

    /// The entry, if it is a directory.
    pub fn directory(&self) -> Option<&Present> {
        self.present().filter(|present| present.kind == Kind::Dir)
    }

    /// The place the directory was renamed from, if it was.
    pub fn redirect_from(&self) -> Option<&PathBuf> {
        self.present()
            .and_then(|present| present.redirect_from.as_ref())
    }

    /// Whether a change that the other side made below this path has lost the directory it was
    /// made in: the name is gone, is no directory any more, or is another directory.
    pub fn severs(&self) -> bool {
        self.directory().is_none_or(Present::replaces_directory)
    }

    /// Whether the entry, lying on top, hides every name that lower layers have below this path.
    pub fn hides_below(&self) -> bool {
        self.directory()
            .is_none_or(|dir| dir.opaque || dir.redirect_from.is_some())
    }
}
