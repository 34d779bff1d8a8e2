//! Inodes that both sides hold: whose version of them the merged tree shows, under which names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::overlap::Group;
use super::session::Session;
use super::{Change, Class, Compare, Delta, Effect, Links, Sameness, Side};

/// An inode of the base that both sides hold.
#[derive(Debug)]
pub(super) struct Shared {
    /// The names of both sides.
    names: BTreeSet<PathBuf>,
    /// Whether both sides have the same names for it.
    alike: bool,
    stage_changed: bool,
    step_changed: bool,
    /// Whose version holds, unless a policy has to say.
    side: Option<Side>,
}

impl Shared {
    /// Whether each side changed the inode itself: a further name is no change of it.
    pub fn changed(&self) -> (bool, bool) {
        (self.stage_changed, self.step_changed)
    }
}

impl<C: Compare> Session<'_, C> {
    /// Looks at the inodes that both sides hold. If both changed one, and differently, and have
    /// different names for it, those are decided together.
    pub fn find_links(&mut self) -> Result<(), C::Error> {
        let stage = names_by_inode(self.stage);
        if stage.is_empty() {
            return Ok(());
        }
        for (inode, names) in names_by_inode(self.step) {
            let Some(others) = stage.get(&inode) else {
                continue;
            };
            let (Some(name), Some(other)) = (names.first(), others.first()) else {
                continue;
            };
            let alike = names == *others;
            if alike && names.len() == 1 && self.in_place(name) {
                continue; // An ordinary file, compared by the walk.
            }
            let stage_changed = self.cmp.inode(Side::Stage, inode, other)? != Effect::Nothing;
            let step_changed = self.cmp.inode(Side::Step, inode, name)? != Effect::Nothing;
            let side = match (stage_changed, step_changed) {
                (true, false) => Some(Side::Stage),
                (false, _) => Some(Side::Step),
                (true, true) => match self.cmp.same_inode(other, name)? {
                    Sameness::Identical => Some(Side::Step),
                    // With equal names the walk finds the conflict at each of them.
                    _ if alike => None,
                    same => {
                        let class = match same {
                            Sameness::SameContent => Class::Metadata,
                            _ => Class::Link,
                        };
                        let report = names.difference(others).next().unwrap_or(name);
                        let paths: BTreeSet<PathBuf> = owned(names.union(others));
                        self.groups.add(Group {
                            class,
                            report: report.to_path_buf(),
                            count: paths.len(),
                            paths,
                            inodes: vec![inode],
                        });
                        None
                    }
                },
            };
            let shared = Shared {
                names: owned(names.union(others)),
                alike,
                stage_changed,
                step_changed,
                side,
            };
            self.shared.insert(inode, shared);
        }
        Ok(())
    }

    /// Whether both sides have at the path what they found there, changed or not.
    fn in_place(&self, path: &Path) -> bool {
        [self.stage, self.step].iter().all(|delta| {
            let present = delta.change(path).and_then(Change::present);
            present.is_some_and(|present| present.was == Some(present.kind))
        })
    }

    /// The inode that both sides have at the path, if it is one and they share it.
    pub fn shared_at(&self, stage: &Change, step: &Change) -> Option<&Shared> {
        let inode = |change: &Change| change.present().and_then(|present| present.link);
        let inode = inode(stage).filter(|inode_| inode(step) == Some(*inode_))?;
        self.shared.get(&inode)
    }

    /// Whether a name of an inode was made by the other side alone, so that who wins has no say
    /// about whether it is there.
    pub fn made_by_other(&self, inodes: &[u64], path: &Path, winner: Side) -> bool {
        let delta = self.delta(winner);
        let is_name = |inode| {
            let shared: Option<&Shared> = self.shared.get(inode);
            shared.is_some_and(|shared| shared.names.contains(path))
        };
        inodes.iter().any(is_name) && !delta.touches(path) && !delta.hides_from_above(path)
    }

    /// Has all names of an inode show one side's version of it.
    pub fn unite(&mut self, inode: u64, side: Side) {
        if let Some(shared) = self.shared.get_mut(&inode) {
            shared.side = Some(side);
        }
    }

    /// Plans what keeps the shared inodes one file each, when all else is decided.
    pub fn plan_links(&mut self) {
        for (inode, shared) in std::mem::take(&mut self.shared) {
            let Some(side) = shared.side.filter(|_| !shared.alike) else {
                continue;
            };
            let decided = |path: &PathBuf| {
                let mut above = path.ancestors();
                above.any(|above| self.subtrees.contains(above))
            };
            let mut names = shared.names;
            if !self.subtrees.is_empty() {
                names.retain(|name| !decided(name));
            }
            if names.len() > 1 {
                self.plan.unite(Links { inode, side, names });
            }
        }
    }
}

fn owned<'a>(names: impl Iterator<Item = &'a &'a Path>) -> BTreeSet<PathBuf> {
    names.map(|name| name.to_path_buf()).collect()
}

/// The files of a delta, by inode.
fn names_by_inode(delta: &Delta) -> BTreeMap<u64, BTreeSet<&Path>> {
    let mut names: BTreeMap<u64, BTreeSet<&Path>> = BTreeMap::new();
    for (path, entry) in delta.iter() {
        if let Change::Present(present) = &entry.change
            && let Some(inode) = present.link
        {
            names.entry(inode).or_default().insert(path);
        }
    }
    names
}
