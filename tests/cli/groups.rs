//! Steps that are merged together, or not any more.

use super::mounted::in_stage;

#[test]
fn a_group_reports_a_conflict_once_and_keeps_the_layers() {
    let ran = in_stage(
        r#"
        "$H" group declare g a b
        code 0 "$H" step run --group g b -- sh -c 'echo b >new'
        code 121 "$H" step run --group g --result "$T/r" a -- sh -c 'echo a >new'
        [ ! -e "$W/new" ]
        grep -q '"outcome": "conflict"' "$T/r"
        code 4 "$H" step merge a b
        code 0 "$H" step merge a b --on-conflict last
        is "$(cat "$W/new")" b
        "#,
    );
    assert!(ran.err.contains("waiting for a"), "{}", ran.err);
    assert!(ran.err.contains("/new"), "{}", ran.err);
}

#[test]
fn a_member_brings_its_own_policy_whoever_ends_last() {
    in_stage(
        r#"
        "$H" group declare g a b
        code 0 "$H" step run --group g --on-conflict first b -- sh -c 'echo b >new'
        code 0 "$H" step run --group g a -- sh -c 'echo a >new'
        is "$(cat "$W/new")" a
        "#,
    );
}

#[test]
fn a_member_whose_group_is_removed_is_merged_by_itself() {
    let ran = in_stage(
        r#"
        mkfifo "$T/ready" "$T/go"
        "$H" group declare g a b
        "$H" step run --group g --result "$T/r" a -- sh -c 'echo a >new; echo >"$1/ready"; cat "$1/go"' - "$T" & a=$!
        cat "$T/ready"
        "$H" group rm g
        echo >"$T/go"
        code 0 wait "$a"
        is "$(cat "$W/new")" a
        grep -q '"outcome": "merged"' "$T/r"
        "#,
    );
    assert!(ran.err.contains("'g' was removed"), "{}", ran.err);
}

#[test]
fn a_group_that_is_declared_while_a_step_runs_waits_for_it() {
    in_stage(
        r#"
        mkfifo "$T/ready" "$T/go"
        "$H" step run a -- sh -c 'echo a >new; echo >"$1/ready"; cat "$1/go"' - "$T" & a=$!
        cat "$T/ready"
        "$H" group declare g b a
        code 0 "$H" step run --group g b -- sh -c 'echo b >new-b'
        [ ! -e "$W/new-b" ]
        echo >"$T/go"
        code 0 wait "$a"
        is "$(cat "$W/new" "$W/new-b")" "$(printf 'a\nb')"
        "#,
    );
}

/// There was no such group any more.
#[test]
fn the_member_that_failed_last_is_retried_with_the_same_command() {
    let ran = in_stage(
        r#"
        "$H" group declare g a b
        code 0 "$H" step run --group g a -- sh -c 'echo a >new'
        try() { "$H" step run --group g b -- sh -c 'echo b >>"$1"; [ -e "$2" ]' - "$W/new-b" "$T/now"; }
        code 1 try
        is "$(ls "$W")" "$(printf 'file\nnew')"
        touch "$T/now"
        code 0 try
        is "$(cat "$W/new-b")" b
        code 3 "$H" group close g
        "#,
    );
    let said = "harness-fs: group 'g' had ended; step 'b' was run by itself\nmerged b: ";
    assert!(ran.err.contains(said), "{}", ran.err);
}

#[test]
fn what_a_group_waits_for_alone_ends_it_when_it_leaves() {
    let ran = in_stage(
        r#"
        "$H" group declare g a b
        code 0 "$H" step run --group g a -- sh -c 'echo a >new'
        "$H" step discard b --json >"$T/discard"
        is "$(cat "$W/new")" a
        grep -q '"group": "g"' "$T/discard"
        # And where the others conflict, that is told as well.
        "$H" group declare h c d e
        code 0 "$H" step run --group h c -- sh -c 'echo c >both'
        code 0 "$H" step run --group h d -- sh -c 'echo d >both'
        "$H" step begin e
        "$H" step exec e -- sh -c 'echo e >by-hand'
        code 4 "$H" step merge e
        is "$(cat "$W/by-hand")" e
        [ ! -e "$W/both" ]
        code 0 "$H" step merge c d --on-conflict last
        "#,
    );
    assert!(ran.err.contains("merged e: "), "{}", ran.err);
    assert!(ran.err.contains("group 'h' was waiting"), "{}", ran.err);
    assert!(ran.err.contains("merging c, d: 1 undecided"), "{}", ran.err);
}

/// It said `merged : nothing changed`.
#[test]
fn a_group_of_which_nothing_is_merged_says_so() {
    let ran = in_stage(
        r#"
        said="no step of group 'g' waits to be merged; the stage is unchanged"
        "$H" group declare g a b
        is "$("$H" group close g)" "$said"
        "$H" group declare g a b
        code 1 "$H" step run --group g a -- false
        code 1 "$H" step run --group g b -- false 2>"$T/b"
        grep -qF "$said" "$T/b"
        "#,
    );
    assert!(!ran.err.contains("merged :"), "{}", ran.err);
}

/// It stayed open, and its name could not be used again.
#[test]
fn a_step_that_a_restore_has_stranded_is_kept() {
    let ran = in_stage(
        r#"
        mkfifo "$T/ready" "$T/go"
        "$H" snapshot create s
        echo >"$W/later"
        "$H" step run --result "$T/r" a -- sh -c 'echo a >new; echo >"$1/ready"; cat "$1/go"' - "$T" & a=$!
        cat "$T/ready"
        "$H" snapshot restore s
        echo >"$T/go"
        code 125 wait "$a"
        grep -q '"outcome": "kept"' "$T/r"
        "$H" step list | grep 'a  kept .*snapshot restore'
        is "$("$H" diff a)" "A $W/new"
        "$H" step discard a
        code 0 "$H" step run a -- true
        "#,
    );
    assert!(
        ran.err.contains("step 'a' began on a state that"),
        "{}",
        ran.err
    );
}
