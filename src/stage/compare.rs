//! Answers to the merge's questions about content, read from the layers when asked.

use std::path::{Path, PathBuf};

use super::content::Seen;
use super::delta::Scan;
use crate::error::{Error, Result};
use crate::layer::Stack;
use crate::merge::{Compare, Effect, Facts, Sameness, Side};
use crate::tree::Kind;
use crate::tree::union::Found;

/// The two sides of a merge and the base they share.
pub(super) struct Sides {
    /// What the step began on.
    pub base: Stack,
    /// The stage as it is now, steps merged just before included.
    pub stage: Stack,
    /// The step's view.
    pub step: Stack,
    /// What lies between base and stage.
    pub stage_scan: Scan,
    /// The step's layer.
    pub step_scan: Scan,
}

impl Sides {
    /// A side's view.
    pub fn view(&self, side: Side) -> &Stack {
        match side {
            Side::Stage => &self.stage,
            Side::Step => &self.step,
        }
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

impl Compare for &Sides {
    type Error = Error;

    fn effect(&mut self, side: Side, path: &Path) -> Result<Effect> {
        let stack = self.view(side);
        let (Some(now), Some(before)) = (stack.find(path)?, self.covered(side, path)?) else {
            return Ok(Effect::Content);
        };
        let (now, before) = (Seen::new(stack, &now), Seen::new(&self.base, &before));
        if !now.same_content(before)? {
            return Ok(Effect::Content);
        }
        Ok(if now.same_metadata(before)? {
            Effect::Nothing
        } else {
            Effect::Metadata
        })
    }

    fn same(&mut self, path: &Path) -> Result<Sameness> {
        let (Some(stage), Some(step)) = (self.stage.find(path)?, self.step.find(path)?) else {
            return Ok(Sameness::Different);
        };
        let (a, b) = (Seen::new(&self.stage, &stage), Seen::new(&self.step, &step));
        if !a.same_content(b)? {
            return Ok(Sameness::Different);
        }
        Ok(if a.same_metadata(b)? {
            Sameness::Identical
        } else {
            Sameness::SameContent
        })
    }

    fn appended(&mut self, path: &Path) -> Result<bool> {
        let (Some(stage), Some(step)) = (self.stage.find(path)?, self.step.find(path)?) else {
            return Ok(false);
        };
        let base = self.base.find(path)?;
        let Some(base) = base.filter(|base| base.attr.kind == Kind::File) else {
            return Ok(true);
        };
        let base = Seen::new(&self.base, &base);
        Ok(Seen::new(&self.stage, &stage).begins_with(base)?
            && Seen::new(&self.step, &step).begins_with(base)?)
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
            digest: Some(Seen::new(stack, &found).digest()?),
        }))
    }
}
