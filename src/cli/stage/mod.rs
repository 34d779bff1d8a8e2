//! `stage`: a whole stage at once, as a file says.

mod caching;
mod check;
mod own;
mod run;

use super::output::Trouble;
use super::place::Place;

/// Run a whole stage, as a stage file says.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Run(Box<run::Arguments>),
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(command: Command, place: &Place) -> Result<u8, Trouble> {
    match command {
        Command::Run(arguments) => run::run(&arguments, place),
    }
}
