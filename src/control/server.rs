//! The daemon's side of the socket: a thread per connection.

use std::io::{ErrorKind, PipeReader};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{getsockopt, sockopt};
use parking_lot::Mutex;

use super::address::Address;
use super::{Ended, Hello, Reply, Request, Wire};
use crate::error::{Context, Result};

/// What a client is told when there is one too many.
const TOO_MANY: &str = "the daemon has too many connections";
/// What a client is told when there is no thread for it.
const NO_THREAD: &str =
    "the daemon can start no more threads: see the pids limit of its cgroup, and `ulimit -u`";
/// Nobody may use up the daemon's descriptors and threads.
const LIMITS: Limits = Limits {
    connections: 1024,
    haste: Duration::from_secs(10),
    patience: Duration::from_secs(10),
};
/// Between attempts when no connection can be accepted, for lack of descriptors
/// most likely: accept(2) fails at once then, again and again.
const PAUSE: Duration = Duration::from_millis(100);
/// Between looks for processes that are to end, at first and at last.
const LOOKS: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

#[derive(Clone, Copy, Debug)]
struct Limits {
    /// At a time. A running step holds one.
    connections: usize,
    /// How long one that is refused has for its hello, and for its first request:
    /// without a thread for it, nobody else is served meanwhile.
    haste: Duration,
    /// How long a client may take to read what the end of the stage waits for.
    patience: Duration,
}

/// Carries out requests.
pub trait Handler: Send + Sync + 'static {
    /// Carries out one request. The reply is sent, unless
    /// [`Connection::answer`] has been called.
    fn handle(&self, request: Request, connection: &mut Connection) -> Reply;

    /// The connection of this number has ended, and says nothing more.
    fn left(&self, _connection: u64) {}
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    /// No other connection has the same number.
    pub id: u64,
    wire: Wire,
    /// Why the client may only ask for what is frozen, if that is so.
    stranger: Option<String>,
    /// It is inside a step.
    in_step: bool,
    /// The request that is being carried out has been answered.
    answered: bool,
    patience: Duration,
}

impl Connection {
    /// Sends the reply now, in place of the one that the handler returns. A
    /// client that reads nothing does not hold up what is to follow.
    ///
    /// # Errors
    /// As write(2); `EPIPE` when the client is gone, `EAGAIN` when it does not read.
    pub fn answer(&mut self, reply: &Reply) -> Result<()> {
        self.answer_with(reply, &[])
    }

