//! One merge in progress: its inputs, the answers it has had, its result so far.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::links::Shared;
use super::overlap::Groups;
use super::{Change, Compare, Conflict, Delta, Effect, JoinPlan, Policies, Side};

/// What a merge is decided on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What was pushed since the step began, composed with [`Delta::then`].
    pub stage: &'a Delta,
    /// The step's layer.
    pub step: &'a Delta,
    /// The step's name, for `keep-both` and for reports.
    pub step_name: &'a str,
    /// Files that someone has open for writing in the stage view.
    pub busy: &'a BTreeSet<PathBuf>,
    /// Who wins.
    pub policies: &'a Policies,
}

/// What a merge came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// All conflicts, those that a policy decided included: deletions first, then by path.
    pub conflicts: Vec<Conflict>,
    /// What to put above the step's layer. `None` if a conflict was not decided: then nothing may
    /// be merged.
    pub plan: Option<JoinPlan>,
}

impl Outcome {
    /// Adds conflicts that need nothing to be done in the join layer.
    pub(super) fn add(&mut self, conflicts: Vec<Conflict>) {
        self.conflicts.extend(conflicts);
        sort(&mut self.conflicts);
        if self.unresolved().next().is_some() {
            self.plan = None;
        }
    }

    /// The conflicts that no policy decided.
    pub fn unresolved(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.iter().filter(|conflict| !conflict.resolved)
    }
}

/// Deletions first, then by path.
fn sort(conflicts: &mut [Conflict]) {
    conflicts.sort_by(|a, b| {
        let key = |conflict: &Conflict| !conflict.is_deletion();
        key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
    });
}

/// The state of one merge. `groups` finds what spans several paths, `classify` walks the tree,
/// `resolve` turns verdicts into actions.
pub(super) struct Session<'a, C> {
    pub stage: &'a Delta,
    pub step: &'a Delta,
    pub step_name: &'a str,
    pub busy: &'a BTreeSet<PathBuf>,
    pub policies: &'a Policies,
    pub cmp: &'a mut C,
    pub groups: Groups,
    /// Inodes that both sides hold.
    pub shared: BTreeMap<u64, Shared>,
    /// Places where a conflict was about a directory, with all that is below.
    pub subtrees: BTreeSet<PathBuf>,
    /// Directories that come back to where they were, and the side that did not rename them.
    pub restored: Vec<(PathBuf, Side)>,
    pub conflicts: Vec<Conflict>,
    pub plan: JoinPlan,
    /// Names that `keep-both` has given away.
    pub given: BTreeSet<PathBuf>,
    effects: HashMap<(Side, PathBuf), Effect>,
}

impl<'a, C: Compare> Session<'a, C> {
    pub fn new(inputs: &Inputs<'a>, cmp: &'a mut C) -> Session<'a, C> {
        Session {
            stage: inputs.stage,
            step: inputs.step,
            step_name: inputs.step_name,
            busy: inputs.busy,
            policies: inputs.policies,
            cmp,
            groups: Groups::default(),
            shared: BTreeMap::new(),
            subtrees: BTreeSet::new(),
            restored: Vec::new(),
            conflicts: Vec::new(),
            plan: JoinPlan::default(),
            given: BTreeSet::new(),
            effects: HashMap::new(),
        }
    }

    pub fn finish(mut self) -> Outcome {
        sort(&mut self.conflicts);
        self.plan.sort();
        let decided = self.conflicts.iter().all(|conflict| conflict.resolved);
        Outcome {
            conflicts: self.conflicts,
            plan: decided.then_some(self.plan),
        }
    }

    pub fn delta(&self, side: Side) -> &'a Delta {
        match side {
            Side::Stage => self.stage,
            Side::Step => self.step,
        }
    }

    /// Whether the side changed the entry itself; what is below a directory does not count.
    pub fn changed(&mut self, side: Side, path: &Path, change: &Change) -> Result<bool, C::Error> {
        let present = match change {
            Change::Deleted { was } => return Ok(was.is_some()),
            Change::Present(present) => present,
        };
        if present.was != Some(present.kind) || present.replaces_directory() {
            return Ok(true);
        }
        let key = (side, path.to_path_buf());
        let effect = match self.effects.get(&key) {
            Some(effect) => *effect,
            None => {
                let effect = self.cmp.effect(side, path)?;
                self.effects.insert(key, effect);
                effect
            }
        };
        Ok(effect != Effect::Nothing)
    }

    /// How many paths strictly below `path` the side changed in a way that does not fit what the
    /// other side did at `path`: removing what the other removed as well fits.
    pub fn changed_below(
        &mut self,
        side: Side,
        path: &Path,
        other: &Change,
    ) -> Result<usize, C::Error> {
        let others = self.delta(side.other());
        let mut count = 0;
        for (below, entry) in self.delta(side).below(path) {
            let counts = match &entry.change {
                Change::Deleted { was: None } => false,
                Change::Deleted { was: Some(_) } => other.directory().is_some_and(|directory| {
                    directory.redirect_from.is_some()
                        || others
                            .change(below)
                            .is_some_and(|change| change.present().is_some())
                }),
                change => self.changed(side, below, change)?,
            };
            count += usize::from(counts);
        }
        Ok(count)
    }
}
