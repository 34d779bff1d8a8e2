//! A thread that is pinned to a CPU and lets others go first there; and a second
//! one that sees to it that the first gets its turn back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getcpu};
use parking_lot::Mutex;

use crate::sys::scheduling::Thread;

/// How often the second thread looks. Each look may drive who is served to
/// another CPU, each wait for it holds up who is served next.
const TICK: Duration = Duration::from_millis(2);
/// After so many looks without an answer given, nobody asks any more.
const QUIET: u32 = 4;

/// The pinned thread, as both see it.
#[derive(Debug)]
struct Pinned {
    thread: Thread,
    /// Odd while the thread yields.
    beat: AtomicU64,
    /// It is pinned, and may yield.
    near: AtomicBool,
    /// The CPU that it is pinned to.
    cpu: AtomicUsize,
    /// Where it may run otherwise; `None` once it has ended, after which its
    /// number may be another's. Held while its CPUs or policy are changed by
    /// the second thread.
    usual: Mutex<Option<CpuSet>>,
}

/// What the first thread holds; dropped when that ends.
#[derive(Debug)]
pub(super) struct Turns {
    pinned: Arc<Pinned>,
    second: std::thread::Thread,
    yields: bool,
}

fn only(cpu: usize) -> nix::Result<CpuSet> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    Ok(only)
}

impl Turns {
    /// For the calling thread. Starts the second one.
    ///
    /// # Errors
    /// As pthread_create(3) and sched_getaffinity(2).
    pub fn of_this_thread() -> std::io::Result<Turns> {
        let thread = Thread::this();
        let pinned = Arc::new(Pinned {
            thread,
            beat: AtomicU64::new(0),
            near: AtomicBool::new(false),
            cpu: AtomicUsize::new(0),
            usual: Mutex::new(Some(thread.cpus()?)),
        });
        let seen = pinned.clone();
        let second = std::thread::Builder::new()
            .name("turns".into())
            .spawn(move || seen.watch())?;
        Ok(Turns {
            pinned,
            second: second.thread().clone(),
            yields: false,
        })
    }

    /// True while the thread is pinned.
    pub fn is_near(&self) -> bool {
        self.pinned.near.load(Ordering::SeqCst)
    }

    /// Pins the thread to a CPU.
    ///
    /// # Errors
    /// `EINVAL` if it may not run there.
    pub fn stay_on(&self, cpu: usize) -> nix::Result<()> {
        let near = self.is_near();
        if near && sched_getcpu()? == cpu {
            return Ok(());
        }
        let pinned = &*self.pinned;
        let mut usual = pinned.usual.lock();
        if !near || !pinned.is_where_it_was_put() {
            *usual = Some(pinned.thread.cpus()?);
        }
        if !usual
            .as_ref()
            .is_some_and(|usual| usual.is_set(cpu) == Ok(true))
        {
            return Err(Errno::EINVAL);
        }
        pinned.thread.run_on(&only(cpu)?)?;
        pinned.cpu.store(cpu, Ordering::SeqCst);
        pinned.near.store(true, Ordering::SeqCst);
        drop(usual);
        self.second.unpark();
        Ok(())
    }

    /// Lets the thread run where it may.
    pub fn roam(&self) {
        self.pinned.roam();
    }

    /// Lets all others go first, if the thread is pinned; says whether it does.
    pub fn yield_to_all(&mut self) -> bool {
        let pinned = &*self.pinned;
        if self.yields || !self.is_near() {
            return self.yields;
        }
        pinned.beat.fetch_add(1, Ordering::SeqCst);
        // Asked again: the second thread looks at both in the other order, and
        // does not sleep if it sees the beat.
        self.yields = self.is_near() && pinned.thread.yield_to_all().is_ok();
        if !self.yields {
            pinned.beat.fetch_add(1, Ordering::SeqCst);
        }
        self.yields
    }

    /// Takes turns with others again; true if it had yielded.
    pub fn take_turns(&mut self) -> bool {
        let yielded = std::mem::take(&mut self.yields);
        if yielded {
            // Cannot fail where it was tried before (`can_yield`).
            let _ = self.pinned.thread.take_turns();
            self.pinned.beat.fetch_add(1, Ordering::SeqCst);
        }
        yielded
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        *self.pinned.usual.lock() = None;
        self.pinned.near.store(false, Ordering::SeqCst);
        self.second.unpark();
    }
}

