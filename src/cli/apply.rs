//! `apply`: the stage's tree as an ordinary directory.

use std::path::PathBuf;

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;

/// Write the stage's workspace into an ordinary directory.
///
/// The directory is created if it is missing, and afterwards equals the
/// workspace. One that is not empty is refused without --replace. With --all
/// this holds for each mapped path's own place in the directory; nothing else
/// in it is touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  harness-fs apply /out")]
pub struct Arguments {
    /// The directory, outside of the stage.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Write every mapped path, each below its own name: DIR/harness, DIR/root/.m2.
    #[arg(long)]
    all: bool,
    /// Remove what is there besides.
    #[arg(long)]
    replace: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let mut client = place.connect()?;
    let (all, replace) = (arguments.all, arguments.replace);
    let dir = place.to_replace(&mut client, &arguments.dir, all, replace)?;
    show(client.ask(&Request::Apply { dir, all })?, arguments.json)
}
