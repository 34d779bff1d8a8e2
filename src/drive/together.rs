//! Steps and groups that run at once, and are merged together when all have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::asking::{Origin, Refused, millis};
use super::halt::Gate;
use super::lane::{Lane, Part};
use super::report::{Layer, Result as RowResult};
use super::scope::Scope;
use super::walk::Driver;
use crate::control::{OfOne, Request};
use crate::stagefile::{Decision, Node, Problem, Status};

/// One of those that run at once.
pub struct Member<'a> {
    /// A step or a group.
    pub node: &'a Node,
    /// Its own.
    pub scopes: Scopes<'a>,
    /// How many of those with the same strategy run at a time.
    pub gate: Arc<Gate>,
}

/// How often a member runs.
pub enum Scopes<'a> {
    /// A scope for each run; several if they run one after the other.
    Known(Vec<Scope<'a>>),
    /// Its strategy cannot be expanded; the scope is that of one run without a strategy.
    Unknown(Problem, Scope<'a>),
}

impl<'a> Driver<'a> {
    /// Runs members at once. Inside of a member of others there is one view, and they run one
    /// after the other: without a conflict that comes to the same.
    pub(super) fn together(&self, members: Vec<Member<'a>>, lane: &mut Lane) {
        if members.len() == 1 || lane.branch.is_some() {
            for member in members {
                self.one_after_the_other(&member, lane);
            }
            return;
        }
        // No identifier holds a dash; another `stage run` may be at work on the stage.
        let anchor = &format!("parallel-start-{}", std::process::id());
        if let Err(refused) = self.asking.begin(anchor, &Origin::Marked, &self.halt) {
            return self.give_up(refused);
        }
        let begun: &Lane = lane;
        let run = |member: Member<'a>| {
            let mut own = begun.fork(anchor);
            let _place = member.gate.enter();
            self.one_after_the_other(&member, &mut own);
            own
        };
        let lanes: Vec<Lane> = std::thread::scope(|threads| {
            let started = members
                .into_iter()
                .map(|member| threads.spawn(|| run(member)));
            let started: Vec<_> = started.collect();
            let ended = started.into_iter().map(|thread| thread.join());
            ended
                .map(|lane| lane.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let first = lane.rows.len();
        let mut parts = Vec::new();
        for mut member in lanes {
            parts.extend(
                member
                    .branch
                    .take()
                    .map(|branch| branch.parts)
                    .unwrap_or_default(),
            );
            lane.join(member);
        }
        self.merge_all(&parts, first, lane);
        if let Err(refused) = self.asking.discard(anchor, self.setting.grace) {
            self.give_up(refused);
        }
    }

    fn one_after_the_other(&self, member: &Member<'a>, lane: &mut Lane) {
        match &member.scopes {
            Scopes::Known(scopes) => {
                for scope in scopes {
                    self.member(member.node, scope, lane);
                }
            }
            Scopes::Unknown(problem, scope) => self.unknown(member.node, scope, lane, problem),
        }
    }

    /// Merges what members have left, whose rows begin at `first`, or discards all of it if the
    /// stage has been ended.
    fn merge_all(&self, parts: &[Part], first: usize, lane: &mut Lane) {
        if parts.is_empty() {
            return;
        }
        if self.halt.why().is_some() {
            for part in parts {
                if let Err(refused) = self.asking.discard(&part.step, self.setting.grace) {
                    self.give_up(refused);
                }
                self.layer_of(part, first, lane, Layer::Discarded, &[]);
            }
            return;
        }
        let steps: Vec<String> = parts.iter().map(|part| part.step.clone()).collect();
        let mut each = BTreeMap::new();
        for part in parts {
            let of_one = OfOne {
                on_conflict: part.on_conflict.or(self.stage.workspace.on_conflict),
                only: Vec::new(),
            };
            each.insert(part.step.clone(), of_one);
        }
        let request = Request::StepMerge {
            steps,
            on_conflict: None,
            keep_both_as: self.stage.workspace.keep_both_as.clone(),
            each,
            strict: self.stage.workspace.strict.then_some(true),
            grace_ms: millis(self.setting.grace),
        };
        let merged = self.asking.ask(&request);
        for part in parts {
            self.asking.untie(&part.step);
        }
        match merged {
            Ok((text, data)) => {
                self.printer.say(&text);
                self.raced(&data);
                let conflicts = list(&data, "conflicts");
                for part in parts {
                    self.layer_of(part, first, lane, Layer::Merged, &conflicts);
                }
            }
            Err(refused) if refused.code == 4 => {
                self.conflict(parts, first, &refused, lane);
            }
            Err(refused) => {
                for part in parts {
                    let left = self.asking.what_is_left(&part.step);
                    self.layer_of(part, first, lane, left, &[]);
                    self.not_merged(
                        part,
                        first,
                        lane,
                        "the merge of all that ran at once failed",
                    );
                }
                self.give_up(refused);
            }
        }
    }

    /// Nobody has decided a conflict: none is merged, and all are kept.
    fn conflict(&self, parts: &[Part], first: usize, refused: &Refused, lane: &mut Lane) {
        self.printer.say(&refused.message);
        let conflicts = list(&refused.data, "conflicts");
        let mut aborted = false;
        for part in parts {
            self.layer_of(part, first, lane, Layer::Conflict, &conflicts);
            let why = "a conflict in the merge of all that ran at once";
            let decided = self.not_merged(part, first, lane, why);
            aborted |= decided && part.not_merged == Decision::Abort;
        }
        if aborted {
            self.halt.halt(super::Why::Aborted);
        }
    }

    /// Says what a part's steps come to that had succeeded, and now are not merged. Returns
    /// whether there are any: one that had failed before has had its decision.
    fn not_merged(&self, part: &Part, first: usize, lane: &mut Lane, why: &str) -> bool {
        let (result, status) = match part.not_merged {
            Decision::Ignore => (RowResult::Ignored, Status::IgnoreFailed),
            Decision::MarkAsSuccess => (RowResult::MarkedAsSuccess, Status::Succeeded),
            Decision::Fail | Decision::Abort | Decision::Retry(_) => {
                (RowResult::Failed, Status::Failed)
            }
        };
        let mut path = None;
        for row in lane
            .rows
            .iter_mut()
            .skip(first)
            .filter(|row| row.step == part.step && row.result == RowResult::Succeeded)
        {
            row.result = result;
            why.clone_into(&mut row.why);
            path = Some(row.path.clone());
        }
        let Some(path) = path else {
            return false;
        };
        lane.context.ended(&path, status);
        lane.failed |= status == Status::Failed;
        true
    }

    /// Says what became of a part's layer.
    fn layer_of(
        &self,
        part: &Part,
        first: usize,
        lane: &mut Lane,
        layer: Layer,
        conflicts: &[Value],
    ) {
        let own = |conflict: &&Value| conflict["step"]["writer"] == part.step.as_str();
        for row in lane
            .rows
            .iter_mut()
            .skip(first)
            .filter(|row| row.step == part.step)
        {
            row.layer = match (layer, row.layer) {
                (Layer::Merged, Layer::MergedInPart) => Layer::MergedInPart,
                (layer, _) => layer,
            };
            row.conflicts = conflicts.iter().filter(own).cloned().collect();
        }
    }
}

/// A list in what the daemon tells.
pub(super) fn list(data: &Value, field: &str) -> Vec<Value> {
    data[field].as_array().cloned().unwrap_or_default()
}
