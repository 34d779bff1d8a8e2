//! `cache verify`: that what a key stands for is whole.

use serde_json::json;

use super::super::output::{Trouble, print, print_json};
use super::progress::Shown;
use super::which::InStore;
use crate::cache;
use crate::daemon::bytes;

/// Fetch all that a key stands for, and see that it is undamaged.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The keys; all of the scope if there are none.
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    store: InStore,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence; all keys are looked at before.
pub fn run(arguments: &Arguments) -> Result<u8, Trouble> {
    let store = arguments.store.open()?;
    let mut keys = arguments.keys.clone();
    if keys.is_empty() {
        let refs = store.list_refs(Some(&arguments.store.scope), "");
        let refs = refs.map_err(cache::Trouble::from)?;
        keys = refs
            .iter()
            .map(|listed| listed.name.key().to_owned())
            .collect();
    }
    let mut all = Vec::new();
    let mut damaged = Vec::new();
    for key in keys {
        let read = arguments.store.read(&store, &key)?;
        match cache::verify(&store, read, &Shown::new(true)) {
            Ok(stored) => {
                let size = stored.image.size();
                if !arguments.json {
                    print(&format!("{key}: undamaged, {}", bytes(size)))?;
                }
                all.push(json!({ "key": key, "undamaged": true, "bytes": size, "why": null }));
            }
            Err(trouble) => {
                let trouble = Trouble::from(trouble);
                let why = trouble.message().to_owned();
                all.push(json!({ "key": key, "undamaged": false, "bytes": null, "why": why }));
                damaged.push(format!("{key}: {why}"));
            }
        }
    }
    if arguments.json {
        print_json(&all)?;
    }
    match damaged.is_empty() {
        true => Ok(0),
        false => Err(Trouble::new(1, damaged.join("\n"))),
    }
}
