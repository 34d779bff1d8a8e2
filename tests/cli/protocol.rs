//! Daemons of other versions, and daemons that misbehave.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::rig::Rig;

/// A daemon that says hello and then answers every request with the next of
/// `replies`, and hangs up. Gives back the requests.
fn daemon(rig: &Rig, hello: &str, replies: &[&str]) -> JoinHandle<Vec<String>> {
    std::fs::create_dir_all(rig.state()).unwrap();
    let socket = rig.state().join("control.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    let said: Vec<String> = std::iter::once(&hello)
        .chain(replies)
        .map(|line| format!("{line}\n"))
        .collect();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut heard = Vec::new();
        for line in &said {
            match lines.next() {
                Some(Ok(request)) => heard.push(request),
                _ => break,
            }
            stream.write_all(line.as_bytes()).unwrap();
        }
        heard
    })
}

const OLD: &str = r#"{"protocol":0,"version":"0.0.9","pid":1}"#;

fn own() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(r#"{{"protocol":1,"version":"{version}","pid":1,"supervisor":0}}"#)
}

#[test]
fn another_version_is_one_sentence_that_names_both() {
    let rig = Rig::new();
    let daemon = daemon(&rig, OLD, &[]);
    let ran = rig.run(&["snapshot", "create", "x"]);
    ran.refused(1, "the stage's daemon is 0.0.9 (protocol 0)");
    assert!(
        ran.err
            .contains(&format!("harness-fs {} (", env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(daemon.join().unwrap().len(), 1, "only the hello was sent");
}

#[test]
fn status_and_unmount_work_with_another_version() {
    let rig = Rig::new();
    let report = r#"{"report":{"text":"all is well","data":{"a":1}}}"#;
    let old = daemon(&rig, OLD, &[report]);
    let ran = rig.run(&["status"]);
    assert_eq!((ran.code, &*ran.out), (0, "all is well\n"), "{ran:?}");
    assert_eq!(old.join().unwrap()[1], r#"{"status":{}}"#);
    let old = daemon(&rig, OLD, &[report]);
    let ran = rig.run(&["unmount"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(old.join().unwrap()[1].starts_with(r#"{"unmount":{"keep_state":false"#));
}

#[test]
fn a_daemon_that_hangs_up_is_gone() {
    let rig = Rig::new();
    let mute = daemon(&rig, &own(), &[]);
    rig.keep_a_stage();
    rig.run(&["snapshot", "list"]).refused(5, "mount --resume");
    mute.join().unwrap();
}

#[test]
fn failures_keep_their_code_and_their_data() {
    let rig = Rig::new();
    let failure =
        r#"{"failure":{"code":4,"message":"conflict about x","data":{"conflicts":["x"]}}}"#;
    let first = daemon(&rig, &own(), &[failure]);
    rig.run(&["step", "merge", "a"])
        .refused(4, "conflict about x");
    first.join().unwrap();
    let second = daemon(&rig, &own(), &[failure]);
    let ran = rig.run(&["step", "merge", "a", "--json"]);
    let data: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(data["conflicts"][0], "x");
    second.join().unwrap();
}
