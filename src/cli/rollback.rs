//! `rollback`: goes back to the state just after a layer was made.

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;

/// Go back to the state just after a layer; what came after it is gone.
///
/// LAYER is an id as `log` lists it, the beginning of one, or the name of a step
/// that was merged: then its newest layer, with what its merge decided. `base`
/// is the state as it was mounted. Also gone is what was written outside of
/// steps since, but for layers that a snapshot holds: `snapshot create` before
/// leaves a way forward again. All that is taken away is named.
///
/// The stage can be in use: processes in it see the older state at once, and
/// keep the files that they have open. A step that is open, or kept, and began on
/// what is taken away can no longer be merged; it can be looked at, with `diff`
/// or `step shell`, and discarded.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs rollback build               # as just after `build` was merged
  harness-fs rollback 000003
  harness-fs rollback base                # as just after `mount`")]
pub struct Arguments {
    /// A layer of the stage, a step that has one, or `base`.
    #[arg(value_name = "LAYER")]
    layer: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let Arguments { layer, json } = arguments;
    show(place.ask(&Request::Rollback { layer })?, json)
}
