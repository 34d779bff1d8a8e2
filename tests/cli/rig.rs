//! Runs the program with a state directory of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A place for a stage that nobody else uses.
pub struct Rig {
    dir: tempfile::TempDir,
}

/// What the program did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Rig {
    pub fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        Rig { dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Writes what is kept of a stage that can be resumed.
    pub fn keep_a_stage(&self) {
        let boot = harness_fs::stage::boot_id().unwrap();
        let stage = format!(
            r#"{{"format":1,"boot_id":"{boot}","run":1,"next_layer":1,"own_base":true,"stack":[],
                "options":{{"mapped":["/harness"]}}}}"#
        );
        std::fs::write(self.state().join("stage.json"), stage).unwrap();
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        ran(self
            .command(&self.state())
            .args(arguments)
            .output()
            .unwrap())
    }

    pub fn command(&self, state: &Path) -> Command {
        let mut command = program();
        command.env("HARNESS_FS_STATE_DIR", state);
        command.current_dir(self.dir.path());
        command
    }
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness-fs"));
    for name in [
        "HARNESS_FS_STAGE",
        "HARNESS_FS_STATE_DIR",
        "HARNESS_FS_STEP",
    ] {
        command.env_remove(name);
    }
    command
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ran {
    /// One sentence on standard error that has `part` in it, and this code.
    #[track_caller]
    pub fn refused(&self, code: i32, part: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.contains(part), "no \"{part}\" in {self:?}");
        assert_eq!(self.out, "", "{self:?}");
    }
}