    /// As [`Connection::answer`], with open files.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub fn answer_with(&mut self, reply: &Reply, files: &[BorrowedFd<'_>]) -> Result<()> {
        self.answered = true;
        self.wire.stream().set_write_timeout(Some(self.patience))?;
        let sent = self.wire.send_with(reply, files);
        if sent.is_err() {
            // A part of a line may be out, so nothing can follow it.
            let _ = self.wire.stream().shutdown(Shutdown::Both);
            return sent;
        }
        Ok(self.wire.stream().set_write_timeout(None)?)
    }

    /// The open files that came with what the client has sent so far, in order.
    pub fn take_files(&mut self) -> Vec<OwnedFd> {
        self.wire.take_files()
    }

    /// Sends a piece of content; the last reply follows.
    ///
    /// # Errors
    /// As write(2); `EPIPE` when the client is gone.
    pub fn send_content(&mut self, bytes: &[u8]) -> Result<()> {
        let length = bytes.len();
        self.wire.send(&Reply::Content { length })?;
        self.wire.send_bytes(bytes)
    }

    /// Lets the client run a command in a view, and waits until it says how that
    /// has ended; `None` when it has gone away.
    pub fn ended(&mut self, entered: &Reply) -> Option<Ended> {
        self.ended_after(entered, &mut |_| ())
    }

    /// As [`Connection::ended`]. Once nobody has the other end of `alarm` any more,
    /// `end` is called, to end the command, and again as long as it may have been
    /// too early: the client may not have started it yet.
    pub fn ended_or_alarmed(
        &mut self,
        entered: &Reply,
        alarm: &PipeReader,
        end: &mut dyn FnMut(),
    ) -> Option<Ended> {
        self.ended_after(entered, &mut |client| {
            if wait(&[client, alarm.as_fd()], None) {
                return;
            }
            let [mut pause, longest] = LOOKS;
            end();
            while !wait(&[client], Some(pause)) {
                end();
                pause = (pause * 2).min(longest);
            }
        })
    }

    /// `wait` is called with the client's socket before it is read.
    fn ended_after(
        &mut self,
        entered: &Reply,
        wait: &mut dyn FnMut(BorrowedFd<'_>),
    ) -> Option<Ended> {
        self.wire.send(entered).ok()?;
        loop {
            if let Request::StepEnded(ended) = self.next_after(wait)? {
                return Some(ended);
            }
            let text = "a command is running on this connection: nothing but its end, \
                        `step_ended`, can be told here";
            self.wire.send(&Reply::failure(2, text)).ok()?;
        }
    }

    /// The next request that the client may ask; `None` when it has gone away,
    /// without a word or in the middle of one. What cannot be carried out is
    /// answered, and changes nothing.
    fn next(&mut self) -> Option<Request> {
        self.next_after(&mut |_| ())
    }

    fn next_after(&mut self, wait: &mut dyn FnMut(BorrowedFd<'_>)) -> Option<Request> {
        loop {
            if !self.wire.has_more() {
                wait(self.wire.stream().as_fd());
            }
            let line = match self.wire.receive_line() {
                Ok(line) => line?,
                Err(error) => {
                    let _ = self.wire.send(&not_understood(&error));
                    return None;
                }
            };
            let request: serde_json::Result<Request> = serde_json::from_slice(&line);
            if self.in_step && request.as_ref().is_ok_and(|request| !request.for_steps()) {
                let text = "steps cannot give commands, but for `cache save` and `cache restore`";
                self.wire.send(&Reply::failure(1, text)).ok()?;
                continue;
            }
            let reply = match (request, &self.stranger) {
                (Ok(request), None) => return Some(request),
                (Ok(request), Some(_)) if Request::frozen(&request) => return Some(request),
                (_, Some(why)) => Reply::failure(1, why.as_str()),
                (Err(error), None) => not_understood(&error),
            };
            self.wire.send(&reply).ok()?;
        }
    }

    /// The process of the client.
    ///
    /// # Errors
    /// As getsockopt(2).
    pub fn peer(&self) -> Result<i32> {
        Ok(getsockopt(self.wire.stream(), sockopt::PeerCredentials)?.pid())
    }

    /// Whether the client, who waits for a reply, has gone away or given up.
    /// It has nothing to say then, so what can be read is the end.
    pub fn given_up(&self) -> bool {
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.stream().as_fd()
    }
}

/// Waits until the first of them can be read, which it says, or another, or for
/// so long.
fn wait(all: &[BorrowedFd<'_>], limit: Option<Duration>) -> bool {
    let mut polled: Vec<PollFd<'_>> = all
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let limit = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
    });
    while nix::poll::poll(&mut polled, limit) == Err(Errno::EINTR) {}
    polled[0].any().unwrap_or(false)
}

/// The listening socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    supervisor: i32,
    limits: Limits,
    in_steps: bool,
}

