//! A bounded pool for requests that may take long: they move there with their
//! reply, so that the thread that reads requests never waits for a disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, bounded};

use super::stats::Stats;

type Job = Box<dyn FnOnce() + Send>;

/// Requests that may wait for a free worker.
const QUEUE: usize = 256;

/// A session's worker threads; they end when the pool is dropped.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: Sender<Job>,
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(count: usize, stats: &Arc<Stats>) -> std::io::Result<Workers> {
        let (jobs, queue) = bounded::<Job>(QUEUE);
        for number in 1..=count {
            let queue = queue.clone();
            let stats = stats.clone();
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    for job in queue {
                        stats.begin(number);
                        run(job);
                        stats.end(number);
                    }
                })?;
        }
        Ok(Workers { jobs })
    }

    /// Gives a job to the pool; runs it here if the queue is full.
    pub fn give(&self, job: impl FnOnce() + Send + 'static) {
        match self.jobs.try_send(Box::new(job)) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => run(job),
        }
    }
}

/// A panic answers the request with `EIO` (its reply is dropped) and ends
/// nothing else; the panic hook has logged it with a backtrace.
pub(super) fn run(job: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        log::error!("a request failed inside; it was answered with EIO");
    }
}
