//! `step run`: a command in a view of its own, merged if it succeeds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::output::{CONFLICT_OF_RUN, Trouble, note, unexpected};
use crate::cli::place::{Place, absolute};
use crate::cli::policy;
use crate::cli::running::{self, Limits};
use crate::control::{Client, Ended, OnFailure, Outcome, Reply, Request, RunRequest, StepResult};
use crate::merge::Policy;
use crate::stage::survivors;

/// The command took too long.
const TIMED_OUT: u8 = 124;

/// Run a command in a private view of the stage; merge its changes if it succeeds.
///
/// The command starts in the current directory if that lies in the stage, else
/// in the workspace. If it fails, the stage is as if it had never run. Processes
/// it leaves behind are ended, and named, before its changes are sealed.
///
/// The exit code is the command's: 128+N for signal N, 126 if it cannot be
/// executed, 127 if there is none. 121: it succeeded, but its changes conflict
/// with others; its layer is kept for `step merge`. 124: it took too long.
/// 125: harness-fs itself failed.
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
    /// How long processes it leaves behind have to end before they are killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = policy::duration)]
    grace: Duration,
    /// End the command after this time; it fails with exit code 124.
    #[arg(long, value_name = "TIME", value_parser = policy::duration)]
    timeout: Option<Duration>,
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
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let file = arguments.result.as_deref().map(result_file).transpose()?;
    let started = Instant::now();
    let ran = carry_out(&arguments, place);
    if let Some(file) = file {
        let seconds = started.elapsed().as_secs_f64();
        write_result(&file, &describe(&arguments.step, &ran, seconds))?;
    }
    let Ran { ended, result } = ran?;
    Ok(code(&ended, result.outcome))
}

/// A step that was run to its end.
#[derive(Debug)]
struct Ran {
    ended: Ended,
    result: StepResult,
}

fn carry_out(arguments: &Arguments, place: &Place) -> Result<Ran, Trouble> {
    let mut client = place.connect()?;
    let request = Request::StepRun(RunRequest {
        step: arguments.step.clone(),
        group: arguments.group.clone(),
        on_failure: arguments.on_failure,
        on_conflict: arguments.on_conflict,
        grace_ms: policy::millis(arguments.grace),
    });
    let (view, others) = match client.ask(&request)? {
        Reply::Entered { view, others } => (view, others),
        other => return Err(unexpected(other, false)),
    };
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
    };
    let ended = match running::run(&view, &arguments.command, limits) {
        Ok(ended) => ended,
        Err(error) => {
            // The view is of no use; the daemon forgets it.
            let not_started = Ended {
                started: false,
                exit_code: super::super::RUN_FAILED,
                signal: None,
                timed_out: false,
            };
            let _ = finish(&mut client, not_started);
            return Err(error.into());
        }
    };
    if ended.timed_out {
        let timeout = arguments.timeout.unwrap_or_default();
        let timeout = humantime::format_duration(timeout);
        note(&format!(
            "the command was ended for taking longer than {timeout}"
        ));
    }
    let result = finish(&mut client, ended.clone())?;
    if let Some(sentence) = survivors::sentence(&result.survivors) {
        note(&sentence);
    }
    if !result.text.is_empty() {
        note(&result.text);
    }
    Ok(Ran { ended, result })
}

fn finish(client: &mut Client, ended: Ended) -> Result<StepResult, Trouble> {
    match client.ask(&Request::StepEnded(ended))? {
        Reply::StepDone(result) => Ok(result),
        other => Err(unexpected(other, false)),
    }
}

/// The exit code: the command's own failure comes first.
fn code(ended: &Ended, outcome: Outcome) -> u8 {
    if ended.timed_out {
        TIMED_OUT
    } else if ended.exit_code != 0 {
        ended.exit_code
    } else {
        match outcome {
            Outcome::Conflict => CONFLICT_OF_RUN,
            // It succeeded and was not merged: its processes could not be ended.
            Outcome::Failed | Outcome::Kept | Outcome::Discarded => super::super::RUN_FAILED,
            Outcome::Merged | Outcome::WaitingForGroup => 0,
        }
    }
}

/// The result's file, absolute: it is written when everything is over, and it
/// must be seen now whether that can be.
fn result_file(file: &Path) -> Result<PathBuf, Trouble> {
    let file = absolute(file)?;
    if file.parent().is_some_and(Path::is_dir) && !file.is_dir() {
        return Ok(file);
    }
    let text = format!("--result: no file can be written at {}", file.display());
    Err(Trouble::new(2, text))
}

fn describe(step: &str, ran: &Result<Ran, Trouble>, seconds: f64) -> Value {
    match ran {
        Ok(Ran { ended, result }) => json!({
            "step": step,
            "exit_code": ended.exit_code,
            "signal": ended.signal,
            "timed_out": ended.timed_out,
            "outcome": result.outcome,
            "merged": result.outcome == Outcome::Merged,
            "conflicts": result.conflicts,
            "survivors": result.survivors,
            "waiting_for": result.waiting_for,
            "seconds": seconds,
            "layer": result.layer,
            "message": result.text,
        }),
        Err(trouble) => json!({
            "step": step,
            "exit_code": null,
            "signal": null,
            "timed_out": false,
            "outcome": Outcome::Failed,
            "merged": false,
            "conflicts": [],
            "survivors": [],
            "waiting_for": [],
            "seconds": seconds,
            "layer": null,
            "message": trouble.message(),
        }),
    }
}

fn write_result(file: &Path, result: &Value) -> Result<(), Trouble> {
    let text = format!("{result:#}\n");
    std::fs::write(file, text).map_err(|error| {
        let text = format!("--result: write {}: {error}", file.display());
        Trouble::new(1, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit_code: u8, timed_out: bool) -> Ended {
        Ended {
            started: true,
            exit_code,
            signal: None,
            timed_out,
        }
    }

    #[test]
    fn the_commands_failure_comes_first() {
        assert_eq!(code(&ended(0, false), Outcome::Merged), 0);
        assert_eq!(code(&ended(0, false), Outcome::WaitingForGroup), 0);
        assert_eq!(code(&ended(0, false), Outcome::Conflict), 121);
        assert_eq!(code(&ended(0, false), Outcome::Kept), 125);
        assert_eq!(code(&ended(7, false), Outcome::Conflict), 7);
        assert_eq!(code(&ended(3, false), Outcome::Merged), 3);
        assert_eq!(code(&ended(143, true), Outcome::Discarded), 124);
        assert_eq!(code(&ended(0, true), Outcome::Discarded), 124);
    }
}
