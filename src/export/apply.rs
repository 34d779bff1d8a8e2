//! Applying: the tree of a stack as an ordinary directory.
//!
//! The result equals what a view shows: owners, modes, times to the
//! nanosecond, attributes, hard links and holes, and what the tree does not
//! have is gone. The guard has no say here, since nothing leaves the machine.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2};
use serde::Serialize;

use super::LeftOut;
use super::plan::{Dir, Plan, Planning, STAGING, set_xattrs, xattrs_of};
use super::target;
use crate::error::{Context, Error, Result};
use crate::layer::Stack;
use crate::sys::at::{self, SetTime};
use crate::sys::xattr;

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

/// Makes the directory `dir` equal to the workspace, the first mapped path:
/// `apply /harness` gives it back where it came from, even while it is the
/// base that the stack lies on. Shared paths are not written; the report lists
/// them ([`apply_all`] writes them).
///
/// Every new or changed file is written under a temporary name first; only when
/// all are there do they take their places, one rename each. Processes that
/// have an old file open keep the old one. What is unchanged is not touched.
///
/// # Errors
/// One sentence with the path. Up to the first rename `dir` is as it was; a
/// failure after it (a file system mounted below `dir`, say) leaves some paths
/// old and some new, none half written.
pub fn apply(stack: &Stack, mapped: &[PathBuf], dir: &Path) -> Result<ApplyReport> {
    let mut report = ApplyReport {
        not_written: mapped.iter().skip(1).cloned().collect(),
        ..ApplyReport::default()
    };
    let mut run = || {
        let dir = target::settle(dir)?;
        target::check(&dir)?;
        std::fs::create_dir_all(&dir)?;
        let target = at::open_dir(AT_FDCWD, &dir)?;
        mirror(stack, 0, &target, None, &mut report)
    };
    run().map_err(|error: Error| error.context(format!("apply to {}", dir.display())))?;
    Ok(report)
}

/// Writes every mapped path to `dir` followed by its own absolute path, so that
/// `/` is where they came from. Nothing else in `dir` is touched.
///
/// # Errors
/// As [`apply`].
pub fn apply_all(stack: &Stack, mapped: &[PathBuf], dir: &Path) -> Result<ApplyReport> {
    let mut report = ApplyReport::default();
    let mut run = || {
        let dir = target::settle(dir)?;
        std::fs::create_dir_all(&dir)?;
        let top = at::open_dir(AT_FDCWD, &dir)?;
        for (index, path) in mapped.iter().enumerate() {
            let inner = path.strip_prefix("/").unwrap_or(path);
            let Some(found) = stack.find(Path::new(&index.to_string()))? else {
                continue;
            };
            let context = || path.display().to_string();
            let (holder, name) = if found.attr.is_dir() {
                (inner, None)
            } else {
                (inner.parent().unwrap_or(Path::new("")), inner.file_name())
            };
            let target = make_dirs(&top, holder).context(context)?;
            mirror(stack, index, &target, name, &mut report).context(context)?;
        }
        Ok(())
    };
    run().map_err(|error: Error| error.context(format!("apply to {}", dir.display())))?;
    Ok(report)
}

/// Opens a directory below `top` without following any symbolic link.
fn beneath(top: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let mut dir = at::dup(top)?;
    let mut rest = path.components().peekable();
    if rest.peek().is_none() {
        return Ok(openat2(&dir, ".", how)?);
    }
    while rest.peek().is_some() {
        // In pieces: a tree may be deeper than PATH_MAX.
        let piece: PathBuf = rest.by_ref().take(15).collect();
        dir = openat2(&dir, &piece, how)?;
    }
    Ok(dir)
}

/// Makes the directories of a path, as far as they are missing.
fn make_dirs(top: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let mut dir = beneath(top, Path::new(""), OFlag::O_RDONLY)?;
    for component in path.components() {
        let name = Path::new(component.as_os_str());
        at::mkdir_if_missing(&dir, name, 0o755)?;
        dir = beneath(&dir, name, OFlag::O_RDONLY).context(|| {
            let path = path.display();
            format!("a directory above {path} is none, or a symbolic link")
        })?;
    }
    Ok(dir)
}

fn mirror(
    stack: &Stack,
    index: usize,
    target: &OwnedFd,
    name: Option<&std::ffi::OsStr>,
    report: &mut ApplyReport,
) -> Result<()> {
    let root = PathBuf::from(index.to_string());
    match stack.find(&root)? {
        Some(found) if name.is_none() && !found.attr.is_dir() => {
            return Err(Error::new(Errno::ENOTDIR, "the workspace is no directory"));
        }
        Some(_) => {}
        None => return Err(Error::new(Errno::ENOENT, "the tree has no such path")),
    }
    let lock = File::from(at::dup(target)?);
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|_| Error::new(Errno::EBUSY, "another apply is writing there"))?;
    let times = at::fstat(target)?.attr;
    let staging = Path::new(STAGING);
    at::remove_all(target, staging)?;
    let planned = prepare(target).and_then(|()| Planning::new(stack, target).run(&root, name));
    let done = planned.and_then(|plan| execute(target, &plan).map(|()| plan));
    let swept = at::remove_all(target, staging);
    if name.is_some() || done.is_err() {
        // The directory itself is not part of what is written, or is as before.
        let (atime, mtime) = (SetTime::To(times.atime), SetTime::To(times.mtime));
        at::futimens(target, atime, mtime)?;
    }
    let plan = done?;
    swept?;
    if let Some(top) = plan.dirs.first() {
        dress(target, top, report)?;
    }
    report.written += plan.place.len() as u64;
    report.unchanged += plan.unchanged;
    report.removed += plan.remove.len() as u64;
    for dir in plan.dirs.iter().skip(1) {
        dress(target, dir, report).context(|| dir.path.display().to_string())?;
    }
    report.not_kept.extend(plan.not_kept);
    Ok(nix::unistd::syncfs(target)?)
}

