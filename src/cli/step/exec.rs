//! `step exec`: runs a command in an open step.

use std::ffi::OsString;
use std::time::Duration;

use crate::cli::output::{Trouble, unexpected};
use crate::cli::place::Place;
use crate::cli::running::{self, Limits};
use crate::control::{Reply, Request};

/// Run a command in the view of an open step.
///
/// The exit code is the command's: 128+N for signal N, 126 if it cannot be
/// executed, 127 if there is none, 125 if harness-fs itself failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  harness-fs step exec build -- make -j4")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
    /// The command, after `--`.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments, place: &Place) -> Result<u8, Trouble> {
    let mut client = place.connect()?;
    let request = Request::StepExec {
        step: arguments.step.clone(),
    };
    let view = match client.ask(&request)? {
        Reply::Entered { view, .. } => view,
        other => return Err(unexpected(other, false)),
    };
    let limits = Limits {
        timeout: None,
        grace: Duration::ZERO,
    };
    let ended = running::run(&view, &arguments.command, limits)?;
    // Until now the connection has kept the step from being merged.
    client.ask(&Request::StepEnded(ended.clone()))?;
    Ok(ended.exit_code)
}
