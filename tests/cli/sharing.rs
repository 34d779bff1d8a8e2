//! Shared paths that steps share live, in turns, or each for itself, with real mounts.

use super::mounted::in_stage;
use super::rig::Ran;

/// Runs a script in a stage with the shared paths `$T/vol`, a directory with one
/// file, and `$T/conf`, a file, both of which have a mode.
fn shared(mode: &str, script: &str) -> Ran {
    in_stage(&format!(
        r#"
        "$H" unmount
        mkdir "$T/vol"; echo base >"$T/vol/file"; echo base >"$T/conf"
        share() {{
            mode=$1; shift
            "$H" mount --workspace "$W" --shared-path "$T/vol" --shared-path "$T/conf" \
                --sharing "$T/vol=$mode" --sharing "$T/conf=$mode" "$@"
        }}
        # Until the list of steps has a line like this.
        lists() {{ until "$H" step list | grep -q "$1"; do sleep 0.05; done; }}
        share {mode}
        {script}
        # The test's own stage ends as it begins.
        "$H" unmount
        is "$(cat "$T/vol/file" "$T/conf")" "$(printf 'base\nbase')"
        is "$(ls "$T/vol")" file
        "$H" mount --workspace "$W"
        "#
    ))
}

/// Each waits for what the other writes.
#[test]
fn parallel_steps_see_each_other_at_once_where_they_share() {
    shared(
        "shared",
        r#"
        until_there='until [ -e "$1" ]; do sleep 0.05; done'
        "$H" step run a -- sh -euc 'echo a >"$T/vol/a"; echo a >>"$T/conf"; '"$until_there"'; cat "$1" >heard' - "$T/vol/b" & a=$!
        code 3 "$H" step run b -- sh -euc "$until_there"'; echo b >"$T/vol/b"; echo b >>"$T/conf"; echo b >by-b; exit 3' - "$T/vol/a"
        code 0 wait "$a"
        is "$(cat "$W/heard")" b
        # Also of the step that failed.
        is "$(cat "$T/vol/a" "$T/vol/b" "$T/conf")" "$(printf 'a\nb\nbase\na\nb')"
        [ ! -e "$W/by-b" ]
        is "$("$H" diff a)" "A $W/heard"
        "$H" diff | grep -qF "A $T/vol/b"
        # It is the stage's: a snapshot goes back on it, and an export holds it.
        "$H" snapshot create s
        "$H" step run later -- sh -euc 'rm "$T/vol/a"; echo later >"$T/conf"'
        [ ! -e "$T/vol/a" ]
        "$H" snapshot restore s
        is "$(cat "$T/vol/a" "$T/conf")" "$(printf 'a\nbase\na\nb')"
        "$H" export s --to "$T/out"
        "$H" unmount
        rm -r "$T/vol"; mkdir "$T/vol"; echo empty >"$T/conf"
        "$H" mount --workspace "$W" --shared-path "$T/vol" --shared-path "$T/conf" --from "$T/out"
        is "$(cat "$T/vol/b" "$T/conf" "$W/heard")" "$(printf 'b\nbase\na\nb\nb')"
        "$H" unmount
        echo base >"$T/vol/file"; echo base >"$T/conf"
        share shared
        "#,
    );
}

