//! Background steps: they live in the stage view, and end with the stage.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use parking_lot::Mutex;

use super::asking::millis;
use super::lane::Lane;
use super::left_out::why_skipped;
use super::report::{Result as RowResult, Row};
use super::scope::Scope;
use super::script;
use super::step::Printed;
use super::walk::{Driver, new_row};
use super::worker::{Answer, Order, Worker};
use crate::control::Ended;
use crate::stagefile::{Status, Step, When};
use crate::sys::process::Process;

/// How long a worker may take to end what the kernel has to end.
const LEEWAY: Duration = Duration::from_secs(10);

/// When a command has ended, and how, or why nobody knows.
type End = (Instant, Result<Ended, String>);

/// A background step that was started.
#[derive(Debug)]
pub struct Running {
    step: String,
    started: Instant,
    /// Nothing more is written there: then the worker ends what it has started.
    socket: UnixStream,
    process: Process,
    /// Nothing while its command runs.
    ended: Arc<Mutex<Option<End>>>,
    /// The worker has ended.
    over: Receiver<()>,
    printed: Printed,
}

impl<'a> Driver<'a> {
    /// Starts a background step; it runs on.
    pub(super) fn background(&self, step: &'a Step, scope: &Scope<'a>, lane: &mut Lane) {
        let mut row = new_row(step, scope);
        let scope = scope.step(step);
        let context = scope.context(lane).enter_step(step);
        let runs = When::holds(step.when.as_ref(), lane.failed, &context);
        let prepared = runs.and_then(|runs| {
            let prepared = runs.then(|| {
                let command = script::words(step, &context)?;
                Ok((command, self.env(&scope, &context)?))
            });
            prepared.transpose()
        });
        let status = match prepared {
            Err(problem) => {
                row.background = false;
                self.no_value(&mut row, &problem);
                Status::Failed
            }
            Ok(None) => {
                why_skipped(step.when.as_ref(), lane.failed).clone_into(&mut row.why);
                Status::Skipped
            }
            Ok(Some((command, env))) => self.start(step, &mut row, command, env),
        };
        lane.failed |= status == Status::Failed;
        lane.context.ended(&row.path, status);
        lane.rows.push(row);
    }

    fn start(
        &self,
        step: &Step,
        row: &mut Row,
        command: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Status {
        let order = Order {
            state_dir: self.asking.state_dir.clone(),
            label: self.asking.label.clone(),
            step: row.step.clone(),
            background: true,
            command,
            env,
            user: step.run_as_user,
            timeout_ms: None,
            grace_ms: millis(self.setting.grace),
            outputs: false,
        };
        match self.started(&order, row) {
            Ok(running) => {
                self.background.lock().push(running);
                row.result = RowResult::Ran;
                row.attempts = 1;
                Status::Succeeded
            }
            Err(error) => {
                row.background = false;
                row.result = RowResult::Failed;
                row.why = error.to_string();
                self.printer.say(&row.why);
                Status::Failed
            }
        }
    }

    fn started(&self, order: &Order, row: &Row) -> crate::error::Result<Running> {
        let (mut worker, output) = Worker::start(order, true)?;
        let (socket, process) = (worker.socket()?, worker.process()?);
        let printed = self.print(row.path.as_str(), output);
        let ended: Arc<Mutex<Option<End>>> = Arc::default();
        let (sender, over) = channel();
        let (told, printer, step) = (ended.clone(), self.printer.clone(), row.step.clone());
        std::thread::spawn(move || {
            let end = match worker.answer() {
                Some(Answer::Ended { ended, .. }) => Ok(ended),
                Some(Answer::Failed { message, .. }) => {
                    printer.say(&format!("step '{step}': {message}"));
                    Err(message)
                }
                None => Err("its command line was killed".to_owned()),
            };
            *told.lock() = Some((Instant::now(), end));
            worker.wait();
            drop(sender);
        });
        Ok(Running {
            step: row.step.clone(),
            started: Instant::now(),
            socket,
            process,
            ended,
            over,
            printed,
        })
    }

    /// Ends all background steps, and writes into their rows what became of them.
    pub(super) fn end_background(&self, rows: &mut [Row]) {
        let running = std::mem::take(&mut *self.background.lock());
        // What has ended by now has ended by itself.
        let early: Vec<Option<End>> = running.iter().map(|one| one.ended.lock().clone()).collect();
        for one in &running {
            let _ = one.socket.shutdown(Shutdown::Write);
        }
        let until = Instant::now() + self.setting.grace + LEEWAY;
        for (one, early) in running.into_iter().zip(early) {
            let left = until.saturating_duration_since(Instant::now());
            if one.over.recv_timeout(left) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = one.process.signal(Signal::SIGKILL);
            }
            one.printed.wait();
            let Some(row) = rows.iter_mut().find(|row| row.step == one.step) else {
                continue;
            };
            let at = early.as_ref().map_or_else(Instant::now, |(at, _)| *at);
            row.seconds = at.duration_since(one.started).as_secs_f64();
            match early.map(|(_, end)| end) {
                None => {}
                Some(Ok(ended)) => {
                    row.exit_code = Some(ended.exit_code);
                    row.why = format!("it ended before the stage, exit code {}", ended.exit_code);
                    row.result = match ended.success() {
                        true => RowResult::Succeeded,
                        false => RowResult::Failed,
                    };
                }
                Some(Err(why)) => {
                    row.why = why;
                    row.result = RowResult::Failed;
                }
            }
        }
    }
}
