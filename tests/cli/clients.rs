//! Clients of the control socket that others write, in Python's standard library.

use super::mounted::in_stage;

/// Runs a Python program beside this file with these arguments. It ends the
/// stage; another takes its place for `in_stage`.
fn python(program: &str, arguments: &str) {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    in_stage(&format!(
        r#"
        # Without leaving compiled files in the source.
        code 0 python3 -B '{tests}/cli/{program}' "$HARNESS_FS_STATE_DIR" "$W" {arguments}
        "$H" mount --workspace "$W"
        "#
    ));
}

#[test]
fn a_client_drives_a_whole_stage() {
    python("drive.py", r#""$T""#);
}

#[test]
fn clients_that_misbehave_harm_nobody() {
    let messages = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docs/protocol-1.jsonl");
    python("hostile.py", &format!("'{messages}'"));
}
