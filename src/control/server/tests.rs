use std::io::Read;

use nix::errno::Errno;

use super::*;
use crate::control::Client;

/// Counts the requests that it has carried out.
#[derive(Default)]
struct Echo(AtomicUsize);
impl Handler for Echo {
    fn handle(&self, request: Request, connection: &mut Connection) -> Reply {
        match request {
            Request::StepList { .. } => match connection.ended(&Reply::done()) {
                Some(ended) => Reply::report(format!("{ended:?}"), &1),
                None => Reply::done(),
            },
            Request::Unmount { .. } => {
                connection.answer(&Reply::report("", &2)).unwrap();
                Reply::failure(1, "answered twice")
            }
            // More than a socket's buffers hold.
            Request::Diff { .. } => {
                let long = Reply::report("x".repeat(16 << 20), &3);
                let answered = connection.answer(&long);
                assert_eq!(answered.unwrap_err().errno(), Errno::EAGAIN);
                self.0.fetch_add(1, Ordering::Relaxed);
                Reply::done()
            }
            Request::GroupClose { .. } => Reply::report("", &self.0.load(Ordering::Relaxed)),
            other => Reply::report(format!("{other:?}"), &0),
        }
    }
}

fn start() -> tempfile::TempDir {
    start_with(LIMITS)
}

fn start_with(limits: Limits) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::listen(&dir.path().join(crate::control::SOCKET), 0).unwrap();
    server.limits = limits;
    std::thread::spawn(move || server.serve(&(Arc::new(Echo::default()) as Arc<dyn Handler>)));
    dir
}

#[test]
fn requests_and_replies_take_turns() {
    let dir = start();
    let patience = crate::control::Patience {
        tell: |_| {},
        limit: None,
    };
    let mut client = Client::connect(dir.path(), "x", patience).unwrap();
    assert!(Hello::own(0).fits(&client.daemon));
    let Reply::Report { text, .. } = client.ask(&Request::Status {}).unwrap() else {
        panic!("no report");
    };
    assert_eq!(text, "Status");
    let mut data = |request: &Request| match client.ask(request).unwrap() {
        Reply::Report { data, .. } => data,
        other => panic!("no report but {other:?}"),
    };
    let unmount = Request::Unmount {
        keep_state: false,
        apply: None,
        all: false,
    };
    assert_eq!(data(&unmount), 2);
    assert_eq!(data(&Request::SnapshotList {}), 0);
}

/// Speaks to the server, hello included; strict turns are up to the caller.
fn speak(dir: &Path, hello: &str) -> Wire {
    let stream = UnixStream::connect(dir.join(crate::control::SOCKET)).unwrap();
    let mut wire = Wire::new(stream);
    let _: Hello = wire.receive().unwrap().unwrap();
    say(&wire, hello);
    wire
}

fn say(wire: &Wire, line: &str) {
    let mut stream = wire.stream();
    std::io::Write::write_all(&mut stream, format!("{line}\n").as_bytes()).unwrap();
}

/// The code and the message of a failure.
fn refused(wire: &mut Wire) -> (u8, String) {
    match wire.receive().unwrap() {
        Some(Reply::Failure { code, message, .. }) => (code, message),
        other => panic!("no failure but {other:?}"),
    }
}

const HELLO: &str = r#"{"protocol":1}"#;

