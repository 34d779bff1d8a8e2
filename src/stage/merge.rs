//! Merging steps into the stage: all or nothing, in one commit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use serde::Serialize;

use super::cached::CachedStack;
use super::compare::Sides;
use super::content::Known;
use super::groups::member_leaves;
use super::join::Join;
use super::numbers::Suspects;
use super::part::{Unit, units};
use super::races::remember;
use super::renamed::Renamed;
use super::since::AllSince;
use super::state::{Phase, State, now};
use super::steps::known_step;
use super::{ConflictReport, Failure, Stage, failpoint, numbers, recover};
use crate::error::Result;
use crate::layer::{OpenLayer, seal};
use crate::merge::{
    Conflict, Inputs, JoinPlan, Outcome, Policies, Policy, Race, Selection, Sights, SuffixPattern,
    classify, races, read_write,
};
use crate::sys::at;

/// What a merge did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MergeReport {
    /// The steps, in the order in which they were merged.
    pub steps: Vec<String>,
    /// The layers that were pushed, the lowest first, join layers among them.
    pub layers: Vec<String>,
    /// Those that only hold resolved paths.
    pub join_layers: Vec<String>,
    /// Conflicts, and how they were decided.
    pub conflicts: Vec<Conflict>,
    /// What the steps saw that others changed meanwhile.
    pub races: Vec<Race>,
    /// Entries that the layers add or change.
    pub entries: u64,
    /// Names that they delete.
    pub whiteouts: u64,
    /// Bytes of content that they hold.
    pub bytes: u64,
    /// What else the user should know, a sentence each.
    pub notes: Vec<String>,
}

/// What is said of the conflicts of one merge, in place of what the stage was mounted with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// One policy for every conflict.
    pub on_conflict: Option<Policy>,
    /// How `keep-both` names the later version.
    pub keep_both_as: Option<SuffixPattern>,
    /// What of the step's changes is merged: those at paths that one of these patterns
    /// matches. All of them if there are none.
    pub only: Vec<String>,
    /// Whether it is a conflict that a step saw what another changed.
    pub strict: Option<bool>,
}

impl From<Option<Policy>> for Overrides {
    fn from(on_conflict: Option<Policy>) -> Overrides {
        Overrides {
            on_conflict,
            ..Overrides::default()
        }
    }
}

/// The writer of join layers: the stage itself.
pub(super) const JOIN: &str = "join";

/// What became of a step that was merged.
pub(super) const MERGED: &str = "merged";

/// What is decided and made, and not yet committed.
struct Prepared {
    report: MergeReport,
    /// Step and join layers, the lowest first.
    pushed: Vec<String>,
    /// The stack that they were made for.
    onto: Vec<String>,
    undecided: bool,
}

impl Stage {
    /// Merges steps, in this order, all or none. Steps that are still open are
    /// sealed first.
    ///
    /// # Errors
    /// [`Failure::Usage`] and [`Failure::NotFound`] for steps that cannot be
    /// merged, [`Failure::Conflict`] if nobody decided a conflict: then the
    /// stage is unchanged and the steps are kept, to be merged with another
    /// policy or discarded.
    pub fn merge(
        &self,
        steps: &[String],
        overrides: impl Into<Overrides>,
    ) -> Result<MergeReport, Failure> {
        let _life = self.life.lock();
        let overrides = overrides.into();
        self.merge_locked(steps, |_| overrides.clone())
    }

    /// The same, with what is said of each step by its name.
    ///
    /// # Errors
    /// As [`Stage::merge`].
    pub fn merge_each(
        &self,
        steps: &[String],
        overrides: &BTreeMap<String, Overrides>,
    ) -> Result<MergeReport, Failure> {
        let _life = self.life.lock();
        self.merge_locked(steps, |step| {
            overrides.get(step).cloned().unwrap_or_default()
        })
    }

