//! A session of bash in a root directory of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Ends what a command prints; no text has it.
const END: char = '\u{1e}';

/// Runs commands one after another. Returns what each has printed; fewer, if the session ended
/// before the last.
pub fn run(commands: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, script_of(commands)).unwrap();
    let session = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docs/session.sh");
    let mut unshare = Command::new("timeout");
    unshare.args(["-k", "5", "120", "unshare", "--mount", "--pid", "--fork"]);
    unshare.args(["--propagation", "private", "--kill-child", "--mount-proc"]);
    unshare.arg("bash").arg(session);
    unshare.arg(env!("CARGO_BIN_EXE_harness-fs"));
    unshare.args([&root, &script]);
    let output = unshare.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Needs root, unshare(1) and /dev/fuse.
    assert!(output.status.success(), "{printed}\n{stderr}");
    let mut parts: Vec<String> = printed.split(END).map(str::to_owned).collect();
    let left = parts.pop().unwrap_or_default();
    assert_eq!(left, "", "after the last command");
    parts
}

/// `$?` of a command is seen by the next one. At the end nothing may be mounted any more.
fn script_of(commands: &[&str]) -> String {
    let mut script = "cd\n".to_owned();
    for command in commands {
        // Writing to a string does not fail.
        let _ = writeln!(script, "{command}\n__=$?; printf '\\036'; (exit $__)");
    }
    script.push_str("! grep fuse.harness-fs /proc/self/mountinfo\n");
    script
}
