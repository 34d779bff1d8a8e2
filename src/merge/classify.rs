//! The walk over all paths that either side has to do with.

use std::path::{Path, PathBuf};

use super::links::Shared;
use super::session::Session;
use super::{Action, Change, Class, Compare, Inputs, Outcome, Present, Sameness, Side};
use crate::tree::Kind;

/// Compares what stage and step did, lets the policies decide the conflicts, and says what has to
/// be put above the step's layer.
///
/// An error comes from `cmp` and ends the merge. The result depends on nothing but the inputs and
/// the answers of `cmp`.
pub fn classify<C: Compare>(inputs: &Inputs<'_>, cmp: &mut C) -> Result<Outcome, C::Error> {
    let mut session = Session::new(inputs, cmp);
    // Nothing was pushed and nobody writes: the step's layer is the merge.
    if inputs.stage.is_empty() && inputs.busy.is_empty() {
        return Ok(session.finish());
    }
    session.find_groups()?;
    session.walk()?;
    session.settle_groups()?;
    session.restore_renamed()?;
    session.plan_links();
    Ok(session.finish())
}

/// What the walk found at a path. What is not decided whole is decided name by name further down.
enum Verdict {
    /// Stacking gives the right entry here; go on below.
    Stacked,
    /// The stage's view of the path holds, with all that is below.
    StageWhole,
    /// The step's view holds, with all that is below, and stacking gives it.
    StepWhole,
    /// Both have a directory here; the stage's metadata holds.
    StageMetadata,
    /// A conflict about the path and all that is below it, and how many changes it concerns.
    Conflict(Class, usize),
    /// A conflict about the directory's own metadata, besides what else holds.
    DirectoryMetadata(Names),
}

/// Whose names a directory has, where only its metadata is in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Those of both sides.
    United,
    /// One side's alone.
    Of(Side),
}

