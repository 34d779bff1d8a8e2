//! Where a stage keeps its state: out of sight, behind a link, far down.

use super::mounted::in_stage;

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
            umount "$HARNESS_FS_STATE_DIR"
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
