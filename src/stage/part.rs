//! What a merge makes of steps first: one layer of a part of what one did, or, where they
//! cannot be pushed as they are, of all that several did, each of which began on what the one
//! before had left.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use super::compare::Sides;
use super::content::Known;
use super::delta::Scan;
use super::ended::{is_stranded, stranded};
use super::join::Join;
use super::numbers::{self, Suspects};
use super::renamed::Renamed;
use super::state::{Phase, State, now};
use super::steps::known_step;
use super::{Failure, SealedStep, Stage};
use crate::error::Result;
use crate::layer::{OpenLayer, Stack, seal};
use crate::merge::{Change, JoinPlan, Selection, part};
use crate::sys::at;
use crate::tree::Kind;

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
    /// One layer that does what all of them do, or none if that is nothing: made where
    /// they cannot lie on the stage as they are.
    folded: OnceCell<Vec<String>>,
}

impl Unit {
    /// The last of them, after which it is called.
    pub fn name(&self) -> &str {
        self.steps.last().map_or("", String::as_str)
    }

    /// What was made of its layers by [`Stage::layers_for`].
    pub fn folded(&self) -> impl Iterator<Item = &String> {
        self.folded.get().into_iter().flatten()
    }
}

/// Whether layers that lie on each other can lie on the stage as well, one by one: they have
/// nothing to do with what was done to it, but for directories on the way.
///
/// Else what one of them did and the next has undone may be in the way of the stage: all that
/// they did together is compared, and not what they went through.
fn are_apart(stage: &Scan, layers: &[Scan]) -> bool {
    let on_the_way = |change: &Change| {
        let directory = change.directory();
        directory.is_some_and(|dir| {
            dir.was == Some(Kind::Dir) && !dir.opaque && dir.redirect_from.is_none()
        })
    };
    layers.iter().all(|scan| {
        let passes = |path: &PathBuf| scan.delta.change(path).is_some_and(on_the_way);
        let mut inodes = scan.numbers.iter().chain(&scan.homes);
        let mut changes = scan.delta.iter();
        scan.metacopies.iter().all(|(path, origin)| path == origin)
            && inodes.all(|(ino, paths)| {
                let held = stage.numbers.contains_key(ino) || stage.homes.contains_key(ino);
                !held || paths.iter().all(passes)
            })
            && changes.all(|(path, entry)| {
                let met = match on_the_way(&entry.change) {
                    true => stage.delta.change(path).is_some_and(|it| !on_the_way(it)),
                    false => stage.delta.touches(path),
                };
                !met && entry.change.redirect_from().is_none() && !stage.delta.severs_above(path)
            })
    })
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
            let why = stranded(state, known);
            let text = format!("step '{step}' {why}; discard it and run it again");
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
            folded: OnceCell::new(),
        });
    }
    Ok(units)
}

/// What layers did together, one on the other.
pub(super) fn all_of(scans: Vec<Scan>) -> Scan {
    scans.into_iter().fold(Scan::default(), |mut below, scan| {
        below.then(scan);
        below
    })
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
        let (view, scans) = self.scans(unit.name(), &base, &unit.layers)?;
        let scan = all_of(scans);
        let plan = part(&scan.delta, selection);
        let sides = Sides {
            stage: base.clone().into(),
            base: base.into(),
            step: view.into(),
            stage_scan: Scan::default(),
            step_scan: scan,
            known: known.clone(),
        };
        Ok(self.write_part(unit.name(), &plan, &sides)?)
    }

    /// The layers of a unit that are to be pushed on a stage to which this was done since:
    /// its own, so that each step keeps what it did, or one that was made of them.
    ///
    /// # Errors
    /// As [`Stage::make_part`].
    pub(super) fn layers_for<'a>(
        &self,
        unit: &'a Unit,
        stage: &Scan,
        known: &Rc<Known>,
    ) -> Result<&'a [String], Failure> {
        if unit.layers.len() < 2 {
            return Ok(&unit.layers);
        }
        let base = self.stack_of(&unit.base)?;
        let (_, scans) = self.scans(unit.name(), &base, &unit.layers)?;
        if are_apart(stage, &scans) {
            return Ok(&unit.layers);
        }
        if unit.folded.get().is_none() {
            let made = self.make_part(unit, &Selection::all(), known)?;
            let _ = unit.folded.set(made.into_iter().collect());
        }
        Ok(unit.folded.get().map_or(&[], Vec::as_slice))
    }

    /// What lies on a base, and each of the layers that are put there, as `step`'s.
    ///
    /// # Errors
    /// What the layers report.
    pub(super) fn scans(
        &self,
        step: &str,
        base: &Stack,
        layers: &[String],
    ) -> Result<(Stack, Vec<Scan>)> {
        let step: Arc<str> = Arc::from(step);
        let (mut view, mut scans) = (base.clone(), Vec::new());
        for id in layers {
            let depth = view.layers().len();
            view = view.with(self.layer(id)?);
            scans.push(Scan::of(&view, depth, &step)?);
        }
        Ok((view, scans))
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
                folded: OnceCell::new(),
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
        let mapped = self.options().mapped;
        let make = || -> Result<bool> {
            std::fs::create_dir_all(&path)?;
            let mut join = Join::new(
                OpenLayer::open(&path)?,
                &sides.base,
                sides,
                (&self.inos, &mapped),
            );
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
