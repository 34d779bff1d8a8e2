//! A process of its own for each command of a stage file.
//!
//! It runs this program once more, as `step exec` does by itself: a process with threads
//! cannot change to the mounts of a step and back (setns(2)), and has no way to tell the
//! children of one command from those of another.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::control::Ended;
use crate::error::{Context, Error, Result};
use crate::sys::process::Process;

/// The hidden subcommand.
pub const WORKER: &str = "stage-worker";
/// The descriptor that values of output variables are written to: a name and a value, each
/// with a NUL byte behind it.
pub const CHANNEL: i32 = 9;

/// What a worker is to run; one line of JSON on its standard input, a socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where the stage's state lies.
    pub state_dir: PathBuf,
    /// What messages call the stage.
    pub label: String,
    /// The open step to run it in, or the name of the background step that it is.
    pub step: String,
    /// It is a background step.
    pub background: bool,
    /// A program and its arguments.
    pub command: Vec<String>,
    /// Variables, over those of this process.
    pub env: Vec<(String, String)>,
    /// The user it runs as, if not as this process.
    pub user: Option<u32>,
    /// Milliseconds until it is told to end.
    pub timeout_ms: Option<u64>,
    /// Milliseconds from then until it is killed.
    pub grace_ms: u64,
    /// It gives output variables.
    pub outputs: bool,
}

/// What a worker tells: one line of JSON on the same socket, once the command has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The command has ended.
    Ended {
        /// How.
        ended: Ended,
        /// The output variables.
        outputs: Vec<(String, String)>,
    },
    /// It could not be run, which is no fault of the command.
    Failed {
        /// As the exit codes of commands.
        code: u8,
        /// One sentence.
        message: String,
    },
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    socket: BufReader<UnixStream>,
}

impl Worker {
    /// Starts one, with its output going to the pipe that is returned. `apart`: keys such as
    /// ^C do not reach it.
    ///
    /// # Errors
    /// As fork(2), socketpair(2), or what writing the order reports.
    pub fn start(order: &Order, apart: bool) -> Result<(Worker, PipeReader)> {
        let starting = || "start a command of the stage file";
        let (own, other) = UnixStream::pair().context(starting)?;
        let (output, writer) = std::io::pipe().context(starting)?;
        let again = writer.try_clone().context(starting)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("harness-fs").arg(WORKER);
        command.stdin(OwnedFd::from(other));
        command.stdout(writer).stderr(again);
        if apart {
            command.process_group(0);
        }
        let child = command.spawn().context(starting)?;
        // With the ends that are the worker's, or nobody would see the end of its output.
        drop(command);
        let mut worker = Worker {
            child,
            socket: BufReader::new(own),
        };
        let mut line = serde_json::to_vec(order).map_err(Error::from)?;
        line.push(b'\n');
        let sent = worker.socket.get_mut().write_all(&line);
        if let Err(error) = sent {
            worker.kill();
            return Err(Error::from(error).context(starting()));
        }
        Ok((worker, output))
    }

    /// A hold on the process, to send it signals.
    ///
    /// # Errors
    /// As pidfd_open(2).
    pub fn process(&self) -> Result<Process> {
        Process::open(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Waits until its command has ended; `None` if the worker itself was ended.
    pub fn answer(&mut self) -> Option<Answer> {
        let mut line = String::new();
        self.socket.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// The socket. Once nothing more can come there, a worker that runs a command beside
    /// the steps ends that, with all that it has started, and itself.
    ///
    /// # Errors
    /// As dup(2).
    pub fn socket(&self) -> Result<UnixStream> {
        Ok(self.socket.get_ref().try_clone()?)
    }

    /// Waits until the process has ended.
    pub fn wait(mut self) {
        let _ = self.child.wait();
    }

    fn kill(&mut self) {
        if let Ok(process) = self.process() {
            let _ = process.signal(Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
