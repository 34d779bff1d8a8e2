//! Applying a tree to the very directories that the stage's base is.
//!
//! The base holds content that the stack refers to, so a base that is written
//! in part is the end of both trees. Hence a commit point: first everything is
//! staged and synced, then a record in the state directory says what is left to
//! do. Without it the old tree holds, and what was staged is swept. With it the
//! stage is over and the apply is rolled forward, as often as it takes.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use serde::{Deserialize, Serialize};

use super::ApplyReport;
use super::apply::{holder_of, stage};
use super::job::{Job, Target};
use super::place::beneath;
use super::target::{self, STAGING_IN_PLACE};
use crate::error::{Context, Error, Result};
use crate::layer::Stack;
use crate::stage::{failpoint, journal};
use crate::sys::at;

/// What the state directory says of an apply.
#[derive(Serialize, Deserialize)]
struct Record<T> {
    /// All is staged: from here on it is only rolled forward.
    staged: bool,
    /// Shared paths that are not written.
    not_written: Vec<String>,
    targets: Vec<T>,
}

/// An apply that has passed its commit point.
pub struct InPlace {
    jobs: Vec<Job>,
    not_written: Vec<PathBuf>,
}

impl InPlace {
    /// Stages the workspace, or with `all` every mapped path, and commits. None
    /// of the mapped paths may be covered by the stage.
    ///
    /// # Errors
    /// One sentence with the path: what cannot be staged, and what would be in
    /// the way later. The directories and the stage are as they were.
    pub fn commit(
        stack: &Stack,
        mapped: &[PathBuf],
        all: bool,
        state_dir: &Path,
    ) -> Result<InPlace> {
        let count = if all { mapped.len() } else { 1 };
        let mut in_place = InPlace {
            jobs: Vec::new(),
            not_written: mapped.iter().skip(count).cloned().collect(),
        };
        for (index, path) in mapped.iter().take(count).enumerate() {
            let context = || format!("apply to {}", path.display());
            in_place.begin(stack, index, path).context(context)?;
        }
        // So that a death while staging leaves nothing behind in the base.
        in_place.write(false, state_dir)?;
        failpoint::hit("apply-before-stage");
        let staged = stage(stack, &mut in_place.jobs, &|| Ok(())).and_then(|()| {
            // The record must not survive a loss of power that its content does not.
            in_place.jobs.iter().try_for_each(Job::sync)?;
            failpoint::hit("apply-before-plan");
            in_place.write(true, state_dir)
        });
        if let Err(error) = staged {
            if let Err(second) = in_place.sweep(state_dir) {
                log::error!("{second}");
            }
            return Err(error);
        }
        failpoint::hit("apply-after-plan");
        Ok(in_place)
    }

    fn begin(&mut self, stack: &Stack, index: usize, path: &Path) -> Result<()> {
        let Some((holder, name)) = holder_of(stack, index, path)? else {
            return Ok(());
        };
        target::uncovered(path)?;
        if name.is_none() {
            target::check(holder)?;
        }
        let root = at::open_dir(AT_FDCWD, Path::new("/"))?;
        let inner = holder.strip_prefix("/").unwrap_or(holder);
        let top = (beneath(&root, inner, OFlag::O_RDONLY)?, holder);
        let job = Job::begin(stack, index, top, name, &self.jobs, STAGING_IN_PLACE)?;
        self.jobs.push(job);
        Ok(())
    }

    fn write(&self, staged: bool, state_dir: &Path) -> Result<()> {
        let paths = self.not_written.iter();
        let record = Record {
            staged,
            // Mapped paths are UTF-8.
            not_written: paths.map(|path| path.display().to_string()).collect(),
            targets: self.jobs.iter().map(|job| &job.target).collect(),
        };
        journal::write_apply(state_dir, &serde_json::to_vec(&record)?)
    }

    /// Forgets an apply that was not committed.
    fn sweep(&self, state_dir: &Path) -> Result<()> {
        let written = read(state_dir)?;
        if written.is_some_and(|record| record.staged) {
            // The commit failed after its rename. It must not come into force later.
            journal::remove_apply(state_dir)?;
        }
        for job in &self.jobs {
            job.sweep()
                .context(|| job.target.path().display().to_string())?;
        }
        journal::remove_apply(state_dir)
    }

    /// Makes the directories what they should be. The record stays: it goes with
    /// the state.
    ///
    /// # Errors
    /// What the disk reports, naming the path, and what to do. Nothing is lost,
    /// and it can be repeated.
    pub fn carry_out(&self) -> Result<ApplyReport> {
        let mut report = ApplyReport {
            not_written: self.not_written.clone(),
            ..ApplyReport::default()
        };
        for job in &self.jobs {
            job.check()
                .and_then(|()| job.carry_out(&mut report))
                .context(|| job.target.path().display().to_string())
                .map_err(|error| {
                    let text = format!(
                        "the tree is written in part and nothing is lost; `harness-fs unmount` \
                         writes the rest when this is out of the way: {error}"
                    );
                    Error::new(error.errno(), text)
                })?;
        }
        Ok(report)
    }
}

fn read(state_dir: &Path) -> Result<Option<Record<Target>>> {
    let Some(text) = journal::read_apply(state_dir)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text)
        .map(Some)
        .context(|| format!("the record of an apply in {}", state_dir.display()))
}

/// An apply that was cut off.
pub struct Unfinished {
    /// The paths that it writes.
    pub paths: Vec<PathBuf>,
    /// It had passed its commit point: the stage is over.
    pub committed: bool,
}

/// The apply that was cut off, if there is one.
///
/// # Errors
/// As read(2), or `EINVAL` for a damaged record.
pub fn unfinished(state_dir: &Path) -> Result<Option<Unfinished>> {
    let record = read(state_dir)?;
    Ok(record.map(|record| Unfinished {
        paths: record.targets.iter().map(Target::path).collect(),
        committed: record.staged,
    }))
}

/// Ends an apply that was cut off, with nothing of the stage mounted any more.
/// If it was committed, the rest is done and a report is returned: the stage is
/// over. If it was not, what it had staged is swept.
///
/// # Errors
/// As [`InPlace::carry_out`].
pub fn finish(state_dir: &Path) -> Result<Option<ApplyReport>> {
    let Some(record) = read(state_dir)? else {
        return Ok(None);
    };
    let mut in_place = InPlace {
        jobs: Vec::new(),
        not_written: record.not_written.into_iter().map(PathBuf::from).collect(),
    };
    for target in record.targets {
        let path = target.path();
        let job = target::uncovered(&path).and_then(|()| Job::again(target, &in_place.jobs));
        if !record.staged
            && job
                .as_ref()
                .is_err_and(|error| error.errno() == Errno::ENOENT)
        {
            // With the directory went all that was staged in it.
            continue;
        }
        let job = job.context(|| format!("finish the apply to {}", path.display()))?;
        in_place.jobs.push(job);
    }
    if record.staged {
        return in_place.carry_out().map(Some);
    }
    in_place.sweep(state_dir)?;
    Ok(None)
}
