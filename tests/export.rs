//! Export, import and apply on stacks built by hand. Needs root.
#![allow(clippy::unwrap_used)] // a test that unwraps nothing has failed

#[path = "export/apply.rs"]
mod apply;
#[path = "export/disks.rs"]
mod disks;
#[path = "export/fixture.rs"]
mod fixture;
#[path = "export/forge.rs"]
mod forge;
#[path = "export/hostile.rs"]
mod hostile;
#[path = "export/layouts.rs"]
mod layouts;
#[path = "export/patient.rs"]
mod patient;
#[path = "export/round_trip.rs"]
mod round_trip;
#[path = "export/secrets.rs"]
mod secrets;
