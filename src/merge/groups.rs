//! Conflicts that span several paths: renamed directories and inodes with several names.
//!
//! They are found before the tree is walked, because the paths they concern may lie far apart
//! and the walk has to know at the first of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::overlap::Group;
use super::session::Session;
use super::{Change, Class, Compare, Side};

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
                self.groups.add(Group {
                    class,
                    report: report.clone(),
                    paths: BTreeSet::from([path.clone(), from.clone()]),
                    count,
                    inodes: Vec::new(),
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

    /// Whether a group decides a path, below this one, whose directory only one side still has.
    /// Then who wins decides about the directory as well.
    pub fn group_lacks_directory(&mut self, path: &Path) -> Result<bool, C::Error> {
        let inner: BTreeSet<PathBuf> = self
            .groups
            .paths_below(path)
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
}