/// The staging directory hands nothing down: no default ACL, no group.
fn prepare(target: &OwnedFd) -> Result<()> {
    let staging = Path::new(STAGING);
    at::mkdir(target, staging, 0o700)?;
    for acl in ["system.posix_acl_default", "system.posix_acl_access"] {
        if xattr::get(target, staging, acl)?.is_some() {
            xattr::remove(target, staging, acl)?;
        }
    }
    at::chmod(target, staging, 0o700)
}

/// Renames and removals. Names are resolved anew below `target` each time and
/// never through a symbolic link: others may work in there.
fn execute(target: &OwnedFd, plan: &Plan) -> Result<()> {
    let mut parent = Parent::new(target);
    for dir in plan
        .dirs
        .iter()
        .filter(|dir| !dir.path.as_os_str().is_empty())
    {
        let context = || dir.path.display().to_string();
        let (holder, name) = parent.of(&dir.path).context(context)?;
        match at::stat_if_there(holder, name).context(context)? {
            Some(there) if there.attr.is_dir() => continue,
            Some(_) => at::unlink(holder, name).context(context)?,
            None => {}
        }
        at::mkdir(holder, name, 0o700).context(context)?;
    }
    for (path, staged) in &plan.place {
        let context = || path.display().to_string();
        let (holder, name) = parent.of(path).context(context)?;
        let there = at::stat_if_there(holder, name).context(context)?;
        if there.is_some_and(|there| there.attr.is_dir()) {
            at::remove_all(holder, name).context(context)?;
        }
        at::rename(target, staged, holder, name, RenameFlags::empty()).context(context)?;
    }
    for path in &plan.remove {
        let context = || path.display().to_string();
        let (holder, name) = parent.of(path).context(context)?;
        at::remove_all(holder, name).context(context)?;
    }
    Ok(())
}

/// Keeps the directory of the last path open: the next is often in it too.
struct Parent<'a> {
    target: &'a OwnedFd,
    last: Option<(PathBuf, OwnedFd)>,
}

impl<'a> Parent<'a> {
    fn new(target: &'a OwnedFd) -> Parent<'a> {
        Parent { target, last: None }
    }

    fn of<'b>(&mut self, path: &'b Path) -> Result<(&OwnedFd, &'b Path)> {
        let dir = path.parent().unwrap_or(Path::new(""));
        let name = Path::new(path.file_name().ok_or(Errno::EINVAL)?);
        if self.last.as_ref().is_none_or(|(last, _)| last != dir) {
            let fd = beneath(self.target, dir, OFlag::O_PATH)?;
            self.last = Some((dir.to_path_buf(), fd));
        }
        let (_, fd) = self.last.as_ref().ok_or(Errno::EINVAL)?;
        Ok((fd, name))
    }
}

/// Gives a directory the attributes it should have, where they differ.
fn dress(target: &OwnedFd, dir: &Dir, report: &mut ApplyReport) -> Result<()> {
    // Not the empty path: lsetxattr(2) would take the link in /proc for the file.
    let own = Path::new(".");
    let fd = beneath(target, &dir.path, OFlag::O_RDONLY)?;
    let (is, wanted) = (at::fstat(&fd)?.attr, &dir.attr);
    if (is.uid, is.gid) != (wanted.uid, wanted.gid) {
        at::chown(&fd, own, Some(wanted.uid), Some(wanted.gid))?;
    }
    let there = xattrs_of(&fd, own)?;
    if there != dir.xattrs {
        for name in there.keys().filter(|name| !dir.xattrs.contains_key(*name)) {
            xattr::remove(&fd, own, name)?;
        }
        for refused in set_xattrs(&fd, own, &dir.xattrs)? {
            report.not_kept.push(LeftOut {
                path: dir.path.clone(),
                why: format!("its extended attribute {}", refused.to_string_lossy()),
            });
        }
    }
    // After the owner and the ACL, which both change it.
    if at::fstat(&fd)?.attr.perm != wanted.perm {
        at::chmod(&fd, own, wanted.perm)?;
    }
    let (atime, mtime) = (SetTime::To(wanted.atime), SetTime::To(wanted.mtime));
    at::futimens(&fd, atime, mtime)
}
