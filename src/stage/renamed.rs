//! What becomes of the directories that the sides of a merge renamed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::cached::CachedStack;
use super::compare::Sides;
use crate::error::Result;
use crate::layer::Stack;
use crate::merge::{Action, JoinPlan, Side};

/// The directories that either side renamed: where they are now, and where they were in the base.
pub(super) struct Renamed<'a> {
    sides: &'a Sides,
    /// Those that the merged tree shows where a side moved them.
    shown: HashMap<Side, Vec<(&'a Path, &'a Path)>>,
    /// Where those were that it does not show there.
    lost: Vec<&'a Path>,
}

impl<'a> Renamed<'a> {
    /// Finds them.
    ///
    /// # Errors
    /// What the layers report.
    pub fn of(sides: &'a Sides, plan: &JoinPlan) -> Result<Renamed<'a>> {
        let (mut shown, mut lost) = (HashMap::new(), Vec::new());
        let own = sides.step.layers().iter().skip(sides.base.layers().len());
        let whole = own.fold(Stack::clone(&sides.stage), |below, layer| {
            below.with(layer.clone())
        });
        let stacked = CachedStack::from(whole);
        let deciding: BTreeMap<&Path, &Action> = plan
            .actions()
            .iter()
            .filter(|action| !matches!(action, Action::Metadata { .. }))
            .map(|action| (action.target(), action))
            .collect();
        for side in [Side::Stage, Side::Step] {
            let moves: &mut Vec<(&Path, &Path)> = shown.entry(side).or_default();
            for (to, from) in sides.renames(side) {
                let mut above = to.ancestors();
                let stays = match above.find_map(|above| deciding.get(above)) {
                    Some(Action::Take {
                        side: taken,
                        path,
                        to: target,
                    }) => *taken == side && path == target,
                    Some(_) => false,
                    None => number(&stacked, to)? == number(sides.view(side), to)?,
                };
                match stays {
                    true => moves.push((to, from)),
                    false => lost.push(from),
                }
            }
        }
        Ok(Renamed { sides, shown, lost })
    }

    /// Whether the merged tree also shows, under another name, the directory that an action
    /// copies: the other side renamed it (or one above or below it), and both are kept.
    pub fn shown_twice(&self, side: Side, path: &Path) -> bool {
        let moves = self
            .shown
            .get(&side.other())
            .filter(|moves| !moves.is_empty());
        let origin = moves.and_then(|_| self.sides.scan(side).delta.origin(path));
        let (Some(moves), Some(origin)) = (moves, origin) else {
            return false;
        };
        moves.iter().any(|(to, from)| {
            (from.starts_with(&origin) || origin.starts_with(from)) && *to != path
        })
    }

    /// Where the directories were that a side moved, and that are not shown where it moved them:
    /// nobody has counted the names below them as lost.
    pub fn lost(&self) -> impl Iterator<Item = &'a Path> {
        self.lost.iter().copied()
    }
}

fn number(stack: &CachedStack, path: &Path) -> Result<Option<crate::tree::Ino>> {
    Ok(stack.find(path)?.map(|found| found.attr.ino))
}
