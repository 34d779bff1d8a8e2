//! The stage without a kernel: sessions are fakes, and what a view would write
//! is written into the open layers directly. Needs root, as layers do.
#![allow(clippy::unwrap_used, missing_docs)]

mod blame;
mod cases;
mod crashes;
mod descriptors;
mod groups;
mod history;
mod kept;
mod life;
mod links;
mod merges;
mod program;
mod properties;
mod races;
mod random;
mod rig;
mod rollback;
mod shapes;
mod sharing;
mod shell;
mod snapshots;
