//! A thousand directories below each other: whoever works there goes down step by step, and so does what a stage does
//! with it. No depth of a tree is a depth of the daemon's stack.

use super::mounted::in_stage_for;
use super::rig::Rig;

/// `far make AT` makes such a tree, of which the last directory holds a file,
/// `far write AT TEXT` appends to that, `far is AT TEXT` says what it must be.
const FAR: &str = r#"
import os, sys
what, at, text = (sys.argv[1:] + [""])[:3]
os.chdir(at)
for level in range(1000):
    name = "d"
    if what == "make":
        os.mkdir(name)
    os.chdir(name)
if what == "is":
    found = open("leaf").read()
    assert found == text, (at, found)
    assert sorted(os.listdir(".")) == ["leaf", "link"] and os.path.samefile("leaf", "link"), at
else:
    with open("leaf", "a") as file:
        file.write(text or "made")
if what == "make":
    os.link("leaf", "link")
"#;

#[test]
fn a_thousand_directories_below_each_other_go_through_everything() {
    let rig = Rig::new();
    let far = rig.path().join("far");
    std::fs::write(&far, FAR).unwrap();
    let script = r#"
        far() { python3 "$F" "$@"; }
        "$H" unmount
        mkdir "$W/lower"
        far make "$W/lower"
        "$H" mount --workspace "$W"
        "$H" step run new -- sh -c 'mkdir new; python3 "$F" make new; python3 "$F" is new made'
        far is "$W/new" made
        "$H" step begin below
        "$H" step exec below -- python3 "$F" write lower ,more
        "$H" step exec below -- python3 "$F" is lower made,more
        "$H" step merge below
        far is "$W/lower" made,more
        "$H" step begin beside
        "$H" step run other -- python3 "$F" write lower ,other
        "$H" step exec beside -- python3 "$F" write lower ,beside
        "$H" step merge beside --on-conflict last
        far is "$W/lower" made,more,beside

        "$H" snapshot create good
        "$H" step run remove -- sh -c 'rm -rf new lower/d; mkdir new'
        is "$(ls "$W/new" "$W/lower" | grep -cx d || true)" 0
        "$H" diff good.. | grep -q "^D $W/lower/d"
        "$H" snapshot restore good
        far is "$W/new" made
        far is "$W/lower" made,more,beside

        "$H" export good --to "$T/image"
        "$H" apply "$T/out"
        "$H" unmount --keep-state
        "$H" mount --resume
        for tree in "$W" "$T/out"; do
            far is "$tree/new" made; far is "$tree/lower" made,more,beside
        done
        "$H" unmount
        "$H" mount --workspace "$W" --from "$T/image"
        far is "$W/new" made; far is "$W/lower" made,more,beside
    "#;
    let script = format!("export F='{}'\n{script}", far.display());
    in_stage_for(&rig, &script, 300);
}
