//! The command line with a real daemon, in a mount namespace of its own: what
//! a test leaves mounted is gone with its last process.

use super::rig::{Ran, Rig, ran};

/// Runs a shell script; `$H` is the program, `$W` the workspace of a stage that
/// is mounted, `$T` a directory for anything else. The script ends with the
/// stage unmounted, or the test fails.
pub fn in_stage(script: &str) -> Ran {
    in_stage_of(&Rig::new(), script)
}

/// The same in a rig that outlives it; `$T` is its directory `tmp`.
pub fn in_stage_of(rig: &Rig, script: &str) -> Ran {
    in_stage_for(rig, script, 60)
}

/// The same for one that may take so many seconds.
pub fn in_stage_for(rig: &Rig, script: &str, limit: u32) -> Ran {
    let (workspace, other) = (rig.path().join("ws"), rig.path().join("tmp"));
    std::fs::create_dir(&workspace).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::write(workspace.join("file"), "base\n").unwrap();
    let whole = format!(
        "is() {{ [ \"$1\" = \"$2\" ] || {{ echo \"'$1' is not '$2'\" >&2; exit 99; }}; }}\n\
         code() {{ want=$1; shift; got=0; \"$@\" || got=$?; is \"$got\" \"$want\"; }}\n\
         \"$H\" mount --workspace \"$W\" >&2\n{script}\n\"$H\" unmount >&2\n\
         is \"$(cat \"$W/file\")\" base\nis \"$(grep -c \"$W\" /proc/self/mountinfo || true)\" 0\n\
         [ ! -e \"$HARNESS_FS_STATE_DIR\" ]"
    );
    let command = rig.command(&rig.state());
    let program = command.get_program().to_owned();
    let mut unshare = std::process::Command::new("timeout");
    unshare.args([
        "-k",
        "5",
        &limit.to_string(),
        "unshare",
        "-m",
        "--propagation",
        "private",
        "--pid",
        "--fork",
    ]);
    unshare.args(["--kill-child", "--mount-proc", "sh", "-euc", &whole]);
    unshare
        .env("H", program)
        .env("W", &workspace)
        .env("T", &other);
    unshare.env("HARNESS_FS_STATE_DIR", rig.state());
    let ran = ran(unshare.output().unwrap());
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    ran
}

#[test]
fn a_step_is_merged_or_leaves_no_trace() {
    in_stage(
        r#"
        code 0 "$H" step run good -- sh -c 'echo 1 >a; pwd >b; echo "$HARNESS_FS_STEP $HARNESS_WORKSPACE $DRONE_WORKSPACE" >c'
        is "$(cat "$W/a" "$W/b" "$W/c")" "$(printf '1\n%s\ngood %s %s' "$W" "$W" "$W")"
        code 7 "$H" step run --result "$T/r" bad -- sh -c 'rm file; exit 7'
        is "$(cat "$W/file")" base
        grep -q '"outcome": "discarded"' "$T/r"
        code 143 "$H" step run signal -- sh -c 'kill -TERM $$'
        code 127 "$H" step run none -- ./no-such
        code 126 "$H" step run no-program -- ./file
        code 124 "$H" step run --timeout 1s long -- sleep 100
        code 125 "$H" step run a/b -- true
        "$H" step begin open
        code 124 "$H" step exec open --timeout 1s --result "$T/r" -- sleep 100
        grep -q '"timed_out": true' "$T/r"
        grep -q '"outcome": null' "$T/r"
        code 0 "$H" step exec open --result "$T/r" -- true
        grep -q '"exit_code": 0' "$T/r"
        "$H" step discard open
        "#,
    );
}

#[test]
fn a_command_of_an_open_step_has_the_same_environment() {
    in_stage(
        r#"
        "$H" step begin open
        code 0 env HARNESS_FS_STEP=x HARNESS_WORKSPACE=/x DRONE_WORKSPACE=/x \
            "$H" step exec open -- sh -c 'echo "$HARNESS_FS_STEP $HARNESS_WORKSPACE $DRONE_WORKSPACE" >a'
        "$H" step merge open
        is "$(cat "$W/a")" "open $W $W"
        "#,
    );
}

