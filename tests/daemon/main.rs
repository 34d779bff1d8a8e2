//! The program as a black box, with a daemon: its end, deaths at every point,
//! faults, and who reaches what. Each test runs in namespaces of its own.
#![allow(clippy::unwrap_used)]

mod apply;
mod beneath;
mod container;
mod disks;
mod end;
mod fail_points;
mod failing;
mod faults;
mod few_descriptors;
mod given_up;
mod imports;
mod in_place;
mod inherited;
mod interrupted;
mod isolation;
mod left_behind;
mod memory;
mod names;
mod open_files;
mod other_names;
mod partial_files;
mod refusals;
mod rig;
mod silence;
mod slots;
mod threads;
