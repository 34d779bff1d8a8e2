//! Steps that a client runs: begun for its command, and brought to their end with it.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::abort::end_members;
use super::open_steps::Run;
use super::queue::Turn;
use super::render;
use super::requests::{Requests, refusal};
use super::steps::in_turn;
use crate::control::{Connection, Ended, OnFailure, Outcome, Reply, RunRequest, StepResult};
use crate::error::Error;
use crate::stage::survivors;
use crate::stage::{
    Beginning, ConflictReport, Failure, GroupState, IfOneFails, MemberOutcome, MergeReport,
    Overrides, Stage,
};

/// A view for a command that the client runs; when it has ended, or the client
/// is gone, the step comes to its end.
pub fn run(
    requests: &Requests,
    mut run: RunRequest,
    connection: &mut Connection,
) -> Result<Reply, Failure> {
    let steps = &requests.steps;
    let _untold = steps.untold();
    // Also before a wait that would be for nothing.
    check_group(&*requests.stage_to_enter()?, &mut run.clone())?;
    let beginning = Beginning {
        private: run.private.clone(),
        ..Beginning::default()
    };
    let turn = in_turn(requests, &run.step, &beginning, connection)?;
    let over;
    let (alarmed, alarm) = std::io::pipe().map_err(Error::from)?;
    let (view, others, cost) = {
        let stage = requests.stage_to_enter()?;
        over = check_group(&stage, &mut run)?;
        let (view, cost) = stage.begin_with(&run.step, &beginning)?;
        let others = steps.beside(&run.step, run.group.as_ref());
        let known = Run {
            group: run.group.clone(),
            keep: run.on_failure == OnFailure::Keep,
            alarm: Some(alarm),
        };
        // While the stage is lent, or its end would not see the step.
        steps.add(&run.step, view.mount.clone(), Some(known));
        if is_aborted(&stage, run.group.as_deref()) {
            // Between its beginning and now: nobody else has ended it.
            steps.alarm(&run.step);
        }
        (view, others, cost)
    };
    let mount = view.mount.clone();
    let entered = Reply::Entered {
        view,
        others,
        note: cost.map_or_else(String::new, |cost| render::seal_cost(&cost)),
    };
    let grace = Duration::from_millis(run.grace_ms);
    let ended = connection.ended_or_alarmed(&entered, &alarmed, &mut || match survivors::end(
        std::slice::from_ref(&mount),
        grace,
    ) {
        Ok(ended) if ended.is_empty() => {}
        Ok(_) => log::info!("step '{}': ended with its group", run.step),
        Err(error) => log::warn!("step '{}': {error}", run.step),
    });
    if ended.is_none() {
        log::warn!("step '{}': its command line is gone", run.step);
    }
    let result = finish(requests, &run, ended, turn, &mount, connection);
    let open = requests.stage().and_then(|stage| stage.view_of(&run.step));
    match open {
        Ok(_) => steps.left_open(&run.step),
        Err(_) => steps.remove(&run.step),
    }
    let reply = match result {
        Ok(mut result) => {
            if let Some(group) = over {
                let step = &run.step;
                let note = format!("group '{group}' had ended; step '{step}' was run by itself\n");
                result.text.insert_str(0, &note);
            }
            Reply::StepDone(result)
        }
        Err(failure) => refusal(&left_open(requests, &run.step, failure)),
    };
    // Here, since the end of the stage waits for it.
    connection.answer(&reply)?;
    Ok(Reply::done())
}

/// Checks that a step can be run in its group, or in none. Returns the group if that
/// has ended: then the step is run by itself.
fn check_group(stage: &Stage, run: &mut RunRequest) -> Result<Option<String>, Failure> {
    let is_over = |group: &mut String| stage.group_is_over(group, &run.step);
    let over = run.group.take_if(is_over);
    match &run.group {
        Some(group) => stage.check_member(group, &run.step)?,
        None => stage.check_no_member(&run.step)?,
    }
    Ok(over)
}

