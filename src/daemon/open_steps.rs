//! Steps that have processes, and who runs in them.

use std::collections::BTreeMap;
use std::io::PipeWriter;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::stage::Failure;

/// The open steps that this daemon knows of.
#[derive(Debug, Default)]
pub struct Steps {
    open: Mutex<BTreeMap<String, Open>>,
    fewer: Condvar,
    /// How many `step run` have not been told yet what became of their step.
    runs: Mutex<usize>,
    all_told: Condvar,
}

/// What is known of a `step run`.
#[derive(Debug)]
pub struct Run {
    /// The group it named.
    pub group: Option<String>,
    /// Its step is kept if its command is cut off.
    pub keep: bool,
    /// Closed to have its command ended.
    pub alarm: Option<PipeWriter>,
}

/// A `step run`, until it has been told what became of its step.
#[derive(Debug)]
pub struct Untold<'a>(&'a Steps);

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        *self.0.runs.lock() -= 1;
        self.0.all_told.notify_all();
    }
}

#[derive(Debug)]
struct Open {
    view: PathBuf,
    /// A `step run` has it.
    run: Option<Run>,
    /// Commands of `step exec` that are running.
    execs: usize,
    /// The connection that it ends with.
    tie: Option<u64>,
}

impl Steps {
    /// The mount points of their views.
    pub fn views(&self) -> Vec<PathBuf> {
        let open = self.open.lock();
        open.values().map(|step| step.view.clone()).collect()
    }

    /// A `step run` has begun.
    pub fn untold(&self) -> Untold<'_> {
        *self.runs.lock() += 1;
        Untold(self)
    }

    /// Waits until every `step run` has been told what became of its step, or for
    /// so long.
    pub fn wait_for_runs(&self, limit: Duration) {
        let mut runs = self.runs.lock();
        let waits = |runs: &mut usize| *runs > 0;
        self.all_told.wait_while_for(&mut runs, waits, limit);
    }

    /// The steps that a `step run` still has, or that are tied to a connection, and
    /// that are not kept if they are cut off.
    pub fn cut_off(&self) -> Vec<String> {
        let open = self.open.lock();
        let dropped = |step: &Open| match &step.run {
            Some(run) => !run.keep,
            None => step.tie.is_some(),
        };
        let steps = open.iter().filter(|(_, step)| dropped(step));
        steps.map(|(name, _)| name.clone()).collect()
    }

    /// A step has a view now; `run` if a `step run` has it.
    pub fn add(&self, step: &str, view: PathBuf, run: Option<Run>) {
        let open = Open {
            view,
            run,
            execs: 0,
            tie: None,
        };
        self.open.lock().insert(step.to_owned(), open);
    }

    /// It ends with this connection from now on.
    pub fn tie(&self, step: &str, connection: u64) {
        if let Some(open) = self.open.lock().get_mut(step) {
            open.tie = Some(connection);
        }
    }

    /// The steps that end with this connection, and the mount points of their views.
    pub fn tied_to(&self, connection: u64) -> Vec<(String, PathBuf)> {
        let open = self.open.lock();
        let tied = open.iter().filter(|(_, step)| step.tie == Some(connection));
        tied.map(|(name, step)| (name.clone(), step.view.clone()))
            .collect()
    }

    /// It has no view any more.
    pub fn remove(&self, step: &str) {
        self.open.lock().remove(step);
        self.fewer.notify_all();
    }

    /// Has the command of a `step run` ended, by the thread that waits for it.
    /// Says whether there is one.
    pub fn alarm(&self, step: &str) -> bool {
        let mut open = self.open.lock();
        match open.get_mut(step).and_then(|open| open.run.as_mut()) {
            Some(run) => {
                run.alarm = None;
                true
            }
            None => false,
        }
    }

    /// Waits until no `step run` has one of these steps, or for so long. Says
    /// whether none has.
    pub fn wait_for(&self, steps: &[String], limit: Duration) -> bool {
        let mut open = self.open.lock();
        let any = |open: &mut BTreeMap<String, Open>| {
            let has = |step| open.get(step).is_some_and(|open| open.run.is_some());
            steps.iter().any(has)
        };
        self.fewer.wait_while_for(&mut open, any, limit);
        !any(&mut open)
    }

    /// Nobody runs the step any more, and it is still open: others may run
    /// commands in it, which end with it.
    pub fn left_open(&self, step: &str) {
        if let Some(open) = self.open.lock().get_mut(step) {
            open.run = None;
        }
        self.fewer.notify_all();
    }

    /// A command of `step exec` has begun (1) or ended (-1).
    pub fn count_exec(&self, step: &str, change: isize) {
        if let Some(open) = self.open.lock().get_mut(step) {
            open.execs = open.execs.saturating_add_signed(change);
        }
    }

    /// Other steps that run and are in no common group.
    pub fn beside(&self, step: &str, group: Option<&String>) -> Vec<String> {
        let open = self.open.lock();
        let apart = |run: &Option<Run>| match run {
            Some(other) => group.is_none() || other.group.as_ref() != group,
            None => false,
        };
        open.iter()
            .filter(|(name, other)| *name != step && apart(&other.run))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The view of a step whose command nobody is running; `None` if it has no
    /// view (any more).
    ///
    /// # Errors
    /// `EBUSY` if somebody is.
    pub fn idle(&self, step: &str, exec_too: bool) -> Result<Option<PathBuf>, Failure> {
        let open = self.open.lock();
        let Some(known) = open.get(step) else {
            return Ok(None);
        };
        if known.run.is_some() || (exec_too && known.execs > 0) {
            let text = format!("step '{step}' is still running");
            return Err(Error::new(Errno::EBUSY, text).into());
        }
        Ok(Some(known.view.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steps_that_race_are_beside() {
        let steps = Steps::default();
        let run = |group: Option<&str>, keep| Run {
            group: group.map(str::to_owned),
            keep,
            alarm: None,
        };
        steps.add("a", "/a".into(), Some(run(Some("g"), true)));
        steps.add("b", "/b".into(), Some(run(None, false)));
        steps.add("c", "/c".into(), None);
        let group = "g".to_owned();
        assert_eq!(steps.beside("x", Some(&group)), ["b"]);
        assert_eq!(steps.beside("b", None), ["a"]);
        assert_eq!(steps.beside("x", None), ["a", "b"]);
        assert_eq!(steps.idle("c", true).unwrap(), Some("/c".into()));
        assert_eq!(steps.cut_off(), ["b"]);
        assert!(steps.idle("b", true).is_err());
        assert_eq!(steps.idle("none", true).unwrap(), None);
        // Its end failed: what others start in it must be found.
        steps.left_open("b");
        assert_eq!(steps.idle("b", true).unwrap(), Some("/b".into()));
        assert_eq!(steps.beside("x", None), ["a"]);
        steps.remove("b");
        assert_eq!(steps.views().len(), 2);
        steps.tie("c", 7);
        assert_eq!(steps.tied_to(7), [("c".to_owned(), "/c".into())]);
        assert_eq!(steps.tied_to(8), []);
        assert_eq!(steps.cut_off(), ["c"]);
    }
}
