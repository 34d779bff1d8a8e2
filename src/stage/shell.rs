//! A look at what a step has left: a view of it that is thrown away.

use std::path::PathBuf;
use std::sync::Arc;

use super::state::{Phase, StepState};
use super::steps::known_step;
use super::{Failure, Running, Stage, StepView, VIEWS, recover};
use crate::error::{Context, Result};
use crate::layer::{OpenLayer, Stack};
use crate::view::View;

/// What the directories of these views begin with; no step is named so.
pub(super) const DIRS: &str = ".shell-";

/// A view of what a step has left.
#[derive(Debug)]
pub struct Shell {
    /// `STEP/shell-N`, as `status` shows it: no name that a step can have.
    pub name: String,
    /// What is needed to run something in it.
    pub view: StepView,
}

impl Stage {
    /// Opens a view of the tree as a step has left it that has ended and is
    /// neither merged nor discarded; `None` for one that is open. What is
    /// written there goes nowhere, and it shows the same whatever becomes of the
    /// step and the stage, until [`Stage::close_shell`].
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a step, else what the disk or mounting
    /// reports.
    pub fn open_shell(&self, step: &str) -> Result<Option<Shell>, Failure> {
        let _life = self.life.lock();
        let ids = |step: &StepState| -> Vec<String> {
            step.base_stack.iter().chain(&step.layer).cloned().collect()
        };
        let (state, lease) = self.lease(|state| state.steps.get(step).map(ids).unwrap_or_default());
        let known = known_step(&state, step)?;
        if known.state == Phase::Open {
            return Ok(None);
        }
        let stack = self.stack_of(&ids(known))?;
        let (number, dir) = self.new_shell_dir()?;
        let name = format!("{step}/shell-{number}");
        let made = self.mount_shell(&name, dir.clone(), stack);
        let running = made.inspect_err(|_| recover::remove_view(&dir))?;
        let running = Running {
            lent: Some(lease.leave()),
            ..running
        };
        self.running.lock().insert(name.clone(), Arc::new(running));
        let view = self.step_view(step, &name, &state);
        Ok(Some(Shell { name, view }))
    }

    /// Makes the first directory that is free.
    fn new_shell_dir(&self) -> Result<(u32, PathBuf)> {
        let views = self.dir.join(VIEWS);
        let mut number = 1;
        loop {
            let dir = views.join(format!("{DIRS}{number}"));
            match std::fs::create_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                made => {
                    return made
                        .context(|| dir.display().to_string())
                        .map(|()| (number, dir));
                }
            }
        }
    }

    fn mount_shell(&self, name: &str, dir: PathBuf, stack: Stack) -> Result<Running> {
        let mount = dir.join("mnt");
        std::fs::create_dir(&mount).context(|| mount.display().to_string())?;
        let open = OpenLayer::open(&dir.join("open"))?;
        let view = View::new(stack, open, self.inos.clone(), false)?;
        let session = self.sessions.mount(view.clone(), &mount, name)?.into();
        Ok(Running {
            view,
            session: Some(session),
            mount,
            lent: None,
            shown_at: Vec::new(),
        })
    }

    /// Throws such a view away. Whoever is still in it gets errors. One that is
    /// gone already is no failure.
    ///
    /// # Errors
    /// As umount2(2).
    pub fn close_shell(&self, name: &str) -> Result<(), Failure> {
        let _life = self.life.lock();
        let running = self.running.lock().get(name).cloned();
        match running {
            Some(running) => self.end_shell(name, &running),
            None => Ok(()),
        }
    }

    pub(super) fn end_shell(&self, name: &str, running: &Running) -> Result<(), Failure> {
        if let Some(session) = &running.session {
            session.abort();
            session.unmount()?;
            self.remember_requests(session.as_ref());
        }
        drop(running.view.close()?);
        self.running.lock().remove(name);
        if let Some(dir) = running.mount.parent() {
            recover::remove_view(dir);
        }
        self.give_back(running.lent.as_deref().unwrap_or_default());
        Ok(())
    }
}
