//! `step shell`: looking at what a step has left.

use super::mounted::in_stage;

#[test]
fn a_shell_in_a_failed_step_changes_nothing() {
    let ran = in_stage(
        r#"
        code 3 "$H" step run --on-failure keep bad -- sh -c 'rm file; echo new >new; exit 3'
        echo later >"$W/later"
        "$H" diff bad >"$T/diff"
        code 7 "$H" step shell bad -- sh -euc '
            is() { [ "$1" = "$2" ] || { echo "$1 is not $2" >&2; exit 99; }; }
            is "$(ls "$HARNESS_WORKSPACE")" new
            is "$(cat new)" new
            is "$PWD $HARNESS_FS_STEP $DRONE_WORKSPACE" "$HARNESS_WORKSPACE bad $HARNESS_WORKSPACE"
            is "$(ls -A "$HARNESS_FS_STATE_DIR")" step.sock
            echo changed >new; echo more >more; exit 7'
        # The next one finds what the step left, and reads commands as a shell does.
        echo 'cat new; ls; exit 4' >"$T/commands"
        code 4 env SHELL=/bin/sh "$H" step shell bad <"$T/commands" >"$T/out"
        is "$(cat "$T/out")" "$(printf 'new\nnew')"
        code 0 env -u SHELL "$H" step shell bad </dev/null 2>"$T/said"
        is "$(cat "$T/said")" \
            "harness-fs: this is a copy of what step 'bad' left (exit code 3): what is changed here is thrown away"
        code 127 env SHELL=/no/such "$H" step shell bad
        code 143 "$H" step shell bad -- sh -c 'kill -TERM $$'
        is "$("$H" diff bad)" "$(cat "$T/diff")"
        is "$(ls "$W")" "$(printf 'file\nlater')"
        is "$(ls "$HARNESS_FS_STATE_DIR/views")" stage
        "$H" step merge bad
        is "$(ls "$W")" "$(printf 'later\nnew')"
        code 125 "$H" step shell bad -- true
        code 125 "$H" step shell none
        code 125 "$H" step shell
        "#,
    );
    assert!(ran.err.contains("/no/such: "), "{}", ran.err);
    let said = "harness-fs: step 'bad' was merged; there is nothing left of it\n";
    assert!(ran.err.contains(said), "{}", ran.err);
}

#[test]
fn a_shell_in_an_open_step_is_part_of_it() {
    let ran = in_stage(
        r#"
        "$H" step begin open
        code 5 env SHELL=/bin/sh "$H" step shell open <<'END'
        echo new >new
        exit 5
END
        "$H" step merge open
        is "$(cat "$W/new")" new
        "#,
    );
    let said = "harness-fs: step 'open' is open: what is changed here is part of it\n";
    assert!(ran.err.contains(said), "{}", ran.err);
}

#[test]
fn what_a_shell_leaves_running_ends_with_it() {
    let ran = in_stage(
        r#"
        code 3 "$H" step run --on-failure keep bad -- sh -c 'echo new >new; exit 3'
        code 0 "$H" step shell bad -- sh -c 'sleep 1000 >/dev/null 2>&1 & echo $! >"$1/pid"' - "$T"
        code 1 kill -0 "$(cat "$T/pid")"
        # With the command line as well.
        mkfifo "$T/ready"
        "$H" step shell bad -- sh -c 'echo $$ >"$1/pid"; echo >"$1/ready"; exec sleep 1000' - "$T" & shell=$!
        cat "$T/ready"
        "$H" status | grep 'bad/shell-1'
        kill -KILL "$shell"
        while [ -e "$HARNESS_FS_STATE_DIR/views/.shell-1" ]; do sleep 0.05; done
        code 1 kill -0 "$(cat "$T/pid")"
        is "$("$H" diff bad)" "A $W/new"
        # The step can go while somebody looks.
        mkfifo "$T/go"
        "$H" step shell bad -- sh -c 'echo >"$1/ready"; cat "$1/go"; cat new >"$1/seen"' - "$T" & shell=$!
        cat "$T/ready"
        "$H" step discard bad
        code 3 "$H" step run --on-failure keep bad -- sh -c 'echo other >new; exit 3'
        echo >"$T/go"
        code 0 wait "$shell"
        is "$(cat "$T/seen")" new
        # And the stage as well.
        "$H" step shell bad -- sh -c 'echo >"$1/ready"; exec sleep 1000' - "$T" & shell=$!
        cat "$T/ready"
        "$H" unmount --keep-state
        code 143 wait "$shell"
        is "$(ls "$HARNESS_FS_STATE_DIR/views")" stage
        "$H" mount --resume
        is "$("$H" step shell bad -- cat new)" other
        "#,
    );
    let said = "harness-fs: ended 1 process left by the step: ";
    assert!(ran.err.contains(said), "{}", ran.err);
}
