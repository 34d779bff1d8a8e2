//! `status`: what a stage is doing.

use super::output::{Trouble, show};
use super::place::Place;

/// Show the stage: mapped paths, steps, layers, views, the daemon.
///
/// Lists the steps that are kept after a conflict or a failure, how the views
/// are served, and how long the oldest request to the filesystem has waited. A
/// daemon that does not answer for ten seconds is given up, with exit code 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs status
  harness-fs status --json | jq .daemon.pid")]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments, place: &Place) -> Result<u8, Trouble> {
    show(place.status()?, arguments.json)
}
