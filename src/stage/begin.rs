//! The beginning of a step: on which state, and its view.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::abort::refuse_aborted;
use super::ended::{is_stranded, stranded};
use super::groups::{group_base, group_of, member_begins};
use super::head::SealCost;
use super::state::{Phase, State, StepState, now};
use super::steps::{StepView, in_use, known_step};
use super::{Failure, Running, Stage, bind, names, recover, reserve};
use crate::error::{Context, Error};
use crate::layer::OpenLayer;
use crate::view::View;

/// The state that a step begins on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// The stage as it is now, or, of a member of a group, as it was when the first
    /// of them began.
    #[default]
    Stage,
    /// That of another step, which may have ended but is neither merged nor
    /// discarded: two steps begin alike, whoever writes to the stage in between.
    Like(String),
    /// What another step has left that has ended and is neither merged nor discarded.
    /// The two can only be merged together, or this one later.
    After(String),
}

/// How a step begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// On which state.
    pub start: Start,
    /// Shared paths that it has for itself, whatever their mode: what it changes
    /// there is dropped.
    pub private: Vec<PathBuf>,
    /// The slot in which containers see it.
    pub slot: Option<String>,
}

impl Stage {
    /// Opens a view for a step, of the stage as it is now; see [`Start::Stage`]. The
    /// name may be one whose step was merged or discarded.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a bad name, one in use, or a member of a group that
    /// was aborted, else what sealing the head, the disk or mounting reports; then
    /// there is no such step.
    pub fn begin(&self, step: &str) -> Result<StepView, Failure> {
        let begun = self.begin_with(step, &Beginning::default());
        begun.map(|(view, _)| view)
    }

    /// The same, as it is asked for. Also what it took to seal the head, if somebody
    /// was writing.
    ///
    /// # Errors
    /// As [`Stage::begin`] and [`Stage::private_paths`]; [`Failure::NotFound`] without
    /// the other step or the slot, and [`Failure::Usage`] if that step is open where
    /// it should have ended, if its state is no part of the stage any more, or if
    /// another step is in the slot.
    pub fn begin_with(
        &self,
        step: &str,
        beginning: &Beginning,
    ) -> Result<(StepView, Option<SealCost>), Failure> {
        let private = self.private_paths(&beginning.private)?;
        let _life = self.life.lock();
        self.check_free(step)?;
        let slot = self.slot_for(step, beginning.slot.as_deref())?;
        let of_group = group_base(&self.state.lock(), step);
        let mut cost = None;
        let base = match (&beginning.start, of_group) {
            (Start::Stage, Some(base)) => base,
            (Start::Stage, None) => {
                cost = self.seal_dirty_head()?;
                self.state.lock().stack.clone()
            }
            (Start::Like(other), _) => self.base_of(other)?,
            (Start::After(other), _) => self.left_by(other)?,
        };
        Ok((self.begin_on(step, base, private, slot)?, cost))
    }

    /// Forgets what an open step did, and begins it once more on the state that it
    /// began on. Whoever is still in its view gets errors. Its group goes on
    /// waiting for it.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a step, [`Failure::Usage`] for one that has
    /// ended or began on a state that is gone, or what unmounting reports; then it
    /// is as it was. What keeps the new view from being mounted: then there is no
    /// such step any more.
    pub fn reset(&self, step: &str) -> Result<StepView, Failure> {
        let _life = self.life.lock();
        let known = known_step(&self.state.lock(), step)?.clone();
        if known.state != Phase::Open {
            let text = format!("step '{step}' has ended; discard it and begin it again");
            return Err(Failure::Usage(text));
        }
        let base = self.base_of(step)?;
        let slot = self.slot_for(step, known.slot.as_deref())?;
        self.drop_view(step)?;
        recover::remove_view(&self.view_dir(step));
        // What of it is open still takes room.
        self.running.lock().remove(step);
        let begin = || {
            let private = known.private.clone();
            match self.begin_on(step, base.clone(), private, slot.clone()) {
                Err(Failure::Failed(error)) => Err(error),
                done => Ok(done),
            }
        };
        // On a full disk there is room for one that forgets what it wrote.
        let begun = reserve::or_spend(&self.dir, begin);
        let begun = begun.unwrap_or_else(|error| {
            let text = format!("step '{step}' is gone, as it could not be begun again: {error}");
            Err(Error::new(error.errno(), text).into())
        });
        if begun.is_err() {
            self.drop_step(step)?;
        }
        begun
    }

