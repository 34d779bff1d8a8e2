//! Steps that begin where others began or ended, and parts of what they did.

use super::mounted::in_stage;

#[test]
fn of_a_failed_step_only_the_reports_are_merged() {
    let ran = in_stage(
        r#"
        mkdir -p "$W/src" && echo 1 >"$W/src/a" && echo 1 >"$W/src/b" && echo 1 >"$W/old.xml"
        code 1 "$H" step run --on-failure keep tests -- sh -c '
            echo 2 >src/a; mkdir -p out/reports/deep; echo 1 >out/bin; echo r >out/reports/r.xml
            chmod 700 out; ln out/reports/r.xml out/reports/deep/s.xml; rm old.xml; exit 1'
        code 0 "$H" step merge tests --only 'out/reports/**' --only '*.xml'
        is "$(cd "$W" && find . -type f | sort | tr '\n' ' ')" \
            "./file ./out/reports/deep/s.xml ./out/reports/r.xml ./src/a ./src/b "
        is "$(cat "$W/src/a" "$W/out/reports/r.xml" "$W/out/reports/deep/s.xml")" "$(printf '1\nr\nr')"
        is "$(stat -c '%a %h' "$W/out" "$W/out/reports/r.xml" | tr '\n' ' ')" "700 3 644 2 "
        is "$("$H" blame "$W/out/reports/r.xml" | grep -c tests)" 1
        code 3 "$H" step discard tests
        "#,
    );
    assert!(ran.err.contains("exit code 1"), "{}", ran.err);
}

#[test]
fn a_pattern_that_nothing_matches_merges_nothing_and_says_so() {
    let ran = in_stage(
        r#"
        "$H" step begin s && "$H" step exec s -- sh -c 'echo 1 >new'
        code 2 "$H" step merge s --only '['
        "$H" step merge s --only 'none/**' >"$T/said"
        grep -q "nothing that step 's' changed is to be merged" "$T/said"
        [ ! -e "$W/new" ]
        "#,
    );
    assert!(ran.err.contains("'['"), "{}", ran.err);
}

#[test]
fn a_conflict_in_a_part_leaves_the_whole() {
    in_stage(
        r#"
        "$H" step begin a && "$H" step begin b
        "$H" step exec a -- sh -c 'echo a >both'
        "$H" step exec b -- sh -c 'echo b >both; echo b >other'
        code 0 "$H" step merge a
        code 4 "$H" step merge b --only both
        is "$("$H" diff b)" "$(printf 'A %s\nA %s' "$W/both" "$W/other")"
        code 0 "$H" step merge b --only other
        is "$(cat "$W/both" "$W/other")" "$(printf 'a\nb')"
        "#,
    );
}

#[test]
fn steps_begin_like_others_whatever_was_merged_since() {
    in_stage(
        r#"
        "$H" step begin first
        echo later >"$W/later"
        "$H" step begin second --like first
        "$H" step exec second -- sh -c '[ ! -e later ]; echo 1 >new'
        code 3 "$H" step begin third --like none
        code 0 "$H" step merge first second
        is "$(cat "$W/later" "$W/new")" "$(printf 'later\n1')"
        "#,
    );
}

#[test]
fn a_step_that_is_reset_begins_where_it_began() {
    in_stage(
        r#"
        "$H" step begin s
        "$H" step exec s -- sh -c 'echo 1 >wreck; rm file'
        echo later >"$W/later"
        "$H" step reset s >"$T/said"
        code 0 "$H" step exec s -- sh -c '[ ! -e wreck ] && [ -e file ] && [ ! -e later ] && echo 2 >new'
        code 0 "$H" step merge s
        is "$(ls "$W" | tr '\n' ' ')" "file later new "
        code 3 "$H" step reset s
        "#,
    );
}

#[test]
fn steps_that_follow_each_other_are_merged_as_one() {
    let ran = in_stage(
        r#"
        mkdir -p "$W/dir" && echo 1 >"$W/dir/a" && ln "$W/dir/a" "$W/dir/b"
        "$H" step begin one && "$H" step begin beside
        "$H" step exec one -- sh -c 'echo one >>dir/a; mv dir moved; echo 1 >made; echo 1 >gone'
        code 2 "$H" step begin two --after one
        "$H" step exec beside -- sh -c 'echo beside >beside'
        "$H" step seal one
        "$H" step begin two --after one
        "$H" step exec two -- sh -c 'rm gone; echo two >>moved/b; echo 2 >made'
        code 2 "$H" step merge two
        "$H" step seal two
        "$H" step begin three --after two
        "$H" step exec three -- sh -c 'chmod 600 made'
        code 2 "$H" step merge one two three --only made
        code 0 "$H" step merge beside one two three
        is "$(cd "$W" && find . | sort | tr '\n' ' ')" ". ./beside ./file ./made ./moved ./moved/a ./moved/b "
        is "$(cat "$W/moved/a")" "$(printf '1\none\ntwo')"
        is "$(stat -c '%a %h' "$W/moved/a" "$W/made" | tr '\n' ' ')" "644 2 600 1 "
        "#,
    );
    assert!(ran.err.contains("`step merge one two`"), "{}", ran.err);
}

