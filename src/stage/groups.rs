//! Groups: steps that run at once and merge together, in declared order.

use super::abort::{abort, is_being_ended};
use super::state::{Ended, GroupState, IfOneFails, Phase, State};
use super::steps::known_step;
use super::{Failure, MergeReport, Overrides, Stage, names};

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

/// The end of a group that waited for nothing but steps that were merged or
/// discarded by hand.
#[derive(Debug)]
pub struct GroupEnd {
    /// Its name.
    pub group: String,
    /// What became of its other members.
    pub merged: Result<MergeReport, Failure>,
}

impl Stage {
    /// Declares a group. Its members merge in this order, once all have ended.
    ///
    /// # Errors
    /// [`Failure::Usage`] for bad names, no or doubled members, or a name or a
    /// member that another group has, else what committing reports.
    pub fn declare_group(&self, name: &str, members: &[String]) -> Result<(), Failure> {
        self.declare_group_as(name, members, IfOneFails::default())
    }

    /// [`Stage::declare_group`], with what the failure of one does to the others.
    ///
    /// # Errors
    /// As [`Stage::declare_group`].
    pub fn declare_group_as(
        &self,
        name: &str,
        members: &[String],
        if_one_fails: IfOneFails,
    ) -> Result<(), Failure> {
        names::check("group", name)?;
        for member in members {
            names::check("step", member)?;
        }
        let _life = self.life.lock();
        let mut next = self.state.lock().clone();
        let usage = |text: String| Err(Failure::Usage(text));
        // One that was aborted makes way once nothing of it runs any more.
        let known = next.groups.clone();
        for (other, group) in known.iter().filter(|(_, group)| group.aborted.is_some()) {
            let shared = group.members.iter().any(|member| members.contains(member));
            if (other == name || shared) && !is_being_ended(&next, group) {
                dissolve(&mut next, other);
            }
        }
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
            keep_both_as: Default::default(),
            if_one_fails,
            failed: Default::default(),
            aborted: None,
            base: base_of_open(&next, members),
            strict: Default::default(),
        };
        next.groups.insert(name.to_owned(), group);
        next.finished.remove(name);
        for member in members {
            if let Some(known) = next.steps.get_mut(member) {
                known.group = Some(name.to_owned());
            }
        }
        Ok(self.commit(&mut next)?)
    }

    /// Whether the step was a member of a group that has come to its end. Whoever
    /// retries it with the same command finds no group that could wait for it.
    pub fn group_is_over(&self, group: &str, step: &str) -> bool {
        let state = self.state.lock();
        let finished = state.finished.get(group);
        finished.is_some_and(|members| members.iter().any(|member| member == step))
    }

    /// The group that waits for a step.
    pub fn group_of(&self, step: &str) -> Option<String> {
        group_of(&self.state.lock(), step)
    }

    /// Checks that a step that is to run alone was declared in no group, which
    /// would wait for it in vain.
    ///
    /// # Errors
    /// [`Failure::Usage`] naming the group.
    pub fn check_no_member(&self, step: &str) -> Result<(), Failure> {
        match group_of(&self.state.lock(), step) {
            None => Ok(()),
            Some(group) => Err(Failure::Usage(format!(
                "step '{step}' was declared in group '{group}': run it with --group '{group}'"
            ))),
        }
    }

    /// Checks that a step was declared in a group, before it is begun.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for an unknown group, [`Failure::Usage`] for a step
    /// that is no member.
    pub fn check_member(&self, group: &str, step: &str) -> Result<(), Failure> {
        let state = self.state.lock();
        let known = known_group(&state, group)?;
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
    /// and the group is gone. `None` while others have not ended, where one that
    /// failed holds up the merge, and where the group is aborted. `overrides` apply
    /// where this member is merged, whoever ends last.
    ///
    /// A member whose group was removed while it ran is merged by itself. Members
    /// that cannot be merged any more are kept; they are not among the report's
    /// steps, and named in its notes.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a step, else as [`Stage::merge`].
    pub fn group_member_ended(
        &self,
        group: &str,
        step: &str,
        outcome: MemberOutcome,
        overrides: impl Into<Overrides>,
    ) -> Result<Option<MergeReport>, Failure> {
        let _life = self.life.lock();
        let overrides = overrides.into();
        let is_member = is_member(&self.state.lock(), group, step);
        let cut_off = self.aborted_group(group).is_some();
        let ended = match outcome {
            MemberOutcome::Succeeded if is_member && cut_off => {
                self.drop_step(step)?;
                Ended::Dropped
            }
            outcome => self.put_away(group, step, outcome, &overrides)?,
        };
        let mut next = self.state.lock().clone();
        if let Some(known) = next.steps.get_mut(step) {
            known.exit = Some(match outcome {
                MemberOutcome::Succeeded => 0,
                MemberOutcome::Failed { exit, .. } => exit,
            });
        }
        let Some(known) = next.groups.get_mut(group).filter(|_| is_member) else {
            self.commit(&mut next)?;
            if is_member {
                // It was the last of which nothing is to be merged.
                return Ok(Some(nothing_to_merge(group)));
            }
            return self.end_without_group(group, step, ended, overrides);
        };
        known.ended.insert(step.to_owned(), ended);
        match outcome {
            _ if ended == Ended::Merge => member_succeeds(&mut next, group, step, &overrides),
            MemberOutcome::Failed { .. } => member_fails(&mut next, group, step),
            MemberOutcome::Succeeded => {}
        }
        let known = next.groups.get(group);
        let waits =
            known.is_some_and(|known| known.aborted.is_some() || !known.waits_for().is_empty());
        self.commit(&mut next)?;
        if cut_off != self.aborted_group(group).is_some() {
            self.sweep_layers();
        }
        if waits {
            return Ok(None);
        }
        self.merge_group(group).map(Some)
    }

    /// Seals, keeps or drops the layer of a member that has ended.
    fn put_away(
        &self,
        group: &str,
        step: &str,
        outcome: MemberOutcome,
        overrides: &Overrides,
    ) -> Result<Ended, Failure> {
        // In one commit: what is sealed without its group's knowledge is not merged with it.
        let seal = || -> Result<Ended, Failure> {
            self.seal_and(step, Phase::Sealed, None, |next| {
                member_succeeds(next, group, step, overrides);
            })?;
            Ok(Ended::Merge)
        };
        let MemberOutcome::Failed { exit, on_failure } = outcome else {
            return seal();
        };
        match on_failure {
            OnFailure::Discard => {
                self.drop_step_and(step, |next| member_fails(next, group, step))?;
            }
            OnFailure::Keep => {
                // Who ran it may have kept it, and knows better why.
                if known_step(&self.state.lock(), step)?.state != Phase::Kept {
                    let reason = format!("failed with exit code {exit}");
                    self.keep_and(step, &reason, |next| member_fails(next, group, step))?;
                }
            }
            OnFailure::Merge => return seal(),
        }
        Ok(Ended::Dropped)
    }

    /// The end of a step whose group is gone.
    fn end_without_group(
        &self,
        group: &str,
        step: &str,
        ended: Ended,
        overrides: Overrides,
    ) -> Result<Option<MergeReport>, Failure> {
        let mut report = MergeReport::default();
        let note =
            format!("group '{group}' was removed while step '{step}' ran; it ends by itself");
        if ended == Ended::Merge {
            report = self.merge_possible(&[step.to_owned()], |_| overrides.clone())?;
        }
        report.notes.insert(0, note);
        Ok(Some(report))
    }

    /// Merges what has ended of a group, without waiting for members that never
    /// began; the group is gone then, unless the merge was not possible at all.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for an unknown group, [`Failure::Usage`] while a
    /// member is open, else as [`Stage::merge`].
    pub fn close_group(&self, name: &str) -> Result<MergeReport, Failure> {
        let _life = self.life.lock();
        let state = self.state.lock().clone();
        let known = known_group(&state, name)?;
        if let Some(why) = &known.aborted {
            return Err(Failure::Usage(format!(
                "group '{name}' was aborted ({why}), so nothing of it is merged; `group rm {name}` forgets it"
            )));
        }
        let open = |member: &&String| {
            let step = state.steps.get(*member);
            step.is_some_and(|step| step.state == Phase::Open)
        };
        if let Some(member) = known.members.iter().find(open) {
            let text = format!(
                "step '{member}' of group '{name}' has not ended; end it, or discard it first"
            );
            return Err(Failure::Usage(text));
        }
        self.merge_group(name)
    }

    /// Merges the groups that waited for nothing but these steps, which have been
    /// merged or discarded by hand.
    pub fn end_groups_without(&self, steps: &[String]) -> Vec<GroupEnd> {
        let _life = self.life.lock();
        let state = self.state.lock().clone();
        let mut names: Vec<String> = Vec::new();
        for (name, group) in &state.groups {
            let left = group.members.iter().any(|member| steps.contains(member));
            if left && group.aborted.is_none() && group.waits_for().is_empty() {
                names.push(name.clone());
            }
        }
        let end = |group: String| GroupEnd {
            merged: self.merge_group(&group),
            group,
        };
        names.into_iter().map(end).collect()
    }

    /// Forgets a group. Steps of it that have ended are kept, each to be merged
    /// or discarded on its own.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for an unknown group, or what committing reports.
    pub fn remove_group(&self, name: &str) -> Result<(), Failure> {
        let _life = self.life.lock();
        let mut next = self.state.lock().clone();
        let known = known_group(&next, name)?;
        if known.aborted.is_some() && is_being_ended(&next, known) {
            let text = format!("group '{name}' is being aborted; wait until its steps have ended");
            return Err(Failure::Usage(text));
        }
        dissolve(&mut next, name);
        Ok(self.commit(&mut next)?)
    }

    /// Merges the members that have ended and are to be merged, in declared order.
    fn merge_group(&self, name: &str) -> Result<MergeReport, Failure> {
        let state = self.state.lock().clone();
        let known = known_group(&state, name)?;
        // A member may have been merged or discarded by hand meanwhile.
        let merge = |member: &&String| {
            known.ended.get(*member) == Some(&Ended::Merge) && state.steps.contains_key(*member)
        };
        let steps: Vec<String> = known.members.iter().filter(merge).cloned().collect();
        let merged = if steps.is_empty() {
            Ok(nothing_to_merge(name))
        } else {
            self.merge_possible(&steps, |step| known.overrides(step))
        };
        // On a conflict its members are kept, each to be merged on its own.
        if matches!(merged, Ok(_) | Err(Failure::Conflict(_))) {
            let mut next = self.state.lock().clone();
            finish(&mut next, name);
            self.commit(&mut next)?;
        }
        merged
    }
}

