//! What a member that fails does to the others of its group.

use super::mounted::in_stage;

#[test]
fn a_group_is_held_up_until_the_member_that_failed_has_succeeded() {
    let ran = in_stage(
        r#"
        "$H" group declare --if-one-fails hold g a b
        try() { "$H" step run --group g a -- sh -c 'echo a >new-a; [ -e "$1" ]' - "$T/now"; }
        code 1 try
        code 0 "$H" step run --group g --result "$T/r" b -- sh -c 'echo b >new-b'
        grep -q '"outcome": "waiting-for-group"' "$T/r"
        "$H" status | grep '^  g  a (failed), b (ended)$'
        is "$(ls "$W")" file
        # It failed once more, and then it did not; what others did meanwhile is not lost.
        code 1 try
        touch "$T/now"
        code 0 try
        is "$(cat "$W/new-a" "$W/new-b")" "$(printf 'a\nb')"
        code 3 "$H" group close g
        "#,
    );
    let said =
        "group 'g' is not merged, as a failed: run it again, or `group close g` merges the others";
    assert_eq!(ran.err.matches(said).count(), 3, "{}", ran.err);
}

#[test]
fn what_a_held_group_has_is_merged_or_discarded_by_hand() {
    in_stage(
        r#"
        fails() {
            "$H" group declare --if-one-fails hold g a b
            code 0 "$H" step run --group g b -- sh -c 'echo b >>"$1"' - "$W/new-b"
            code 1 "$H" step run --group g a -- sh -c 'echo a >new-a; false'
        }
        fails && "$H" group close g
        is "$(cat "$W/new-b")" b
        # Not to wait for the one is to merge the others.
        fails && "$H" step discard a
        is "$(cat "$W/new-b")" "$(printf 'b\nb')"
        fails && "$H" group rm g
        "$H" step discard b
        is "$(cat "$W/new-b")" "$(printf 'b\nb')"
        # What is kept of the one makes way for another run, and the others wait.
        "$H" group declare --if-one-fails hold g a b
        code 0 "$H" step run --group g b -- sh -c 'echo b >>"$1"' - "$W/new-b"
        code 1 "$H" step run --group g --on-failure keep a -- sh -c 'echo half >kept; exit 1'
        code 125 "$H" step run --group g a -- true
        is "$("$H" diff a)" "A $W/kept"
        "$H" step discard a
        is "$(grep -c b "$W/new-b")" 2
        code 0 "$H" step run --group g a -- sh -c 'echo whole >kept'
        is "$(cat "$W/kept"; grep -c b "$W/new-b")" "$(printf 'whole\n3')"
        rm "$W/kept"
        # All have failed.
        "$H" group declare --if-one-fails hold g a b
        code 1 "$H" step run --group g a -- false
        code 1 "$H" step run --group g b -- false
        code 0 "$H" step run --group g a -- sh -c 'echo a >new-a'
        [ ! -e "$W/new-a" ]
        code 0 "$H" step run --group g b -- true
        is "$(cat "$W/new-a")" a
        # A failure that counts for nothing holds up nothing.
        "$H" group declare --if-one-fails hold g a b
        code 1 "$H" step run --group g --on-failure merge a -- sh -c 'echo again >new-a; false'
        code 0 "$H" step run --group g b -- true
        is "$(cat "$W/new-a")" again
        "#,
    );
}

