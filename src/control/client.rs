//! The command line's side of the socket.

use std::fs::File;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat;
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::resumable::only_discarded;
use super::{DIED, Hello, Reply, Request, SOCKET, STEP_SOCKET, Wire};
use crate::error::{Context, Error, Result};
use crate::sys::process::Process;

/// The stage's own file in the state directory.
pub const STAGE_FILE: &str = "stage.json";
/// How long a daemon may be silent before that is told.
const SILENCE: Duration = Duration::from_secs(3);
/// How long the daemon's supervisor may take to clean up.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// What is found in a state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhereStage {
    /// Nothing of a stage.
    Nowhere,
    /// The state of a stage that was ended with its state kept.
    Kept,
    /// The state of a stage whose daemon died.
    Dead(Option<Death>),
    /// A socket; whether somebody answers there is not known.
    Socket,
}

/// Why a daemon ended, as its supervisor wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// As in "was killed by SIGKILL".
    pub reason: String,
    /// When, in seconds since the epoch.
    pub at: u64,
    /// The supervisor, which ends when it has cleaned up.
    pub supervisor: i32,
}

/// Looks for a stage in a state directory.
pub fn find(state_dir: &Path) -> WhereStage {
    if let Some(death) = death(state_dir) {
        WhereStage::Dead(Some(death))
    } else if may_be_there(&state_dir.join(SOCKET)) {
        WhereStage::Socket
    } else if may_be_there(&state_dir.join(STAGE_FILE)) {
        WhereStage::Kept
    } else {
        WhereStage::Nowhere
    }
}

/// Whether a state directory holds a stage.
///
/// # Errors
/// As stat(2), but for `ENOENT` and `ENOTDIR`, naming the path: a disk that fails
/// does not tell that there is none.
pub fn has_stage(state_dir: &Path) -> Result<bool> {
    let file = state_dir.join(STAGE_FILE);
    match std::fs::metadata(&file) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error).context(|| file.display().to_string()),
    }
}

/// A disk that fails tells nothing of what is there: the daemon may answer all the
/// same.
fn may_be_there(path: &Path) -> bool {
    use ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    let absent = [NotFound, NotADirectory, PermissionDenied];
    std::fs::metadata(path).map_or_else(|error| !absent.contains(&error.kind()), |_| true)
}

/// Why the daemon ended, if that is written down.
pub fn death(state_dir: &Path) -> Option<Death> {
    let bytes = std::fs::read(state_dir.join(DIED)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Why a stage cannot be talked to.
#[derive(Clone, Debug)]
pub enum Problem {
    /// There is none.
    NoStage(String),
    /// Its daemon is gone.
    Gone(String),
    /// It speaks another protocol.
    Version(String),
    /// Something else.
    Other(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Other(error)
    }
}

/// What to do about a daemon that is silent: it may be stopped, or its disk hang.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Is told after some seconds, once.
    pub tell: fn(&str),
    /// How long it is waited for, if not without end.
    pub limit: Option<Duration>,
}

impl Patience {
    /// Waits until the daemon says something.
    fn wait(&self, stream: &UnixStream, label: &str) -> Result<(), Problem> {
        if readable(stream, Some(SILENCE)) {
            return Ok(());
        }
        // On this side it tells who listens (unix(7), `SO_PEERCRED`).
        let pid = getsockopt(stream, sockopt::PeerCredentials).map_or(0, |peer| peer.pid());
        (self.tell)(&format!(
            "the daemon of the stage '{label}' (pid {pid}) does not answer; waiting"
        ));
        let left = self.limit.map(|limit| limit.saturating_sub(SILENCE));
        if readable(stream, left) {
            return Ok(());
        }
        let text = format!(
            "the daemon of the stage '{label}' does not answer: if it was stopped, `kill -CONT {pid}` lets it go on"
        );
        Err(Error::new(Errno::ETIMEDOUT, text).into())
    }
}

/// Waits until something can be read; says whether it can.
fn readable(stream: &UnixStream, timeout: Option<Duration>) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)
    });
    // Interrupted, reading waits in its place.
    nix::poll::poll(&mut polled, timeout) != Ok(0)
}

/// A connection to the daemon of a stage.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    /// Whom it is connected to.
    pub daemon: Hello,
    /// What it calls the stage in messages.
    label: String,
    state_dir: PathBuf,
    supervisor: Option<Process>,
    patience: Patience,
}

impl Client {
    /// Connects to the daemon of the stage in `state_dir`.
    ///
    /// # Errors
    /// One sentence that says whether there is no stage, no daemon any more, or
    /// no answer within the patience.
    pub fn connect(state_dir: &Path, label: &str, patience: Patience) -> Result<Client, Problem> {
        if !is_ours(state_dir) {
            let text = format!("the stage '{label}' belongs to another user: run it with sudo");
            return Err(Error::new(Errno::EPERM, text).into());
        }
        match find(state_dir) {
            WhereStage::Nowhere => return Err(Problem::NoStage(no_stage(state_dir, label))),
            WhereStage::Kept => return Err(Problem::NoStage(kept(state_dir, label))),
            WhereStage::Dead(_) => return Err(gone(state_dir, label)),
            WhereStage::Socket => {}
        }
        Client::dial(SOCKET, state_dir, label, patience)
    }

