//! Taking up a stage whose daemon has ended, cleanly or not.
//!
//! `stage.json` says what the stage is. The journal adds whose content a layer
//! is that was sealed and not yet committed. Everything else is swept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::journal::{self, Record};
use super::names::STAGE_VIEW;
use super::sharing::drop_unmerged;
use super::state::{Phase, State, now};
use super::steps::tell_of_writers;
use super::{Failure, LAYERS, Sessions, Stage, VIEWS, boot_id, make_state_dir, reserve};
use crate::error::{Context, Error, Result};
use crate::layer::{OpenLayer, finish_seal, part_from_writers, seal, sweep_sealed};
use crate::sys::at;

impl Stage {
    /// Takes up the stage in a state directory. Steps that were open are kept
    /// aside, with all that they wrote. The mapped paths must show their own
    /// content, so nothing of the stage may be mounted any more.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without a stage, [`Failure::Failed`] for another
    /// format, or if the machine was restarted since and the last commit may
    /// not have reached the disk; else what the disk reports.
    pub fn resume(state_dir: &Path, sessions: Arc<dyn Sessions>) -> Result<Stage, Failure> {
        let mut state = match State::read_to_resume(state_dir) {
            Err(error) if error.errno() == Errno::ENOENT => {
                let text = format!("{}: there is no stage to resume", state_dir.display());
                return Err(Failure::NotFound(text));
            }
            read => read?,
        };
        if journal::read_apply(state_dir)?.is_some() {
            let text = format!(
                "{}: an `unmount --apply` is not finished, so the base may be half written",
                state_dir.display()
            );
            return Err(Error::new(Errno::EBUSY, text).into());
        }
        let mut notes = Vec::new();
        if state.boot_id != boot_id()? {
            notes.push("the machine was restarted since the stage was last used".to_owned());
        }
        make_state_dir(state_dir)?;
        state.run += 1;
        // Its range of numbers counts as used from here on, whatever happens.
        state.write(state_dir)?;
        // Opening layers and ending seals make files and directories too, in many
        // places; the last commit takes the room again.
        reserve::spend(state_dir);
        Self::settle(state_dir, state, sessions, notes).inspect_err(|_| reserve::keep(state_dir))
    }

    /// Brings what there is into layers, sweeps the rest, and commits.
    fn settle(
        state_dir: &Path,
        mut state: State,
        sessions: Arc<dyn Sessions>,
        mut notes: Vec<String>,
    ) -> Result<Stage, Failure> {
        let records = Record::read_all(state_dir)?;
        let leftover = records
            .iter()
            .filter(|record| record.commits >= state.commits);
        let leftover: Vec<Record> = leftover.cloned().collect();
        settle_heads(state_dir, &state, &leftover, sessions.clone())
            .and_then(|stack| {
                state.stack = stack;
                settle_steps(
                    state_dir,
                    &mut state,
                    &leftover,
                    sessions.clone(),
                    &mut notes,
                )
            })
            .context(|| format!("resuming {}", state_dir.display()))?;
        for (name, group) in &state.groups {
            if group.aborted.is_none() && group.waits_for().is_empty() {
                notes.push(format!(
                    "the steps of group '{name}' have ended, and the daemon before it could merge them: \
                     `group close {name}` does it"
                ));
            }
        }
        sweep_views(state_dir)?;
        sweep_objects(state_dir)?;
        sweep_layers(state_dir, &state)?;
        let stage = Stage::assemble(state_dir, &state, sessions, notes)?;
        let ids = records.into_iter().map(|record| record.id);
        stage.pending.lock().extend(ids);
        stage.commit(&mut state)?;
        stage.complete_leftovers()?;
        Ok(stage)
    }
}

/// Brings the head's layers that were sealed and not committed onto the stack,
/// finishing the sealing first where it was cut off.
fn settle_heads(
    dir: &Path,
    state: &State,
    records: &[Record],
    sessions: Arc<dyn Sessions>,
) -> Result<Vec<String>> {
    let layers = dir.join(LAYERS);
    let mut stack = state.stack.clone();
    for record in records.iter().filter(|record| record.view == STAGE_VIEW) {
        let open = dir.join(VIEWS).join(STAGE_VIEW).join("open");
        let layer = layers.join(&record.id);
        if layer.exists() {
            sweep_sealed(&layer)?;
        } else {
            let before = State {
                stack: stack.clone(),
                ..state.clone()
            };
            // Nobody writes there past the daemon: the stage view never uses passthrough.
            end_seal(dir, &open, &before, &stack, &record.id, "head", &sessions)?;
        }
        stack.push(record.id.clone());
    }
    Ok(stack)
}

/// Ends the sealing of the open layer in `open`. Returns what the user should know.
fn end_seal(
    dir: &Path,
    open: &Path,
    state: &State,
    base: &[String],
    id: &str,
    step: &str,
    sessions: &Arc<dyn Sessions>,
) -> Result<Vec<String>> {
    let layers = dir.join(LAYERS);
    if finish_seal(open, &layers, id)? {
        return Ok(Vec::new());
    }
    // Reading the layers below takes the parts of a stage; it is put together
    // for real when everything is settled.
    let reader = Stage::assemble(dir, state, sessions.clone(), Vec::new())?;
    let stack = reader.stack_of(base)?;
    let layer = OpenLayer::open(open)?;
    // The kernel goes on serving passthrough files to who still has them open.
    let held = part_from_writers(&layer, &stack)?;
    seal(&layer, &stack, &layers, id, step, now())?;
    Ok(tell_of_writers(&state.options.mapped, &held))
}

