//! Snapshots: names for stacks.

use serde::Serialize;

use super::head::SealCost;
use super::state::{SnapshotState, State, now};
use super::{Failure, Lent, Stage, failpoint, names};

/// A snapshot, as `snapshot list` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Its layers, the lowest first, without the base.
    pub layers: Vec<String>,
    /// When it was taken, in seconds since the epoch.
    pub created: u64,
}

/// What a restore did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RestoreReport {
    /// The snapshot.
    pub name: String,
    /// Layers that the stage had and has no more.
    pub left: Vec<String>,
    /// Those of them that nothing holds any longer; they are removed, or will be
    /// when nobody reads them any more.
    pub dropped: Vec<String>,
    /// Steps that can no longer be merged, because they began on what was left.
    pub stranded: Vec<String>,
    /// What else the user should know, a sentence each.
    pub notes: Vec<String>,
}

impl Stage {
    /// Gives the tree as it is now a name, whoever is writing.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a bad name or one that is taken, else what sealing
    /// the head or committing reports; then there is no such snapshot.
    pub fn snapshot_create(&self, name: &str) -> Result<SnapshotInfo, Failure> {
        self.snapshot_create_told(name).map(|(info, _)| info)
    }

    /// [`Stage::snapshot_create`], and what it took to seal the head if somebody
    /// was writing.
    ///
    /// # Errors
    /// As [`Stage::snapshot_create`].
    pub fn snapshot_create_told(
        &self,
        name: &str,
    ) -> Result<(SnapshotInfo, Option<SealCost>), Failure> {
        names::check("snapshot", name)?;
        let _life = self.life.lock();
        if self.state.lock().snapshots.contains_key(name) {
            let text = format!("there is a snapshot '{name}' already; remove it first");
            return Err(Failure::Usage(text));
        }
        let cost = self.seal_dirty_head()?;
        let mut next = self.state.lock().clone();
        let snapshot = SnapshotState {
            stack: next.stack.clone(),
            own_base: next.own_base,
            created: now(),
        };
        next.snapshots.insert(name.to_owned(), snapshot.clone());
        failpoint::hit("snapshot-before-commit");
        self.commit(&mut next)?;
        failpoint::hit("snapshot-after-commit");
        Ok((info(name, &snapshot), cost))
    }

    /// All snapshots, by name.
    pub fn snapshot_list(&self) -> Vec<SnapshotInfo> {
        let state = self.state.lock();
        let all = state.snapshots.iter();
        all.map(|(name, snapshot)| info(name, snapshot)).collect()
    }

    /// Forgets a snapshot, and removes the layers that only it had.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a snapshot, or what committing reports.
    pub fn snapshot_rm(&self, name: &str) -> Result<(), Failure> {
        let _life = self.life.lock();
        let mut next = self.state.lock().clone();
        if next.snapshots.remove(name).is_none() {
            return Err(missing(name));
        }
        self.commit(&mut next)?;
        self.sweep_layers();
        Ok(())
    }

    /// Makes the stage show a snapshot's tree. What came after it is dropped
    /// from the stage, in what is written there now as well.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a snapshot, else what sealing the head
    /// or committing reports; then the stage is unchanged.
    pub fn snapshot_restore(&self, name: &str) -> Result<RestoreReport, Failure> {
        let _life = self.life.lock();
        let mut report = self.go_back(|state| {
            let snapshot = state.snapshots.get(name);
            let snapshot = snapshot.ok_or_else(|| missing(name))?;
            Ok(snapshot.stack.clone())
        })?;
        name.clone_into(&mut report.name);
        Ok(report)
    }

    /// Gives the stage a stack that it had before. `life` is held.
    pub(super) fn go_back(
        &self,
        stack: impl FnOnce(&State) -> Result<Vec<String>, Failure>,
    ) -> Result<RestoreReport, Failure> {
        let mut report = RestoreReport::default();
        let mut stacks = None;
        self.swap_stage_view(|old| {
            let mut next = self.state.lock().clone();
            let stack = stack(&next)?;
            let before = std::mem::replace(&mut next.stack, stack);
            let new = self.stack_of(&next.stack)?;
            failpoint::hit("restore-before-commit");
            self.commit(&mut next)?;
            let left = before.into_iter().filter(|id| !next.stack.contains(id));
            report.left = left.collect();
            let gone = report.left.iter().filter(|id| !next.refers_to(id));
            report.dropped = gone.cloned().collect();
            let stranded = next.steps.iter();
            report.stranded = stranded
                .filter(|(_, step)| !next.stack.starts_with(&step.base_stack))
                .map(|(step, _)| step.clone())
                .collect();
            stacks = Some((old.clone(), new.clone()));
            Ok(new)
        })?;
        failpoint::hit("restore-after-commit");
        if let Some((old, new)) = stacks {
            report.notes.extend(self.tell_kernel(&old, &new));
        }
        failpoint::hit("restore-before-sweep");
        self.sweep_layers();
        Ok(report)
    }

    /// A snapshot's stack and the ids of its layers, the lowest first, without
    /// the base.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a snapshot, or what opening its layers
    /// reports.
    pub fn stack_of_snapshot(&self, name: &str) -> Result<(Lent<'_>, Vec<String>), Failure> {
        let stack = |state: &State| Some(state.snapshots.get(name)?.stack.clone());
        let (state, lease) = self.lease(|state| stack(state).unwrap_or_default());
        let ids = stack(&state).ok_or_else(|| missing(name))?;
        Ok((Lent::new(self.stack_of(&ids)?, lease), ids))
    }
}

fn info(name: &str, snapshot: &SnapshotState) -> SnapshotInfo {
    SnapshotInfo {
        name: name.to_owned(),
        layers: snapshot.stack.clone(),
        created: snapshot.created,
    }
}

pub(super) fn missing(name: &str) -> Failure {
    Failure::NotFound(format!("there is no snapshot '{name}'"))
}
