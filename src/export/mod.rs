//! Ways out of a stage, and back in: OCI image layouts and plain directories.
//!
//! [`export`] writes a stack as an OCI image, one layer per sealed layer;
//! [`import`] reads such an image into sealed layers; [`apply`] writes the tree
//! that a stack shows into an ordinary directory, [`InPlace`] into the very
//! directories that the stack lies on. What leaves the machine passes one
//! [`guard`].

mod ahead;
mod apply;
pub mod cache;
pub mod chunked;
mod content;
pub mod guard;
mod in_place;
mod job;
mod layout;
mod layout_writer;
mod obstacles;
mod paths;
mod place;
mod plan;
mod raw;
mod reader;
mod sparse;
mod tar;
pub mod target;
mod unpack;
mod untar;
mod wanting;
mod writer;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use apply::{ApplyReport, apply, apply_all};
pub use in_place::{InPlace, Unfinished, finish, unfinished};
pub use layout_writer::check_layout;
pub use reader::{Destination, Imported, import};
pub use tar::{Member, What};
pub use wanting::Wanted;
pub use writer::{Compat, ExportOptions, ExportReport, ExportedLayer, export};

/// The annotation with the mapped paths, a JSON array of absolute paths.
pub const MAPPED_PATHS: &str = "io.harness.fs.mapped-paths";
/// The annotation with those of them that are single files, in the same form: a
/// file that is withheld is in no layer, and still no directory. Without any
/// there is none.
pub const SINGLE_FILES: &str = "io.harness.fs.single-files";
/// The annotation that says whether the lowest layer is the base.
pub const BASE: &str = "io.harness.fs.base";
/// The annotation with the digest of a layer's tree, on its descriptor, and of
/// all that an image shows, on its manifest: not of how it is compressed.
pub const TREE_DIGEST: &str = "io.harness.fs.tree-digest";
/// Value of [`BASE`]: the image is complete in itself.
pub const BASE_INCLUDED: &str = "included";
/// Value of [`BASE`]: the layers are meant to lie on a base.
pub const BASE_NONE: &str = "none";

/// Something that was not exported, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its path as users see it.
    #[serde(with = "crate::tree::shown")]
    pub path: PathBuf,
    /// Why, in a few words.
    pub why: String,
}