/// A lock that a tool takes in its cache keeps other steps out, and what one has
/// open while others are begun and merged stays what it is.
#[test]
fn files_and_locks_of_a_live_path_are_the_stages_own() {
    shared(
        "shared",
        r#"
        mkfifo "$T/ready" "$T/go"
        "$H" step run --private "$T/conf" a -- sh -euc '
            exec 5>>"$T/vol/log"; flock 5; echo 1 >&5
            echo >"$T/ready"; cat "$T/go"
            echo 4 >&5; echo a >>"$T/conf"; cat "$T/conf" >seen' & a=$!
        cat "$T/ready"
        echo 2 >>"$T/vol/log"
        code 1 "$H" step run b -- flock -n "$T/vol/log" true
        code 0 "$H" step run c -- sh -euc 'echo 3 >>"$T/vol/log"; echo c >by-c; echo c >>"$T/conf"'
        # An export of what is there while they write.
        "$H" snapshot create between
        echo >"$T/go"
        code 0 wait "$a"
        is "$(cat "$T/vol/log")" "$(printf '1\n2\n3\n4')"
        is "$(cat "$W/by-c")" c
        # That a had the file for itself is over, and it began before c wrote.
        is "$(cat "$W/seen")" "$(printf 'base\na')"
        is "$(cat "$T/conf")" "$(printf 'base\nc')"
        "$H" snapshot restore between
        is "$(cat "$T/vol/log")" "$(printf '1\n2\n3')"
        "#,
    );
}

#[test]
fn an_open_step_and_a_shell_show_a_live_path_as_it_is() {
    let ran = shared(
        "shared",
        r#"
        "$H" step begin open --json >"$T/view"
        grep -A 1 '"live": \[' "$T/view" | grep -qF "$T/vol"
        echo stage >"$T/vol/new"
        "$H" step exec open -- sh -euc 'cat "$T/vol/new" >copy; echo exec >"$T/vol/new"'
        is "$(cat "$T/vol/new")" exec
        "$H" step discard open
        is "$(cat "$T/vol/new")" exec
        code 1 "$H" step run --on-failure keep bad -- sh -euc 'echo bad >"$T/vol/new"; echo w >w; false'
        SHELL= "$H" step shell bad -- sh -euc 'cat w; cat "$T/vol/new"; echo shell >"$T/vol/new"; rm w'
        is "$(cat "$T/vol/new")" shell
        is "$("$H" diff bad)" "A $W/w"
        echo exit | SHELL=/bin/sh "$H" step shell bad
        "#,
    );
    let said = "what is changed here is thrown away, except in /";
    assert!(ran.err.contains(said), "{}", ran.err);
}

#[test]
fn what_is_private_is_dropped_whatever_becomes_of_the_step() {
    shared(
        "private",
        r#"
        work='is() { [ "$1" = "$2" ] || { echo "$1 is not $2" >&2; exit 99; }; }
            is "$(cat "$T/vol/file" "$T/conf")" "$(printf "base\nbase")"
            is "$(ls "$T/vol")" file
            echo mine >"$T/vol/file"; echo mine >"$T/conf"; echo new >"$T/vol/new"
            is "$(cat "$T/vol/file" "$T/conf" "$T/vol/new")" "$(printf "mine\nmine\nnew")"'
        code 0 "$H" step run alone -- sh -euc "$work"
        code 7 "$H" step run --on-failure merge bad -- sh -euc "$work; echo 1 >by-bad; exit 7"
        is "$(cat "$W/by-bad")" 1
        code 7 "$H" step run bad -- sh -euc "$work; exit 7"
        code 0 "$H" step run bad -- sh -euc "$work"
        code 7 "$H" step run --on-failure keep kept -- sh -euc "$work; echo 2 >by-kept; exit 7"
        is "$("$H" diff kept)" "A $W/by-kept"
        code 0 "$H" step shell kept -- sh -euc 'cat by-kept; '"$work"
        code 0 "$H" step merge kept
        "$H" step begin open
        "$H" step exec open -- sh -euc "$work; echo 3 >by-open"
        "$H" step exec open -- sh -euc '[ "$(cat "$T/vol/new")" = new ]'
        is "$("$H" diff open)" "A $W/by-open"
        # It sees what the stage has there, as of its begin.
        echo stage >"$T/vol/stage"
        code 1 "$H" step exec open -- test -e "$T/vol/stage"
        code 0 "$H" step merge open
        is "$("$H" step run look -- cat "$T/vol/stage")" stage
        rm "$T/vol/stage"
        is "$("$H" diff)" "$(printf 'A %s\n' "$W/by-bad" "$W/by-kept" "$W/by-open")"
        "#,
    );
}