#[test]
fn a_failure_aborts_what_still_runs() {
    let ran = in_stage(
        r#"
        mkfifo "$T/ready"
        "$H" group declare --if-one-fails abort g done polite stubborn kept lint never
        code 0 "$H" step run --group g "done" -- sh -c 'echo x >of-done'
        run() { name=$1; shift; "$H" step run --group g --result "$T/$name" "$@" 2>"$T/$name.err" & }
        run polite polite -- sh -c 'trap "echo term >\"$1/told\"; exit 0" TERM; echo x >of-polite; echo >"$1/ready"; while :; do sleep 0.01; done' - "$T"
        polite=$!
        cat "$T/ready"
        run stubborn --grace 100ms stubborn -- sh -c 'trap "" TERM; echo >"$1/ready"; while :; do sleep 0.01; done' - "$T"
        stubborn=$!
        cat "$T/ready"
        run kept --on-failure keep kept -- sh -c 'echo x >of-kept; echo >"$1/ready"; exec sleep 1000' - "$T"
        kept=$!
        cat "$T/ready"
        code 7 "$H" step run --group g lint -- sh -c 'exit 7' 2>"$T/lint.err"
        # At once: sleep would go on for a quarter of an hour, and the test has a minute.
        code 122 wait "$polite"
        code 122 wait "$stubborn"
        code 122 wait "$kept"
        is "$(cat "$T/told")" term
        is "$(ls "$W")" file
        for step in polite stubborn kept; do grep -q '"outcome": "aborted"' "$T/$step"; done
        grep -q '"signal": 9' "$T/stubborn"
        is "$("$H" diff kept)" "A $W/of-kept"
        "$H" status --json | grep "\"aborted\": \"step 'lint' failed\""
        code 125 "$H" step run --group g never -- touch of-never
        code 125 "$H" step run never -- touch of-never
        code 2 "$H" step begin "done"
        code 2 "$H" group close g
        # Anew, with the names that are free.
        "$H" group declare g "done" never
        code 0 "$H" step run --group g "done" -- sh -c 'echo x >of-done'
        code 0 "$H" step run --group g never -- true
        is "$(ls "$W")" "$(printf 'file\nof-done')"
        "$H" step discard kept
        cat "$T"/*.err >&2
        "#,
    );
    for said in [
        "harness-fs: the step failed (exit code 7); its changes are discarded\n\
         group 'g' is aborted, and nothing of it is merged; ended: polite, stubborn, kept; discarded, though done: done\n",
        "the step is ended, as its group 'g' was aborted (step 'lint' failed); its changes are discarded",
        "the step is ended, as its group 'g' was aborted (step 'lint' failed); the stage is unchanged and the step's changes are kept",
        "step 'never' is in group 'g', which was aborted (step 'lint' failed): declare the group anew",
        "group 'g' was aborted (step 'lint' failed), so nothing of it is merged",
    ] {
        assert!(ran.err.contains(said), "no \"{said}\" in\n{}", ran.err);
    }
}

#[test]
fn a_group_is_aborted_by_hand() {
    let ran = in_stage(
        r#"
        mkfifo "$T/ready"
        "$H" group declare g a b c
        "$H" step run --group g a -- sh -c 'echo >"$1/ready"; exec sleep 1000' - "$T" & a=$!
        cat "$T/ready"
        "$H" step begin b
        "$H" step exec b -- sh -c 'echo >"$1/ready"; exec sleep 1000' - "$T" & exec=$!
        cat "$T/ready"
        is "$("$H" group abort g --json | tr -d ' \n')" '{"ended":["b","a"]}'
        code 122 wait "$a"
        code 143 wait "$exec"
        is "$("$H" step list)" ''
        code 0 "$H" group abort g
        code 3 "$H" group abort h
        code 125 "$H" step run --group g c -- true
        "$H" group rm g
        code 0 "$H" step run c -- touch of-c
        [ -e "$W/of-c" ]
        "#,
    );
    assert!(
        ran.err.contains("was aborted (by `group abort`)"),
        "{}",
        ran.err
    );
}

/// A pause is no failure of what it cuts off.
#[test]
fn what_a_failure_did_is_known_after_a_restart() {
    in_stage(
        r#"
        mkfifo "$T/ready"
        again() { "$H" unmount --keep-state; "$H" mount --resume; }
        "$H" group declare --if-one-fails hold held a b
        "$H" group declare --if-one-fails abort over c d
        "$H" group declare --if-one-fails abort going e f
        code 1 "$H" step run --group held a -- false
        code 1 "$H" step run --group over c -- false
        code 0 "$H" step run --group going e -- touch of-e
        "$H" step run --group going f -- sh -c 'echo >"$1/ready"; exec sleep 1000' - "$T" & f=$!
        cat "$T/ready"
        again
        code 143 wait "$f"
        code 0 "$H" step run --group held b -- touch of-b
        code 125 "$H" step run --group over d -- true
        is "$(ls "$W")" file
        code 0 "$H" step run --group held a -- touch of-a
        code 0 "$H" step run --group going f -- touch of-f
        is "$(ls "$W")" "$(printf 'file\nof-a\nof-b\nof-e\nof-f')"
        "#,
    );
}

/// Who began later saw what had been merged and written since.
#[test]
fn members_start_from_the_same_state_whenever_they_begin() {
    in_stage(
        r#"
        echo before >"$W/head"
        "$H" group declare g a b c
        code 0 "$H" step run --group g a -- sh -c 'cat head >of-a'
        code 0 "$H" step run other -- sh -c 'echo other >other; echo other >>file'
        echo after >"$W/head"
        code 1 "$H" step run --group g b -- sh -c '[ ! -e other ] && [ ! -e of-a ] && cat head file >of-b && exit 1'
        "$H" unmount --keep-state
        "$H" mount --resume
        # A retry does, too.
        code 0 "$H" step run --group g b -- sh -c '[ ! -e other ] && cat head file >of-b'
        code 0 "$H" step run --group g c -- sh -c '[ ! -e other ] && cat head >of-c'
        is "$(cat "$W/of-a" "$W/of-b" "$W/of-c" "$W/other" "$W/head")" \
            "$(printf 'before\nbefore\nbase\nbefore\nother\nafter')"
        # Which a restore has left: then it is as with a step in no group.
        "$H" snapshot create s
        echo later >"$W/head"
        "$H" group declare h d e
        code 0 "$H" step run --group h d -- true
        "$H" snapshot restore s
        code 0 "$H" step run --group h e -- sh -c 'cat head >of-e'
        is "$(cat "$W/of-e")" after
        "#,
    );
}
