//! Steps that are merged and snapshots that are restored, under whoever has files open.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;

use harness_fs::layer::{SealedLayer, Stack, seal};
use harness_fs::view::View;

use crate::base;
use crate::driver::{Cursor, Driver, new_view};
use crate::files::Handle;
use crate::reference::{Id, ROOT, Reference};

/// The stage while a step runs: nobody uses it.
pub struct Stage {
    view: Arc<View>,
    model: Reference,
    lookups: BTreeMap<Id, u64>,
    dentries: BTreeSet<(Id, OsString)>,
    handles: Vec<Handle>,
    cursors: Vec<Cursor>,
}

/// A stack, and the tree that it shows.
pub struct Snapshot {
    stack: Stack,
    model: Reference,
}

impl Driver {
    fn is_stage(&self) -> bool {
        self.live && self.stage.is_none()
    }

    /// What comes is done by a step, until it is merged.
    pub fn begin(&mut self) {
        if !self.is_stage() {
            return;
        }
        self.live_seal();
        self.runs += 1;
        let at = self.directory.path().join("step");
        let step = new_view(&at, &self.stack, self.runs, false, self.parts);
        self.stage = Some(Stage {
            view: std::mem::replace(&mut self.view, step),
            model: self.model.clone(),
            lookups: std::mem::take(&mut self.lookups),
            dentries: std::mem::take(&mut self.dentries),
            handles: std::mem::take(&mut self.handles),
            cursors: std::mem::take(&mut self.cursors),
        });
    }

    /// The stage's own view while a step runs.
    pub fn stage_view(&self) -> Arc<View> {
        self.stage.as_ref().expect("begun").view.clone()
    }

    pub fn merge(&mut self) {
        if self.stage.is_none() {
            return;
        }
        let open = self.close(true);
        let id = self.layer_id();
        let layers = self.directory.path().join("layers");
        seal(&open, &self.stack, &layers, &id, "step", 0).expect("seal");
        let step = SealedLayer::open(File::open(&layers).unwrap(), &id).expect("sealed layer");
        let Stage {
            view,
            model: before,
            lookups,
            dentries,
            handles,
            cursors,
        } = self.stage.take().expect("begun");
        self.view = view;
        self.lookups = lookups;
        self.dentries = dentries;
        self.handles = handles;
        self.cursors = cursors;
        self.view
            .replace(|stack, open| {
                assert!(open.is_clean()?, "somebody wrote in the stage");
                open.forget_orphans()?;
                Ok((stack.with(Arc::new(step)), open.clone()))
            })
            .expect("replace");
        self.stack = self.view.stack();
        self.sealed = base::listing(&layers);
        self.swapped(&before);
    }

    pub fn snapshot(&mut self) {
        if !self.is_stage() {
            return;
        }
        self.live_seal();
        self.snapshots.push(Snapshot {
            stack: self.stack.clone(),
            model: self.model.clone(),
        });
    }

    pub fn restore(&mut self, n: u8) {
        if !self.is_stage() || self.snapshots.is_empty() {
            return;
        }
        let snapshot = &self.snapshots[usize::from(n) % self.snapshots.len()];
        let (stack, restored) = (snapshot.stack.clone(), snapshot.model.clone());
        let before = self.model.clone();
        for (id, inode) in self.model.inodes.iter_mut().enumerate() {
            match restored.inodes.get(id) {
                Some(then) if then.names > 0 => *inode = then.clone(),
                _ => {
                    inode.names = 0;
                    inode.entries.clear();
                }
            }
        }
        self.swap(|_| stack);
        self.sealed = base::listing(&self.directory.path().join("layers"));
        self.swapped(&before);
        // A file that the swap brought back is itself again as soon as it is looked up.
        let held: BTreeSet<Id> = self.handles.iter().map(|handle| handle.id).collect();
        for id in held {
            if self.model.gone(id) {
                self.frozen.insert(id);
            } else {
                self.reach(id);
            }
        }
    }

    /// The stage has another tree; what went out of it stays as it was for who has it open. The
    /// kernel forgets what it knew.
    fn swapped(&mut self, before: &Reference) {
        for id in ROOT + 1..before.inodes.len() {
            if !self.model.gone(id) {
                self.replaced.remove(&id);
                self.frozen.remove(&id);
            } else if !before.gone(id) {
                let inode = &mut self.model.inodes[id];
                *inode = before.inodes[id].clone();
                inode.names = 0;
                inode.entries.clear();
                self.replaced.insert(id);
            }
        }
        let (view, model) = (&self.view, &self.model);
        self.dentries
            .retain(|(dir, name)| match model.lookup(*dir, name) {
                // What is below a directory that has another name is looked up by that.
                Ok(id) => {
                    before.lookup(*dir, name) == Ok(id) && before.path(*dir) == model.path(*dir)
                }
                Err(_) => false,
            });
        self.cursors.clear();
        let held: BTreeSet<Id> = self.handles.iter().map(|handle| handle.id).collect();
        for (id, count) in &mut self.lookups {
            if *count > 0 && model.gone(*id) && !before.gone(*id) && !held.contains(id) {
                view.forget(self.known[id], *count);
                *count = 0;
            }
        }
    }
}