impl Pinned {
    fn roam(&self) {
        if !self.near.load(Ordering::SeqCst) {
            return;
        }
        let usual = self.usual.lock();
        if self.near.swap(false, Ordering::SeqCst)
            && let Some(usual) = &*usual
            && self.is_where_it_was_put()
            && let Err(errno) = self.thread.run_on(usual)
        {
            log::debug!("a thread stays on one CPU: {errno}");
        }
    }

    /// False if somebody has said meanwhile where it may run (taskset(1)).
    fn is_where_it_was_put(&self) -> bool {
        self.thread.cpus() == only(self.cpu.load(Ordering::SeqCst))
    }

    fn yields(&self) -> bool {
        self.beat.load(Ordering::SeqCst) % 2 == 1
    }

    /// Runs on the second thread until the first ends.
    fn watch(&self) {
        let (mut last, mut quiet, mut on) = (0, 0, None);
        loop {
            let beat = self.beat.load(Ordering::SeqCst);
            quiet = if beat == last { quiet + 1 } else { 0 };
            last = beat;
            match &*self.usual.lock() {
                None => return,
                Some(_) if quiet > 0 && beat % 2 == 1 => {
                    let _ = self.thread.take_turns();
                }
                Some(_) => {}
            }
            if quiet >= QUIET {
                self.roam();
            }
            if self.near.load(Ordering::SeqCst) || self.yields() {
                // On the same CPU: a look from an idle one ends with that
                // pulling over who waits here (newidle balance).
                let cpu = Some(self.cpu.load(Ordering::SeqCst));
                if cpu != on
                    && let Some(Ok(only)) = cpu.map(only)
                {
                    let _ = Thread::this().run_on(&only);
                    on = cpu;
                }
                std::thread::sleep(TICK);
            } else {
                std::thread::park();
                quiet = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sys::scheduling::can_yield;

    /// Runs on a thread of its own, which ends with it.
    fn on_a_thread(job: impl FnOnce() + Send + 'static) {
        std::thread::spawn(job).join().unwrap();
    }

    fn first_cpu() -> usize {
        let cpus = Thread::this().cpus().unwrap();
        (0..CpuSet::count())
            .find(|cpu| cpus.is_set(*cpu).unwrap())
            .unwrap()
    }

    #[track_caller]
    fn comes(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !what() {
            assert!(Instant::now() < deadline, "it does not come");
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_thread_that_does_not_get_its_turn_is_given_it_and_roams() {
        assert!(can_yield(), "needs CAP_SYS_NICE");
        on_a_thread(|| {
            let this = Thread::this();
            let usual = this.cpus().unwrap();
            let mut turns = Turns::of_this_thread().unwrap();
            assert!(!turns.yield_to_all());
            turns.stay_on(first_cpu()).unwrap();
            // On a busy machine the second thread may come between.
            while !turns.yield_to_all() {
                turns.stay_on(first_cpu()).unwrap();
            }
            comes(|| this.is_ordinary());
            comes(|| !turns.is_near());
            comes(|| this.cpus() == Ok(usual));
            assert!(turns.take_turns());
            assert!(!turns.yield_to_all());
        });
    }

    #[test]
    fn a_thread_that_yields_in_time_stays_where_it_is() {
        assert!(can_yield(), "needs CAP_SYS_NICE");
        on_a_thread(|| {
            let this = Thread::this();
            let mut turns = Turns::of_this_thread().unwrap();
            for _ in 0..1000 {
                turns.stay_on(first_cpu()).unwrap();
                // The second thread may come between: then it does not yield.
                let yields = turns.yield_to_all();
                assert_eq!(turns.take_turns(), yields);
                assert!(this.is_ordinary());
            }
        });
    }

    #[test]
    fn where_it_was_sent_meanwhile_it_stays() {
        on_a_thread(|| {
            let this = Thread::this();
            let turns = Turns::of_this_thread().unwrap();
            turns.stay_on(first_cpu()).unwrap();
            let usual = *turns.pinned.usual.lock();
            this.run_on(&usual.unwrap()).unwrap();
            *turns.pinned.usual.lock() = only(first_cpu()).ok();
            turns.roam();
            assert_eq!(Ok(usual.unwrap()), this.cpus());
        });
    }

    #[test]
    fn a_cpu_that_is_not_allowed_is_refused() {
        on_a_thread(|| {
            let this = Thread::this();
            this.run_on(&only(first_cpu()).unwrap()).unwrap();
            let turns = Turns::of_this_thread().unwrap();
            assert_eq!(turns.stay_on(CpuSet::count() - 1), Err(Errno::EINVAL));
            assert!(!turns.is_near());
        });
    }
}
