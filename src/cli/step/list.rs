//! `step list`: the steps there are.

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::control::Request;

/// List the steps that run or wait for their turn, and those that are kept to be
/// merged or discarded.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  harness-fs step list --json")]
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
    show(place.ask(&Request::StepList {})?, arguments.json)
}
