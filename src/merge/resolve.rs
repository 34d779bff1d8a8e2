//! From conflicts to actions: the policies applied.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::classify::Names;
use super::overlap::{Group, outermost};
use super::session::Session;
use super::{
    Action, Change, Class, Compare, Conflict, Content, Deed, Hint, Party, Policy, Present, Side,
};
use crate::tree::Kind;

const NOT_APPENDED: &str = "the sides did not both append to one file";
const NO_PLACE: &str = "a mapped path has no directory to keep a second version in";
const TOO_LONG: &str = "the name of a second version would be longer than 255 bytes";

/// A conflict to be decided.
struct Case<'a> {
    class: Class,
    /// Where it is reported.
    path: &'a Path,
    /// All that is decided with it; `path` or an ancestor is one of them.
    paths: &'a BTreeSet<PathBuf>,
    count: usize,
    /// The inodes it is about, if it is about inodes.
    inodes: &'a [u64],
    /// For [`Class::DirectoryMetadata`].
    names: Names,
}

/// What a policy did.
enum Applied {
    Resolved,
    KeptBoth(Vec<PathBuf>),
    Unresolved(Option<&'static str>),
}

impl<C: Compare> Session<'_, C> {
    /// Decides a conflict at a path, with what hangs together with anything below it.
    pub fn settle_path(&mut self, path: &Path, class: Class, count: usize) -> Result<(), C::Error> {
        let (paths, more) = self.groups.absorb(path);
        let count = count + more;
        self.settle(&Case {
            class,
            path,
            paths: &paths,
            count,
            inodes: &[],
            names: Names::United,
        })
    }

    /// Decides a conflict about a directory's own metadata.
    pub fn settle_metadata(&mut self, path: &Path, names: Names) -> Result<(), C::Error> {
        if names == Names::Of(Side::Stage) {
            self.take_stage(path)?;
        }
        let paths = BTreeSet::from([path.to_path_buf()]);
        let class = Class::DirectoryMetadata;
        self.settle(&Case {
            class,
            path,
            paths: &paths,
            count: 1,
            inodes: &[],
            names,
        })
    }

    /// Decides the groups that no conflict further up has taken.
    pub fn settle_groups(&mut self) -> Result<(), C::Error> {
        for Group {
            class,
            report,
            paths,
            count,
            inodes,
        } in self.groups.take()
        {
            self.settle(&Case {
                class,
                path: &report,
                paths: &paths,
                count,
                inodes: &inodes,
                names: Names::United,
            })?;
        }
        Ok(())
    }

    /// Makes the stage's view of a path hold, where it is not in question.
    pub fn take_stage(&mut self, path: &Path) -> Result<(), C::Error> {
        self.take(path, Side::Stage)
    }

    fn settle(&mut self, case: &Case<'_>) -> Result<(), C::Error> {
        let policy = self.policies.decide(case.path, case.class);
        let applied = self.apply(case, policy)?;
        let paths = match policy {
            _ if case.class.is_metadata() => case.paths.clone(),
            Policy::Last => self.with_sources(case.paths, Side::Step),
            Policy::First | Policy::Ignore => self.with_sources(case.paths, Side::Stage),
            Policy::Fail | Policy::KeepBoth | Policy::Append => case.paths.clone(),
        };
        let case = &Case {
            paths: &paths,
            ..*case
        };
        self.mark_subtrees(case);
        if policy == Policy::Ignore {
            return Ok(());
        }
        let related: Vec<&PathBuf> = case
            .paths
            .iter()
            .filter(|path| *path != case.path)
            .collect();
        let stage = self.party(Side::Stage, case, &related)?;
        let step = self.party(Side::Step, case, &related)?;
        let (resolved, kept_as, hint) = match applied {
            Applied::Resolved => (true, Vec::new(), None),
            Applied::KeptBoth(kept_as) => (true, kept_as, None),
            Applied::Unresolved(reason) => (false, Vec::new(), Some(self.hint(case, reason))),
        };
        let absolute = |path: &PathBuf| self.policies.absolute(path);
        self.conflicts.push(Conflict {
            path: self.policies.absolute(case.path),
            tree_path: case.path.to_path_buf(),
            class: case.class,
            stage,
            step,
            count: case.count,
            related: related.into_iter().map(absolute).collect(),
            policy,
            resolved,
            kept_as: kept_as.iter().map(absolute).collect(),
            hint,
        });
        Ok(())
    }

