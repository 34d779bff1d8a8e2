//! Groups: steps that run at once and merge together, in declared order.

use super::state::{Ended, GroupState, Phase};
use super::steps::known_step;
use super::{Failure, MergeReport, Stage, names};
use crate::merge::Policy;

/// What a step that failed leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing.
    Discard,
    /// Its layer, kept aside.
    Keep,
    /// Its layer, merged as if it had succeeded.
    Merge,
}

/// How a member of a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberOutcome {
    /// Its command exited with 0.
    Succeeded,
    /// It did not.
    Failed {
        /// The exit code.
        exit: i32,
        /// What to do with its layer.
        on_failure: OnFailure,
    },
}

impl Stage {
    /// Declares a group. Its members merge in this order, once all have ended.
    ///
    /// # Errors
    /// [`Failure::Usage`] for bad names, no or doubled members, or a name or a
    /// member that another group has, else what committing reports.
    pub fn declare_group(&self, name: &str, members: &[String]) -> Result<(), Failure> {
        names::check("group", name)?;
        for member in members {
            names::check("step", member)?;
        }
        let _life = self.life.lock();
        let mut next = self.state.lock().clone();
        let usage = |text: String| Err(Failure::Usage(text));
        if next.groups.contains_key(name) {
            return usage(format!("group '{name}' is declared already"));
        }
        if members.is_empty() {
            return usage(format!("group '{name}' has no members"));
        }
        for (index, member) in members.iter().enumerate() {
            if members[..index].contains(member) {
                return usage(format!("step '{member}' is twice in group '{name}'"));
            }
            let mut others = next.groups.iter();
            if let Some((other, _)) = others.find(|(_, group)| group.members.contains(member)) {
                return usage(format!("step '{member}' is in group '{other}' already"));
            }
        }
        let group = GroupState {
            members: members.to_vec(),
            ended: Default::default(),
            on_conflict: Default::default(),
        };
        next.groups.insert(name.to_owned(), group);
        for member in members {
            if let Some(known) = next.steps.get_mut(member) {
                known.group = Some(name.to_owned());
            }
        }
        Ok(self.commit(&mut next)?)
    }

    /// Checks that a step was declared in a group, before it is begun.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for an unknown group, [`Failure::Usage`] for a step
    /// that is no member.
    pub fn check_member(&self, group: &str, step: &str) -> Result<(), Failure> {
        let state = self.state.lock();
        let Some(known) = state.groups.get(group) else {
            return Err(Failure::NotFound(format!("there is no group '{group}'")));
        };
        if known.members.iter().any(|member| member == step) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "step '{step}' was not declared in group '{group}' ({})",
            known.members.join(", ")
        )))
    }

    /// A member has ended: its layer is sealed, kept or dropped. The last one to
    /// end merges all that are to be merged, in declared order, in one commit,
    /// and the group is gone. `None` while others have not ended. `on_conflict`
    /// overrides every policy where this member is merged, whoever ends last.
    ///
    /// # Errors
    /// As [`Stage::check_member`] and [`Stage::merge`].
    pub fn group_member_ended(
        &self,
        group: &str,
        step: &str,
        outcome: MemberOutcome,
        on_conflict: Option<Policy>,
    ) -> Result<Option<MergeReport>, Failure> {
        self.check_member(group, step)?;
        let _life = self.life.lock();
        known_step(&self.state.lock(), step)?;
        let ended = match outcome {
            MemberOutcome::Succeeded => {
                self.seal_as(step, Phase::Sealed, None)?;
                Ended::Merge
            }
            MemberOutcome::Failed { exit, on_failure } => {
                let reason = format!("failed with exit code {exit}");
                match on_failure {
                    OnFailure::Discard => self.drop_step(step)?,
                    OnFailure::Keep => drop(self.seal_as(step, Phase::Kept, Some(&reason))?),
                    OnFailure::Merge => drop(self.seal_as(step, Phase::Sealed, None)?),
                }
                if on_failure == OnFailure::Merge {
                    Ended::Merge
                } else {
                    Ended::Dropped
                }
            }
        };
        let mut next = self.state.lock().clone();
        if let (MemberOutcome::Failed { exit, .. }, Some(known)) =
            (outcome, next.steps.get_mut(step))
        {
            known.exit = Some(exit);
        } else if let Some(known) = next.steps.get_mut(step) {
            known.exit = Some(0);
        }
        let Some(known) = next.groups.get_mut(group) else {
            return Err(Failure::NotFound(format!("there is no group '{group}'")));
        };
        known.ended.insert(step.to_owned(), ended);
        if let Some(policy) = on_conflict {
            known.on_conflict.insert(step.to_owned(), policy);
        }
        let all = known.members.iter();
        if all.clone().any(|member| !known.ended.contains_key(member)) {
            self.commit(&mut next)?;
            return Ok(None);
        }
        let merge = |member: &&String| known.ended.get(*member) == Some(&Ended::Merge);
        let steps: Vec<String> = all.filter(merge).cloned().collect();
        let policies = known.on_conflict.clone();
        self.commit(&mut next)?;
        // A member may have been merged or discarded by hand meanwhile.
        let there: Vec<String> = steps
            .into_iter()
            .filter(|member| next.steps.contains_key(member))
            .collect();
        let merged = if there.is_empty() {
            Ok(MergeReport::default())
        } else {
            self.merge_locked(&there, |step| policies.get(step).copied())
        };
        // On a conflict its members are kept, each to be merged on its own.
        if matches!(merged, Ok(_) | Err(Failure::Conflict(_))) {
            let mut next = self.state.lock().clone();
            next.groups.remove(group);
            self.commit(&mut next)?;
        }
        merged.map(Some)
    }
}