#[test]
fn steps_that_overlap_without_a_group_merge_as_they_finish_and_say_so() {
    let ran = in_stage(
        r#"
        mkfifo "$T/ready" "$T/go"
        "$H" step run slow -- sh -c 'echo slow >by-slow; echo >"$1/ready"; cat "$1/go"' - "$T" 2>"$T/slow" & slow=$!
        cat "$T/ready"
        "$H" step run fast -- sh -c '[ ! -e by-slow ] && echo fast >by-fast' 2>"$T/fast"
        is "$(cat "$W/by-fast")" fast
        [ ! -e "$W/by-slow" ]
        echo >"$T/go"
        wait "$slow"
        is "$(cat "$W/by-fast" "$W/by-slow")" "$(printf 'fast\nslow')"
        grep '^harness-fs: merged slow: ' "$T/slow"
        cat "$T/fast" >&2
        # In one group nothing races.
        "$H" group declare g a b
        "$H" step run --group g a -- sh -c 'echo >"$1/ready"; cat "$1/go"' - "$T" & a=$!
        cat "$T/ready"
        "$H" step run --group g b -- true 2>"$T/b"
        code 1 grep 'at the same time' "$T/b"
        echo >"$T/go"
        wait "$a"
        "#,
    );
    let said = "harness-fs: step 'fast' runs at the same time as slow without being in a group with it: each is \
                merged when it ends (`group declare` gives a fixed order)\nharness-fs: merged fast: ";
    assert!(ran.err.contains(said), "{}", ran.err);
}

#[test]
fn a_shared_path_is_where_it_is_and_nowhere_else() {
    in_stage(
        r#"
        "$H" unmount
        mkdir "$T/vol"
        echo base >"$T/vol/in-base"
        "$H" mount --workspace "$W" --shared-path "$T/vol"
        ours() { grep " fuse.harness-fs harness-fs:$HARNESS_FS_STATE_DIR " /proc/self/mountinfo | cut -d ' ' -f 5 | sort; }
        is "$(ours)" "$(printf '%s\n' "$HARNESS_FS_STATE_DIR/views/stage/mnt" "$T/vol" "$W" | sort)"
        code 0 "$H" step run look -- sh -euc '
            is() { [ "$1" = "$2" ] || { echo "$1 is not $2" >&2; exit 99; }; }
            ours() { grep " fuse.harness-fs harness-fs:$HARNESS_FS_STATE_DIR " /proc/self/mountinfo | cut -d " " -f 5 | sort; }
            is "$(ours)" "$(printf "%s\n" "$T/vol" "$W" | sort)"
            is "$(cat "$T/vol/in-base")" base
            echo step >"$T/vol/by-step"
            is "$(find "$W" -mindepth 1)" "$W/file"'
        echo stage >"$T/vol/by-stage"
        is "$(cat "$T/vol/by-step" "$T/vol/by-stage")" "$(printf 'step\nstage')"
        is "$(find "$W" -mindepth 1)" "$W/file"
        "$H" unmount
        is "$(ours)" ''
        is "$(ls -A "$T/vol")" in-base
        [ ! -e "$HARNESS_FS_STATE_DIR" ]
        "$H" mount --workspace "$W"
        "#,
    );
}

/// What waits is a write to a file that another program has a lease on
/// (fcntl(2), `F_SETLEASE`): opening it takes until that lets go.
#[test]
fn status_tells_how_long_the_oldest_request_waits() {
    in_stage(
        r#"
        waits() { "$H" status --json | grep -q '"oldest_request_ms": [0-9]'; }
        # Made without being opened: a lease takes a file that nobody has open.
        python3 -c 'import os, sys; os.mknod(sys.argv[1])' "$W/slow"
        mkfifo "$T/held" "$T/go"
        python3 -c '
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, lambda *_: None)
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open(sys.argv[2], "w").close()
open(sys.argv[3]).read()' "$(find "$HARNESS_FS_STATE_DIR/views" -xdev -name slow)" "$T/held" "$T/go" & holder=$!
        cat "$T/held"
        code 1 waits
        echo two >>"$W/slow" & writer=$!
        until waits; do :; done
        "$H" status | grep -q '^  stage .* oldest in flight for [0-9]* ms$'
        echo >"$T/go"
        wait "$holder" "$writer"
        is "$(cat "$W/slow")" two
        while waits; do :; done
        "#,
    );
}

