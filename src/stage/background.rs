//! Background steps: commands that live in the stage view.
//!
//! They are no part of the stage's state. What they write is in the head, as from
//! anybody who works there, and they end with the daemon at the latest.

use std::sync::atomic::{AtomicU64, Ordering};

use super::groups::group_of;
use super::names::{self, STAGE_VIEW};
use super::state::{Phase, now};
use super::status::StepKind;
use super::steps::in_use;
use super::{Failure, Stage, StepInfo, StepView};
use crate::sys::mount;

/// Tells the namespaces of background steps apart.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A command in the stage view.
#[derive(Clone, Debug)]
pub(super) struct Background {
    /// The command line that runs it.
    pid: i32,
    started: u64,
    /// What its processes are known by: see [`StepView::hidden_by`].
    mark: String,
}

impl Stage {
    /// Lets a command into the stage view, that the process `pid` is going to
    /// run.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a bad name, one in use, or one that a group waits for.
    pub fn begin_background(&self, step: &str, pid: i32) -> Result<StepView, Failure> {
        names::check("step", step)?;
        let _life = self.life.lock();
        let state = self.state.lock().clone();
        if let Some(known) = state.steps.get(step) {
            return Err(in_use(&state, step, known));
        }
        if let Some(group) = group_of(&state, step) {
            return Err(Failure::Usage(format!(
                "step '{step}' was declared in group '{group}', and a background step is never merged: \
                 give it another name"
            )));
        }
        self.refuse_background(step)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}:{}:{number}", mount::HIDING, std::process::id());
        let view = StepView {
            hidden_by: mark.clone(),
            ..self.step_view(step, STAGE_VIEW, &state)
        };
        let background = Background {
            pid,
            started: now(),
            mark,
        };
        self.background.lock().insert(step.to_owned(), background);
        Ok(view)
    }

    /// Its processes have ended.
    pub fn end_background(&self, step: &str) {
        self.background.lock().remove(step);
    }

    /// Checks that no background step has this name.
    pub(super) fn refuse_background(&self, step: &str) -> Result<(), Failure> {
        match self.background.lock().contains_key(step) {
            false => Ok(()),
            true => Err(Failure::Usage(format!(
                "step '{step}' runs in the background; `step stop {step}` ends it"
            ))),
        }
    }

    /// What the processes of a background step are known by, if there is one.
    pub fn background_mark(&self, step: &str) -> Option<String> {
        let background = self.background.lock();
        background.get(step).map(|known| known.mark.clone())
    }

    /// The background steps, by name, as steps.
    pub fn background_steps(&self) -> Vec<StepInfo> {
        let all = self.background.lock().clone().into_iter();
        all.map(|(name, known)| StepInfo {
            name,
            kind: StepKind::Background,
            state: Phase::Open,
            layer: None,
            started: known.started,
            ended: None,
            group: None,
            exit: None,
            reason: None,
            pid: Some(known.pid),
            slot: None,
        })
        .collect()
    }
}
