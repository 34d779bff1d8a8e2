//! What `status` tells. Never waits for an operation on the stage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::kept::made_way;
use super::merge::MERGED;
use super::state::{GroupState, Phase, State};
use super::{Session, SlotInfo, SnapshotInfo, Stage, slots};
use crate::merge::SharingMode;
use crate::tree::shown;

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// It works in a view of its own.
    Step,
    /// It lives in the stage view.
    Background,
}

/// A step, as `step list` and `status` show it.
#[derive(Clone, Debug, Serialize)]
pub struct StepInfo {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: StepKind,
    /// Where it is in its life.
    pub state: Phase,
    /// Its sealed layer, if it has one.
    pub layer: Option<String>,
    /// When it was begun, in seconds since the epoch.
    pub started: u64,
    /// When it was sealed.
    pub ended: Option<u64>,
    /// Its group.
    pub group: Option<String>,
    /// The exit code of its command.
    pub exit: Option<i32>,
    /// Why it is kept.
    pub reason: Option<String>,
    /// The command line that runs a background step.
    pub pid: Option<i32>,
    /// The slot that it was begun in.
    pub slot: Option<String>,
}

/// A view that is open.
#[derive(Clone, Debug, Serialize)]
pub struct ViewInfo {
    /// A step's name, `STEP/shell-N` for one of `step shell`, or `stage`.
    pub name: String,
    /// Where it is mounted.
    #[serde(serialize_with = "shown::serialize")]
    pub mount: PathBuf,
    /// How it is served.
    pub transport: Option<String>,
    /// Requests served, by opcode.
    pub requests: BTreeMap<String, u64>,
    /// How many inodes the kernel remembers of it.
    pub inodes: usize,
    /// For how long the oldest request in flight has waited, in milliseconds.
    pub oldest_request_ms: Option<u64>,
}

/// A layer of the stack, a step or a snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct LayerInfo {
    /// Its id.
    pub id: String,
    /// What made it.
    pub step: String,
    /// It is part of the stage's tree.
    pub in_stack: bool,
    /// When it was sealed, in seconds since the epoch.
    pub sealed: u64,
    /// Entries that it adds or changes.
    pub entries: u64,
    /// Names that it deletes.
    pub whiteouts: u64,
    /// Bytes of content that it holds.
    pub bytes: u64,
}

/// All there is to tell of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub stage: String,
    /// Its state directory.
    #[serde(serialize_with = "shown::serialize")]
    pub state_dir: PathBuf,
    /// The version of the daemon.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// The mapped paths; the first is the workspace.
    #[serde(serialize_with = "shown::all::serialize")]
    pub mapped: Vec<PathBuf>,
    /// How steps share each shared path.
    pub sharing: BTreeMap<String, SharingMode>,
    /// Commits are synced to the disk.
    pub durable: bool,
    /// It is a conflict that a step saw what another changed.
    pub strict: bool,
    /// The open views.
    pub views: Vec<ViewInfo>,
    /// Steps that are open, wait to be merged, or are kept.
    pub steps: Vec<StepInfo>,
    /// The slots, in the order they were given.
    pub slots: Vec<SlotInfo>,
    /// How many layers of failed steps are kept.
    pub keep: u32,
    /// Steps whose layers were discarded to make way for later ones.
    pub made_way: Vec<String>,
    /// Groups that have not merged yet.
    pub groups: BTreeMap<String, GroupState>,
    /// The stack from the lowest up, then what only steps and snapshots hold.
    pub layers: Vec<LayerInfo>,
    /// By name.
    pub snapshots: Vec<SnapshotInfo>,
    /// Requests served in all open views, by opcode.
    pub requests: BTreeMap<String, u64>,
    /// What resuming had to tell.
    pub notes: Vec<String>,
}

impl Stage {
    /// Steps that are open, wait to be merged, or are kept, by name.
    pub fn steps(&self) -> Vec<StepInfo> {
        steps(&self.state.lock())
    }