    pub(super) fn merge_locked(
        &self,
        steps: &[String],
        overrides: impl Fn(&str) -> Overrides,
    ) -> Result<MergeReport, Failure> {
        check_order(&self.state.lock(), steps)?;
        let (mut policies, mut selections) = (BTreeMap::new(), BTreeMap::new());
        let mut notes = Vec::new();
        for step in steps {
            let overrides = overrides(step);
            if !overrides.only.is_empty() {
                let selection = Selection::of(&overrides.only, self.options().mapped);
                let selection = selection.map_err(|error| Failure::Usage(error.to_string()))?;
                selections.insert(step.clone(), selection);
            }
            policies.insert(step.clone(), self.policies(overrides)?);
            if known_step(&self.state.lock(), step)?.state == Phase::Open {
                notes.extend(self.seal_to_merge(step)?);
            }
        }
        self.seal_dirty_head()?;
        let busy = self.busy();
        let known = Rc::<Known>::default();
        let (units, parts) = self.selected(steps, &selections, &known)?;
        // What was made of the steps' layers.
        let made = || {
            let folded = units.iter().flat_map(Unit::folded);
            parts.iter().chain(folded).cloned().collect::<Vec<_>>()
        };
        let prepared = self.prepare((steps, &units), &policies, &busy, &known);
        let mut prepared = prepared.inspect_err(|_| self.drop_layers(&made()))?;
        failpoint::hit("merge-before-commit");
        if prepared.undecided {
            self.drop_layers(&made());
            return Err(self.refuse(steps, prepared));
        }
        let mut stacks = None;
        let mut refused = None;
        let swapped = self.swap_stage_view(|old| {
            // People may have written since, which is a layer now, or may have
            // opened a file to write. No request gets in between from here on.
            let now_busy = self.busy();
            if self.state.lock().stack != prepared.onto || now_busy != busy {
                self.drop_layers(&prepared.report.join_layers);
                prepared = self.prepare((steps, &units), &policies, &now_busy, &known)?;
                if prepared.undecided {
                    refused = Some(());
                    return Ok(old.clone());
                }
            }
            let mut next = self.state.lock().clone();
            next.stack.extend(prepared.pushed.iter().cloned());
            for step in steps {
                next.steps.remove(step);
                next.gone.insert(step.clone(), MERGED.to_owned());
                member_leaves(&mut next, step);
            }
            remember(&mut next, steps, &prepared.report.races);
            let new = self.stack_of(&next.stack)?;
            self.commit(&mut next)?;
            stacks = Some((old.clone(), new.clone()));
            Ok(new)
        });
        if let Err(failure) = swapped {
            self.drop_layers(&prepared.report.join_layers);
            self.drop_layers(&made());
            return Err(failure);
        }
        if refused.is_some() {
            self.drop_layers(&made());
            return Err(self.refuse(steps, prepared));
        }
        failpoint::hit("merge-after-commit");
        for step in steps {
            self.reads.lock().remove(step);
            recover::remove_view(&self.view_dir(step));
        }
        failpoint::hit("merge-before-invalidate");
        if let Some((old, new)) = stacks {
            notes.extend(self.tell_kernel(&old, &new));
        }
        if !made().is_empty() {
            // What they were made of, or what was made and is not needed.
            self.sweep_layers();
        }
        prepared.report.notes.extend(notes);
        Ok(prepared.report)
    }

    /// The steps in units that have what is selected of them, and the layers that were
    /// made for it.
    fn selected(
        &self,
        steps: &[String],
        selections: &BTreeMap<String, Selection>,
        known: &Rc<Known>,
    ) -> Result<(Vec<Unit>, Vec<String>), Failure> {
        let mut units = units(&self.state.lock(), steps)?;
        let mut made = Vec::new();
        for unit in &mut units {
            let parts = unit
                .steps
                .iter()
                .find(|step| selections.contains_key(*step));
            if let (Some(step), true) = (parts, unit.steps.len() > 1) {
                self.drop_layers(&made);
                return Err(Failure::Usage(format!(
                    "step '{step}' has to be merged whole, since another of these began on what it had left"
                )));
            }
            let Some(selection) = selections.get(unit.name()) else {
                continue;
            };
            if unit.layers.is_empty() {
                continue;
            }
            match self.make_part(unit, selection, known) {
                Ok(layer) => {
                    made.extend(layer.clone());
                    unit.layers = layer.into_iter().collect();
                }
                Err(failure) => {
                    self.drop_layers(&made);
                    return Err(failure);
                }
            }
        }
        Ok((units, made))
    }

    pub(super) fn policies(&self, overrides: Overrides) -> Result<Policies, Failure> {
        let options = self.options();
        let wrong = |error: crate::merge::PolicyError| Failure::Usage(error.to_string());
        let pattern = overrides.keep_both_as.unwrap_or(options.keep_both_as);
        let strict = overrides.strict.unwrap_or(options.strict);
        let mut policies = Policies::new(options.mapped)
            .keep_both_as(pattern)
            .strict(strict);
        for rule in &options.policies {
            policies = policies.rule(&rule.pattern, rule.policy).map_err(wrong)?;
        }
        Ok(match overrides.on_conflict {
            Some(policy) => policies.override_with(policy),
            None => policies,
        })
    }

