//! What the stage needs of the floor that serves views to the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Happening;
use crate::error::Result;
use crate::tree::Ino;
use crate::view::View;

/// Something that the kernel may have cached and that holds no more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invalidation {
    /// A name was added, removed or stands for something else.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name in it.
        name: OsString,
    },
    /// The attributes, content or names of a surviving inode changed.
    Inode(Ino),
}

/// Opens sessions.
pub trait Sessions: Send + Sync {
    /// Serves a view at the directory `at`.
    ///
    /// # Errors
    /// What opening the device or mounting reports; then nothing is mounted.
    fn mount(&self, view: Arc<View>, at: &Path, name: &str) -> Result<Box<dyn Session>>;
}

/// A mounted view.
pub trait Session: Send + Sync {
    /// Unmounts lazily, everywhere, then ends the session's threads. Calling it
    /// again does nothing.
    ///
    /// # Errors
    /// As umount2(2); then the view may still be in use.
    fn unmount(&self) -> Result<()>;

    /// The inodes that somebody can still write past us, once it is unmounted:
    /// who kept a file open that the kernel serves by itself.
    fn held(&self) -> Vec<Ino>;

    /// Makes every request in flight and every later one fail.
    fn abort(&self);

    /// Tells the kernel what to forget, and returns when it has. Called without
    /// a lock of the view, after the view shows the new tree.
    ///
    /// # Errors
    /// What the device reports, but for entries the kernel does not know.
    fn invalidate(&self, changes: Vec<Invalidation>) -> Result<()>;

    /// The inodes that somebody watches with inotify(7).
    fn watched(&self) -> BTreeSet<Ino>;

    /// Tells them what has happened; what cannot be told is logged. Called as
    /// [`Session::invalidate`].
    fn announce(&self, happenings: &[Happening]);

    /// Returns when the kernel has written back what was changed through shared
    /// mappings before the call. Called without a lock of the view: the pages
    /// come as write requests.
    ///
    /// # Errors
    /// What the device reports.
    fn collect_mapped(&self) -> Result<()>;

    /// How many requests were served, by opcode.
    fn requests(&self) -> BTreeMap<String, u64>;

    /// For how long the oldest request in flight has waited.
    fn oldest_request(&self) -> Option<Duration>;

    /// How the view is served, for people.
    fn transport(&self) -> String;
}
