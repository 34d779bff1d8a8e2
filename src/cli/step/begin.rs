//! `step begin`: opens a step's view.

use std::path::PathBuf;

use super::turn;
use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::control::Request;

/// Open a private view of the stage, to run commands in with `step exec`.
///
/// It shows the stage as it is now; the stage sees none of what happens in it
/// until `step merge`. Where a shared path is `locked` (see `mount --sharing`), the
/// step waits for its turn before it begins, and has that until it is merged, kept or
/// discarded.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  harness-fs step begin build
  harness-fs step exec build -- make
  harness-fs step merge build

  harness-fs step begin build --slot a     # its container runs the commands")]
pub struct Arguments {
    /// The step.
    #[arg(value_name = "NAME")]
    step: String,
    /// A shared path that the step has for itself, whatever its mode: what it changes there is
    /// dropped, and it waits for no turn there. May be repeated.
    #[arg(long, value_name = "PATH")]
    private: Vec<PathBuf>,
    /// Begin on the state that this step began on, not on the stage as it is now. It may have
    /// ended, but not be merged or discarded: so steps that run at once begin alike, whoever
    /// writes to the stage meanwhile.
    #[arg(long, value_name = "STEP")]
    like: Option<String>,
    /// Begin on what this step has left, which has ended and is not merged yet. The two are then
    /// merged together: `step merge STEP NAME`.
    #[arg(long, value_name = "STEP", conflicts_with = "like")]
    after: Option<String>,
    /// Show it to the containers that have this slot of the stage bound, until it is merged, kept
    /// or discarded; see `mount --slot`.
    #[arg(long, value_name = "SLOT")]
    slot: Option<String>,
    /// Print JSON: where the view is mounted.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let request = Request::StepBegin {
        step: arguments.step.clone(),
        tied: false,
        like: arguments.like,
        after: arguments.after,
        private: arguments.private,
        slot: arguments.slot,
    };
    let mut client = place.connect()?;
    let who = (arguments.step.as_str(), turn::PRIVATE);
    let reply = turn::ask(&mut client, &request, who, place)?;
    show(reply, arguments.json)
}