    /// As [`Client::connect`], and inside of a step too, for what steps may ask.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_from_steps(
        state_dir: &Path,
        label: &str,
        patience: Patience,
    ) -> Result<Client, Problem> {
        let is_step = find(state_dir) == WhereStage::Nowhere;
        if is_step && may_be_there(&state_dir.join(STEP_SOCKET)) {
            return Client::dial(STEP_SOCKET, state_dir, label, patience);
        }
        Client::connect(state_dir, label, patience)
    }

    fn dial(
        socket: &str,
        state_dir: &Path,
        label: &str,
        patience: Patience,
    ) -> Result<Client, Problem> {
        let address = Address::of(&state_dir.join(socket));
        let connected = address.and_then(|at| Ok(UnixStream::connect(at.path())?));
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) if error.errno() == Errno::ECONNREFUSED => {
                return Err(gone(state_dir, label));
            }
            Err(error) if error.errno() == Errno::ENOENT => {
                return Err(Problem::NoStage(no_stage(state_dir, label)));
            }
            Err(error) => {
                let error = error.context(format!("connect to the stage '{label}'"));
                return Err(error.into());
            }
        };
        let mut wire = Wire::new(stream);
        let Some(()) = wire.send(&Hello::own(0)).map(Some).or_else(hang_up)? else {
            return Err(gone(state_dir, label));
        };
        patience.wait(wire.stream(), label)?;
        let Some(daemon) = wire.receive::<Hello>().or_else(hang_up)? else {
            return Err(gone(state_dir, label));
        };
        let supervisor = Process::open(daemon.supervisor).ok();
        Ok(Client {
            wire,
            daemon,
            label: label.to_owned(),
            state_dir: state_dir.to_path_buf(),
            supervisor,
            patience,
        })
    }

    /// Sends a request and waits for the reply.
    ///
    /// # Errors
    /// [`Problem::Gone`] when the daemon ends meanwhile, [`Problem::Version`]
    /// when it would not understand.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, Problem> {
        self.send(request)?;
        self.reply()
    }

    /// As [`Client::ask`], for a request that content comes before the reply to:
    /// hands it over, piece by piece.
    ///
    /// # Errors
    /// As [`Client::ask`], or what `take` reports.
    pub fn ask_for_content(
        &mut self,
        request: &Request,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Reply, Problem> {
        self.send(request)?;
        loop {
            let length = match self.reply()? {
                Reply::Content { length } => length,
                last => return Ok(last),
            };
            // What `take` reports is no word of the daemon.
            let mut taken = Ok(());
            let received = self.wire.receive_bytes(length, &mut |bytes| {
                taken = take(bytes);
                taken.clone()
            });
            taken?;
            if received.or_else(hang_up)?.is_none() {
                return Err(self.gone());
            }
        }
    }

    /// Sends a request; [`Client::reply`] has to follow.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn send(&mut self, request: &Request) -> Result<(), Problem> {
        self.send_with(request, &[])
    }

    /// As [`Client::send`], with open files.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn send_with(
        &mut self,
        request: &Request,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), Problem> {
        let own = Hello::own(0);
        if !request.frozen() && !own.fits(&self.daemon) {
            return Err(Problem::Version(mismatch(&own, &self.daemon)));
        }
        match self
            .wire
            .send_with(request, files)
            .map(Some)
            .or_else(hang_up)?
        {
            Some(()) => Ok(()),
            None => Err(self.gone()),
        }
    }

    /// Waits for the reply to what was sent.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn reply(&mut self) -> Result<Reply, Problem> {
        if self.patience.limit.is_some() {
            self.patience.wait(self.wire.stream(), &self.label)?;
        }
        let reply = self.wire.receive().or_else(hang_up)?;
        reply.ok_or_else(|| self.gone())
    }

    /// The open files that came with replies since the last time, in order.
    pub fn take_files(&mut self) -> Vec<OwnedFd> {
        self.wire.take_files()
    }

    /// Tells the daemon that the result is no longer wanted; it replies all
    /// the same.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn give_up(&self) -> Result<()> {
        Ok(self.wire.stream().shutdown(Shutdown::Write)?)
    }

    fn gone(&self) -> Problem {
        self.wait_for_the_end();
        gone(&self.state_dir, &self.label)
    }

    /// Waits until the daemon and its supervisor have ended; says whether they have.
    pub fn wait_for_the_end(&self) -> bool {
        let Some(supervisor) = &self.supervisor else {
            return true;
        };
        let mut polled = [PollFd::new(supervisor.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(CLEAN_UP).unwrap_or(PollTimeout::MAX);
        nix::poll::poll(&mut polled, timeout).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.stream().as_fd()
    }
}

/// Whether this user may talk to the stage there; a daemon says nothing at all
/// to others.
fn is_ours(state_dir: &Path) -> bool {
    match std::fs::symlink_metadata(state_dir.join(SOCKET)) {
        Ok(socket) => socket.uid() == nix::unistd::geteuid().as_raw(),
        Err(error) => error.kind() != ErrorKind::PermissionDenied,
    }
}

/// A side that is gone shows as the end of the stream or as a refused write.
fn hang_up<T>(error: Error) -> Result<Option<T>> {
    match error.errno() {
        Errno::EPIPE | Errno::ECONNRESET => Ok(None),
        _ => Err(error),
    }
}

/// `this is harness-fs 1 (protocol 1), the daemon is 2 (protocol 2): …`
fn mismatch(own: &Hello, daemon: &Hello) -> String {
    format!(
        "this is harness-fs {} (protocol {}) but the stage's daemon is {} (protocol {}): use the same version for both; \
         `status` and `unmount` work all the same",
        own.version, own.protocol, daemon.version, daemon.protocol
    )
}

fn kept(state_dir: &Path, label: &str) -> String {
    let way = match only_discarded(state_dir) {
        None => "`harness-fs mount --resume` brings it back".to_owned(),
        Some(error) => error.to_string(),
    };
    format!(
        "the stage '{label}' is not mounted, its state is kept in {}: {way}",
        state_dir.display()
    )
}

/// Why nothing is found in the state directory of a stage that has a step here,
/// if this is known to be one.
pub fn in_step(label: &str) -> Option<String> {
    let step = std::env::var("HARNESS_FS_STEP").ok()?;
    Some(format!(
        "no stage '{label}' is seen from inside the step '{step}': steps cannot give commands"
    ))
}

fn no_stage(state_dir: &Path, label: &str) -> String {
    if let Some(text) = in_step(label) {
        return text;
    }
    if is_taken(state_dir) {
        return format!(
            "the stage '{label}' is just being mounted or unmounted: wait for the command that does it, or end it"
        );
    }
    format!(
        "there is no stage '{label}' ({}): `harness-fs mount` starts one",
        state_dir.display()
    )
}

/// Whether a daemon has locked the state directory. /proc/locks (proc(5)) tells
/// it; to try the lock would be in the way of who wants it.
pub fn is_taken(state_dir: &Path) -> bool {
    let (Ok(dir), Ok(locks)) = (
        std::fs::metadata(state_dir),
        std::fs::read_to_string("/proc/locks"),
    ) else {
        return false;
    };
    let (major, minor) = (stat::major(dir.dev()), stat::minor(dir.dev()));
    let inode = format!("{major:02x}:{minor:02x}:{}", dir.ino());
    locks.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.contains(&"FLOCK") && fields.contains(&inode.as_str())
    })
}

