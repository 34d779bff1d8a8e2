//! `stage.json`: what the stage consists of, and the commit point.
//!
//! Written to a temporary file, synced, renamed over the old one, and the
//! directory synced: a reader finds the old or the new text, never a mixture.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::caches::CacheState;
use super::{Overrides, failpoint, reserve};
use crate::error::{Context, Error, Result};
use crate::merge::{Policy, Race, SharingMode, SuffixPattern};
pub use crate::sys::boot::id as boot_id;
use crate::tree::Ino;

/// The file's name in the state directory.
pub const FILE: &str = "stage.json";
/// The format this version writes and reads.
pub const FORMAT: u64 = 1;

/// How many layers of failed steps are kept, unless `mount` is told otherwise.
pub const KEEP: u32 = 5;

/// What a stage was mounted with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// The stage's name.
    pub name: String,
    /// The mapped paths, absolute; the first is the workspace.
    pub mapped: Vec<PathBuf>,
    /// Those of them that are single files.
    pub single_files: Vec<PathBuf>,
    /// Step views may hand file descriptors to the kernel.
    pub passthrough: bool,
    /// Every commit is synced to the disk first.
    pub durable: bool,
    /// What decides conflicts, before the shipped defaults; first match wins.
    pub policies: Vec<PolicyRule>,
    /// How many layers of steps that failed, or were put aside, are kept.
    pub keep: u32,
    /// How `keep-both` names the later version.
    pub keep_both_as: SuffixPattern,
    /// How steps share a mapped path, where that is not by merging.
    pub sharing: BTreeMap<PathBuf, SharingMode>,
    /// Where containers of their own get to see steps.
    pub slots: Vec<Slot>,
    /// It is a conflict that a step saw what another changed.
    pub strict: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            name: String::new(),
            mapped: Vec::new(),
            single_files: Vec::new(),
            passthrough: false,
            durable: false,
            policies: Vec::new(),
            keep: KEEP,
            keep_both_as: SuffixPattern::default(),
            sharing: BTreeMap::new(),
            slots: Vec::new(),
            strict: false,
        }
    }
}

/// A directory in which containers see the view of the step that is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The directory, absolute and without symbolic links. In it, each mapped
    /// path has its place below its own name.
    pub dir: PathBuf,
}

impl Slot {
    /// The places of the mapped paths in it.
    pub fn places(&self, mapped: &[PathBuf]) -> Vec<PathBuf> {
        let place = |path: &PathBuf| self.dir.join(path.strip_prefix("/").unwrap_or(path));
        mapped.iter().map(place).collect()
    }
}

/// One line of the conflict policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// A glob, as [`crate::merge::Policies`] explains it.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What to do about conflicts there.
    #[serde(rename = "onConflict")]
    pub policy: Policy,
}

/// Where a step is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It has a view and may write.
    Open,
    /// Its layer is immutable and waits to be merged.
    Sealed,
    /// Its layer is kept aside: it failed, conflicted or was interrupted.
    Kept,
}

/// A step that was begun and is neither merged nor discarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// Where it is in its life.
    pub state: Phase,
    /// The layers it started from, the lowest first, without the base.
    pub base_stack: Vec<String>,
    /// Its sealed layer; `None` while it is open, or if it changed nothing.
    pub layer: Option<String>,
    /// When it was begun, in seconds since the epoch.
    pub started: u64,
    /// An inode number that is higher than any in what it started from.
    #[serde(default)]
    pub first_ino: Ino,
    /// When it was sealed.
    #[serde(default)]
    pub ended: Option<u64>,
    /// The group it was declared in.
    #[serde(default)]
    pub group: Option<String>,
    /// The exit code of its command.
    #[serde(default)]
    pub exit: Option<i32>,
    /// Why it is kept.
    #[serde(default)]
    pub reason: Option<String>,
    /// The commit that kept it, if it is one of those of which only so many are.
    #[serde(default)]
    pub kept_in: Option<u64>,
    /// Shared paths that it has for itself, whatever their mode.
    #[serde(default)]
    pub private: Vec<PathBuf>,
    /// The slot that it was begun in.
    #[serde(default)]
    pub slot: Option<String>,
}

/// A name for a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotState {
    /// The layers, the lowest first, without the base.
    pub stack: Vec<String>,
    /// The stage's own base lies below them.
    pub own_base: bool,
    /// When it was taken, in seconds since the epoch.
    pub created: u64,
}

