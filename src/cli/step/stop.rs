//! `step stop`: ends a background step.

use std::time::Duration;

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::control::Request;

/// End a background step.
///
/// Its processes are told to end, and killed after the grace. What it wrote is
/// part of the stage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  harness-fs step stop db")]
pub struct Arguments {
    /// The background step.
    #[arg(value_name = "NAME")]
    step: String,
    /// How long its processes have to end before they are killed.
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
    let request = Request::StepStop {
        step: arguments.step,
        grace_ms: policy::millis(arguments.grace),
    };
    show(place.ask(&request)?, arguments.json)
}