/// A step that could not be brought to its end, on a full disk above all, is
/// still there, and so is what it wrote.
fn left_open(requests: &Requests, step: &str, failure: Failure) -> Failure {
    let steps = requests.stage().map(|stage| stage.steps());
    let there = steps.is_ok_and(|steps| steps.iter().any(|known| known.name == step));
    match failure {
        Failure::Failed(error) if there => {
            let text = format!(
                "step '{step}' has ended but could not be put away: {error}; once that is mended, \
                 `step merge {step}` or `step discard {step}` does it"
            );
            Error::new(error.errno(), text).into()
        }
        other => other,
    }
}

fn finish(
    requests: &Requests,
    run: &RunRequest,
    ended: Option<Ended>,
    turn: Option<Turn<'_>>,
    mount: &Path,
    connection: &Connection,
) -> Result<StepResult, Failure> {
    let grace = Duration::from_millis(run.grace_ms);
    let views = [mount.to_path_buf()];
    let survivors = match ended {
        Some(_) => survivors::end_until(&views, grace, connection.as_fd()),
        None => survivors::end(&views, grace),
    };
    // What it did at locked paths is done. Others need not wait for a merge, nor
    // for the rest of its group, which may be waiting for them.
    drop(turn);
    // Who has gone away meanwhile, or given up, is not told of a merge.
    let ended = ended.filter(|_| !connection.given_up());
    let exit = ended
        .as_ref()
        .map_or(125, |ended| i32::from(ended.exit_code));
    // The end of the stage has ended its command, most likely.
    let unmounted = requests.is_ending();
    let ended = ended.filter(|ended| ended.success() || !unmounted);
    let ended = ended.as_ref();
    let stage = requests.stage()?;
    let mut end = RunEnd {
        requests,
        stage: &stage,
        run,
        // Which may have been declared, or removed, while it ran.
        group: stage.group_of(&run.step).or_else(|| run.group.clone()),
        exit,
        result: StepResult {
            outcome: Outcome::Failed,
            text: String::new(),
            conflicts: Value::Array(Vec::new()),
            survivors: Vec::new(),
            layer: None,
            waiting_for: Vec::new(),
            races: Vec::new(),
        },
    };
    match survivors {
        Ok(survivors) => end.result.survivors = survivors,
        Err(error) => {
            // What they still write must not be merged. Sealing takes the view
            // from them, and what there is can be looked at.
            end.failed(OnFailure::Keep, &error.to_string())?;
            return Ok(end.result);
        }
    }
    if is_aborted(&stage, end.group.as_deref()) {
        end.aborted()?;
        return Ok(end.result);
    }
    match ended {
        Some(ended) if ended.success() => {
            stage.complete_files_of(std::slice::from_ref(&run.step));
            end.succeeded(None)?;
        }
        Some(ended) if !ended.started => {
            end.failed(OnFailure::Discard, "its command could not be started")?;
        }
        Some(ended) => end.failed(run.on_failure, &reason(ended))?,
        // What was cut off is neither a success nor a failure that somebody
        // expected: it may be looked at, but it is not merged.
        None if unmounted => end.unmounted(cut_off(run.on_failure))?,
        None => end.failed(cut_off(run.on_failure), "its command line was ended")?,
    }
    Ok(end.result)
}

fn is_aborted(stage: &Stage, group: Option<&str>) -> bool {
    group.is_some_and(|group| stage.aborted_group(group).is_some())
}

/// What becomes of a step of which the command was cut off.
fn cut_off(on_failure: OnFailure) -> OnFailure {
    match on_failure {
        OnFailure::Keep => OnFailure::Keep,
        OnFailure::Discard | OnFailure::Merge => OnFailure::Discard,
    }
}

