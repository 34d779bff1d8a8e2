//! Layers that are read while the stage goes on without them.
//!
//! An export, an apply or a diff takes as long as its tree is large, and holds
//! up nobody meanwhile. A layer that a restore, a discard or the removal of a
//! snapshot leaves behind is removed when the last of those has ended that read
//! it: in a layer that is half removed, what is below shows through.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Deref;
use std::path::PathBuf;

use super::state::State;
use super::{Stage, recover};
use crate::error::{Context, Result};
use crate::layer::Stack;
use crate::sys::at;

/// Which layers are lent.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// How many leases each is in.
    lent: BTreeMap<OsString, usize>,
    /// Those of them that a sweep would have removed. No state names them again.
    spared: Vec<PathBuf>,
}

impl Leases {
    /// Remembers which of these layers are lent, and returns the others.
    fn spare(&mut self, unneeded: Vec<PathBuf>) -> Vec<PathBuf> {
        let lent = |layer: &PathBuf| {
            let id = layer.file_name();
            id.is_some_and(|id| self.lent.contains_key(id))
        };
        let (lent, free) = unneeded.into_iter().partition(lent);
        self.spared = lent;
        free
    }
}

/// Keeps layers on the disk until it is dropped.
#[must_use]
pub(super) struct Lease<'a> {
    stage: &'a Stage,
    ids: Vec<String>,
}

/// A stack that stays as it is, whatever becomes of the stage meanwhile.
pub struct Lent<'a> {
    stack: Stack,
    // After the stack: a field is dropped after those before it.
    _lease: Lease<'a>,
}

impl<'a> Lent<'a> {
    pub(super) fn new(stack: Stack, lease: Lease<'a>) -> Lent<'a> {
        Lent {
            stack,
            _lease: lease,
        }
    }
}

impl Deref for Lent<'_> {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl Stage {
    /// Keeps layers that the state names. Returns the state that names them.
    pub(super) fn lease(&self, layers: impl FnOnce(&State) -> Vec<String>) -> (State, Lease<'_>) {
        // Under this lock: a sweep begins after the commit that makes a layer
        // superfluous, so it finds the lease, or the state names it no more.
        let state = self.state.lock();
        let ids = layers(&state);
        let mut leases = self.leases.lock();
        for id in &ids {
            *leases.lent.entry(id.into()).or_default() += 1;
        }
        (state.clone(), Lease { stage: self, ids })
    }

    /// Removes the layers that nothing needs any more, but for those that are
    /// lent. What cannot be removed is logged; the next start sweeps it.
    pub(super) fn sweep_layers(&self) {
        let state = self.state.lock().clone();
        self.layers.lock().retain(|id, _| state.refers_to(id));
        let unneeded = match recover::layers_by_need(&self.dir, &state) {
            Ok((_, unneeded)) => unneeded,
            Err(error) => {
                log::warn!("{error}");
                return;
            }
        };
        let free = self.leases.lock().spare(unneeded);
        remove(free);
    }
}

impl Lease<'_> {
    /// Makes it last until [`Stage::give_back`] of the same layers.
    pub(super) fn leave(mut self) -> Vec<String> {
        std::mem::take(&mut self.ids)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.stage.give_back(&self.ids);
    }
}

impl Stage {
    /// Ends a lease of layers; those that nothing needs any more are removed.
    pub(super) fn give_back(&self, ids: &[String]) {
        let mut leases = self.leases.lock();
        for id in ids {
            let id = OsString::from(id);
            match leases.lent.get_mut(&id) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(leases.lent.remove(&id)),
            }
        }
        let unneeded = std::mem::take(&mut leases.spared);
        let free = leases.spare(unneeded);
        drop(leases);
        remove(free);
    }
}

fn remove(layers: Vec<PathBuf>) {
    for layer in layers {
        let removed: Result<()> = at::remove_all(nix::fcntl::AT_FDCWD, &layer);
        if let Err(error) = removed.context(|| layer.display().to_string()) {
            log::warn!("{error}");
        }
    }
}
