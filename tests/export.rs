//! Export, import and apply on stacks built by hand. Needs root.
#![allow(clippy::unwrap_used)] // a test that unwraps nothing has failed

#[path = "export/apply.rs"]
mod apply;
#[path = "export/chunked.rs"]
mod chunked;
#[path = "export/disks.rs"]
mod disks;
#[path = "export/fixture.rs"]
mod fixture;
#[path = "export/forge.rs"]
mod forge;
#[path = "export/forged_blobs.rs"]
mod forged_blobs;
#[path = "export/frames.rs"]
mod frames;
#[path = "export/hostile.rs"]
mod hostile;
#[path = "export/layouts.rs"]
mod layouts;
#[path = "export/patient.rs"]
mod patient;
#[path = "export/random_access.rs"]
mod random_access;
#[path = "export/round_trip.rs"]
mod round_trip;
#[path = "export/secrets.rs"]
mod secrets;
