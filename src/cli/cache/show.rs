//! `cache show`: what a key stands for.

use super::super::output::{Trouble, print, print_json};
use super::which::{InStore, Told, when};
use crate::cache;
use crate::daemon::bytes;

/// Show what a key stands for: its paths, layers and digests.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The key.
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    store: InStore,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments) -> Result<u8, Trouble> {
    let store = arguments.store.open()?;
    let read = arguments.store.read(&store, &arguments.key)?;
    let created = read.created;
    let stored = cache::read(&store, read)?;
    let told = Told::of(&arguments.store.name(&arguments.key)?, &stored);
    if arguments.json {
        print_json(&told)?;
        return Ok(0);
    }
    let mut text = format!(
        "key       {}\nscope     {}\nsaved     {}\nmanifest  {}\ntree      {}\n",
        told.key,
        told.scope,
        when(created),
        told.manifest,
        told.tree_digest
    );
    for path in &told.paths {
        text.push_str(&format!("path      {path}\n"));
    }
    for layer in &told.layers {
        text.push_str(&format!(
            "layer     {}  {} ({} unpacked), {} entries\n",
            layer.digest,
            bytes(layer.bytes),
            bytes(layer.uncompressed),
            layer.entries
        ));
    }
    print(&text)?;
    Ok(0)
}
