//! Goes through the steps of a stage.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

use super::asking::{Asking, Refused};
use super::background::Running;
use super::halt::{Gate, Halt, Why};
use super::lane::Lane;
use super::left_out::{each_step, why_skipped};
use super::output::{Printer, Stream};
use super::report::{Layer, Report, Result as RowResult, Row};
use super::scope::Scope;
use super::together::{Member, Scopes};
use crate::control::Request;
use crate::merge::Race;
use crate::stagefile::{
    Group, Instance, Node, Problem, Stage, Status, Step, StepKind, When, expand,
};

/// How a stage is driven.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where the stage's state lies.
    pub state_dir: PathBuf,
    /// What messages call the stage.
    pub label: String,
    /// The file, as messages call it.
    pub file: String,
    /// How long what is told to end has until it is killed.
    pub grace: Duration,
    /// Where the output of steps goes.
    pub stream: Stream,
    /// Says a sentence to the user.
    pub tell: fn(&str),
}

/// A stage that is being driven.
pub(super) struct Driver<'a> {
    pub stage: &'a Stage,
    pub setting: &'a Setting,
    pub asking: Asking,
    pub printer: Arc<Printer>,
    pub halt: Arc<Halt>,
    pub background: Mutex<Vec<Running>>,
    /// What steps saw that others changed meanwhile, of the merges so far.
    races: Mutex<Vec<Race>>,
    trouble: Mutex<Option<Refused>>,
}

/// Runs a stage that is mounted, to its end. What runs when `halt` is told to is ended, and
/// nothing of it is merged.
///
/// # Errors
/// What kept it from being begun.
pub fn run(stage: &Stage, setting: &Setting, halt: Arc<Halt>) -> Result<Report, Refused> {
    halt.begun();
    let asking = Asking::new(
        setting.state_dir.clone(),
        setting.label.clone(),
        setting.tell,
    );
    let mut names = Vec::new();
    each_step(&stage.body, &Scope::of(stage), &mut |_, scope| {
        names.push(scope.path.as_str().to_owned());
    });
    let driver = Driver {
        stage,
        setting,
        asking,
        printer: Arc::new(Printer::new(
            setting.stream,
            names.iter().map(String::as_str),
        )),
        halt,
        background: Mutex::default(),
        races: Mutex::default(),
        trouble: Mutex::default(),
    };
    driver.check_names(&names)?;
    let mut lane = Lane::new(stage.context());
    if let Some(timeout) = stage.timeout {
        driver.halt.after(timeout);
    }
    driver.body(&mut lane);
    driver.halt.done();
    driver.end_background(&mut lane.rows);
    // A strategy may run over a secret.
    for row in &mut lane.rows {
        row.name = driver.printer.masked(&row.name);
        row.label = driver.printer.masked(&row.label);
    }
    let trouble = driver.trouble.lock().take();
    let timed_out = (driver.halt.why() == Some(Why::TimedOut)).then(|| {
        let timeout = humantime::format_duration(stage.timeout.unwrap_or_default());
        format!("the stage took longer than {timeout}")
    });
    let mut report = Report {
        name: stage.name.clone(),
        succeeded: false,
        signal: None,
        code: trouble.as_ref().map_or(0, |refused| refused.code),
        error: trouble.map(|refused| refused.message).or(timed_out),
        steps: lane.rows,
        races: std::mem::take(&mut *driver.races.lock()),
    };
    report.conclude(driver.halt.why());
    Ok(report)
}

impl<'a> Driver<'a> {
    /// Sees that no step of an earlier run has one of these names: before anything is run,
    /// rather than in the middle.
    fn check_names(&self, names: &[String]) -> Result<(), Refused> {
        let (_, steps) = self.asking.ask(&Request::StepList { reads: false })?;
        let steps = steps.as_array().into_iter().flatten();
        let mut known =
            steps.filter_map(|step| Some((step["name"].as_str()?, step["state"].as_str()?)));
        let taken = known.find(|(name, _)| {
            let plain = without_numbers(name);
            names.iter().any(|own| own == name || *own == plain)
        });
        let Some((name, state)) = taken else {
            return Ok(());
        };
        Err(Refused {
            code: 1,
            message: format!(
                "step '{name}' is there already ({state}), of an earlier run: `harness-fs step merge {name}` or \
                 `step discard {name}` makes way"
            ),
            data: Value::Null,
        })
    }

    /// Notes what a merge has told of what its steps had seen.
    pub(super) fn raced(&self, merged: &Value) {
        let races = serde_json::from_value::<Vec<Race>>(merged["races"].clone());
        self.races.lock().extend(races.unwrap_or_default());
    }

    fn body(&self, lane: &mut Lane) {
        let scope = Scope::of(self.stage);
        for value in self.stage.secrets() {
            self.printer.hide(&value);
        }
        match When::holds(self.stage.when.as_ref(), false, &lane.context) {
            Ok(true) => self.nodes(&self.stage.body, &scope, lane),
            Ok(false) => {
                for node in &self.stage.body {
                    self.skip(
                        node,
                        &scope,
                        lane,
                        RowResult::Skipped,
                        "the stage's condition",
                    );
                }
            }
            Err(problem) => self.give_up(self.refused(&problem)),
        }
    }

    pub(super) fn nodes(&self, nodes: &'a [Node], scope: &Scope<'a>, lane: &mut Lane) {
        for node in nodes {
            if self.halt.why().is_some() {
                self.skip(node, scope, lane, RowResult::Aborted, "not begun");
                continue;
            }
            let members = self.members(node, scope, lane);
            self.together(members, lane);
        }
    }

