//! Whose turn it is: the steps that have locked paths, and those that wait for them.
//!
//! A step waits until it can have all of its locked paths at once, and holds none
//! meanwhile, so no two wait for each other. Who came first goes first.

use std::collections::BTreeMap;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use parking_lot::Mutex;
use serde::Serialize;

use crate::error::{Context, Error, Result};
use crate::tree::shown;

/// The locked paths of a stage.
#[derive(Debug, Default)]
pub struct Queue(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    holders: BTreeMap<String, Holder>,
    /// In the order in which they came.
    waiting: Vec<Waiter>,
    /// Counts those that came.
    came: u64,
    /// The stage is ending, so nobody gets a turn any more.
    closed: bool,
}

#[derive(Debug)]
struct Holder {
    paths: Vec<PathBuf>,
    /// How many have it by this name: commands of one step share its turn.
    count: usize,
    /// It is over when the step has come to its end.
    kept: bool,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    name: String,
    paths: Vec<PathBuf>,
    since: u64,
    /// Gets a byte when its turn has come; without one, none will come.
    wake: PipeWriter,
}

/// Whether others of the same name may have the turn too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// No: a step begins.
    One,
    /// Yes: a command in a step.
    Any,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    queue: &'a Queue,
    name: String,
}

impl Turn<'_> {
    /// Leaves the turn to the step, until [`Queue::forget`].
    pub fn keep(self) {
        if let Some(holder) = self.queue.0.lock().holders.get_mut(&self.name) {
            holder.kept = true;
            holder.count += 1;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.0.lock().give_back(&self.name);
    }
}

/// A step that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The step.
    pub name: String,
    /// Since when, in seconds since the epoch.
    pub since: u64,
    /// What it waits for.
    pub waits_for: Vec<Before>,
}

/// A locked path, and the step that has it, or waits for it and came first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Before {
    /// The path.
    #[serde(serialize_with = "shown::serialize")]
    pub path: PathBuf,
    /// The step.
    pub step: String,
}

impl Line {
    /// Whether nobody is before the waiter at this place in the line.
    fn is_free(&self, place: usize) -> bool {
        self.before(place).is_empty()
    }

    fn before(&self, place: usize) -> Vec<Before> {
        let waiter = &self.waiting[place];
        let first = |path: &PathBuf| {
            let mut holders = self.holders.iter();
            let mut earlier = self.waiting[..place].iter();
            let step = match holders.find(|(_, holder)| holder.paths.contains(path)) {
                // A command of the step that has the turn.
                Some((name, _)) if *name == waiter.name => return None,
                Some((name, _)) => name,
                None => &earlier.find(|other| other.paths.contains(path))?.name,
            };
            Some(Before {
                path: path.clone(),
                step: step.clone(),
            })
        };
        waiter.paths.iter().filter_map(first).collect()
    }

    fn give_back(&mut self, name: &str) {
        if let Some(holder) = self.holders.get_mut(name) {
            holder.count -= 1;
            if holder.count == 0 {
                self.holders.remove(name);
                self.go_on();
            }
        }
    }

    /// Gives turns to all that nobody is before any more.
    fn go_on(&mut self) {
        let mut place = 0;
        while place < self.waiting.len() {
            if !self.is_free(place) {
                place += 1;
                continue;
            }
            let mut waiter = self.waiting.remove(place);
            // The pipe is empty and its other end open: nothing can be in the way.
            if waiter.wake.write_all(&[1]).is_ok() {
                let holder = self.holders.entry(waiter.name).or_insert(Holder {
                    paths: waiter.paths,
                    count: 0,
                    kept: false,
                });
                holder.count += 1;
            }
        }
    }
}

