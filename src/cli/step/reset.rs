//! `step reset`: begins an open step once more.

use std::time::Duration;

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::control::Request;

/// Forget what an open step changed, and begin it once more where it began.
///
/// For a retry with `step exec`: the next command finds the state of the stage
/// that the step began on, whatever was merged or written since. What still
/// runs in the step is ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  harness-fs step begin build
  harness-fs step exec build -- make || { harness-fs step reset build; harness-fs step exec build -- make; }")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
    /// How long processes left in the step have to end before they are killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = policy::duration)]
    grace: Duration,
    /// Print JSON: where the view is mounted.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let request = Request::StepReset {
        step: arguments.step,
        grace_ms: policy::millis(arguments.grace),
    };
    show(place.ask(&request)?, arguments.json)
}
