//! Runs one step: in a view of its own, as often as its failure strategies say.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::asking::{Refused, millis};
use super::halt::Why;
use super::lane::{Lane, Part};
use super::left_out::why_skipped;
use super::report::{Layer, Result as RowResult, Row};
use super::scope::Scope;
use super::script;
use super::together::list;
use super::walk::{Driver, new_row};
use super::worker::{Answer, Order, Worker};
use crate::control::{Ended, OfOne, Request};
use crate::stagefile::{
    Context, Decision, FailedLayer, FailureKind, Problem, Status, Step, When, decide,
};

/// How long the last lines of a step are waited for whose pipe somebody outside of the step
/// still holds.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How long they usually take at most.
const USUAL: Duration = Duration::from_millis(100);

/// What the daemon answers about a step that is not there.
const NO_SUCH_STEP: u8 = 3;

/// What a step runs, with every expression replaced.
struct Prepared {
    command: Vec<String>,
    env: Vec<(String, String)>,
}

/// How one attempt ended.
struct Attempt {
    ended: Ended,
    outputs: Vec<(String, String)>,
    output: Printed,
}

/// Tells when all that a step has printed is printed.
#[derive(Debug)]
pub(super) struct Printed(Receiver<()>);

impl Printed {
    /// Waits for that, as long as [`LAST_LINES`].
    pub fn wait(self) {
        self.wait_for(LAST_LINES);
    }

    /// Waits for that, or for so long: who has ended may have left others that print.
    fn wait_for(&self, time: Duration) {
        // The sender is dropped at the end, nothing is sent.
        let ended = self.0.recv_timeout(time);
        debug_assert!(ended.is_err());
    }
}

impl<'a> Driver<'a> {
    pub(super) fn step(&self, step: &'a Step, scope: &Scope<'a>, lane: &mut Lane) {
        let mut row = new_row(step, scope);
        if self.halt.why().is_some() {
            row.result = RowResult::Aborted;
            "not begun".clone_into(&mut row.why);
            lane.context.ended(&row.path, Status::Aborted);
            lane.rows.push(row);
            return;
        }
        let scope = scope.step(step);
        let context = scope.context(lane).enter_step(step);
        let runs = When::holds(step.when.as_ref(), lane.failed, &context);
        let prepared = runs.and_then(|runs| {
            let prepared = runs.then(|| self.prepare(step, &scope, &context));
            prepared.transpose()
        });
        let status = match prepared {
            Err(problem) => {
                self.no_value(&mut row, &problem);
                // Its value will be the same another time.
                let decision = decide(&scope.failure, FailureKind::Command, u32::MAX);
                self.final_failure(decision, &mut row)
            }
            Ok(None) => {
                why_skipped(step.when.as_ref(), lane.failed).clone_into(&mut row.why);
                Status::Skipped
            }
            Ok(Some(prepared)) => {
                let started = Instant::now();
                let status = self.attempts(step, &prepared, &scope, &mut row, lane);
                row.seconds = started.elapsed().as_secs_f64();
                status
            }
        };
        lane.failed |= status == Status::Failed;
        lane.context.ended(&row.path, status);
        lane.rows.push(row);
    }

    pub(super) fn no_value(&self, row: &mut Row, problem: &Problem) {
        row.result = RowResult::Failed;
        row.why = problem.in_file(&self.setting.file);
        self.printer.say(&row.why);
    }

    fn prepare(
        &self,
        step: &'a Step,
        scope: &Scope<'a>,
        context: &Context,
    ) -> Result<Prepared, Problem> {
        Ok(Prepared {
            command: script::words(step, context)?,
            env: self.env(scope, context)?,
        })
    }

    /// The variables of a step, the later before the earlier.
    pub(super) fn env(
        &self,
        scope: &Scope<'a>,
        context: &Context,
    ) -> Result<Vec<(String, String)>, Problem> {
        let mut env = Vec::new();
        for variable in scope.env.iter().copied().flatten() {
            let value = variable.value.evaluate(context)?;
            if variable.secret {
                self.printer.hide(&value);
            }
            let what = format!("the variable {}", variable.name);
            let length = variable.name.len() + 1 + value.len();
            script::fits(&what, length, variable.value.place)?;
            env.push((variable.name.clone(), value));
        }
        env.extend(scope.node_env.iter().cloned());
        Ok(env)
    }

