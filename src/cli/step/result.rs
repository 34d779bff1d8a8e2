//! `--result`: what became of a command and its step, for programs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cli::RUN_FAILED;
use crate::cli::output::{CONFLICT_OF_RUN, Trouble, note};
use crate::cli::place::absolute;
use crate::control::{Ended, Outcome, StepResult};
use crate::error::Error;
use crate::tree::shown::shown;

/// The command took too long.
const TIMED_OUT: u8 = 124;
/// Its group was aborted.
const ABORTED: u8 = 122;
/// The option.
const OPTION: &str = "--result";

/// A command that was run to its end.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// What became of its step, if the step ended with it.
    pub step: Option<StepResult>,
    /// The signal by which the user gave up while the step came to its end.
    pub interrupted: Option<Signal>,
}

impl Ran {
    /// The exit code: the command's own failure comes first.
    fn code(&self) -> u8 {
        let outcome = self.step.as_ref().map(|step| step.outcome);
        if outcome == Some(Outcome::Aborted) {
            // How the command took it says nothing.
            return ABORTED;
        }
        if self.ended.timed_out {
            return TIMED_OUT;
        }
        if self.ended.exit_code != 0 {
            return self.ended.exit_code;
        }
        match (outcome, self.interrupted) {
            // A signal that came too late has changed nothing.
            (None | Some(Outcome::Merged | Outcome::WaitingForGroup), _) => 0,
            (Some(Outcome::Conflict), _) => CONFLICT_OF_RUN,
            (Some(Outcome::Discarded | Outcome::Kept), Some(signal)) => {
                u8::try_from(128 + signal as i32).unwrap_or(RUN_FAILED)
            }
            // It succeeded and was not merged: its processes could not be ended.
            (Some(Outcome::Failed | Outcome::Kept | Outcome::Discarded | Outcome::Aborted), _) => {
                RUN_FAILED
            }
        }
    }
}

/// Runs something, writes what became of it to the file, and gives the exit code:
/// what is done is not done again because of a file.
///
/// # Errors
/// What keeps the file from being written, before anything is run, and what it
/// failed with.
pub fn recorded(
    file: Option<&Path>,
    step: &str,
    run: impl FnOnce() -> Result<Ran, Trouble>,
) -> Result<u8, Trouble> {
    let file = file.map(ResultFile::new).transpose()?;
    let started = Instant::now();
    let ran = run();
    if let Some(file) = file {
        let result = describe(step, &ran, started.elapsed().as_secs_f64());
        if let Err(error) = file.write(&result) {
            let file = shown(&file.0);
            note(&format!(
                "--result: {file} is not written: {error}; the exit code is that of the step"
            ));
        }
    }
    ran.map(|ran| ran.code())
}

fn describe(step: &str, ran: &Result<Ran, Trouble>, seconds: f64) -> Value {
    let (ran, trouble) = match ran {
        Ok(ran) => (Some(ran), None),
        Err(trouble) => (None, Some(trouble)),
    };
    let ended = ran.map(|ran| &ran.ended);
    let result = ran.and_then(|ran| ran.step.as_ref());
    let interrupted = ran.and_then(|ran| ran.interrupted);
    let outcome = match trouble {
        Some(_) => Some(Outcome::Failed),
        None => result.map(|result| result.outcome),
    };
    let message = match trouble {
        Some(trouble) => trouble.message(),
        None => result.map_or("", |result| &result.text),
    };
    json!({
        "step": step,
        "exit_code": ended.map(|ended| ended.exit_code),
        "signal": ended.and_then(|ended| ended.signal),
        "timed_out": ended.is_some_and(|ended| ended.timed_out),
        "interrupted_by": interrupted.map(|signal| signal as i32),
        "outcome": outcome,
        "merged": outcome == Some(Outcome::Merged),
        "conflicts": result.map_or(json!([]), |result| result.conflicts.clone()),
        "races": result.map_or(&[][..], |result| &result.races),
        "survivors": result.map_or(&[][..], |result| &result.survivors),
        "waiting_for": result.map_or(&[][..], |result| &result.waiting_for),
        "seconds": seconds,
        "layer": result.and_then(|result| result.layer.as_ref()),
        "message": message,
    })
}

