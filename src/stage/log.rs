//! The layers there are, and what each of them does.

use std::cmp::Reverse;

use serde::Serialize;

use super::diff::{DiffLine, lines};
use super::merge::JOIN;
use super::named::{BASE, holding};
use super::state::{Phase, State};
use super::{Failure, Stage};
use crate::error::Result;
use crate::layer::Manifest;

/// What made a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerKind {
    /// A step.
    Step,
    /// A merge: what it decided, on top of the step's own layer.
    Join,
    /// Writes outside of any step.
    Head,
    /// `mount --from`.
    Import,
    /// What the mapped paths held; no layer of the stage lies below it.
    Base,
}

impl LayerKind {
    /// What a manifest says.
    pub(super) fn of(manifest: &Manifest) -> LayerKind {
        match manifest.step.as_str() {
            JOIN => LayerKind::Join,
            "head" => LayerKind::Head,
            "import" => LayerKind::Import,
            _ => LayerKind::Step,
        }
    }
}

/// What became of the step that made a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepEnd {
    /// It was merged.
    Merged,
    /// It waits to be merged, as a member of a group does.
    Waiting,
    /// It failed or met a conflict, and its layer is kept aside.
    Kept,
}

/// A layer, as `log` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Its id, or `base`.
    pub id: String,
    /// What made it.
    pub kind: LayerKind,
    /// The step that made it, or whose merge did.
    pub step: Option<String>,
    /// What became of that step.
    pub result: Option<StepEnd>,
    /// The exit code of the step's command, of one that is not merged.
    pub exit: Option<i32>,
    /// Why it is kept.
    pub reason: Option<String>,
    /// It is part of the stage's tree.
    pub in_stack: bool,
    /// When it was sealed, in seconds since the epoch.
    pub sealed: Option<u64>,
    /// Entries that it adds or changes.
    pub entries: Option<u64>,
    /// Names that it deletes.
    pub whiteouts: Option<u64>,
    /// Bytes of content that it holds.
    pub bytes: Option<u64>,
    /// The snapshots of which it is the uppermost layer.
    pub snapshots: Vec<String>,
}

/// A layer, as `show` tells of it.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// What `log` says of it.
    pub layer: LogLine,
    /// What is written down beside its content.
    pub manifest: Manifest,
    /// What it adds, changes and deletes of what lies below it, sorted by path.
    pub changes: Vec<DiffLine>,
}

impl Stage {
    /// All layers, the uppermost of the stage first. One that is not part of the
    /// stage's tree stands where it was made; the base comes last.
    ///
    /// What was written outside of steps and is not sealed is in no layer yet.
    ///
    /// # Errors
    /// What opening the layers reports.
    pub fn log(&self) -> Result<Vec<LogLine>, Failure> {
        let (state, _lease) = self.lease(|state| state.layers().cloned().collect());
        let mut all = Vec::new();
        for id in newest_first(&state) {
            all.push(self.log_line(&state, id)?);
        }
        if self.own_base() {
            all.push(base_line(&state));
        }
        Ok(all)
    }

    /// What one layer does.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a layer, [`Failure::Usage`] for the
    /// base and for a word that can mean several, or what the layers report.
    pub fn show(&self, layer: &str) -> Result<LayerReport, Failure> {
        let (state, _lease) = self.lease(|state| state.layers().cloned().collect());
        let meant = self.meant(&state, layer)?;
        if meant.is_base() {
            let text = "the base changes nothing, it is what the mapped paths held: \
                        `harness-fs cat base:PATH` prints a file of it";
            return Err(Failure::Usage(text.to_owned()));
        }
        let (below, with) = self.around(&meant)?;
        let mut changes = lines(&below, &with, &state.options.mapped)?;
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(LayerReport {
            layer: self.log_line(&state, &meant.id)?,
            manifest: self.layer(&meant.id)?.manifest().clone(),
            changes,
        })
    }

    fn log_line(&self, state: &State, id: &str) -> Result<LogLine> {
        let layer = self.layer(id)?;
        let told = layer.manifest();
        let kind = LayerKind::of(told);
        let step = match kind {
            LayerKind::Step => Some(told.step.clone()),
            LayerKind::Join => self.joined(state, id)?,
            LayerKind::Head | LayerKind::Import | LayerKind::Base => None,
        };
        let aside = state.steps.values();
        let mut aside = aside.filter(|step| step.layer.as_deref() == Some(id));
        let aside = aside.next();
        let result = step.as_ref().map(|_| match aside.map(|step| step.state) {
            Some(Phase::Kept) => StepEnd::Kept,
            Some(Phase::Sealed | Phase::Open) => StepEnd::Waiting,
            None => StepEnd::Merged,
        });
        Ok(LogLine {
            id: id.to_owned(),
            kind,
            step,
            result,
            exit: aside.and_then(|step| step.exit),
            reason: aside.and_then(|step| step.reason.clone()),
            in_stack: state.stack.iter().any(|layer| layer == id),
            sealed: Some(told.sealed),
            entries: Some(told.entries),
            whiteouts: Some(told.whiteouts),
            bytes: Some(told.bytes),
            snapshots: snapshots_at(state, Some(id)),
        })
    }

    /// The step whose merge made a join layer: its own layer lies right below.
    fn joined(&self, state: &State, id: &str) -> Result<Option<String>> {
        let Some((stack, at)) = holding(state, id) else {
            return Ok(None);
        };
        let Some(below) = at.checked_sub(1) else {
            return Ok(None);
        };
        let layer = self.layer(&stack[below])?;
        let told = layer.manifest();
        let step = LayerKind::of(told) == LayerKind::Step;
        Ok(step.then(|| told.step.clone()))
    }
}

/// The stage's layers from the top down; between them, by their numbers, those
/// that steps and snapshots have besides.
fn newest_first(state: &State) -> Vec<&String> {
    let mut aside: Vec<&String> = state
        .layers()
        .filter(|id| !state.stack.contains(id))
        .collect();
    aside.sort_by_key(|id| Reverse(*id));
    aside.dedup();
    let mut aside = aside.into_iter().peekable();
    let mut all = Vec::new();
    for id in state.stack.iter().rev() {
        while let Some(newer) = aside.next_if(|other| *other > id) {
            all.push(newer);
        }
        all.push(id);
    }
    all.extend(aside);
    all
}

/// The snapshots of which a layer, or the base, is the uppermost.
fn snapshots_at(state: &State, top: Option<&str>) -> Vec<String> {
    let at = state.snapshots.iter();
    let at = at.filter(|(_, snapshot)| snapshot.stack.last().map(String::as_str) == top);
    at.map(|(name, _)| name.clone()).collect()
}

fn base_line(state: &State) -> LogLine {
    LogLine {
        id: BASE.to_owned(),
        kind: LayerKind::Base,
        step: None,
        result: None,
        exit: None,
        reason: None,
        in_stack: true,
        sealed: None,
        entries: None,
        whiteouts: None,
        bytes: None,
        snapshots: snapshots_at(state, None),
    }
}
