//! Applying: the tree of a stack as an ordinary directory.
//!
//! The result equals what a view shows: owners, modes, times to the
//! nanosecond, attributes, hard links and holes, and what the tree does not
//! have is gone. The guard has no say here, since nothing leaves the machine.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use serde::Serialize;

use super::LeftOut;
use super::job::Job;
use super::place::beneath;
use super::target::{self, STAGING};
use super::wanting::Wanted;
use crate::error::{Context, Result};
use crate::layer::Stack;
use crate::sys::at;
use crate::sys::made::Made;

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApplyReport {
    /// Entries that were made or made anew, directories not counted.
    pub written: u64,
    /// Entries that were as they should be.
    pub unchanged: u64,
    /// Entries that the tree does not have, and that were removed.
    pub removed: u64,
    /// Attributes and devices that the disk did not take.
    pub not_kept: Vec<LeftOut>,
    /// Shared paths that were not written.
    #[serde(serialize_with = "crate::tree::shown::all::serialize")]
    pub not_written: Vec<PathBuf>,
}

/// Makes the directory `dir` equal to the workspace, the first mapped path.
/// Shared paths are not written; the report lists them ([`apply_all`] writes
/// them). Into the stage's own directories see [`super::InPlace`].
///
/// Every new or changed file is written under a temporary name first; only when
/// all are there do they take their places, one rename each. Processes that
/// have an old file open keep the old one. What is unchanged is not touched.
/// `wanted` is asked up to the first rename.
///
/// # Errors
/// One sentence with the path, or what `wanted` says. Up to the first rename
/// `dir` is as it was, and what can be seen to fail is seen before; a failure
/// after it leaves some paths old and some new, none half written.
pub fn apply(
    stack: &Stack,
    mapped: &[PathBuf],
    dir: &Path,
    wanted: Wanted<'_>,
) -> Result<ApplyReport> {
    let mut report = ApplyReport {
        not_written: mapped.iter().skip(1).cloned().collect(),
        ..ApplyReport::default()
    };
    let mut made = Made::default();
    let mut begin = || {
        let dir = target::settle(dir)?;
        target::check(&dir)?;
        made.dir(&dir, 0o755, 0o755)?;
        let top = at::open_dir(AT_FDCWD, &dir)?;
        Job::begin(stack, 0, (top, &dir), None, &[], STAGING)
    };
    let job = begin().context(|| format!("apply to {}", dir.display()))?;
    run(stack, vec![job], &mut report, wanted)?;
    made.keep();
    Ok(report)
}

/// Writes every mapped path to `dir` followed by its own absolute path. Nothing
/// else in `dir` is touched.
///
/// # Errors
/// As [`apply`].
pub fn apply_all(
    stack: &Stack,
    mapped: &[PathBuf],
    dir: &Path,
    wanted: Wanted<'_>,
) -> Result<ApplyReport> {
    let mut report = ApplyReport::default();
    let mut made = Made::default();
    let mut begin = || {
        let dir = target::settle(dir)?;
        made.dir(&dir, 0o755, 0o755)?;
        let top = at::open_dir(AT_FDCWD, &dir)?;
        let mut jobs = Vec::new();
        for (index, path) in mapped.iter().enumerate() {
            let context = || path.display().to_string();
            let Some((holder, name)) = holder_of(stack, index, path)? else {
                continue;
            };
            let inner = holder.strip_prefix("/").unwrap_or(holder);
            let top = make_dirs(&top, &dir, inner, &mut made).context(context)?;
            let whole = dir.join(inner);
            let job = Job::begin(stack, index, (top, &whole), name, &jobs, STAGING);
            jobs.push(job.context(context)?);
        }
        Ok(jobs)
    };
    let begun: Result<Vec<Job>> = begin();
    let jobs = begun.context(|| format!("apply to {}", dir.display()))?;
    run(stack, jobs, &mut report, wanted)?;
    made.keep();
    Ok(report)
}

/// The directory that a mapped path is written to: itself, or the one that the
/// single file lies in. `None` if the tree has no such path.
pub fn holder_of<'a>(
    stack: &Stack,
    index: usize,
    path: &'a Path,
) -> Result<Option<(&'a Path, Option<&'a Path>)>> {
    let found = stack.find(Path::new(&index.to_string()))?;
    Ok(found.map(|found| match found.attr.is_dir() {
        true => (path, None),
        false => (
            path.parent().unwrap_or(Path::new("/")),
            path.file_name().map(Path::new),
        ),
    }))
}

/// Stages all before anything takes its place.
fn run(
    stack: &Stack,
    mut jobs: Vec<Job>,
    report: &mut ApplyReport,
    wanted: Wanted<'_>,
) -> Result<()> {
    let staged = stage(stack, &mut jobs, wanted).and_then(|()| wanted());
    let done = staged.and_then(|()| {
        jobs.iter().try_for_each(|job| {
            let done = job.carry_out(report);
            done.context(|| format!("apply to {}", job.target.path().display()))
        })
    });
    if done.is_err() {
        for job in &jobs {
            if let Err(second) = job.sweep() {
                log::warn!("{second}");
            }
        }
    }
    done
}

/// Stages jobs, and sees that nothing is in their way.
///
/// # Errors
/// What it is, with the path, or what `wanted` says.
pub fn stage(stack: &Stack, jobs: &mut [Job], wanted: Wanted<'_>) -> Result<()> {
    for job in jobs {
        job.stage(stack, wanted)
            .and_then(|()| job.check())
            .context(|| format!("apply to {}", job.target.path().display()))?;
    }
    Ok(())
}

/// Makes the directories of a path below `top`, which is at `at`, as far as they
/// are missing.
fn make_dirs(top: &OwnedFd, at: &Path, path: &Path, made: &mut Made) -> Result<OwnedFd> {
    let mut dir = beneath(top, Path::new(""), OFlag::O_RDONLY)?;
    let mut whole = at.to_path_buf();
    for component in path.components() {
        let name = Path::new(component.as_os_str());
        whole.push(name);
        match at::mkdir(&dir, name, 0o755) {
            Ok(()) => made.add(&whole),
            Err(error) if error.errno() == Errno::EEXIST => {}
            Err(error) => return Err(error),
        }
        dir = beneath(&dir, name, OFlag::O_RDONLY).context(|| {
            let path = path.display();
            format!("a directory above {path} is none, or a symbolic link")
        })?;
    }
    Ok(dir)
}
