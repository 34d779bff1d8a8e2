//! The adapter between the kernel's FUSE requests and a view, and the only
//! place that knows `fuser`.

mod askers;
mod content;
mod convert;
mod filesystem;
mod following;
mod modes;
mod nods;
mod serving;
mod session;
mod slow;
mod stats;
mod turns;
mod workers;

pub use session::{FuseOptions, FuseSession, FuseSessions, mount, mount_with};
