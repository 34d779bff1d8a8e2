//! Ending a stage.

use serde::Serialize;

use super::names::STAGE_VIEW;
use super::state::{Phase, State};
use super::{Failure, Running, Stage, bind, failpoint, recover, slots};

/// What ending the stage left or threw away.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EndReport {
    /// The state directory is still there, for `mount --resume`.
    pub kept_state: bool,
    /// Steps that were open or kept, and are discarded.
    pub discarded_steps: Vec<String>,
    /// Snapshots that are discarded.
    pub discarded_snapshots: Vec<String>,
    /// Layers that are discarded; the stage's own changes are in them.
    pub discarded_layers: Vec<String>,
    /// Steps that are kept with the state.
    pub kept_steps: Vec<String>,
    /// Background steps that were ended.
    pub background_steps: Vec<String>,
    /// What did not go as it should, a sentence each.
    pub problems: Vec<String>,
}

impl EndReport {
    /// What goes with a stage whose state is removed.
    pub fn discarding(state: &State) -> EndReport {
        EndReport {
            discarded_steps: state.steps.keys().cloned().collect(),
            discarded_snapshots: state.snapshots.keys().cloned().collect(),
            discarded_layers: state.stack.clone(),
            ..EndReport::default()
        }
    }
}

impl Stage {
    /// Ends the stage: unmounts every view and commits, synced to the disk, or
    /// removes the state. Steps that were open are kept with the state. After
    /// it only `status` makes sense. It can be repeated.
    ///
    /// # Errors
    /// What unmounting the stage view, sealing or committing reports.
    pub fn end(&self, keep_state: bool) -> Result<EndReport, Failure> {
        let _life = self.life.lock();
        self.completing.stop();
        let mut report = EndReport {
            kept_state: keep_state,
            ..EndReport::default()
        };
        let mut running: Vec<_> = self.running.lock().clone().into_iter().collect();
        // The stage view last: background steps live in it.
        running.sort_by_key(|(name, _)| name == STAGE_VIEW);
        for (name, view) in &running {
            if let Err(error) = self.end_one(name, view, keep_state) {
                if name == STAGE_VIEW {
                    return Err(error);
                }
                report.problems.push(format!("step '{name}': {error}"));
            }
        }
        let options = self.options();
        if !options.slots.is_empty()
            && let Err(error) = slots::close(&options.name)
        {
            report.problems.push(format!("slots: {error}"));
        }
        if !keep_state {
            report = EndReport {
                problems: report.problems,
                ..EndReport::discarding(&self.state.lock())
            };
            failpoint::hit("unmount-before-remove");
            self.layers.lock().clear();
            if let Err(error) = recover::remove_state(&self.dir) {
                if self
                    .dir
                    .join(super::state::FILE)
                    .try_exists()
                    .unwrap_or(true)
                {
                    let dir = self.dir.display();
                    let what =
                        format!("nothing is mounted any more, but {dir} could not be removed");
                    return Err(error.context(what).into());
                }
                // There is no stage any more, and what is left must not be taken for one.
                report.problems.push(format!(
                    "not everything could be removed: {error}; remove {} when that is mended",
                    self.dir.display()
                ));
            }
            return Ok(report);
        }
        let mut next = self.state.lock().clone();
        report.kept_steps = next.steps.keys().cloned().collect();
        self.stage_view.settle_maps()?;
        failpoint::hit("unmount-before-commit");
        self.commit_as(&mut next, true)?;
        failpoint::hit("unmount-after-commit");
        Ok(report)
    }

    fn end_one(&self, name: &str, running: &Running, keep: bool) -> Result<(), Failure> {
        if name == STAGE_VIEW {
            if let Some(session) = &running.session {
                session.unmount()?;
            }
            return Ok(());
        }
        if running.lent.is_some() {
            return self.end_shell(name, running);
        }
        if keep {
            let reason = "the stage was unmounted while it was open";
            return self.seal_as(name, Phase::Kept, Some(reason)).map(drop);
        }
        if let Some(session) = &running.session {
            session.abort();
            bind::unbind(&running.shown_at)?;
            session.unmount()?;
        }
        self.running.lock().remove(name);
        Ok(())
    }
}
