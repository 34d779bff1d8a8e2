//! Counts requests per opcode, and tells how long the oldest one takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// The requests we count, by their FUSE names.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs)]
        pub(super) enum Op { $($name),* }
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

operations!(
    Lookup,
    Forget,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Read,
    Write,
    Release,
    Fsync,
    Opendir,
    Readdir,
    Readdirplus,
    Fsyncdir,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Create,
    Fallocate,
    Lseek,
    CopyFileRange,
    Ioctl,
);

/// Request statistics of one session.
#[derive(Debug)]
pub(super) struct Stats {
    counts: Vec<AtomicU64>,
    /// Per serving thread: when its request began, in µs since `epoch`; 0 idle.
    busy: Vec<AtomicU64>,
    epoch: Instant,
}

impl Stats {
    /// For one event thread and `workers` more.
    pub fn new(workers: usize) -> Stats {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Stats {
            counts: zeros(NAMES.len()),
            busy: zeros(workers + 1),
            epoch: Instant::now(),
        }
    }

    pub fn count(&self, op: Op) {
        self.counts[op as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// A thread (0 is the event thread) begins a request.
    pub fn begin(&self, thread: usize) {
        self.busy[thread].store(self.now(), Ordering::Relaxed);
    }

    /// It is done with it.
    pub fn end(&self, thread: usize) {
        self.busy[thread].store(0, Ordering::Relaxed);
    }

    pub fn requests(&self) -> BTreeMap<String, u64> {
        NAMES
            .iter()
            .zip(&self.counts)
            .map(|(name, count)| (name.to_lowercase(), count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    pub fn oldest(&self) -> Option<Duration> {
        let now = self.now();
        self.busy
            .iter()
            .map(|began| began.load(Ordering::Relaxed))
            .filter(|began| *began > 0)
            .min()
            .map(|began| Duration::from_micros(now.saturating_sub(began)))
    }
}
