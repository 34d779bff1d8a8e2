//! The life of a step: seal, keep, discard.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::diff::as_seen;
use super::ended::{is_stranded, stranded};
use super::groups::{group_of, member_leaves, needed_by_group};
use super::head::forget_seal;
use super::journal::Record;
use super::names::STAGE_VIEW;
use super::sharing::drop_unmerged;
use super::state::{Phase, State, StepState, now};
use super::{Failure, Stage, bind, failpoint, occupants, recover, reserve};
use crate::error::Result;
use crate::layer::{Manifest, seal};
use crate::sys::mount;
use crate::tree::Ino;
use crate::tree::shown;

/// What is needed to run something in a step's view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepView {
    /// The step.
    pub name: String,
    /// Where the view is mounted; its entries are `0`, `1`, … for the mapped paths.
    #[serde(with = "shown")]
    pub mount: PathBuf,
    /// The mapped paths; the first is the workspace.
    #[serde(with = "shown::all")]
    pub mapped: Vec<PathBuf>,
    /// To be hidden inside the step.
    #[serde(with = "shown")]
    pub state_dir: PathBuf,
    /// The mounts of all other views, and the slots, to be detached inside the step.
    #[serde(with = "shown::all")]
    pub other_mounts: Vec<PathBuf>,
    /// The mapped paths that show the stage's own view in the step, not this one.
    #[serde(default, with = "shown::all")]
    pub live: Vec<PathBuf>,
    /// What the `tmpfs` is to be mounted from that hides the state directory. The
    /// processes of a background step are known by that.
    #[serde(default = "hiding")]
    pub hidden_by: String,
}

fn hiding() -> String {
    mount::HIDING.to_owned()
}

/// A step whose layer is immutable.
#[derive(Clone, Debug, Serialize)]
pub struct SealedStep {
    /// The step.
    pub name: String,
    /// Its layer, unless it changed nothing.
    pub layer: Option<String>,
    /// Entries that it adds or changes.
    pub entries: u64,
    /// Names that it deletes.
    pub whiteouts: u64,
    /// Bytes of content that it holds.
    pub bytes: u64,
    /// What else the user should know, a sentence each.
    pub notes: Vec<String>,
}

impl Stage {
    /// What is needed to run something as this step in the view named `view`.
    pub(super) fn step_view(&self, step: &str, view: &str, state: &State) -> StepView {
        let all = self.running.lock();
        let mount = match all.get(view) {
            Some(running) => running.mount.clone(),
            None => self.view_dir(view).join("mnt"),
        };
        let others = all.iter().filter(|(name, _)| *name != view);
        let others = others.map(|(_, running)| running.mount.clone());
        let private = state.steps.get(step).map(|step| step.private.as_slice());
        StepView {
            name: step.to_owned(),
            mount,
            mapped: state.options.mapped.clone(),
            state_dir: self.dir.clone(),
            // With a slot goes what is mounted in it.
            other_mounts: others.chain(Self::slot_dirs(state)).collect(),
            live: state.options.live(private.unwrap_or_default()),
            hidden_by: hiding(),
        }
    }

    /// What is needed to run something more in an open step.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a step, [`Failure::Usage`] if it is
    /// no longer open.
    pub fn view_of(&self, step: &str) -> Result<StepView, Failure> {
        let state = self.state.lock().clone();
        let known = known_step(&state, step)?;
        if known.state != Phase::Open {
            let text = format!("step '{step}' has ended; nothing more can run in it");
            return Err(Failure::Usage(text));
        }
        Ok(self.step_view(step, step, &state))
    }

    /// Records the exit code of a step's command, for `status`.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a step, or what committing reports.
    pub fn record_exit(&self, step: &str, code: i32) -> Result<(), Failure> {
        let _life = self.life.lock();
        let mut next = self.state.lock().clone();
        known_step(&next, step)?;
        if let Some(known) = next.steps.get_mut(step) {
            known.exit = Some(code);
        }
        Ok(self.commit(&mut next)?)
    }

    /// Ends a step's view and makes its layer immutable. No process may be left
    /// that writes there. A step that is sealed already stays as it is.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a step, else what unmounting, sealing
    /// or committing reports.
    pub fn seal_step(&self, step: &str) -> Result<SealedStep, Failure> {
        let _life = self.life.lock();
        let notes = self.seal_as(step, Phase::Sealed, None)?;
        let layer = known_step(&self.state.lock(), step)?.layer.clone();
        let sealed = self.sealed(step, layer)?;
        Ok(SealedStep { notes, ..sealed })
    }

