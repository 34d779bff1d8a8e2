//! Completing partial files of sealed layers, in the background.
//!
//! A file that is written all the time becomes partial at every seal of the head,
//! over what it was at the one before. Reading it would take ever more files, so
//! each is given the rest of its content when nobody else wants the disk much.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::Stage;
use crate::error::Result;
use crate::layer::{Backing, Stack};
use crate::sys::ordered::{Mutex, Rank};
use crate::sys::scheduling::Thread;

/// The thread that completes files, once there was something to do for it.
#[derive(Debug)]
pub(super) struct Completing {
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stacks: Sender<Stack>,
    /// Dropped to end the thread.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Completing {
    pub fn new() -> Completing {
        Completing {
            running: Mutex::new(Rank::StageTables, None),
        }
    }

    /// Has the partial files of the uppermost layer of a stack completed.
    pub fn complete(&self, stack: Stack) {
        let mut running = self.running.lock();
        if running.is_none() {
            *running = start()
                .inspect_err(|error| log::warn!("partial files stay so: {error}"))
                .ok();
        }
        if let Some(running) = &*running {
            let _ = running.stacks.send(stack);
        }
    }

    /// Leaves what is left as it is; it can be begun again.
    pub fn stop(&self) {
        let running = self.running.lock().take();
        if let Some(Running {
            stacks,
            stop,
            thread,
        }) = running
        {
            drop((stacks, stop));
            let _ = thread.join();
        }
    }
}

impl Drop for Completing {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Stage {
    /// Completes what steps have that are about to be sealed, and in which nothing
    /// runs any more. Sealing would do it too, and hold up the stage meanwhile; it
    /// also tells what cannot be done.
    pub fn complete_files_of(&self, steps: &[String]) {
        for step in steps {
            let Ok(running) = self.running(step) else {
                continue;
            };
            if let Err(error) = running.view.complete_files() {
                log::warn!("step '{step}': {error}");
            }
        }
    }

    /// Completes what the layers of the stage's stack have that an earlier daemon
    /// left.
    pub(super) fn complete_leftovers(&self) -> Result<()> {
        let stack = self.stage_view.stack();
        for depth in 1..=stack.layers().len() {
            if !stack.layer(depth - 1).partial_files()?.is_empty() {
                self.completing.complete(stack.below(depth));
            }
        }
        Ok(())
    }
}

fn start() -> std::io::Result<Running> {
    let (stacks, more) = unbounded();
    let (stop, stopped) = bounded(0);
    let thread = std::thread::Builder::new()
        .name("completing".into())
        .spawn(move || {
            if let Err(errno) = Thread::this().yield_to_all() {
                log::debug!("completing files at the usual priority: {errno}");
            }
            run(&more, &stopped);
        })?;
    Ok(Running {
        stacks,
        stop,
        thread,
    })
}

/// The newest first: only that one is in the way of who reads a file now.
fn run(more: &Receiver<Stack>, stopped: &Receiver<()>) {
    let mut waiting: Vec<Stack> = Vec::new();
    loop {
        if waiting.is_empty() {
            match more.recv() {
                Ok(stack) => waiting.push(stack),
                Err(_) => return,
            }
        }
        waiting.extend(more.try_iter());
        let Some(stack) = waiting.pop() else { continue };
        let mut ended = false;
        let mut begun = Instant::now();
        let mut go_on = || {
            // As long as the step took, others have the disk to themselves.
            ended = stopped.recv_timeout(begun.elapsed()) != Err(RecvTimeoutError::Timeout);
            begun = Instant::now();
            !ended && more.is_empty()
        };
        match complete_top(&stack, &mut go_on) {
            Ok(true) => {}
            Ok(false) => waiting.push(stack),
            // Who reads it goes on as before; perhaps the layer is gone.
            Err(error) => log::info!("a partial file stays so: {error}"),
        }
        if ended {
            return;
        }
    }
}

fn complete_top(stack: &Stack, go_on: &mut dyn FnMut() -> bool) -> Result<bool> {
    let Some(top) = stack.layers().len().checked_sub(1) else {
        return Ok(true);
    };
    let layer = stack.layer(top);
    for path in layer.partial_files()? {
        let below = match layer.block_map(&path)? {
            Some(map) => stack.backing_of(map.origin(), top)?,
            // Whole, though its map may still be there.
            None => Backing::Whole(layer.open(&path)?),
        };
        if !layer.fill(&path, &Arc::new(below), go_on)? {
            return Ok(false);
        }
    }
    Ok(true)
}
