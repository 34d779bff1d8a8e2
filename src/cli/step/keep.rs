//! `step keep`: puts an open step aside.

use std::time::Duration;

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::control::Request;

/// End an open step and keep what it changed, without merging it.
///
/// What `step run --on-failure keep` does with a step that failed, for those
/// who run its commands with `step exec`. The stage stays as it is. `diff NAME`
/// lists what the step changed, `step merge NAME` brings it into the stage
/// after all, `step discard NAME` forgets it and makes way for another run.
/// A group that the step was declared in does not wait for it. Like the layers
/// of failed steps it makes way when there are too many (`mount --keep`).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  harness-fs step begin build
  harness-fs step exec build -- make || harness-fs step keep build
  harness-fs diff build")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
    /// The exit code with which it failed, for `step list` and `log`.
    #[arg(long, value_name = "N")]
    exit_code: Option<u8>,
    /// How long processes left in the step have to end before they are killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = policy::duration)]
    grace: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let request = Request::StepKeep {
        step: arguments.step,
        exit_code: arguments.exit_code,
        grace_ms: policy::millis(arguments.grace),
    };
    show(place.ask(&request)?, arguments.json)
}