    /// Keeps the steps of a merge that met conflicts.
    fn refuse(&self, steps: &[String], prepared: Prepared) -> Failure {
        self.drop_layers(&prepared.report.join_layers);
        // Of all steps at once: what decides them is to be said once.
        let all = Outcome {
            conflicts: prepared.report.conflicts,
            plan: None,
        };
        let report = ConflictReport {
            steps: steps.to_vec(),
            text: all.text(),
            conflicts: all.conflicts,
        };
        let reason = match report.conflicts.iter().find(|conflict| !conflict.resolved) {
            Some(first) if report.undecided() > 1 => format!(
                "{} conflict about {} and {} more",
                first.class.as_str(),
                first.path.display(),
                report.undecided() - 1
            ),
            Some(first) => format!(
                "{} conflict about {}",
                first.class.as_str(),
                first.path.display()
            ),
            None => "conflict".to_owned(),
        };
        let mut next = self.state.lock().clone();
        for step in steps {
            if let Some(known) = next.steps.get_mut(step) {
                self.save_reads(step, known.layer.as_ref());
                known.state = Phase::Kept;
                known.reason = Some(reason.clone());
                known.kept_in = None;
            }
        }
        match self.commit(&mut next) {
            Ok(()) => Failure::Conflict(Box::new(report)),
            Err(error) => error.into(),
        }
    }

    /// Decides every conflict and makes the join layers. Each step is merged
    /// onto the stage with the steps before it, as if it came alone.
    fn prepare(
        &self,
        (steps, units): (&[String], &[Unit]),
        policies: &BTreeMap<String, Policies>,
        busy: &[PathBuf],
        known: &Rc<Known>,
    ) -> Result<Prepared, Failure> {
        let state = self.state.lock().clone();
        let busy: BTreeSet<PathBuf> = busy.iter().cloned().collect();
        let mut prepared = Prepared {
            report: MergeReport {
                steps: steps.to_vec(),
                ..MergeReport::default()
            },
            pushed: Vec::new(),
            onto: state.stack.clone(),
            undecided: false,
        };
        let mut all_since = AllSince::new(known);
        for unit in units {
            let Some(policies) = policies.get(unit.name()) else {
                continue;
            };
            let done =
                self.prepare_one(&state, unit, policies, &busy, &mut all_since, &mut prepared);
            if let Err(failure) = done {
                self.drop_layers(&prepared.report.join_layers);
                return Err(failure);
            }
        }
        for id in &prepared.pushed {
            let layer = self.layer(id)?;
            let told = layer.manifest();
            prepared.report.entries += told.entries;
            prepared.report.whiteouts += told.whiteouts;
            prepared.report.bytes += told.bytes;
        }
        prepared.report.layers.clone_from(&prepared.pushed);
        Ok(prepared)
    }

