//! `step discard`: forgets what a step changed.

use std::time::Duration;

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::control::Request;

/// Forget what a step changed; the stage stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  harness-fs step discard build")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
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
    let request = Request::StepDiscard {
        step: arguments.step,
        grace_ms: policy::millis(arguments.grace),
    };
    show(place.ask(&request)?, arguments.json)
}
