//! Where a stage keeps its state: out of sight, behind a link, far down.

use super::mounted::in_stage;
use super::rig::Rig;

/// It took the step's own view away, and the step went on in the base.
#[test]
fn a_mount_inside_of_a_step_is_refused_and_harms_nothing() {
    let ran = in_stage(
        r#"
        code 0 "$H" step run outer -- sh -euc '
            refused() { code=0; "$@" 2>>"$T/said" || code=$?; [ "$code" = 3 ] || { echo "$code: $*" >&2; exit 99; }; }
            echo made >made
            refused "$H" mount --workspace "$W"
            refused "$H" mount --workspace "$W" --resume-if-kept
            refused "$H" mount --workspace "$W" --foreground
            refused "$H" mount --workspace "$T/other"
            refused env -u HARNESS_FS_STEP "$H" mount --workspace "$W"
            # A container has the view, and not even what hides the state.
            umount -R "$HARNESS_FS_STATE_DIR"
            mount -t tmpfs none "$HARNESS_FS_STATE_DIR"
            refused "$H" mount --workspace "$T/other"
            [ "$(cat made)" = made ] && [ ! -e "$T/other" ]
            rm file; echo built >out'
        is "$(ls "$W")" "$(printf 'made\nout')"
        cat "$T/said" >&2
        "#,
    );
    let said = "inside the step 'outer': steps cannot give commands";
    assert_eq!(ran.err.matches(said).count(), 5, "{}", ran.err);
}

/// The mounts are at the real path, and were looked for at the other one.
#[test]
fn behind_a_link_a_step_ends_as_anywhere() {
    let ran = in_stage(
        r#"
        "$H" unmount
        mkdir "$T/disk"
        ln -s disk "$T/link"
        export HARNESS_FS_STATE_DIR="$T/link/state"
        "$H" mount --workspace "$W"
        "$H" step run --grace 1s left -- sh -c 'sleep 1000 >/dev/null 2>&1 & echo $! >pid; ls -A "$T/disk/state" >seen'
        code 1 kill -0 "$(cat "$W/pid")"
        is "$(cat "$W/seen")" step.sock
        # The one stage by whatever name.
        code 0 env HARNESS_FS_STATE_DIR= "$H" --state-dir "$T/disk/state" status
        code 1 env HARNESS_FS_STATE_DIR= "$H" --state-dir "$T/disk/state" mount --workspace "$T/other"
        "$H" step begin open
        mkfifo "$T/ready"
        "$H" step exec open -- sh -c 'echo $$ >"$T/ready"; exec sleep 1000' & exec=$!
        read -r pid <"$T/ready"
        kill -KILL "$("$H" status --json | sed -n 's/^  "pid": \([0-9]*\),*/\1/p')"
        code 125 wait "$exec"
        code 1 kill -0 "$pid"
        "$H" mount --resume
        "#,
    );
    assert!(ran.err.contains("ended 1 process left"), "{}", ran.err);
}

#[test]
fn a_link_that_leads_nowhere_is_no_place() {
    let rig = Rig::new();
    std::os::unix::fs::symlink("no-disk", rig.path().join("state")).unwrap();
    rig.run(&["status"]).refused(2, "that leads nowhere");
}

/// The address of a socket is shorter than a path can be (unix(7)).
#[test]
fn far_down_it_can_be_talked_to() {
    in_stage(
        r#"
        "$H" unmount
        deep=$(printf '%0100d' 0)
        export HARNESS_FS_STATE_DIR="$T/$deep/$deep/state"
        "$H" mount --workspace "$W"
        code 0 "$H" step run good -- sh -c 'echo 1 >a'
        is "$(cat "$W/a")" 1
        "#,
    );
}

/// The stage below was taken for its own, left by a daemon that was killed.
#[test]
fn a_stage_whose_state_lies_above_that_of_another_leaves_it_alone() {
    in_stage(
        r#"
        above=$(dirname "$HARNESS_FS_STATE_DIR")/above
        "$H" unmount
        export HARNESS_FS_STATE_DIR="$above/state"
        "$H" mount --workspace "$W"
        code 0 env HARNESS_FS_STATE_DIR= "$H" --state-dir "$above" mount --workspace "$T/other"
        code 0 "$H" step run good -- sh -c 'echo 1 >a'
        is "$(cat "$W/a")" 1
        code 0 env HARNESS_FS_STATE_DIR= "$H" --state-dir "$above" unmount
        code 0 "$H" step run better -- sh -c 'echo 2 >a'
        "#,
    );
}

/// Its state went with a container; the mount is on a volume and stays.
#[test]
fn what_is_left_of_a_stage_without_its_state_is_taken_away() {
    in_stage(
        r#"
        pids=$("$H" status --json | sed -n 's/^  *"\(pid\|supervisor\)": \([0-9]*\),*/\2/p')
        echo unseen >"$W/new"
        kill -STOP $pids
        kill -KILL $pids
        umount -l "$HARNESS_FS_STATE_DIR/views/stage/mnt"
        rm -r "$HARNESS_FS_STATE_DIR"
        code 1 cat "$W/file"
        "$H" mount --workspace "$W"
        [ ! -e "$W/new" ]
        "#,
    );
}
