//! Shared paths that are not merged: `m2`, whose tree is `1`.

use std::path::{Path, PathBuf};

use harness_fs::merge::SharingMode;
use harness_fs::stage::{Beginning, Failure, Phase};
use nix::fcntl::OFlag;

use crate::rig::{Rig, names};

fn private(paths: &[PathBuf]) -> Beginning {
    Beginning {
        private: paths.to_vec(),
        ..Beginning::default()
    }
}

/// What a step does on both paths; two names of a file of each are one file.
const WORK: &str = "rm 1/repo/jar; write 1/repo/jar2 mine; ln 1/repo/jar2 1/third; mkdir 1/d; \
                    write 1/d/x 1; ln 1/d/x 1/d/y; rm -r 1/repo/old; \
                    write 0/log step; ln 0/README 0/README3; rm 0/README2";

/// The base with further names of files in `m2`, some of them in a directory.
fn linked(mode: SharingMode) -> Rig {
    let rig = Rig::sharing(mode);
    let more = "ln 1/repo/jar 1/repo/jar2; mkdir 1/repo/old; ln 1/repo/jar 1/repo/old/jar";
    rig.run("stage", more);
    rig
}

fn changed(rig: &Rig, step: &str) -> Vec<String> {
    let lines = rig.stage.diff(Some(step)).unwrap();
    let path = |line: &harness_fs::stage::DiffLine| {
        let path = line.path.strip_prefix(&rig.dir).unwrap();
        path.to_str().unwrap().to_owned()
    };
    lines.iter().map(path).collect()
}

const OF_WORK: [&str; 3] = ["ws/README2", "ws/README3", "ws/log"];

/// After the work only what it did in the workspace is there. Reading the tree
/// checks how many names every file says that it has.
fn only_the_workspace_changed(rig: &Rig) {
    let tree = rig.tree();
    assert_eq!(tree.text("0/log"), "step");
    assert!(tree.has("0/README3") && !tree.has("0/README2"));
    for unchanged in ["1/repo/jar", "1/repo/jar2", "1/repo/old/jar"] {
        assert_eq!(tree.text(unchanged), "jar\n", "{unchanged}");
    }
    assert!(!tree.has("1/third") && !tree.has("1/d"));
}

#[test]
fn what_a_step_has_for_itself_is_in_no_layer() {
    let rig = linked(SharingMode::Private);
    let view = rig.stage.begin("s").unwrap();
    assert_eq!(view.live, Vec::<std::path::PathBuf>::new());
    rig.run("s", WORK);
    assert_eq!(changed(&rig, "s"), OF_WORK);
    let sealed = rig.stage.seal_step("s").unwrap();
    assert_eq!((sealed.entries, sealed.whiteouts), (3, 1));
    let layer = rig.dir.join("state/layers").join(sealed.layer.unwrap());
    assert!(layer.join("tree/0").exists() && !layer.join("tree/1").exists());
    assert_eq!(changed(&rig, "s"), OF_WORK);
    let report = rig.stage.merge(&names(&["s"]), None).unwrap();
    assert!(report.conflicts.is_empty(), "{report:?}");
    only_the_workspace_changed(&rig);
    // A retry starts anew.
    rig.begin("s");
    assert!(!rig.in_view("s").has("1/third"));
    only_the_workspace_changed(&rig.die_and_resume());
}

#[test]
fn two_that_have_a_path_for_themselves_never_conflict() {
    let rig = Rig::sharing(SharingMode::Private);
    let before = rig.tree();
    for step in ["a", "b"] {
        rig.begin(step);
        rig.run(
            step,
            &format!("write 1/repo/jar {step}; write 1/new {step}"),
        );
    }
    rig.run("stage", "write 1/repo/jar stage");
    let report = rig.stage.merge(&names(&["a", "b"]), None).unwrap();
    assert!(report.layers.is_empty(), "{report:?}");
    assert_eq!(
        report.notes,
        ["step 'a' changed nothing", "step 'b' changed nothing"]
    );
    let after = rig.tree();
    assert_eq!(after.text("1/repo/jar"), "stage");
    assert_eq!(after.0.len(), before.0.len());
}

#[test]
fn what_was_for_a_step_alone_is_gone_with_the_daemon() {
    let rig = linked(SharingMode::Private);
    rig.begin("both");
    rig.run("both", WORK);
    rig.begin("alone");
    rig.run("alone", "write 1/new x; rm 1/repo/jar");
    let rig = rig.die_and_resume();
    let steps = rig.stage.steps();
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert_eq!((&*steps[0].name, steps[0].state), ("both", Phase::Kept));
    assert_eq!(changed(&rig, "both"), OF_WORK);
    rig.stage.merge(&names(&["both"]), None).unwrap();
    only_the_workspace_changed(&rig);
}