    /// Adds, for directories that the loser had moved to these paths, where they were: a rename is
    /// one change, so they come back. Where what lies around one is gone too, that comes back.
    fn with_sources(&mut self, paths: &BTreeSet<PathBuf>, winner: Side) -> BTreeSet<PathBuf> {
        let delta = self.delta(winner.other());
        let mut all = paths.clone();
        let mut pending: Vec<PathBuf> = paths.iter().cloned().collect();
        while let Some(path) = pending.pop() {
            let at = delta.get(&path).into_iter();
            let entries = at.chain(delta.below(&path).map(|(_, entry)| entry));
            for from in entries.filter_map(|entry| entry.change.redirect_from()) {
                let severed = |above: &&Path| delta.change(above).is_some_and(Change::severs);
                let source = from.ancestors().filter(severed).last().unwrap_or(from);
                if !source.ancestors().any(|above| all.contains(above)) {
                    all.insert(source.to_path_buf());
                    pending.push(source.to_path_buf());
                    self.subtrees.insert(source.to_path_buf());
                    self.restored.push((source.to_path_buf(), winner));
                }
            }
        }
        outermost(all)
    }

    /// Puts directories back that were moved to where the other side won.
    pub fn restore_renamed(&mut self) -> Result<(), C::Error> {
        for (path, winner) in std::mem::take(&mut self.restored) {
            self.take(&path, winner)?;
        }
        Ok(())
    }

    /// Remembers where a conflict was about a directory: what holds there, of names below it too,
    /// is the winner's view.
    fn mark_subtrees(&mut self, case: &Case<'_>) {
        if case.class == Class::DirectoryMetadata {
            return;
        }
        let directory = |path: &&PathBuf| {
            let dir_of = |delta: &super::Delta| delta.change(path)?.directory().map(drop);
            dir_of(self.stage).or(dir_of(self.step)).is_some()
        };
        let subtrees: Vec<PathBuf> = case
            .paths
            .iter()
            .filter(|path| case.class == Class::Tree || directory(path))
            .cloned()
            .collect();
        self.subtrees.extend(subtrees);
    }

    fn apply(&mut self, case: &Case<'_>, policy: Policy) -> Result<Applied, C::Error> {
        let policy = match policy {
            // Nothing would be gained by a second copy of equal content.
            Policy::KeepBoth | Policy::Append if case.class.is_metadata() => Policy::Last,
            policy => policy,
        };
        match policy {
            Policy::Fail => Ok(Applied::Unresolved(None)),
            Policy::Last => self.win(case, Side::Step),
            Policy::First | Policy::Ignore => self.win(case, Side::Stage),
            Policy::KeepBoth => self.keep_both(case),
            Policy::Append => self.append(case),
        }
    }

    /// One side's view of all paths of the case holds.
    fn win(&mut self, case: &Case<'_>, winner: Side) -> Result<Applied, C::Error> {
        match case.class {
            // Who else owns the names needs the metadata only; stacking gives the step's.
            Class::DirectoryMetadata => {
                let stacked = match case.names {
                    Names::United | Names::Of(Side::Step) => Side::Step,
                    Names::Of(Side::Stage) => Side::Stage,
                };
                if winner != stacked {
                    let path = case.path.to_path_buf();
                    self.plan.push(Action::Metadata { side: winner, path });
                }
            }
            // The content below is equal, so even a metadata-only entry shows the right one.
            Class::Metadata if winner == Side::Step && case.paths.len() == 1 => {}
            _ => {
                for path in case.paths {
                    if !self.made_by_other(case.inodes, path, winner) {
                        self.take(path, winner)?;
                    }
                }
            }
        }
        for inode in case.inodes {
            self.unite(*inode, winner);
        }
        Ok(Applied::Resolved)
    }