    /// Returns what the user should know.
    pub(super) fn seal_as(
        &self,
        step: &str,
        phase: Phase,
        reason: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        self.seal_and(step, phase, reason, |_| ())
    }

    /// [`Stage::seal_as`], with something more in the same commit.
    pub(super) fn seal_and(
        &self,
        step: &str,
        phase: Phase,
        reason: Option<&str>,
        change: impl FnOnce(&mut State),
    ) -> Result<Vec<String>, Failure> {
        let known = known_step(&self.state.lock(), step)?.clone();
        let mut notes = Vec::new();
        if known.state == Phase::Open {
            notes = self.end_view(step, &known)?;
        } else if phase == Phase::Sealed {
            return Ok(notes);
        }
        let layer = known_step(&self.state.lock(), step)?.layer.clone();
        self.save_reads(step, layer.as_ref());
        self.commit_end(step, phase, reason, change)?;
        Ok(notes)
    }

    /// [`Stage::seal_as`] for an open step that is merged next: what it saw is needed no more
    /// then, and not written down.
    pub(super) fn seal_to_merge(&self, step: &str) -> Result<Vec<String>, Failure> {
        let known = known_step(&self.state.lock(), step)?.clone();
        let notes = self.end_view(step, &known)?;
        self.commit_end(step, Phase::Sealed, None, |_| ())?;
        Ok(notes)
    }

    fn commit_end(
        &self,
        step: &str,
        phase: Phase,
        reason: Option<&str>,
        change: impl FnOnce(&mut State),
    ) -> Result<(), Failure> {
        let mut next = self.state.lock().clone();
        if let Some(known) = next.steps.get_mut(step) {
            known.state = phase;
            known.reason = reason.map(str::to_owned);
            known.ended = known.ended.or_else(|| Some(now()));
        }
        change(&mut next);
        self.commit(&mut next)?;
        failpoint::hit("seal-step-after-commit");
        recover::remove_view(&self.view_dir(step));
        Ok(())
    }

    pub(super) fn sealed(&self, name: &str, layer: Option<String>) -> Result<SealedStep, Failure> {
        let manifest: Option<Manifest> = match &layer {
            Some(id) => Some(self.layer(id)?.manifest().clone()),
            None => None,
        };
        Ok(SealedStep {
            name: name.to_owned(),
            layer,
            entries: manifest.as_ref().map_or(0, |told| told.entries),
            whiteouts: manifest.as_ref().map_or(0, |told| told.whiteouts),
            bytes: manifest.as_ref().map_or(0, |told| told.bytes),
            notes: Vec::new(),
        })
    }

    /// Unmounts a step's view and seals its layer. The state names the layer
    /// in memory; the caller commits. Returns what the user should know.
    fn end_view(&self, step: &str, known: &StepState) -> Result<Vec<String>, Failure> {
        let running = self.running(step)?;
        let mut notes = Vec::new();
        if let Some(session) = &running.session {
            bind::unbind(&running.shown_at)?;
            session.unmount()?;
            self.remember_requests(session.as_ref());
            let held = running.view.part_from_writers(&session.held())?;
            notes = tell_of_writers(&self.options().mapped, &held);
        }
        let open = running.view.close()?;
        if let Some(reads) = running.view.take_reads() {
            let mut all = self.reads.lock();
            all.insert(step.to_owned(), Arc::new(reads));
        }
        let state = self.state.lock().clone();
        reserve::or_spend(&self.dir, || {
            drop_unmerged(&state, known, &open, || self.stack_of(&known.base_stack))
        })?;
        let layer = if open.is_clean()? {
            None
        } else {
            let stack = self.stack_of(&known.base_stack)?;
            let (id, commits) = {
                let mut state = self.state.lock();
                (state.new_layer_id(step), state.commits)
            };
            let record = Record {
                view: step.to_owned(),
                id: id.clone(),
                commits,
            };
            reserve::or_spend(&self.dir, || record.write(&self.dir))?;
            failpoint::hit("seal-step-before-seal");
            let layers = self.layers_dir();
            let sealed = || seal(&open, &stack, &layers, &id, step, now());
            if let Err(error) = reserve::or_spend(&self.dir, sealed) {
                forget_seal(&open, &self.dir, &id);
                reserve::keep(&self.dir);
                return Err(error.into());
            }
            failpoint::hit("seal-step-after-seal");
            self.pending.lock().push(id.clone());
            Some(id)
        };
        if let Some(known) = self.state.lock().steps.get_mut(step) {
            known.layer = layer;
            known.state = Phase::Sealed;
            known.ended = Some(now());
        }
        self.running.lock().remove(step);
        Ok(notes)
    }