impl Server {
    /// Listens at `path`, which nobody but this user can reach; what an earlier
    /// daemon left there is removed.
    ///
    /// # Errors
    /// As bind(2).
    pub fn listen(path: &Path, supervisor: i32) -> Result<Server> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // The directory is 0700, so nobody is in time for the moment between.
        let address = Address::of(path)?;
        let listener = UnixListener::bind(address.path()).context(|| path.display().to_string())?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Server {
            listener,
            supervisor,
            limits: LIMITS,
            in_steps: false,
        })
    }

    /// The same, for clients inside of steps: see [`Request::for_steps`].
    #[must_use]
    pub fn for_steps(self) -> Server {
        Server {
            in_steps: true,
            ..self
        }
    }

    /// Accepts connections until the process ends.
    pub fn serve(self, handler: &Arc<dyn Handler>) {
        let open = Arc::new(AtomicUsize::new(0));
        for stream in self.listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    log::warn!("accept: {error}");
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            let guard = Guard(Arc::clone(&open));
            let full = open.fetch_add(1, Ordering::Relaxed) >= self.limits.connections;
            let refusal = full.then_some(TOO_MANY);
            let (limits, in_step) = (self.limits, self.in_steps);
            let handler = Arc::clone(handler);
            let hello = Hello::own(self.supervisor);
            let talk = move |stream, refusal| {
                let _guard = guard;
                if let Err(error) = talk(stream, (&hello, in_step), refusal, limits, &*handler) {
                    log::debug!("connection: {error}");
                }
            };
            // Whoever is first takes it: this thread, if there is no other.
            let given = Arc::new(Mutex::new(Some((stream, talk))));
            let taken = Arc::clone(&given);
            let thread = std::thread::Builder::new().name("control".to_owned());
            let started = thread.spawn(move || {
                if let Some((stream, talk)) = taken.lock().take() {
                    talk(stream, refusal);
                }
            });
            if let Err(error) = started
                && let Some((stream, talk)) = given.lock().take()
            {
                log::warn!("no thread for a connection: {error}");
                talk(stream, Some(NO_THREAD));
            }
        }
    }
}

/// Counts a connection down when its thread ends, however it ends.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client that there is a `refusal` for is only told that.
fn talk(
    stream: UnixStream,
    (hello, in_step): (&Hello, bool),
    refusal: Option<&str>,
    limits: Limits,
    handler: &dyn Handler,
) -> Result<()> {
    let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
    let mut wire = Wire::to_client(stream);
    if peer.uid() != nix::unistd::geteuid().as_raw() {
        log::warn!(
            "refused a connection of uid {} (pid {})",
            peer.uid(),
            peer.pid()
        );
        return Ok(());
    }
    wire.send(hello)?;
    if refusal.is_some() {
        wire.stream().set_read_timeout(Some(limits.haste))?;
    }
    let client = match wire.receive::<Hello>() {
        Ok(Some(client)) => client,
        Ok(None) => return Ok(()),
        Err(_) if refusal.is_some() => return Ok(()),
        Err(error) => {
            let text = format!(
                "the daemon does not understand the hello, such as {{\"protocol\":{}}} ({error})",
                hello.protocol
            );
            return wire.send(&Reply::failure(2, text));
        }
    };
    if let Some(refusal) = refusal {
        wire.send(&Reply::failure(1, refusal))?;
        // Closed already, the socket would take no request, and the client not
        // look for an answer.
        let _ = wire.receive_line();
        return Ok(());
    }
    let stranger = (!hello.fits(&client)).then(|| {
        let version = match client.version.as_str() {
            "" => "another program",
            version => version,
        };
        format!(
            "the daemon is harness-fs {} (protocol {}) but the client is {version} (protocol {}): \
             it can ask for `status` and `unmount` alone",
            hello.version, hello.protocol, client.protocol
        )
    });
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    let id = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let mut connection = Connection {
        id,
        wire,
        stranger,
        in_step,
        answered: false,
        patience: limits.patience,
    };
    let talked = answer(&mut connection, handler);
    handler.left(id);
    talked
}

fn answer(connection: &mut Connection, handler: &dyn Handler) -> Result<()> {
    while let Some(request) = connection.next() {
        let reply = handler.handle(request, connection);
        if !std::mem::take(&mut connection.answered) {
            connection.wire.send(&reply)?;
        }
    }
    Ok(())
}

fn not_understood(error: &impl std::fmt::Display) -> Reply {
    let text = format!("the daemon does not understand the request ({error})");
    Reply::failure(2, text)
}

#[cfg(test)]
mod tests;
