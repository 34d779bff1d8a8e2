//! What does not run: because it is skipped, because the stage ends, or because an expression on
//! which it depends has no value.

use super::lane::Lane;
use super::report::Result as RowResult;
use super::scope::Scope;
use super::walk::{Driver, new_row};
use crate::stagefile::{
    FailureKind, Instance, Node, Problem, Status, Step, When, WhenStatus, decide,
};

impl<'a> Driver<'a> {
    /// Leaves out a step, or a group or `parallel` with all that is in it; the scope is that
    /// around it.
    pub(super) fn skip(
        &self,
        node: &'a Node,
        scope: &Scope<'a>,
        lane: &mut Lane,
        result: RowResult,
        why: &str,
    ) {
        each_own(node, scope, &mut |node, scope| {
            self.leave_out(node, scope, lane, result, why);
        });
    }

    /// Leaves out a step, or a group with all that is in it; the scope is its own.
    pub(super) fn leave_out(
        &self,
        node: &'a Node,
        scope: &Scope<'a>,
        lane: &mut Lane,
        result: RowResult,
        why: &str,
    ) {
        let status = match result {
            RowResult::Skipped => Status::Skipped,
            RowResult::Failed => Status::Failed,
            _ => Status::Aborted,
        };
        lane.context.ended(&scope.path, status);
        match node {
            Node::Step(step) => {
                let mut row = new_row(step, scope);
                row.result = result;
                why.clone_into(&mut row.why);
                lane.rows.push(row);
            }
            Node::Group(group) => {
                let inner = scope.group(group);
                for node in &group.body {
                    self.skip(node, &inner, lane, result, why);
                }
            }
            Node::Parallel(_) => self.skip(node, scope, lane, result, why),
        }
    }

    /// Its strategy does not say how often it runs. That does not matter if its `when` says
    /// that it does not run; the scope is that of one run without a strategy.
    pub(super) fn unknown(
        &self,
        node: &'a Node,
        scope: &Scope<'a>,
        lane: &mut Lane,
        problem: &Problem,
    ) {
        let (when, context) = match node {
            Node::Step(step) => (&step.when, scope.context(lane).enter_step(step)),
            Node::Group(group) => (&group.when, scope.group(group).context(lane)),
            Node::Parallel(_) => return self.fail_node(node, scope, lane, problem),
        };
        if When::excludes_all(when.as_ref(), lane.failed, &context) {
            let why = why_skipped(when.as_ref(), lane.failed);
            self.leave_out(node, scope, lane, RowResult::Skipped, why);
        } else {
            self.fail_node(node, scope, lane, problem);
        }
    }

    /// An expression of a group or of a strategy has no value; the scope is its own. Failure
    /// strategies decide, as about any failure; to try again would change nothing.
    pub(super) fn fail_node(
        &self,
        node: &'a Node,
        scope: &Scope<'a>,
        lane: &mut Lane,
        problem: &Problem,
    ) {
        let first = lane.rows.len();
        let why = problem.in_file(&self.setting.file);
        self.printer.say(&why);
        let inside = match node {
            Node::Step(step) => scope.step(step),
            Node::Group(group) => scope.group(group),
            Node::Parallel(_) => scope.clone(),
        };
        let decision = decide(&inside.failure, FailureKind::Command, u32::MAX);
        let (result, status) = self.decided(decision, &scope.path.step_name());
        self.leave_out(node, scope, lane, RowResult::Failed, &why);
        for row in &mut lane.rows[first..] {
            row.result = result;
            // It is none that ran: it counts.
            row.background = false;
            lane.context.ended(&row.path, status);
        }
        lane.context.ended(&scope.path, status);
        lane.failed |= status == Status::Failed;
    }
}

/// Why something does not run whose `when` says so.
pub(super) fn why_skipped(when: Option<&When>, failed: bool) -> &'static str {
    match when.map(|when| when.status).unwrap_or_default() {
        WhenStatus::Success if failed => "a step failed before",
        WhenStatus::Failure if !failed => "no step failed before",
        _ => "its condition",
    }
}

/// The step or group that a node is, or those that are at once in it, each with its own scope,
/// and once whatever its strategy.
fn each_own<'a>(node: &'a Node, scope: &Scope<'a>, see: &mut dyn FnMut(&'a Node, &Scope<'a>)) {
    match node {
        Node::Step(step) => see(node, &scope.instance(&step.identifier, Instance::single())),
        Node::Group(group) => see(node, &scope.instance(&group.identifier, Instance::single())),
        Node::Parallel(parallel) => {
            for node in &parallel.members {
                each_own(node, scope, see);
            }
        }
    }
}

/// The steps in nodes, in order, each once whatever its strategy.
pub(super) fn each_step<'a>(
    nodes: &'a [Node],
    scope: &Scope<'a>,
    see: &mut dyn FnMut(&'a Step, &Scope<'a>),
) {
    for node in nodes {
        each_own(node, scope, &mut |node, scope| match node {
            Node::Step(step) => see(step, scope),
            Node::Group(group) => each_step(&group.body, scope, see),
            Node::Parallel(_) => {}
        });
    }
}