/// Why a step failed, in a few words.
fn reason(ended: &Ended) -> String {
    match ended {
        ended if ended.timed_out => "it took too long".to_owned(),
        Ended {
            signal: Some(signal),
            ..
        } => format!("ended by signal {signal}"),
        ended => format!("exit code {}", ended.exit_code),
    }
}

/// The end of a step that was run.
struct RunEnd<'a> {
    requests: &'a Requests,
    stage: &'a Stage,
    run: &'a RunRequest,
    group: Option<String>,
    exit: i32,
    result: StepResult,
}

impl RunEnd<'_> {
    /// Merges it, alone or with its group; a step that failed is merged with
    /// what is said of failures.
    fn succeeded(&mut self, failed: Option<OnFailure>) -> Result<(), Failure> {
        let step = &self.run.step;
        let merged = match self.group.clone() {
            None => {
                let overrides = self.overrides();
                self.stage.merge_succeeded(step, overrides).map(Some)
            }
            Some(group) => self.member_ended(&group, failed),
        };
        match merged {
            Ok(Some(report)) if !report.steps.contains(step) => {
                // Not possible any more; others of its group may be merged.
                self.result.outcome = Outcome::Kept;
                self.add(&render::merged(&report));
                self.result.conflicts = json!(report.conflicts);
                self.result.races = report.races;
                self.layer();
            }
            Ok(Some(report)) => {
                self.result.outcome = Outcome::Merged;
                self.result.layer = report.layers.first().cloned();
                self.add(&render::merged(&report));
                self.result.conflicts = json!(report.conflicts);
                self.result.races = report.races;
            }
            Ok(None) if is_aborted(self.stage, self.group.as_deref()) => {
                // After it was looked at for that.
                self.result.outcome = Outcome::Aborted;
            }
            Ok(None) => {
                self.result.outcome = Outcome::WaitingForGroup;
                self.layer();
            }
            Err(Failure::Conflict(report)) => {
                self.result.outcome = Outcome::Conflict;
                self.conflict(&report);
                self.layer();
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Does with it what is to be done with failures.
    fn failed(&mut self, on_failure: OnFailure, reason: &str) -> Result<(), Failure> {
        let step = &self.run.step;
        if on_failure == OnFailure::Merge {
            return self.succeeded(Some(on_failure));
        }
        self.put_aside(on_failure, &format!("the step failed ({reason})"), reason)?;
        if let Some(group) = self.group.clone() {
            match self.member_ended(&group, Some(on_failure)) {
                Ok(Some(report)) => {
                    self.add(&render::merged(&report));
                    self.result.conflicts = json!(report.conflicts);
                    self.result.races = report.races;
                }
                Ok(None) => {}
                Err(Failure::Conflict(report)) => self.conflict(&report),
                Err(failure) => return Err(failure),
            }
        } else if on_failure == OnFailure::Discard {
            self.stage.discard(step)?;
        }
        self.layer();
        Ok(())
    }

    /// Says what becomes of what it changed, and keeps that if it is to be kept.
    fn put_aside(
        &mut self,
        on_failure: OnFailure,
        what: &str,
        reason: &str,
    ) -> Result<(), Failure> {
        let step = &self.run.step;
        if on_failure != OnFailure::Keep {
            self.result.outcome = Outcome::Discarded;
            self.add(&format!("{what}; its changes are discarded"));
            return Ok(());
        }
        self.result.outcome = Outcome::Kept;
        self.add(&format!(
            "{what}; the stage is unchanged and the step's changes are kept: \
             `harness-fs diff {step}` lists them, `step merge {step}` or `step discard {step}` decides"
        ));
        self.stage.record_exit(step, self.exit)?;
        let notes = self.stage.keep(step, reason)?;
        notes.iter().for_each(|note| self.add(note));
        Ok(())
    }

    /// Ends it with its group, whatever its command has done.
    fn aborted(&mut self) -> Result<(), Failure> {
        let group = self.group.clone().unwrap_or_default();
        let why = self.stage.aborted_group(&group).unwrap_or_default();
        let on_failure = cut_off(self.run.on_failure);
        let what = format!("the step is ended, as its group '{group}' was aborted ({why})");
        self.put_aside(on_failure, &what, "its group was aborted")?;
        self.member_ended(&group, Some(on_failure))?;
        self.result.outcome = Outcome::Aborted;
        self.layer();
        Ok(())
    }

    /// Puts it away with the stage. A group that is not to be merged without it goes
    /// on waiting for it.
    fn unmounted(&mut self, on_failure: OnFailure) -> Result<(), Failure> {
        let reason = "the stage was unmounted";
        let groups = self.stage.status().groups;
        let group = self.group.as_ref().and_then(|group| groups.get(group));
        if group.is_none_or(|group| group.if_one_fails == IfOneFails::MergeOthers) {
            return self.failed(on_failure, reason);
        }
        self.put_aside(on_failure, &format!("the step failed ({reason})"), reason)?;
        if on_failure != OnFailure::Keep {
            self.stage.discard_cut_off(&self.run.step)?;
        }
        self.layer();
        Ok(())
    }

    /// Tells the group; the last member to end gets the merge of all.
    fn member_ended(
        &mut self,
        group: &str,
        failed: Option<OnFailure>,
    ) -> Result<Option<MergeReport>, Failure> {
        let outcome = match failed {
            None => MemberOutcome::Succeeded,
            Some(on_failure) => MemberOutcome::Failed {
                exit: self.exit,
                on_failure: on_failure.into(),
            },
        };
        let overrides = self.overrides();
        let before = self.stage.status().groups.remove(group);
        let merged = self
            .stage
            .group_member_ended(group, &self.run.step, outcome, overrides)?;
        let Some(known) = self.stage.status().groups.remove(group) else {
            return Ok(merged);
        };
        if known.aborted.is_none() && merged.is_none() {
            self.result.waiting_for = known.waits_for();
            self.add(&render::group_waits(group, &known));
        }
        if let Some(before) = before.filter(|before| before.aborted.is_none())
            && known.aborted.is_some()
        {
            self.abort(group, &before)?;
        }
        Ok(merged)
    }

    /// Ends the others of a group that this one has failed.
    fn abort(&mut self, group: &str, before: &GroupState) -> Result<(), Failure> {
        let succeeded = before.ended.iter();
        let succeeded = succeeded.filter(|(_, ended)| **ended == crate::stage::MemberEnded::Merge);
        let succeeded: Vec<String> = succeeded.map(|(member, _)| member.clone()).collect();
        let ended = end_members(self.requests, self.stage, group)?;
        self.add(&render::aborted(group, &ended, &succeeded));
        Ok(())
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            on_conflict: self.run.on_conflict,
            keep_both_as: self.run.keep_both_as.clone(),
            only: Vec::new(),
            strict: self.run.strict,
        }
    }

    fn conflict(&mut self, report: &ConflictReport) {
        self.add(&render::conflict(report));
        self.result.conflicts = json!(report.conflicts);
    }

    /// Looks up the step's layer, if it still has one.
    fn layer(&mut self) {
        let steps = self.stage.steps();
        let mut known = steps
            .into_iter()
            .filter(|known| known.name == self.run.step);
        self.result.layer = known.next().and_then(|known| known.layer);
    }

    fn add(&mut self, text: &str) {
        if !self.result.text.is_empty() && !text.is_empty() {
            self.result.text.push('\n');
        }
        self.result.text.push_str(text.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short() {
        let ended = |exit_code, signal, timed_out| Ended {
            started: true,
            exit_code,
            signal,
            timed_out,
        };
        assert_eq!(reason(&ended(3, None, false)), "exit code 3");
        assert_eq!(reason(&ended(137, Some(9), false)), "ended by signal 9");
        assert_eq!(reason(&ended(143, Some(15), true)), "it took too long");
    }
}
