//! `snapshot`: names for states of the stage.

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;

/// Names for states of the stage, to go back to or to export.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Name the present state, all mapped paths at one instant. Takes no time.
    #[command(after_help = "Example:\n  harness-fs snapshot create built")]
    Create(Name),
    /// List the snapshots.
    #[command(after_help = "Example:\n  harness-fs snapshot list --json")]
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget a snapshot; the stage stays as it is.
    #[command(after_help = "Example:\n  harness-fs snapshot rm built")]
    Rm(Name),
    /// Go back to a snapshot; what came after it is gone.
    #[command(after_help = "Example:\n  harness-fs snapshot restore built")]
    Restore(Name),
}

/// Which snapshot.
#[derive(Debug, clap::Args)]
pub struct Name {
    /// The snapshot.
    #[arg(value_name = "NAME")]
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(command: Command, place: &Place) -> Result<u8, Trouble> {
    let (request, json) = match command {
        Command::Create(Name { name, json }) => (Request::SnapshotCreate { name }, json),
        Command::List { json } => (Request::SnapshotList {}, json),
        Command::Rm(Name { name, json }) => (Request::SnapshotRm { name }, json),
        Command::Restore(Name { name, json }) => (Request::SnapshotRestore { name }, json),
    };
    show(place.ask(&request)?, json)
}
