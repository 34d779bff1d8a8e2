//! Shared paths that are not merged: what a step has of them, and what not.

use std::path::{Path, PathBuf};

use super::mapped::normalise;
use super::state::{Options, State, StepState};
use super::{Failure, Stage};
use crate::error::Result;
use crate::layer::{OpenLayer, Stack, forget_root};
use crate::merge::SharingMode;
use crate::tree::shown::shown;

impl Options {
    /// How steps share a mapped path.
    pub fn sharing_of(&self, path: &Path) -> SharingMode {
        self.sharing.get(path).copied().unwrap_or_default()
    }

    /// How a step shares a mapped path that has some of them for itself.
    fn sharing_in(&self, private: &[PathBuf], path: &PathBuf) -> SharingMode {
        match private.contains(path) {
            true => SharingMode::Private,
            false => self.sharing_of(path),
        }
    }

    /// The mapped paths of which a step sees what the stage sees.
    pub(super) fn live(&self, private: &[PathBuf]) -> Vec<PathBuf> {
        self.those(|path| self.sharing_in(private, path).is_live())
    }

    /// The mapped paths of which nothing is in the layer of a step.
    pub(super) fn unmerged(&self, private: &[PathBuf]) -> Vec<PathBuf> {
        self.those(|path| self.sharing_in(private, path) != SharingMode::Merge)
    }

    fn those(&self, wanted: impl Fn(&PathBuf) -> bool) -> Vec<PathBuf> {
        let paths = self.mapped.iter().filter(|path| wanted(path));
        paths.cloned().collect()
    }
}

impl Stage {
    /// Checks paths that a step is to have for itself, and brings them into the
    /// form that the stage has them in.
    ///
    /// # Errors
    /// [`Failure::Usage`] for one that is no shared path.
    pub fn private_paths(&self, given: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
        let mapped = self.options().mapped;
        let shared = mapped.get(1..).unwrap_or_default();
        let find = |given: &PathBuf| {
            let found = normalise(given).ok().filter(|path| shared.contains(path));
            found.ok_or_else(|| {
                let names: Vec<_> = shared.iter().map(|path| path.to_string_lossy()).collect();
                let there = match names.is_empty() {
                    true => "there is none".to_owned(),
                    false => names.join(", "),
                };
                let given = shown(given);
                Failure::Usage(format!("{given} is no shared path of the stage ({there})"))
            })
        };
        given.iter().map(find).collect()
    }

    /// The paths for which a step has to wait its turn that has these for itself.
    pub fn locked_paths(&self, private: &[PathBuf]) -> Vec<PathBuf> {
        let options = self.options();
        options.those(|path| options.sharing_in(private, path) == SharingMode::Locked)
    }

    /// The same of a step that is there; none of one that is not.
    pub fn locked_paths_of(&self, step: &str) -> Vec<PathBuf> {
        let private = self
            .state
            .lock()
            .steps
            .get(step)
            .map(|step| step.private.clone());
        private.map_or(Vec::new(), |private| self.locked_paths(&private))
    }

    /// Where layers have the mapped paths of which no step has anything.
    pub(super) fn unmerged_roots(&self) -> Vec<PathBuf> {
        let options = self.options();
        let unmerged = options.unmerged(&[]);
        let mapped = options.mapped.iter().enumerate();
        let roots = mapped.filter(|(_, path)| unmerged.contains(path));
        roots.map(|(index, _)| index.to_string().into()).collect()
    }

    /// What is open for writing in the stage view where a step can be in its way.
    pub(super) fn busy(&self) -> Vec<PathBuf> {
        let apart = self.unmerged_roots();
        let mut busy = self.stage_view.busy();
        busy.retain(|path| !apart.iter().any(|root| path.starts_with(root)));
        busy
    }
}

impl State {
    /// The mapped paths of which nothing is in the layer of this step.
    pub(super) fn unmerged(&self, step: &StepState) -> Vec<PathBuf> {
        self.options.unmerged(&step.private)
    }
}

/// Drops what a step has written where it is not to be merged. Its view is gone;
/// `below` is the stack it began on.
///
/// # Errors
/// As [`forget_root`].
pub(super) fn drop_unmerged(
    state: &State,
    step: &StepState,
    open: &OpenLayer,
    below: impl FnOnce() -> Result<Stack>,
) -> Result<()> {
    let unmerged = state.unmerged(step);
    if unmerged.is_empty() || open.is_clean()? {
        return Ok(());
    }
    let below = below()?;
    for (index, path) in state.options.mapped.iter().enumerate() {
        if unmerged.contains(path) {
            forget_root(open, &below, Path::new(&index.to_string()))?;
        }
    }
    Ok(())
}