/// Whoever finds the marker of another has not had its turn.
const ALONE: &str = r#"mkdir "$T/vol/marker"; echo "$HARNESS_FS_STEP" >>"$T/vol/turns"; sleep 0.2
    [ "$(ls "$T/vol")" = "$(printf "file\nmarker\nturns")" ]; rmdir "$T/vol/marker"; echo 1 >"by-$HARNESS_FS_STEP""#;

#[test]
fn steps_take_turns_where_a_path_is_locked() {
    let ran = shared(
        "locked",
        &format!(
            r#"
        alone='{ALONE}'
        "$H" group declare g b c
        for step in a d e; do "$H" step run "$step" -- sh -euc "$alone" & eval "$step=\$!"; done
        # In a group no less, and none of it waits for the end of all.
        for step in c b; do "$H" step run --group g "$step" -- sh -euc "$alone" & eval "$step=\$!"; done
        # One that has the path for itself waits for nobody.
        code 0 "$H" step run --private "$T/vol" --private "$T/conf" free -- sh -euc 'echo 1 >"$T/vol/free"'
        for step in a b c d e; do eval "code 0 wait \"\$$step\""; done
        is "$(sort "$T/vol/turns" | tr -d '\n')" abcde
        is "$(ls "$W")" "$(printf 'by-a\nby-b\nby-c\nby-d\nby-e\nfile')"
        "#
        ),
    );
    assert!(!ran.err.contains("conflict"), "{}", ran.err);
}

