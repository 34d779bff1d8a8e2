//! One directory under two names, as bind mounts and volumes give it: what must
//! not be done to a mapped path is not done to it under another name either.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::rig::{Rig, alone, mounts, tree};

fn bind(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut mount = Command::new("mount");
    mount.arg("--bind").arg(from).arg(to);
    assert!(mount.status().unwrap().success());
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The workspace, under a name that says nothing of it.
fn alias(rig: &Rig) -> std::path::PathBuf {
    let alias = rig.path().join("alias");
    bind(&rig.ws(), &alias);
    alias
}

#[test]
fn what_cannot_be_mapped_together() {
    alone(|rig| {
        let (ws, alias) = (rig.ws(), alias(rig));
        bind(&ws.join("src"), &rig.path().join("state"));
        let mount = |workspace: &Path, shared: &Path, state: &str| {
            let state = rig.path().join(state);
            let state = ["--state-dir", text(&state)];
            let paths = [
                "--workspace",
                text(workspace),
                "--shared-path",
                text(shared),
            ];
            rig.run(&[&["mount"][..], &paths, &state].concat())
        };
        let free = rig.path().join("free");
        mount(&ws, &alias, "s").refused(2, "is the mapped path");
        mount(&ws, &alias.join("src"), "s").refused(2, "lies inside the mapped path");
        mount(&ws.join("src"), &alias, "s").refused(2, "contains the mapped path");
        mount(&ws, &free, "state/default").refused(2, "choose another with --state-dir");
        mount(&ws.join("src/deep"), &free, "state").refused(2, "inside the state directory");
        assert_eq!(mounts(), Vec::<String>::new());
        // Not what only looks like it.
        assert_eq!(mount(&ws, &free, "alias-2").code, 0);
        let state = rig.path().join("alias-2");
        rig.ok(&["unmount", "--state-dir", text(&state)]);
    });
}

#[test]
fn what_cannot_be_written_to() {
    alone(|rig| {
        let alias = alias(rig);
        let parent = rig.path().join("parent");
        bind(&rig.path(), &parent);
        rig.mount();
        assert_eq!(rig.step("s", &[], "echo made > made").code, 0);
        rig.ok(&["snapshot", "create", "s"]);
        let before = tree(&rig.ws());
        // What the stage shows now, under one more name.
        let mirror = rig.path().join("mirror");
        bind(&rig.ws(), &mirror);
        let state = parent.join("state");
        for (dir, part) in [
            (&alias, "would remove"),
            (&alias.join("new"), "which a mount shows there too"),
            (&parent, "would remove"),
            (&parent.join("ws/src"), "which a mount shows there too"),
            (&state.join("out"), "inside the state directory"),
            (&mirror, "would remove"),
            (&mirror.join("src"), "which a mount shows there too"),
        ] {
            let replace = ["--replace", text(dir)];
            rig.run(&[&["apply"][..], &replace].concat())
                .refused(2, part);
            rig.run(&[&["unmount", "--apply"][..], &[text(dir), "--replace"]].concat())
                .refused(2, part);
        }
        for dir in [alias.join("out"), mirror.join("out")] {
            let export = ["export", "s", "--to", text(&dir)];
            rig.run(&export).refused(2, "which a mount shows there too");
        }
        let out = state.join("out");
        rig.run(&["export", "s", "--to", text(&out)])
            .refused(2, "inside the state directory");
        let apply_all = ["apply", "--all", "--replace", text(&alias)];
        rig.run(&apply_all)
            .refused(2, "which a mount shows there too");
        assert_eq!(tree(&rig.ws()), before);
        // A mount that is to end with the stage.
        nix::mount::umount(&mirror).unwrap();
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_log_is_not_written_to_the_base() {
    alone(|rig| {
        let (ws, log) = (rig.ws(), alias(rig).join("log.txt"));
        let mount = ["mount", "--workspace", text(&ws), "--log-file"];
        let ran = rig.run(&[&mount[..], &[text(&log)]].concat());
        ran.refused(2, "--log-file");
    });
}
