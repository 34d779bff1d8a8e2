//! Steps that are kept aside: their layers wait until somebody decides.

use super::groups::member_leaves;
use super::state::Phase;
use super::steps::known_step;
use super::{Failure, SealedStep, Stage};

/// Why a step is kept that somebody has put aside.
const BY_HAND: &str = "put aside by `step keep`";

impl Stage {
    /// Keeps the layer of a step that failed, to be looked at, merged or
    /// discarded later.
    ///
    /// # Errors
    /// As [`Stage::seal_step`].
    pub fn keep(&self, step: &str, reason: &str) -> Result<(), Failure> {
        let _life = self.life.lock();
        self.seal_as(step, Phase::Kept, Some(reason)).map(drop)
    }

    /// The same for an open step that nobody has said to have failed. No process
    /// may be left that writes there. Its group does not wait for it.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a step that has ended, else as [`Stage::seal_step`].
    pub fn put_aside(&self, step: &str) -> Result<SealedStep, Failure> {
        let _life = self.life.lock();
        if known_step(&self.state.lock(), step)?.state != Phase::Open {
            let text = format!(
                "step '{step}' has ended already: what it changed is there until it is merged or discarded"
            );
            return Err(Failure::Usage(text));
        }
        let notes = self.seal_and(step, Phase::Kept, Some(BY_HAND), |next| {
            member_leaves(next, step);
        })?;
        let layer = known_step(&self.state.lock(), step)?.layer.clone();
        let sealed = self.sealed(step, layer)?;
        Ok(SealedStep { notes, ..sealed })
    }
}