/// What became of a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// Its layer is to be merged with the others.
    Merge,
    /// It has no part in the merge.
    Dropped,
}

/// What the failure of one member of a group does to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IfOneFails {
    /// Nothing: those that succeed are merged.
    #[default]
    MergeOthers,
    /// They run on, but nothing is merged until the one has been run again, or
    /// `group close` merges the others.
    Hold,
    /// Those that run are ended at once, and nothing is merged.
    Abort,
}

/// Steps that merge together, in the order they were declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    /// In declared order.
    pub members: Vec<String>,
    /// Those that have ended.
    #[serde(default)]
    pub ended: BTreeMap<String, Ended>,
    /// The policy that a member brought for its own conflicts.
    #[serde(default)]
    pub on_conflict: BTreeMap<String, Policy>,
    /// How `keep-both` names the version of a member that said so.
    #[serde(default)]
    pub keep_both_as: BTreeMap<String, SuffixPattern>,
    /// What the failure of one does to the others.
    #[serde(default)]
    pub if_one_fails: IfOneFails,
    /// Those that have failed, and were not run again since.
    #[serde(default)]
    pub failed: BTreeSet<String>,
    /// Why nothing of it will be merged, if that is so.
    #[serde(default)]
    pub aborted: Option<String>,
    /// The layers that its members start from, once the first has begun.
    #[serde(default)]
    pub base: Option<Vec<String>>,
    /// Whether a member said that it is a conflict when it saw what another changed.
    #[serde(default)]
    pub strict: BTreeMap<String, bool>,
}

impl GroupState {
    /// Members that have to end, or to be run again, before it is merged.
    pub fn waits_for(&self) -> Vec<String> {
        let missing = |member: &&String| {
            let failed = self.if_one_fails == IfOneFails::Hold && self.failed.contains(*member);
            failed || !self.ended.contains_key(*member)
        };
        self.members.iter().filter(missing).cloned().collect()
    }

    /// What a member brought for its own conflicts.
    pub(super) fn overrides(&self, member: &str) -> Overrides {
        Overrides {
            on_conflict: self.on_conflict.get(member).copied(),
            keep_both_as: self.keep_both_as.get(member).cloned(),
            only: Vec::new(),
            strict: self.strict.get(member).copied(),
        }
    }
}

/// The content of `stage.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of this text; always 1 so far.
    pub format: u64,
    /// The boot in which it was written.
    pub boot_id: String,
    /// Everything it names had reached the disk before it was written.
    #[serde(default)]
    pub durable: bool,
    /// Counts the starts of the daemon; names its range of inode numbers.
    pub run: u64,
    /// Counts the commits; tells a journal record whether its commit came.
    #[serde(default)]
    pub commits: u64,
    /// The number of the next layer.
    pub next_layer: u64,
    /// What the stage was mounted with.
    pub options: Options,
    /// The mapped paths' own content lies below the stack.
    pub own_base: bool,
    /// How many layers of the stack were imported when the stage was made.
    #[serde(default)]
    pub imported: usize,
    /// The layers below the head, the lowest first.
    pub stack: Vec<String>,
    /// By name.
    #[serde(default)]
    pub snapshots: BTreeMap<String, SnapshotState>,
    /// By name: begun, neither merged nor discarded.
    #[serde(default)]
    pub steps: BTreeMap<String, StepState>,
    /// By name: declared, not yet merged.
    #[serde(default)]
    pub groups: BTreeMap<String, GroupState>,
    /// By name: the members of groups that have merged, or of which nothing was left.
    #[serde(default)]
    pub finished: BTreeMap<String, Vec<String>>,
    /// Steps that are gone, and how (`merged` or `discarded`).
    #[serde(default)]
    pub gone: BTreeMap<String, String>,
    /// What steps that were merged lately saw that others changed meanwhile.
    #[serde(default)]
    pub races: Vec<Race>,
    /// Layers that were pushed together with the one below them, and go with it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub together: BTreeSet<String>,
    /// Caches that the stage has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<CacheState>,
}

impl State {
    /// Reads `stage.json` in a state directory; its format is checked before
    /// anything else.
    ///
    /// # Errors
    /// `ENOENT` without a file, `EINVAL` for another format or a damaged text.
    pub fn read(state_dir: &Path) -> Result<State> {
        let path = state_dir.join(FILE);
        let value = value(&path)?;
        match format(&value) {
            Some(FORMAT) => {}
            Some(other) => return Err(unknown(&path, other)),
            None => return Err(damaged(&path, "it has no format version")),
        }
        serde_json::from_value(value).map_err(|error| damaged(&path, error))
    }

