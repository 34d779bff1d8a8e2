//! `step run`: a command in a view of its own, merged if it succeeds.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::result::{Ran, recorded};
use super::turn;
use crate::cli::RUN_FAILED;
use crate::cli::output::{Trouble, note, unexpected};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::cli::running::{self, Limits};
use crate::control::{Ended, OnFailure, Reply, Request, RunRequest};
use crate::merge::{Policy, SuffixPattern};
use crate::stage::survivors;

/// Run a command in a private view of the stage; merge its changes if it succeeds.
///
/// The command starts in the current directory if that lies in the stage, else
/// in the workspace. If it fails, the stage is as if it had never run. Processes
/// it leaves behind are ended, and named, before its changes are sealed.
///
/// The exit code is the command's: 128+N for signal N, 126 if it cannot be
/// executed, 127 if there is none. 121: it succeeded, but its changes conflict
/// with others; its layer is kept for `step merge`. 122: it was ended, as its
/// group was aborted. 124: it took too long.
/// 125: harness-fs itself failed.
///
/// Where a shared path is `locked` (see `mount --sharing`), the step waits for its turn
/// before it begins, and has that until the command has ended, with all that it has left
/// behind. The wait does not count for --timeout.
///
/// A signal is passed on to the command. Once that has ended, a signal (^C)
/// gives the step up: it is discarded, or kept with --on-failure keep.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs step run build -- make
  harness-fs step run --timeout 20m --on-failure keep tests -- npm test
  harness-fs step run --group tests unit -- make unit     # see `group declare`

The command finds the workspace in HARNESS_WORKSPACE and DRONE_WORKSPACE, and the \
step's name in HARNESS_FS_STEP.")]
pub struct Arguments {
    /// The step; a name that was merged or discarded can be used again.
    #[arg(value_name = "NAME")]
    step: String,
    /// The group it was declared in.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// What becomes of its changes if the command fails.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "discard")]
    on_failure: OnFailure,
    /// What to do about every path that both sides changed [default: by path, else fail].
    #[arg(long, value_name = "POLICY", value_parser = policy::parser())]
    on_conflict: Option<Policy>,
    /// How keep-both names its version; see `mount` [default: as mounted].
    #[arg(long, value_name = "PATTERN")]
    keep_both_as: Option<SuffixPattern>,
    /// Merge nothing if it read what another changed at the same time;
    /// --strict=false: merge all the same [default: as mounted].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    strict: Option<bool>,
    /// How long processes it leaves behind have to end before they are killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = policy::duration)]
    grace: Duration,
    /// End the command after this time; it fails with exit code 124.
    #[arg(long, value_name = "TIME", value_parser = policy::duration)]
    timeout: Option<Duration>,
    /// A shared path that the step has for itself, whatever its mode: what it changes there is
    /// dropped, and it waits for no turn there. May be repeated.
    #[arg(long, value_name = "PATH")]
    private: Vec<PathBuf>,
    /// Write what became of the step to this file, as JSON.
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
    let request = Request::StepRun(RunRequest {
        step: arguments.step.clone(),
        group: arguments.group.clone(),
        on_failure: arguments.on_failure,
        on_conflict: arguments.on_conflict,
        keep_both_as: arguments.keep_both_as.clone(),
        strict: arguments.strict,
        grace_ms: policy::millis(arguments.grace),
        private: arguments.private.clone(),
    });
    let who = (arguments.step.as_str(), turn::PRIVATE);
    let (view, others, said) = match turn::ask(&mut client, &request, who, place)? {
        Reply::Entered { view, others, note } => (view, others, note),
        other => return Err(unexpected(other, false)),
    };
    if !said.is_empty() {
        note(&said);
    }
    if !others.is_empty() {
        note(&format!(
            "step '{}' runs at the same time as {} without being in a group with it: each is merged \
             when it ends (`group declare` gives a fixed order)",
            arguments.step,
            others.join(", ")
        ));
    }
    let limits = Limits {
        timeout: arguments.timeout,
        grace: arguments.grace,
        // The daemon ends what is left, and names it.
        all: false,
    };
    let (ended, signals) = match running::run(&view, &arguments.command, limits) {
        Ok(ran) => ran,
        Err(error) => {
            // The view is of no use; the daemon forgets it.
            let not_started = Ended {
                started: false,
                exit_code: RUN_FAILED,
                signal: None,
                timed_out: false,
            };
            let _ = client.ask(&Request::StepEnded(not_started));
            return Err(error.into());
        }
    };
    client.send(&Request::StepEnded(ended.clone()))?;
    let interrupted = signals.beside(client.as_fd());
    if let Some(signal) = interrupted {
        // It answers nevertheless, with what has become of the step.
        client.give_up()?;
        note(&format!("{}: the step is given up", signal.as_str()));
    }
    let result = match client.reply()? {
        Reply::StepDone(result) => result,
        other => return Err(unexpected(other, false)),
    };
    if let Some(sentence) = survivors::sentence(&result.survivors) {
        note(&sentence);
    }
    if !result.text.is_empty() {
        note(&result.text);
    }
    Ok(Ran {
        ended,
        step: Some(result),
        interrupted,
    })
}
