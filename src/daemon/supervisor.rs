//! The supervisor: starts the server, passes signals on, and when the server
//! dies sees to it that nothing hangs and the reason is known.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::death::{self, End};
use super::{
    Config, LOG, OWN, Ready, SERVE, Start, StateLock, cleanup, limits, log_file, remove_own,
};
use crate::control::has_stage;
use crate::error::{Context, Error, Result};
use crate::stage::slots;
use crate::sys::process;

/// From a request to end until the server is killed; all is over in 10 seconds.
const PATIENCE: Duration = Duration::from_secs(9);

/// The supervisor as a process of its own: away from the terminal and the
/// working directory of whoever started it. Says on standard output when the
/// stage is ready. Returns the exit code.
pub fn supervise_detached(config: &Config) -> u8 {
    // Whoever starts it may hold signals back for itself.
    let _ = SigSet::empty().thread_set_mask();
    // Fails only for the leader of a process group, which a child is not.
    let _ = nix::unistd::setsid();
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    match out {
        Ok(out) => supervise(config, File::from(out)),
        Err(_) => 1,
    }
}

/// Runs the server until it ends and cleans up after it; says through `ready`
/// when the stage can be used, or why not. Returns the exit code.
pub fn supervise(config: &Config, mut ready: File) -> u8 {
    let _ = nix::sys::prctl::set_name(c"harness-fs");
    let _ = std::env::set_current_dir("/");
    log_file::start(config.log.as_deref());
    limits::lift();
    let before = Before::of(&config.state_dir);
    let lock = match lock(config, &before.made).and_then(|lock| tidy(config).map(|()| lock)) {
        Ok(lock) => lock,
        Err(error) => {
            // What is in the directory is somebody else's, a log of this would be too.
            let message = error.to_string();
            Ready::No { code: 1, message }.say(&mut ready);
            if before.made.get() {
                let _ = std::fs::remove_dir(&config.state_dir);
            }
            return 1;
        }
    };
    if let Some(log) = &config.log
        && let Err(error) = log_file::point_to(&config.state_dir.join(LOG), log)
    {
        log::warn!("{error}");
    }
    let code = match run(config, &ready) {
        Ok(End::Clean) => 0,
        Ok(End::NotStarted(code)) => {
            forget_failed_start(config, &before);
            code
        }
        Ok(End::Died(reason)) => {
            finish_removal(config);
            // Nobody listens any more if it had been ready.
            let message = format!("the daemon {reason} before its stage was ready");
            Ready::No { code: 1, message }.say(&mut ready);
            1
        }
        Err(error) => {
            log::error!("{error}");
            let message = error.to_string();
            Ready::No { code: 1, message }.say(&mut ready);
            forget_failed_start(config, &before);
            1
        }
    };
    drop(lock);
    code
}

/// Makes the state directory, for root only, and takes it; says whether it was
/// made.
fn lock(config: &Config, made: &Cell<bool>) -> Result<StateLock> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = &config.state_dir;
    StateLock::make(dir, dir, &|| {
        match dir.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // What it is shows when it is locked.
            there => return there.map(drop).context(|| dir.display().to_string()),
        }
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).context(|| parent.display().to_string())?;
        }
        let mut builder = std::fs::DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(dir);
        created.context(|| dir.display().to_string())?;
        made.set(true);
        Ok(())
    })
}

/// Before a new stage: sweeps what is left of one whose removal was cut off.
///
/// # Errors
/// `ENOTEMPTY` if it is not ours: it would be removed with the stage.
fn tidy(config: &Config) -> Result<()> {
    let dir = &config.state_dir;
    if matches!(config.start, Start::Resume) || has_stage(dir)? {
        return Ok(());
    }
    let found = OWN.iter().find(|name| dir.join(name).exists());
    let Some(found) = found else {
        return Ok(());
    };
    if !dir.join(super::lock::FILE).exists() {
        let text = format!(
            "{} holds something else ('{found}') and no stage: choose an empty directory for the state",
            dir.display()
        );
        return Err(Error::new(Errno::ENOTEMPTY, text));
    }
    let _server = StateLock::of_server(dir)?;
    log::info!("sweeping what is left of a stage that was being removed");
    cleanup::clean(dir, &config.label)?;
    remove_own(dir)
}

