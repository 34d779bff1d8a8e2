//! Runs a command in a view, as a child of this process.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::family;
use super::output::note;
use super::program;
use crate::control::Ended;
use crate::error::{Context, Result};
use crate::stage::{StepView, namespace, survivors};
use crate::sys::process::{self, Process, User};

/// Signals that are meant for the command.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What a command gets besides what this process has.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Variables, over those of this process.
    pub env: Vec<(String, String)>,
    /// Who it runs as, if not as this process.
    pub user: Option<User>,
    /// Its standard input is at its end.
    pub no_input: bool,
    /// A descriptor that stays open, under its number.
    pub channel: Option<RawFd>,
}

impl Given {
    /// Has a command get it.
    pub fn dress(&self, prepared: &mut Command) {
        prepared.envs(self.env.iter().map(|(name, value)| (name, value)));
        if self.no_input {
            prepared.stdin(Stdio::null());
        }
        if let Some(channel) = self.channel {
            process::hand_over(prepared, channel);
        }
        if let Some(user) = &self.user {
            process::run_as(prepared, user.clone());
        }
    }
}

/// How long a command may run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After this it is told to end.
    pub timeout: Option<Duration>,
    /// After this much more it is killed.
    pub grace: Duration,
    /// What it has started ends with it then.
    pub all: bool,
}

/// Runs a command in the view and waits for its end.
///
/// Signals to this process go on to the command; what the terminal sends (^C)
/// reaches the command by itself. Those that come later are for whoever has
/// the returned [`Signals`]: a step that is about to be merged must not lose
/// its command line without a word.
///
/// # Errors
/// What keeps the namespace from being made; the command was not started then.
pub fn run(view: &StepView, command: &[OsString], limits: Limits) -> Result<(Ended, Signals)> {
    run_given(view, command, &Given::default(), limits)
}

/// The same, with what is said of the command.
///
/// # Errors
/// As [`run`].
pub fn run_given(
    view: &StepView,
    command: &[OsString],
    given: &Given,
    limits: Limits,
) -> Result<(Ended, Signals)> {
    let adopts = limits.all && limits.timeout.is_some();
    if adopts {
        family::adopt()?;
    }
    let started = start(view, command, given)?;
    // Only now: a child inherits what is blocked. One that has ended meanwhile
    // is found at the first look; a signal meanwhile ends this process, which
    // the daemon takes care of.
    let signals = Signals::hold()?;
    let ended = match started {
        Ok(child) => {
            if adopts {
                family::bury_adopted(number(&child));
            }
            wait(child, &signals, limits)
        }
        Err(ended) => Ok(ended),
    };
    match ended {
        Ok(ended) => {
            if let (true, Some(timeout)) = (ended.timed_out, limits.timeout) {
                let timeout = humantime::format_duration(timeout);
                note(&format!(
                    "the command was ended for taking longer than {timeout}"
                ));
            }
            Ok((ended, signals))
        }
        Err(error) => {
            signals.let_go()?;
            Err(error)
        }
    }
}

/// Signals to this process, held back until they are asked for (signalfd(2)).
#[derive(Debug)]
pub struct Signals {
    held: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Holds them back from here on, but for those that this process was started to ignore,
    /// as its command was.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn hold() -> Result<Signals> {
        let mut signals = process::heeded(&PASSED_ON);
        signals.add(Signal::SIGTERM);
        let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let held = SignalFd::with_flags(&signals, flags).context(|| "signalfd")?;
        Ok(Signals { held, before })
    }

    fn let_go(self) -> Result<()> {
        Ok(self.before.thread_set_mask()?)
    }

    /// The next one, and whether it is from the terminal.
    pub fn next(&self) -> Option<(Signal, bool)> {
        let info = self.held.read_signal().ok()??;
        let signal = i32::try_from(info.ssi_signo).ok()?;
        let signal = Signal::try_from(signal).ok()?;
        Some((signal, from_terminal(signal, info.ssi_code)))
    }

    /// Readable once there is one.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.held.as_fd()
    }

    /// Waits until something can be read there, or until a signal asks to end:
    /// returns that.
    pub fn beside(&self, other: BorrowedFd<'_>) -> Option<Signal> {
        loop {
            let mut polled = [
                PollFd::new(other, PollFlags::POLLIN),
                PollFd::new(self.held.as_fd(), PollFlags::POLLIN),
            ];
            let _ = nix::poll::poll(&mut polled, PollTimeout::NONE);
            while let Some((signal, _)) = self.next() {
                if !matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2) {
                    return Some(signal);
                }
            }
            if polled[0].any() != Some(false) {
                return None;
            }
        }
    }
}

