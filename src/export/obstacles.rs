//! What would stop a plan half way, as far as it can be seen before.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::place::{Parent, beneath};
use super::plan::{Dir, Plan, xattrs_of};
use crate::error::{Context, Error, Result};
use crate::sys::{at, mountinfo};

/// Looks for what cannot be renamed, removed or changed in `target`, the
/// directory `dir`. It may be carried out in part already.
///
/// # Errors
/// `EPERM` for immutable and append-only entries, `EBUSY` for a mount point,
/// naming the path; nothing was changed.
pub fn check(target: &OwnedFd, dir: &Path, plan: &Plan) -> Result<()> {
    let mounts = mountinfo::own()?;
    let mut parent = Parent::new(target);
    let goes = plan.place.iter().map(|(path, _)| path).chain(&plan.remove);
    for path in goes {
        let whole = dir.join(&**path);
        if let Some(mount) = mounts.iter().find(|mount| mount.at == whole) {
            let text = format!("{} is mounted there", mount.source.to_string_lossy());
            return Err(Error::new(Errno::EBUSY, text).context(path.display()));
        }
        match parent.of(path) {
            Ok((holder, name)) => removable(holder, name, path)?,
            // Where a directory is still to be made there is nothing in the way.
            Err(error)
                if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(error) => return Err(error).context(|| path.display().to_string()),
        }
    }
    if plan.dirs.is_empty() && !plan.place.is_empty() && at::is_fixed(target, Path::new("."))? {
        return Err(refused(Path::new("")));
    }
    plan.dirs
        .iter()
        .try_for_each(|dir| changeable(target, dir, plan))
}

fn refused(path: &Path) -> Error {
    let text = "it is immutable or append-only (`chattr -ia` takes that away)";
    let path = match path.as_os_str().is_empty() {
        true => Path::new("the directory itself"),
        false => path,
    };
    Error::new(Errno::EPERM, text).context(path.display())
}

/// An entry, and all below it.
fn removable(holder: impl AsFd, name: &Path, path: &Path) -> Result<()> {
    let context = || path.display().to_string();
    let Some(there) = at::stat_if_there(&holder, name).context(context)? else {
        return Ok(());
    };
    if at::is_fixed(&holder, name).context(context)? {
        return Err(refused(path));
    }
    if there.attr.is_dir() {
        let inner = at::open_dir(&holder, name).context(context)?;
        for entry in at::list(&inner, Path::new("")).context(context)? {
            removable(&inner, Path::new(&entry.name), &path.join(&entry.name))?;
        }
    }
    Ok(())
}

/// A directory of the tree: it may be immutable if nothing in it or of it
/// changes. What is there in its place has to go.
fn changeable(target: &OwnedFd, dir: &Dir, plan: &Plan) -> Result<()> {
    let own = Path::new(".");
    let Ok(fd) = beneath(target, &dir.path, OFlag::O_RDONLY) else {
        return match Parent::new(target).of(&dir.path) {
            Ok((holder, name)) => removable(holder, name, &dir.path),
            Err(_) => Ok(()),
        };
    };
    if !at::is_fixed(&fd, own)? {
        return Ok(());
    }
    let is = at::fstat(&fd)?.attr;
    let inside = |path: &Path| path.parent() == Some(&*dir.path);
    let missing = |path: &Path| beneath(target, path, OFlag::O_PATH).is_err();
    let changes = (is.perm, (is.uid, is.gid), is.mtime) != (dir.perm, dir.owner, dir.mtime)
        || xattrs_of(&fd, own)? != dir.xattrs
        || plan.place.iter().any(|(path, _)| inside(path))
        || plan.remove.iter().any(|path| inside(path))
        || plan
            .dirs
            .iter()
            .any(|dir| inside(&dir.path) && missing(&dir.path));
    match changes {
        true => Err(refused(&dir.path)),
        false => Ok(()),
    }
}
