//! Caches between a stage and a store: what is under which key, and the way there and
//! back.
//!
//! The stage makes images and takes them in; it knows nothing of stores. All that
//! speaks to a store runs in the process of who asked, with its credentials and its
//! network.

mod catalogue;
mod image;
mod prune;
mod restore;
mod save;
mod trouble;

pub use catalogue::{Entry, EntryKind, Line, Sort, differences};
pub use image::{Found, Stored, find, read, verify};
pub use prune::{PruneReport, Pruning, prune};
pub use restore::{RestoreReport, RestoreWish, restore};
pub use save::{SaveReport, SaveWish, save};
pub use trouble::Trouble;

/// Is told how far what takes long has come.
pub trait Progress {
    /// So many bytes are to come of what is called this.
    fn begin(&self, what: &str, bytes: u64);
    /// So many more have come.
    fn advance(&self, bytes: u64);
    /// All have.
    fn end(&self);
}