#[test]
fn inside_a_step_there_is_one_view_and_no_state() {
    in_stage(
        r#"
        "$H" step begin other
        "$H" step run look -- sh -euc '
            [ "$(ls -A "$HARNESS_FS_STATE_DIR")" = step.sock ]
            [ "$(grep -c " fuse.harness-fs harness-fs:$HARNESS_FS_STATE_DIR " /proc/self/mountinfo)" = 1 ]
            code=0; "$H" status || code=$?; [ "$code" = 3 ]'
        code 0 "$H" step discard other
        "#,
    );
}

#[test]
fn processes_left_behind_are_ended_and_named() {
    let ran = in_stage(
        r#"
        "$H" step run --grace 1s left -- sh -c 'sleep 1000 >/dev/null 2>&1 & echo $! >pid'
        code 1 kill -0 "$(cat "$W/pid")"
        "$H" step begin open
        "$H" step exec open -- sh -c 'sleep 1000 >/dev/null 2>&1 & echo $! >pid'
        "$H" step merge open
        code 1 kill -0 "$(cat "$W/pid")"
        "#,
    );
    // The shell's child may not have become `sleep` yet.
    assert!(
        ran.err.contains("ended 1 process left by the step: s"),
        "{}",
        ran.err
    );
}

#[test]
fn a_command_line_that_is_killed_takes_its_step_along() {
    in_stage(
        r#"
        mkfifo "$T/ready"
        "$H" step run victim -- sh -c 'echo x >half; echo $$ >"$T/ready"; exec sleep 1000' & run=$!
        read -r pid <"$T/ready"
        kill -KILL "$run"
        wait "$run" || true
        until [ -z "$("$H" step list)" ]; do sleep 0.05; done
        code 1 kill -0 "$pid"
        [ ! -e "$W/half" ]
        code 0 "$H" step run victim -- true
        "#,
    );
}

#[test]
fn a_killed_daemon_is_told_of_and_resumed() {
    let ran = in_stage(
        r#"
        "$H" step run good -- sh -c 'echo 1 >a'
        echo live >"$W/live"
        kill -KILL "$("$H" status --json | sed -n 's/^  "pid": \([0-9]*\),*/\1/p')"
        until [ -e "$HARNESS_FS_STATE_DIR/died" ] && ! grep -q " $W " /proc/self/mountinfo; do sleep 0.05; done
        is "$(cat "$W/file")" base
        code 5 "$H" snapshot list
        code 125 "$H" step run more -- true
        "$H" mount --resume
        is "$(cat "$W/a" "$W/live")" "$(printf '1\nlive')"
        code 1 "$H" mount --workspace "$W"
        "$H" unmount --keep-state
        is "$(ls "$W")" file
        "$H" mount --resume
        is "$(cat "$W/a" "$W/live")" "$(printf '1\nlive')"
        "#,
    );
    assert!(
        ran.err
            .contains("was killed by SIGKILL: `harness-fs mount --resume`"),
        "{}",
        ran.err
    );
}

#[test]
fn only_the_owner_of_the_daemon_gets_an_answer() {
    let ran = in_stage(
        r#"
        chmod 0755 "$(dirname "$HARNESS_FS_STATE_DIR")"
        cp "$H" "$T/h"
        code 1 setpriv --reuid=1000 --clear-groups "$T/h" status
        # Were the modes no obstacle, the daemon itself would not answer.
        chmod 0777 "$HARNESS_FS_STATE_DIR" "$HARNESS_FS_STATE_DIR/control.sock"
        setpriv --reuid=1000 --clear-groups perl -MIO::Socket::UNIX -e '
            $s = IO::Socket::UNIX->new(Peer => "$ENV{HARNESS_FS_STATE_DIR}/control.sock") or die "connect: $!";
            exit(defined(readline($s)) ? 1 : 0)'
        code 0 "$H" status
        "#,
    );
    assert!(ran.err.contains("belongs to another user"), "{}", ran.err);
}

