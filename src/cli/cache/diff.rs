//! `cache diff`: how two caches differ.

use super::super::output::{Trouble, print, print_json};
use super::which::InStore;
use crate::cache::{self, Sort};
use crate::tree::shown::shown;

/// Show how what one key stands for differs from what another does.
///
/// Of most layers only the tables of contents are fetched.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The first key.
    #[arg(value_name = "KEY")]
    old: String,
    /// The second.
    #[arg(value_name = "OTHER")]
    new: String,
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
    let read = |key: &str| -> Result<cache::Stored, Trouble> {
        Ok(cache::read(&store, arguments.store.read(&store, key)?)?)
    };
    let (old, new) = (read(&arguments.old)?, read(&arguments.new)?);
    let lines = cache::differences((&store, &old.image), (&store, &new.image))?;
    if arguments.json {
        print_json(&lines)?;
        return Ok(0);
    }
    let mut text = String::new();
    for line in &lines {
        let mark = match line.sort {
            Sort::Added => 'A',
            Sort::Removed => 'D',
            Sort::Changed => 'M',
            Sort::Metadata => 'm',
        };
        text.push_str(&format!("{mark} {}\n", shown(&line.path)));
    }
    print(&text)?;
    Ok(0)
}
