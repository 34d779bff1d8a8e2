//! What steps saw that others changed meanwhile: found when a step is merged, kept for who asks.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::cached::CachedStack;
use super::compare::Sides;
use super::content::Known;
use super::delta::Scan;
use super::ended::is_stranded;
use super::merge::Overrides;
use super::part::all_of;
use super::since::AllSince;
use super::state::{Phase, State, StepState};
use super::{Failure, Stage};
use crate::error::{Context, Error, Result};
use crate::layer::{read_reads, write_reads};
use crate::merge::{Effect, Observed, Policies, Race, Sights, races};
use crate::sys::at;
use crate::tree::Kind;
use crate::tree::reads::Reads;

/// So many are kept of steps that were merged.
const KEPT: usize = 200;

impl Stage {
    /// What steps saw that others changed meanwhile: those that were merged lately, as it was found
    /// then, and those that have ended and wait or are kept, as it is now.
    ///
    /// # Errors
    /// What the layers report.
    pub fn races(&self) -> Result<Vec<Race>, Failure> {
        let (state, _lease) = self.lease(|state| state.layers().cloned().collect());
        let mut all = state.races.clone();
        let policies = self.policies(Overrides::default())?;
        let ended = state.steps.iter();
        let ended = ended.filter(|(_, known)| known.state != Phase::Open);
        for (step, known) in ended.filter(|(_, known)| !is_stranded(&state, known)) {
            all.extend(self.races_now(&state, step, known, &policies)?);
        }
        Ok(all)
    }

    fn races_now(
        &self,
        state: &State,
        step: &str,
        known: &StepState,
        policies: &Policies,
    ) -> Result<Vec<Race>> {
        // It may have begun on what another had left that is not merged.
        let both = state.stack.iter().zip(&known.base_stack);
        let common = both.take_while(|(a, b)| a == b).count();
        if common == state.stack.len() {
            return Ok(Vec::new());
        }
        let reads = self.reads_of(step, known);
        let mut all_since = AllSince::new(&Rc::<Known>::default());
        let mut since = all_since.take(common);
        let stage = self.stack_of(&state.stack)?;
        self.read_since(&mut since, &stage, &state.stack)?;
        let did = (known.base_stack.as_slice(), known.layer.as_slice());
        let sides = self.sides(step, did, &state.stack, since.scan, all_since.known())?;
        let mut seen = sides.seen_on(&sides.base);
        races(&sides.sights(reads.as_deref(), step, policies), &mut seen)
    }

    /// Both sides of a step's merge into a stack: of what it began on, and its layers.
    pub(super) fn sides(
        &self,
        step: &str,
        (base, layers): (&[String], &[String]),
        onto: &[String],
        stage_scan: Scan,
        content: &Rc<Known>,
    ) -> Result<Sides> {
        let base = self.stack_of(base)?;
        let (view, mut scans) = self.scans(step, &base, layers)?;
        let step_scan = match scans.len() {
            1 => scans.pop().unwrap_or_default(),
            _ => all_of(scans),
        };
        Ok(Sides {
            step_scan,
            stage_scan,
            base: base.into(),
            stage: self.stack_of(onto)?.into(),
            step: view.into(),
            known: content.clone(),
        })
    }

    /// What a step saw of what it began on; `None` if that is not known.
    pub(super) fn reads_of(&self, step: &str, known: &StepState) -> Option<Arc<Reads>> {
        if let Some(reads) = self.reads.lock().get(step) {
            return Some(reads.clone());
        }
        let id = known.layer.as_ref()?;
        let read = || read_reads(at::open_dir(&self.sealed, Path::new(id))?);
        match read() {
            Ok(reads) => reads.map(Arc::new),
            Err(error) => {
                log::warn!("what step '{step}' read is not known: layer {id}: {error}");
                None
            }
        }
    }

    /// Writes what a step saw beside its layer, where that is going to stay for a while.
    pub(super) fn save_reads(&self, step: &str, layer: Option<&String>) {
        let reads = self.reads.lock().get(step).cloned();
        let (Some(reads), Some(id)) = (reads, layer) else {
            return;
        };
        let path = self.layers_dir().join(id);
        let write = || write_reads(at::open_dir(nix::fcntl::AT_FDCWD, &path)?, &reads);
        if let Err(error) = write().context(|| path.display().to_string()) {
            // Only after a death of the daemon will it be missed.
            log::warn!("what step '{step}' read is not written down: {error}");
        }
    }
}

/// Remembers what steps saw that were merged just now, and of those before as much as there is
/// room for.
pub(super) fn remember(state: &mut State, steps: &[String], races: &[Race]) {
    state.races.retain(|race| !steps.contains(&race.step));
    state.races.extend_from_slice(races);
    let old = state.races.len().saturating_sub(KEPT);
    state.races.drain(..old);
}

impl Sides {
    /// What the step saw, to be compared.
    pub fn sights<'a>(
        &'a self,
        reads: Option<&'a Reads>,
        step_name: &'a str,
        policies: &'a Policies,
    ) -> Sights<'a> {
        Sights {
            reads,
            stage: &self.stage_scan.delta,
            step: &self.step_scan.delta,
            step_name,
            policies,
        }
    }
}

/// What a step saw, beside what the stage has now.
pub(super) struct SeenOn<'a> {
    sides: &'a Sides,
    /// What that step began on: the base of the merge, with what those steps did that it followed.
    base: &'a CachedStack,
}

impl Sides {
    /// What a step saw that began on this.
    pub fn seen_on<'a>(&'a self, base: &'a CachedStack) -> SeenOn<'a> {
        SeenOn { sides: self, base }
    }
}

impl Observed for SeenOn<'_> {
    type Error = Error;

    fn kinds(&mut self, path: &Path) -> Result<[Option<Kind>; 2]> {
        let kind = |stack: &CachedStack| -> Result<Option<Kind>> {
            Ok(stack.find(path)?.map(|found| found.attr.kind))
        };
        Ok([kind(self.base)?, kind(&self.sides.stage)?])
    }

    fn turned(&mut self, path: &Path) -> Result<Effect> {
        let (Some(before), Some(now)) = (self.base.find(path)?, self.sides.stage.find(path)?)
        else {
            return Ok(Effect::Content);
        };
        let (before, now) = (
            self.sides.seen(self.base, &before),
            self.sides.seen(&self.sides.stage, &now),
        );
        Ok(
            match (now.same_content(before)?, now.same_metadata(before)?) {
                (false, _) => Effect::Content,
                (true, false) => Effect::Metadata,
                (true, true) => Effect::Nothing,
            },
        )
    }

    fn own(&mut self, path: &Path) -> Result<Option<Kind>> {
        Ok(self.sides.step.find(path)?.map(|found| found.attr.kind))
    }

    fn names(&mut self, path: &Path) -> Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for stack in [self.base, &self.sides.stage] {
            if let Some(found) = stack.find(path)? {
                names.extend(stack.list(&found.parts)?.into_keys());
            }
        }
        Ok(names)
    }
}
