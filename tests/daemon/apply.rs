//! `apply`, and `unmount --apply` to directories outside of the stage.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness_fs::stage::failpoint;
use nix::sys::signal::Signal;

use crate::fail_points::wait_for_stop_or_end;
use crate::rig::{self, Rig, alone, tree};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The daemon has no umask.
#[test]
fn directories_that_are_no_part_of_the_tree_are_not_open_to_all() {
    alone(|rig| {
        rig.mount();
        rig.ok(&["apply", "a1/a2/out"]);
        rig.ok(&["apply", "--all", "all/of/it"]);
        for made in ["a1", "a1/a2", "all", "all/of", "all/of/it", "all/of/it/var"] {
            assert_eq!(mode(&rig.path().join(made)), 0o755, "{made}");
        }
        assert_eq!(
            mode(&rig.path().join("a1/a2/out")),
            0o777,
            "as the workspace"
        );
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_killed_apply_is_in_nobodys_way() {
    alone(|rig| {
        let ws = rig.ws();
        for point in ["apply-in-stage", "apply-in-stage:3"] {
            let mount = ["mount", "--workspace", ws.to_str().unwrap()];
            let mounted = rig.start_with(&mount, failpoint::VARIABLE, point).end();
            assert_eq!(mounted.code, 0, "{mounted:?}");
            assert_eq!(rig.run(&["apply", "new/out"]).code, 5);
            rig.ok(&["mount", "--resume"]);
            rig.ok(&["apply", "new/out"]);
            assert_eq!(tree(&rig.path().join("new/out")), tree(&ws));
            rig.ok(&["unmount"]);
            fs::remove_dir_all(rig.path().join("new")).unwrap();
        }
    });
}

#[test]
fn a_path_is_relative_to_whoever_gives_it() {
    alone(|rig| {
        rig.mount();
        let below = rig.path().join("below");
        fs::create_dir(&below).unwrap();
        let run = |arguments: &[&str]| {
            let mut command = rig.command(arguments);
            command.current_dir(&below);
            rig::start(command).end()
        };
        assert_eq!(run(&["apply", "../beside/out"]).code, 0);
        assert_eq!(tree(&rig.path().join("beside/out")), tree(&rig.ws()));
        run(&["apply", "../ws/x"]).refused(2, "inside the mapped path");
        run(&["apply", "no/../x"]).refused(2, "'..' follows a directory that does not exist");
        rig.ok(&["snapshot", "create", "s"]);
        assert_eq!(run(&["export", "s", "--to", "../image"]).code, 0);
        assert!(rig.path().join("image/index.json").exists());
        rig.ok(&["unmount"]);
    });
}

/// It would be in neither the directory nor the stage.
#[test]
fn nothing_is_acknowledged_that_an_apply_at_the_end_does_not_write() {
    alone(|rig| {
        let (ws, out) = (rig.ws(), rig.path().join("out"));
        let mount = ["mount", "--workspace", ws.to_str().unwrap()];
        let mount = rig.start_with(&mount, failpoint::VARIABLE, "apply-in-stage:1:stop");
        assert_eq!(mount.end().code, 0);
        let before = tree(&ws);
        let unmount = rig.start(&["unmount", "--apply", out.to_str().unwrap()]);
        let server = wait_for_stop_or_end(rig, &unmount.process()).unwrap();
        // Who writes there now does not write into the stage.
        assert!(!rig::mounts().iter().any(|at| Path::new(at) == ws));
        let late = rig.start(&["step", "run", "late", "--", "touch", "late"]);
        server.signal(Signal::SIGCONT).unwrap();
        // Refused, or too late for a stage.
        assert_eq!(late.end().code, 125);
        let unmount = unmount.end();
        assert_eq!(unmount.code, 0, "{unmount:?}");
        assert_eq!(tree(&out), before);
    });
}

#[test]
fn a_stage_whose_tree_cannot_be_written_at_the_end_goes_on() {
    alone(|rig| {
        rig.mount();
        let out = rig.path().join("out");
        rig.ok(&["step", "run", "s", "--", "touch", "made"]);
        fs::write(&out, "a file").unwrap();
        let ran = rig.run(&["unmount", "--apply", out.to_str().unwrap()]);
        assert_ne!(ran.code, 0, "{ran:?}");
        assert!(rig.ws().join("made").exists());
        rig.ok(&["step", "run", "t", "--", "touch", "more"]);
        rig.ok(&["unmount"]);
    });
}

fn shared(rig: &Rig) -> String {
    rig.path().join("cache").display().to_string()
}

#[test]
fn shared_paths_are_written_before_they_are_discarded() {
    alone(|rig| {
        let ws = rig.ws();
        let shared = shared(rig);
        rig.ok(&[
            "mount",
            "--workspace",
            ws.to_str().unwrap(),
            "--shared-path",
            &shared,
        ]);
        let ran = rig.step(
            "s",
            &[],
            &format!("echo kept > {shared}/kept; echo new > new"),
        );
        assert_eq!(ran.code, 0, "{ran:?}");
        let new = tree(&ws);
        let out = rig.path().join("out");
        let place = |path: &str| out.join(path.strip_prefix('/').unwrap());
        fs::create_dir_all(place(&shared)).unwrap();
        fs::write(place(&shared).join("mine"), "mine").unwrap();
        fs::write(out.join("other"), "stays").unwrap();
        let unmount = ["unmount", "--apply", "out", "--all"];
        rig.run(&unmount).refused(2, "is not empty: with --replace");
        assert_eq!(tree(&ws), new, "the stage stays");
        let ran = rig.ok(&[&unmount[..], &["--replace"]].concat());
        assert!(!ran.out.contains("not written"), "{ran:?}");
        assert_eq!(tree(&place(ws.to_str().unwrap())), new);
        assert_eq!(
            fs::read_to_string(place(&shared).join("kept")).unwrap(),
            "kept\n"
        );
        assert!(!place(&shared).join("mine").exists() && out.join("other").exists());
        fs::remove_dir(&shared).unwrap();
    });
}
