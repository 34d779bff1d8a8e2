//! `blame`: who wrote a path.

use std::path::PathBuf;

use super::output::{Trouble, show};
use super::place::{Place, in_tree};
use crate::control::Request;

/// Tell which step last wrote or deleted a path, and which before it.
///
/// Each line says what was done, by whom, in which layer and when, the latest
/// first, down to the base ("original": what the mapped path held at `mount`).
/// Where the path had another name before, the line says so ("from"), and the
/// earlier ones are about that name: a renamed directory or file, and a hard
/// link. Of a directory it is what was done to itself, not to what it holds.
/// PATH is absolute, or relative to the current directory. It need not be there
/// any more. Symbolic links are not followed.
///
/// What is written outside of steps is sealed first, so that it has a layer.
/// Steps that are not merged have written nothing in the stage yet, and are not
/// named.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs blame /harness/out/app
  cd /harness && harness-fs blame package-lock.json --json")]
pub struct Arguments {
    /// A file, a directory or what there was.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments, place: &Place) -> Result<u8, Trouble> {
    let path = in_tree(&arguments.path)?;
    show(place.ask(&Request::Blame { path })?, arguments.json)
}
