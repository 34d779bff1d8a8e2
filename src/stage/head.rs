//! Sealing the head while people write in the stage view.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use serde::Serialize;

use super::journal::Record;
use super::names::STAGE_VIEW;
use super::state::now;
use super::{Failure, Stage, failpoint};
use crate::error::{Context, Error, Result};
use crate::layer::{OpenLayer, Stack, seal_unswept, sweep_or_leave};
use crate::sys::at;

/// What it took to seal the head while files of it were open for writing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SealCost {
    /// How many such files there were.
    pub files: usize,
    /// The size of those that are copied when they are next written, by who writes
    /// them. Larger ones are taken over block by block.
    pub bytes: u64,
    /// For how long requests to the stage view had to wait, in milliseconds.
    pub held_ms: f64,
}

impl Stage {
    /// Seals the head and commits, unless nothing was written since the last time.
    /// Tells what that took, if somebody was writing.
    pub(super) fn seal_dirty_head(&self) -> Result<Option<SealCost>, Failure> {
        self.collect_mapped()?;
        let mut cost = None;
        if !self.stage_view.is_clean()? {
            let (files, bytes) = self.stage_view.being_written();
            let begun = Instant::now();
            self.swap_collected(|stack| Ok(stack.clone()))?;
            let held_ms = begun.elapsed().as_secs_f64() * 1000.0;
            cost = (files > 0).then_some(SealCost {
                files,
                bytes,
                held_ms,
            });
        }
        if !self.pending.lock().is_empty() {
            let mut next = self.state.lock().clone();
            self.commit(&mut next)?;
        }
        Ok(cost)
    }

    /// Has the kernel hand over what programs changed through shared mappings
    /// of the stage view: it tells us only when it writes pages back, which
    /// may be after the file's layer was sealed, or never.
    ///
    /// Requests are served meanwhile: the pages come as such, and one that was held
    /// could keep what this waits for, a page locked (fs/fuse/file.c,
    /// fuse_send_write_pages) or writing back off (fs/fuse/dir.c, fuse_set_nowrite).
    /// So a layer may have a later write and not the earlier change of a mapping,
    /// unless that was synced (msync(2)): docs/semantics.md says so.
    fn collect_mapped(&self) -> Result<()> {
        let running = self.running.lock().get(STAGE_VIEW).cloned();
        match running.and_then(|running| running.session.clone()) {
            Some(session) => session.collect_mapped(),
            None => Ok(()),
        }
    }

    /// Gives the stage view another stack, with requests held meanwhile. What
    /// was written in it is sealed first, so `decide` gets a stack that holds
    /// all of it, and `self.state` names the layer already, not yet committed.
    ///
    /// If `decide` fails the view shows the same tree as before.
    pub(super) fn swap_stage_view(
        &self,
        decide: impl FnOnce(&Stack) -> Result<Stack, Failure>,
    ) -> Result<(), Failure> {
        self.collect_mapped()?;
        self.swap_collected(decide)
    }

    fn swap_collected(
        &self,
        decide: impl FnOnce(&Stack) -> Result<Stack, Failure>,
    ) -> Result<(), Failure> {
        let mut failure = None;
        self.stage_view.replace(|stack, open| {
            let (stack, fresh) = if open.is_clean()? {
                open.forget_orphans()?;
                (stack.clone(), open.clone())
            } else {
                let (stack, fresh) = self.seal_head(stack, open)?;
                (stack, Arc::new(fresh))
            };
            match decide(&stack) {
                Ok(stack) => Ok((stack, fresh)),
                Err(error) => {
                    failure = Some(error);
                    Ok((stack, fresh))
                }
            }
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// Moves the head's content into a layer. Until the next commit only the
    /// journal says whose content that is.
    fn seal_head(&self, stack: &Stack, open: &OpenLayer) -> Result<(Stack, OpenLayer)> {
        if !open.is_in_place() {
            let text = format!(
                "{}: moved by a seal that failed; nothing is lost, and `unmount --keep-state` and \
                 `mount --resume` mend it",
                open.path().display()
            );
            return Err(Error::new(Errno::ESTALE, text));
        }
        let (id, commits) = {
            let mut state = self.state.lock();
            (state.new_layer_id("head"), state.commits)
        };
        failpoint::hit("seal-head-before-journal");
        // Made before, so that a full disk is noticed while the head is whole.
        let path = open.path().to_path_buf();
        let next = path.with_file_name("open.next");
        std::fs::create_dir_all(&next).context(|| next.display().to_string())?;
        drop(OpenLayer::open(&next)?);
        let record = Record {
            view: STAGE_VIEW.to_owned(),
            id: id.clone(),
            commits,
        };
        record.write(&self.dir)?;
        failpoint::hit("seal-head-before-seal");
        let layers = self.layers_dir();
        if let Err(error) = seal_unswept(open, stack, &layers, &id, "head", now()) {
            forget_seal(open, &self.dir, &id);
            return Err(error);
        }
        failpoint::hit("seal-head-after-seal");
        let taken = || -> Result<(Stack, OpenLayer)> {
            std::fs::rename(&next, &path)?;
            let fresh = OpenLayer::open(&path)?;
            Ok((stack.with(self.layer(&id)?), fresh))
        };
        let partial = !open.maps().is_empty();
        let taken = match taken() {
            Ok(taken) => taken,
            Err(error) => {
                match undo_seal(&layers.join(&id), &path, &next) {
                    Ok(()) => forget_seal(open, &self.dir, &id),
                    Err(second) => {
                        // The view goes on writing into what is a layer now; no
                        // commit may leave that out.
                        log::error!("{}: {second}", path.display());
                        self.pending.lock().push(id.clone());
                        self.state.lock().stack.push(id);
                    }
                }
                return Err(error);
            }
        };
        sweep_or_leave(open, &layers.join(&id));
        failpoint::hit("seal-head-after-open");
        self.pending.lock().push(id.clone());
        self.state.lock().stack.push(id);
        if partial {
            self.completing.complete(taken.0.clone());
        }
        Ok(taken)
    }
}

/// Puts a sealed head back, for a view that goes on writing into it. Renames do:
/// who comes here may have no descriptor left to do more with.
fn undo_seal(layer: &Path, path: &Path, next: &Path) -> std::io::Result<()> {
    match std::fs::rename(path, next) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::rename(layer, path)
}

/// Takes back the announcement of a seal that did not happen. If it did, as far
/// as the layer's place goes, the announcement is all that tells whose it is.
pub(super) fn forget_seal(open: &OpenLayer, state_dir: &Path, id: &str) {
    if !open.is_in_place() {
        return;
    }
    let _ = at::unlink(open, Path::new("layer.json"));
    Record::remove(state_dir, id);
}
