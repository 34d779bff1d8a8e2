//! Paths that are decided together, found by path.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::Class;

/// A set of paths that are decided together, found before the tree is walked.
#[derive(Debug)]
pub(super) struct Group {
    pub class: Class,
    /// Where it is reported.
    pub report: PathBuf,
    /// The paths; none lies below another.
    pub paths: BTreeSet<PathBuf>,
    pub count: usize,
    /// The inodes whose names these are, of groups that are about inodes.
    pub inodes: Vec<u64>,
}

/// Groups of which no two have to do with the same path.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<usize, Group>,
    /// Which group each path belongs to.
    owners: BTreeMap<PathBuf, usize>,
    next: usize,
}

impl Groups {
    /// Adds a group. Groups that have to do with the same paths become one.
    pub fn add(&mut self, mut group: Group) {
        let mut met = BTreeSet::new();
        for path in &group.paths {
            met.extend(self.above(path));
            met.extend(self.below(path).map(|(_, owner)| owner));
        }
        for other in met.into_iter().filter_map(|id| self.remove(id)) {
            // The class that comes first in the precedence names the whole, else the older.
            if other.class <= group.class {
                group.class = other.class;
                group.report = other.report;
            }
            group.count += other.count;
            group.inodes.extend(other.inodes);
            group.paths.extend(other.paths);
        }
        group.paths = outermost(group.paths);
        for path in &group.paths {
            self.owners.insert(path.clone(), self.next);
        }
        self.groups.insert(self.next, group);
        self.next += 1;
    }

    /// Whether a group decides the path.
    pub fn decide(&self, path: &Path) -> bool {
        self.above(path).is_some()
    }

    /// The paths of groups strictly below a path.
    pub fn paths_below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        self.below(path).map(|(path, _)| path)
    }

    /// Takes the groups that reach a path or what is below it, since a conflict at the path
    /// decides them too. Returns all paths to decide together and how many changes the groups
    /// counted.
    pub fn absorb(&mut self, path: &Path) -> (BTreeSet<PathBuf>, usize) {
        let mut paths = BTreeSet::from([path.to_path_buf()]);
        let mut count = 0;
        // What a group brings along may reach another group.
        let mut pending = vec![path.to_path_buf()];
        while let Some(path) = pending.pop() {
            let own = self.owners.get(&path).copied();
            let below = self.below(&path).map(|(_, owner)| owner);
            let met: BTreeSet<usize> = own.into_iter().chain(below).collect();
            for group in met.into_iter().filter_map(|id| self.remove(id)) {
                count += group.count;
                pending.extend(group.paths.iter().cloned());
                paths.extend(group.paths);
            }
        }
        (outermost(paths), count)
    }

    /// Takes all groups that are left.
    pub fn take(&mut self) -> impl Iterator<Item = Group> + use<> {
        std::mem::take(self).groups.into_values()
    }

    /// The group that has the path or one above it.
    fn above(&self, path: &Path) -> Option<usize> {
        if self.owners.is_empty() {
            return None;
        }
        path.ancestors()
            .find_map(|above| self.owners.get(above).copied())
    }

    fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a Path, usize)> {
        self.owners
            .range::<Path, _>((Bound::Excluded(path), Bound::Unbounded))
            .take_while(move |(inner, _)| inner.starts_with(path))
            .map(|(inner, owner)| (inner.as_path(), *owner))
    }

    fn remove(&mut self, id: usize) -> Option<Group> {
        let group = self.groups.remove(&id)?;
        for path in &group.paths {
            self.owners.remove(path);
        }
        Some(group)
    }
}

/// Drops the paths that lie below others.
pub(super) fn outermost(paths: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let inner = |path: &PathBuf| path.ancestors().skip(1).any(|above| paths.contains(above));
    paths.iter().filter(|path| !inner(path)).cloned().collect()
}