    /// Checks that a step of this name can begin.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a bad name, one in use, or a member of a group that was
    /// aborted.
    pub fn check_free(&self, step: &str) -> Result<(), Failure> {
        names::check("step", step)?;
        let state = self.state.lock();
        match state.steps.get(step) {
            Some(known) => return Err(in_use(&state, step, known)),
            None => refuse_aborted(&state, step)?,
        }
        drop(state);
        self.refuse_background(step)
    }

    /// Checks what need not wait for the step's turn: what may be so by then is not
    /// looked at, such as whether its slot is free.
    ///
    /// # Errors
    /// As [`Stage::check_free`]; [`Failure::NotFound`] without the other step or the
    /// slot.
    pub fn check_possible(&self, step: &str, beginning: &Beginning) -> Result<(), Failure> {
        self.check_free(step)?;
        if let Some(slot) = &beginning.slot {
            self.known_slot(slot)?;
        }
        match &beginning.start {
            Start::Stage => Ok(()),
            Start::Like(other) | Start::After(other) => {
                known_step(&self.state.lock(), other).map(drop)
            }
        }
    }

    fn base_of(&self, step: &str) -> Result<Vec<String>, Failure> {
        let state = self.state.lock();
        let known = known_step(&state, step)?;
        if is_stranded(&state, known) {
            let why = stranded(&state, known);
            let text = format!("step '{step}' {why}; discard it and begin it again");
            return Err(Failure::Usage(text));
        }
        Ok(known.base_stack.clone())
    }

    fn left_by(&self, step: &str) -> Result<Vec<String>, Failure> {
        let mut base = self.base_of(step)?;
        let known = known_step(&self.state.lock(), step)?.clone();
        if known.state == Phase::Open {
            let text = format!("step '{step}' is open: what it leaves is not known yet");
            return Err(Failure::Usage(text));
        }
        base.extend(known.layer);
        Ok(base)
    }

    /// Opens a view of these layers for a step.
    fn begin_on(
        &self,
        step: &str,
        base: Vec<String>,
        private: Vec<PathBuf>,
        slot: Option<(String, Vec<PathBuf>)>,
    ) -> Result<StepView, Failure> {
        let mut next = self.state.lock().clone();
        let dir = self.view_dir(step);
        let made = self.open_view(step, &dir, (base, private), slot, &mut next);
        if made.is_err() {
            recover::remove_view(&dir);
        }
        made?;
        Ok(self.step_view(step, step, &next))
    }

    fn open_view(
        &self,
        step: &str,
        dir: &Path,
        (base_stack, private): (Vec<String>, Vec<PathBuf>),
        slot: Option<(String, Vec<PathBuf>)>,
        next: &mut State,
    ) -> Result<(), Failure> {
        let stack = self.stack_of(&base_stack)?;
        let mount = dir.join("mnt");
        std::fs::create_dir_all(&mount).context(|| mount.display().to_string())?;
        let open = OpenLayer::open(&dir.join("open"))?;
        let view = View::new(stack, open, self.inos.clone(), false)?;
        let session: Arc<dyn super::Session> =
            self.sessions.mount(view.clone(), &mount, step)?.into();
        let (slot, shown_at) = slot.unzip();
        let shown_at = shown_at.unwrap_or_default();
        let live = next.options.live(&private);
        let started = StepState {
            state: Phase::Open,
            base_stack,
            layer: None,
            started: now(),
            first_ino: self.inos.allocate(),
            ended: None,
            group: group_of(next, step),
            exit: None,
            reason: None,
            kept_in: None,
            private,
            slot,
        };
        // Of an earlier step of this name that made way for others.
        self.reads.lock().remove(step);
        next.steps.insert(step.to_owned(), started);
        next.gone.remove(step);
        member_begins(next, step);
        // Before the commit: a step that is there is to be seen in its slot.
        let begun = self
            .show_at(&mount, &live, &shown_at)
            .and_then(|()| self.commit(next));
        if let Err(error) = begun {
            session.abort();
            bind::unbind(&shown_at)?;
            session.unmount()?;
            return Err(error.into());
        }
        let running = Running {
            view,
            session: Some(session),
            mount,
            lent: None,
            shown_at,
        };
        let mut all = self.running.lock();
        all.insert(step.to_owned(), Arc::new(running));
        Ok(())
    }
}
