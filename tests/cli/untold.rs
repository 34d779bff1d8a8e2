//! What is done and cannot be told: the result that has nowhere to go.

use super::mounted::in_stage;

/// A merged step ended with 125, and was run again.
#[test]
fn a_result_that_cannot_be_written_at_the_end_changes_no_exit_code() {
    let ran = in_stage(
        r#"
        mkdir "$T/d" "$T/e"
        code 0 "$H" step run --result "$T/d/r" good -- sh -c 'rmdir "$T/d"; echo 1 >a'
        is "$(cat "$W/a")" 1
        code 7 "$H" step run --result "$T/e/r" bad -- sh -c 'rmdir "$T/e"; exit 7'
        code 0 "$H" step run --result /dev/full full -- sh -c 'echo 2 >b'
        is "$(cat "$W/b")" 2
        "#,
    );
    let said = "the exit code is that of the step";
    assert_eq!(ran.err.matches(said).count(), 3, "{}", ran.err);
}

#[test]
fn where_no_result_can_be_written_no_command_starts() {
    let ran = in_stage(
        r#"
        code 125 "$H" step run --result /proc/r one -- touch "$T/ran"
        "$H" step begin two
        code 125 "$H" step exec --result /proc/r two -- touch "$T/ran"
        "$H" step discard two
        [ ! -e "$T/ran" ]
        mkdir "$T/d"
        code 0 "$H" step run --result "$T/d/r" three -- true
        is "$(ls -A "$T/d")" r
        "#,
    );
    assert!(ran.err.contains("--result: "), "{}", ran.err);
    assert!(ran.err.contains("/proc/r"), "{}", ran.err);
}

/// What a full disk leaves of a bundle is none.
#[test]
fn a_bundle_is_whole_or_not_there() {
    let ran = in_stage(
        r#"
        mkdir "$T/full"
        mount -t tmpfs -o size=64k none "$T/full"
        code 1 cp /dev/zero "$T/full/ballast"
        code 1 "$H" debug bundle --output "$T/full/b"
        is "$(ls -A "$T/full")" ballast
        code 1 "$H" debug bundle --output /dev/full
        [ -c /dev/full ]
        umount "$T/full"
        "#,
    );
    assert!(ran.err.contains("full/b: No space left"), "{}", ran.err);
}

#[test]
fn who_cannot_be_told_hears_that_it_is_done() {
    let ran = in_stage(
        r#"
        code 1 "$H" snapshot create s --json >/dev/full
        is "$("$H" snapshot list --json | grep -c '"name": "s"')" 1
        code 1 "$H" unmount --json >/dev/full
        code 3 "$H" status
        code 1 "$H" mount --workspace "$W" --json >/dev/full
        code 0 "$H" status
        "#,
    );
    let said = "done, but its output could not be written: No space left on device";
    assert_eq!(ran.err.matches(said).count(), 3, "{}", ran.err);
}
