//! Steps that have succeeded: merged, or kept if that has become impossible meanwhile.

use super::merge::MERGED;
use super::state::{Phase, State, StepState};
use super::steps::known_step;
use super::{Failure, MergeReport, Overrides, Stage};

/// Why a step cannot be merged whose state is left: it continues "step 'NAME'".
pub(super) fn stranded(state: &State, step: &StepState) -> String {
    let both = state.stack.iter().zip(&step.base_stack);
    let common = both.take_while(|(a, b)| a == b).count();
    // `000003-NAME`.
    let name = |id: &'_ String| id.split_once('-').map(|(_, name)| name.to_owned());
    let left = step.base_stack.get(common).and_then(name);
    if let Some(before) = left {
        let is_there = |id| name(id).as_ref() == Some(&before);
        if state.stack[common..].iter().any(is_there) {
            return format!("began on what step '{before}' had left, which was merged without it");
        }
        if state.gone.get(&before).is_some_and(|how| how != MERGED) {
            return format!("began on what step '{before}' had left, which is not there any more");
        }
    }
    "began on a state that a snapshot restore or a rollback has left since".to_owned()
}

/// Whether what the step has changed is no longer part of the stage. Having
/// changed nothing it can be merged into anything, once that is known.
pub(super) fn is_stranded(state: &State, step: &StepState) -> bool {
    let may_have_changes = step.state == Phase::Open || step.layer.is_some();
    may_have_changes && !is_rooted(state, &step.base_stack)
}

/// Whether these layers are the lower part of the stage, or will be once steps are
/// merged that have ended.
fn is_rooted(state: &State, base: &[String]) -> bool {
    if state.stack.starts_with(base) {
        return true;
    }
    let Some((top, below)) = base.split_last() else {
        return true;
    };
    // A step's layer lies on its base: this ends.
    let mut steps = state.steps.values();
    let waits = steps.any(|step| step.layer.as_ref() == Some(top) && step.base_stack == below);
    waits && is_rooted(state, below)
}

impl Stage {
    /// Merges a step whose command has succeeded. One that cannot be merged any
    /// more is kept, and its report has no steps and says why in its notes.
    ///
    /// # Errors
    /// As [`Stage::merge`].
    pub fn merge_succeeded(
        &self,
        step: &str,
        overrides: impl Into<Overrides>,
    ) -> Result<MergeReport, Failure> {
        let _life = self.life.lock();
        let overrides = overrides.into();
        self.merge_possible(&[step.to_owned()], |_| overrides.clone())
    }

    fn is_stranded(&self, step: &str) -> Result<bool, Failure> {
        let state = self.state.lock();
        Ok(is_stranded(&state, known_step(&state, step)?))
    }

    /// Merges those of the steps that can be merged, in this order, all or none,
    /// and keeps the others.
    pub(super) fn merge_possible(
        &self,
        steps: &[String],
        overrides: impl Fn(&str) -> Overrides,
    ) -> Result<MergeReport, Failure> {
        let (mut possible, mut notes) = (Vec::new(), Vec::new());
        for step in steps {
            if self.is_stranded(step)? {
                notes.extend(self.seal_as(step, Phase::Sealed, None)?);
            }
            if self.is_stranded(step)? {
                let why = {
                    let state = self.state.lock();
                    stranded(&state, known_step(&state, step)?)
                };
                self.seal_as(step, Phase::Kept, Some(&why))?;
                notes.push(format!(
                    "step '{step}' {why}: it is not merged but kept; `harness-fs diff {step}` \
                     lists its changes, `step discard {step}` makes way for another run"
                ));
            } else {
                possible.push(step.clone());
            }
        }
        if possible.is_empty() {
            return Ok(MergeReport {
                notes,
                ..MergeReport::default()
            });
        }
        match self.merge_locked(&possible, overrides) {
            Ok(mut report) => {
                report.notes.splice(0..0, notes);
                Ok(report)
            }
            Err(Failure::Conflict(mut report)) => {
                for note in notes.iter().rev() {
                    report.text.insert_str(0, &format!("{note}\n"));
                }
                Err(Failure::Conflict(report))
            }
            Err(failure) => Err(failure),
        }
    }
}