pub(super) fn known_group<'a>(state: &'a State, name: &str) -> Result<&'a GroupState, Failure> {
    let known = state.groups.get(name);
    known.ok_or_else(|| Failure::NotFound(format!("there is no group '{name}'")))
}

fn is_member(state: &State, group: &str, step: &str) -> bool {
    let known = state.groups.get(group);
    known.is_some_and(|group| group.members.iter().any(|member| member == step))
}

fn nothing_to_merge(group: &str) -> MergeReport {
    MergeReport {
        notes: vec![format!(
            "no step of group '{group}' waits to be merged; the stage is unchanged"
        )],
        ..MergeReport::default()
    }
}

/// The group has come to its end; a retry of a member still names it.
fn finish(state: &mut State, name: &str) {
    if let Some(group) = state.groups.get(name) {
        let members = group.members.clone();
        state.finished.insert(name.to_owned(), members);
    }
    dissolve(state, name);
}

fn dissolve(state: &mut State, name: &str) {
    state.groups.remove(name);
    for step in state.steps.values_mut() {
        step.group.take_if(|group| group == name);
    }
}

/// The group that waits for a step.
pub(super) fn group_of(state: &State, step: &str) -> Option<String> {
    let holds = |group: &GroupState| group.members.iter().any(|name| name == step);
    let mut groups = state.groups.iter().filter(|(_, group)| holds(group));
    groups.next().map(|(name, _)| name.clone())
}