/// Waits until no supervisor holds the state directory: one that lives writes
/// down why its server died.
fn wait_for_the_supervisor(state_dir: &Path) {
    let Ok(dir) = File::open(state_dir) else {
        return;
    };
    let (free, freed) = mpsc::channel();
    std::thread::spawn(move || {
        drop(Flock::lock(dir, FlockArg::LockShared));
        let _ = free.send(());
    });
    let _ = freed.recv_timeout(CLEAN_UP);
}

fn gone(state_dir: &Path, label: &str) -> Problem {
    let told = death(state_dir).or_else(|| {
        wait_for_the_supervisor(state_dir);
        death(state_dir)
    });
    let reason = match told {
        Some(death) => death.reason,
        None if has_stage(state_dir).is_ok_and(|there| !there) => {
            return Problem::Gone(format!(
                "the daemon of the stage '{label}' has ended while it removed the stage: `harness-fs mount` starts a new one"
            ));
        }
        None => "has ended without a word".to_owned(),
    };
    let way = match only_discarded(state_dir) {
        None => "`harness-fs mount --resume` continues with all that was acknowledged".to_owned(),
        Some(error) => error.to_string(),
    };
    Problem::Gone(format!("the daemon of the stage '{label}' {reason}: {way}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_in_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(find(dir), WhereStage::Nowhere);
        std::fs::write(dir.join(STAGE_FILE), "{}").unwrap();
        assert_eq!(find(dir), WhereStage::Kept);
        std::fs::write(dir.join(SOCKET), "").unwrap();
        assert_eq!(find(dir), WhereStage::Socket);
        let died = r#"{"reason":"was killed by SIGKILL","at":1,"supervisor":1}"#;
        std::fs::write(dir.join(DIED), died).unwrap();
        assert!(matches!(find(dir), WhereStage::Dead(Some(_))));
        let patience = Patience {
            tell: |_| {},
            limit: None,
        };
        let Err(Problem::Gone(text)) = Client::connect(dir, "x", patience) else {
            panic!("connected");
        };
        let said = "'x' was killed by SIGKILL: the stage cannot be resumed because";
        assert!(text.contains(said), "{text}");
    }
}