    fn prepare_one(
        &self,
        state: &State,
        unit: &Unit,
        policies: &Policies,
        busy: &BTreeSet<PathBuf>,
        all_since: &mut AllSince,
        prepared: &mut Prepared,
    ) -> Result<(), Failure> {
        let step = unit.name();
        if unit.layers.is_empty() {
            let quiet = unit
                .steps
                .iter()
                .map(|step| match &known_step(state, step) {
                    Ok(known) if known.layer.is_some() => {
                        format!("nothing that step '{step}' changed is to be merged")
                    }
                    _ => format!("step '{step}' changed nothing"),
                });
            prepared.report.notes.extend(quiet);
        }
        let mut ids = state.stack.clone();
        ids.extend(prepared.pushed.iter().cloned());
        // What changed nothing can be merged into anything, but then it cannot be compared.
        let left = !ids.starts_with(&unit.base);
        if left || ids == unit.base && (busy.is_empty() || unit.layers.is_empty()) {
            // Nobody changed anything since the step began: a merge of one is
            // the step itself.
            prepared.pushed.extend_from_slice(&unit.layers);
            return Ok(());
        }
        let stage = self.stack_of(&ids)?;
        let mut since = all_since.take(unit.base.len());
        self.read_since(&mut since, &stage, &ids)?;
        let stage_scan = std::mem::take(&mut since.scan);
        let layers = self.layers_for(unit, &stage_scan, all_since.known())?;
        let did = (unit.base.as_slice(), layers);
        let sides = self.sides(step, did, &ids, stage_scan, all_since.known())?;
        let inputs = Inputs {
            stage: &sides.stage_scan.delta,
            step: &sides.step_scan.delta,
            step_name: step,
            busy,
            policies,
        };
        let mut outcome: Outcome = classify(&inputs, &mut &sides)?;
        for step in &unit.steps {
            let known = known_step(state, step)?;
            let began_on = self.stack_of(&known.base_stack)?.into();
            let mut seen = sides.seen_on(&began_on);
            let reads = self.reads_of(step, known);
            let sights = sides.sights(reads.as_deref(), step, policies);
            if policies.is_strict() {
                read_write(&mut outcome, &sights, &mut seen)?;
            } else {
                prepared.report.races.extend(races(&sights, &mut seen)?);
                prepared.report.notes.extend(unknown(step, &sights));
            }
        }
        prepared.pushed.extend_from_slice(layers);
        prepared.report.conflicts.extend(outcome.conflicts);
        match outcome.plan {
            // The steps after it are still compared, for the report.
            None => prepared.undecided = true,
            Some(plan) if !prepared.undecided && !layers.is_empty() => {
                let (below, _) = self.scans(step, &sides.stage, layers)?;
                let below = below.into();
                if let Some(id) = self.make_join(step, &plan, &sides, &below)? {
                    prepared.pushed.push(id.clone());
                    prepared.report.join_layers.push(id);
                }
            }
            _ => {}
        }
        since.scan = sides.stage_scan;
        all_since.put(unit.base.len(), since);
        Ok(())
    }

    /// Makes the join layer of a step, if it needs one.
    fn make_join(
        &self,
        step: &str,
        plan: &JoinPlan,
        sides: &Sides,
        below: &CachedStack,
    ) -> Result<Option<String>> {
        let renamed = Renamed::of(sides, plan)?;
        let suspects = Suspects::find(sides, plan, &renamed)?;
        if plan.is_empty() && suspects.is_empty() {
            return Ok(None);
        }
        failpoint::hit("merge-before-join");
        let id = self.state.lock().new_layer_id(&format!("join-{step}"));
        // Not a name that a layer can have, so a start sweeps it.
        let path = self.layers_dir().join(format!(".{id}"));
        let mapped = self.options().mapped;
        let make = || -> Result<bool> {
            std::fs::create_dir_all(&path)?;
            let mut join = Join::new(OpenLayer::open(&path)?, below, sides, (&self.inos, &mapped));
            join.carry_out(plan, &renamed)?;
            numbers::settle(&mut join, plan, suspects)?;
            if join.open().is_clean()? {
                return Ok(false);
            }
            seal(join.open(), below, &self.layers_dir(), &id, JOIN, now())?;
            Ok(true)
        };
        let made = make();
        if !matches!(made, Ok(true)) {
            let _ = at::remove_all(nix::fcntl::AT_FDCWD, &path);
        }
        Ok(made?.then_some(id))
    }

    /// Removes join layers that were made for nothing.
    pub(super) fn drop_layers(&self, ids: &[String]) {
        for id in ids {
            self.layers.lock().remove(id);
            let path = self.layers_dir().join(id);
            if let Err(error) = at::remove_all(nix::fcntl::AT_FDCWD, &path) {
                log::warn!("{}: {error}", path.display());
            }
        }
    }
}

/// A sentence where it cannot be told whether a step saw what others changed.
fn unknown(step: &str, sights: &Sights<'_>) -> Option<String> {
    let why = match sights.reads {
        _ if sights.stage.is_empty() => return None,
        None => "is not known any more",
        Some(reads) if reads.is_partial() => "is too much to be kept",
        Some(_) => return None,
    };
    Some(format!(
        "what step '{step}' read {why}: whether others have changed it since cannot be told"
    ))
}

/// Whether these steps can be merged in one go.
fn check_order(state: &State, steps: &[String]) -> Result<(), Failure> {
    if steps.is_empty() {
        return Err(Failure::Usage("no step to merge was named".to_owned()));
    }
    let mut seen = BTreeSet::new();
    for step in steps {
        if !seen.insert(step) {
            return Err(Failure::Usage(format!("step '{step}' is named twice")));
        }
        known_step(state, step)?;
    }
    units(state, steps).map(drop)
}