/// Whether a step is in a group that is not to be merged without it.
pub(super) fn needed_by_group(state: &State, step: &str) -> bool {
    let group = group_of(state, step).and_then(|name| state.groups.get(&name));
    group.is_some_and(|group| {
        group.if_one_fails != IfOneFails::MergeOthers && group.aborted.is_none()
    })
}

/// The layers that a member starts from, where others have begun before it. They
/// do not count once a restore or a rollback has left them: nothing that starts
/// there can be merged.
pub(super) fn group_base(state: &State, step: &str) -> Option<Vec<String>> {
    let group = state.groups.get(&group_of(state, step)?)?;
    let base = group.base.as_ref();
    base.filter(|base| state.stack.starts_with(base)).cloned()
}

/// What the first of these that runs already has started from.
fn base_of_open(state: &State, members: &[String]) -> Option<Vec<String>> {
    let mut steps = members.iter().filter_map(|member| state.steps.get(member));
    let open = steps.find(|step| step.state == Phase::Open);
    open.map(|step| step.base_stack.clone())
}

/// A member begins, perhaps once more: what it did before does not count.
pub(super) fn member_begins(state: &mut State, step: &str) {
    let base = state.steps.get(step).map(|step| step.base_stack.clone());
    let name = group_of(state, step);
    if let Some(group) = name.and_then(|name| state.groups.get_mut(&name)) {
        group.base = base;
    }
    for group in state.groups.values_mut() {
        group.ended.remove(step);
        group.failed.remove(step);
        group.on_conflict.remove(step);
        group.keep_both_as.remove(step);
        group.strict.remove(step);
    }
}

