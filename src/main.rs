//! Starts the command line and hands its exit code to the system.

use std::process::ExitCode;

fn main() -> ExitCode {
    harness_fs::sys::process::hear_children();
    ExitCode::from(harness_fs::cli::run(std::env::args_os().collect()))
}