#[test]
fn what_each_of_them_saw_is_compared_with_what_it_began_on() {
    in_stage(
        r#"
        mkdir -p "$W/src/sub" && echo 1 >"$W/src/sub/m" && echo 1 >"$W/x"
        reads() { "$H" step list --reads | sed "s|$W/||g"; }
        steps() {
            "$H" step begin one && "$H" step begin beside
            "$H" step exec one -- sh -c "$1" >&2 && "$H" step seal one
            "$H" step begin two --after one
            "$H" step exec two -- sh -c "$2" >&2 && "$H" step seal two
            "$H" step exec beside -- sh -c "$3" && "$H" step merge beside
        }
        # What was written before it, and alike beside it.
        steps 'echo 2 >x; echo 1 >new' 'cat x new' 'echo 2 >x; echo 1 >new'
        is "$(reads)" "no step saw what another changed meanwhile"
        "$H" step merge one two
        is "$(reads)" "no step saw what another changed meanwhile"
        # It is told before they are merged as well as then.
        steps 'touch x' 'cat x; echo 1 >own' 'echo 3 >x'
        is "$(reads)" "two read x, which beside changed"
        "$H" step merge one two
        is "$(reads)" "two read x, which beside changed"
        # What one saw and is accepted says nothing of what the other saw.
        "$H" unmount --discard >&2
        mkdir -p "$W/src/sub" && echo 1 >"$W/src/sub/m"
        "$H" mount --workspace "$W" --policy src=last --strict >&2
        steps 'ls src; echo 1 >own' 'cat src/sub/m; echo 2 >own2' 'echo 2 >src/sub/m; echo 1 >src/new'
        code 4 "$H" step merge one two
        code 0 "$H" step merge one two --strict=false
        "#,
    );
}

#[test]
fn each_of_them_keeps_what_it_did() {
    in_stage(
        r#"
        said() { "$H" blame "$W/$1" | awk '{print $1, $3}' | tr '\n' ' '; }
        steps() {
            "$H" step begin one && "$H" step begin beside && "$H" step begin none --like one
            "$H" step seal none
            "$H" step exec one -- sh -c "$1" && "$H" step seal one
            "$H" step begin two --after one
            "$H" step exec two -- sh -c "$2" && "$H" step seal two
            "$H" step exec beside -- sh -c "$3"
        }
        mkdir "$W/dir"
        steps 'echo 1 >dir/a; echo 1 >gone' 'echo 2 >>dir/a; echo 2 >b; rm gone' 'echo 3 >dir/c'
        "$H" step merge one two
        is "$(said dir/a) $(said b) $(said gone)" "modified two added one  added two  deleted two added one "
        "$H" rollback one >&2
        is "$(cat "$W/dir/a" "$W/gone")" "$(printf '1\n1')"
        "$H" step discard none && "$H" step discard beside
        # Beside another that has nothing to do with them.
        steps 'echo 1 >dir/d; echo 1 >gone2' 'echo 2 >e; rm gone2' 'echo 3 >dir/f'
        "$H" step merge beside none one two
        is "$(said dir/d) $(said e) $(said dir/f)" "added one  added two  added beside "
        # What they have made and removed is another's: as if they had not.
        steps 'echo 1 >dir/g; mkdir t; echo 1 >t/x' 'rm -r t; echo 2 >h' 'mkdir t; echo 3 >t/x; echo 3 >dir/i'
        "$H" step merge beside none one two
        is "$(cat "$W/t/x" "$W/dir/g" "$W/h" "$W/dir/i" | tr '\n' ' ')" "3 1 2 3 "
        # A file that is open for writing stays, and what the others did is there.
        echo o >"$W/open" && exec 7>>"$W/open"
        steps 'echo 1 >j; echo 1 >open' 'echo 2 >>j; echo 2 >open' 'true'
        code 4 "$H" step merge one two
        code 0 "$H" step merge one two --on-conflict first
        is "$(cat "$W/open" "$W/j" | tr '\n' ' ')" "o 1 2 "
        exec 7>&-
        "$H" step discard none && "$H" step discard beside
        "#,
    );
}

#[test]
fn one_that_followed_what_is_gone_says_so() {
    let ran = in_stage(
        r#"
        steps() {
            "$H" step begin one && "$H" step exec one -- touch one keep && "$H" step seal one
            "$H" step begin two --after one && "$H" step exec two -- touch two
        }
        steps
        "$H" step discard one
        code 2 "$H" step merge two
        "$H" step discard two
        steps
        "$H" step run other -- touch other
        "$H" step merge one
        code 2 "$H" step merge two
        "$H" step discard two
        steps
        "$H" step merge one --only keep
        code 2 "$H" step merge two
        "$H" step discard two
        "#,
    );
    let without = "step 'two' began on what step 'one' had left, which was merged without it";
    assert_eq!(ran.err.matches(without).count(), 2, "{}", ran.err);
    assert!(
        ran.err.contains("which is not there any more"),
        "{}",
        ran.err
    );
}

#[test]
fn what_decides_the_conflicts_of_several_steps_is_said_once() {
    let ran = in_stage(
        r#"
        for step in a b c; do
            "$H" step begin $step && "$H" step exec $step -- sh -c "echo $step >both"
        done
        "$H" step merge a
        code 4 "$H" step merge b c
        "$H" step discard b && "$H" step discard c
        "#,
    );
    assert!(ran.err.contains("2 conflicts undecided"), "{}", ran.err);
    assert_eq!(ran.err.matches("To decide:").count(), 1, "{}", ran.err);
}
