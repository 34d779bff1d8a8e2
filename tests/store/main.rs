//! Stores in directories. Those behind a network are tested with real servers:
//! `tests/store/run`.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod directory;
mod suite;