impl Queue {
    /// Waits until the step has all of these paths; `None` at once if there are
    /// none. Waits no longer when something can be read at `over`.
    ///
    /// # Errors
    /// `EALREADY` if another step of this name has a turn or waits for one,
    /// `ECANCELED` when it is over, `ESHUTDOWN` when the stage is ending, or as
    /// pipe(2).
    pub fn enter(
        &self,
        name: &str,
        paths: Vec<PathBuf>,
        by: By,
        over: BorrowedFd<'_>,
    ) -> Result<Option<Turn<'_>>> {
        if paths.is_empty() {
            return Ok(None);
        }
        let (number, mut woken) = self.line_up(name, paths, by)?;
        let mut polled = [
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(over, PollFlags::POLLIN),
        ];
        while nix::poll::poll(&mut polled, PollTimeout::NONE) == Err(Errno::EINTR) {}
        let over = polled[1].any() != Some(false);
        self.leave_the_line(number);
        let turn = match woken.read(&mut [0])? {
            0 => None,
            _ => Some(Turn {
                queue: self,
                name: name.to_owned(),
            }),
        };
        if over {
            // A turn that came just now goes to the next.
            let text = "the command that asked for it is gone";
            return Err(Error::new(Errno::ECANCELED, text));
        }
        turn.map(Some).ok_or_else(ending)
    }

    /// Takes a waiter out of the line who is still in it: no turn comes any more.
    fn leave_the_line(&self, number: u64) {
        let mut line = self.0.lock();
        let mut waiting = line.waiting.iter();
        if let Some(place) = waiting.position(|waiter| waiter.number == number) {
            line.waiting.remove(place);
            line.go_on();
        }
    }

    /// Puts the step at the end of the line. What is returned can be read when its
    /// turn has come, or none will come.
    fn line_up(&self, name: &str, paths: Vec<PathBuf>, by: By) -> Result<(u64, PipeReader)> {
        let mut line = self.0.lock();
        if line.closed {
            return Err(ending());
        }
        let waits = line.waiting.iter().any(|waiter| waiter.name == name);
        if by == By::One && (waits || line.holders.contains_key(name)) {
            let text = format!("step '{name}' is being begun by another command already");
            return Err(Error::new(Errno::EALREADY, text));
        }
        let (woken, wake) = std::io::pipe().context(|| "pipe")?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        line.came += 1;
        let number = line.came;
        line.waiting.push(Waiter {
            number,
            name: name.to_owned(),
            paths,
            since: since.map_or(0, |since| since.as_secs()),
            wake,
        });
        line.go_on();
        Ok((number, woken))
    }

    /// The turn that was left to a step is over.
    pub fn forget(&self, name: &str) {
        let mut line = self.0.lock();
        if let Some(holder) = line.holders.get_mut(name)
            && std::mem::take(&mut holder.kept)
        {
            line.give_back(name);
        }
    }

    /// Sends all away who wait, and lets nobody in.
    pub fn close(&self) {
        let mut line = self.0.lock();
        line.closed = true;
        line.waiting.clear();
    }

    /// Lets steps in again.
    pub fn open(&self) {
        self.0.lock().closed = false;
    }

    /// Who waits, in order.
    pub fn waiting(&self) -> Vec<Waiting> {
        let line = self.0.lock();
        let waiting = line.waiting.iter().enumerate();
        let waiting = waiting.map(|(place, waiter)| Waiting {
            name: waiter.name.clone(),
            since: waiter.since,
            waits_for: line.before(place),
        });
        waiting.collect()
    }
}

