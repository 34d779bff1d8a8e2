//! The thread that serves requests stays where they come from.
//!
//! A wake-up on another CPU costs a virtual machine ten times what the request
//! costs, and the kernel picks an idle CPU for whoever is woken: for this thread
//! when it is asked, for the asker when it is answered (`select_idle_sibling`,
//! kernel/sched/fair.c). Two things keep both on one CPU. This thread is pinned
//! to the CPU that its asker was last seen on. And while it answers it has the
//! policy `SCHED_IDLE` (sched(7)): a CPU with nothing else to run counts as idle
//! there, so the asker is woken where it slept.
//!
//! That is for a time of many requests, on a machine with an idle CPU. Otherwise
//! the thread is like any other.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::time::Instant;

use nix::sched::{CpuSet, sched_getcpu};

use super::askers::{Advice, Askers};
use super::turns::Turns;
use crate::sys::scheduling::{Thread, can_yield, cpu_of};

/// So often they have to be on two CPUs before that is mended.
const APART: u32 = 3;

/// Whether this process may do all that; tried once.
static CAN: LazyLock<bool> = LazyLock::new(can_yield);

/// The session thread's part.
#[derive(Debug)]
struct Follower {
    askers: Askers,
    turns: Turns,
    /// When it last yielded.
    yielded: Instant,
    /// `/proc/loadavg`, proc_loadavg(5).
    load: File,
    cpus: usize,
    /// How often lately the asker was on another CPU, with one idle.
    apart: u32,
}

impl Follower {
    /// `None` where it cannot be done or is of no use.
    fn new() -> Option<Follower> {
        let this = Thread::this();
        let usable = this.cpus().ok()?;
        let usable = (0..CpuSet::count()).filter(|cpu| usable.is_set(*cpu) == Ok(true));
        if usable.count() < 2 || !this.is_ordinary() || !*CAN {
            return None;
        }
        let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
        Some(Follower {
            askers: Askers::new(Instant::now()),
            turns: Turns::of_this_thread().ok()?,
            yielded: Instant::now(),
            load: File::open("/proc/loadavg").ok()?,
            cpus: usize::try_from(online.ok()??).ok()?,
            apart: 0,
        })
    }

    fn request(&mut self, asker: u32) {
        let near = self.turns.is_near();
        match self.askers.asked(asker, Instant::now()) {
            Advice::Stay => return,
            Advice::Move if !near => return,
            Advice::Move | Advice::Follow => {}
            Advice::Leave => {
                self.apart = 0;
                self.turns.roam();
                return;
            }
        }
        let cpu = self.has_idle_cpu().then(|| cpu_of(asker)).flatten();
        self.apart = match cpu {
            // Where both are on one CPU as it is, there is nothing to mend.
            Some(cpu) if near || sched_getcpu() != Ok(cpu) => (self.apart + 1).min(APART),
            _ => self.apart.saturating_sub(2),
        };
        let wanted = if near { 1 } else { APART };
        if self.apart < wanted || cpu.is_some_and(|cpu| self.turns.stay_on(cpu).is_err()) {
            self.turns.roam();
        }
    }

    /// By the kernel's count of what runs just now, this thread included.
    fn has_idle_cpu(&self) -> bool {
        let mut line = [0; 64];
        let count = self.load.read_at(&mut line, 0).unwrap_or(0);
        let line = String::from_utf8_lossy(&line[..count]);
        let running = line.split_ascii_whitespace().nth(3);
        let running = running.and_then(|field| field.split_once('/')?.0.parse::<usize>().ok());
        running.is_some_and(|running| running < self.cpus)
    }

    fn give_way(&mut self) {
        if self.turns.is_near() {
            self.yielded = Instant::now();
            self.turns.yield_to_all();
        }
    }

    fn answered(&mut self) {
        if self.turns.take_turns() {
            let now = Instant::now();
            self.askers.back(now, now.duration_since(self.yielded));
        }
    }

    fn bulk(&mut self) {
        self.askers.restart(Instant::now());
        self.turns.roam();
    }
}

/// A thread's follower, made at its first request.
#[derive(Debug)]
enum Slot {
    /// Not a thread that takes requests from the kernel, or none taken yet.
    Unused,
    Used(Option<Follower>),
}

thread_local! {
    static FOLLOWER: RefCell<Slot> = const { RefCell::new(Slot::Unused) };
}

fn with(job: impl FnOnce(&mut Follower)) {
    FOLLOWER.with_borrow_mut(|slot| {
        if let Slot::Used(Some(follower)) = slot {
            job(follower);
        }
    });
}

/// A request has come to this thread: from a thread or, 0, from the kernel.
pub(super) fn request(asker: u32) {
    FOLLOWER.with_borrow_mut(|slot| {
        if matches!(slot, Slot::Unused) {
            *slot = Slot::Used(Follower::new());
        }
    });
    with(|follower| follower.request(asker));
}

/// The answer is about to be given. On a worker this does nothing.
pub(super) fn give_way() {
    with(Follower::give_way);
}

/// It has been given.
pub(super) fn answered() {
    with(Follower::answered);
}

/// Much data is asked for or has come: two CPUs move more of it than one.
pub(super) fn bulk() {
    with(Follower::bulk);
}
