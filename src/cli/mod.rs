//! The command line: raw arguments, a checked config, one call, what it says.

mod apply;
mod blame;
mod cache;
mod cat;
mod debug;
mod diff;
mod export;
mod family;
mod group;
mod log;
mod mount;
mod output;
mod overlay;
mod place;
mod policy;
mod program;
mod rollback;
mod running;
mod show;
mod snapshot;
mod stage;
mod status;
mod step;
mod unmount;
mod worker;

use std::ffi::OsString;
use std::io::Read;

use clap::{Parser, Subcommand};
use serde::de::DeserializeOwned;

use crate::{daemon, drive};
use output::Trouble;
use place::Place;

/// harness-fs failed itself in `step run`, `step exec`, `step shell` or `step background`, whose other codes
/// are the command's.
const RUN_FAILED: u8 = 125;

/// A copy-on-write workspace for CI: each step works in a view of its own, and
/// its changes are merged into the workspace when it succeeds.
#[derive(Debug, Parser)]
#[command(
    name = "harness-fs",
    version,
    after_help = EXAMPLES
)]
struct CommandLine {
    #[command(flatten)]
    place: place::Which,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Example:
  harness-fs mount --shared-path /root/.m2    # /harness and /root/.m2 become a stage
  harness-fs step run build -- mvn install    # merged if it succeeds, else as if it never ran
  harness-fs stage run stage.yaml             # or all steps of a stage, as a file says
  harness-fs snapshot create built
  harness-fs export built --to /tmp/built     # an OCI image layout
  harness-fs unmount                          # the directories are as they were

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such stage, step, snapshot, group, slot, layer or path, \
4 conflict, 5 the daemon is gone. `step run`, `exec`, `shell` and `background` give the command's own.";

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::Arguments),
    Unmount(unmount::Arguments),
    #[command(subcommand)]
    Step(step::Command),
    #[command(subcommand)]
    Group(group::Command),
    #[command(subcommand)]
    Stage(stage::Command),
    Diff(diff::Arguments),
    Log(log::Arguments),
    Show(show::Arguments),
    Cat(cat::Arguments),
    Blame(blame::Arguments),
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    Rollback(rollback::Arguments),
    Export(export::Arguments),
    #[command(subcommand)]
    Cache(cache::Command),
    Apply(apply::Arguments),
    Status(status::Arguments),
    #[command(subcommand)]
    Debug(debug::Command),
    Overlay(overlay::Arguments),
    #[command(name = daemon::SUPERVISE, hide = true)]
    Supervise,
    #[command(name = daemon::SERVE, hide = true)]
    Serve,
    #[command(name = drive::WORKER, hide = true)]
    Worker,
    #[command(name = crate::overlay::SERVE, hide = true)]
    OverlayServe,
}

/// Carries out a command line. Returns the exit code.
pub fn run(arguments: Vec<OsString>) -> u8 {
    if let Some(code) = overlay::help_mount(&arguments) {
        return code;
    }
    let runs_a_command = runs_a_command(&arguments);
    if runs_a_command {
        step::result::forget(&arguments);
    }
    let parsed = match CommandLine::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = match (error.use_stderr(), runs_a_command) {
                (false, _) => 0,
                (true, false) => 2,
                (true, true) => RUN_FAILED,
            };
            // A reader that has left is no failure.
            let _ = error.print();
            return code;
        }
    };
    let result = match parsed.command {
        Command::Supervise => return daemon_process(daemon::supervise_detached),
        Command::Serve => return daemon_process(daemon::serve),
        Command::Worker => return worker::run(),
        Command::OverlayServe => return daemon_process(crate::overlay::serve_detached),
        Command::Overlay(arguments) => overlay::run(arguments),
        command => parsed
            .place
            .resolve()
            .and_then(|place| carry_out(command, &place)),
    };
    match result {
        Ok(code) => code,
        Err(trouble) if runs_a_command => {
            trouble.tell();
            match trouble.code {
                output::CONFLICT_OF_RUN => output::CONFLICT_OF_RUN,
                _ => RUN_FAILED,
            }
        }
        Err(trouble) => {
            trouble.tell();
            trouble.code
        }
    }
}

fn carry_out(command: Command, place: &Place) -> Result<u8, Trouble> {
    match command {
        Command::Mount(arguments) => mount::run(arguments, place),
        Command::Unmount(arguments) => unmount::run(arguments, place),
        Command::Step(command) => step::run(command, place),
        Command::Group(command) => group::run(command, place),
        Command::Stage(command) => stage::run(command, place),
        Command::Diff(arguments) => diff::run(arguments, place),
        Command::Log(arguments) => log::run(&arguments, place),
        Command::Show(arguments) => show::run(arguments, place),
        Command::Cat(arguments) => cat::run(&arguments, place),
        Command::Blame(arguments) => blame::run(&arguments, place),
        Command::Snapshot(command) => snapshot::run(command, place),
        Command::Rollback(arguments) => rollback::run(arguments, place),
        Command::Export(arguments) => export::run(arguments, place),
        Command::Cache(command) => cache::run(command, place),
        Command::Apply(arguments) => apply::run(arguments, place),
        Command::Status(arguments) => status::run(&arguments, place),
        Command::Debug(command) => debug::run(command, place),
        // These have no stage, and are done before.
        Command::Overlay(_) | Command::OverlayServe => Ok(2),
        Command::Supervise | Command::Serve | Command::Worker => Ok(2),
    }
}

/// Whether the exit code is to be that of a command the user gave. Asked also
/// of command lines that do not parse.
fn runs_a_command(arguments: &[OsString]) -> bool {
    let step = arguments.iter().position(|argument| argument == "step");
    let next = step.and_then(|step| arguments.get(step + 1));
    next.is_some_and(|next| {
        ["run", "exec", "shell", "background"]
            .iter()
            .any(|name| next == name)
    })
}

/// The parts of the daemon get their config on standard input.
fn daemon_process<C: DeserializeOwned>(serve: impl Fn(&C) -> u8) -> u8 {
    let mut config = Vec::new();
    let read = std::io::stdin().read_to_end(&mut config);
    match read.ok().and_then(|_| serde_json::from_slice(&config).ok()) {
        Some(config) => serve(&config),
        None => 2,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn commands_that_run_commands_are_known_unparsed() {
        let line = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(runs_a_command(&line(
            "harness-fs --stage x step run --what"
        )));
        assert!(runs_a_command(&line("harness-fs step exec")));
        assert!(runs_a_command(&line("harness-fs step shell a")));
        assert!(!runs_a_command(&line("harness-fs step merge a")));
        assert!(!runs_a_command(&line("harness-fs step")));
    }
}
