//! `diff`: what changed.

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;

/// List what changed in the stage, by a step, or up to a snapshot.
///
/// Without a name: everything since `mount`. With the name of a step that is
/// open or kept: what that step changed. With that of a step that was merged:
/// what its merge changed. With the name of a snapshot: what had changed when
/// it was taken. Where a step and a snapshot have the same name, `step:NAME` or
/// `snapshot:NAME` says which.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs diff
  harness-fs diff build --json")]
pub struct Arguments {
    /// A step or a snapshot.
    #[arg(value_name = "STEP|SNAPSHOT")]
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
