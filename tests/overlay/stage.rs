//! Beside stages: an overlay is a disk to them, and none of theirs.

use std::fs;
use std::path::PathBuf;

use super::rig::{Ran, Rig, program, ran};

/// A stage whose state lies in the rig; ended when dropped.
struct Stage(PathBuf);

impl Stage {
    fn ran(&self, arguments: &[&str]) -> Ran {
        let mut command = program();
        command.arg("--state-dir").arg(&self.0).args(arguments);
        ran(command.output().unwrap())
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) {
        let ran = self.ran(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.ran(&["unmount"]);
    }
}

#[test]
fn a_stage_can_lie_on_an_overlay_and_leaves_it_mounted() {
    // The mapped path is in the mount, or the mount itself.
    for inside in ["dir", ""] {
        let rig = Rig::over(|lower| {
            fs::create_dir(lower.join("dir")).unwrap();
            fs::write(lower.join("dir/file"), "lower").unwrap();
        });
        let mounted = rig.mount();
        let stage = Stage(rig.at("state"));
        let workspace = super::rig::shown(&mounted.path(inside));
        stage.done(&["mount", "--workspace", &workspace]);
        let file = mounted.path("dir/file");
        let write = format!("echo -n step >{}", file.display());
        stage.done(&["step", "run", "one", "--", "sh", "-c", &write]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "step");
        stage.done(&["unmount"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "lower");
        mounted.end();
        assert_eq!(fs::read_dir(rig.at("up")).unwrap().count(), 0);
    }
}

#[test]
fn an_overlay_can_lie_on_a_stage() {
    let rig = Rig::with(&["ws/lower", "up", "work", "mnt"]);
    fs::write(rig.at("ws/lower/file"), "base").unwrap();
    let stage = Stage(rig.at("state"));
    let workspace = super::rig::shown(&rig.at("ws"));
    stage.done(&["mount", "--workspace", &workspace]);
    fs::write(rig.at("ws/lower/file"), "stage").unwrap();
    let mounted = rig.mount_with(&rig.options(&["ws/lower"]));
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "stage");
    fs::write(mounted.path("file"), "overlay").unwrap();
    assert_eq!(
        fs::read_to_string(rig.at("ws/lower/file")).unwrap(),
        "stage"
    );
    mounted.end();
    assert_eq!(fs::read_to_string(rig.at("up/file")).unwrap(), "overlay");
}
