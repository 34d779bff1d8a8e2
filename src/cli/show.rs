//! `show`: what a layer does.

use super::output::{Trouble, show};
use super::place::Place;
use crate::control::Request;

/// Show what a layer adds, changes and deletes.
///
/// First comes what `log` tells of the layer, then a line for each path that
/// differs with it from what lies below it: A added, M modified, m metadata
/// (mode, owner, extended attributes), D deleted. LAYER is an id as `log` lists
/// it, the beginning of one, or a step: its newest layer. What the merge of a
/// step decided has a layer of its own ("join").
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs show build
  harness-fs show 000003 --json")]
pub struct Arguments {
    /// A layer, or a step that has one.
    #[arg(value_name = "LAYER")]
    layer: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let Arguments { layer, json } = arguments;
    show(place.ask(&Request::Show { layer })?, json)
}
