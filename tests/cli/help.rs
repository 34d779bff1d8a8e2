//! Every command explains itself.

use super::rig::{program, ran};

const COMMANDS: &[&[&str]] = &[
    &[],
    &["mount"],
    &["unmount"],
    &["step"],
    &["step", "run"],
    &["step", "begin"],
    &["step", "exec"],
    &["step", "merge"],
    &["step", "keep"],
    &["step", "discard"],
    &["step", "shell"],
    &["step", "list"],
    &["group"],
    &["group", "declare"],
    &["group", "close"],
    &["group", "rm"],
    &["diff"],
    &["log"],
    &["show"],
    &["cat"],
    &["blame"],
    &["snapshot"],
    &["snapshot", "create"],
    &["snapshot", "list"],
    &["snapshot", "rm"],
    &["snapshot", "restore"],
    &["rollback"],
    &["export"],
    &["apply"],
    &["status"],
];

#[test]
fn every_command_has_help_with_an_example() {
    for command in COMMANDS.iter().chain([&["debug", "bundle"].as_slice()]) {
        let ran = ran(program().args(*command).arg("--help").output().unwrap());
        assert_eq!(ran.code, 0, "{command:?}: {ran:?}");
        assert_eq!(ran.err, "", "{command:?}");
        assert!(
            ran.out.contains("Usage: harness-fs"),
            "{command:?}: {}",
            ran.out
        );
        assert!(ran.out.contains("--state-dir"), "{command:?}: {}", ran.out);
        let groups = ["step", "group", "snapshot"]
            .iter()
            .any(|group| *command == [*group]);
        assert!(groups || ran.out.contains("harness-fs "), "{command:?}");
        assert!(
            groups || ran.out.contains("Example"),
            "{command:?}: {}",
            ran.out
        );
        assert!(!ran.out.contains("daemon-"), "hidden: {}", ran.out);
    }
}

#[test]
fn help_is_a_command_too_and_names_what_can_be_chosen() {
    for line in [&["help"][..], &["help", "step", "run"]] {
        let ran = ran(program().args(line).output().unwrap());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("Usage: harness-fs"), "{ran:?}");
    }
    let ran = ran(program().args(["mount", "--help"]).output().unwrap());
    for policy in ["fail", "last", "first", "keep-both", "append", "ignore"] {
        assert!(ran.out.contains(policy), "{policy}: {}", ran.out);
    }
}

#[test]
fn the_version_is_told() {
    let ran = ran(program().arg("--version").output().unwrap());
    assert_eq!(
        ran.out,
        format!("harness-fs {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = program().arg("--help").stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
