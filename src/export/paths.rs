//! Many paths in little memory: each name is kept once, under its directory. A
//! layout may hold a long path in every member.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A path that is known to a [`Paths`].
pub type Id = usize;

/// Relative paths, by number.
#[derive(Debug, Default)]
pub struct Paths {
    /// Of each path its directory and its name there. The empty path, which has
    /// none, counts as [`Paths::NONE`] and is not among them.
    all: Vec<(Id, OsString)>,
    known: HashMap<(Id, OsString), Id>,
}

impl Paths {
    /// The empty path.
    pub const NONE: Id = Id::MAX;

    /// The number of a path, if it has one.
    pub fn find(&self, path: &Path) -> Option<Id> {
        path.components().try_fold(Paths::NONE, |dir, name| {
            let key = (dir, name.as_os_str().to_owned());
            self.known.get(&key).copied()
        })
    }

    /// The number of a path; it gets one if it has none.
    pub fn number(&mut self, path: &Path) -> Id {
        path.components().fold(Paths::NONE, |dir, name| {
            let key = (dir, name.as_os_str().to_owned());
            *self.known.entry(key).or_insert_with_key(|key| {
                self.all.push(key.clone());
                self.all.len() - 1
            })
        })
    }

    /// The path with a number.
    pub fn path(&self, id: Id) -> PathBuf {
        let mut names = Vec::new();
        let mut at = id;
        while let Some((dir, name)) = self.all.get(at) {
            names.push(name);
            at = *dir;
        }
        names.into_iter().rev().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_number() {
        let mut paths = Paths::default();
        let numbers = ["a/b", "a", "b", "a/b/c", ""].map(|path| paths.number(Path::new(path)));
        assert_eq!(paths.all.len(), 4);
        for (path, id) in ["a/b", "a", "b", "a/b/c", ""].into_iter().zip(numbers) {
            assert_eq!(paths.find(Path::new(path)), Some(id));
            assert_eq!(paths.path(id), Path::new(path));
        }
        assert_eq!(paths.find(Path::new("b/a")), None);
    }
}
