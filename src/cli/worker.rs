//! Runs one command of a stage file, in a process of its own: see `drive/worker.rs`.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{BufRead, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid};

use super::family;
use super::output::{Trouble, unexpected};
use super::place::Place;
use super::running::{self, Given, Limits, Signals};
use crate::control::{Client, Ended, Problem, Reply, Request};
use crate::drive::{Answer, CHANNEL, Order};
use crate::error::{Context, Error, Result};
use crate::stage::{StepView, survivors};
use crate::sys::process::{self, Process, User};

/// Carries out an order.
pub fn run() -> u8 {
    // Whoever starts it holds signals back for itself.
    let _ = SigSet::empty().thread_set_mask();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let order: Option<Order> = read.ok().and_then(|_| serde_json::from_str(&line).ok());
    let (Some(order), Ok(socket)) = (order, std::io::stdin().as_fd().try_clone_to_owned()) else {
        return 2;
    };
    let mut socket = File::from(socket);
    // Commands start in the workspace.
    let _ = std::env::set_current_dir("/");
    let carried_out = match order.background {
        false => in_step(&order),
        true => beside_steps(&order, &mut socket),
    };
    let answer = carried_out.unwrap_or_else(|trouble| {
        Some(Answer::Failed {
            code: trouble.code,
            message: trouble.message().to_owned(),
        })
    });
    if let Some(answer) = answer {
        tell(&mut socket, &answer);
    }
    0
}

/// Of an environment.
type Variables = Vec<(String, String)>;

fn tell(socket: &mut File, answer: &Answer) {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    // Nobody listens any more if who has started it is gone.
    let _ = socket.write_all(&line);
}

fn words(order: &Order) -> Vec<OsString> {
    order.command.iter().map(OsString::from).collect()
}

fn connect(order: &Order) -> std::result::Result<Client, Problem> {
    let place = Place {
        state_dir: order.state_dir.clone(),
        label: order.label.clone(),
    };
    place.connect()
}

fn entered(reply: Reply) -> std::result::Result<StepView, Trouble> {
    match reply {
        Reply::Entered { view, .. } => Ok(view),
        other => Err(unexpected(other, false)),
    }
}

/// Runs the command in an open step, as `step exec` does.
fn in_step(order: &Order) -> std::result::Result<Option<Answer>, Trouble> {
    let channel = match order.outputs {
        true => Some(channel()?),
        false => None,
    };
    let (user, mut env) = dressed(order)?;
    env.extend(order.env.iter().cloned());
    let given = Given {
        env,
        user,
        no_input: true,
        channel: channel.as_ref().map(AsRawFd::as_raw_fd),
    };
    let mut client = connect(order)?;
    let request = Request::StepExec {
        step: order.step.clone(),
    };
    let view = entered(client.ask(&request)?)?;
    let limits = Limits {
        timeout: order.timeout_ms.map(Duration::from_millis),
        grace: Duration::from_millis(order.grace_ms),
        all: true,
    };
    let (ended, _signals) = running::run_given(&view, &words(order), &given, limits)?;
    client.ask(&Request::StepEnded(ended.clone()))?;
    let outputs = channel.map(read_outputs).transpose()?.unwrap_or_default();
    Ok(Some(Answer::Ended { ended, outputs }))
}

/// A file in memory, under the number that scripts write to.
fn channel() -> Result<OwnedFd> {
    let file = memfd_create("outputs", MFdFlags::MFD_CLOEXEC).context(|| "memfd_create")?;
    process::duplicate(&file, CHANNEL)
}

/// Names and values, each with a NUL byte behind it. What is not whole does not count.
fn read_outputs(channel: OwnedFd) -> Result<Vec<(String, String)>> {
    let mut file = File::from(channel);
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == 0).unwrap_or(0);
    let words: Vec<&[u8]> = text[..whole].split(|byte| *byte == 0).collect();
    let pair = |pair: &[&[u8]]| match pair {
        [name, value] => Some((
            String::from_utf8_lossy(name).into_owned(),
            String::from_utf8_lossy(value).into_owned(),
        )),
        _ => None,
    };
    Ok(words.chunks(2).filter_map(pair).collect())
}