    /// How many layers of failed steps are kept, and the steps whose layers were
    /// discarded to make way for later ones.
    pub fn room(&self) -> (u32, Vec<String>) {
        let state = self.state.lock();
        (state.options.keep, made_way(&state))
    }

    /// Whether the stage has a step of this name, or its changes.
    pub fn knows_of(&self, step: &str) -> bool {
        let state = self.state.lock();
        state.steps.contains_key(step) || state.gone.get(step).is_some_and(|gone| gone == MERGED)
    }

    /// All there is to tell. Does not wait for an operation in progress.
    pub fn status(&self) -> Status {
        let state = self.state.lock().clone();
        let running = self.running.lock().clone();
        let mut requests = self.past_requests.lock().clone();
        let mut views = Vec::new();
        for (name, view) in &running {
            let session = view.session.as_ref();
            let served = session
                .map(|session| session.requests())
                .unwrap_or_default();
            for (opcode, count) in &served {
                *requests.entry(opcode.clone()).or_default() += count;
            }
            let oldest = session.and_then(|session| session.oldest_request());
            views.push(ViewInfo {
                name: name.clone(),
                mount: view.mount.clone(),
                transport: session.map(|session| session.transport()),
                requests: served,
                inodes: view.view.inodes(),
                oldest_request_ms: oldest.map(milliseconds),
            });
        }
        Status {
            stage: state.options.name.clone(),
            state_dir: self.dir.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            mapped: state.options.mapped.clone(),
            sharing: sharing(&state),
            durable: state.options.durable,
            strict: state.options.strict,
            views,
            steps: [steps(&state), self.background_steps()].concat(),
            slots: slots::infos(&state),
            keep: state.options.keep,
            made_way: made_way(&state),
            groups: state.groups.clone(),
            layers: self.layer_infos(&state),
            snapshots: self.snapshot_list(),
            requests,
            notes: self.notes.clone(),
        }
    }

    /// Adds what an ended session served to the stage's total.
    pub(super) fn remember_requests(&self, session: &dyn Session) {
        let mut past = self.past_requests.lock();
        for (opcode, count) in session.requests() {
            *past.entry(opcode).or_default() += count;
        }
    }

    fn layer_infos(&self, state: &State) -> Vec<LayerInfo> {
        let of_steps = state.steps.values().flat_map(|step| step.layer.iter());
        let of_snapshots = state
            .snapshots
            .values()
            .flat_map(|snapshot| &snapshot.stack);
        let mut infos: Vec<LayerInfo> = Vec::new();
        for id in state.stack.iter().chain(of_steps).chain(of_snapshots) {
            if infos.iter().any(|info| info.id == *id) {
                continue;
            }
            // One that was removed a moment ago is no longer worth a line.
            let Ok(layer) = self.layer(id) else { continue };
            let told = layer.manifest();
            infos.push(LayerInfo {
                id: id.clone(),
                step: told.step.clone(),
                in_stack: state.stack.contains(id),
                sealed: told.sealed,
                entries: told.entries,
                whiteouts: told.whiteouts,
                bytes: told.bytes,
            });
        }
        infos
    }
}

/// By the path as it is shown; the workspace is none of them.
fn sharing(state: &State) -> BTreeMap<String, SharingMode> {
    let shared = state.options.mapped.iter().skip(1);
    let mode = |path: &PathBuf| {
        (
            shown::shown(path).to_string(),
            state.options.sharing_of(path),
        )
    };
    shared.map(mode).collect()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn steps(state: &State) -> Vec<StepInfo> {
    let all = state.steps.iter();
    all.map(|(name, step)| StepInfo {
        name: name.clone(),
        kind: StepKind::Step,
        state: step.state,
        layer: step.layer.clone(),
        started: step.started,
        ended: step.ended,
        group: step.group.clone(),
        exit: step.exit,
        reason: step.reason.clone(),
        pid: None,
        slot: step.slot.clone(),
    })
    .collect()
}