#[test]
fn who_waits_for_its_turn_is_told_and_listed() {
    let ran = shared(
        "locked",
        r#"
        "$H" step begin a
        "$H" step exec a -- sh -euc 'echo a >"$T/vol/a"'
        "$H" step run b -- cat "$T/vol/a" >"$T/b" 2>"$T/told" & b=$!
        until grep -q "waits for its turn" "$T/told"; do sleep 0.05; done
        "$H" step run c -- true & c=$!
        lists '^c  waiting '
        "$H" step list | grep -qF "for $T/vol, after step 'a', for $T/conf, after step 'a'"
        "$H" step list | grep -q '^a  open '
        "$H" status | grep -q '^  b  waiting '
        "$H" status | grep -qF "$T/vol (locked)"
        "$H" status --json | grep -q '"state": "waiting"'
        # The name is taken, and what can be seen to fail does not wait.
        code 125 "$H" step run b -- true
        code 125 "$H" step run a -- true
        code 125 "$H" step run --group none d -- true
        code 125 "$H" step run a/b -- true
        # An open step has its turn already.
        is "$("$H" step exec a -- cat "$T/vol/a")" a
        "$H" step discard a
        code 0 wait "$b"
        code 0 wait "$c"
        is "$(cat "$T/b")" a
        cat "$T/told" >&2
        is "$("$H" step list)" ''
        "#,
    );
    let said = [
        "/vol (locked) after step 'a', ",
        "(--private PATH gives",
        "being begun by another",
    ];
    for said in said {
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
}

#[test]
fn the_wait_for_a_turn_can_be_given_up() {
    shared(
        "locked",
        r#"
        "$H" step begin a
        for signal in INT TERM KILL; do
            # A shell starts what runs beside it with ^C ignored.
            env --default-signal=INT "$H" step run b -- touch "$W/by-b" & b=$!
            lists '^b  waiting '
            kill -"$signal" "$b"
            got=0; wait "$b" || got=$?
            [ "$got" -gt 128 ]
            until ! "$H" step list | grep -q '^b  '; do sleep 0.05; done
            env --default-signal=INT "$H" step begin c & c=$!
            lists '^c  waiting '
            kill -"$signal" "$c"
            got=0; wait "$c" || got=$?
            [ "$got" -gt 128 ]
            until ! "$H" step list | grep -q '^c  '; do sleep 0.05; done
        done
        "$H" step merge a
        code 0 "$H" step run b -- true
        [ ! -e "$W/by-b" ]
        "#,
    );
}

/// However a step comes to its end, the next one gets its turn.
#[test]
fn a_turn_ends_with_its_step() {
    shared(
        "locked",
        r#"
        mkfifo "$T/ready"
        next() { "$H" step run next -- true & next=$!; lists '^next  waiting '; }
        for ending in merge discard keep; do
            "$H" step begin a
            "$H" step exec a -- touch "$W/$ending"
            next
            "$H" step "$ending" a
            code 0 wait "$next"
        done
        "$H" step discard a
        # Of one that waits to be merged it has ended too.
        "$H" step begin a
        next
        "$H" step seal a
        code 0 wait "$next"
        "$H" step discard a
        # And of one whose group is given up.
        "$H" group declare g a b --if-one-fails abort
        "$H" step begin a
        next
        "$H" group abort g
        code 0 wait "$next"
        "$H" group rm g
        # Also where it is kept because of a conflict.
        "$H" step begin a
        "$H" step exec a -- sh -c 'echo a >both'
        echo stage >"$W/both"
        next
        code 4 "$H" step merge a
        code 0 wait "$next"
        "$H" step discard a
        # The command line of who has it is killed.
        "$H" step run a -- sh -c 'echo $$ >"$T/ready"; exec sleep 1000' & a=$!
        read -r pid <"$T/ready"
        next
        kill -KILL "$a"
        code 0 wait "$next"
        code 1 kill -0 "$pid"
        # What the command leaves behind still has the turn.
        "$H" step run a -- sh -c 'trap "" HUP; sleep 1000 >/dev/null 2>&1 & echo $! >"$T/ready"' & a=$!
        read -r pid <"$T/ready"
        "$H" step run next -- sh -c '! kill -0 "$1"' - "$pid" & next=$!
        code 0 wait "$next"
        code 0 wait "$a"
        # Not started at all.
        code 127 "$H" step run a -- ./no-such
        # A shell in what a step has left.
        code 1 "$H" step run --on-failure keep a -- sh -c 'touch left; false'
        "$H" step shell a -- sh -c 'echo $$ >"$T/ready"; exec sleep 1000' & shell=$!
        read -r pid <"$T/ready"
        next
        "$H" step list | grep -qF "after step 'a/shell-1'"
        kill "$pid"
        code 143 wait "$shell"
        code 0 wait "$next"
        # And that waits for steps as well, and is gone when it is given up.
        "$H" step begin b
        "$H" step shell a -- true & shell=$!
        lists '^a/shell-1  waiting '
        kill "$shell"
        code 143 wait "$shell"
        until [ "$(ls -A "$HARNESS_FS_STATE_DIR/views")" = "$(printf 'b\nstage')" ]; do sleep 0.05; done
        "$H" step discard a
        "$H" step discard b
        "#,
    );
}

#[test]
fn nobody_waits_for_a_turn_with_which_nothing_could_begin() {
    shared(
        "locked",
        r#"
        "$H" step begin a
        code 3 "$H" step begin b --slot none
        code 3 "$H" step begin b --like none
        code 3 "$H" step begin b --after none
        # That one has ended by then.
        "$H" step begin b --after a & b=$!
        lists '^b  waiting '
        "$H" step exec a -- touch by-a
        "$H" step seal a
        code 0 wait "$b"
        "$H" step exec b -- test -e by-a
        "$H" step merge a b
        "#,
    );
}

#[test]
fn nobody_waits_for_a_turn_when_the_stage_ends() {
    let ran = shared(
        "locked",
        r#"
        "$H" step begin a
        "$H" step exec a -- sh -euc 'echo live >"$T/vol/live"; echo a >by-a'
        "$H" step run b -- true 2>"$T/b" & b=$!
        lists '^b  waiting '
        "$H" unmount --keep-state
        code 125 wait "$b"
        cat "$T/b" >&2
        # Modes and what is live are kept, and the turn of a step that is open no more is not.
        code 1 "$H" mount --workspace "$W" --shared-path "$T/vol" --shared-path "$T/conf" --resume-if-kept
        "$H" mount --resume
        is "$(cat "$T/vol/live")" live
        "$H" status | grep -qF "$T/vol (locked)"
        "$H" step list | grep -q '^a  kept '
        code 0 "$H" step run b -- sh -euc 'echo more >>"$T/vol/live"'
        # And of a daemon that is killed.
        "$H" step begin c
        "$H" step run d -- true 2>"$T/d" & d=$!
        lists '^d  waiting '
        kill -KILL "$("$H" status --json | sed -n 's/^  "pid": \([0-9]*\),*/\1/p')"
        code 125 wait "$d"
        until [ -e "$HARNESS_FS_STATE_DIR/died" ] && ! grep -q " $W " /proc/self/mountinfo; do sleep 0.05; done
        "$H" mount --resume
        is "$(cat "$T/vol/live")" "$(printf 'live\nmore')"
        code 0 "$H" step run d -- true
        "$H" step merge a
        is "$(cat "$W/by-a")" a
        "$H" unmount --keep-state
        share locked --resume-if-kept
        is "$(cat "$T/vol/live")" "$(printf 'live\nmore')"
        "#,
    );
    for said in ["the stage is being unmounted", "with other options"] {
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
}

#[test]
fn a_mode_that_cannot_be_is_refused() {
    let ran = in_stage(
        r#"
        "$H" unmount
        refused() { code 2 "$H" mount --workspace "$W" --shared-path "$T/vol" "$@"; }
        refused --sharing "$W=shared"
        refused --sharing "$T/other=private"
        refused --sharing "$T/vol=exclusive"
        refused --sharing "$T/vol"
        refused --sharing "$T/vol=shared" --sharing "$T/vol/=locked"
        refused --resume --sharing "$T/vol=shared"
        [ ! -e "$T/vol" ]
        # By another name.
        mkdir "$T/real"; ln -s real "$T/link"
        "$H" mount --workspace "$W" --shared-path "$T/link" --sharing "$T/link=shared"
        "$H" status | grep -qF "$T/real (shared)"
        code 0 "$H" step run a -- touch "$T/link/live"
        [ -e "$T/real/live" ]
        is "$("$H" diff a)" ''
        code 125 "$H" step run --private "$W" b -- true
        code 2 "$H" step begin --private "$T/none" b
        "$H" unmount
        "$H" mount --workspace "$W" --sharing "$W=merge"
        "#,
    );
    for said in [
        "is the workspace, which is always merged",
        "add --shared-path /",
        "unknown sharing mode 'exclusive': it is one of merge, shared, private, locked",
        "not PATH=MODE, such as",
        "has two sharing modes",
        "is no shared path of the stage",
    ] {
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
}

/// As any client of the protocol does it.
#[test]
fn a_client_in_python_shares_a_path_too() {
    let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli");
    shared(
        "locked",
        &format!(
            r#"
        run() {{
            PYTHONPATH='{clients}' python3 -B -c '
import sys
from client import Client
client = Client(sys.argv[1])
done = client.run("step_run", ["sh", "-euc", sys.argv[3]], step="py", private=sys.argv[2].split())
print(done["outcome"])' "$HARNESS_FS_STATE_DIR" "$@"
        }}
        is "$(run "$T/conf" 'echo live >"$T/vol/live"; echo mine >"$T/conf"; echo 1 >by-py; exit 1')" discarded
        is "$(cat "$T/vol/live" "$T/conf")" "$(printf 'live\nbase')"
        [ ! -e "$W/by-py" ]
        # It waits as others do.
        "$H" step begin a
        run '' 'cat "$T/vol/live"; echo 1 >by-py' >"$T/py" & py=$!
        lists '^py  waiting '
        echo stage >"$T/vol/live"
        "$H" step discard a
        code 0 wait "$py"
        is "$(cat "$T/py")" "$(printf 'stage\nmerged')"
        [ -e "$W/by-py" ]
        "#
        ),
    );
}