impl<C: Compare> Session<'_, C> {
    fn walk(&mut self) -> Result<(), C::Error> {
        let mut stage = self.stage.iter().map(|(path, _)| path).peekable();
        let mut step = self.step.iter().map(|(path, _)| path).peekable();
        // The subtree that has been decided.
        let mut decided: Option<&Path> = None;
        loop {
            let path = match (stage.peek(), step.peek()) {
                (Some(a), Some(b)) if a < b => stage.next(),
                (Some(a), Some(b)) if a == b => {
                    step.next();
                    stage.next()
                }
                (Some(_), None) => stage.next(),
                _ => step.next(),
            };
            let Some(path) = path else { return Ok(()) };
            if decided.is_some_and(|above| path.starts_with(above)) || self.groups.decide(path) {
                continue;
            }
            if self.visit(path)? {
                decided = Some(path);
            }
        }
    }

    /// Decides one path. Returns whether all below is decided with it.
    fn visit(&mut self, path: &Path) -> Result<bool, C::Error> {
        let stage = self.stage.change(path);
        let step = self.step.change(path);
        let mut verdict = match (stage, step) {
            (None, None) => return Ok(false),
            (Some(stage), None) => self.stage_only(path, stage)?,
            (None, Some(step)) => self.step_only(path, step)?,
            (Some(stage), Some(step)) => match (stage.directory(), step.directory()) {
                (Some(a), Some(b)) => self.directories(path, (stage, a), (step, b))?,
                _ => self.entries(path, stage, step)?,
            },
        };
        if let Some(step) = step {
            verdict = self.busy(path, step, verdict)?;
        }
        let whole = match verdict {
            Verdict::StageWhole | Verdict::StepWhole => true,
            Verdict::DirectoryMetadata(names) => names != Names::United,
            _ => false,
        };
        if whole && self.group_lacks_directory(path)? {
            verdict = Verdict::Conflict(Class::Tree, 0);
        }
        match verdict {
            Verdict::Stacked => return Ok(false),
            Verdict::StepWhole => {}
            Verdict::StageWhole => self.take_stage(path)?,
            Verdict::StageMetadata => {
                self.plan.push(Action::Metadata {
                    side: Side::Stage,
                    path: path.to_path_buf(),
                });
                return Ok(false);
            }
            Verdict::Conflict(class, count) => self.settle_path(path, class, count)?,
            Verdict::DirectoryMetadata(names) => {
                self.settle_metadata(path, names)?;
                return Ok(names != Names::United);
            }
        }
        Ok(true)
    }

    /// Only the stage recorded the path.
    fn stage_only(&mut self, path: &Path, stage: &Change) -> Result<Verdict, C::Error> {
        if self.step.hides_from_above(path) {
            // The step made the directory above afresh, as the stage did: the names unite.
            return Ok(Verdict::StageWhole);
        }
        if self.step.below(path).next().is_none() {
            return Ok(Verdict::Stacked);
        }
        if stage.severs() {
            return Ok(match self.changed_below(Side::Step, path, stage)? {
                0 => Verdict::StageWhole,
                count => Verdict::Conflict(Class::Tree, count),
            });
        }
        // The step's layer holds the directory on the way to its own entries.
        Ok(match self.changed(Side::Stage, path, stage)? {
            true => Verdict::StageMetadata,
            false => Verdict::Stacked,
        })
    }

    /// Only the step recorded the path.
    fn step_only(&mut self, path: &Path, step: &Change) -> Result<Verdict, C::Error> {
        if !step.severs() {
            return Ok(Verdict::Stacked);
        }
        Ok(match self.changed_below(Side::Stage, path, step)? {
            0 => Verdict::StepWhole,
            count => Verdict::Conflict(Class::Tree, count),
        })
    }

    /// Both recorded the path, and not both as a directory.
    fn entries(&mut self, path: &Path, stage: &Change, step: &Change) -> Result<Verdict, C::Error> {
        if stage.present().is_none() && step.present().is_none() {
            return Ok(Verdict::Stacked);
        }
        let stage_below = match stage.directory() {
            Some(_) => self.changed_below(Side::Stage, path, step)?,
            None => 0,
        };
        let step_below = match step.directory() {
            Some(_) => self.changed_below(Side::Step, path, stage)?,
            None => 0,
        };
        // Both have one inode here: its name is nobody's change, wherever it came from.
        let shared = self.shared_at(stage, step).map(Shared::changed);
        let (stage_changed, step_changed) = match shared {
            Some(changed) => changed,
            None => (
                stage_below > 0 || self.changed(Side::Stage, path, stage)?,
                step_below > 0 || self.changed(Side::Step, path, step)?,
            ),
        };
        if !step_changed {
            return Ok(if stage_changed {
                Verdict::StageWhole
            } else {
                Verdict::Stacked
            });
        }
        if !stage_changed {
            return Ok(Verdict::StepWhole);
        }
        let was = step.was().or(stage.was());
        let below = stage_below + step_below;
        Ok(match (stage.kind(), step.kind()) {
            (Some(a), Some(b)) if a == b => match self.cmp.same(path)? {
                Sameness::Identical => Verdict::Stacked,
                Sameness::SameContent => Verdict::Conflict(Class::Metadata, 1),
                Sameness::Different if was.is_none() => Verdict::Conflict(Class::AddAdd, 1),
                Sameness::Different => Verdict::Conflict(Class::WriteWrite, 1),
            },
            _ if below > 0 && was == Some(Kind::Dir) => Verdict::Conflict(Class::Tree, below),
            (None, _) | (_, None) => Verdict::Conflict(Class::DeleteModify, below.max(1)),
            _ => Verdict::Conflict(Class::Type, below.max(1)),
        })
    }

    /// Both have a directory at the path.
    fn directories(
        &mut self,
        path: &Path,
        (stage_change, stage): (&Change, &Present),
        (step_change, step): (&Change, &Present),
    ) -> Result<Verdict, C::Error> {
        let names = match (stage.replaces_directory(), step.replaces_directory()) {
            (false, false) => Names::United,
            (false, true) => match self.changed_below(Side::Stage, path, step_change)? {
                0 => Names::Of(Side::Step),
                count => return Ok(Verdict::Conflict(Class::Tree, count)),
            },
            (true, false) => match self.changed_below(Side::Step, path, stage_change)? {
                0 => Names::Of(Side::Stage),
                count => return Ok(Verdict::Conflict(Class::Tree, count)),
            },
            (true, true) => {
                if stage.redirect_from != step.redirect_from || !self.alike_below(path)? {
                    let below = |side| self.delta(side).below(path).count();
                    let count = below(Side::Stage) + below(Side::Step);
                    return Ok(Verdict::Conflict(Class::Tree, count.max(1)));
                }
                match stage.redirect_from {
                    // The old name is gone below the step's layer, so its redirect leads nowhere.
                    Some(_) => Names::Of(Side::Stage),
                    None => Names::Of(Side::Step),
                }
            }
        };
        let stage_changed = self.changed(Side::Stage, path, stage_change)?;
        let step_changed = stage_changed && self.changed(Side::Step, path, step_change)?;
        if stage_changed && step_changed && self.cmp.same(path)? != Sameness::Identical {
            return Ok(Verdict::DirectoryMetadata(names));
        }
        Ok(match names {
            Names::Of(Side::Stage) => Verdict::StageWhole,
            Names::Of(Side::Step) => Verdict::StepWhole,
            Names::United if stage_changed && !step_changed => Verdict::StageMetadata,
            Names::United => Verdict::Stacked,
        })
    }

    /// Whether both sides recorded the same names below a path, with the same result.
    fn alike_below(&mut self, path: &Path) -> Result<bool, C::Error> {
        let same_name = |(a, b): (&PathBuf, &PathBuf)| a == b;
        let names = |side| self.delta(side).below(path).map(|(path, _)| path);
        if names(Side::Stage).count() != names(Side::Step).count()
            || !names(Side::Stage).zip(names(Side::Step)).all(same_name)
        {
            return Ok(false);
        }
        let (stage, step) = (self.stage, self.step);
        for ((below, a), (_, b)) in stage.below(path).zip(step.below(path)) {
            let alike = match (&a.change, &b.change) {
                (Change::Deleted { .. }, Change::Deleted { .. }) => true,
                (Change::Present(a), Change::Present(b)) => {
                    a.kind == b.kind
                        && a.redirect_from == b.redirect_from
                        && a.replaces_directory() == b.replaces_directory()
                        && self.cmp.same(below)? == Sameness::Identical
                }
                _ => false,
            };
            if !alike {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Turns a verdict that would change what is open for writing into a conflict. Conflicts
    /// about content come first.
    fn busy(&mut self, path: &Path, step: &Change, verdict: Verdict) -> Result<Verdict, C::Error> {
        // A directory whose names unite leaves what is below it where it is.
        let whole = step.severs();
        let concerned =
            |busy: &&PathBuf| busy.as_path() == path || (whole && busy.starts_with(path));
        let count = self
            .busy
            .range(path.to_path_buf()..)
            .take_while(|busy| busy.starts_with(path));
        let count = count.filter(concerned).count();
        if count == 0 {
            return Ok(verdict);
        }
        Ok(match verdict {
            Verdict::Conflict(class, _) if !class.is_metadata() => verdict,
            // What the writer has is left alone.
            Verdict::StageWhole => verdict,
            _ if self.changed(Side::Step, path, step)? => Verdict::Conflict(Class::Busy, count),
            // A copy-up that came to nothing must not lie above the file in use.
            _ => Verdict::StageWhole,
        })
    }
}
