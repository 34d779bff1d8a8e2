//! `step`: run something in a view of its own.

mod background;
mod begin;
mod discard;
mod exec;
mod keep;
mod list;
mod merge;
mod reset;
pub mod result;
mod run;
mod seal;
mod shell;
mod stop;
mod turn;

use super::output::Trouble;
use super::place::Place;

/// Run something in a private view of the stage, and merge what it changed.
///
/// `run` does it all. `begin`, `exec`, `merge`, `keep` and `discard` are the
/// same one at a time, for orchestrators. `background` is for services, which
/// live in the stage itself.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Run(run::Arguments),
    Begin(begin::Arguments),
    Exec(exec::Arguments),
    Merge(merge::Arguments),
    Seal(seal::Arguments),
    Keep(keep::Arguments),
    Reset(reset::Arguments),
    Discard(discard::Arguments),
    Shell(shell::Arguments),
    Background(background::Arguments),
    Stop(stop::Arguments),
    List(list::Arguments),
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(command: Command, place: &Place) -> Result<u8, Trouble> {
    match command {
        Command::Run(arguments) => run::run(&arguments, place),
        Command::Begin(arguments) => begin::run(arguments, place),
        Command::Exec(arguments) => exec::run(&arguments, place),
        Command::Merge(arguments) => merge::run(arguments, place),
        Command::Seal(arguments) => seal::run(arguments, place),
        Command::Keep(arguments) => keep::run(arguments, place),
        Command::Reset(arguments) => reset::run(arguments, place),
        Command::Discard(arguments) => discard::run(arguments, place),
        Command::Shell(arguments) => shell::run(&arguments, place),
        Command::Background(arguments) => background::run(&arguments, place),
        Command::Stop(arguments) => stop::run(arguments, place),
        Command::List(arguments) => list::run(&arguments, place),
    }
}