#[test]
fn a_tree_is_not_written_over_the_stage_itself() {
    let ran = in_stage(
        r#"
        code 2 "$H" apply /
        code 2 "$H" apply "$(dirname "$W")"
        code 2 "$H" apply "$HARNESS_FS_STATE_DIR/out"
        code 2 "$H" unmount --apply /
        code 2 "$H" apply "$T/no such/.."
        mkdir "$T/full" && echo mine >"$T/full/mine"
        code 2 "$H" apply "$T/full"
        test "$(cat "$T/full/mine")" = mine
        code 0 "$H" apply --replace "$T/full"
        test ! -e "$T/full/mine"
        code 0 "$H" apply --all "$T/all"
        is "$(ls "$T/all$W")" file
        code 0 "$H" apply "$T/out"
        is "$(ls "$T/out")" file
        "#,
    );
    assert!(ran.err.contains("would remove"), "{}", ran.err);
    assert!(
        ran.err.contains("/out lies inside the state directory"),
        "{}",
        ran.err
    );
}

#[test]
fn json_is_an_object_where_there_is_nothing_to_tell() {
    in_stage(
        r#"
        is "$("$H" group declare g a b --json)" "{}"
        "$H" snapshot create s
        is "$("$H" snapshot rm s --json)" "{}"
        "#,
    );
}

/// The kernel believed the old length, so the append landed inside the new content.
#[test]
fn an_append_after_a_merge_goes_to_the_new_end() {
    in_stage(
        r#"
        cd "$W"; exec 7>>file; echo 1 >&7
        "$H" step run longer -- sh -c 'echo a much longer content than before >file' || true
        "$H" step merge longer --on-conflict last
        echo 2 >&7
        is "$(cat file)" "$(printf 'a much longer content than before\n2')"
        echo 3 >&7
        is "$(tail -n 1 file)" 3
        "#,
    );
}

/// They were shown alike as text, and as JSON there was nothing at all, with exit code 0.
#[test]
fn names_that_are_not_utf_8_are_listed_and_told_apart() {
    in_stage(
        r#"
        "$H" step run odd -- perl -e 'for ("a\xff", "a\xfe", "b\n", "c\\x") { open(F, ">", $_) or die; close(F); }'
        is "$("$H" diff)" "$(printf 'A %s/%s\n' "$W" 'a\xfe' "$W" 'a\xff' "$W" 'b\n' "$W" 'c\\x')"
        "$H" diff --json >"$T/diff"
        is "$(grep -c '"change": "added"' "$T/diff")" 4
        grep -qF '/a\\xff"' "$T/diff"
        grep -qF '/c\\\\x"' "$T/diff"
        "$H" step run secret -- perl -e 'mkdir("d\xff"); open(F, ">", "d\xff/.netrc") or die; print F "machine x password y\n"'
        "$H" snapshot create s
        "$H" export s --to "$T/out" --json >"$T/export"
        grep -qF 'd\\xff/.netrc"' "$T/export"
        grep -q '"manifest": "sha256:' "$T/export"
        "#,
    );
}

/// The variable was obeyed, and the wrong stage unmounted.
#[test]
fn an_option_says_which_stage_whatever_the_variables_say() {
    let ran = in_stage(
        r#"
        code 3 "$H" unmount --stage no-such-stage
        code 3 "$H" --state-dir "$T/none" unmount
        code 2 "$H" status --stage a --state-dir "$T/none"
        HARNESS_FS_STAGE= HARNESS_FS_STATE_DIR= code 3 "$H" diff --stage no-such-stage
        code 0 "$H" status
        "#,
    );
    assert!(ran.err.contains("no stage 'no-such-stage'"), "{}", ran.err);
}

#[test]
fn the_bundle_holds_a_log_that_is_kept_elsewhere() {
    in_stage(
        r#"
        "$H" unmount
        "$H" mount --workspace "$W" --log-file "$T/the-log"
        "$H" debug bundle --output "$T/b"
        zstd -dc "$T/b" | tar -xOf - harness-fs-debug/the-log | grep -q serving
        "$H" unmount --keep-state
        "$H" mount --resume
        [ ! -L "$HARNESS_FS_STATE_DIR/daemon.log" ]
        grep -q serving "$HARNESS_FS_STATE_DIR/daemon.log"
        "$H" unmount
        [ -s "$T/the-log" ] && [ ! -e "$HARNESS_FS_STATE_DIR" ]
        "$H" mount --workspace "$W"
        "#,
    );
}

