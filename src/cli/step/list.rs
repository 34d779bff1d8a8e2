//! `step list`: the steps there are.

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::control::Request;

/// List the steps that run or wait for their turn, and those that are kept to be
/// merged or discarded.
///
/// With --reads, say instead which steps read what another changed at the same
/// time: of those that were merged lately, and of those that have ended and are
/// not merged. Run one after another they might have come to something else.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs step list --json
  harness-fs step list --reads     # which steps read what a sibling wrote")]
pub struct Arguments {
    /// Say which steps read what another changed at the same time.
    #[arg(long)]
    reads: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments, place: &Place) -> Result<u8, Trouble> {
    let request = Request::StepList {
        reads: arguments.reads,
    };
    show(place.ask(&request)?, arguments.json)
}
