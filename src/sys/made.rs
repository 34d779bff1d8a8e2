//! Directories and files that are made on the way to something, and taken back
//! when that fails.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};

use super::at;
use crate::error::{Context, Error, Result};

/// What was made so far. Dropping it removes that again, unless somebody has
/// put something there meanwhile.
#[derive(Debug, Default)]
pub struct Made {
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

/// How often to try again when others make and remove the same directories.
const TRIES: u32 = 100;

fn in_the_way(path: &Path) -> Result<()> {
    let what = match path.symlink_metadata() {
        Ok(there) if there.is_symlink() => "is a symbolic link that leads nowhere",
        Ok(there) if !there.is_dir() => "is not a directory",
        _ => return Ok(()),
    };
    let text = format!("{} {what}", path.display());
    Err(Error::new(Errno::ENOTDIR, text))
}

impl Made {
    /// Makes a directory and those above it that are missing; modes are exact,
    /// whatever the umask. Returns whether the directory itself was made.
    ///
    /// # Errors
    /// As mkdir(2), naming the path; one sentence for a link that leads nowhere
    /// and for what is no directory.
    pub fn dir(&mut self, path: &Path, mode: u32, above: u32) -> Result<bool> {
        let mut tries = 0;
        loop {
            tries += 1;
            if path.is_dir() {
                return Ok(false);
            }
            in_the_way(path)?;
            if let Some(parent) = path.parent() {
                self.dir(parent, above, above)?;
            }
            match at::mkdir(AT_FDCWD, path, mode) {
                Ok(()) => break,
                // Somebody else makes the same, or takes it back.
                Err(error)
                    if matches!(error.errno(), Errno::EEXIST | Errno::ENOENT) && tries < TRIES => {}
                Err(error) => return Err(error.context(format!("mkdir {}", path.display()))),
            }
        }
        self.dirs.push(path.to_path_buf());
        at::chmod(AT_FDCWD, path, mode).context(|| format!("chmod {}", path.display()))?;
        Ok(true)
    }

    /// Makes an empty file, and the directories above it that are missing.
    ///
    /// # Errors
    /// As open(2), naming the path.
    pub fn file(&mut self, path: &Path, mode: u32, above: u32) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.dir(parent, above, above)?;
        }
        let mut make = || -> Result<()> {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
            at::open(AT_FDCWD, path, flags, mode)?;
            self.files.push(path.to_path_buf());
            at::chmod(AT_FDCWD, path, mode)
        };
        make().context(|| format!("create {}", path.display()))
    }

    /// Adds a directory that has just been made, through a descriptor.
    pub fn add(&mut self, path: &Path) {
        self.dirs.push(path.to_path_buf());
    }

    /// It was not in vain: what was made stays.
    pub fn keep(mut self) {
        self.dirs.clear();
        self.files.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.files {
            if path.symlink_metadata().is_ok_and(|file| file.len() == 0) {
                let _ = std::fs::remove_file(path);
            }
        }
        for path in self.dirs.iter().rev() {
            let _ = std::fs::remove_dir(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |path: &str| tmp.path().join(path);
        std::fs::create_dir(at("there")).unwrap();
        let mut made = Made::default();
        assert!(made.dir(&at("there/a/b"), 0o700, 0o755).unwrap());
        assert!(!made.dir(&at("there"), 0o700, 0o755).unwrap());
        made.file(&at("there/c/file"), 0o640, 0o755).unwrap();
        let mode = |path: &str| at(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("there/a"), mode("there/a/b")), (0o755, 0o700));
        assert_eq!(mode("there/c/file"), 0o640);
        std::fs::write(at("there/a/others"), "").unwrap();
        drop(made);
        let left = |path: &str| std::fs::read_dir(at(path)).unwrap().count();
        assert_eq!((left("there"), left("there/a")), (1, 1));
        let mut made = Made::default();
        made.dir(&at("x/y"), 0o755, 0o755).unwrap();
        made.keep();
        assert!(at("x/y").is_dir());
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |path: &str| tmp.path().join(path);
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (path, why) in [
            ("link", "leads nowhere"),
            ("link/x", "leads nowhere"),
            ("file/x", "not a directory"),
        ] {
            let error = Made::default().dir(&at(path), 0o755, 0o755).unwrap_err();
            assert!(error.to_string().contains(why), "{path}: {error}");
        }
    }
}
