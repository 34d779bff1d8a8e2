//! Caches: parts of a tree as an image that grows by what was changed.
//!
//! A cache is an OCI image like those of [`export`](super::export), but its layers
//! hold the saved paths and nothing else, all that shows there: what the base held
//! too. [`save`] writes one more layer onto an image that the stage is known to
//! have had, or a first one; [`unpack`] brings an image back as layers, which
//! [`Placing`](crate::stage::Placing) puts under what the stage goes on to write.

mod content;
mod image;
mod listing;
mod restore;
mod save;

use std::path::PathBuf;

pub use image::{Image, ImageLayer};
pub use listing::{Listed, listed, read_through};
pub use restore::{Terms, Unpacked, unpack};
pub use save::{Parent, SaveOptions, Saved, save};

/// The annotation with the saved paths, a JSON array of absolute paths.
pub const CACHE_PATHS: &str = "io.harness.fs.cache-paths";
/// The annotation that says by which wishes of its user something was left out,
/// or let through; absent if there were none.
pub const FILTER: &str = "io.harness.fs.filter";
/// What the image is, besides an image (image-spec, `manifest.md`).
pub const ARTIFACT_TYPE: &str = "application/vnd.harness.fs.cache.v1";

/// A path that is saved or restored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// As users see it.
    pub shown: PathBuf,
    /// As the layers have it: the index of a mapped path, and what follows.
    pub inner: PathBuf,
}
