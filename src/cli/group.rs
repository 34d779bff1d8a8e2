//! `group`: steps that are merged together.

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;

/// Steps that run at the same time and are merged together.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say which steps belong together, before any of them runs.
    ///
    /// Each is then run with `step run --group`, in any order, at once. When the
    /// last has ended, all that succeeded are merged in the order declared here:
    /// the same steps give the same tree, whoever is faster.
    #[command(after_help = "\
Example:
  harness-fs group declare tests unit lint
  harness-fs step run --group tests unit -- make unit &
  harness-fs step run --group tests lint -- make lint &
  wait")]
    Declare {
        /// The group.
        #[arg(value_name = "GROUP")]
        group: String,
        /// Its steps, in the order of the merge.
        #[arg(value_name = "STEP", required = true)]
        members: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Merge what has ended of a group, without waiting for the rest.
    ///
    /// For a step that was skipped, or a merge that was not possible when the
    /// last step ended. Steps that are running have to end first.
    #[command(after_help = "Example:\n  harness-fs group close tests")]
    Close {
        /// The group.
        #[arg(value_name = "GROUP")]
        group: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget a group; what has ended of it is kept.
    ///
    /// Each of its steps can then be merged or discarded on its own. One that still runs is merged
    /// by itself when it ends.
    #[command(after_help = "Example:\n  harness-fs group rm tests")]
    Rm {
        /// The group.
        #[arg(value_name = "GROUP")]
        group: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(command: Command, place: &Place) -> Result<u8, Trouble> {
    let (request, json) = match command {
        Command::Declare {
            group,
            members,
            json,
        } => (Request::GroupDeclare { group, members }, json),
        Command::Close { group, json } => (Request::GroupClose { group }, json),
        Command::Rm { group, json } => (Request::GroupRemove { group }, json),
    };
    show(place.ask(&request)?, json)
}
