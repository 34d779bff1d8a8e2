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

#[test]
fn the_oldest_makes_way_and_is_named_everywhere() {
    let ran = in_stage(
        r#"
        "$H" unmount
        code 2 "$H" mount --workspace "$W" --keep 0
        "$H" mount --workspace "$W" --keep 1
        fail() { "$H" step run --on-failure keep "$@" -- sh -c 'echo x >x; exit 3'; }
        code 3 fail first 2>"$T/first"
        code 1 grep oldest "$T/first"
        code 3 fail second --result "$T/r" 2>"$T/second"
        said="step 'first' is discarded, the oldest of the failed ones that are kept: there are no more than 1"
        grep -F "$said" "$T/second"
        grep -F "$said" "$T/r"
        line='discarded, as no more than 1 failed steps are kept (`mount --keep`): first'
        is "$("$H" step list | tail -n 1)" "$line"
        "$H" status | grep -F "  $line"
        "$H" step list | grep '^second  kept .* exit code 3$'
        code 3 "$H" diff first
        "$H" unmount --keep-state
        code 2 "$H" mount --resume --keep 3
        "$H" mount --resume
        "$H" status --json | grep '"keep": 1,'
        # In a group as well.
        "$H" group declare g third other
        code 3 fail third --group g 2>"$T/third"
        grep -F "step 'second' is discarded, the oldest" "$T/third"
        "$H" step list | grep -F 'are kept (`mount --keep`): first, second'
        "$H" step begin last
        "$H" step exec last -- sh -c 'echo x >x'
        "$H" step keep last --json | grep "step 'third' is discarded, the oldest"
        "$H" step discard last
        "#,
    );
    assert!(ran.err.contains("--keep <N>"), "{}", ran.err);
}