/// Keeps what steps had written whose views ended with the daemon.
fn settle_steps(
    dir: &Path,
    state: &mut State,
    records: &[Record],
    sessions: Arc<dyn Sessions>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let open_steps: Vec<String> = state
        .steps
        .iter()
        .filter(|(_, step)| step.state == Phase::Open)
        .map(|(name, _)| name.clone())
        .collect();
    for name in open_steps {
        let layers = dir.join(LAYERS);
        let open = dir.join(VIEWS).join(&name).join("open");
        let recorded = records.iter().rfind(|record| record.view == name);
        let id = match recorded {
            Some(record) => record.id.clone(),
            None => state.new_layer_id(&name),
        };
        let base = state.steps[&name].base_stack.clone();
        let layer = layers.join(&id);
        if recorded.is_none() && open.exists() {
            // A seal that was under way has done it.
            let below =
                || Stage::assemble(dir, state, sessions.clone(), Vec::new())?.stack_of(&base);
            drop_unmerged(state, &state.steps[&name], &OpenLayer::open(&open)?, below)?;
        }
        let sealed = if layer.exists() {
            sweep_sealed(&layer)?;
            true
        } else if open.exists() && (recorded.is_some() || !OpenLayer::open(&open)?.is_clean()?) {
            notes.extend(end_seal(dir, &open, state, &base, &id, &name, &sessions)?);
            true
        } else {
            false
        };
        if !sealed {
            notes.push(format!(
                "step '{name}' was open and had changed nothing; it is gone"
            ));
            state.steps.remove(&name);
            state
                .gone
                .insert(name, "interrupted before it changed anything".to_owned());
            continue;
        }
        if let Some(step) = state.steps.get_mut(&name) {
            step.state = Phase::Kept;
            step.layer = Some(id);
            step.ended = Some(now());
            step.reason = Some("interrupted: the daemon ended while it ran".to_owned());
        }
        notes.push(format!(
            "step '{name}' was interrupted; what it wrote is kept, to be merged or discarded"
        ));
    }
    Ok(())
}

/// Removes the views of steps; all that matters of them is in layers now.
/// What was on its way into the stage or out of it has not come.
fn sweep_objects(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir.join(super::OBJECTS))? {
        let path = entry?.path();
        at::remove_all(nix::fcntl::AT_FDCWD, &path).context(|| path.display().to_string())?;
    }
    Ok(())
}

fn sweep_views(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir.join(VIEWS))? {
        let entry = entry?;
        if entry.file_name() == STAGE_VIEW {
            let next = entry.path().join("open.next");
            at::remove_all(nix::fcntl::AT_FDCWD, &next)?;
        } else {
            remove_view(&entry.path());
        }
    }
    Ok(())
}

/// Removes a view's directory. Never walks into its mount point: if something
/// is still mounted there, that part stays until the next start.
pub(super) fn remove_view(path: &Path) {
    let remove = || -> Result<()> {
        at::remove_all(nix::fcntl::AT_FDCWD, &path.join("open"))?;
        for dir in [path.join("mnt"), path.to_path_buf()] {
            match std::fs::remove_dir(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    };
    if let Err(error) = remove() {
        log::warn!("{}: {error}", path.display());
    }
}

/// What is in `layers/`: first what the state names, then the rest.
///
/// # Errors
/// As readdir(3).
pub(super) fn layers_by_need(dir: &Path, state: &State) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(dir.join(LAYERS))? {
        let entry = entry?;
        let name = entry.file_name();
        match name.to_str().is_some_and(|id| state.refers_to(id)) {
            true => named.push(entry.path()),
            false => others.push(entry.path()),
        }
    }
    Ok((named, others))
}

/// Removes everything in `layers/` that the state does not name, and what layers
/// have left of the time when they were open.
///
/// # Errors
/// What the disk reports of the former.
fn sweep_layers(dir: &Path, state: &State) -> Result<()> {
    let (named, others) = layers_by_need(dir, state)?;
    for path in others {
        at::remove_all(nix::fcntl::AT_FDCWD, &path).context(|| path.display().to_string())?;
    }
    for path in named {
        if let Err(error) = sweep_sealed(&path) {
            log::warn!("what the layer no longer needs is still there: {error}");
        }
    }
    Ok(())
}

/// Removes what a stage owns of its state directory, and the directory if
/// nothing else is in it.
///
/// # Errors
/// What the disk reports; it can be repeated.
pub(super) fn remove_state(dir: &Path) -> Result<()> {
    // First, so that nobody takes the rest for a stage.
    at::remove_all(nix::fcntl::AT_FDCWD, &dir.join(super::state::FILE))?;
    super::failpoint::hit("unmount-in-remove");
    if let Ok(views) = std::fs::read_dir(dir.join(VIEWS)) {
        for view in views {
            remove_view(&view?.path());
        }
    }
    for name in [LAYERS, journal::DIR, super::OBJECTS, reserve::DIR] {
        at::remove_all(nix::fcntl::AT_FDCWD, &dir.join(name))
            .context(|| dir.join(name).display().to_string())?;
    }
    // A log or a socket of the daemon may be left in it.
    let _ = std::fs::remove_dir(dir.join(VIEWS));
    let _ = std::fs::remove_dir(dir);
    Ok(())
}