#[test]
fn what_is_not_understood_is_answered_and_the_client_may_go_on() {
    let dir = start();
    let mut wire = speak(dir.path(), HELLO);
    for bad in [
        "",
        "nonsense",
        r#""status""#,
        r#"{"status":{"fast":true}}"#,
        r#"{"unmount":{"keep_stat":true}}"#,
        r#"{"step_run":{"step":"a","on_confict":"last"}}"#,
        r#"{"step_begin":{}}"#,
        r#"{"no_such_request":{}}"#,
        r#"{"status":{},"step_list":{}}"#,
    ] {
        say(&wire, bad);
        let (code, message) = refused(&mut wire);
        assert_eq!(code, 2, "{bad}: {message}");
        assert!(message.contains("does not understand"), "{bad}: {message}");
    }
    wire.send(&Request::Status {}).unwrap();
    let reply = wire.receive().unwrap();
    assert!(matches!(reply, Some(Reply::Report { .. })), "{reply:?}");
    let mut wire = speak(dir.path(), r#"{"status":{}}"#);
    assert!(refused(&mut wire).1.contains(HELLO));
    assert!(wire.receive::<Reply>().unwrap().is_none());
}

#[test]
fn a_line_that_is_too_long_is_not_read_on() {
    let dir = start();
    let mut wire = speak(dir.path(), HELLO);
    let long = vec![b'x'; usize::try_from(crate::control::wire::LONGEST_REQUEST).unwrap()];
    // What is behind the limit may find nobody any more.
    let _ = std::io::Write::write_all(&mut wire.stream(), &long);
    assert!(refused(&mut wire).1.contains("more than 16 MiB"));
    assert!(wire.receive::<Reply>().unwrap().is_none());
}

#[test]
fn while_a_command_runs_only_its_end_can_be_told() {
    let dir = start();
    let mut wire = speak(dir.path(), HELLO);
    wire.send(&Request::StepList { reads: false }).unwrap();
    let _: Reply = wire.receive().unwrap().unwrap();
    for bad in [r#"{"status":{}}"#, "nonsense"] {
        say(&wire, bad);
        assert_eq!(refused(&mut wire).0, 2, "{bad}");
    }
    say(&wire, r#"{"step_ended":{"exit_code":7}}"#);
    let Some(Reply::Report { text, .. }) = wire.receive().unwrap() else {
        panic!("no report");
    };
    let ended = "Ended { started: true, exit_code: 7, signal: None, timed_out: false }";
    assert_eq!(text, ended);
}

#[test]
fn who_does_not_read_does_not_hold_up_what_follows_the_answer() {
    let dir = start_with(Limits {
        patience: Duration::from_millis(1),
        ..LIMITS
    });
    let deaf = speak(dir.path(), HELLO);
    say(&deaf, r#"{"diff":{}}"#);
    let mut other = speak(dir.path(), HELLO);
    loop {
        say(&other, r#"{"group_close":{"group":"g"}}"#);
        match other.receive().unwrap() {
            Some(Reply::Report { data, .. }) if data == 1 => break,
            Some(Reply::Report { .. }) => {}
            reply => panic!("{reply:?}"),
        }
    }
}

#[test]
fn connections_beyond_the_limit_are_told_so_and_do_not_stay() {
    let limits = Limits {
        connections: 2,
        haste: Duration::from_secs(600),
        ..LIMITS
    };
    let dir = start_with(limits);
    let connect = || UnixStream::connect(dir.path().join(crate::control::SOCKET)).unwrap();
    let silent = [connect(), connect()];
    let mut wire = speak(dir.path(), HELLO);
    assert!(refused(&mut wire).1.contains("too many connections"));
    // The request that was on its way finds somebody still.
    wire.send(&Request::Status {}).unwrap();
    assert!(wire.receive::<Reply>().unwrap().is_none());
    drop(silent);
    // That they are gone is seen a little later.
    loop {
        let mut wire = speak(dir.path(), HELLO);
        wire.send(&Request::Status {}).unwrap();
        match wire.receive().unwrap() {
            Some(Reply::Report { .. }) => break,
            Some(Reply::Failure { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let hasty = Limits {
        connections: 0,
        haste: Duration::from_millis(1),
        ..LIMITS
    };
    let dir = start_with(hasty);
    let mut silent = UnixStream::connect(dir.path().join(crate::control::SOCKET)).unwrap();
    let mut said = String::new();
    silent.read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn only_the_owner_reaches_the_socket() {
    let dir = start();
    let path = dir.path().join(crate::control::SOCKET);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn another_protocol_may_only_ask_for_what_is_frozen() {
    let dir = start();
    let mut wire = speak(dir.path(), r#"{"protocol":99,"version":"8.0.0"}"#);
    wire.send(&Request::Status {}).unwrap();
    let reply = wire.receive().unwrap();
    assert!(matches!(reply, Some(Reply::Report { .. })), "{reply:?}");
    for request in [r#"{"snapshot_list":{}}"#, r#"{"of_protocol_99":{}}"#] {
        say(&wire, request);
        let (code, message) = refused(&mut wire);
        assert_eq!(code, 1, "{message}");
        assert!(message.contains("8.0.0 (protocol 99)"), "{message}");
        assert!(message.contains(crate::control::VERSION), "{message}");
    }
}

#[test]
fn another_version_of_the_same_protocol_may_ask_for_everything() {
    let dir = start();
    let mut wire = speak(dir.path(), r#"{"protocol":1,"version":"mine 3","later":1}"#);
    wire.send(&Request::SnapshotList {}).unwrap();
    let reply = wire.receive().unwrap();
    assert!(matches!(reply, Some(Reply::Report { .. })), "{reply:?}");
}
