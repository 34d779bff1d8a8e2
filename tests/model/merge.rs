//! Property tests of `merge/` against trees in memory.
//!
//! A side is a base on which random operations ran. Its delta is *derived* from the result, by
//! rules that are written down here a second time and in another way; what a stack of layers
//! shows is computed from the delta as the kernel's overlayfs does. So classification, plan and
//! the composition of deltas are checked against what a user would see.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "merge/git.rs"]
mod git;
#[path = "merge/layers.rs"]
mod layers;
#[path = "merge/links.rs"]
mod links;
#[path = "merge/properties.rs"]
mod properties;
#[path = "merge/trees.rs"]
mod trees;