    fn keep_both(&mut self, case: &Case<'_>) -> Result<Applied, C::Error> {
        let mut copies = Vec::new();
        for path in case.paths {
            if self.has(Side::Stage, path)? && self.has(Side::Step, path)? {
                match self.free_name(path)? {
                    Some(name) => copies.push((path, name)),
                    None if path.components().count() == 1 => {
                        return Ok(Applied::Unresolved(Some(NO_PLACE)));
                    }
                    None => return Ok(Applied::Unresolved(Some(TOO_LONG))),
                }
            }
        }
        for path in case.paths {
            // Where only one side has something, that is what is kept.
            let winner = if self.has(Side::Stage, path)? {
                Side::Stage
            } else {
                Side::Step
            };
            self.take(path, winner)?;
        }
        let kept_as = copies.into_iter().map(|(path, to)| {
            let path = path.clone();
            self.plan.push(Action::Take {
                side: Side::Step,
                path,
                to: to.clone(),
            });
            to
        });
        Ok(Applied::KeptBoth(kept_as.collect()))
    }

    fn append(&mut self, case: &Case<'_>) -> Result<Applied, C::Error> {
        let is_file =
            |side| self.delta(side).change(case.path).and_then(Change::kind) == Some(Kind::File);
        // Not for busy files: a new file would be put in the place of the one in use.
        if matches!(case.class, Class::WriteWrite | Class::AddAdd)
            && case.paths.len() == 1
            && is_file(Side::Stage)
            && is_file(Side::Step)
            && self.cmp.appended(case.path)?
        {
            self.plan.push(Action::Concatenate {
                path: case.path.to_path_buf(),
            });
            return Ok(Applied::Resolved);
        }
        Ok(Applied::Unresolved(Some(NOT_APPENDED)))
    }

    /// Makes a side's view of a path hold. Adds nothing where stacking does that alone.
    fn take(&mut self, path: &Path, side: Side) -> Result<(), C::Error> {
        let stacked = match side {
            Side::Stage => !self.step.touches(path) && !self.step.hides_from_above(path),
            Side::Step => self.stacking_gives_step(path),
        };
        if stacked {
            return Ok(());
        }
        let path = path.to_path_buf();
        if self.has(side, &path)? {
            self.plan.push(Action::Take {
                side,
                path: path.clone(),
                to: path,
            });
        } else if self.stacking_shows(&path)? {
            self.plan.push(Action::Remove { path });
        }
        Ok(())
    }

    /// Whether the step's layer on top of the stage shows anything at the path.
    fn stacking_shows(&mut self, path: &Path) -> Result<bool, C::Error> {
        let present = |change: &Change| change.present().is_some();
        match self.step.change(path) {
            Some(change) => Ok(present(change)),
            None if self
                .step
                .below(path)
                .any(|(_, entry)| present(&entry.change)) =>
            {
                Ok(true)
            }
            None => Ok(!self.step.hides_from_above(path) && self.has(Side::Stage, path)?),
        }
    }

    /// Whether the step's layer on top of the stage shows at the path what it showed on top of
    /// the base. May say no where it would, at the price of an action too many.
    fn stacking_gives_step(&self, path: &Path) -> bool {
        let Some(change) = self.step.change(path) else {
            return self.untouched(path);
        };
        let Some(present) = change.present() else {
            return true;
        };
        if self.untouched(path) && present.redirect_from.is_none() {
            return self.complete_below(path, false);
        }
        match present {
            Present {
                kind: Kind::Dir,
                redirect_from: Some(from),
                ..
            } => self.untouched(from) && self.complete_below(path, false),
            Present {
                kind: Kind::Dir,
                opaque: true,
                ..
            } => self.complete_below(path, true),
            Present {
                kind: Kind::Dir,
                was,
                ..
            } => {
                let stage = self.stage.change(path);
                *was != Some(Kind::Dir)
                    && stage.is_some_and(|change| change.directory().is_none())
                    && self.complete_below(path, true)
            }
            file => file.content == Content::Own,
        }
    }

