//! Steps that are kept aside: their layers wait until somebody decides.

use super::groups::member_leaves;
use super::state::{Phase, State};
use super::steps::known_step;
use super::{Failure, SealedStep, Stage};

/// Why a step is kept that somebody has put aside.
const BY_HAND: &str = "put aside by `step keep`";

/// What became of a step for which there was no room any more.
const MADE_WAY: &str = "discarded to make way for others that failed later (`mount --keep`)";

impl Stage {
    /// Keeps the layer of a step that failed, to be looked at, merged or
    /// discarded later. Where there are more of those than the stage keeps, the
    /// oldest is discarded. Returns what the user should know.
    ///
    /// # Errors
    /// As [`Stage::seal_step`].
    pub fn keep(&self, step: &str, reason: &str) -> Result<Vec<String>, Failure> {
        let _life = self.life.lock();
        self.keep_and(step, reason, |_| ())
    }

    /// The same, with something more in the same commit.
    pub(super) fn keep_and(
        &self,
        step: &str,
        reason: &str,
        change: impl FnOnce(&mut State),
    ) -> Result<Vec<String>, Failure> {
        let mut discarded = Vec::new();
        let mut notes = self.seal_and(step, Phase::Kept, Some(reason), |next| {
            change(next);
            discarded = make_way(next, step);
        })?;
        for step in &discarded {
            self.reads.lock().remove(step);
            let note = format!(
                "step '{step}' is discarded, the oldest of the failed ones that are kept: there are no \
                 more than {} (`mount --keep`)",
                self.options().keep
            );
            log::info!("{note}");
            notes.push(note);
        }
        if !discarded.is_empty() {
            self.sweep_layers();
        }
        Ok(notes)
    }

    /// The same for an open step that no `step run` has; `exit` is the exit code
    /// with which it failed, if it did. No process may be left that writes there.
    /// Its group does not wait for it.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a step that has ended, else as [`Stage::seal_step`].
    pub fn put_aside(&self, step: &str, exit: Option<i32>) -> Result<SealedStep, Failure> {
        let _life = self.life.lock();
        if known_step(&self.state.lock(), step)?.state != Phase::Open {
            let text = format!(
                "step '{step}' has ended already: what it changed is there until it is merged or discarded"
            );
            return Err(Failure::Usage(text));
        }
        let reason = match exit {
            Some(exit) => format!("failed with exit code {exit}"),
            None => BY_HAND.to_owned(),
        };
        let notes = self.keep_and(step, &reason, |next| {
            if let Some(known) = next.steps.get_mut(step) {
                known.exit = exit.or(known.exit);
            }
            member_leaves(next, step);
        })?;
        let layer = known_step(&self.state.lock(), step)?.layer.clone();
        let sealed = self.sealed(step, layer)?;
        Ok(SealedStep { notes, ..sealed })
    }
}

/// Counts a step among those that failed, and takes away the oldest of those that
/// are more than the stage keeps. A step without a layer takes no room.
///
/// A group that has since been declared with one of them goes on waiting for it.
fn make_way(state: &mut State, step: &str) -> Vec<String> {
    if let Some(known) = state.steps.get_mut(step) {
        known.kept_in.get_or_insert(state.commits);
    }
    let mut kept: Vec<(u64, String)> = Vec::new();
    for (name, known) in &state.steps {
        if let (Phase::Kept, Some(_), Some(kept_in)) = (known.state, &known.layer, known.kept_in) {
            kept.push((kept_in, name.clone()));
        }
    }
    kept.sort();
    let room = usize::try_from(state.options.keep).unwrap_or(usize::MAX);
    kept.truncate(kept.len().saturating_sub(room));
    for (_, name) in &kept {
        state.steps.remove(name);
        state.gone.insert(name.clone(), MADE_WAY.to_owned());
    }
    kept.into_iter().map(|(_, name)| name).collect()
}

/// The steps that were discarded because there was no room for their layers.
pub(super) fn made_way(state: &State) -> Vec<String> {
    let gone = state.gone.iter().filter(|(_, how)| *how == MADE_WAY);
    gone.map(|(name, _)| name.clone()).collect()
}
