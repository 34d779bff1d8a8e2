//! What the join layer has to hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Side;

/// One thing to do in the join layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put there what the side's view has at `path`: a whole subtree if that is a directory.
    /// It takes the place of anything that is at `to`; nothing lower shows through.
    Take {
        /// Whose view to read.
        side: Side,
        /// Where, in that view.
        path: PathBuf,
        /// Where it belongs; `path`, unless both sides are kept.
        to: PathBuf,
    },
    /// Hide the name, and all that is below it.
    Remove {
        /// The name to hide.
        path: PathBuf,
    },
    /// Have a directory there, with the metadata that it has in the side's view and none of what
    /// that has in it. It takes the place of anything that is no directory.
    Directory {
        /// Whose view to read.
        side: Side,
        /// The directory.
        path: PathBuf,
    },
    /// Give the directory the metadata (mode, owner, extended attributes) that it has in the
    /// side's view and leave the names in it alone.
    Metadata {
        /// Whose view to read.
        side: Side,
        /// The directory.
        path: PathBuf,
    },
    /// Put there the base's content (if any), then what the stage appended, then what the step
    /// appended. Metadata is the step's.
    Concatenate {
        /// The file.
        path: PathBuf,
    },
}

impl Action {
    /// The path in the merged tree that the action decides.
    pub fn target(&self) -> &Path {
        match self {
            Action::Take { to, .. } => to,
            Action::Remove { path }
            | Action::Directory { path, .. }
            | Action::Metadata { path, .. }
            | Action::Concatenate { path } => path,
        }
    }
}

/// Names of one inode of the base, of which the sides have different sets.
///
/// Those of them that show the inode in the merged tree are one file there. Names that a conflict
/// about a directory has decided are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// The inode's number.
    pub inode: u64,
    /// Whose version all names get, as long as one of those shows it.
    pub side: Side,
    /// The names, of both sides.
    pub names: BTreeSet<PathBuf>,
}

/// What a join layer adds above the step's layer, which is pushed unchanged.
///
/// Holds only paths where stacking alone would give another tree than the merged one. Actions
/// are sorted by target, ancestors first, and are to be carried out in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinPlan {
    actions: Vec<Action>,
    links: Vec<Links>,
}

impl JoinPlan {
    /// The actions in order.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// The inodes that must stay one file, to be seen to after the actions.
    pub fn links(&self) -> &[Links] {
        &self.links
    }

    /// Whether no join layer is needed.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.links.is_empty()
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn unite(&mut self, links: Links) {
        self.links.push(links);
    }

    /// Sorts by target. Stable, so that a directory taken whole gets its metadata afterwards.
    pub(super) fn sort(&mut self) {
        self.actions.sort_by(|a, b| a.target().cmp(b.target()));
        self.actions.dedup();
        self.links.sort_by_key(|links| links.inode);
    }
}