/// Who the command runs as, and what that user finds in the environment.
fn dressed(order: &Order) -> Result<(Option<User>, Variables)> {
    let Some(uid) = order.user else {
        return Ok((None, Vec::new()));
    };
    let known = nix::unistd::User::from_uid(Uid::from_raw(uid))
        .context(|| format!("look up the user {uid}"))?;
    let Some(known) = known else {
        // As container runtimes do for a number that they do not know.
        let user = User {
            uid,
            gid: 0,
            groups: vec![0],
        };
        return Ok((Some(user), vec![("HOME".to_owned(), "/".to_owned())]));
    };
    let name = CString::new(known.name.as_bytes()).unwrap_or_default();
    let groups = nix::unistd::getgrouplist(&name, known.gid)
        .context(|| format!("look up the groups of {}", known.name))?;
    let home = known.dir.to_string_lossy().into_owned();
    let env = [
        ("HOME", home),
        ("USER", known.name.clone()),
        ("LOGNAME", known.name),
    ];
    let user = User {
        uid,
        gid: known.gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    };
    let env = env.map(|(name, value)| (name.to_owned(), value));
    Ok((Some(user), env.to_vec()))
}

/// Runs the command as a background step, until it is told to end it, or nobody is there any
/// more who could tell. How the command itself has ended is told at once; what that has left
/// running goes on.
fn beside_steps(order: &Order, socket: &mut File) -> std::result::Result<Option<Answer>, Trouble> {
    let (user, mut env) = dressed(order)?;
    env.extend(order.env.iter().cloned());
    let given = Given {
        env,
        user,
        no_input: true,
        channel: None,
    };
    family::adopt()?;
    let mut client = connect(order)?;
    let request = Request::StepBackground {
        step: order.step.clone(),
        grace_ms: order.grace_ms,
    };
    let view = entered(client.ask(&request)?)?;
    let mut child = match running::start(&view, &words(order), &given)? {
        Ok(child) => child,
        Err(not_started) => {
            client.ask(&Request::StepEnded(not_started.clone()))?;
            return Ok(Some(ended_with(not_started)));
        }
    };
    // Only now: a child inherits what is blocked.
    let signals = Signals::hold()?;
    let command = running::number(&child);
    let process = Process::open(command)?;
    family::bury_adopted(command);
    let family = || family::of(std::process::id().cast_signed());
    let mut runs = true;
    loop {
        let told = wait(&signals, socket.as_fd(), runs.then_some(&process));
        if runs && let Some(status) = child.try_wait().map_err(Error::from)? {
            runs = false;
            tell(socket, &ended_with(running::ended(status, false)));
        }
        // Nothing is left of it either where `step stop` or the end of the stage has seen to it.
        if told || !runs && family().is_empty() {
            break;
        }
    }
    let grace = Duration::from_millis(order.grace_ms);
    // A signal now can only mean that it should be over sooner.
    survivors::end_all(|| Ok(family()), grace, Some(signals.as_fd()))?;
    let ended = running::ended(child.wait().map_err(Error::from)?, false);
    client.ask(&Request::StepEnded(ended.clone()))?;
    Ok(runs.then(|| ended_with(ended)))
}

fn ended_with(ended: Ended) -> Answer {
    Answer::Ended {
        ended,
        outputs: Vec::new(),
    }
}

/// How often it is looked whether something is left of a command that has ended.
const LOOKS_MS: u16 = 500;

/// Waits until the command has ended, or until something says that it should; says whether
/// the latter. Of a command that has ended already, waits for a while only.
fn wait(signals: &Signals, socket: BorrowedFd<'_>, command: Option<&Process>) -> bool {
    let mut polled = vec![
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        // There is nothing more to come but the end.
        PollFd::new(socket, PollFlags::POLLIN),
    ];
    polled.extend(command.map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN)));
    let timeout = match command {
        Some(_) => PollTimeout::NONE,
        None => PollTimeout::from(LOOKS_MS),
    };
    let _ = nix::poll::poll(&mut polled, timeout);
    let closed = polled[1].any() == Some(true);
    let mut told = closed;
    while let Some((signal, _)) = signals.next() {
        told |= !matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2);
    }
    told
}
