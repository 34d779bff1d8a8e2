//! The daemon's side of the socket: a thread per connection.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{getsockopt, sockopt};
use parking_lot::Mutex;

use super::address::Address;
use super::{Hello, Reply, Request, Wire};
use crate::error::{Context, Result};

/// Connections at a time. A running step holds one.
const LIMIT: usize = 1024;
/// What a client is told when there is no thread for it.
const NO_THREAD: &str =
    "the daemon can start no more threads: see the pids limit of its cgroup, and `ulimit -u`";
/// How long that client has to say hello: nobody else is served meanwhile.
const NO_THREAD_WAIT: Duration = Duration::from_secs(1);

/// Carries out requests.
pub trait Handler: Send + Sync + 'static {
    /// Carries out one request; may go on talking over the connection.
    fn handle(&self, request: Request, connection: &mut Connection) -> Reply;
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
}

impl Connection {
    /// Sends a reply that is not the last one.
    ///
    /// # Errors
    /// As write(2); `EPIPE` when the client is gone.
    pub fn send(&mut self, reply: &Reply) -> Result<()> {
        self.wire.send(reply)
    }

    /// Sends a piece of content; the last reply follows.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn send_content(&mut self, bytes: &[u8]) -> Result<()> {
        let length = bytes.len();
        self.wire.send(&Reply::Content { length })?;
        self.wire.send_bytes(bytes)
    }

    /// Sends a reply and waits for the next request of the same client; `None`
    /// when it has gone away, without a word or in the middle of one.
    pub fn turn(&mut self, reply: &Reply) -> Option<Request> {
        self.wire.send(reply).ok()?;
        self.wire.receive().ok().flatten()
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

/// The listening socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    supervisor: i32,
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
        })
    }

    /// Accepts connections until the process ends.
    pub fn serve(self, handler: &Arc<dyn Handler>) {
        let open = Arc::new(AtomicUsize::new(0));
        for stream in self.listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    log::warn!("accept: {error}");
                    continue;
                }
            };
            let guard = Guard(Arc::clone(&open));
            let full = open.fetch_add(1, Ordering::Relaxed) >= LIMIT;
            let refusal = full.then_some("the daemon has too many connections");
            let handler = Arc::clone(handler);
            let hello = Hello::own(self.supervisor);
            let talk = move |stream, refusal| {
                let _guard = guard;
                if let Err(error) = talk(stream, &hello, refusal, &*handler) {
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
                let _ = stream.set_read_timeout(Some(NO_THREAD_WAIT));
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

fn talk(
    stream: UnixStream,
    hello: &Hello,
    refusal: Option<&str>,
    handler: &dyn Handler,
) -> Result<()> {
    let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
    let mut wire = Wire::new(stream);
    if peer.uid() != nix::unistd::geteuid().as_raw() {
        log::warn!(
            "refused a connection of uid {} (pid {})",
            peer.uid(),
            peer.pid()
        );
        return Ok(());
    }
    wire.send(hello)?;
    let Some(client) = wire.receive::<Hello>()? else {
        return Ok(());
    };
    if let Some(refusal) = refusal {
        // Closed with a request unread, the socket would drop the answer.
        let _ = wire.receive::<Request>();
        return wire.send(&Reply::failure(1, refusal));
    }
    let mut connection = Connection { wire };
    loop {
        let request = match connection.wire.receive::<Request>() {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                let text = format!("the daemon does not understand the request ({error})");
                return connection.wire.send(&Reply::failure(1, text));
            }
        };
        let reply = if request.frozen() || hello.fits(&client) {
            handler.handle(request, &mut connection)
        } else {
            let text = format!(
                "the daemon is harness-fs {} but the command line is {}",
                hello.version, client.version
            );
            Reply::failure(1, text)
        };
        connection.wire.send(&reply)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::Client;
    use super::*;

    struct Echo;
    impl Handler for Echo {
        fn handle(&self, request: Request, connection: &mut Connection) -> Reply {
            match request {
                Request::StepList {} => match connection.turn(&Reply::done()) {
                    Some(next) => Reply::report(format!("{next:?}"), &1),
                    None => Reply::done(),
                },
                other => Reply::report(format!("{other:?}"), &0),
            }
        }
    }

    fn start() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::listen(&dir.path().join(super::super::SOCKET), 0).unwrap();
        std::thread::spawn(move || server.serve(&(Arc::new(Echo) as Arc<dyn Handler>)));
        dir
    }

    #[test]
    fn requests_and_replies_take_turns() {
        let dir = start();
        let patience = super::super::Patience {
            tell: |_| {},
            limit: None,
        };
        let mut client = Client::connect(dir.path(), "x", patience).unwrap();
        assert!(Hello::own(0).fits(&client.daemon));
        let Reply::Report { text, .. } = client.ask(&Request::Status {}).unwrap() else {
            panic!("no report");
        };
        assert_eq!(text, "Status");
        client.ask(&Request::StepList {}).unwrap();
        let Reply::Report { data, .. } = client.ask(&Request::SnapshotList {}).unwrap() else {
            panic!("no report");
        };
        assert_eq!(data, 1);
    }

    #[test]
    fn only_the_owner_reaches_the_socket_and_nonsense_is_answered() {
        let dir = start();
        let path = dir.path().join(super::super::SOCKET);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut wire = Wire::new(UnixStream::connect(&path).unwrap());
        wire.send(&Hello::own(0)).unwrap();
        let _: Option<Hello> = wire.receive().unwrap();
        wire.send(&"nonsense").unwrap();
        let mut answer = String::new();
        wire.stream().read_to_string(&mut answer).unwrap();
        assert!(answer.contains("does not understand"), "{answer}");
    }

    #[test]
    fn another_version_may_only_ask_for_what_is_frozen() {
        let dir = start();
        let path = dir.path().join(super::super::SOCKET);
        let mut wire = Wire::new(UnixStream::connect(&path).unwrap());
        let client = Hello {
            version: "0.0.0".to_owned(),
            ..Hello::own(0)
        };
        wire.send(&client).unwrap();
        let _: Option<Hello> = wire.receive().unwrap();
        wire.send(&Request::Status {}).unwrap();
        assert!(matches!(
            wire.receive().unwrap(),
            Some(Reply::Report { .. })
        ));
        wire.send(&Request::SnapshotList {}).unwrap();
        let Some(Reply::Failure { message, .. }) = wire.receive().unwrap() else {
            panic!("not refused");
        };
        assert!(message.contains("0.0.0") && message.contains(super::super::VERSION));
    }
}
