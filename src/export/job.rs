//! One directory that is made equal to a part of the tree: staged, then placed.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize};

use super::place::{self, beneath};
use super::plan::{Plan, Planning};
use super::raw::RawPath;
use super::target::{STAGING, is_leftover};
use super::wanting::Wanted;
use super::{ApplyReport, LeftOut, obstacles};
use crate::error::{Context, Error, Result};
use crate::layer::Stack;
use crate::stage::failpoint;
use crate::sys::at::{self, SetTime};
use crate::sys::inherit::hand_nothing_down;
use crate::sys::inode::Time;

/// What is to be done in one directory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Target {
    /// The directory: absolute, without symbolic links.
    pub dir: RawPath,
    /// The mapped path's index.
    index: usize,
    /// The one entry that is written, where the mapped path is a file.
    name: Option<RawPath>,
    /// The staging directory's name in it.
    staging: RawPath,
    /// When the directory was last read and changed.
    times: (Time, Time),
    plan: Plan,
}

impl Target {
    /// The path that is written: the directory, or the one file in it.
    pub fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => self.dir.join(&**name),
            None => self.dir.to_path_buf(),
        }
    }
}

/// A [`Target`] that is open, and locked against other applies.
pub struct Job {
    fd: OwnedFd,
    _lock: Flock<File>,
    /// What is to be done.
    pub target: Target,
}

impl Job {
    /// Takes hold of the directory `top`, and finds a name for staging in it.
    /// Changes nothing yet. `others` are jobs of the same apply; the name begins
    /// with `prefix`, [`STAGING`] or [`super::target::STAGING_IN_PLACE`].
    ///
    /// # Errors
    /// `EBUSY` while another apply writes there.
    pub fn begin(
        stack: &Stack,
        index: usize,
        top: (OwnedFd, &Path),
        name: Option<&Path>,
        others: &[Job],
        prefix: &str,
    ) -> Result<Job> {
        let (fd, dir) = top;
        let same = others.iter().filter(|other| *other.target.dir == *dir);
        let fd = match same.clone().next() {
            // The same open file description: a second lock on it is none (flock(2)).
            Some(other) => at::dup(&other.fd)?,
            None => fd,
        };
        let lock = lock(&fd)?;
        let of_tree = match name {
            Some(_) => None,
            None => stack.find(Path::new(&index.to_string()))?,
        };
        if of_tree.as_ref().is_some_and(|found| !found.attr.is_dir()) {
            return Err(Error::new(Errno::ENOTDIR, "the workspace is no directory"));
        }
        let taken = |candidate: &OsString| -> Result<bool> {
            let path = Path::new(candidate);
            let in_tree = match &of_tree {
                Some(found) => stack.lookup(&found.parts, candidate)?.is_some(),
                None => name == Some(path),
            };
            Ok(in_tree
                || same.clone().any(|other| *other.target.staging == *path)
                || at::stat_if_there(&fd, path)?.is_some()
                    && !(prefix == STAGING && is_leftover(&fd, path)?))
        };
        let mut staging = OsString::from(prefix);
        let mut number = 1;
        while taken(&staging)? {
            number += 1;
            staging = format!("{prefix}-{number}").into();
        }
        let attr = at::fstat(&fd)?.attr;
        let target = Target {
            dir: dir.to_path_buf().into(),
            index,
            name: name.map(|name| name.to_path_buf().into()),
            staging: PathBuf::from(staging).into(),
            times: (attr.atime, attr.mtime),
            plan: Plan::default(),
        };
        Ok(Job {
            fd,
            _lock: lock,
            target,
        })
    }

    /// Takes hold of the directory of a target that was begun before. Two
    /// targets may be in one directory.
    ///
    /// # Errors
    /// As [`Job::begin`], and as openat2(2).
    pub fn again(target: Target, others: &[Job]) -> Result<Job> {
        let mut same = others
            .iter()
            .filter(|other| *other.target.dir == *target.dir);
        let fd = match same.next() {
            Some(other) => at::dup(&other.fd)?,
            None => {
                let root = at::open_dir(AT_FDCWD, Path::new("/"))?;
                let dir = target.dir.strip_prefix("/").unwrap_or(&target.dir);
                beneath(&root, dir, OFlag::O_RDONLY)?
            }
        };
        let lock = lock(&fd)?;
        Ok(Job {
            fd,
            _lock: lock,
            target,
        })
    }

    /// Writes every new or changed entry, complete, into the staging directory.
    ///
    /// # Errors
    /// What the layers or the disk report, naming the path, or what `wanted` says.
    pub fn stage(&mut self, stack: &Stack, wanted: Wanted<'_>) -> Result<()> {
        let (fd, target) = (&self.fd, &mut self.target);
        at::remove_all(fd, &target.staging)?;
        prepare(fd, &target.staging)?;
        let root = PathBuf::from(target.index.to_string());
        let name = target.name.as_deref().map(Path::as_os_str);
        target.plan = Planning::new(stack, fd, &target.staging, wanted).run(&root, name)?;
        Ok(())
    }

    /// Looks for what would stop it half way.
    ///
    /// # Errors
    /// The first obstacle, with its path.
    pub fn check(&self) -> Result<()> {
        obstacles::check(&self.fd, &self.target.dir, &self.target.plan)
    }

    /// Brings all that was written there to the disk.
    ///
    /// # Errors
    /// As syncfs(2).
    pub fn sync(&self) -> Result<()> {
        Ok(nix::unistd::syncfs(&self.fd)?)
    }

    /// Makes the directory what it should be; can be repeated after it was cut
    /// off.
    ///
    /// # Errors
    /// What the disk reports, naming the path.
    pub fn carry_out(&self, report: &mut ApplyReport) -> Result<()> {
        let (fd, target) = (&self.fd, &self.target);
        place::execute(fd, &target.staging, &target.plan)?;
        failpoint::hit("apply-before-dress");
        self.sweep()?;
        place::dress(fd, &target.plan, report)?;
        let plan = &target.plan;
        report.written += plan.place.len() as u64;
        report.unchanged += plan.unchanged;
        report.removed += plan.remove.len() as u64;
        for (path, why) in &plan.not_kept {
            report.not_kept.push(LeftOut {
                path: path.to_path_buf(),
                why: why.clone(),
            });
        }
        self.sync()
    }

    /// Removes the staging directory. The directory itself has the times that
    /// it had before.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn sweep(&self) -> Result<()> {
        at::remove_all(&self.fd, &self.target.staging)?;
        let (atime, mtime) = self.target.times;
        at::futimens(&self.fd, SetTime::To(atime), SetTime::To(mtime))
    }
}

fn lock(fd: &OwnedFd) -> Result<Flock<File>> {
    let lock = File::from(at::dup(fd)?);
    Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|_| Error::new(Errno::EBUSY, "another apply is writing there"))
}

/// The staging directory hands nothing down: no default ACL, no group.
fn prepare(target: &OwnedFd, staging: &Path) -> Result<()> {
    at::mkdir(target, staging, 0o700).context(|| staging.display().to_string())?;
    hand_nothing_down(target, staging, 0o700)
}
