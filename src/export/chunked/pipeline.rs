//! Batches go to workers and come back in order.
//!
//! A fixed number of batches goes round, so memory has a bound that no tree can
//! move: who makes them waits for an empty one. Nothing of the result depends on
//! the number of threads.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use zstd::bulk::Compressor;

use super::LEVEL;
use super::batch::Batch;
use crate::error::{Context, Error, Result};

/// The most workers. Beyond, the thread that reads and the one that writes are
/// what takes time, and every worker may have two batches of up to 4 MiB.
pub const MOST_THREADS: usize = 8;

/// Where batches are filled.
pub struct Feed {
    empty: Receiver<Batch>,
    full: Sender<Batch>,
    /// The one that is being filled.
    pub batch: Batch,
    next: u64,
}

fn stopped() -> Error {
    // Who stopped it has said why.
    Error::new(Errno::EPIPE, "the export has stopped")
}

fn panicked() -> Error {
    Error::new(Errno::EIO, "a thread of the export panicked")
}

impl Feed {
    /// Sends the batch away and waits for an empty one.
    ///
    /// # Errors
    /// `EPIPE` if the other end has failed.
    pub fn flush(&mut self) -> Result<()> {
        let full = std::mem::replace(&mut self.batch, Batch::without_room());
        self.full.send(full).map_err(|_| stopped())?;
        self.batch = self.empty.recv().map_err(|_| stopped())?;
        self.next += 1;
        self.batch.clear(self.next);
        Ok(())
    }
}

fn work(jobs: &Receiver<Batch>, done: &Sender<Result<Batch>>, compress: bool) {
    let mut compressor = None;
    for mut batch in jobs {
        let packed = catch_unwind(AssertUnwindSafe(|| {
            if compress && compressor.is_none() {
                compressor = Some(Compressor::new(LEVEL)?);
            }
            batch.pack(compressor.as_mut())
        }));
        // A batch that never comes would be waited for without end.
        let result = packed.unwrap_or_else(|_| Err(panicked())).map(|()| batch);
        if done.send(result).is_err() {
            return;
        }
    }
}

fn put_in_order(
    done: &Receiver<Result<Batch>>,
    empty: &Sender<Batch>,
    take: &mut dyn FnMut(&mut Batch) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for batch in done {
        let batch = batch?;
        early.insert(batch.serial, batch);
        while let Some(mut batch) = early.remove(&next) {
            next += 1;
            take(&mut batch)?;
            // Nobody wants one any more when all have been filled.
            let _ = empty.send(batch);
        }
    }
    Ok(())
}

/// Has batches filled by `fill` in this thread, packed by `threads` others, and
/// given to `take` in their order in one more. What is in the last batch is sent
/// when `fill` returns.
///
/// # Errors
/// What `take`, else what `fill` says; `take` then has not had all.
pub fn run(
    threads: usize,
    compress: bool,
    take: &mut (dyn FnMut(&mut Batch) -> Result<()> + Send),
    fill: impl FnOnce(&mut Feed) -> Result<()>,
) -> Result<()> {
    let threads = threads.clamp(1, MOST_THREADS);
    let batches = 2 * threads + 2;
    let (give_back, empty) = bounded(batches);
    let (full, jobs) = bounded(batches);
    let (finished, done) = bounded(batches);
    for _ in 1..batches {
        give_back.send(Batch::new()).map_err(|_| stopped())?;
    }
    std::thread::scope(|scope| {
        let spawn = || Builder::new().name("export".to_owned());
        let context = || "starting a thread";
        for _ in 0..threads {
            let (jobs, finished) = (jobs.clone(), finished.clone());
            let worker = move || work(&jobs, &finished, compress);
            spawn().spawn_scoped(scope, worker).context(context)?;
        }
        drop((jobs, finished));
        let order = move || put_in_order(&done, &give_back, take);
        let order = spawn().spawn_scoped(scope, order).context(context)?;
        let mut feed = Feed {
            empty,
            full,
            batch: Batch::new(),
            next: 0,
        };
        let filled = fill(&mut feed);
        let Feed { full, batch, .. } = feed;
        let filled = filled.and_then(|()| full.send(batch).map_err(|_| stopped()));
        // The others end when no more can come.
        drop(full);
        let ordered = order.join().unwrap_or_else(|_| Err(panicked()));
        ordered.and(filled)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(threads: usize, fail_at: Option<u64>) -> (Result<()>, Vec<u8>) {
        let mut seen = Vec::new();
        let mut take = |batch: &mut Batch| {
            if fail_at == Some(batch.serial) {
                return Err(Error::new(Errno::ENOSPC, "full"));
            }
            seen.extend_from_slice(batch.raw());
            Ok(())
        };
        let result = run(threads, true, &mut take, |feed| {
            for number in 0..200 {
                feed.batch.between(&[number]);
                feed.flush()?;
            }
            Ok(())
        });
        (result, seen)
    }

    #[test]
    fn all_come_in_order() {
        for threads in [1, 4, 100] {
            let (result, seen) = numbers(threads, None);
            result.expect("no failure");
            assert_eq!(seen, (0..200).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn who_fails_first_is_heard_and_nobody_waits() {
        let (result, seen) = numbers(2, Some(3));
        assert_eq!(result.expect_err("full").errno(), Errno::ENOSPC);
        assert_eq!(seen, [0, 1, 2]);
        let mut taken = 0;
        let mut take = |_: &mut Batch| {
            taken += 1;
            Ok(())
        };
        let result = run(2, false, &mut take, |feed| {
            feed.flush()?;
            Err(Error::new(Errno::ENOENT, "gone"))
        });
        assert_eq!(result.expect_err("gone").errno(), Errno::ENOENT);
        assert_eq!(taken, 1);
    }
}
