//! Carrying out a plan: staged entries take their places, what the tree does
//! not have goes, directories get their attributes.
//!
//! Each part can be repeated after it was cut off anywhere.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, RenameFlags, ResolveFlag, openat2};

use super::plan::{Dir, Plan, set_xattrs, staged_name, xattrs_of};
use super::{ApplyReport, LeftOut};
use crate::error::{Context, Error, Result};
use crate::stage::failpoint;
use crate::sys::at::{self, SetTime};
use crate::sys::xattr;

/// Opens a directory below `top` without following any symbolic link.
pub fn beneath(top: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd> {
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

/// Renames and removals. Names are resolved anew below `target` each time and
/// never through a symbolic link: others may work in there.
///
/// # Errors
/// What the disk reports, naming the path.
pub fn execute(target: &OwnedFd, staging: &Path, plan: &Plan) -> Result<()> {
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
    for (path, number) in &plan.place {
        failpoint::hit("apply-in-place");
        let context = || path.display().to_string();
        let (holder, name) = parent.of(path).context(context)?;
        let there = at::stat_if_there(holder, name).context(context)?;
        let staged = staging.join(staged_name(*number));
        if at::stat_if_there(target, &staged)
            .context(context)?
            .is_none()
        {
            // An earlier run has placed it.
            there.ok_or_else(|| {
                let text = "what was staged for it is gone";
                Error::new(Errno::ENOENT, text).context(path.display())
            })?;
            continue;
        }
        if there.is_some_and(|there| there.attr.is_dir()) {
            at::remove_all(holder, name).context(context)?;
        }
        at::rename(target, &staged, holder, name, RenameFlags::empty()).context(context)?;
    }
    failpoint::hit("apply-before-remove");
    for path in &plan.remove {
        let context = || path.display().to_string();
        let (holder, name) = parent.of(path).context(context)?;
        at::remove_all(holder, name).context(context)?;
        failpoint::hit("apply-in-remove");
    }
    Ok(())
}

/// Keeps the directory of the last path open: the next is often in it too.
pub struct Parent<'a> {
    target: &'a OwnedFd,
    last: Option<(PathBuf, OwnedFd)>,
}

impl<'a> Parent<'a> {
    /// Below this directory.
    pub fn new(target: &'a OwnedFd) -> Parent<'a> {
        Parent { target, last: None }
    }

    /// The directory that holds `path`, and its name in it.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn of<'b>(&mut self, path: &'b Path) -> Result<(&OwnedFd, &'b Path)> {
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

/// Gives the directories the attributes they should have, where they differ.
///
/// # Errors
/// What the disk reports, naming the path.
pub fn dress(target: &OwnedFd, plan: &Plan, report: &mut ApplyReport) -> Result<()> {
    for dir in &plan.dirs {
        failpoint::hit("apply-in-dress");
        dress_one(target, dir, report).context(|| match dir.path.as_os_str().is_empty() {
            true => "the directory itself".to_owned(),
            false => dir.path.display().to_string(),
        })?;
    }
    Ok(())
}

fn dress_one(target: &OwnedFd, dir: &Dir, report: &mut ApplyReport) -> Result<()> {
    // Not the empty path: lsetxattr(2) would take the link in /proc for the file.
    let own = Path::new(".");
    let fd = beneath(target, &dir.path, OFlag::O_RDONLY)?;
    let is = at::fstat(&fd)?.attr;
    let (uid, gid) = dir.owner;
    if (is.uid, is.gid) != (uid, gid) {
        at::chown(&fd, own, Some(uid), Some(gid))?;
    }
    let there = xattrs_of(&fd, own)?;
    if there != dir.xattrs {
        for name in there.keys().filter(|name| !dir.xattrs.contains_key(*name)) {
            xattr::remove(&fd, own, name)?;
        }
        for refused in set_xattrs(&fd, own, &dir.xattrs)? {
            report.not_kept.push(LeftOut {
                path: dir.path.to_path_buf(),
                why: format!("its extended attribute {}", refused.to_string_lossy()),
            });
        }
    }
    // After the owner and the ACL, which both change it.
    if at::fstat(&fd)?.attr.perm != dir.perm {
        at::chmod(&fd, own, dir.perm)?;
    }
    let (atime, mtime) = (SetTime::To(dir.atime), SetTime::To(dir.mtime));
    match at::futimens(&fd, atime, mtime) {
        // Of an immutable directory that is as it should be, but for our reading it.
        Err(error) if error.errno() == Errno::EPERM && is.mtime == dir.mtime => Ok(()),
        done => done,
    }
}
