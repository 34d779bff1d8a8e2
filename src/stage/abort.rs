//! Groups that are given up as a whole: nothing of them is merged.

use super::groups::{group_of, known_group, needed_by_group};
use super::state::{Ended, GroupState, Phase, State};
use super::steps::known_step;
use super::{Failure, Stage};

impl Stage {
    /// Gives a group up: what has ended of it is discarded, and what still runs
    /// will not be merged. Who runs it has to end it. The group is remembered as
    /// aborted, and no member of it can begin, until it is declared anew or
    /// removed. Once more it does nothing.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for an unknown group, or what committing reports.
    pub fn abort_group(&self, name: &str) -> Result<(), Failure> {
        let _life = self.life.lock();
        let mut next = self.state.lock().clone();
        known_group(&next, name)?;
        abort(&mut next, name, "by `group abort`");
        self.commit(&mut next)?;
        self.sweep_layers();
        Ok(())
    }

    /// Why a group is aborted, if it is.
    pub fn aborted_group(&self, name: &str) -> Option<String> {
        self.state.lock().groups.get(name)?.aborted.clone()
    }

    /// The members of a group that have a view.
    pub fn open_members(&self, name: &str) -> Vec<String> {
        let state = self.state.lock();
        let group = state.groups.get(name);
        group.map_or_else(Vec::new, |group| open(&state, group))
    }

    /// Discards an open step of which the end of the stage has cut off the command.
    /// That is no failure that the others of its group would have to suffer for: a
    /// group that is not to be merged without it goes on waiting for it.
    ///
    /// # Errors
    /// As [`Stage::discard`].
    pub fn discard_cut_off(&self, step: &str) -> Result<(), Failure> {
        let _life = self.life.lock();
        let waits = {
            let state = self.state.lock();
            known_step(&state, step)?;
            needed_by_group(&state, step)
        };
        match waits {
            true => self.drop_step_and(step, |_| ()),
            false => self.drop_step(step),
        }
    }
}

/// Nothing of a group is to be merged.
pub(super) fn abort(state: &mut State, name: &str, why: &str) {
    let Some(group) = state.groups.get_mut(name) else {
        return;
    };
    if group.aborted.is_some() {
        return;
    }
    group.aborted = Some(why.to_owned());
    for (member, ended) in &mut group.ended {
        if *ended == Ended::Merge && state.steps.remove(member).is_some() {
            let how = format!("discarded, as its group '{name}' was aborted ({why})");
            state.gone.insert(member.clone(), how);
        }
        *ended = Ended::Dropped;
    }
}

/// Whether members of it still have views.
pub(super) fn is_being_ended(state: &State, group: &GroupState) -> bool {
    !open(state, group).is_empty()
}

fn open(state: &State, group: &GroupState) -> Vec<String> {
    let open = |member: &&String| {
        let step = state.steps.get(*member);
        step.is_some_and(|step| step.state == Phase::Open)
    };
    group.members.iter().filter(open).cloned().collect()
}

/// Checks that a step that is to begin is not a member of a group that was aborted.
pub(super) fn refuse_aborted(state: &State, step: &str) -> Result<(), Failure> {
    let Some(name) = group_of(state, step) else {
        return Ok(());
    };
    match state
        .groups
        .get(&name)
        .and_then(|group| group.aborted.as_ref())
    {
        None => Ok(()),
        Some(why) => Err(Failure::Usage(format!(
            "step '{step}' is in group '{name}', which was aborted ({why}): declare the group anew to run it \
             again, or `group rm {name}` to run the step without it"
        ))),
    }
}
