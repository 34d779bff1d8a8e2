//! `step background`: a command that lives in the stage view.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::result::{Ran, recorded};
use crate::cli::output::{Trouble, expect_report, note, unexpected};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::cli::running::{self, Limits};
use crate::control::{Reply, Request};

/// Run a service, such as a database or a development server, beside the steps.
///
/// The command lives in the stage view: what it writes is in the stage at once,
/// and it sees what is merged as it happens, also what it watches with inotify.
/// It keeps its files open across merges and snapshots; a step that has changed a
/// file that it has open for writing is not merged (conflict class `busy`).
///
/// This command line stays while it runs, and passes signals on to it. Steps begin
/// and end meanwhile. It ends by itself, with `step stop NAME`, or at the end of
/// the stage: then all of its processes are told to end, and killed after the
/// grace. Also if this command line is killed.
///
/// The exit code is the command's, as with `step exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs step background db -- postgres -D /harness/pgdata &
  harness-fs step run migrate -- make migrate
  harness-fs step stop db")]
pub struct Arguments {
    /// Its name; no step may have the same.
    #[arg(value_name = "NAME")]
    step: String,
    /// How long its processes have to end before they are killed.
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
    let request = Request::StepBackground {
        step: arguments.step.clone(),
        grace_ms: policy::millis(arguments.grace),
    };
    let view = match client.ask(&request)? {
        Reply::Entered { view, .. } => view,
        other => return Err(unexpected(other, false)),
    };
    let limits = Limits {
        timeout: None,
        grace: arguments.grace,
        // The daemon ends what is left, and names it.
        all: false,
    };
    let (ended, signals) = running::run(&view, &arguments.command, limits)?;
    client.send(&Request::StepEnded(ended.clone()))?;
    if signals.beside(client.as_fd()).is_some() {
        // Then what is left is killed at once.
        client.give_up()?;
    }
    let (text, _) = expect_report(client.reply()?, false)?;
    if !text.is_empty() {
        note(&text);
    }
    Ok(Ran {
        ended,
        step: None,
        interrupted: None,
    })
}
