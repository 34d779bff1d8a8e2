//! Going back to the state just after a layer was pushed.

use serde::Serialize;

use super::log::LayerKind;
use super::named::BASE;
use super::state::State;
use super::{Failure, RestoreReport, Stage};
use crate::error::Result;

/// What a rollback did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RollbackReport {
    /// The uppermost layer that is left, or `base`.
    pub layer: String,
    /// Layers that the stage had and has no more, the lowest first.
    pub left: Vec<String>,
    /// Steps that had made some of them, in the order in which they were merged.
    pub steps: Vec<String>,
    /// Layers that nothing holds any longer; they are removed, or will be when
    /// nobody reads them any more.
    pub dropped: Vec<String>,
    /// Steps that can no longer be merged, because they began on what was left.
    pub stranded: Vec<String>,
    /// What else the user should know, a sentence each.
    pub notes: Vec<String>,
}

impl Stage {
    /// Makes the stage show the tree that it had when a layer was pushed: one
    /// of its own, named as in [`Stage::show`], or the base. What a merge decided
    /// about a layer was pushed with it, and so were all that `mount` imported, and
    /// those of one cache.
    /// What came after is dropped from the stage, in what is written there now
    /// as well.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for a word that means no layer, [`Failure::Usage`]
    /// for one that can mean several and for a layer that is not the stage's,
    /// else as [`Stage::snapshot_restore`]; then the stage is unchanged.
    pub fn rollback(&self, layer: &str) -> Result<RollbackReport, Failure> {
        let _life = self.life.lock();
        let state = self.state.lock().clone();
        let depth = self.depth_after(&state, layer)?;
        let (stays, goes) = state.stack.split_at(depth);
        let steps = self.makers(goes)?;
        let RestoreReport {
            left,
            dropped,
            stranded,
            notes,
            ..
        } = self.go_back(|_| Ok(stays.to_vec()))?;
        Ok(RollbackReport {
            layer: stays.last().map_or(BASE, String::as_str).to_owned(),
            left,
            steps,
            dropped,
            stranded,
            notes,
        })
    }

    /// How many layers there were when this one had been pushed.
    fn depth_after(&self, state: &State, layer: &str) -> Result<usize, Failure> {
        let meant = self.meant(state, layer)?;
        if !meant.is_base() && !state.stack.contains(&meant.id) {
            return Err(Failure::Usage(format!(
                "layer '{}' is not part of the stage's tree, so there is no way back to it: `harness-fs log` \
                 lists the layers",
                meant.id
            )));
        }
        let mut depth = meant.up_to.len();
        if let Some(next) = state.stack.get(depth)
            && LayerKind::of(self.layer(next)?.manifest()) == LayerKind::Join
        {
            depth += 1;
        }
        let together = |id: &String| state.together.contains(id);
        while state.stack.get(depth).is_some_and(together) {
            depth += 1;
        }
        Ok(depth.max(state.imported))
    }

    /// The steps that made layers.
    fn makers(&self, ids: &[String]) -> Result<Vec<String>> {
        let mut steps = Vec::new();
        for id in ids {
            let layer = self.layer(id)?;
            let told = layer.manifest();
            if LayerKind::of(told) == LayerKind::Step && !steps.contains(&told.step) {
                steps.push(told.step.clone());
            }
        }
        Ok(steps)
    }
}
