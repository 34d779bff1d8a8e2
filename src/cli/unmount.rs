//! `unmount`: ends a stage.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde_json::json;

use super::output::{Trouble, note, print, print_json, unexpected};
use super::place::{Place, absolute};
use crate::control::{Client, Problem, Reply, Request, has_stage, not_resumable};
use crate::daemon::{self, StateLock};
use crate::error::Context;
use crate::export::{self, target};
use crate::stage::slots;
use crate::tree::shown::shown;

/// End the stage: its steps, views, mounts and state.
///
/// Afterwards the mapped directories show what they held before `mount`. Prints
/// what is discarded with the stage.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs unmount
  harness-fs unmount --apply /out      # first write the workspace there
  harness-fs unmount --apply /harness  # the workspace keeps what the stage made of it
  harness-fs unmount --apply / --all   # so do all mapped paths
  harness-fs unmount --keep-state      # `mount --resume` brings it back")]
pub struct Arguments {
    /// First write the workspace into this directory, as `apply` does, once what runs in steps has
    /// been ended; if that fails, the stage stays. The workspace itself is written whole or not at all: what is cut off after it began
    /// to change, the next `unmount` or `mount --resume` finishes; what is cut off before leaves
    /// the stage, which `mount --resume` brings back to apply it again.
    #[arg(long, value_name = "DIR")]
    apply: Option<PathBuf>,
    /// Write every mapped path, each below its own name: DIR/harness, DIR/root/.m2; with the DIR /
    /// each one to where it came from.
    #[arg(long, requires = "apply")]
    all: bool,
    /// Remove what is there besides; what goes to where it came from needs no such permission.
    #[arg(long, requires = "apply")]
    replace: bool,
    /// Keep the state for `mount --resume`.
    #[arg(long)]
    keep_state: bool,
    /// Discard the stage also where an `--apply` of it was cut off before it had written anything.
    #[arg(long, conflicts_with_all = ["apply", "keep_state"])]
    discard: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let mut client = match place.connect() {
        Ok(client) => client,
        Err(problem) => return without_daemon(&arguments, place, problem),
    };
    let apply = match &arguments.apply {
        Some(dir) => {
            let (all, replace) = (arguments.all, arguments.replace);
            Some(place.to_replace(&mut client, dir, all, replace)?)
        }
        None => None,
    };
    // Not to be in the way ourselves.
    std::env::set_current_dir("/").context(|| "/")?;
    let request = Request::Unmount {
        keep_state: arguments.keep_state,
        apply,
        all: arguments.all,
    };
    let reply = client.ask(&request)?;
    finish(&client, reply, arguments.json)
}

fn finish(client: &Client, reply: Reply, json: bool) -> Result<u8, Trouble> {
    match reply {
        Reply::Report { text, data } => {
            let told = match json {
                true => print_json(&data),
                false => print(&text),
            };
            if !client.wait_for_the_end() {
                let text = "the stage is unmounted, but its daemon does not end";
                return Err(Trouble::new(1, text));
            }
            told.map(|()| 0)
        }
        other => Err(unexpected(other, json)),
    }
}

/// Ends a stage that nobody serves: finishes an apply to where it came from, or
/// discards what is left.
fn without_daemon(arguments: &Arguments, place: &Place, problem: Problem) -> Result<u8, Trouble> {
    let needs_daemon = arguments.apply.is_some() || arguments.keep_state;
    let none = matches!(problem, Problem::NoStage(_));
    if !none && !matches!(problem, Problem::Gone(_)) {
        return Err(problem.into());
    }
    let there = has_stage(&place.state_dir)?;
    if none && !there && !daemon::has_leftovers(&place.state_dir) {
        return Err(problem.into());
    }
    let unfinished = if there {
        export::unfinished(&place.state_dir)?
    } else {
        None
    };
    match &unfinished {
        Some(apply) if apply.committed => agrees(arguments, &apply.paths)?,
        Some(apply) if !arguments.discard => return Err(not_begun(place, &apply.paths)),
        _ if needs_daemon => return Err(problem.into()),
        _ => {}
    }
    if let Problem::Gone(text) = &problem {
        let ways = [
            ": `harness-fs mount --resume` continues with all that was acknowledged",
            "; `harness-fs unmount` discards it",
        ];
        let said = ways.iter().find_map(|way| text.strip_suffix(way));
        note(said.unwrap_or(text));
    }
    forget(place, arguments.json)
}

/// Whether the apply that was cut off is the one that is asked for.
fn agrees(arguments: &Arguments, paths: &[PathBuf]) -> Result<(), Trouble> {
    let same = match &arguments.apply {
        None => true,
        Some(dir) if arguments.all => dir == Path::new("/"),
        Some(dir) => target::settle(&absolute(dir)?).is_ok_and(|dir| paths == [dir]),
    };
    if same && !arguments.keep_state && !arguments.discard {
        return Ok(());
    }
    let text = format!(
        "the tree of the stage is being written to {}, which was cut off: a plain `harness-fs unmount` finishes it",
        list(paths)
    );
    Err(Trouble::new(2, text))
}

/// The stage was to be written and nothing of it is: it is not thrown away unasked.
fn not_begun(place: &Place, paths: &[PathBuf]) -> Trouble {
    let way = match not_resumable(&place.state_dir) {
        None => "`harness-fs mount --resume` brings the stage back to apply it again,".to_owned(),
        Some(error) => format!("{error};"),
    };
    let text = format!(
        "writing the stage '{}' to {} was cut off before anything was written: {way} \
         `harness-fs unmount --discard` discards it",
        place.label,
        list(paths)
    );
    Trouble::new(5, text)
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| shown(path)).collect();
    paths.join(", ")
}

/// Removes what a stage without a daemon has left.
fn forget(place: &Place, json: bool) -> Result<u8, Trouble> {
    let dir = &place.state_dir;
    let stage = has_stage(dir)?;
    let locked = StateLock::take(dir, dir).and_then(|lock| Ok((lock, StateLock::of_server(dir)?)));
    let late = match &locked {
        Ok(_) => !dir.exists() || stage && !has_stage(dir)?,
        Err(error) => error.errno() == Errno::ENOENT,
    };
    if late {
        // Another `unmount` had the locks before.
        return Err(Trouble::new(
            3,
            format!("the stage '{}' has been discarded meanwhile", place.label),
        ));
    }
    let (lock, _server) = locked?;
    let there = has_stage(dir)?;
    let report = daemon::discarding(dir);
    let applied = daemon::finish_apply(dir, &place.label)?;
    if applied.is_none() {
        daemon::remove_state(dir)?;
    }
    slots::close(&place.label)?;
    drop(lock);
    if json {
        print_json(&json!({ "ended": report, "applied": applied }))?;
        return Ok(0);
    }
    if let Some(applied) = &applied {
        print(&daemon::applied(applied))?;
        print("unmounted; the apply that was cut off is done")?;
        print(&daemon::discarded(&report))?;
    } else if there {
        print(&daemon::removed(&place.label, &report))?;
    } else {
        let text = format!("removed what was left of the stage '{}'", place.label);
        print(&text)?;
    }
    Ok(0)
}
