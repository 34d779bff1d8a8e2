//! Many paths in little memory: each name is kept once, under its directory. A
//! layout may hold a long path in every member.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
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
        let mut names = path.components();
        names.try_fold(Paths::NONE, |dir, name| self.find_in(dir, name.as_os_str()))
    }

    /// The number of a name in a directory, if it has one.
    pub fn find_in(&self, dir: Id, name: &OsStr) -> Option<Id> {
        self.known.get(&(dir, name.to_owned())).copied()
    }

    /// The number of a path; it gets one if it has none.
    pub fn number(&mut self, path: &Path) -> Id {
        let names = path.components();
        names.fold(Paths::NONE, |dir, name| {
            self.number_in(dir, name.as_os_str())
        })
    }

    /// The number of a name in a directory; it gets one if it has none.
    pub fn number_in(&mut self, dir: Id, name: &OsStr) -> Id {
        let key = (dir, name.to_owned());
        *self.known.entry(key).or_insert_with_key(|key| {
            self.all.push(key.clone());
            self.all.len() - 1
        })
    }

    /// The directory of a path with a number, and its name there.
    pub fn entry(&self, id: Id) -> Option<(Id, &OsStr)> {
        self.all.get(id).map(|(dir, name)| (*dir, name.as_os_str()))
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
        assert_eq!(paths.find_in(numbers[1], OsStr::new("b")), Some(numbers[0]));
        assert_eq!(paths.number_in(numbers[1], OsStr::new("b")), numbers[0]);
        assert_eq!(paths.entry(numbers[0]), Some((numbers[1], OsStr::new("b"))));
        assert_eq!(paths.entry(Paths::NONE), None);
    }
}