    /// Runs it until it succeeds, or until its failure is final.
    fn attempts(
        &self,
        step: &'a Step,
        prepared: &Prepared,
        scope: &Scope<'a>,
        row: &mut Row,
        lane: &mut Lane,
    ) -> Status {
        let name = row.step.clone();
        let begun = self.asking.begin(&name, &lane.from(), &self.halt);
        if self.halt.why().is_some() {
            return self.cut_off(row, &name);
        }
        if let Err(refused) = begun {
            return self.lost(row, refused);
        }
        let mut retries = 0;
        loop {
            row.attempts += 1;
            let attempt = match self.attempt(step, prepared, row, &name) {
                Ok(attempt) => attempt,
                Err(refused) => return self.lost(row, refused),
            };
            row.exit_code = Some(attempt.ended.exit_code);
            row.timed_out = attempt.ended.timed_out;
            if self.halt.why().is_some() {
                return self.cut_off(row, &name);
            }
            let mut met_conflict = false;
            if attempt.ended.success() {
                match self.bring_in(step, scope, row, lane, &[]) {
                    Ok(()) => {
                        attempt.output.wait();
                        self.take_outputs(step, row, attempt.outputs, lane);
                        row.result = RowResult::Succeeded;
                        return Status::Succeeded;
                    }
                    Err(refused) if refused.code == 4 => {
                        self.printer.say(&refused.message);
                        row.layer = Layer::Conflict;
                        row.conflicts = list(&refused.data, "conflicts");
                        "a conflict in its merge".clone_into(&mut row.why);
                        met_conflict = true;
                    }
                    Err(refused) => return self.lost(row, refused),
                }
            } else {
                row.why = reason(&attempt.ended, step.timeout);
                self.printer
                    .say(&format!("step '{name}' failed: {}", row.why));
            }
            let kind = match attempt.ended.timed_out {
                true => FailureKind::Timeout,
                false => FailureKind::Command,
            };
            let decision = decide(&scope.failure, kind, retries);
            let Decision::Retry(pause) = decision else {
                let put_away = match met_conflict {
                    true => Ok(()),
                    false => self.put_away(step, scope, row, lane),
                };
                attempt.output.wait();
                return match put_away {
                    Ok(()) => self.final_failure(decision, row),
                    Err(refused) => self.lost(row, refused),
                };
            };
            retries += 1;
            self.printer.say(&format!(
                "step '{name}' is run again {}",
                match pause.is_zero() {
                    true => "now".to_owned(),
                    false => format!("in {}", humantime::format_duration(pause)),
                }
            ));
            self.halt.pause(pause);
            if self.halt.why().is_some() {
                return self.cut_off(row, &name);
            }
            if let Err(refused) = self.begin_again(&name, lane) {
                return self.lost(row, refused);
            }
            row.layer = Layer::None;
            row.conflicts.clear();
            attempt.output.wait();
        }
    }

    /// On the stage as it is now, in which background steps may have written since; one of
    /// those that run at once where all of them began.
    fn begin_again(&self, name: &str, lane: &Lane) -> Result<(), Refused> {
        if lane.branch.is_none() {
            self.asking.discard(name, self.setting.grace)?;
            return self.asking.begin(name, &lane.from(), &self.halt);
        }
        let request = Request::StepReset {
            step: name.to_owned(),
            grace_ms: millis(self.setting.grace),
        };
        self.asking.ask(&request).map(drop)
    }

