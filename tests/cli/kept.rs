//! Steps that are kept aside.

use super::mounted::in_stage;

#[test]
fn a_step_that_is_put_aside_is_merged_or_discarded_later() {
    let ran = in_stage(
        r#"
        "$H" step begin a
        "$H" step exec a -- sh -c 'echo a >new; sleep 1000 >/dev/null 2>&1 & echo $! >"$1/pid"' - "$T"
        "$H" step keep a --json >"$T/kept"
        grep -qE "\"pid\": $(cat "$T/pid"),?$" "$T/kept"
        grep -q '"entries": 1,' "$T/kept"
        code 1 kill -0 "$(cat "$T/pid")"
        [ ! -e "$W/new" ]
        "$H" step list | grep '^a  kept .*put aside by `step keep`$'
        is "$("$H" diff a)" "A $W/new"
        code 2 "$H" step keep a
        code 3 "$H" step keep b
        "$H" step merge a
        is "$(cat "$W/new")" a
        "$H" step begin b
        is "$("$H" step keep b)" 'kept b, which changed nothing: `step discard b` makes way for another run'
        "$H" step discard b
        # A group goes on without it.
        "$H" group declare g c d
        code 0 "$H" step run --group g c -- sh -c 'echo c >by-c'
        "$H" step begin d
        "$H" step keep d | grep '^merged c: '
        is "$(cat "$W/by-c")" c
        "#,
    );
    let said = "harness-fs: step 'a' has ended already: what it changed is there until it is merged or discarded\n";
    assert!(ran.err.contains(said), "{}", ran.err);
}

/// What a command writes must not be cut off.
#[test]
fn a_step_in_which_a_command_runs_is_not_put_aside() {
    let ran = in_stage(
        r#"
        mkfifo "$T/ready" "$T/go"
        "$H" step begin a
        "$H" step exec a -- sh -c 'echo >"$1/ready"; cat "$1/go"; echo a >new' - "$T" & a=$!
        cat "$T/ready"
        code 1 "$H" step keep a
        echo >"$T/go"
        code 0 wait "$a"
        "$H" step keep a
        is "$("$H" diff a)" "A $W/new"
        "#,
    );
    assert!(ran.err.contains("step 'a' is still running"), "{}", ran.err);
}
