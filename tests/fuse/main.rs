//! Ring 2: a view through a real mount, one file per group of operations.
//! Needs root and `/dev/fuse`.

mod content;
mod differences;
mod directories;
mod disks;
mod links;
mod locks;
mod markers;
mod metadata;
mod mounted;
mod names;
mod passthrough;
mod peers;
mod privileges;
mod programs;