fn run(config: &Config, ready: &File) -> Result<End> {
    let mut signals = process::heeded(&[Signal::SIGINT, Signal::SIGHUP]);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let server = start(config, ready)?;
    let server = Pid::from_raw(i32::try_from(server.id()).map_err(|_| Errno::ESRCH)?);
    let mut asked: Option<Instant> = None;
    let mut late = false;
    let end = loop {
        if let Some(end) = reap(server) {
            break end;
        }
        let timeout = match asked {
            Some(asked) if !late => {
                let left = PATIENCE.saturating_sub(asked.elapsed());
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            }
            _ => PollTimeout::NONE,
        };
        let mut polled = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut polled, timeout);
        while let Ok(Some(info)) = signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).map(Signal::try_from);
            let signal = signal.ok().and_then(Result::ok);
            if signal != Some(Signal::SIGCHLD) && asked.is_none() {
                asked = Some(Instant::now());
                let _ = kill(server, signal.unwrap_or(Signal::SIGTERM));
            }
        }
        if asked.is_some_and(|asked| asked.elapsed() >= PATIENCE) && !late {
            late = true;
            let _ = kill(server, Signal::SIGKILL);
        }
    };
    Ok(match end {
        End::Died(_) if late => clean_up(
            config,
            End::Died("did not end in time and was killed".to_owned()),
        ),
        end => clean_up(config, end),
    })
}

/// Starts this program again as the server, its standard output being where it
/// says that it is ready.
fn start(config: &Config, ready: &File) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let log_to = match config.log {
        Some(_) => Stdio::null(),
        None => Stdio::inherit(),
    };
    let mut server = Command::new("/proc/self/exe")
        .arg0("harness-fs")
        .arg(SERVE)
        .stdin(Stdio::piped())
        .stdout(Stdio::from(ready.try_clone()?))
        .stderr(log_to)
        .spawn()
        .context(|| "start the server")?;
    let mut config = config.clone();
    config.own_processes.push(nix::unistd::getpid().as_raw());
    if let Some(mut stdin) = server.stdin.take() {
        // If it died already, its end tells.
        let _ = stdin.write_all(&serde_json::to_vec(&config)?);
    }
    Ok(server)
}

/// Takes the wait status of every child that has ended. As PID 1 there are
/// strangers among them, who would stay zombies.
fn reap(server: Pid) -> Option<End> {
    let mut end = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return end,
            Err(errno) => {
                let unheard = || End::Died(format!("has ended without a word ({errno})"));
                return Some(end.unwrap_or_else(unheard));
            }
            Ok(status) if status.pid() == Some(server) => end = End::of(status).or(end),
            Ok(_) => {}
        }
    }
}

/// After a death: first the reason, for whoever looks, then the mounts.
fn clean_up(config: &Config, end: End) -> End {
    if let End::Died(reason) = &end {
        log::error!("the daemon of the stage '{}' {reason}", config.label);
        let kept = has_stage(&config.state_dir);
        if kept.unwrap_or(true)
            && let Err(error) = death::write(&config.state_dir, reason)
        {
            log::error!("{error}");
        }
    }
    // One that never had its lock has nothing to clean up: what is mounted is another server's.
    let lock = match StateLock::of_server(&config.state_dir) {
        Ok(None) if matches!(end, End::NotStarted(_)) => return end,
        Ok(lock) => lock,
        Err(error) => {
            log::error!("cannot clean up: {error}");
            return end;
        }
    };
    match cleanup::clean(&config.state_dir, &config.label) {
        Ok(left) if left.is_empty() => {}
        Ok(left) => {
            let left: Vec<String> = left.iter().map(|at| at.display().to_string()).collect();
            log::warn!("unmounted after the daemon: {}", left.join(", "));
        }
        Err(error) => log::error!("cannot clean up: {error}"),
    }
    drop(lock);
    end
}

/// A server that died before there was a stage, or while it removed it, leaves
/// nothing that could be resumed.
fn finish_removal(config: &Config) {
    let dir = &config.state_dir;
    if has_stage(dir).unwrap_or(true) {
        return;
    }
    // Not below another server, which may have outlived its supervisor.
    let swept = StateLock::of_server(dir).and_then(|_server| {
        slots::close(&config.label)?;
        remove_own(dir)?;
        super::forget_files(dir);
        Ok(())
    });
    if let Err(error) = swept {
        log::warn!("{error}");
    }
}

/// What was there before a start, and what was made for it.
struct Before {
    /// Whether the directory was made for this start.
    made: Cell<bool>,
    files: Vec<PathBuf>,
}

impl Before {
    fn of(state_dir: &Path) -> Before {
        Before {
            made: Cell::new(false),
            files: super::own_files(state_dir),
        }
    }
}

/// A stage that never was leaves nothing behind, but for what was there before.
fn forget_failed_start(config: &Config, before: &Before) {
    let dir = &config.state_dir;
    if matches!(config.start, Start::Resume) || has_stage(dir).unwrap_or(true) {
        return;
    }
    if let Err(error) = slots::close(&config.label).and_then(|()| remove_own(dir)) {
        log::warn!("{error}");
    }
    for file in super::own_files(dir) {
        if !before.files.contains(&file) {
            let _ = std::fs::remove_file(file);
        }
    }
    if before.made.get() {
        let _ = std::fs::remove_dir(dir);
    }
}
