//! `step shell`: enters what a step has left, to look around.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::Duration;

use super::result::{Ran, recorded};
use super::turn;
use crate::cli::output::{Trouble, expect_report, note, unexpected};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::cli::running::{self, Limits};
use crate::control::{Reply, Request};

/// What is run where no variable names a shell.
const SHELL: &str = "/bin/sh";

/// Enter what a step that failed has left, and look around.
///
/// Runs $SHELL, else /bin/sh, or the command after `--`, in a view that shows
/// the state of the stage that the step began on, with the step's changes: what
/// its command saw when it ended. The environment is that of `step exec`, and
/// so is the directory: the current one if that lies in the stage, else the
/// workspace.
///
/// The view can be written to, to try a fix or to run the command again, and
/// is thrown away, with what still runs in it, when the shell ends: the step's
/// changes and the stage stay as they are. There can be several at a time, and
/// the step can be merged or discarded meanwhile. Takes steps that are kept
/// (`--on-failure keep`, `step keep`, a conflict) and those that wait in a
/// group. The view of an open step is entered itself, as by `step exec`: what
/// is changed there is part of the step.
///
/// The exit code is that of the shell or the command, as with `step exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs step run --on-failure keep tests -- npm test
  harness-fs step shell tests
  harness-fs step shell tests -- npm test -- --only-failed")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
    /// How long processes left in the view have to end before they are killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = policy::duration)]
    grace: Duration,
    /// The command, after `--` [default: $SHELL, else /bin/sh].
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments, place: &Place) -> Result<u8, Trouble> {
    recorded(None, &arguments.step, || carry_out(arguments, place))
}

fn carry_out(arguments: &Arguments, place: &Place) -> Result<Ran, Trouble> {
    let mut client = place.connect()?;
    let request = Request::StepShell {
        step: arguments.step.clone(),
        grace_ms: policy::millis(arguments.grace),
    };
    let (view, said) = match turn::ask(&mut client, &request, (&arguments.step, ""), place)? {
        Reply::Entered { view, note, .. } => (view, note),
        other => return Err(unexpected(other, false)),
    };
    let command = if arguments.command.is_empty() {
        note(&said);
        let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
        vec![shell.unwrap_or_else(|| SHELL.into())]
    } else {
        arguments.command.clone()
    };
    let limits = Limits {
        timeout: None,
        grace: arguments.grace,
        // The daemon ends what is left, and names it.
        all: false,
    };
    let (ended, signals) = running::run(&view, &command, limits)?;
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
