//! All that can be seen of a tree, as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use harness_fs::sys::xattr;

/// A line per entry, by path; which names are one file, by the first of them.
pub fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    look(root, true)
}

/// The same without the number of names that a file has: in a layer below it counts those that
/// the layers above hide, and once it is copied up it does not.
pub fn seen_but_counts(root: &Path) -> BTreeMap<PathBuf, String> {
    look(root, false)
}

fn look(root: &Path, counts: bool) -> BTreeMap<PathBuf, String> {
    let mut lines = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut dirs = vec![root.to_path_buf()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        files.push(dir.clone());
        let mut entries: Vec<_> = fs::read_dir(&dir).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type().unwrap();
            let path = entry.path();
            let meta = path.symlink_metadata().unwrap();
            assert_eq!(kind, meta.file_type(), "d_type of {}", path.display());
            match kind.is_dir() {
                true => dirs.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    for path in files {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().to_path_buf();
        let mut line = format!(
            "{:o} {}:{} {}.{:09}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if !meta.is_dir() {
            let same = first.entry(meta.ino()).or_insert_with(|| name.clone());
            write!(line, " rdev {} is {}", meta.rdev(), same.display()).unwrap();
            if counts {
                write!(line, " of {}", meta.nlink()).unwrap();
            }
        }
        if meta.is_file() {
            let content = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
            let sum = content.iter().fold(7_u64, |sum, byte| {
                sum.wrapping_mul(1_000_003) ^ u64::from(*byte)
            });
            write!(line, " {} {sum:x} {text:?}", meta.len()).unwrap();
        }
        if meta.is_symlink() {
            write!(line, " -> {}", fs::read_link(&path).unwrap().display()).unwrap();
        }
        let (dir, last) = split(&path);
        let mut names = xattr::list(&dir, &last).unwrap();
        names.sort();
        for attribute in names {
            let value = xattr::get(&dir, &last, &attribute).unwrap();
            let value = value.unwrap_or_default();
            let value = String::from_utf8_lossy(&value).into_owned();
            write!(line, " {}={value:?}", attribute.display()).unwrap();
        }
        lines.insert(name, line);
    }
    lines
}

/// A path's directory, opened, and its name there: for calls that take no absolute path.
fn split(path: &Path) -> (fs::File, PathBuf) {
    let dir = fs::File::open(path.parent().unwrap()).unwrap();
    (dir, path.file_name().unwrap().into())
}

pub fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let (dir, path) = split(path);
    xattr::get(&dir, &path, name).unwrap()
}

pub fn set_attribute(path: &Path, name: &str, value: &[u8]) -> harness_fs::error::Result<()> {
    let (dir, path) = split(path);
    xattr::set(&dir, &path, name, value, 0)
}

/// The two are alike, line by line.
#[track_caller]
pub fn alike(one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>, when: &str) {
    let mut differ = String::new();
    for path in one.keys().chain(other.keys()) {
        let (left, right) = (one.get(path), other.get(path));
        if left != right {
            writeln!(differ, "{}\n  {left:?}\n  {right:?}", path.display()).unwrap();
        }
    }
    assert_eq!(differ, "", "{when}");
}
