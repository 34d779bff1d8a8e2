//! What a merge makes of steps first: one layer of a part of what one did, or of all
//! that several did, each of which began on what the one before had left.

use std::rc::Rc;
use std::sync::Arc;

use super::compare::Sides;
use super::content::Known;
use super::delta::Scan;
use super::ended::{STRANDED, is_stranded};
use super::join::Join;
use super::numbers::{self, Suspects};
use super::renamed::Renamed;
use super::state::{Phase, State, now};
use super::steps::known_step;
use super::{Failure, SealedStep, Stage};
use crate::error::Result;
use crate::layer::{OpenLayer, seal};
use crate::merge::{JoinPlan, Selection, part};
use crate::sys::at;

/// Steps that are merged as one.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// In the order in which they ran; more than one if each began on what the one
    /// before had left.
    pub steps: Vec<String>,
    /// The layers that the first began on.
    pub base: Vec<String>,
    /// Their layers.
    pub layers: Vec<String>,
}

impl Unit {
    /// The last of them, after which it is called.
    pub fn name(&self) -> &str {
        self.steps.last().map_or("", String::as_str)
    }
}

/// The units of steps that are to be merged, in this order.
///
/// # Errors
/// [`Failure::NotFound`] for a step that there is not, [`Failure::Usage`] for one that
/// cannot be merged, or not without another.
pub(super) fn units(state: &State, steps: &[String]) -> Result<Vec<Unit>, Failure> {
    let mut units: Vec<Unit> = Vec::new();
    for step in steps {
        let known = known_step(state, step)?;
        let layer = known.layer.iter().cloned();
        if let Some(last) = units.last_mut()
            && !last.layers.is_empty()
            && last.base.iter().chain(&last.layers).eq(&known.base_stack)
        {
            last.steps.push(step.clone());
            last.layers.extend(layer);
            continue;
        }
        if is_stranded(state, known) {
            let text = format!("step '{step}' {STRANDED}; discard it and run it again");
            return Err(Failure::Usage(text));
        }
        let may_have_changes = known.state == Phase::Open || known.layer.is_some();
        if may_have_changes && !state.stack.starts_with(&known.base_stack) {
            let top = known.base_stack.last();
            let mut others = state.steps.iter();
            let before = others.find(|(_, other)| other.layer.as_ref() == top);
            let before = before.map_or("", |(name, _)| name.as_str());
            let text = format!(
                "step '{step}' began on what step '{before}' had left, which is not merged: \
                 `step merge {before} {step}` merges both"
            );
            return Err(Failure::Usage(text));
        }
        units.push(Unit {
            steps: vec![step.clone()],
            base: known.base_stack.clone(),
            layers: layer.collect(),
        });
    }
    Ok(units)
}

impl Stage {
    /// Makes one layer that does to the base of a unit what is selected of what its
    /// steps did. Nothing names it yet. `None` if that is nothing.
    ///
    /// Content is cloned where the disk can, else copied.
    ///
    /// # Errors
    /// What the layers or the disk report.
    pub(super) fn make_part(
        &self,
        unit: &Unit,
        selection: &Selection,
        known: &Rc<Known>,
    ) -> Result<Option<String>, Failure> {
        let base = self.stack_of(&unit.base)?;
        let (mut view, mut scan) = (base.clone(), Scan::default());
        for (id, step) in unit.layers.iter().zip(&unit.steps) {
            let depth = view.layers().len();
            view = view.with(self.layer(id)?);
            scan.then(Scan::of(&view, depth, &Arc::from(step.as_str()))?);
        }
        let plan = part(&scan.delta, selection);
        let sides = Sides {
            stage: base.clone(),
            base,
            step: view,
            stage_scan: Scan::default(),
            step_scan: scan,
            known: known.clone(),
        };
        Ok(self.write_part(unit.name(), &plan, &sides)?)
    }

    /// Ends a step's view and makes its layer immutable, as [`Stage::seal_step`] does,
    /// with nothing in it but what one of the patterns matches: all else that the step
    /// did is forgotten.
    ///
    /// # Errors
    /// As [`Stage::seal_step`]; [`Failure::Usage`] for a pattern that cannot be one, and
    /// then nothing is done.
    pub fn seal_part(&self, step: &str, only: &[String]) -> Result<SealedStep, Failure> {
        let selection = Selection::of(only, self.options().mapped);
        let selection = selection.map_err(|error| Failure::Usage(error.to_string()))?;
        let _life = self.life.lock();
        let notes = self.seal_as(step, Phase::Sealed, None)?;
        let known = known_step(&self.state.lock(), step)?.clone();
        let mut layer = known.layer;
        if let Some(whole) = layer {
            let unit = Unit {
                steps: vec![step.to_owned()],
                base: known.base_stack,
                layers: vec![whole],
            };
            layer = self.make_part(&unit, &selection, &Rc::default())?;
            let mut next = self.state.lock().clone();
            if let Some(known) = next.steps.get_mut(step) {
                known.layer.clone_from(&layer);
            }
            self.commit(&mut next)?;
            self.sweep_layers();
        }
        let sealed = self.sealed(step, layer)?;
        Ok(SealedStep { notes, ..sealed })
    }

    fn write_part(&self, step: &str, plan: &JoinPlan, sides: &Sides) -> Result<Option<String>> {
        let renamed = Renamed::of(sides, plan)?;
        let suspects = Suspects::find(sides, plan, &renamed)?;
        let id = self.state.lock().new_layer_id(step);
        // Not a name that a layer can have, so a start sweeps it.
        let path = self.layers_dir().join(format!(".{id}"));
        let make = || -> Result<bool> {
            std::fs::create_dir_all(&path)?;
            let mut join = Join::new(OpenLayer::open(&path)?, &sides.base, sides, &self.inos);
            join.carry_out(plan, &renamed)?;
            numbers::settle(&mut join, plan, suspects)?;
            if join.open().is_clean()? {
                return Ok(false);
            }
            seal(
                join.open(),
                &sides.base,
                &self.layers_dir(),
                &id,
                step,
                now(),
            )?;
            Ok(true)
        };
        let made = make();
        if !matches!(made, Ok(true)) {
            let _ = at::remove_all(nix::fcntl::AT_FDCWD, &path);
        }
        Ok(made?.then_some(id))
    }
}
