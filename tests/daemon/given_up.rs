//! `export` and `apply` that are ended before they are done, and what the end of the stage cuts off.

use std::fs;
use std::time::Instant;

use harness_fs::stage::failpoint;
use nix::sys::signal::Signal;

use crate::fail_points::wait_for_stop_or_end;
use crate::rig::{LIMIT, Rig, Started, alone, ended, tree};

#[test]
fn an_apply_that_is_given_up_changes_nothing() {
    alone(|rig| {
        let (ws, out) = (rig.ws(), rig.path().join("out"));
        fs::create_dir(&out).unwrap();
        fs::write(out.join("precious"), "old").unwrap();
        let before = tree(&out);
        let mount = ["mount", "--workspace", ws.to_str().unwrap()];
        let mount = rig.start_with(&mount, failpoint::VARIABLE, "apply-in-stage:1:stop");
        assert_eq!(mount.end().code, 0);
        let mut client = rig.start(&["apply", "out", "--replace"]);
        let server = wait_for_stop_or_end(rig, &client.process()).unwrap();
        client.kill();
        server.signal(Signal::SIGCONT).unwrap();
        // Waits for what is under way.
        rig.ok(&["unmount"]);
        assert_eq!(tree(&out), before);
    });
}

/// Starts an export that comes to no end by itself.
fn endless_export(rig: &Rig) -> Started {
    let endless = fs::File::create(rig.ws().join("endless")).unwrap();
    endless.set_len(1 << 40).unwrap();
    drop(endless);
    rig.ok(&["snapshot", "create", "s"]);
    let client = rig.start(&["export", "s", "--to", "out/layout"]);
    // (The first is the base, and may be done in no time.)
    let staging = rig.path().join("out/layout/.harness-fs-export");
    let second = |name: &str| name.starts_with("blob-") && name != "blob-1";
    let begun = || {
        let mut names = fs::read_dir(&staging).into_iter().flatten();
        names.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(second)))
    };
    let deadline = Instant::now() + LIMIT;
    while !begun() {
        assert!(Instant::now() < deadline, "no export: {}", rig.log());
        std::thread::yield_now();
    }
    client
}

/// Starts a step whose command runs on, and waits until it does.
fn running_step(rig: &Rig, options: &[&str]) -> Started {
    let begun = rig.path().join("begun");
    let script = format!("touch made; : >{}; sleep 600", begun.display());
    let arguments = [&["step", "run"], options, &["--", "sh", "-c", &script]].concat();
    let client = rig.start(&arguments);
    let deadline = Instant::now() + LIMIT;
    while !begun.exists() {
        assert!(Instant::now() < deadline, "no step: {}", rig.log());
        std::thread::yield_now();
    }
    client
}

#[test]
fn an_export_that_is_given_up_leaves_nothing() {
    alone(|rig| {
        rig.mount();
        endless_export(rig).kill();
        rig.ok(&["unmount"]);
        assert!(!rig.path().join("out").exists());
    });
}

#[test]
fn a_signal_to_the_daemon_ends_an_export() {
    alone(|rig| {
        rig.mount();
        let server = rig.daemon().server;
        let export = endless_export(rig);
        server.signal(Signal::SIGTERM).unwrap();
        assert_ne!(export.end().code, 0);
        assert!(ended(&server, LIMIT));
        assert!(!rig.path().join("out").exists());
        assert!(!rig.log().contains("cannot end cleanly"), "{}", rig.log());
        rig.ok(&["mount", "--resume"]);
        rig.ok(&["unmount"]);
    });
}

#[test]
fn the_end_of_the_stage_names_the_steps_that_it_cuts_off() {
    alone(|rig| {
        for options in [&["--json"][..], &["--json", "--keep-state"]] {
            rig.mount();
            let step = running_step(rig, &["cut"]);
            let report = rig.ok(&[&["unmount"], options].concat()).out;
            let report: serde_json::Value = serde_json::from_str(&report).unwrap();
            assert_eq!(report["ended"]["discarded_steps"][0], "cut", "{report}");
            assert_eq!(step.end().code, 128 + libc::SIGTERM);
            fs::remove_file(rig.path().join("begun")).unwrap();
            if options.len() > 1 {
                rig.ok(&["mount", "--resume"]);
                rig.ok(&["unmount"]);
            }
        }
    });
}

#[test]
fn a_group_does_not_wait_for_a_member_that_was_cut_off() {
    alone(|rig| {
        rig.mount();
        let server = rig.daemon().server;
        rig.ok(&["group", "declare", "g", "a", "b"]);
        rig.ok(&["step", "run", "--group", "g", "a", "--", "touch", "of-a"]);
        let stopped = running_step(rig, &["--group", "g", "b"]);
        // It can put nothing away.
        stopped.process().signal(Signal::SIGSTOP).unwrap();
        server.signal(Signal::SIGTERM).unwrap();
        assert!(ended(&server, LIMIT));
        stopped.process().signal(Signal::SIGCONT).unwrap();
        assert_eq!(stopped.end().code, 125);
        rig.ok(&["mount", "--resume"]);
        assert!(rig.ws().join("of-a").exists(), "{}", rig.log());
        assert!(!rig.ws().join("made").exists());
        rig.ok(&["unmount"]);
    });
}
