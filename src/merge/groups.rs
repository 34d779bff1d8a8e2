//! Conflicts that span several paths: renamed directories and inodes with several names.
//!
//! They are found before the tree is walked, because the paths they concern may lie far apart
//! and the walk has to know at the first of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::session::{Group, Session};
use super::{Change, Class, Compare, Sameness, Side};
use crate::tree::Kind;

impl<C: Compare> Session<'_, C> {
    /// Finds all groups.
    pub fn find_groups(&mut self) -> Result<(), C::Error> {
        self.find_renames(Side::Step)?;
        self.find_renames(Side::Stage)?;
        self.find_links()
    }

    /// Directories that one side renamed and in which the other side changed something, or which
    /// it removed or renamed as well.
    fn find_renames(&mut self, side: Side) -> Result<(), C::Error> {
        for (path, entry) in self.delta(side).iter() {
            let Some(from) = entry.change.redirect_from() else {
                continue;
            };
            let others = self.delta(side.other());
            if others.change(path).and_then(Change::redirect_from) == Some(from) {
                continue; // Renamed alike; the walk compares the two.
            }
            let mut count = self.changed_at_or_below(side.other(), from)?;
            if count == 0 && others.severs_above(from) {
                count = 1;
            }
            let mut class = Class::Tree;
            if count == 0 && side == Side::Step {
                // What someone writes to in the stage view would move away under its new name.
                class = Class::Busy;
                count = self
                    .busy
                    .iter()
                    .filter(|busy| busy.starts_with(from))
                    .count();
            }
            if count > 0 {
                let report = match (side, class) {
                    (Side::Step, Class::Tree) => path,
                    _ => from,
                };
                self.add_group(Group {
                    class,
                    report: report.clone(),
                    paths: BTreeSet::from([path.clone(), from.clone()]),
                    count,
                });
            }
        }
        Ok(())
    }

    fn changed_at_or_below(&mut self, side: Side, path: &Path) -> Result<usize, C::Error> {
        let delta = self.delta(side);
        let at = delta.get(path).map(|entry| (path, entry));
        let below = delta
            .below(path)
            .map(|(below, entry)| (below.as_path(), entry));
        let mut count = 0;
        for (path, entry) in at.into_iter().chain(below) {
            count += usize::from(self.changed(side, path, &entry.change)?);
        }
        Ok(count)
    }

    /// Inodes that the sides changed through different names.
    fn find_links(&mut self) -> Result<(), C::Error> {
        let stage = names_by_inode(self.stage);
        if stage.is_empty() {
            return Ok(());
        }
        for (inode, names) in names_by_inode(self.step) {
            // With equal names the walk finds the conflict at each of them.
            let Some(others) = stage.get(&inode).filter(|others| **others != names) else {
                continue;
            };
            if !self.any_changed(Side::Stage, others)? || !self.any_changed(Side::Step, &names)? {
                continue;
            }
            let Some(report) = names.difference(others).next().or(names.first()) else {
                continue;
            };
            let class = match self.cmp.same(report)? {
                Sameness::Identical => continue,
                Sameness::SameContent => Class::Metadata,
                Sameness::Different => Class::Link,
            };
            let paths: BTreeSet<PathBuf> = names.union(others).cloned().collect();
            let count = paths.len();
            self.add_group(Group {
                class,
                report: report.clone(),
                paths,
                count,
            });
        }
        Ok(())
    }

    fn any_changed(&mut self, side: Side, names: &BTreeSet<PathBuf>) -> Result<bool, C::Error> {
        for name in names {
            if let Some(change) = self.delta(side).change(name)
                && self.changed(side, name, change)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a group. Groups that have to do with the same paths become one.
    fn add_group(&mut self, mut group: Group) {
        while let Some(at) = self.groups.iter().position(|other| overlap(other, &group)) {
            let other = self.groups.remove(at);
            // The class that comes first in the precedence names the whole, else the older.
            if other.class <= group.class {
                group.class = other.class;
                group.report = other.report;
            }
            group.count += other.count;
            group.paths.extend(other.paths);
        }
        group.paths = outermost(group.paths);
        self.groups.push(group);
    }

    /// Whether the path belongs to a group.
    pub fn in_group(&self, path: &Path) -> bool {
        self.groups
            .iter()
            .any(|group| path.ancestors().any(|above| group.paths.contains(above)))
    }

    /// Whether a group decides a path, below this one, whose directory only one side still has.
    /// Then who wins decides about the directory as well.
    pub fn group_lacks_directory(&mut self, path: &Path) -> Result<bool, C::Error> {
        let inner: Vec<PathBuf> = self
            .groups
            .iter()
            .flat_map(|group| &group.paths)
            .filter(|inner| *inner != path && inner.starts_with(path))
            .filter_map(|inner| inner.parent().map(Path::to_path_buf))
            .collect();
        for directory in inner {
            for side in [Side::Stage, Side::Step] {
                let there = match self.delta(side).change(&directory) {
                    Some(change) => change.directory().is_some(),
                    None => self.cmp.exists(side, &directory)?,
                };
                if !there {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Takes the groups that reach below a path, since a conflict at the path decides them too.
    /// Returns all paths to decide together and how many changes the groups counted.
    pub fn absorb_groups(&mut self, path: &Path) -> (BTreeSet<PathBuf>, usize) {
        let mut paths = BTreeSet::from([path.to_path_buf()]);
        let mut count = 0;
        let reaches = |paths: &BTreeSet<PathBuf>, group: &Group| {
            group
                .paths
                .iter()
                .any(|inner| inner.ancestors().any(|above| paths.contains(above)))
        };
        // What a group brings along may reach another group.
        while let Some(at) = self.groups.iter().position(|group| reaches(&paths, group)) {
            let group = self.groups.remove(at);
            count += group.count;
            paths.extend(group.paths);
        }
        (outermost(paths), count)
    }
}

/// The files of a delta that have several names, by inode.
fn names_by_inode(delta: &super::Delta) -> BTreeMap<u64, BTreeSet<PathBuf>> {
    let mut names: BTreeMap<u64, BTreeSet<PathBuf>> = BTreeMap::new();
    for (path, entry) in delta.iter() {
        if let Change::Present(present) = &entry.change
            && present.kind != Kind::Dir
            && let Some(inode) = present.link
        {
            names.entry(inode).or_default().insert(path.clone());
        }
    }
    names
}

fn overlap(a: &Group, b: &Group) -> bool {
    let reaches = |a: &Group, b: &Group| {
        a.paths
            .iter()
            .any(|path| path.ancestors().any(|above| b.paths.contains(above)))
    };
    reaches(a, b) || reaches(b, a)
}

/// Drops the paths that lie below others.
fn outermost(paths: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let inner = |path: &PathBuf| path.ancestors().skip(1).any(|above| paths.contains(above));
    paths.iter().filter(|path| !inner(path)).cloned().collect()
}
