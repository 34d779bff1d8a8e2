//! One inode number, one file: what a merge must not lose.
//!
//! If one side renamed or linked a file and the other changed it, both layers
//! hold the inode, at different paths and with different content. Where the
//! merged tree shows both, one of them gets a number of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::compare::Sides;
use super::join::Join;
use crate::error::Result;
use crate::layer::{Stack, Visit, read_open, walk};
use crate::merge::{Action, JoinPlan, Side};
use crate::tree::Ino;

/// Inodes that the merged tree might show as two different things.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Where the layers hold them.
    numbers: BTreeMap<Ino, BTreeSet<PathBuf>>,
    /// Directories that show more than the layers hold, where they may be too.
    roots: BTreeSet<PathBuf>,
}

impl Suspects {
    /// Finds inodes that both sides hold, not at the same paths, and those that
    /// one side moved while the other renamed a directory above, or has one
    /// copied. What was made after the number `floor` is in one place only.
    ///
    /// # Errors
    /// What the layers report.
    pub fn find(sides: &Sides, plan: &JoinPlan, floor: Ino) -> Result<Suspects> {
        let mut all = Suspects::default();
        let others = &sides.stage_scan.numbers;
        for (ino, paths) in &sides.step_scan.numbers {
            if let Some(others) = others.get(ino).filter(|others| *others != paths) {
                let both = paths.union(others).cloned().collect();
                all.numbers.insert(*ino, both);
            }
        }
        let mut moved = BTreeMap::new();
        for side in [Side::Stage, Side::Step] {
            let mut roots: BTreeSet<PathBuf> = BTreeSet::new();
            for action in plan.actions() {
                if let Action::Take { to, .. } = action {
                    roots.insert(to.clone());
                }
            }
            for (to, entry) in sides.scan(side.other()).delta.iter() {
                if entry.change.redirect_from().is_some() {
                    roots.insert(to.clone());
                }
            }
            if roots.is_empty() {
                continue;
            }
            let before = moved.len();
            for (ino, paths) in sides.scan(side).numbers.range(..floor) {
                for path in paths {
                    let there = sides.base.find(path)?;
                    if there.is_none_or(|there| there.attr.ino != *ino) {
                        moved.insert(*ino, paths.clone());
                    }
                }
            }
            if moved.len() > before {
                all.roots.extend(roots);
            }
        }
        for (ino, paths) in moved {
            all.numbers.entry(ino).or_default().extend(paths);
        }
        Ok(all)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

/// Names of inodes with several that the step's layer hides, and that were not
/// there when the step began, so that its own counts know nothing of them.
///
/// # Errors
/// What the layers report.
pub(super) fn hidden_names(sides: &Sides, below: &Stack) -> Result<Vec<(Ino, u32)>> {
    let step = &sides.step_scan.delta;
    let mut hidden = Vec::new();
    for (path, entry) in sides.stage_scan.delta.iter() {
        let linked = entry
            .change
            .present()
            .is_some_and(|present| present.link.is_some());
        if !linked || !(step.get(path).is_some() || step.hides_from_above(path)) {
            continue;
        }
        let ino_in = |stack: &Stack| -> Result<Option<Ino>> {
            Ok(stack.find(path)?.map(|found| found.attr.ino))
        };
        if let Some(found) = sides.stage.find(path)?
            && found.attr.nlink > 1
            && ino_in(&sides.base)? != Some(found.attr.ino)
            && ino_in(below)? != Some(found.attr.ino)
        {
            hidden.push((found.attr.ino, found.attr.nlink));
        }
    }
    Ok(hidden)
}

/// Whether the merged tree also shows, under another name, the directory that
/// an action copies: the other side renamed it (or one above or below it), and
/// both are kept.
pub(super) fn shown_twice(sides: &Sides, plan: &JoinPlan, side: Side, path: &Path) -> bool {
    let Some(origin) = sides.scan(side).delta.origin(path) else {
        return false;
    };
    let gone = |place: &Path| {
        plan.actions()
            .iter()
            .any(|action| matches!(action, Action::Remove { path } if place.starts_with(path)))
    };
    let moves = sides.scan(side.other()).delta.iter();
    let mut renamed = moves.filter_map(|(to, entry)| Some((to, entry.change.redirect_from()?)));
    renamed.any(|(to, from)| {
        (from.starts_with(&origin) || origin.starts_with(from)) && to != path && !gone(to)
    })
}

/// Gives new numbers where the merged tree would show two things with one.
/// Called when the join layer holds everything else.
///
/// # Errors
/// What the layers or the disk report.
pub(super) fn separate(join: &mut Join<'_>, below: &Stack, mut suspects: Suspects) -> Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    let merged = below.with(read_open(join.open().path())?);
    for root in &suspects.roots {
        let numbers = &mut suspects.numbers;
        walk(&merged, root, &mut |path, found| {
            if let Some(paths) = numbers.get_mut(&found.attr.ino) {
                paths.insert(path.to_path_buf());
            }
            Ok(Visit::Enter)
        })?;
    }
    for (ino, paths) in &suspects.numbers {
        let mut shown: Vec<(usize, &Path, bool)> = Vec::new();
        for path in paths {
            if let Some(found) = merged.find(path)?
                && found.attr.ino == *ino
            {
                shown.push((found.parts[0].layer, path, found.attr.is_dir()));
            }
        }
        // The uppermost keeps its number: it is the later writer's.
        let Some(kept) = shown.iter().max_by_key(|(layer, ..)| *layer).copied() else {
            continue;
        };
        let mut fresh: HashMap<usize, HashMap<Ino, Ino>> = HashMap::new();
        for (layer, path, is_dir) in shown {
            // Names of one file lie in one layer; a directory has one name.
            let same = if is_dir {
                path == kept.1
            } else {
                layer == kept.0
            };
            if !same {
                let numbers = fresh.entry(layer).or_default();
                if is_dir {
                    numbers.clear();
                }
                join.renumber(&merged, path, numbers)?;
            }
        }
    }
    Ok(())
}