/// A container whose main process it is can be started again.
#[test]
fn one_command_mounts_anew_and_goes_on() {
    let ran = in_stage(
        r#"
        "$H" unmount
        "$H" mount --workspace "$W" --resume-if-kept
        echo 1 >"$W/kept"
        "$H" unmount --keep-state
        # It was durable from then on.
        is "$(grep -c '"durable": true' "$HARNESS_FS_STATE_DIR/stage.json")" 1
        "$H" mount --workspace "$W" --resume-if-kept
        is "$(cat "$W/kept")" 1
        "$H" unmount --keep-state
        code 1 "$H" mount --workspace "$W" --shared-path "$T/more" --resume-if-kept
        "$H" mount --resume
        "#,
    );
    assert!(ran.err.contains("with other options"), "{}", ran.err);
}

#[test]
fn what_the_mount_itself_would_write_into_the_base_is_refused() {
    let ran = in_stage(
        r#"
        "$H" unmount
        code 1 "$H" mount --workspace "$W" >"$W/log" 2>"$T/err"
        cat "$T/err" >&2
        rm "$W/log"
        code 1 setpriv --bounding-set=-sys_admin "$H" mount --workspace "$W"
        "$H" mount --workspace "$W"
        "#,
    );
    assert!(ran.err.contains("/ws/log"), "{}", ran.err);
    assert!(ran.err.contains("--privileged"), "{}", ran.err);
}

#[test]
fn a_step_and_a_snapshot_of_one_name_are_told_apart() {
    let ran = in_stage(
        r#"
        "$H" step run build -- touch a
        "$H" step run more -- touch b
        "$H" snapshot create build
        code 2 "$H" diff build
        is "$("$H" diff step:build)" "A $W/a"
        is "$("$H" diff snapshot:build)" "$(printf 'A %s/a\nA %s/b' "$W" "$W")"
        is "$("$H" diff more)" "A $W/b"
        code 3 "$H" diff snapshot:more
        code 2 "$H" export build --to "$HARNESS_FS_STATE_DIR/out"
        code 2 "$H" apply "$W/file" --replace
        echo >"$T/plain"
        code 2 "$H" apply "$T/plain" --replace
        "#,
    );
    assert!(ran.err.contains("snapshot:build"), "{}", ran.err);
    assert!(
        ran.err.contains("inside the state directory"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("is not a directory"), "{}", ran.err);
}

#[test]
fn scripts_start_as_in_a_shell() {
    let ran = in_stage(
        r#"
        "$H" step run script -- sh -ec 'echo "echo ran >out" >s; printf "%s\n" \#!/no/such >t; chmod +x s t'
        cd "$W"
        code 0 "$H" step run plain -- ./s
        is "$(cat out)" ran
        code 127 "$H" step run bad -- ./t
        cd /
        "#,
    );
    assert!(
        ran.err
            .contains("./t: its interpreter /no/such is not there"),
        "{}",
        ran.err
    );
}

/// The directories on the way to a change were counted as changes.
#[test]
fn what_is_counted_is_what_changed() {
    let ran = in_stage(
        r#"
        "$H" step run dirs -- mkdir -p a/b/c
        "$H" step run one -- touch a/b/c/new
        "$H" step run mode -- chmod 700 a/b
        "$H" step run attribute -- setfattr -n user.x -v y a
        "$H" step run many -- sh -c 'touch a/1 a/b/2; mkdir d; touch d/3; rm a/b/c/new'
        "#,
    );
    for (step, entries) in [
        ("dirs", "3 entries"),
        ("one", "1 entry"),
        ("mode", "1 entry"),
        ("attribute", "1 entry"),
        ("many", "4 entries, 1 deleted"),
    ] {
        let line = format!("merged {step}: {entries}");
        assert!(ran.err.contains(&line), "{line}: {}", ran.err);
    }
}