#[test]
fn a_step_can_have_a_path_for_itself_whatever_its_mode() {
    for mode in [SharingMode::Merge, SharingMode::Shared, SharingMode::Locked] {
        let rig = linked(mode);
        let m2 = [rig.dir.join("m2/.")];
        assert_eq!(
            rig.stage.locked_paths(&[]).len(),
            usize::from(mode == SharingMode::Locked)
        );
        let view = rig.stage.begin_with("s", &private(&m2)).unwrap().0;
        assert!(view.live.is_empty(), "{mode}");
        assert!(rig.stage.locked_paths_of("s").is_empty(), "{mode}");
        rig.run("s", WORK);
        rig.stage.keep("s", "exit code 1").unwrap();
        // Also for who looks at it, and for who resumes it.
        let shell = rig.stage.open_shell("s").unwrap().unwrap();
        assert!(shell.view.live.is_empty(), "{mode}");
        assert!(rig.in_view(&shell.name).has("1/repo/old/jar"));
        let rig = rig.die_and_resume();
        rig.stage.merge(&names(&["s"]), None).unwrap();
        only_the_workspace_changed(&rig);
    }
}

#[test]
fn only_a_shared_path_can_be_for_a_step_alone() {
    let rig = Rig::new();
    for wrong in [rig.dir.join("ws"), rig.dir.join("m2/repo"), "m2".into()] {
        let refused = rig
            .stage
            .begin_with("s", &private(std::slice::from_ref(&wrong)));
        let Err(Failure::Usage(text)) = refused else {
            panic!("{}: {refused:?}", wrong.display());
        };
        assert!(text.contains("is no shared path of the stage ("), "{text}");
    }
    assert!(rig.stage.steps().is_empty());
}

/// A client of the protocol may show the step's own view all the same.
#[test]
fn nothing_of_a_live_path_comes_from_a_step() {
    for mode in [SharingMode::Shared, SharingMode::Locked] {
        let rig = linked(mode);
        let view = rig.stage.begin("s").unwrap();
        assert_eq!(view.live, [rig.dir.join("m2")], "{mode}");
        assert_eq!(rig.stage.view_of("s").unwrap().live, view.live);
        rig.run("s", WORK);
        rig.run("stage", "write 1/live 1");
        rig.stage.keep("s", "exit code 1").unwrap();
        let shell = rig.stage.open_shell("s").unwrap().unwrap();
        assert_eq!(shell.view.live, view.live);
        rig.stage.merge(&names(&["s"]), None).unwrap();
        only_the_workspace_changed(&rig);
        assert_eq!(rig.tree().text("1/live"), "1");
    }
}

/// Somebody always writes in a cache: no merge is in the way of that.
#[test]
fn who_writes_at_a_live_path_is_not_busy() {
    let rig = Rig::sharing(SharingMode::Shared);
    let view = rig.fakes.views.lock().unwrap()["stage"].clone();
    let mut ino = harness_fs::view::ROOT;
    for name in Path::new("1/repo/jar") {
        ino = view.lookup(ino, name).unwrap().ino;
    }
    let opened = view.open(ino, OFlag::O_WRONLY, None).unwrap();
    rig.begin("s");
    rig.run("s", "write 0/log step; write 1/repo/jar step");
    view.write(opened.handle, 0, b"live", None).unwrap();
    let report = rig.stage.merge(&names(&["s"]), None).unwrap();
    assert!(report.conflicts.is_empty(), "{report:?}");
    view.release(opened.handle);
    assert_eq!(rig.tree().text("1/repo/jar"), "live");
    assert_eq!(rig.tree().text("0/log"), "step");
}

#[test]
fn modes_are_kept_and_shown() {
    let rig = Rig::sharing(SharingMode::Locked);
    let m2 = rig.dir.join("m2");
    let shown = [(m2.to_str().unwrap().to_owned(), SharingMode::Locked)].into();
    assert_eq!(rig.stage.status().sharing, shown);
    let rig = rig.die_and_resume();
    assert_eq!(rig.stage.status().sharing, shown);
    assert_eq!(rig.stage.locked_paths(&[]), [m2]);
    let merged = Rig::new().stage.status().sharing;
    assert!(merged.values().eq([&SharingMode::Merge]), "{merged:?}");
}
