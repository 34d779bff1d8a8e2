//! `cache rm`: forget keys.

use super::super::output::Trouble;
use super::which::InStore;
use crate::cache;

/// Forget keys. What they stand for stays in the store until `cache prune`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The keys.
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    store: InStore,
}

/// Carries it out.
///
/// # Errors
/// One sentence; code 3 if a key is not there.
pub fn run(arguments: &Arguments) -> Result<u8, Trouble> {
    let store = arguments.store.open()?;
    for key in &arguments.keys {
        arguments.store.read(&store, key)?;
        let removed = store.delete_ref(&arguments.store.name(key)?);
        removed.map_err(cache::Trouble::from)?;
    }
    Ok(0)
}