    /// Whether a directory holds the state of a stage, in whatever format.
    pub fn is_in(dir: &Path) -> bool {
        value(&dir.join(FILE)).is_ok_and(|value| format(&value).is_some())
    }

    /// Reads the state of a stage that is to be taken up again.
    ///
    /// # Errors
    /// As [`State::read`]; `EUCLEAN` if the machine was restarted since, and the
    /// last commit may not have reached the disk.
    pub fn read_to_resume(state_dir: &Path) -> Result<State> {
        let state = State::read(state_dir)?;
        if state.durable || state.boot_id == boot_id()? {
            return Ok(state);
        }
        let text = format!(
            "the machine was restarted since the last commit to {}, which was not synced to the \
             disk (no --durable), so its layers may be damaged",
            state_dir.display()
        );
        Err(Error::new(Errno::EUCLEAN, text))
    }

    /// Writes `stage.json`: the commit.
    ///
    /// # Errors
    /// As write(2), fsync(2) and rename(2); then the old text still holds.
    pub fn write(&self, state_dir: &Path) -> Result<()> {
        failpoint::hit("commit-before-rename");
        let (path, text) = (state_dir.join(FILE), serde_json::to_vec_pretty(self)?);
        let dir = reserve::or_spend(state_dir, || rename_over(&path, &text))?;
        // No failure: the new text holds for whoever reads it, and after a failure
        // layers would be removed that it names.
        if let Err(error) = dir.sync_all() {
            log::error!(
                "{}: the commit may not be on the disk: {error}",
                path.display()
            );
        }
        reserve::keep(state_dir);
        failpoint::hit("commit-after-rename");
        Ok(())
    }

    /// The id for a new layer, made for `name`.
    pub fn new_layer_id(&mut self, name: &str) -> String {
        let id = super::names::layer_id(self.next_layer, name);
        self.next_layer += 1;
        id
    }

    /// The layers that the stack, a snapshot or a step needs; some more than once.
    pub fn layers(&self) -> impl Iterator<Item = &String> {
        let snapshots = self.snapshots.values();
        let steps = self.steps.values();
        self.stack
            .iter()
            .chain(snapshots.flat_map(|snapshot| &snapshot.stack))
            .chain(steps.flat_map(|step| step.base_stack.iter().chain(&step.layer)))
    }

    /// True if the stack, a snapshot or a step needs the layer.
    pub fn refers_to(&self, id: &str) -> bool {
        self.layers().any(|layer| layer == id)
    }
}

fn value(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read(path).context(|| path.display().to_string())?;
    serde_json::from_slice(&text).map_err(|error| damaged(path, error))
}

fn damaged(path: &Path, why: impl Display) -> Error {
    let text = format!("{} is damaged: {why}", path.display());
    Error::new(Errno::EINVAL, text)
}

fn format(value: &serde_json::Value) -> Option<u64> {
    value.get("format").and_then(serde_json::Value::as_u64)
}

fn unknown(path: &Path, format: u64) -> Error {
    let text = format!(
        "{} is of format {format}, which the harness-fs that made it knows, and this one ({}) knows only \
         format {FORMAT}",
        path.display(),
        env!("CARGO_PKG_VERSION"),
    );
    Error::new(Errno::EINVAL, text)
}

/// Puts a file with this content in the place of another, whole or not at all,
/// and has it on the disk.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let dir = rename_over(path, content)?;
    dir.sync_all().context(|| path.display().to_string())
}

/// Puts a file with this content in the place of another, whole or not at all.
/// Returns the directory, to be synced.
fn rename_over(path: &Path, content: &[u8]) -> Result<File> {
    let write = || -> Result<File> {
        // Opened first: after the rename nothing may fail that need not.
        let dir = File::open(path.parent().unwrap_or(Path::new("/")))?;
        let temporary = path.with_extension("new");
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _ = std::fs::remove_file(&temporary);
            return Err(error.into());
        }
        std::fs::rename(&temporary, path)?;
        Ok(dir)
    };
    write().context(|| path.display().to_string())
}

/// Seconds since the epoch.
pub(super) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
