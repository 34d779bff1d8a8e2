//! `cache list`: the keys of a store.

use super::super::output::{Trouble, print, print_json};
use super::which::{InStore, Told, when};
use crate::cache;
use crate::daemon::bytes;
use crate::store::Kind;

/// List the keys of a store, the newest first.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only keys that begin with this.
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,
    #[command(flatten)]
    store: InStore,
    /// The keys of all scopes.
    #[arg(long)]
    all_scopes: bool,
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
    let scope = (!arguments.all_scopes).then_some(arguments.store.scope.as_str());
    let refs = store.list_refs(scope, &arguments.prefix);
    let mut all = Vec::new();
    let mut text = String::new();
    for listed in refs.map_err(cache::Trouble::from)? {
        let read = match store.read_ref(&listed.name) {
            // Somebody has removed it since.
            Err(failure) if failure.kind() == Kind::NotFound => continue,
            read => read.map_err(cache::Trouble::from)?,
        };
        let told = Told::of(&listed.name, &cache::read(&store, read)?);
        let scope = match arguments.all_scopes {
            true => format!("{}  ", told.scope),
            false => String::new(),
        };
        text.push_str(&format!(
            "{}  {:>10}  {scope}{}  {}\n",
            when(listed.modified),
            bytes(told.bytes),
            told.key,
            told.paths.join(" ")
        ));
        all.push(told);
    }
    match arguments.json {
        true => print_json(&all)?,
        false => print(&text)?,
    }
    Ok(0)
}