fn ending() -> Error {
    Error::new(Errno::ESHUTDOWN, "the stage is being unmounted")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    /// Takes a turn in another thread, which says when it has it or why not, and
    /// gives it back when the sender is dropped.
    struct Step {
        entered: Receiver<Result<()>>,
        over: Option<PipeWriter>,
        thread: std::thread::JoinHandle<()>,
    }

    fn step(queue: &Arc<Queue>, name: &'static str, wants: &[&str]) -> Step {
        let (queue, wants) = (queue.clone(), paths(wants));
        let before = queue.0.lock().came;
        let (say, entered) = channel();
        let (mut ended, over) = std::io::pipe().unwrap();
        let line = queue.clone();
        let thread =
            std::thread::spawn(
                move || match queue.enter(name, wants, By::One, ended.as_fd()) {
                    Ok(_turn) => {
                        say.send(Ok(())).unwrap();
                        let _ = ended.read(&mut [0]);
                    }
                    Err(error) => say.send(Err(error)).unwrap(),
                },
            );
        // The next one comes after it.
        while line.0.lock().came == before && !thread.is_finished() {
            std::thread::yield_now();
        }
        Step {
            entered,
            over: Some(over),
            thread,
        }
    }

    impl Step {
        fn has_entered(&self) {
            self.entered.recv_timeout(LIMIT).unwrap().unwrap();
        }

        fn end(mut self) {
            self.over.take();
            self.thread.join().unwrap();
        }
    }

    fn waiting(queue: &Queue) -> Vec<(String, Vec<(String, String)>)> {
        let waiting = queue.waiting().into_iter();
        let before = |one: &Before| (one.path.display().to_string(), one.step.clone());
        waiting
            .map(|one| (one.name, one.waits_for.iter().map(before).collect()))
            .collect()
    }

    #[test]
    fn who_came_first_goes_first_and_all_paths_are_had_at_once() {
        let queue = Arc::new(Queue::default());
        let a = step(&queue, "a", &["/m2"]);
        a.has_entered();
        let both = step(&queue, "both", &["/m2", "/npm"]);
        let npm = step(&queue, "npm", &["/npm"]);
        let other = step(&queue, "other", &["/gradle"]);
        other.has_entered();
        let pair = |path: &str, step: &str| (path.to_owned(), step.to_owned());
        let expected = [
            ("both".to_owned(), vec![pair("/m2", "a")]),
            ("npm".to_owned(), vec![pair("/npm", "both")]),
        ];
        assert_eq!(waiting(&queue), expected);
        a.end();
        both.has_entered();
        let expected = [("npm".to_owned(), vec![pair("/npm", "both")])];
        assert_eq!(waiting(&queue), expected);
        both.end();
        npm.has_entered();
        npm.end();
        other.end();
        assert!(queue.0.lock().holders.is_empty());
    }

    #[test]
    fn who_goes_away_makes_way() {
        let queue = Arc::new(Queue::default());
        let a = step(&queue, "a", &["/m2"]);
        a.has_entered();
        let gone = step(&queue, "gone", &["/m2", "/npm"]);
        let npm = step(&queue, "npm", &["/npm"]);
        let entered = gone.entered.recv_timeout(Duration::from_millis(1));
        assert!(entered.is_err(), "it has to wait");
        gone.end();
        npm.has_entered();
        assert_eq!(waiting(&queue), []);
        // Also who is gone when its turn comes.
        let (over, _) = std::io::pipe().unwrap();
        let late = queue.enter("late", paths(&["/gradle"]), By::One, over.as_fd());
        assert_eq!(late.unwrap_err().errno(), Errno::ECANCELED);
        assert!(!queue.0.lock().holders.contains_key("late"));
        npm.end();
        a.end();
    }

    #[test]
    fn a_step_that_was_begun_has_its_turn_until_it_ends_and_its_commands_share_it() {
        let queue = Arc::new(Queue::default());
        let (never, _open) = std::io::pipe().unwrap();
        let enter = |name, by| queue.enter(name, paths(&["/m2"]), by, never.as_fd());
        enter("begun", By::One).unwrap().unwrap().keep();
        let twice = enter("begun", By::One).unwrap_err();
        assert_eq!(twice.errno(), Errno::EALREADY);
        let next = step(&queue, "next", &["/m2"]);
        assert_eq!(waiting(&queue).len(), 1);
        let command = enter("begun", By::Any).unwrap();
        queue.forget("next");
        queue.forget("begun");
        queue.forget("begun");
        assert_eq!(waiting(&queue).len(), 1, "its command is left");
        drop(command);
        next.has_entered();
        next.end();
        assert!(enter("none", By::One).unwrap().is_some());
        assert!(
            queue
                .enter("free", Vec::new(), By::One, never.as_fd())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn the_end_of_the_stage_sends_all_away() {
        let queue = Arc::new(Queue::default());
        let a = step(&queue, "a", &["/m2"]);
        a.has_entered();
        let waits = step(&queue, "waits", &["/m2"]);
        queue.close();
        let error = waits.entered.recv_timeout(LIMIT).unwrap().unwrap_err();
        assert_eq!(error.errno(), Errno::ESHUTDOWN);
        waits.end();
        let late = step(&queue, "late", &["/npm"]);
        assert!(late.entered.recv_timeout(LIMIT).unwrap().is_err());
        late.end();
        queue.open();
        a.end();
        let again = step(&queue, "again", &["/m2"]);
        again.has_entered();
        again.end();
    }
}
