//! `step seal`: makes the layer of an open step.

use std::time::Duration;

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::control::Request;

/// End an open step, and have its changes wait to be merged.
///
/// What `step merge` does first. Another step can begin on what this one has
/// left then, with `step begin --after`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  harness-fs step seal build
  harness-fs step begin package --after build")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
    /// Forget what this pattern does not match, as those of `mount --policy` do; may be repeated.
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
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
    let request = Request::StepSeal {
        step: arguments.step,
        only: arguments.only,
        grace_ms: policy::millis(arguments.grace),
    };
    show(place.ask(&request)?, arguments.json)
}
