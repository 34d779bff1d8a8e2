//! `export` and `apply` whose command line is killed before they are done.

use std::fs;
use std::time::Instant;

use harness_fs::stage::failpoint;
use nix::sys::signal::Signal;

use crate::fail_points::wait_for_stop_or_end;
use crate::rig::{LIMIT, alone, tree};

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

#[test]
fn an_export_that_is_given_up_leaves_nothing() {
    alone(|rig| {
        rig.mount();
        let endless = fs::File::create(rig.ws().join("endless")).unwrap();
        endless.set_len(1 << 40).unwrap();
        drop(endless);
        rig.ok(&["snapshot", "create", "s"]);
        let mut client = rig.start(&["export", "s", "--to", "out/layout"]);
        let begun = rig.path().join("out/layout/.harness-fs-export/blob-1");
        let deadline = Instant::now() + LIMIT;
        while !begun.exists() {
            assert!(Instant::now() < deadline, "no export: {}", rig.log());
            std::thread::yield_now();
        }
        client.kill();
        rig.ok(&["unmount"]);
        assert!(!rig.path().join("out").exists());
    });
}
