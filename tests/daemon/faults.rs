//! A disk that is full in the middle of things: what was running fails with
//! the system's own error, and nothing is half done.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::rig::{Rig, alone, tool, tree};

/// A state directory on a disk of eight megabytes.
fn small_disk(rig: &Rig) {
    disk(rig, "size=8m");
}

fn disk(rig: &Rig, options: &str) {
    fs::create_dir(rig.state()).unwrap();
    let state = rig.state();
    let at = state.to_str().unwrap();
    tool("mount", &["-t", "tmpfs", "-o", options, "none", at]);
}

const FILL: &str = "dd if=/dev/zero of=fill bs=64k count=1000 2>/dev/null";

#[test]
fn a_full_disk_in_a_step() {
    alone(|rig| {
        small_disk(rig);
        rig.mount();
        let old = tree(&rig.ws());
        let ran = rig.step("s", &[], &format!("echo early > early; {FILL}"));
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("its changes are discarded"), "{ran:?}");
        assert_eq!(tree(&rig.ws()), old);
        assert_eq!(rig.step("s", &[], "echo small > small").code, 0);
        assert_eq!(
            fs::read_to_string(rig.ws().join("small")).unwrap(),
            "small\n"
        );
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_full_disk_for_an_apply() {
    alone(|rig| {
        let small = rig.path().join("small");
        fs::create_dir(&small).unwrap();
        let at = small.to_str().unwrap();
        tool("mount", &["-t", "tmpfs", "-o", "size=1m", "none", at]);
        rig.mount();
        assert_eq!(
            rig.step("s", &[], "head -c 2000000 /dev/zero > zeros").code,
            0
        );
        for arguments in [
            &["apply", "small/new/out"][..],
            &["apply", "--all", "small/new"],
        ] {
            rig.run(arguments).refused(1, "No space left");
            assert_eq!(fs::read_dir(&small).unwrap().count(), 0, "{arguments:?}");
        }
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_full_disk_at_the_merge() {
    alone(|rig| {
        small_disk(rig);
        rig.mount();
        fs::write(rig.ws().join("in-head"), "x").unwrap();
        let old = tree(&rig.ws());
        let fifo = |name: &str| {
            let fifo = rig.path().join(name);
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
            fifo
        };
        let (filled, go) = (fifo("filled"), fifo("go"));
        // It does not mind that nothing more can be written.
        let script = format!(
            "{FILL} || true; i=0; while mkdir d$i 2>/dev/null && [ $i -lt 99 ]; do i=$((i+1)); done; \
             rm readme || true; echo > {}; cat {}",
            filled.display(),
            go.display()
        );
        let step = rig.start(&["step", "run", "s", "--", "sh", "-ec", &script]);
        fs::read_to_string(filled).unwrap();
        let new = tree(&rig.state().join("views/s/mnt/0"));
        assert!(new != old && new.contains_key("fill"), "{:?}", new.keys());
        fs::write(go, "").unwrap();
        let ran = step.end();
        if ran.code == 0 {
            assert_eq!(tree(&rig.ws()), new, "{ran:?}");
        } else {
            assert_eq!(ran.code, 125, "{ran:?}");
            assert!(ran.err.contains("No space left"), "{ran:?}");
            assert_eq!(tree(&rig.ws()), old, "{ran:?}");
            rig.ok(&["step", "discard", "s"]);
            assert_eq!(tree(&rig.ws()), old);
        }
        rig.ok(&["unmount"]);
    });
}

/// There is room for bytes, but for no file more.
#[test]
fn a_disk_without_inodes_at_the_merge() {
    alone(|rig| {
        disk(rig, "size=8m,nr_inodes=150");
        rig.mount();
        rig.ok(&["snapshot", "create", "start"]);
        let old = tree(&rig.ws());
        let fill = "i=0; while echo x 2>/dev/null >i$i; do i=$((i+1)); done";
        let ran = rig.step("failed", &[], &format!("{fill}; exit 3"));
        assert_eq!(ran.code, 3, "{ran:?}");
        assert_eq!(tree(&rig.ws()), old);
        let ran = rig.step(
            "kept",
            &["--on-failure", "keep"],
            &format!("{fill}; exit 3"),
        );
        assert_eq!(ran.code, 3, "{ran:?}");
        rig.ok(&["step", "merge", "kept"]);
        assert!(rig.ws().join("i50").exists());
        rig.ok(&["snapshot", "restore", "start"]);
        assert_eq!(tree(&rig.ws()), old);
        let ran = rig.step("merged", &[], fill);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(rig.ws().join("i50").exists());
        assert_eq!(rig.ok(&["step", "list"]).out, "");
        rig.ok(&["unmount"]);
    });
}

/// What it forgets makes room enough, whoever takes that.
#[test]
fn a_step_is_reset_on_a_full_disk() {
    alone(|rig| {
        disk(rig, "size=8m,nr_inodes=150");
        rig.mount();
        rig.ok(&["step", "begin", "s"]);
        rig.ok(&["step", "exec", "s", "--", "touch", "by-s"]);
        let fill = "i=0; while echo x 2>/dev/null >i$i; do i=$((i+1)); done; head -c 16m /dev/zero >big 2>/dev/null; true";
        rig.ok(&["step", "begin", "other"]);
        rig.ok(&["step", "exec", "other", "--", "sh", "-c", fill]);
        rig.ok(&["step", "reset", "s"]);
        rig.ok(&["step", "exec", "s", "--", "sh", "-c", "[ ! -e by-s ]"]);
        rig.ok(&["step", "discard", "other"]);
        rig.ok(&["step", "exec", "s", "--", "touch", "again"]);
        rig.ok(&["step", "merge", "s"]);
        assert!(rig.ws().join("again").exists());
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_full_disk_in_the_stage_view() {
    alone(|rig| {
        small_disk(rig);
        rig.mount();
        // With what a kept step holds the disk is full.
        let ran = rig.step(
            "kept",
            &["--on-failure", "keep"],
            "head -c 3000000 /dev/urandom > three; exit 9",
        );
        assert_eq!(ran.code, 9, "{ran:?}");
        let full = fs::write(rig.ws().join("fill"), vec![1; 16 << 20]).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(28));
        let old = tree(&rig.ws());
        for arguments in [
            &["snapshot", "create", "one"][..],
            &["step", "run", "s", "--", "true"],
            &["step", "merge", "kept"],
        ] {
            let ran = rig.run(arguments);
            if ran.code != 0 {
                let code = if arguments[1] == "run" { 125 } else { 1 };
                ran.refused(code, "No space left");
                assert!(ran.err.contains(rig.state().to_str().unwrap()), "{ran:?}");
            } else if arguments[1] == "merge" {
                assert_eq!(
                    fs::metadata(rig.ws().join("three")).unwrap().len(),
                    3_000_000
                );
                fs::remove_file(rig.ws().join("three")).unwrap();
            }
            assert_eq!(tree(&rig.ws()), old, "{arguments:?}: {ran:?}");
        }
        // Room can be made, whatever is full.
        for name in ["fill", "readme"] {
            fs::remove_file(rig.ws().join(name)).unwrap();
        }
        let steps = rig.ok(&["step", "list"]);
        if steps.out.contains("kept") {
            rig.ok(&["step", "discard", "kept"]);
        }
        let snapshots = rig.ok(&["snapshot", "list"]);
        if snapshots.out.contains("one") {
            rig.ok(&["snapshot", "rm", "one"]);
        }
        rig.ok(&["unmount", "--keep-state"]);
        rig.ok(&["mount", "--resume"]);
        assert!(!rig.ws().join("fill").exists());
        rig.ok(&["unmount"]);
    });
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[1; 4096]) {
            break error;
        }
    };
    assert_eq!(full.raw_os_error(), Some(28));
}

#[test]
fn the_daemon_dies_on_a_full_disk() {
    alone(|rig| {
        small_disk(rig);
        rig.mount();
        rig.ok(&["step", "begin", "a"]);
        let script = "echo precious > a; ln a b; mkdir d; echo more > d/f";
        rig.ok(&["step", "exec", "a", "--", "sh", "-ec", script]);
        fill(&rig.ws().join("fill"));
        for _ in 0..3 {
            rig.daemon().kill_server();
            rig.ok(&["mount", "--resume"]);
            let full = fs::write(rig.ws().join("late"), vec![1; 2 << 20]).unwrap_err();
            assert_eq!(full.raw_os_error(), Some(28));
            fs::remove_file(rig.ws().join("late")).unwrap();
            fill(&rig.ws().join("fill"));
        }
        fs::remove_file(rig.ws().join("fill")).unwrap();
        rig.ok(&["step", "merge", "a"]);
        for name in ["a", "b"] {
            let merged = fs::read_to_string(rig.ws().join(name)).unwrap();
            assert_eq!(merged, "precious\n");
        }
        assert_eq!(fs::metadata(rig.ws().join("a")).unwrap().nlink(), 2);
        rig.ok(&["unmount"]);
    });
}

/// Somebody takes whatever a commit frees.
#[test]
fn many_commits_on_a_disk_that_stays_full() {
    alone(|rig| {
        small_disk(rig);
        rig.mount();
        for step in ["a", "b", "c"] {
            rig.ok(&["step", "begin", step]);
            let script = format!("echo {step} > {step}; ln {step} also-{step}");
            rig.ok(&["step", "exec", step, "--", "sh", "-ec", &script]);
        }
        let ballast = rig.state().join("ballast");
        fill(&ballast);
        for number in 0..8 {
            let group = format!("g{number}");
            rig.ok(&["group", "declare", &group, &format!("m{number}")]);
            fill(&ballast);
        }
        rig.ok(&["step", "discard", "a"]);
        fill(&ballast);
        rig.ok(&["step", "merge", "b"]);
        fill(&ballast);
        rig.ok(&["unmount", "--keep-state"]);
        fill(&ballast);
        rig.ok(&["mount", "--resume"]);
        fill(&ballast);
        assert_eq!(fs::read_to_string(rig.ws().join("also-b")).unwrap(), "b\n");
        rig.ok(&["step", "merge", "c"]);
        assert_eq!(fs::read_to_string(rig.ws().join("also-c")).unwrap(), "c\n");
        rig.ok(&["unmount"]);
    });
}

/// Nothing can be begun where there is no room at all, and it is said.
#[test]
fn a_disk_that_is_full_from_the_start() {
    alone(|rig| {
        fs::create_dir(rig.state()).unwrap();
        let state = rig.state();
        tool(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                "size=64k",
                "none",
                state.to_str().unwrap(),
            ],
        );
        let _ = fs::write(state.join("other"), vec![0; 1 << 20]);
        let ws = rig.ws();
        rig.run(&["mount", "--workspace", ws.to_str().unwrap()])
            .refused(1, "No space left");
        assert!(ws.join("readme").exists());
    });
}

/// Only "No space left on device" was said, of whatever disk.
#[test]
fn it_is_told_which_disk_is_full() {
    alone(|rig| {
        let state = rig.state();
        for (option, pages, files) in (0..8)
            .map(|left| ("size=1m", left, 999))
            .chain((0..24).map(|left| ("nr_inodes=60", 999, left)))
        {
            fs::create_dir(&state).unwrap();
            let at = state.to_str().unwrap();
            tool("mount", &["-t", "tmpfs", "-o", option, "none", at]);
            rig.mount();
            fs::write(rig.ws().join("in-head"), "x").unwrap();
            if pages < 999 {
                let mut ballast = File::create(state.join("ballast")).unwrap();
                while ballast.write_all(&[1; 4096]).is_ok() {}
                let full = ballast.metadata().unwrap().len();
                ballast.set_len(full - pages * 4096).unwrap();
            } else {
                let names = (0..60).map(|number| state.join(format!("ballast{number}")));
                let made = names.filter(|name| File::create(name).is_ok()).count();
                for number in 0..files.min(made) {
                    fs::remove_file(state.join(format!("ballast{number}"))).unwrap();
                }
            }
            for (arguments, code) in [
                (&["snapshot", "create", "one"][..], 1),
                (&["step", "begin", "s"], 1),
                (&["step", "run", "r", "--", "true"], 125),
            ] {
                let ran = rig.run(arguments);
                if ran.code != 0 {
                    ran.refused(code, "No space left");
                    assert!(ran.err.contains(at), "{option} {pages} {files}: {ran:?}");
                }
            }
            rig.ok(&["unmount"]);
            tool("umount", &[at]);
            fs::remove_dir(&state).unwrap();
        }
    });
}
