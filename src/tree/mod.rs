//! The tree as pure data: kinds, attributes, markers, and how layers unite.
//!
//! Nothing here does I/O; layers are reached through [`union::LayerSet`].

pub mod listing;
pub mod marker;
pub mod reads;
pub mod shown;
pub mod union;

pub use crate::sys::inode::{Attr, Ino, Kind, Time};
