//! Ring 2: a view through a real mount, one file per group of operations.
//! Needs root and `/dev/fuse`.

mod content;
mod directories;
mod links;
mod locks;
mod metadata;
mod mounted;
mod names;
mod passthrough;
mod peers;
mod privileges;
mod programs;
