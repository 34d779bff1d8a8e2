//! What is told of the past, through the program.

use super::mounted::in_stage;
use super::rig::Rig;

#[test]
fn the_layers_and_what_each_of_them_did() {
    let ran = in_stage(
        r#"
        "$H" step run one -- sh -c 'echo 1 >a; mkdir d; echo 2 >d/b'
        "$H" snapshot create s
        "$H" step run two -- sh -c 'rm -r d; echo more >>file'
        code 3 "$H" step run --on-failure keep bad -- sh -c 'echo 1 >c; exit 3'
        "$H" log >"$T/log"
        cat "$T/log"
        is "$(cut -d' ' -f1 "$T/log" | tr '\n' ' ')" "000003-bad 000002-two 000001-one base "
        "$H" log --json | grep -q '"kind": "base"'
        "$H" show two >"$T/two"
        cat "$T/two"
        is "$(grep '^[AMD] ' "$T/two")" "$(printf 'D %s/d\nD %s/d/b\nM %s/file' "$W" "$W" "$W")"
        "$H" show 000003 | grep "^A $W/c\$"
        "$H" show bad --json | grep -q '"change": "added"'
        code 3 "$H" show no-such 2>"$T/err"
        code 2 "$H" show 00000 2>>"$T/err"
        code 2 "$H" show base 2>>"$T/err"
        cat "$T/err" >&2
        is "$(grep -c '^harness-fs: ' "$T/err")" 3
        is "$(wc -l <"$T/err")" 3
        "#,
    );
    assert!(ran.out.contains("step two  merged"), "{}", ran.out);
    assert!(ran.out.contains("snapshot s"), "{}", ran.out);
    assert!(ran.out.contains("exit code 3"), "{}", ran.out);
}

#[test]
fn without_a_stage_there_is_no_past() {
    let rig = Rig::new();
    for command in [&["log"][..], &["show", "x"]] {
        rig.run(command).refused(3, "there is no stage");
    }
}
