//! `unmount`: ends a stage.

use std::path::PathBuf;

use super::output::{Trouble, note, print, print_json, unexpected};
use super::place::Place;
use crate::control::{Client, Problem, Reply, Request, STAGE_FILE};
use crate::daemon::{self, StateLock};
use crate::error::Context;

/// End the stage: its steps, views, mounts and state.
///
/// Afterwards the mapped directories show what they held before `mount`. Prints
/// what is discarded with the stage.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs unmount
  harness-fs unmount --apply /out      # first write the tree there
  harness-fs unmount --keep-state      # `mount --resume` brings it back")]
pub struct Arguments {
    /// First write the workspace into this directory, as `apply` does; if that fails, the stage stays.
    #[arg(long, value_name = "DIR")]
    apply: Option<PathBuf>,
    /// Remove what the directory of --apply holds besides; a mapped path needs no such permission.
    #[arg(long, requires = "apply")]
    replace: bool,
    /// Keep the state for `mount --resume`.
    #[arg(long)]
    keep_state: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let needs_daemon = arguments.apply.is_some() || arguments.keep_state;
    let mut client = match place.connect() {
        Ok(client) => client,
        Err(Problem::Gone(text)) if !needs_daemon => {
            note(&text.replace(
                ": `harness-fs mount --resume` continues with all that was acknowledged",
                "",
            ));
            return forget(place);
        }
        // Kept state that nobody wants any more.
        Err(Problem::NoStage(_)) if !needs_daemon && place.state_dir.join(STAGE_FILE).exists() => {
            return forget(place);
        }
        Err(problem) => return Err(problem.into()),
    };
    let apply = match &arguments.apply {
        Some(dir) => Some(place.to_replace(&mut client, dir, arguments.replace)?),
        None => None,
    };
    // Not to be in the way ourselves.
    std::env::set_current_dir("/").context(|| "/")?;
    let request = Request::Unmount {
        keep_state: arguments.keep_state,
        apply,
    };
    let reply = client.ask(&request)?;
    finish(&client, reply, arguments.json)
}

fn finish(client: &Client, reply: Reply, json: bool) -> Result<u8, Trouble> {
    match reply {
        Reply::Report { text, data } => {
            if json {
                print_json(&data)?;
            } else {
                print(&text)?;
            }
            if client.wait_for_the_end() {
                Ok(0)
            } else {
                Err(Trouble::new(
                    1,
                    "the stage is unmounted, but its daemon does not end",
                ))
            }
        }
        other => Err(unexpected(other, json)),
    }
}

/// Removes what a stage without a daemon has left.
fn forget(place: &Place) -> Result<u8, Trouble> {
    let dir = &place.state_dir;
    let lock = StateLock::take(dir, dir)?;
    let _server = StateLock::of_server(dir)?;
    daemon::clean(dir, &place.label)?;
    daemon::remove_state(dir)?;
    drop(lock);
    print(&format!(
        "discarded the state of the stage '{}'",
        place.label
    ))?;
    Ok(0)
}
