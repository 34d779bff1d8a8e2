//! A copy-on-write workspace filesystem for CI stages.
//!
//! A stage is a stack of immutable layers with one open layer on top; every
//! step works in a view of its own and is merged when it succeeds. The floors
//! of this crate point one way: `cli` > `cache` > `overlay` > `daemon` > `control` >
//! `fuse` > `export` > `store` > `stage` > `view` > `layer` > `stagefile` > `merge` >
//! `tree` > `sys`.

pub mod cache;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod drive;
pub mod error;
pub mod export;
pub mod fuse;
pub mod layer;
pub mod merge;
pub mod overlay;
pub mod stage;
pub mod stagefile;
pub mod store;
pub mod sys;
pub mod tree;
pub mod view;
