//! Passthrough is on unless somebody turned it off, and `status` says which.

use super::mounted::in_stage;

/// `served WANTED [COMMAND…]`: a stage mounted by way of COMMAND serves its steps
/// as WANTED. The stage's own view is never passed through. Passthrough is in
/// Linux 6.9 and newer, and on unless somebody built it without.
const SERVED: &str = r#"
    on='no passthrough'
    if [ "$(printf '6.9\n%s\n' "$(uname -r)" | sort -V | head -n 1)" = 6.9 ]; then on=passthrough; fi
    off='no passthrough'
    served() {
        wanted=$1; shift
        "$H" unmount
        env -u HARNESS_FS_NO_PASSTHROUGH "$@" --workspace "$W"
        "$H" step begin look
        is "$("$H" status --json | python3 -c '
import json, sys
views = {view["name"]: view["transport"].split(", ") for view in json.load(sys.stdin)["views"]}
assert views["stage"][1] == "no passthrough", views
depth = views["look"][2:]
assert bool(depth) == (views["look"][1] == "passthrough"), views
print(views["look"][1])')" "$wanted"
        "$H" status | grep -q "^  look .*, $wanted"
        "$H" step discard look
    }
"#;

#[test]
fn it_is_on_where_the_kernel_has_it() {
    in_stage(&format!(r#"{SERVED} served "$on" "$H" mount"#));
}

#[test]
fn the_option_turns_it_off() {
    in_stage(&format!(
        r#"{SERVED} served "$off" "$H" mount --no-passthrough"#
    ));
}

#[test]
fn the_variable_turns_it_off_when_it_is_true() {
    in_stage(&format!(
        r#"{SERVED}
        for value in 1 true yes; do served "$off" env HARNESS_FS_NO_PASSTHROUGH="$value" "$H" mount; done
        for value in 0 false no ''; do served "$on" env HARNESS_FS_NO_PASSTHROUGH="$value" "$H" mount; done"#
    ));
}

/// A stage that is resumed is served as it was.
#[test]
fn it_stays_off_when_the_stage_is_resumed() {
    in_stage(&format!(
        r#"{SERVED}
        served "$off" "$H" mount --no-passthrough
        "$H" unmount --keep-state
        "$H" mount --resume
        "$H" step begin look
        "$H" status | grep -q '^  look .*, no passthrough'
        "$H" step discard look"#
    ));
}
