//! `step exec`: runs a command in an open step.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::result::{Ran, recorded};
use super::turn;
use crate::cli::output::{Trouble, unexpected};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::cli::running::{self, Limits};
use crate::control::{Reply, Request};

/// Run a command in the view of an open step.
///
/// The exit code is the command's: 128+N for signal N, 126 if it cannot be
/// executed, 127 if there is none, 124 if it took too long, 125 if harness-fs
/// itself failed. Signals are passed on to the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs step exec build -- make -j4
  harness-fs step exec build --timeout 20m -- make check")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
    /// End the command, and all that it has started, after this time; the exit code is 124.
    #[arg(long, value_name = "TIME", value_parser = policy::duration)]
    timeout: Option<Duration>,
    /// How long they have to end then before they are killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = policy::duration)]
    grace: Duration,
    /// Write how it ended to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// The command, after `--`.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments, place: &Place) -> Result<u8, Trouble> {
    recorded(arguments.result.as_deref(), &arguments.step, || {
        carry_out(arguments, place)
    })
}

fn carry_out(arguments: &Arguments, place: &Place) -> Result<Ran, Trouble> {
    let mut client = place.connect()?;
    let request = Request::StepExec {
        step: arguments.step.clone(),
    };
    let view = match turn::ask(&mut client, &request, (&arguments.step, ""), place)? {
        Reply::Entered { view, .. } => view,
        other => return Err(unexpected(other, false)),
    };
    let limits = Limits {
        timeout: arguments.timeout,
        grace: arguments.grace,
        all: true,
    };
    let (ended, _signals) = running::run(&view, &arguments.command, limits)?;
    // Until now the connection has kept the step from being merged.
    client.ask(&Request::StepEnded(ended.clone()))?;
    Ok(Ran {
        ended,
        step: None,
        interrupted: None,
    })
}
