//! The server: serves one stage from its mount to its end.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;

use super::death::{self, START_FAILED};
use super::requests::{Requests, code_of};
use super::wanted::Wanted;
use super::{Config, Ready, StateLock, end, limits, lock, log_file, start};
use crate::control::{Handler, SOCKET, STEP_SOCKET, Server};
use crate::error::{Context, Result};
use crate::export;
use crate::stage::Failure;
use crate::sys::made::Made;
use crate::sys::{memory, process};

/// How long the processes of steps may take to end after SIGTERM; the whole
/// end has ten seconds.
const SIGNAL_GRACE: Duration = Duration::from_secs(2);
/// How long requests in flight may take then.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(4);

/// Mounts the stage, says so on standard output, and serves it until a signal
/// or `unmount` ends it. Returns the exit code.
pub fn serve(config: &Config) -> u8 {
    let _ = nix::sys::prctl::set_name(c"harness-fs");
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    let supervisor = nix::unistd::getppid();
    let _ = std::env::set_current_dir("/");
    // Modes come from the requests.
    nix::sys::stat::umask(Mode::empty());
    log_file::start(config.log.as_deref());
    limits::lift();
    // Each thread of a view has a buffer for what the kernel may send at most.
    memory::give_back_large();
    let mut signals = process::heeded(&[Signal::SIGINT, Signal::SIGHUP]);
    signals.add(Signal::SIGTERM);
    // Before there are threads, so that all inherit it.
    let blocked = signals.thread_block();
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let (Ok(()), Ok(out)) = (blocked, out) else {
        return 1;
    };
    let mut out = File::from(out);
    let opened = Wanted::new(&out, &signals)
        .map_err(Failure::from)
        .and_then(|wanted| open(config, supervisor.as_raw(), &wanted));
    if opened.is_ok() {
        // Before it is said: whoever waits for that may look here.
        log::info!("serving the stage '{}'", config.label);
    }
    match opened {
        Ok(opened) if !opened.ready.say(&mut out) => {
            log::error!("not started: the command that started the stage is gone");
            unmake(config, &opened.requests);
            START_FAILED + 1
        }
        Ok(Opened { requests, made, .. }) => {
            made.keep();
            drop(out);
            close_stdout();
            // Had the supervisor died before the request for its death signal, nobody would tell.
            if nix::unistd::getppid() != supervisor {
                let _ = nix::sys::signal::raise(Signal::SIGTERM);
            }
            run(config, &requests, &signals)
        }
        Err(failure) => {
            log::error!("not started: {failure}");
            let code = code_of(&failure);
            let message = failure.to_string();
            Ready::No { code, message }.say(&mut out);
            START_FAILED + code
        }
    }
}

/// A stage that can be served.
struct Opened {
    requests: Arc<Requests>,
    ready: Ready,
    made: Made,
}

/// Takes back a stage of which nobody knows.
fn unmake(config: &Config, requests: &Requests) {
    let how = end::How {
        keep_state: matches!(config.start, super::Start::Resume),
        ..end::How::default()
    };
    let _ = end::end(requests, how);
}

fn open(config: &Config, supervisor: i32, wanted: &Wanted<'_>) -> Result<Opened, Failure> {
    let path = config.state_dir.join(lock::FILE);
    let lock = StateLock::make(&path, &config.state_dir, &|| {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        file.map(drop).context(|| path.display().to_string())
    })?;
    if matches!(config.start, super::Start::Resume) {
        over(config)?;
    }
    let started = start::start(config, wanted)?;
    let ready = Ready::Yes {
        mapped: started.mapped.clone(),
        slots: started.slots.clone(),
        notes: started.notes.clone(),
        pid: nix::unistd::getpid().as_raw(),
    };
    let requests = Arc::new(Requests::new(
        started.stage,
        started.mapped,
        lock,
        supervisor,
    ));
    // Before it is said to be ready: there may be no thread left for it.
    let listen = || -> Result<()> {
        let listen = |name| Server::listen(&config.state_dir.join(name), supervisor);
        accept(listen(STEP_SOCKET)?.for_steps(), &requests)?;
        accept(listen(SOCKET)?, &requests)
    };
    match listen() {
        Ok(()) => Ok(Opened {
            requests,
            ready,
            made: started.made,
        }),
        Err(error) => {
            unmake(config, &requests);
            Err(error.into())
        }
    }
}

/// Takes connections, on a thread of its own, for as long as the process lives.
fn accept(server: Server, requests: &Arc<Requests>) -> Result<()> {
    let handler: Arc<dyn Handler> = Arc::clone(requests) as Arc<dyn Handler>;
    let control = std::thread::Builder::new().name("accept".to_owned());
    let started = control.spawn(move || server.serve(&handler));
    started
        .map(drop)
        .context(|| "start the thread for the socket")
}

/// A stage cannot be resumed whose tree has begun to replace its base.
fn over(config: &Config) -> Result<(), Failure> {
    let apply = export::unfinished(&config.state_dir)?;
    if end::finish_apply(&config.state_dir, &config.label)?.is_none() {
        return Ok(());
    }
    let dirs = apply.into_iter().flat_map(|apply| apply.paths);
    let dirs: Vec<String> = dirs.map(|dir| dir.display().to_string()).collect();
    Err(Failure::NotFound(format!(
        "the stage '{}' is over: its `unmount --apply` was cut off and is done now, the tree is \
         in {}; `harness-fs mount` starts a new stage on it",
        config.label,
        dirs.join(", ")
    )))
}

/// Nobody reads what is printed from here on.
fn close_stdout() {
    let _ = std::io::stdout().flush();
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}

/// The stage was ended cleanly, but nobody asked for that: the next command says why.
fn without_supervisor(config: &Config) -> u8 {
    let reason = "has ended because its supervisor was killed";
    if let Err(error) = death::write(&config.state_dir, reason) {
        log::error!("{error}");
    }
    1
}

fn run(config: &Config, requests: &Arc<Requests>, signals: &SigSet) -> u8 {
    loop {
        // `unmount` raises SIGTERM too, after it has answered.
        let signal = signals.wait();
        if let Some(code) = requests.ended() {
            return code;
        }
        match signal {
            Ok(signal) => log::info!("{}: ending, the state is kept", signal.as_str()),
            Err(errno) => log::warn!("wait for a signal: {errno}"),
        }
        requests.hurry();
        let how = end::How {
            keep_state: true,
            apply: None,
            grace: SIGNAL_GRACE,
            patience: SIGNAL_PATIENCE,
        };
        let orphaned = nix::unistd::getppid().as_raw() != requests.supervisor;
        match end::end(requests, how) {
            Ok(_) if orphaned => return without_supervisor(config),
            Ok(_) => return 0,
            // An `unmount` is at it already and will raise the signal again.
            Err(end::NotEnded::ByOther) => {}
            Err(end::NotEnded::Failed(failure)) => {
                log::error!("cannot end cleanly: {failure}");
                return 1;
            }
        }
    }
}