/// Starts the command; what it cannot be started for is told as a shell does.
pub fn start(
    view: &StepView,
    command: &[OsString],
    given: &Given,
) -> Result<std::result::Result<Child, Ended>> {
    let cwd = std::env::current_dir().ok();
    let outside = namespace::enter(view)?;
    let make = |program: &OsStr, arguments: &[OsString]| {
        let mut prepared = Command::new(program);
        prepared.args(arguments);
        prepare(&mut prepared, view, cwd.as_deref());
        given.dress(&mut prepared);
        prepared
    };
    let started = program::spawn(make, command);
    if let Err(error) = outside.leave() {
        // A process that stays inside would be taken for a part of the step.
        if let Ok(mut child) = started {
            let _ = child.kill();
            let _ = child.wait();
        }
        return Err(error);
    }
    Ok(started.map_err(|not_started| {
        note(&not_started.sentence);
        not_started.ended()
    }))
}

fn prepare(prepared: &mut Command, view: &StepView, cwd: Option<&std::path::Path>) {
    process::hear_as_before(prepared);
    prepared.env("HARNESS_FS_STEP", &view.name);
    if let Some(workspace) = view.mapped.first() {
        prepared.env("HARNESS_WORKSPACE", workspace);
        prepared.env("DRONE_WORKSPACE", workspace);
    }
    // A shell that is told of another directory than it is in shows that one.
    let dir = namespace::working_directory(&view.mapped, cwd);
    if cwd != Some(dir) && std::env::var_os("PWD").is_some() {
        prepared.env("PWD", dir);
    }
}

/// The number of a child.
pub fn number(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap_or(i32::MAX)
}

/// What a shell would report.
pub fn ended(status: ExitStatus, timed_out: bool) -> Ended {
    let signal = status.signal();
    let code = match (status.code(), signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    Ended {
        started: true,
        exit_code: u8::try_from(code).unwrap_or(u8::MAX),
        signal,
        timed_out,
    }
}

fn wait(mut child: Child, signals: &Signals, limits: Limits) -> Result<Ended> {
    let number = number(&child);
    let pid = Pid::from_raw(number);
    // Its end is told by a descriptor, which nobody else can take as a signal
    // can be taken.
    let process = Process::open(number)?;
    let started = Instant::now();
    let mut told = false;
    let mut killed = false;
    loop {
        if let Some(status) = child.try_wait()? {
            // Up to here they were for the command, whether they reached it or not.
            while signals.next().is_some() {}
            return Ok(ended(status, told));
        }
        let deadline = match limits.timeout {
            Some(timeout) if !told => Some(timeout),
            Some(timeout) if !killed => Some(timeout.saturating_add(limits.grace)),
            _ => None,
        };
        let left = deadline.map(|deadline| deadline.saturating_sub(started.elapsed()));
        if left == Some(Duration::ZERO) && limits.all {
            let family = || Ok(family::of(std::process::id().cast_signed()));
            // A signal now can only mean that it should be over sooner.
            survivors::end_all(family, limits.grace, Some(signals.held.as_fd()))?;
            told = true;
            continue;
        }
        if left == Some(Duration::ZERO) {
            // Not reaped yet, so the number is still the child's.
            let signal = if told {
                Signal::SIGKILL
            } else {
                Signal::SIGTERM
            };
            let _ = kill(pid, signal);
            killed = told;
            told = true;
            continue;
        }
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        let mut polled = [
            PollFd::new(signals.held.as_fd(), PollFlags::POLLIN),
            PollFd::new(process.as_fd(), PollFlags::POLLIN),
        ];
        let _ = nix::poll::poll(&mut polled, timeout);
        while let Some((signal, from_terminal)) = signals.next() {
            if !from_terminal {
                let _ = kill(pid, signal);
            }
        }
    }
}

/// Whether the kernel sent it to all in the terminal's foreground, the command
/// among them (sigaction(2), `SI_KERNEL`). That the terminal is gone it tells
/// the leader of the session alone (POSIX, General Terminal Interface, "Modem
/// Disconnect"), and the others once that has ended.
fn from_terminal(signal: Signal, code: i32) -> bool {
    let to_all = match signal {
        Signal::SIGINT | Signal::SIGQUIT => true,
        Signal::SIGHUP => nix::unistd::getsid(None) != Ok(nix::unistd::getpid()),
        _ => false,
    };
    to_all && code == libc::SI_KERNEL
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended_of(script: &str, limits: Limits) -> Ended {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        wait(child, &Signals::hold().unwrap(), limits).unwrap()
    }

    #[test]
    fn ends_are_told_as_shells_do() {
        let limits = Limits {
            timeout: Some(Duration::from_millis(100)),
            grace: Duration::from_millis(50),
            all: false,
        };
        let polite = ended_of("exec sleep 100", limits);
        assert_eq!(
            (polite.exit_code, polite.signal, polite.timed_out),
            (143, Some(15), true)
        );
        let stubborn = ended_of("trap '' TERM; while :; do :; done", limits);
        assert_eq!((stubborn.exit_code, stubborn.signal), (137, Some(9)));
        assert!(stubborn.timed_out && !stubborn.success());
    }

    #[test]
    fn keys_reach_the_command_without_help() {
        assert!(from_terminal(Signal::SIGINT, libc::SI_KERNEL));
        assert!(!from_terminal(Signal::SIGINT, 0));
        assert!(!from_terminal(Signal::SIGTERM, libc::SI_KERNEL));
    }
}