    /// Ends a step and drops what it did. Whoever is still in its view gets errors.
    /// A member of a group that never began is waited for no longer, but one that
    /// is kept, in a group that is not to be merged without it, makes way for
    /// another run.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a step, else what unmounting or
    /// committing reports.
    pub fn discard(&self, step: &str) -> Result<(), Failure> {
        let _life = self.life.lock();
        let mut next = self.state.lock().clone();
        if !next.steps.contains_key(step) && group_of(&next, step).is_some() {
            member_leaves(&mut next, step);
            return Ok(self.commit(&mut next)?);
        }
        let kept = next.steps.get(step);
        let kept = kept.is_some_and(|known| known.state == Phase::Kept);
        if kept && needed_by_group(&next, step) {
            return self.drop_step_and(step, |_| ());
        }
        self.drop_step(step)
    }

    /// Ends a step's view, if it has one, without a layer.
    pub(super) fn drop_view(&self, step: &str) -> Result<(), Failure> {
        let running = self.running.lock().get(step).cloned();
        if let Some(running) = running {
            if let Some(session) = &running.session {
                session.abort();
                bind::unbind(&running.shown_at)?;
                session.unmount()?;
                self.remember_requests(session.as_ref());
            }
            drop(running.view.close()?);
        }
        Ok(())
    }

    pub(super) fn drop_step(&self, step: &str) -> Result<(), Failure> {
        self.drop_step_and(step, |next| member_leaves(next, step))
    }

    /// [`Stage::drop_step`], with what becomes of its group in the same commit.
    pub(super) fn drop_step_and(
        &self,
        step: &str,
        change: impl FnOnce(&mut State),
    ) -> Result<(), Failure> {
        known_step(&self.state.lock(), step)?;
        self.drop_view(step)?;
        let mut next = self.state.lock().clone();
        next.steps.remove(step);
        next.gone.insert(step.to_owned(), "discarded".to_owned());
        change(&mut next);
        self.commit(&mut next)?;
        self.running.lock().remove(step);
        self.reads.lock().remove(step);
        recover::remove_view(&self.view_dir(step));
        self.sweep_layers();
        Ok(())
    }
}

/// A sentence for each file that somebody outside of the step goes on writing,
/// and who that is.
pub(super) fn tell_of_writers(mapped: &[PathBuf], held: &[(Ino, PathBuf)]) -> Vec<String> {
    let tell = |(ino, path): &(Ino, PathBuf)| {
        let writers: Vec<String> = occupants::writers(*ino)
            .iter()
            .map(|(pid, name)| format!("{name} (pid {pid})"))
            .collect();
        let who = match writers.is_empty() {
            true => "a process outside of the step".to_owned(),
            false => writers.join(", "),
        };
        let note = format!(
            "{} is still open for writing in {who}; what is written there from now on is lost",
            as_seen(mapped, path).display()
        );
        log::warn!("{note}");
        note
    };
    held.iter().map(tell).collect()
}

/// A step that is there, or why it is not.
pub(super) fn known_step<'a>(state: &'a State, step: &str) -> Result<&'a StepState, Failure> {
    state.steps.get(step).ok_or_else(|| {
        let text = match state.gone.get(step) {
            Some(how) => format!("step '{step}' was {how}; there is nothing left of it"),
            None if step == STAGE_VIEW => "'stage' is the stage's own view, no step".to_owned(),
            None => format!("there is no step '{step}'"),
        };
        Failure::NotFound(text)
    })
}

pub(super) fn in_use(state: &State, step: &str, known: &StepState) -> Failure {
    Failure::Usage(match known.state {
        _ if is_stranded(state, known) => {
            let why = stranded(state, known);
            format!("step '{step}' {why}; discard it first")
        }
        Phase::Open => format!("step '{step}' is open; merge or discard it first"),
        Phase::Sealed => format!("step '{step}' waits to be merged; merge or discard it first"),
        Phase::Kept => format!(
            "step '{step}' is kept ({}); merge or discard it first",
            known.reason.as_deref().unwrap_or("no reason given")
        ),
    })
}
