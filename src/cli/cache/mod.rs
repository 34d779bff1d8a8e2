//! `cache`: parts of the tree, kept in a store from one stage to the next.

mod diff;
mod list;
pub(super) mod progress;
mod prune;
mod restore;
mod rm;
mod save;
mod show;
mod verify;
pub(super) mod which;

use super::output::{Trouble, unexpected};
use super::place::Place;
use crate::cache;
use crate::store::Kind;

/// Save parts of the tree under a key, and restore them in a later stage.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Save(save::Arguments),
    Restore(restore::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    Diff(diff::Arguments),
    Verify(verify::Arguments),
    Rm(rm::Arguments),
    Prune(prune::Arguments),
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(command: Command, place: &Place) -> Result<u8, Trouble> {
    match command {
        Command::Save(arguments) => save::run(arguments, place),
        Command::Restore(arguments) => restore::run(arguments, place),
        Command::List(arguments) => list::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Rm(arguments) => rm::run(&arguments),
        Command::Prune(arguments) => prune::run(&arguments),
    }
}

/// What a failure of the store itself does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnStoreError {
    /// It is told, and the command succeeds.
    Warn,
    /// The command fails.
    Fail,
}

/// Which of both directions are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    /// Restore only.
    Pull,
    /// Save only.
    Push,
    /// Both.
    PullPush,
}

impl From<cache::Trouble> for Trouble {
    fn from(trouble: cache::Trouble) -> Trouble {
        match trouble {
            cache::Trouble::Store(failure) => {
                let code = match failure.kind() {
                    Kind::Invalid => 2,
                    Kind::NotFound => 3,
                    _ => 1,
                };
                Trouble::new(code, failure.to_string())
            }
            cache::Trouble::Stage(problem) => problem.into(),
            cache::Trouble::Refused(reply) => unexpected(*reply, false),
            cache::Trouble::Here(error) => error.into(),
        }
    }
}
