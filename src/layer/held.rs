//! Files that somebody can still write past us when their layer is sealed.
//!
//! What the kernel serves by itself (passthrough) it goes on serving after the
//! view is gone. A process that was given such a descriptor and does not belong
//! to the step cannot be ended with it.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags};

use super::Stack;
use super::copy_up::keeping_times;
use super::fill::fill_open;
use super::open::{OpenLayer, TREE};
use super::seal::write_links;
use crate::error::{Context, Result};
use crate::sys::at::{self, SetTime};
use crate::sys::{copy, lease, xattr};
use crate::tree::union::Entry;
use crate::tree::{Ino, Kind};

/// Puts copies in the place of all files that somebody has open for writing, in
/// a layer that a dead daemon left: nothing else tells any more which these are.
/// Returns their inodes and paths.
///
/// # Errors
/// What the disk reports, `ENOSPC` above all; it can be repeated.
pub fn part_from_writers(open: &OpenLayer, stack: &Stack) -> Result<Vec<(Ino, PathBuf)>> {
    fill_open(open, stack)?;
    // A file that only `index/` has can be written as well.
    write_links(open, stack)?;
    let mut held = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in at::list(open.tree().root(), &dir)? {
            let path = dir.join(&entry.name);
            match entry.kind {
                Some(Kind::Dir) => dirs.push(path),
                Some(Kind::File) => {
                    let written = open.tree().open(&path).and_then(lease::is_written);
                    let written = written.context(|| path.display().to_string())?;
                    if written == Some(false) {
                        continue;
                    }
                    // In doubt too, but then there is nobody to tell of.
                    replace_by_copy(open, &Path::new(TREE).join(&path))?;
                    if written.is_some()
                        && let Some(Entry::Present(attr, _)) = open.tree().entry(&path)?
                    {
                        held.push((attr.ino, path));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(held)
}

/// Puts a copy in the place of the file at `path`, under all of its names.
/// Whoever has the old one open is left with a file that has no name any more.
///
/// # Errors
/// What the disk reports, `ENOSPC` above all; then the old file is in its place
/// under some or all names, with the same content.
pub fn replace_by_copy(open: &OpenLayer, path: &Path) -> Result<()> {
    let copy = open.temporary();
    let replaced = copy_file(open, path, &copy).and_then(|before| {
        let names = match before.attr.nlink {
            0 | 1 => vec![path.to_path_buf()],
            _ => names_of(open, before.ino)?,
        };
        for name in &names {
            let further = open.temporary();
            at::link(open, &copy, open, &further)?;
            let put = || at::rename(open, &further, open, name, RenameFlags::empty());
            match name.parent() {
                Some(parent) if parent.starts_with(TREE) => keeping_times(open, parent, put)?,
                _ => put()?,
            }
        }
        Ok(())
    });
    open.drop_temporary(&copy);
    replaced.context(|| path.display().to_string())
}

/// Copies content and everything that is known of the file. Returns what it was.
fn copy_file(open: &OpenLayer, path: &Path, to: &Path) -> Result<at::Stat> {
    let from = at::open(open, path, OFlag::O_RDONLY, 0)?;
    let before = at::fstat(&from)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
    let file = at::open(open, to, flags, 0o600)?;
    copy::file(&from, &file, before.attr.size)?;
    let attr = &before.attr;
    // The owner first: chown(2) clears setuid, setgid and capabilities.
    at::chown(open, to, Some(attr.uid), Some(attr.gid))?;
    at::chmod(open, to, attr.perm)?;
    for name in xattr::list(open, path)? {
        if let Some(value) = xattr::get(open, path, &name)? {
            xattr::fset(&file, &name, &value)?;
        }
    }
    at::futimens(&file, SetTime::To(attr.atime), SetTime::To(attr.mtime))?;
    Ok(before)
}

/// The names in the tree, and in `index/`, of the file that the disk knows by `ino`.
fn names_of(open: &OpenLayer, ino: u64) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from(TREE), PathBuf::from("index")];
    while let Some(dir) = dirs.pop() {
        let entries = match at::list(open, &dir) {
            Err(error) if error.errno() == Errno::ENOENT => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = dir.join(&entry.name);
            match entry.kind {
                Some(Kind::Dir) => dirs.push(path),
                // On an overlayfs a listing may tell the number of what lies below.
                Some(Kind::File) if at::stat(open, &path)?.ino == ino => found.push(path),
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn all_names_lead_to_the_copy_and_the_writer_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let open = OpenLayer::open(dir.path()).unwrap();
        let tree = dir.path().join(TREE);
        fs::create_dir_all(tree.join("0/sub")).unwrap();
        let (one, two) = (tree.join("0/one"), tree.join("0/sub/two"));
        fs::write(&one, "written in time").unwrap();
        fs::hard_link(&one, &two).unwrap();
        fs::write(tree.join("0/other"), "").unwrap();
        let old = fs::metadata(&one).unwrap();
        let listed = fs::metadata(tree.join("0/sub"))
            .unwrap()
            .modified()
            .unwrap();
        let mut writer = fs::File::options().append(true).open(&one).unwrap();
        replace_by_copy(&open, Path::new("tree/0/one")).unwrap();
        writer.write_all(b", and too late").unwrap();
        let new = fs::metadata(&one).unwrap();
        assert_eq!(new.ino(), fs::metadata(&two).unwrap().ino());
        assert_ne!(new.ino(), old.ino());
        assert_eq!((new.nlink(), new.mode()), (2, old.mode()));
        assert_eq!(new.modified().unwrap(), old.modified().unwrap());
        assert_eq!(
            fs::metadata(tree.join("0/sub"))
                .unwrap()
                .modified()
                .unwrap(),
            listed
        );
        assert_eq!(fs::read_to_string(&two).unwrap(), "written in time");
        assert_eq!(at::list(&open, Path::new("work")).unwrap().len(), 1);
    }
}
