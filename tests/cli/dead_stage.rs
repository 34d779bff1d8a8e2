//! What is left of a stage whose daemon is gone.

use std::os::unix::net::UnixListener;

use super::rig::{Rig, ran};

fn kept(rig: &Rig) {
    std::fs::create_dir(rig.state()).unwrap();
    std::fs::write(rig.state().join("stage.json"), "{\"format\":1}").unwrap();
}

#[test]
fn a_daemon_that_died_is_told_of_with_its_reason() {
    let rig = Rig::new();
    kept(&rig);
    let died = r#"{"reason":"was killed by SIGKILL","at":1,"supervisor":0}"#;
    std::fs::write(rig.state().join("died"), died).unwrap();
    let expected = "was killed by SIGKILL: `harness-fs mount --resume` continues";
    rig.run(&["snapshot", "list"]).refused(5, expected);
    rig.run(&["status"]).refused(5, expected);
    rig.run(&["step", "run", "a", "--", "true"])
        .refused(125, expected);
    rig.run(&["unmount", "--apply", "out"]).refused(5, expected);
    assert!(rig.state().join("stage.json").exists());
}

#[test]
fn a_socket_nobody_listens_at_is_a_dead_daemon() {
    let rig = Rig::new();
    kept(&rig);
    drop(UnixListener::bind(rig.state().join("control.sock")).unwrap());
    rig.run(&["status"]).refused(5, "has ended without a word");
}

#[test]
fn kept_state_is_not_mounted_and_can_be_discarded() {
    let rig = Rig::new();
    kept(&rig);
    std::fs::create_dir_all(rig.state().join("layers/000001-a/tree")).unwrap();
    rig.run(&["status"])
        .refused(3, "`harness-fs mount --resume` brings it back");
    let ran = rig.run(&["unmount"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("discarded the state"), "{ran:?}");
    assert!(!rig.state().exists());
}

/// It was offered to bring back what this version cannot read.
#[test]
fn state_of_a_newer_format_is_not_offered_to_be_resumed() {
    let rig = Rig::new();
    kept(&rig);
    std::fs::write(rig.state().join("stage.json"), "{\"format\":7}").unwrap();
    let ws = rig.path().join("ws");
    let mount = ["mount", "--workspace", ws.to_str().unwrap()];
    let commands: [(&[&str], i32); 4] = [
        (&["status"], 3),
        (&["snapshot", "list"], 3),
        (&["unmount", "--keep-state"], 3),
        (&mount, 1),
    ];
    for (command, code) in commands {
        let ran = rig.run(command);
        ran.refused(code, "this is format 7");
        assert!(!ran.err.contains("--resume"), "{ran:?}");
    }
    let died = r#"{"reason":"was killed by SIGKILL","at":1,"supervisor":0}"#;
    std::fs::write(rig.state().join("died"), died).unwrap();
    let ran = rig.run(&["status"]);
    ran.refused(5, "this is format 7");
    assert!(!ran.err.contains("--resume"), "{ran:?}");
    assert_eq!(rig.run(&["unmount"]).code, 0);
    assert!(!rig.state().exists());
}

/// Two of several at a time ended with "No such file or directory".
#[test]
fn an_unmount_that_comes_too_late_finds_no_stage() {
    let rig = Rig::new();
    for _ in 0..5 {
        kept(&rig);
        let all = std::iter::repeat_with(|| {
            let mut command = rig.command(&rig.state());
            command.arg("unmount").stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        });
        let all: Vec<_> = all.take(6).collect();
        let all = all
            .into_iter()
            .map(|one| ran(one.wait_with_output().unwrap()));
        let all: Vec<_> = all.collect();
        let done = all.iter().filter(|ran| ran.code == 0).count();
        assert_eq!(done, 1, "{all:?}");
        for late in all.iter().filter(|ran| ran.code != 0) {
            assert_eq!(late.code, 3, "{late:?}");
            assert!(late.err.contains("stage '"), "{late:?}");
        }
    }
}

#[test]
fn a_bundle_without_a_daemon_holds_what_there_is() {
    let rig = Rig::new();
    kept(&rig);
    std::fs::write(rig.state().join("daemon.log"), "a line\n").unwrap();
    std::fs::create_dir_all(rig.state().join("layers/000001-a/tree/0")).unwrap();
    std::fs::write(rig.state().join("layers/000001-a/tree/0/secret"), "s3cr3t").unwrap();
    let ran = rig.run(&["debug", "bundle", "--output", "b.tar.zst"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let file = std::fs::File::open(rig.path().join("b.tar.zst")).unwrap();
    let mut archive = tar::Archive::new(zstd::Decoder::new(file).unwrap());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let path = entry.unwrap().path().unwrap().into_owned();
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    let expected = [
        "status.json",
        "stage.json",
        "daemon.log",
        "mountinfo",
        "versions.json",
    ];
    assert_eq!(names, expected);
}
