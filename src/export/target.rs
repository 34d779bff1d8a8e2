//! Which directories `apply` may write to: it removes what they hold besides, so
//! a slip in their name must not cost anybody a disk.

use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use super::plan::STAGED;
use crate::error::{Context, Error, Result};
use crate::sys::{at, mountinfo};

/// How the name of the directory begins in which `apply` stages.
pub const STAGING: &str = ".harness-fs-apply";
/// The same for `unmount --apply` into the stage's own directories: a record
/// names it, so it is no leftover for others to sweep.
pub const STAGING_IN_PLACE: &str = ".harness-fs-unmount";

/// The real path of a directory that may be missing yet: symbolic links in what
/// exists are followed, for the user named them.
///
/// # Errors
/// `EINVAL` for a relative path, or one with `..` after a directory that is
/// missing: it could become anything once that is created.
pub fn settle(dir: &Path) -> Result<PathBuf> {
    let refuse = |what: &str| {
        let text = format!("{}: {what}", dir.display());
        Err(Error::new(Errno::EINVAL, text))
    };
    if !dir.is_absolute() {
        return refuse("not an absolute path");
    }
    let mut real = PathBuf::from("/");
    let mut missing = false;
    for component in dir.components() {
        match component {
            Component::ParentDir if missing => {
                return refuse("'..' follows a directory that does not exist");
            }
            Component::ParentDir => drop(real.pop()),
            Component::Normal(name) => real.push(name),
            _ => continue,
        }
        if missing {
            continue;
        }
        match real.canonicalize() {
            Ok(followed) => real = followed,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                // A symbolic link to nowhere is no directory to be.
                if real.is_symlink() {
                    return refuse("a symbolic link that leads nowhere");
                }
                missing = true;
            }
            Err(error) => return Err(error).context(|| dir.display().to_string()),
        }
    }
    Ok(real)
}

/// Sees that none of our mounts covers a settled directory: it is the one
/// below that is meant.
///
/// # Errors
/// `EBUSY` if one does.
pub fn uncovered(dir: &Path) -> Result<()> {
    let above = |mount: &mountinfo::Mount| mount.is_of_stage() && dir.starts_with(&mount.at);
    match mountinfo::own()?.iter().find(|mount| above(mount)) {
        None => Ok(()),
        Some(mount) => {
            let stage = mount.source.to_string_lossy();
            let text = format!("the stage of {stage} is mounted over it; unmount that first");
            Err(Error::new(Errno::EBUSY, text).context(dir.display()))
        }
    }
}

/// Sees whether a settled directory may be made equal to a tree.
///
/// # Errors
/// `EBUSY` for `/`, and for a directory with mounts below it; both before
/// anything was changed.
pub fn check(dir: &Path) -> Result<()> {
    let refuse = |what: String| Err(Error::new(Errno::EBUSY, what));
    if dir == Path::new("/") {
        return refuse("/ is not replaced by a tree: name a directory".into());
    }
    let below = mountinfo::own()?
        .into_iter()
        .find(|mount| mountinfo::is_below(mount, dir));
    match below {
        Some(mount) => refuse(format!(
            "{} is not replaced by a tree: {} is mounted below it",
            dir.display(),
            mount.at.display()
        )),
        None => Ok(()),
    }
}

/// Whether writing a tree to a settled path would remove somebody's files.
///
/// # Errors
/// As readdir(3).
pub fn holds_something(path: &Path) -> Result<bool> {
    let context = || path.display().to_string();
    let Some(there) = at::stat_if_there(AT_FDCWD, path).context(context)? else {
        return Ok(false);
    };
    if !there.attr.is_dir() {
        return Ok(true);
    }
    let dir = at::open_dir(AT_FDCWD, path).context(context)?;
    for entry in at::list(&dir, Path::new("")).context(context)? {
        if !is_leftover(&dir, Path::new(&entry.name)).context(context)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an entry is the staging directory of an apply that was killed.
///
/// # Errors
/// As fstatat(2) and readdir(3).
pub fn is_leftover(dir: impl AsFd, name: &Path) -> Result<bool> {
    if !name
        .as_os_str()
        .as_encoded_bytes()
        .starts_with(STAGING.as_bytes())
    {
        return Ok(false);
    }
    let own = nix::unistd::geteuid().as_raw();
    let private = at::stat_if_there(&dir, name)?.is_some_and(|there| {
        there.attr.is_dir() && there.attr.uid == own && there.attr.perm & 0o777 == 0o700
    });
    let staged = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(STAGED.as_bytes());
    Ok(private
        && at::list(&dir, name)?
            .iter()
            .all(|entry| staged(&entry.name)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_what_an_apply_left_counts_for_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let holds = || holds_something(dir.path()).expect("look");
        assert!(!holds());
        let staging = dir.path().join(STAGING);
        std::fs::create_dir(&staging).expect("mkdir");
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&staging, private).expect("chmod");
        std::fs::write(staging.join("staged-1"), "x").expect("write");
        assert!(!holds());
        std::fs::write(staging.join("mine"), "x").expect("write");
        assert!(holds());
    }

    #[test]
    fn a_name_cannot_become_another_directory_later() {
        for wrong in ["/no/such/..", "/no/../such", "../x", "x"] {
            let refused = settle(Path::new(wrong)).expect_err(wrong);
            assert_eq!(refused.errno(), Errno::EINVAL, "{wrong}");
        }
        let new = settle(Path::new("/tmp/no such directory/deep")).expect("settle");
        assert!(new.ends_with("no such directory/deep"));
    }

    #[test]
    fn neither_the_root_nor_what_holds_mounts_is_replaced() {
        for wrong in ["/", "/dev"] {
            let refused = check(Path::new(wrong)).expect_err(wrong);
            assert_eq!(refused.errno(), Errno::EBUSY, "{wrong}");
        }
    }

    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let real = dir.path().canonicalize().expect("canonicalize");
        std::os::unix::fs::symlink(&real, real.join("link")).expect("symlink");
        std::os::unix::fs::symlink("/no/such", real.join("dangling")).expect("symlink");
        assert_eq!(
            settle(&real.join("link/new")).expect("settle"),
            real.join("new")
        );
        settle(&real.join("dangling/new")).expect_err("dangling");
        // As the kernel walks it, not by its letters.
        std::fs::create_dir_all(real.join("a/b")).expect("mkdir");
        std::os::unix::fs::symlink(real.join("a/b"), real.join("to-b")).expect("symlink");
        for (given, wanted) in [("to-b/../new", "a/new"), ("a/./b/../../x/y", "x/y")] {
            let settled = settle(&real.join(given)).expect("settle");
            assert_eq!(settled, real.join(wanted));
        }
    }
}