    /// Runs the command once.
    fn attempt(
        &self,
        step: &Step,
        prepared: &Prepared,
        row: &Row,
        name: &str,
    ) -> Result<Attempt, Refused> {
        let order = Order {
            state_dir: self.asking.state_dir.clone(),
            label: self.asking.label.clone(),
            step: name.to_owned(),
            background: false,
            command: prepared.command.clone(),
            env: prepared.env.clone(),
            user: step.run_as_user,
            timeout_ms: step.timeout.map(millis),
            grace_ms: millis(self.setting.grace),
            outputs: !step.output_variables.is_empty(),
        };
        let failed = |message: String| Refused {
            code: 1,
            message,
            data: Value::Null,
        };
        let started = Worker::start(&order, false);
        let (mut worker, output) = started.map_err(|error| failed(error.to_string()))?;
        let process = worker
            .process()
            .map_err(|error| failed(error.to_string()))?;
        let ending = self.halt.watch(process);
        let output = self.print(row.path.as_str(), output);
        let answer = worker.answer();
        worker.wait();
        drop(ending);
        // What is said about the step comes after what it has said itself.
        output.wait_for(USUAL);
        match answer {
            Some(Answer::Ended { ended, outputs }) => Ok(Attempt {
                ended,
                outputs,
                output,
            }),
            Some(Answer::Failed { code, message }) => Err(Refused {
                code,
                ..failed(format!("step '{name}': {message}"))
            }),
            // Killed, since it did not end in time.
            None => Ok(Attempt {
                ended: Ended {
                    started: true,
                    exit_code: 137,
                    signal: Some(9),
                    timed_out: false,
                },
                outputs: Vec::new(),
                output,
            }),
        }
    }

    /// Prints what comes out of a pipe, from a thread of its own.
    pub(super) fn print(&self, name: &str, from: std::io::PipeReader) -> Printed {
        let (sender, receiver) = channel();
        let (printer, name) = (self.printer.clone(), name.to_owned());
        std::thread::spawn(move || {
            printer.pump(&name, from);
            drop(sender);
        });
        Printed(receiver)
    }

    /// Merges what a step did, or seals it if it waits for others; of some patterns, if there
    /// are any, only what they match.
    fn bring_in(
        &self,
        step: &Step,
        scope: &Scope<'a>,
        row: &mut Row,
        lane: &mut Lane,
        only: &[String],
    ) -> Result<(), Refused> {
        let name = row.step.clone();
        let on_conflict = step.on_conflict.or(self.stage.workspace.on_conflict);
        let grace_ms = millis(self.setting.grace);
        let request = match &lane.branch {
            Some(_) => Request::StepSeal {
                step: name.clone(),
                only: only.to_vec(),
                grace_ms,
            },
            None => {
                let of_one = OfOne {
                    on_conflict,
                    only: only.to_vec(),
                };
                Request::StepMerge {
                    steps: vec![name.clone()],
                    on_conflict: None,
                    keep_both_as: self.stage.workspace.keep_both_as.clone(),
                    each: [(name.clone(), of_one)].into(),
                    strict: self.stage.workspace.strict.then_some(true),
                    grace_ms,
                }
            }
        };
        let brought = self.asking.ask(&request);
        if lane.branch.is_none() && !matches!(&brought, Err(refused) if refused.code != 4) {
            self.asking.untie(&name);
        }
        let (text, data) = brought.inspect_err(|refused| {
            if refused.code != 4 {
                row.layer = self.asking.what_is_left(&name);
            }
        })?;
        self.told(row, &data);
        self.raced(&data);
        if !row.conflicts.is_empty() {
            // How they were decided.
            self.printer.say(&text);
        }
        row.layer = match only {
            [] => Layer::Merged,
            _ => Layer::MergedInPart,
        };
        if let Some(branch) = &mut lane.branch {
            branch.parts.push(Part {
                step: name,
                on_conflict,
                // It cannot be run again by itself then: what the others did does not go away.
                not_merged: decide(&scope.failure, FailureKind::Command, u32::MAX),
            });
        }
        Ok(())
    }

    /// What the daemon tells of a layer.
    fn told(&self, row: &mut Row, data: &Value) {
        let count = |field: &str| data[field].as_u64();
        row.changed = count("entries").map(|entries| entries + count("whiteouts").unwrap_or(0));
        row.bytes = count("bytes");
        row.conflicts = list(data, "conflicts");
        for note in list(data, "notes") {
            let note = note.as_str().unwrap_or_default();
            // The table says so.
            if !note.ends_with("changed nothing") && !note.is_empty() {
                row.notes.push(note.to_owned());
            }
        }
        let left = list(data, "survivors");
        if !left.is_empty() {
            let names = left.iter().map(|left| {
                let killed = if left["killed"] == true {
                    ", killed"
                } else {
                    ""
                };
                format!(
                    "{} (pid {}{killed})",
                    left["name"].as_str().unwrap_or(""),
                    left["pid"]
                )
            });
            let names: Vec<String> = names.collect();
            row.notes.push(format!(
                "ended what it had left running: {}",
                names.join(", ")
            ));
        }
    }

