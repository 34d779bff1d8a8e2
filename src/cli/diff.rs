//! `diff`: what changed.

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;

/// List what changed in the stage, by a step, up to a snapshot, or between two moments.
///
/// Without a name: everything since `mount`. With the name of a step that is
/// open or kept: what that step changed. With that of a step that was merged:
/// what its merge changed. With the name of a snapshot: what had changed when
/// it was taken. Where a step and a snapshot have the same name, `step:NAME` or
/// `snapshot:NAME` says which.
///
/// With A..B: what differs in B from A. Each is a snapshot, a layer (the tree
/// with it on top), a step (its newest layer, and what its merge decided),
/// `base` for what the mapped paths held at `mount`, or empty for now.
///
/// Each line is a path: A added, M modified, m metadata (mode, owner, extended
/// attributes), D deleted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs diff
  harness-fs diff build --json
  harness-fs diff tested..          # since the snapshot
  harness-fs diff base..000003")]
pub struct Arguments {
    /// A step or a snapshot, or two moments.
    #[arg(value_name = "STEP|SNAPSHOT|A..B")]
    of: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let request = Request::Diff { of: arguments.of };
    show(place.ask(&request)?, arguments.json)
}
