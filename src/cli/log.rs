//! `log`: the layers.

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;

/// List the layers that the tree is made of, newest first.
///
/// Each line says which layer, what made it, what became of the step, when it
/// was sealed, how many entries it adds or changes, how many it deletes, how
/// many bytes it holds, and the snapshots that were taken on top of it. A layer
/// is made by a step; by a merge, for what a policy decided ("join"); by what
/// is written outside of steps, or by background steps ("head"); by `mount
/// --from` ("import"); or it is what the mapped paths held ("base"), which comes
/// last. "not in the tree" are the layers of steps that are not merged, and those
/// that only a snapshot has.
///
/// What is written outside of steps gets its layer when the next step begins,
/// or a snapshot is taken.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs log
  harness-fs log --json")]
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
    show(place.ask(&Request::Log {})?, arguments.json)
}