    /// Does with a step that failed what is to be done with its changes.
    fn put_away(
        &self,
        step: &Step,
        scope: &Scope<'a>,
        row: &mut Row,
        lane: &mut Lane,
    ) -> Result<(), Refused> {
        let on_failure = step.on_failure.as_ref();
        match on_failure.unwrap_or(&self.stage.workspace.on_failure) {
            FailedLayer::Merge => self.merge_failed(step, scope, row, lane, &[]),
            FailedLayer::MergeMatching(only) => self.merge_failed(step, scope, row, lane, only),
            FailedLayer::Keep => {
                let request = Request::StepKeep {
                    step: row.step.clone(),
                    exit_code: row.exit_code,
                    grace_ms: millis(self.setting.grace),
                };
                let (_, data) = self.asking.ask(&request)?;
                self.asking.untie(&row.step);
                self.told(row, &data);
                row.layer = Layer::Kept;
                Ok(())
            }
            FailedLayer::Discard => {
                self.asking.discard(&row.step, self.setting.grace)?;
                row.layer = Layer::Discarded;
                Ok(())
            }
        }
    }

    fn merge_failed(
        &self,
        step: &Step,
        scope: &Scope<'a>,
        row: &mut Row,
        lane: &mut Lane,
        only: &[String],
    ) -> Result<(), Refused> {
        match self.bring_in(step, scope, row, lane, only) {
            Err(refused) if refused.code == 4 => {
                self.printer.say(&refused.message);
                row.layer = Layer::Conflict;
                row.conflicts = list(&refused.data, "conflicts");
                Ok(())
            }
            other => other,
        }
    }

    fn final_failure(&self, decision: Decision, row: &mut Row) -> Status {
        let (result, status) = self.decided(decision, &row.step);
        row.result = result;
        status
    }

    /// What a decision makes of the step or group with this name, and, if it is so decided, the
    /// end of the stage.
    pub(super) fn decided(&self, decision: Decision, name: &str) -> (RowResult, Status) {
        match decision {
            Decision::Ignore => (RowResult::Ignored, Status::IgnoreFailed),
            Decision::MarkAsSuccess => (RowResult::MarkedAsSuccess, Status::Succeeded),
            Decision::Fail | Decision::Retry(_) => (RowResult::Failed, Status::Failed),
            Decision::Abort => {
                self.printer.say(&format!(
                    "step '{name}' failed, which ends the stage (Abort)"
                ));
                self.halt.halt(Why::Aborted);
                (RowResult::Failed, Status::Failed)
            }
        }
    }

    /// The stage was ended while the step ran.
    fn cut_off(&self, row: &mut Row, name: &str) -> Status {
        if let Err(refused) = self.asking.discard(name, self.setting.grace) {
            // It may have been discarded already, or not have begun.
            if refused.code != NO_SUCH_STEP {
                self.give_up(refused);
            }
        }
        row.result = RowResult::Aborted;
        row.layer = Layer::Discarded;
        Status::Aborted
    }

    /// harness-fs itself could not go on with it.
    fn lost(&self, row: &mut Row, refused: Refused) -> Status {
        row.result = RowResult::Failed;
        row.why.clone_from(&refused.message);
        self.give_up(refused);
        Status::Failed
    }

    fn take_outputs(
        &self,
        step: &Step,
        row: &Row,
        outputs: Vec<(String, String)>,
        lane: &mut Lane,
    ) {
        for (name, value) in outputs {
            let mut declared = step.output_variables.iter();
            if declared.any(|variable| variable.name == name && variable.secret) {
                self.printer.hide(&value);
            }
            lane.context.output(&row.path, &name, &value);
        }
    }
}

/// Why a step failed, in a few words.
fn reason(ended: &Ended, timeout: Option<Duration>) -> String {
    match (ended, timeout) {
        (ended, Some(timeout)) if ended.timed_out => {
            format!(
                "it took longer than {}",
                humantime::format_duration(timeout)
            )
        }
        (Ended { started: false, .. }, _) => "its command could not be started".to_owned(),
        (
            Ended {
                signal: Some(signal),
                ..
            },
            _,
        ) => format!("ended by signal {signal}"),
        (ended, _) => format!("exit code {}", ended.exit_code),
    }
}
