//! Where threads run and which of them go first (sched(7)).

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A thread of this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thread(Pid);

impl Thread {
    /// The one that calls.
    pub fn this() -> Thread {
        Thread(nix::unistd::gettid())
    }

    /// True if it has the ordinary policy, and so one that may be changed.
    pub fn is_ordinary(self) -> bool {
        // SAFETY: takes a number and returns one.
        let policy = unsafe { libc::sched_getscheduler(self.0.as_raw()) };
        policy == libc::SCHED_OTHER
    }

    fn set_policy(self, policy: libc::c_int) -> nix::Result<()> {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is to a value that outlives the call.
        let set = unsafe { libc::sched_setscheduler(self.0.as_raw(), policy, &raw const param) };
        Errno::result(set).map(drop)
    }

    /// Has it go first before nobody (`SCHED_IDLE`).
    ///
    /// # Errors
    /// As sched_setscheduler(2).
    pub fn yield_to_all(self) -> nix::Result<()> {
        self.set_policy(libc::SCHED_IDLE)
    }

    /// Has it take turns like others again; its nice value stays.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_NICE`, where `RLIMIT_NICE` does not allow it.
    pub fn take_turns(self) -> nix::Result<()> {
        self.set_policy(libc::SCHED_OTHER)
    }

    /// The CPUs it may run on.
    ///
    /// # Errors
    /// As sched_getaffinity(2): `EINVAL` if there are more than the set can name.
    pub fn cpus(self) -> nix::Result<CpuSet> {
        sched_getaffinity(self.0)
    }

    /// Moves it to one of these CPUs.
    ///
    /// # Errors
    /// As sched_setaffinity(2): `EINVAL` if the cpuset allows none of them.
    pub fn run_on(self, cpus: &CpuSet) -> nix::Result<()> {
        sched_setaffinity(self.0, cpus)
    }
}

/// True if a thread that has yielded to all can take turns again. Tried on a
/// thread that ends, because where it cannot there is no way back.
pub fn can_yield() -> bool {
    let tried = std::thread::Builder::new().name("trial".into()).spawn(|| {
        let trial = Thread::this();
        trial.is_ordinary() && trial.yield_to_all().and(trial.take_turns()).is_ok()
    });
    tried.is_ok_and(|trial| trial.join().unwrap_or(false))
}

/// The CPU that a thread of any process runs on, or ran on last: field 39 of
/// proc_pid_stat(5). `None` if it is gone or in another PID namespace, or if it
/// has a real-time priority (field 40), with which nobody shares a CPU.
pub fn cpu_of(thread: u32) -> Option<usize> {
    // Not /proc/PID/stat, which adds up the times of all threads of a process.
    let stat = std::fs::read_to_string(format!("/proc/{thread}/task/{thread}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(36);
    let cpu = fields.next()?.parse().ok()?;
    (fields.next()? == "0").then_some(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found_on_the_cpu_that_it_is_pinned_to() {
        let pinned = std::thread::spawn(|| {
            let this = Thread::this();
            let cpus = this.cpus().unwrap();
            for cpu in (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap()) {
                let mut only = CpuSet::new();
                only.set(cpu).unwrap();
                this.run_on(&only).unwrap();
                let number = nix::unistd::gettid().as_raw().cast_unsigned();
                assert_eq!(cpu_of(number), Some(cpu));
            }
        });
        pinned.join().unwrap();
    }

    #[test]
    fn a_thread_that_yields_to_all_can_take_turns_again() {
        let tried = std::thread::spawn(|| {
            let this = Thread::this();
            assert!(this.is_ordinary());
            this.yield_to_all().unwrap();
            assert!(!this.is_ordinary());
            this.take_turns().expect("needs CAP_SYS_NICE");
            assert!(this.is_ordinary());
        });
        tried.join().unwrap();
    }

    #[test]
    fn a_thread_with_a_real_time_priority_is_nowhere() {
        let started = std::thread::spawn(|| {
            let param = libc::sched_param { sched_priority: 1 };
            // SAFETY: the pointer is to a value that outlives the call.
            let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const param) };
            assert_eq!(Errno::result(set), Ok(0), "needs CAP_SYS_NICE");
            let number = nix::unistd::gettid().as_raw().cast_unsigned();
            assert_eq!(cpu_of(number), None);
        });
        started.join().unwrap();
    }

    #[test]
    fn a_thread_that_is_gone_is_nowhere() {
        assert_eq!(cpu_of(u32::MAX), None);
    }
}