    /// The steps and groups that run at once: one, if it is neither `parallel` nor has a
    /// strategy.
    fn members(&self, node: &'a Node, scope: &Scope<'a>, lane: &Lane) -> Vec<Member<'a>> {
        let (identifier, strategy) = match node {
            Node::Parallel(parallel) => {
                let members = parallel.members.iter();
                return members
                    .flat_map(|node| self.members(node, scope, lane))
                    .collect();
            }
            Node::Step(step) => (&step.identifier, &step.strategy),
            Node::Group(group) => (&group.identifier, &group.strategy),
        };
        let expansion = match expand(strategy.as_ref(), &scope.context(lane)) {
            Ok(expansion) => expansion,
            // What runs at the same time has nothing to do with it.
            Err(problem) => {
                let scope = scope.instance(identifier, Instance::single());
                return vec![Member {
                    node,
                    scopes: Scopes::Unknown(problem, scope),
                    gate: Gate::new(1),
                }];
            }
        };
        let gate = Gate::new(expansion.max_concurrency);
        let scopes = expansion.instances.into_iter();
        let scopes = scopes.map(|instance: Instance| scope.instance(identifier, instance));
        let member = |scopes: Vec<Scope<'a>>| Member {
            node,
            scopes: Scopes::Known(scopes),
            gate: gate.clone(),
        };
        match expansion.max_concurrency {
            // Nothing runs at once: each finds what the one before has left.
            1 => vec![member(scopes.collect())],
            _ => scopes.map(|scope| member(vec![scope])).collect(),
        }
    }

    /// Runs one step or group to its end; the scope is its own.
    pub(super) fn member(&self, node: &'a Node, scope: &Scope<'a>, lane: &mut Lane) {
        match node {
            Node::Step(step) if step.kind == StepKind::Background => {
                self.background(step, scope, lane);
            }
            Node::Step(step) => self.step(step, scope, lane),
            Node::Group(group) => self.group(group, node, scope, lane),
            Node::Parallel(_) => self.nodes(std::slice::from_ref(node), scope, lane),
        }
    }

    fn group(&self, group: &'a Group, node: &'a Node, scope: &Scope<'a>, lane: &mut Lane) {
        let path = scope.path.clone();
        let inner = scope.group(group);
        let runs = When::holds(group.when.as_ref(), lane.failed, &inner.context(lane));
        match runs {
            Ok(true) => {}
            Ok(false) => {
                let why = why_skipped(group.when.as_ref(), lane.failed);
                return self.leave_out(node, scope, lane, RowResult::Skipped, why);
            }
            Err(problem) => return self.fail_node(node, scope, lane, &problem),
        }
        let first = lane.rows.len();
        self.nodes(&group.body, &inner, lane);
        let rows = &lane.rows[first..];
        let any = |result| {
            rows.iter()
                .any(|row| !row.background && row.result == result)
        };
        let status = if any(RowResult::Aborted) {
            Status::Aborted
        } else if any(RowResult::Failed) {
            Status::Failed
        } else if any(RowResult::Ignored) {
            Status::IgnoreFailed
        } else {
            Status::Succeeded
        };
        lane.context.ended(&path, status);
    }

    /// harness-fs itself has failed: nothing more is begun.
    pub(super) fn give_up(&self, refused: Refused) {
        self.trouble.lock().get_or_insert(refused);
        self.halt.halt(Why::Failed);
    }

    pub(super) fn refused(&self, problem: &Problem) -> Refused {
        Refused {
            code: 1,
            message: problem.in_file(&self.setting.file),
            data: Value::Null,
        }
    }
}

/// The name of a step, without what the instances of strategies have at their ends.
fn without_numbers(name: &str) -> String {
    let plain = |part: &str| {
        let mut part = part;
        while let Some((rest, number)) = part.rsplit_once('_')
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            part = rest;
        }
        part.to_owned()
    };
    name.split('.').map(plain).collect::<Vec<_>>().join(".")
}

/// A row of a step of which nothing is known yet.
pub(super) fn new_row(step: &Step, scope: &Scope<'_>) -> Row {
    Row {
        step: scope.path.step_name(),
        path: scope.path.clone(),
        name: scope.name(&step.name),
        label: scope.label(),
        background: step.kind == StepKind::Background,
        result: RowResult::Skipped,
        why: String::new(),
        exit_code: None,
        timed_out: false,
        attempts: 0,
        seconds: 0.0,
        layer: Layer::None,
        changed: None,
        bytes: None,
        conflicts: Vec::new(),
        notes: Vec::new(),
    }
}

/// What would run, a line for each step, group and `parallel`.
pub fn outline(stage: &Stage) -> String {
    let mut text = format!("stage {}\n", stage.name);
    outline_of(&stage.body, 1, &mut text);
    text
}

fn outline_of(nodes: &[Node], depth: usize, text: &mut String) {
    let lead = "  ".repeat(depth);
    let with = |strategy: bool, when: bool| {
        let mut with = String::new();
        if strategy {
            with.push_str(", several times at once");
        }
        if when {
            with.push_str(", if its condition holds");
        }
        with
    };
    for node in nodes {
        match node {
            Node::Step(step) => {
                let kind = match step.kind {
                    StepKind::Run => "step",
                    StepKind::Background => "background step",
                };
                let with = with(step.strategy.is_some(), step.when.is_some());
                text.push_str(&format!("{lead}{kind} {}{with}\n", step.identifier));
            }
            Node::Group(group) => {
                let with = with(group.strategy.is_some(), group.when.is_some());
                text.push_str(&format!("{lead}group {}{with}\n", group.identifier));
                outline_of(&group.body, depth + 1, text);
            }
            Node::Parallel(parallel) => {
                text.push_str(&format!("{lead}at once, merged in this order\n"));
                outline_of(&parallel.members, depth + 1, text);
            }
        }
    }
}
