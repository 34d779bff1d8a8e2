//! What is left of a stage whose daemon is gone.

use std::os::unix::net::UnixListener;

use super::rig::{Rig, ran};

fn kept(rig: &Rig) {
    std::fs::create_dir(rig.state()).unwrap();
    rig.keep_a_stage();
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
        ran.refused(code, "is of format 7");
        assert!(!ran.err.contains("--resume"), "{ran:?}");
    }
    let died = r#"{"reason":"was killed by SIGKILL","at":1,"supervisor":0}"#;
    std::fs::write(rig.state().join("died"), died).unwrap();
    let ran = rig.run(&["status"]);
    ran.refused(5, "is of format 7");
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
fn what_is_discarded_is_told() {
    let rig = Rig::new();
    let step = r#"{"state":"kept","base_stack":[],"layer":"000002-s","started":1}"#;
    let snapshot = r#"{"stack":["000001-a"],"own_base":true,"created":1}"#;
    let options =
        r#"{"name":"x","mapped":["/harness"],"passthrough":true,"durable":false,"policies":[]}"#;
    let stage = format!(
        r#"{{"format":1,"boot_id":"b","run":1,"next_layer":3,"own_base":true,"stack":["000001-a"],
            "steps":{{"s":{step}}},"snapshots":{{"snap":{snapshot}}},"options":{options}}}"#
    );
    for json in [false, true] {
        std::fs::create_dir(rig.state()).unwrap();
        std::fs::write(rig.state().join("stage.json"), &stage).unwrap();
        let died = r#"{"reason":"was killed by SIGKILL","at":1,"supervisor":0}"#;
        std::fs::write(rig.state().join("died"), died).unwrap();
        let ran = rig.run(match json {
            true => &["unmount", "--json"],
            false => &["unmount"],
        });
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!rig.state().exists());
        if json {
            let said: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
            assert_eq!(said["ended"]["kept_state"], false);
            assert_eq!(said["ended"]["discarded_steps"][0], "s");
            assert_eq!(said["ended"]["discarded_snapshots"][0], "snap");
            assert_eq!(said["ended"]["discarded_layers"][0], "000001-a");
            assert!(said["applied"].is_null());
        } else {
            for part in [
                ": 1 layer\n",
                "discarded steps: s\n",
                "discarded snapshots: snap\n",
            ] {
                assert!(ran.out.contains(part), "no {part:?} in {ran:?}");
            }
        }
    }
}

#[test]
fn what_is_left_of_a_stage_is_removed() {
    let rig = Rig::new();
    let layer = rig.state().join("layers/000001-a/tree/0");
    let left = |names: &[&str]| {
        std::fs::create_dir_all(&layer).unwrap();
        std::fs::write(layer.join(".netrc"), "a secret").unwrap();
        for name in names {
            std::fs::write(rig.state().join(name), "").unwrap();
        }
    };
    // Without the lock of a daemon it may be anybody's.
    left(&[]);
    rig.run(&["unmount"]).refused(3, "there is no stage");
    assert!(layer.exists());
    left(&["lock", "daemon.log", "daemon.log.1"]);
    rig.run(&["unmount", "--apply", "out"])
        .refused(3, "there is no stage");
    let ran = rig.run(&["unmount"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("removed what was left"), "{ran:?}");
    assert!(!rig.state().exists());
    rig.run(&["unmount"]).refused(3, "there is no stage");
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
