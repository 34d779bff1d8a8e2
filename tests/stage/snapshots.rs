//! Snapshots: create, list, restore, remove.

use std::fs;

use harness_fs::stage::{Failure, Invalidation};

use crate::rig::{Rig, Tree, names};

#[test]
fn a_snapshot_is_restored_whatever_came_after() {
    let rig = Rig::new();
    rig.head().write("0/before", "1");
    let info = rig.stage.snapshot_create("one").unwrap();
    assert_eq!(info.layers.len(), 1);
    assert!(matches!(
        rig.stage.snapshot_create("one"),
        Err(Failure::Usage(_))
    ));
    let at_one = rig.tree();
    let src = rig.ino("0/src");
    rig.step("s", |hand| {
        hand.remove("0/src/main.c")
            .write("0/src/other", "o")
            .write("1/repo/jar", "2");
    });
    rig.stage.merge(&names(&["s"]), None).unwrap();
    rig.begin("open");
    rig.in_view("open").write("0/y", "y");
    rig.head().write("0/unsaved", "u");
    rig.look_at("0/src");
    rig.fakes.told.lock().unwrap().clear();
    let report = rig.stage.snapshot_restore("one").unwrap();
    assert_eq!(report.left.len(), 2, "{report:?}");
    assert_eq!(report.stranded, ["open"]);
    assert_eq!(rig.tree(), at_one);
    let told = rig.fakes.told.lock().unwrap().clone();
    for name in ["main.c", "other"] {
        let name = name.into();
        assert!(
            told.contains(&Invalidation::Entry { parent: src, name }),
            "{told:?}"
        );
    }
    // The open step still reads what it began on, but has nowhere to merge to.
    let stranded = rig.stage.merge(&names(&["open"]), None).unwrap_err();
    assert!(matches!(&stranded, Failure::Usage(text) if text.contains("restore")));
    rig.stage.discard("open").unwrap();
    assert_eq!(
        fs::read_dir(rig.dir.join("state/layers")).unwrap().count(),
        1
    );
    let rig = rig.die_and_resume();
    assert_eq!(rig.tree(), at_one);
    assert_eq!(rig.stage.snapshot_list().len(), 1);
}

#[test]
fn removing_a_snapshot_frees_what_only_it_had() {
    let rig = Rig::new();
    rig.stage.snapshot_create("empty").unwrap();
    rig.head().write("0/x", "1");
    rig.stage.snapshot_create("full").unwrap();
    rig.stage.snapshot_restore("empty").unwrap();
    assert!(!rig.tree().has("0/x"));
    let (stack, ids) = rig.stage.stack_of_snapshot("full").unwrap();
    assert_eq!(ids.len(), 1);
    assert_eq!(Tree::of(&stack).text("0/x"), "1");
    drop(stack);
    rig.stage.snapshot_rm("full").unwrap();
    assert_eq!(
        fs::read_dir(rig.dir.join("state/layers")).unwrap().count(),
        0
    );
    assert!(matches!(
        rig.stage.snapshot_rm("full"),
        Err(Failure::NotFound(_))
    ));
    assert!(matches!(
        rig.stage.snapshot_restore("full"),
        Err(Failure::NotFound(_))
    ));
}