    /// Whether nothing that the step's layer holds below the path needs what the stage changed.
    fn complete_below(&self, path: &Path, own_content: bool) -> bool {
        self.step
            .below(path)
            .filter_map(|(_, entry)| entry.change.present())
            .all(|present| {
                present
                    .redirect_from
                    .as_ref()
                    .is_none_or(|from| self.untouched(from))
                    && (!own_content || present.content == Content::Own)
            })
    }

    /// Whether the stage shows at the path what the base does.
    fn untouched(&self, path: &Path) -> bool {
        !self.stage.touches(path) && !self.stage.severs_above(path)
    }

    fn has(&mut self, side: Side, path: &Path) -> Result<bool, C::Error> {
        match self.delta(side).change(path) {
            Some(change) => Ok(change.present().is_some()),
            None => self.cmp.exists(side, path),
        }
    }

    fn free_name(&mut self, path: &Path) -> Result<Option<PathBuf>, C::Error> {
        for name in self.policies.names_beside(path, self.step_name) {
            if !self.given.contains(&name)
                && !self.has(Side::Stage, &name)?
                && !self.has(Side::Step, &name)?
            {
                self.given.insert(name.clone());
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn hint(&self, case: &Case<'_>, reason: Option<&'static str>) -> Hint {
        let subtree = matches!(case.class, Class::Tree);
        let single = matches!(case.class, Class::Busy | Class::Link) || case.class.is_metadata();
        let mapped_itself = case.path.components().count() == 1;
        let policy = match reason {
            Some(NO_PLACE | TOO_LONG) => Policy::Last,
            _ if single || mapped_itself => Policy::Last,
            _ => Policy::KeepBoth,
        };
        Hint::new(
            reason,
            &self.policies.pattern_for(case.path, subtree),
            policy,
        )
    }

    fn party(
        &mut self,
        side: Side,
        case: &Case<'_>,
        related: &[&PathBuf],
    ) -> Result<Party, C::Error> {
        let delta = self.delta(side);
        let mut places =
            std::iter::once(case.path).chain(related.iter().map(|path| path.as_path()));
        let mut party = Party {
            writer: match side {
                Side::Stage => "stage".to_owned(),
                Side::Step => self.step_name.to_owned(),
            },
            did: Deed::Unchanged,
            kind: None,
            facts: None,
        };
        let Some(place) = places.find(|place| delta.touches(place)) else {
            if side == Side::Stage && case.class == Class::Busy {
                party.did = Deed::Open;
            }
            return Ok(party);
        };
        if let Some(entry) = delta.get(place) {
            party.writer = entry.writer.to_string();
            party.did = Deed::of(&entry.change);
            let renamed = |to: &&PathBuf| {
                delta
                    .change(to)
                    .and_then(Change::redirect_from)
                    .is_some_and(|from| from == place)
            };
            if party.did == Deed::Removed && related.iter().any(renamed) {
                party.did = Deed::Renamed;
            }
            if place == case.path {
                party.kind = entry.change.kind();
            }
        } else {
            party.did = Deed::ChangedBelow;
        }
        if matches!(party.did, Deed::Changed | Deed::ChangedBelow) && case.class == Class::Tree {
            for (below, entry) in delta.below(place) {
                if self.changed(side, below, &entry.change)? {
                    party.did = Deed::ChangedBelow;
                    party.writer = entry.writer.to_string();
                    break;
                }
            }
        }
        if party.kind == Some(Kind::File) {
            party.facts = self.cmp.facts(side, case.path)?;
        }
        Ok(party)
    }
}
