//! `group`: steps that are merged together.

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;
use crate::stage::IfOneFails;

/// Steps that run at the same time and are merged together.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say which steps belong together, before any of them runs.
    ///
    /// Each is then run with `step run --group`, in any order, at once. When the
    /// last has ended, all that succeeded are merged in the order declared here:
    /// the same steps give the same tree, whoever is faster. All start from the
    /// state of the stage at which the first of them began.
    ///
    /// A step that failed can be run again, with the same command, until the group
    /// is merged. Whose failure is to count for nothing is run with
    /// `--on-failure merge`.
    #[command(after_help = "\
Examples:
  harness-fs group declare tests unit lint
  harness-fs step run --group tests unit -- make unit &
  harness-fs step run --group tests lint -- make lint &
  wait

  harness-fs group declare tests unit lint --if-one-fails abort")]
    Declare {
        /// The group.
        #[arg(value_name = "GROUP")]
        group: String,
        /// Its steps, in the order of the merge.
        #[arg(value_name = "STEP", required = true)]
        members: Vec<String>,
        /// What becomes of the others if one fails.
        #[arg(long, value_name = "WHAT", value_enum, default_value = "merge-others")]
        if_one_fails: IfOneFails,
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
    /// End what runs of a group, and merge nothing of it.
    ///
    /// Steps that run are told to end, killed after their `--grace`, and discarded,
    /// or kept with `--on-failure keep`; their command lines exit with 122. Steps
    /// that had succeeded are discarded. No other step of the group can begin, until
    /// it is declared anew. What `--if-one-fails abort` does by itself.
    #[command(after_help = "Example:\n  harness-fs group abort tests")]
    Abort {
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
            if_one_fails,
            json,
        } => {
            let request = Request::GroupDeclare {
                group,
                members,
                if_one_fails,
            };
            (request, json)
        }
        Command::Abort { group, json } => (Request::GroupAbort { group }, json),
        Command::Close { group, json } => (Request::GroupClose { group }, json),
        Command::Rm { group, json } => (Request::GroupRemove { group }, json),
    };
    show(place.ask(&request)?, json)
}
