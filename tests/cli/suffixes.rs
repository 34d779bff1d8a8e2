//! How `keep-both` names what it keeps: said at mount, for a merge, by a member of a group.

use super::mounted::in_stage;
use super::rig::Rig;

/// Two steps `a` and `b` that make `$1`, and are not merged yet.
const BOTH: &str = r#"
    both() {
        for step in a b; do
            "$H" step begin "$step"
            "$H" step exec "$step" -- sh -c 'echo "$1" >"$2"' - "$step" "$1"
        done
    }
    "#;

#[test]
fn the_pattern_of_the_mount_holds_unless_a_merge_has_another() {
    let script = r#"
        "$H" unmount
        "$H" mount --workspace "$W" --policy '**=keep-both' --keep-both-as '{stem}.{step}{ext}'
        both one.xml
        "$H" step merge a b
        is "$(cat "$W/one.xml" "$W/one.b.xml")" "$(printf 'a\nb')"
        "$H" unmount --keep-state
        "$H" mount --resume
        both two.xml
        "$H" step merge a b
        is "$(cat "$W/two.b.xml")" b
        both three
        "$H" step merge a b --on-conflict keep-both --keep-both-as '{path} ({step})'
        is "$(cat "$W/three (b)")" b
        rm "$W/three"
        both three
        is "$("$H" step merge a b --keep-both-as '{path} ({step})' --json | grep -cF 'three (b.2)"')" 1
        "$H" unmount --keep-state
        code 1 "$H" mount --workspace "$W" --policy '**=keep-both' --resume-if-kept
        "$H" mount --workspace "$W" --policy '**=keep-both' --keep-both-as '{stem}.{step}{ext}' --resume-if-kept
        "#;
    let ran = in_stage(&(BOTH.to_owned() + script));
    assert!(ran.err.contains("with other options"), "{}", ran.err);
}

#[test]
fn a_member_brings_its_own_pattern_whoever_ends_last() {
    in_stage(
        r#"
        "$H" group declare g a b
        code 0 "$H" step run --group g --on-conflict keep-both --keep-both-as '{step}.{stem}{ext}' b -- sh -c 'echo b >new'
        "$H" unmount --keep-state
        "$H" mount --resume
        code 0 "$H" step run --group g a -- sh -c 'echo a >new'
        is "$(cat "$W/new" "$W/b.new")" "$(printf 'a\nb')"
        "#,
    );
}

#[test]
fn a_pattern_that_is_none_is_refused_where_it_is_given() {
    let rig = Rig::new();
    for (pattern, part) in [
        ("{path}.later", "it needs {step}"),
        ("later.{step}", "it needs {path} or {stem}"),
        ("{step}.{path}", "nothing can come before it"),
        ("kept/{stem}.{step}", "it has a '/'"),
        (
            "{path}.{stage}",
            "{stage} is none of {path}, {stem}, {ext}, {step}",
        ),
    ] {
        for (line, code) in [
            (&["mount"][..], 2),
            (&["step", "merge", "a"], 2),
            (&["step", "run", "a", "--", "true"], 125),
        ] {
            let (command, more) = line.split_at(line.len().min(2));
            let option = ["--keep-both-as", pattern];
            let ran = rig.run(&[command, &option[..], more].concat());
            assert_eq!(ran.code, code, "{line:?} {pattern}: {ran:?}");
            assert!(ran.err.contains(part), "{line:?} {pattern}: {ran:?}");
        }
    }
    let ran = rig.run(&["mount", "--resume", "--keep-both-as", "{path}.{step}"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(!rig.state().exists());
}
