//! The command line as a black box: what needs no mount.
#![allow(clippy::unwrap_used)]

mod background;
mod bad_input;
mod bundle;
mod caches;
mod callers;
mod clients;
mod dead_stage;
mod depth;
mod group_failures;
mod group_order;
mod groups;
mod help;
mod history;
mod kept;
mod mounted;
mod parts;
mod passthrough;
mod places;
mod protocol;
mod reads;
mod rig;
mod rollback;
mod sharing;
mod shell;
mod stage_outcomes;
mod stage_run;
mod suffixes;
mod untold;