/// A member was merged or discarded: its group does not wait for it, and is gone
/// with the last.
pub(super) fn member_leaves(state: &mut State, step: &str) {
    let Some(name) = group_of(state, step) else {
        return;
    };
    let Some(group) = state.groups.get_mut(&name) else {
        return;
    };
    group.ended.insert(step.to_owned(), Ended::Dropped);
    group.failed.remove(step);
    if group.aborted.is_some() {
        return;
    }
    let left = |member| group.ended.get(member) == Some(&Ended::Dropped);
    if group.members.iter().all(left) {
        finish(state, &name);
    }
}

/// A member has ended, and is to be merged.
fn member_succeeds(state: &mut State, name: &str, step: &str, overrides: &Overrides) {
    let is_member = is_member(state, name, step);
    let Some(group) = state.groups.get_mut(name).filter(|_| is_member) else {
        return;
    };
    group.ended.insert(step.to_owned(), Ended::Merge);
    if let Some(policy) = overrides.on_conflict {
        group.on_conflict.insert(step.to_owned(), policy);
    }
    if let Some(pattern) = overrides.keep_both_as.clone() {
        group.keep_both_as.insert(step.to_owned(), pattern);
    }
    if let Some(strict) = overrides.strict {
        group.strict.insert(step.to_owned(), strict);
    }
}

/// A member has failed: what becomes of the others is as declared.
fn member_fails(state: &mut State, name: &str, step: &str) {
    let is_member = is_member(state, name, step);
    let Some(group) = state.groups.get_mut(name).filter(|_| is_member) else {
        return;
    };
    group.ended.insert(step.to_owned(), Ended::Dropped);
    group.failed.insert(step.to_owned());
    match group.if_one_fails {
        IfOneFails::Hold => {}
        IfOneFails::Abort => abort(state, name, &format!("step '{step}' failed")),
        IfOneFails::MergeOthers => {
            let left = |member| group.ended.get(member) == Some(&Ended::Dropped);
            if group.members.iter().all(left) {
                finish(state, name);
            }
        }
    }
}
