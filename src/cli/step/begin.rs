//! `step begin`: opens a step's view.

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::control::Request;

/// Open a private view of the stage, to run commands in with `step exec`.
///
/// It shows the stage as it is now; the stage sees none of what happens in it
/// until `step merge`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  harness-fs step begin build
  harness-fs step exec build -- make
  harness-fs step merge build")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
    /// Print JSON: where the view is mounted.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let request = Request::StepBegin {
        step: arguments.step,
    };
    show(place.ask(&request)?, arguments.json)
}
