//! The three-way merge: base, stage, step.
//!
//! Pure: everything is decided on the two [`Delta`]s handed in, and questions about content go
//! through [`Compare`], which the floor above answers, for the paths that both sides have to do
//! with and for no other. [`classify`] finds the conflicts and lets the [`Policies`] decide them;
//! its [`JoinPlan`] says what has to lie above the step's layer so that the stack shows the
//! merged tree.
//!
//! # The rules
//!
//! A side *changed* a path if type, content, link target, mode, owner or extended attributes
//! differ from the base. Other times, and a copy-up that came to nothing, are no change. One side
//! changed it: its version is taken. Both changed it alike: that version is taken. Otherwise it
//! is a conflict of one [`Class`], ancestors first: a tree conflict is reported once, and nothing
//! below it again. Two directories never conflict, their names unite; only their own metadata
//! may. Where no conflict is reported, and the step saw nothing that the stage changed ([`races`]),
//! the result is what running the steps one after another would have given.
//!
//! A rename of a directory is one change at two paths. If the other side changed something below
//! the old one, the conflict is reported where the step has the directory now or, if the stage
//! renamed it, at the old path. Both paths are decided together.
//!
//! An inode with several names is one inode in both sides' views. A name is added and removed like
//! any other; a further name is no change of the inode. If one side changed the inode, all names
//! show that. If both did, and their names differ, the names are decided together; one that only
//! the losing side made stays, as a name of the winner's inode.
//!
//! What wins is a side's *view* of the conflict's paths: `last` for a directory takes the whole
//! subtree as the step saw it, and what the stage did below it is gone.

mod caches;
mod change;
mod classify;
mod compare;
mod conflict;
mod delta;
mod groups;
mod links;
mod only;
mod overlap;
mod plan;
mod policy;
mod race;
mod races;
mod report;
mod resolve;
mod session;
mod sharing;
mod suffix;
#[cfg(test)]
mod tests;

pub use change::{Change, Content, Present, Side};
pub use classify::classify;
pub use compare::{Compare, Effect, Facts, Sameness};
pub use conflict::{Class, Conflict, Deed, Hint, Party};
pub use delta::{Delta, Entry};
pub use only::{Selection, part};
pub use plan::{Action, JoinPlan, Links};
pub use policy::{Policies, Policy, PolicyError};
pub use race::{Race, Read};
pub use races::{Observed, Sights, races, read_write};
pub use session::{Inputs, Outcome};
pub use sharing::{SharingMode, UnknownMode};
pub use suffix::SuffixPattern;
