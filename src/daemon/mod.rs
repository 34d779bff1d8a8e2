//! The process that serves a stage, and the small one that watches over it.
//!
//! `harness-fs mount` starts a *supervisor*, which starts the *server*. The
//! server does everything; the supervisor is in no request's path and has one
//! duty: when the server dies, nothing may hang and the reason must be known.

mod abort;
mod background;
mod caches;
mod cleanup;
mod content;
mod death;
mod end;
mod holder;
mod limits;
mod lock;
mod log_file;
mod open_steps;
mod queue;
mod ready;
mod render;
mod requests;
mod runs;
mod server;
mod shell;
mod start;
mod steps;
mod supervisor;
mod wanted;

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::control::{DIED, SOCKET, STAGE_FILE, STEP_SOCKET, has_stage, is_taken};
use crate::error::{Context, Result};
use crate::stage::{EndReport, Options, State};
use crate::sys::at;

pub use cleanup::clean;
pub use end::finish_apply;
pub use limits::lift as lift_limits;
pub use lock::StateLock;
pub use log_file::{
    all_files as log_files, level as log_level, start as start_log, try_at as try_log,
};
pub use ready::{Ready, wait as wait_until_ready};
pub use render::{applied, bytes, discarded, removed};
pub use server::serve;
pub use supervisor::{supervise, supervise_detached};

/// The hidden subcommand of the supervisor.
pub const SUPERVISE: &str = "daemon-supervise";
/// The hidden subcommand of the server.
pub const SERVE: &str = "daemon-serve";
/// The log's name in the state directory.
pub const LOG: &str = "daemon.log";

/// What a daemon is to do; given to it on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Where the stage's state lies.
    pub state_dir: PathBuf,
    /// What messages call the stage; also the source of its mounts.
    pub label: String,
    /// A new stage, or one to go on with.
    pub start: Start,
    /// Where the log goes: standard error if not to a file.
    pub log: Option<PathBuf>,
    /// Processes of the mount itself.
    pub own_processes: Vec<i32>,
}

/// How a stage comes to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Start {
    /// New.
    New {
        /// Its options.
        options: Box<Options>,
        /// Layouts to start from.
        from: Vec<PathBuf>,
    },
    /// From kept state.
    Resume,
}

/// What a stage has in its state directory besides the file that makes it one.
const OWN: [&str; 5] = ["layers", "views", "journal", "objects", "reserve"];

fn remove_own(state_dir: &Path) -> Result<()> {
    for name in OWN {
        let path = state_dir.join(name);
        at::remove_all(nix::fcntl::AT_FDCWD, &path).context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Whether a state directory holds what is left of a stage whose start or
/// removal was cut off, and nobody is at it.
pub fn has_leftovers(state_dir: &Path) -> bool {
    has_stage(state_dir).is_ok_and(|there| !there)
        // Without it, what has these names is somebody else's.
        && state_dir.join(lock::FILE).exists()
        && OWN.iter().any(|name| state_dir.join(name).exists())
        && !is_taken(state_dir)
}

/// What goes when the state of a stage is removed that nobody serves.
pub fn discarding(state_dir: &Path) -> EndReport {
    match State::read(state_dir) {
        Ok(state) => EndReport::discarding(&state),
        Err(error) if error.errno() == Errno::ENOENT => EndReport::default(),
        Err(error) => EndReport {
            problems: vec![format!("what is discarded cannot be listed: {error}")],
            ..EndReport::default()
        },
    }
}

/// Removes the state of a stage that nobody serves and that is not mounted.
///
/// # Errors
/// What the disk reports.
pub fn remove_state(state_dir: &Path) -> Result<()> {
    // First what makes it a stage: half a state must not be resumed.
    let file = state_dir.join(STAGE_FILE);
    at::remove_all(nix::fcntl::AT_FDCWD, &file).context(|| file.display().to_string())?;
    remove_own(state_dir)?;
    forget_files(state_dir);
    Ok(())
}

/// What the daemon itself keeps in a state directory, if it is there.
fn own_files(state_dir: &Path) -> Vec<PathBuf> {
    // With what a death in the middle of a write has left.
    let names = [
        SOCKET,
        STEP_SOCKET,
        lock::FILE,
        DIED,
        "died.new",
        "stage.new",
    ];
    let mut files = log_file::files(&state_dir.join(LOG));
    files.extend(names.map(|name| state_dir.join(name)));
    files.retain(|file| file.symlink_metadata().is_ok());
    files
}

/// Removes what the daemon itself keeps in a state directory, and the directory
/// if nothing else is in it: another's file, or a volume, stays.
fn forget_files(state_dir: &Path) {
    for file in own_files(state_dir) {
        let _ = std::fs::remove_file(file);
    }
    let _ = std::fs::remove_dir(state_dir);
}
