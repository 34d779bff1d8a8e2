//! `harness-fs overlay`: real mounts of real directories, beside the kernel's overlayfs on the same ones.
//! Needs root, `/dev/fuse` and overlayfs.
#![allow(clippy::unwrap_used)] // what is missing here is a failure

mod ends;
mod exchange;
mod helper;
mod kernel;
mod rig;
mod stage;
mod tree;
mod usage;
mod writing;
