//! When a stage ends before its last step: an `Abort`, or a signal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use parking_lot::{Condvar, Mutex};

use crate::error::Result;
use crate::sys::process::{self, Process};

/// Why a stage ends before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A failure strategy says so.
    Aborted,
    /// The stage's `timeout` is over.
    TimedOut,
    /// A signal, such as that of ^C.
    Signal(i32),
    /// harness-fs itself failed.
    Failed,
}

/// Whether the stage goes on, and what is to be ended if it does not.
#[derive(Debug)]
pub struct Halt {
    state: Mutex<State>,
    changed: Condvar,
    grace: Duration,
}

#[derive(Debug, Default)]
struct State {
    why: Option<Why>,
    /// Once what runs has had its time.
    over: bool,
    /// There is something to end in order.
    begun: bool,
    /// The last step has ended.
    done: bool,
    next: u64,
    running: BTreeMap<u64, Process>,
}

/// A process that is ended when the stage is.
#[derive(Debug)]
pub struct Ending<'a>(&'a Halt, u64);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running.remove(&self.1);
        self.0.changed.notify_all();
    }
}

impl Halt {
    /// Nothing has happened yet. What is ended has so long to do so by itself.
    pub fn new(grace: Duration) -> Arc<Halt> {
        Arc::new(Halt {
            state: Mutex::default(),
            changed: Condvar::new(),
            grace,
        })
    }

    /// Why the stage ends, if it does.
    pub fn why(&self) -> Option<Why> {
        self.state.lock().why
    }

    /// From here on a second signal kills what runs, and not this process.
    pub fn begun(&self) {
        self.state.lock().begun = true;
    }

    /// From here on nothing ends the stage before its end.
    pub fn done(&self) {
        self.state.lock().done = true;
    }

    /// Ends what runs: tells it to, and kills it after the grace, or when this is called once
    /// more for a signal.
    pub fn halt(self: &Arc<Halt>, why: Why) {
        self.halt_unless_told(why, false);
    }

    /// The same; `told`: those that run have had the signal already.
    fn halt_unless_told(self: &Arc<Halt>, why: Why, told: bool) {
        let mut state = self.state.lock();
        if state.why.is_some() || state.done {
            if let Why::Signal(number) = why {
                if !state.begun {
                    // Something keeps the stage from being mounted. Its daemon gives up
                    // when nobody waits for it any more.
                    std::process::exit(128 + number);
                }
                state.over = true;
                each(&state.running, Signal::SIGKILL);
            }
            return;
        }
        state.why = Some(why);
        let signal = match why {
            Why::Signal(number) => Signal::try_from(number).unwrap_or(Signal::SIGTERM),
            Why::Aborted | Why::TimedOut | Why::Failed => Signal::SIGTERM,
        };
        if !told {
            each(&state.running, signal);
        }
        self.changed.notify_all();
        drop(state);
        let this = self.clone();
        std::thread::spawn(move || {
            let until = Instant::now() + this.grace;
            let mut state = this.state.lock();
            while !state.running.is_empty() {
                if this.changed.wait_until(&mut state, until).timed_out() {
                    break;
                }
            }
            state.over = true;
            each(&state.running, Signal::SIGKILL);
        });
    }

    /// Has a process ended with the stage, at once if that is ending.
    pub fn watch(&self, process: Process) -> Ending<'_> {
        let mut state = self.state.lock();
        if state.why.is_some() {
            let signal = match state.over {
                true => Signal::SIGKILL,
                false => Signal::SIGTERM,
            };
            let _ = process.signal(signal);
        }
        let number = state.next;
        state.next += 1;
        state.running.insert(number, process);
        Ending(self, number)
    }

    /// Waits so long, or until the stage ends.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while state.why.is_none() && !self.changed.wait_until(&mut state, until).timed_out() {}
    }

    /// Ends the stage after this time, if it has not ended before.
    pub fn after(self: &Arc<Halt>, time: Duration) {
        let this = self.clone();
        std::thread::spawn(move || {
            this.pause(time);
            this.halt(Why::TimedOut);
        });
    }

    /// Takes signals to this process from here on, in all threads that are started later. The
    /// signal is passed on. `SIGTERM` ends the stage always, those of a terminal unless this
    /// process was started to ignore them.
    ///
    /// # Errors
    /// As pthread_sigmask(3) and signalfd(2).
    pub fn on_signals(self: &Arc<Halt>) -> Result<()> {
        let mut signals = process::heeded(&[Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let held = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
        let this = self.clone();
        std::thread::spawn(move || {
            while let Ok(Some(info)) = held.read_signal() {
                let number = i32::try_from(info.ssi_signo).unwrap_or(libc::SIGTERM);
                // The kernel sends what keys mean to all in the terminal's foreground
                // (sigaction(2), `SI_KERNEL`).
                let key = matches!(number, libc::SIGINT | libc::SIGQUIT);
                let told = key && info.ssi_code == libc::SI_KERNEL;
                this.halt_unless_told(Why::Signal(number), told);
            }
        });
        Ok(())
    }
}

fn each(running: &BTreeMap<u64, Process>, signal: Signal) {
    for process in running.values() {
        // It may have ended just now.
        let _ = process.signal(signal);
    }
}

/// So many at a time.
#[derive(Debug)]
pub struct Gate {
    free: Mutex<usize>,
    changed: Condvar,
}

/// One of those.
#[derive(Debug)]
pub struct Place<'a>(&'a Gate);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.changed.notify_one();
    }
}

impl Gate {
    /// For so many.
    pub fn new(places: usize) -> Arc<Gate> {
        Arc::new(Gate {
            free: Mutex::new(places),
            changed: Condvar::new(),
        })
    }

    /// Waits for a place.
    pub fn enter(&self) -> Place<'_> {
        let mut free = self.free.lock();
        self.changed.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Place(self)
    }
}
