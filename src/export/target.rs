//! Which directories `apply` may write to: it removes what they hold besides, so
//! a slip in their name must not cost anybody a disk.

use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::error::{Context, Error, Result};
use crate::sys::mountinfo;

/// The real path of a directory that may be missing yet: symbolic links in what
/// exists are followed, for the user named them.
///
/// # Errors
/// `EINVAL` for a relative path or one with `..`, which could become anything
/// once the missing part is created.
pub fn settle(dir: &Path) -> Result<PathBuf> {
    let refuse = |what: &str| {
        let text = format!("{}: {what}", dir.display());
        Err(Error::new(Errno::EINVAL, text))
    };
    if !dir.is_absolute() {
        return refuse("not an absolute path");
    }
    if dir.components().any(|part| part == Component::ParentDir) {
        return refuse("a path with '..' is not written to");
    }
    let mut missing = Vec::new();
    let mut there = dir;
    loop {
        match there.canonicalize() {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                // A symbolic link to nowhere is no directory to be.
                if there.is_symlink() {
                    return refuse("a symbolic link that leads nowhere");
                }
                match (there.parent(), there.file_name()) {
                    (Some(parent), Some(name)) => {
                        missing.push(name);
                        there = parent;
                    }
                    _ => return refuse("no such directory"),
                }
            }
            Err(error) => return Err(error).context(|| dir.display().to_string()),
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

/// Whether writing a tree to a settled directory would remove somebody's files.
///
/// # Errors
/// As readdir(3).
pub fn holds_something(dir: &Path) -> Result<bool> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error).context(|| dir.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_become_another_directory_later() {
        for wrong in ["/no/such/..", "/no/../such", "../x", "x", "/tmp/.."] {
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
    }
}
