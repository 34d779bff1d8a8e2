//! Answers to the merge's questions about content, read from the layers when asked.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::cached::CachedStack;
use super::content::{Known, Seen};
use super::delta::Scan;
use crate::error::{Error, Result};
use crate::layer::Stack;
use crate::merge::{Compare, Effect, Facts, Sameness, Side};
use crate::tree::union::Found;
use crate::tree::{Ino, Kind};

/// The two sides of a merge and the base they share.
pub(super) struct Sides {
    /// What the step began on.
    pub base: CachedStack,
    /// The stage as it is now, steps merged just before included.
    pub stage: CachedStack,
    /// The step's view.
    pub step: CachedStack,
    /// What lies between base and stage.
    pub stage_scan: Scan,
    /// The step's layer.
    pub step_scan: Scan,
    /// What has been read of content.
    pub known: Rc<Known>,
}

impl Sides {
    /// A side's view.
    pub fn view(&self, side: Side) -> &CachedStack {
        match side {
            Side::Stage => &self.stage,
            Side::Step => &self.step,
        }
    }

    /// An entry of one of the stacks.
    pub fn seen<'a>(&'a self, stack: &'a Stack, found: &'a Found) -> Seen<'a> {
        Seen::new(stack, found).knowing(&self.known)
    }

    /// What a side did.
    pub fn scan(&self, side: Side) -> &Scan {
        match side {
            Side::Stage => &self.stage_scan,
            Side::Step => &self.step_scan,
        }
    }

    /// What the side's entry covers in the base.
    fn covered(&self, side: Side, path: &Path) -> Result<Option<Found>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let place: Option<PathBuf> = self.scan(side).delta.origin(parent);
        match place {
            Some(place) => self.base.find(&place.join(name)),
            None => Ok(None),
        }
    }
}

impl Sides {
    /// Whether the layers of either side hold the inode.
    pub fn holds(&self, ino: Ino) -> bool {
        let holds = |scan: &Scan| scan.numbers.contains_key(&ino);
        holds(&self.stage_scan) || holds(&self.step_scan)
    }

    /// Where the base has an inode, as far as the sides came across it.
    pub fn homes(&self, ino: Ino) -> impl Iterator<Item = &PathBuf> {
        let both = [&self.stage_scan, &self.step_scan];
        both.into_iter()
            .filter_map(move |scan| scan.homes.get(&ino))
            .flatten()
    }

    /// The directories that a side renamed: where they are now, and where they were in the base.
    pub fn renames(&self, side: Side) -> impl Iterator<Item = (&Path, &Path)> {
        let entries = self.scan(side).delta.iter();
        entries
            .filter_map(|(to, entry)| Some((to.as_path(), entry.change.redirect_from()?.as_path())))
    }
}

fn effect(now: Seen<'_>, before: Seen<'_>) -> Result<Effect> {
    if !now.same_content(before)? {
        return Ok(Effect::Content);
    }
    Ok(if now.same_metadata(before)? {
        Effect::Nothing
    } else {
        Effect::Metadata
    })
}

fn sameness(a: Seen<'_>, b: Seen<'_>) -> Result<Sameness> {
    if !a.same_content(b)? {
        return Ok(Sameness::Different);
    }
    Ok(if a.same_metadata(b)? {
        Sameness::Identical
    } else {
        Sameness::SameContent
    })
}

impl Compare for &Sides {
    type Error = Error;

    fn effect(&mut self, side: Side, path: &Path) -> Result<Effect> {
        let stack = self.view(side);
        let (Some(now), Some(before)) = (stack.find(path)?, self.covered(side, path)?) else {
            return Ok(Effect::Content);
        };
        effect(self.seen(stack, &now), self.seen(&self.base, &before))
    }

    fn same(&mut self, path: &Path) -> Result<Sameness> {
        self.same_inode(path, path)
    }

    fn inode(&mut self, side: Side, inode: u64, name: &Path) -> Result<Effect> {
        let stack = self.view(side);
        for home in self.homes(inode) {
            if let Some(before) = self.base.find(home)?
                && before.attr.ino == inode
                && let Some(now) = stack.find(name)?
            {
                return effect(self.seen(stack, &now), self.seen(&self.base, &before));
            }
        }
        Ok(Effect::Content)
    }

    fn same_inode(&mut self, stage: &Path, step: &Path) -> Result<Sameness> {
        let (Some(stage), Some(step)) = (self.stage.find(stage)?, self.step.find(step)?) else {
            return Ok(Sameness::Different);
        };
        sameness(self.seen(&self.stage, &stage), self.seen(&self.step, &step))
    }

    fn appended(&mut self, path: &Path) -> Result<bool> {
        let (Some(stage), Some(step)) = (self.stage.find(path)?, self.step.find(path)?) else {
            return Ok(false);
        };
        let base = self.base.find(path)?;
        let Some(base) = base.filter(|base| base.attr.kind == Kind::File) else {
            return Ok(true);
        };
        let base = self.seen(&self.base, &base);
        Ok(self.seen(&self.stage, &stage).begins_with(base)?
            && self.seen(&self.step, &step).begins_with(base)?)
    }

    fn exists(&mut self, side: Side, path: &Path) -> Result<bool> {
        Ok(self.view(side).find(path)?.is_some())
    }

    fn facts(&mut self, side: Side, path: &Path) -> Result<Option<Facts>> {
        let stack = self.view(side);
        let Some(found) = stack.find(path)? else {
            return Ok(None);
        };
        if found.attr.kind != Kind::File {
            return Ok(None);
        }
        Ok(Some(Facts {
            size: found.attr.size,
            digest: Some(self.seen(stack, &found).digest()?),
        }))
    }
}