/// Removes the files that a command line names as `--result`, before anything
/// in it is judged: whoever looks there afterwards must not find what became
/// of an earlier step.
pub fn forget(arguments: &[OsString]) {
    let own = arguments.iter().take_while(|argument| *argument != "--");
    let mut own = own.map(OsString::as_os_str);
    while let Some(argument) = own.next() {
        let file = if argument == OPTION {
            own.next()
        } else {
            let value = argument.as_bytes().strip_prefix(OPTION.as_bytes());
            let value = value.and_then(|value| value.strip_prefix(b"="));
            value.map(OsStr::from_bytes)
        };
        if let Some(file) = file.map(Path::new)
            && is_plain(file)
        {
            // Whether one can be written there is seen later.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Whether a file is there that can be replaced.
fn is_plain(file: &Path) -> bool {
    std::fs::symlink_metadata(file).is_ok_and(|meta| meta.is_file())
}

/// Whether something else is there, such as `/dev/stdout`, which is written to.
fn is_other(file: &Path) -> bool {
    std::fs::symlink_metadata(file).is_ok_and(|meta| !meta.is_file())
}

/// Where the result goes: an absolute path, for it is written when everything
/// is over.
#[derive(Debug)]
struct ResultFile(PathBuf);

impl ResultFile {
    /// Sees whether a file can be made there. It is not kept until the end: in
    /// the stage's own directories the step would see it.
    fn new(file: &Path) -> Result<ResultFile, Trouble> {
        let refuse = |why: Option<Error>| {
            let why = why.map_or_else(String::new, |error| format!(" ({error})"));
            let text = format!("--result: no file can be written at {}{why}", shown(file));
            Err(Trouble::new(2, text))
        };
        let result = ResultFile(absolute(file)?);
        if result.0.is_dir() {
            return refuse(None);
        }
        if is_other(&result.0) {
            return Ok(result);
        }
        let temporary = result.temporary();
        match File::create(&temporary).and_then(|_| std::fs::remove_file(&temporary)) {
            Ok(()) => Ok(result),
            Err(error) => refuse(Some(error.into())),
        }
    }

    /// Writes the result; nobody finds a part of it.
    ///
    /// # Errors
    /// As write(2) and rename(2).
    fn write(&self, result: &Value) -> Result<(), Error> {
        let text = format!("{result:#}\n");
        if is_other(&self.0) {
            return Ok(std::fs::write(&self.0, text)?);
        }
        let temporary = self.temporary();
        let written = File::create(&temporary)
            .and_then(|mut out| out.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&temporary, &self.0));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        Ok(written?)
    }

    fn temporary(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.0.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        self.0.with_file_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(exit_code: u8, timed_out: bool, outcome: Outcome, signal: Option<Signal>) -> u8 {
        let ended = Ended {
            started: true,
            exit_code,
            signal: None,
            timed_out,
        };
        let step = StepResult {
            outcome,
            text: String::new(),
            conflicts: json!([]),
            survivors: Vec::new(),
            layer: None,
            waiting_for: Vec::new(),
            races: Vec::new(),
        };
        let ran = Ran {
            ended,
            step: Some(step),
            interrupted: signal,
        };
        ran.code()
    }

    #[test]
    fn the_commands_failure_comes_first() {
        assert_eq!(code(0, false, Outcome::Merged, None), 0);
        assert_eq!(code(0, false, Outcome::WaitingForGroup, None), 0);
        assert_eq!(code(0, false, Outcome::Conflict, None), 121);
        assert_eq!(code(0, false, Outcome::Kept, None), 125);
        assert_eq!(code(7, false, Outcome::Conflict, None), 7);
        assert_eq!(code(3, false, Outcome::Merged, None), 3);
        assert_eq!(code(143, true, Outcome::Discarded, None), 124);
        assert_eq!(code(143, false, Outcome::Aborted, None), 122);
        assert_eq!(code(0, false, Outcome::Aborted, None), 122);
        assert_eq!(code(0, true, Outcome::Discarded, None), 124);
        let int = Some(Signal::SIGINT);
        assert_eq!(code(0, false, Outcome::Discarded, int), 130);
        assert_eq!(code(0, false, Outcome::Kept, int), 130);
        assert_eq!(code(0, false, Outcome::Merged, int), 0);
        assert_eq!(code(7, false, Outcome::Discarded, int), 7);
    }

    #[test]
    fn earlier_results_are_forgotten_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b", "kept", "of-the-command"] {
            std::fs::write(path(name), "old").unwrap();
        }
        std::os::unix::fs::symlink(path("kept"), path("link")).unwrap();
        let line = [
            "harness-fs".into(),
            "step".into(),
            OPTION.into(),
            path("a").into_os_string(),
            format!("{OPTION}={}", path("b").display()).into(),
            OPTION.into(),
            path("link").into_os_string(),
            "--".into(),
            OPTION.into(),
            path("of-the-command").into_os_string(),
        ];
        forget(&line);
        let left = ["a", "b", "kept", "of-the-command"].map(|name| path(name).exists());
        assert_eq!(left, [false, false, true, true]);
        ResultFile::new(&path("link"))
            .unwrap()
            .write(&json!({}))
            .unwrap();
        assert_eq!(std::fs::read_to_string(path("kept")).unwrap(), "{}\n");
        ResultFile::new(&path("a"))
            .unwrap()
            .write(&json!([]))
            .unwrap();
        assert_eq!(std::fs::read_to_string(path("a")).unwrap(), "[]\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
