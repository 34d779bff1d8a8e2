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
    let in_use = rig.stage.begin("open").unwrap_err().to_string();
    assert!(
        in_use.ends_with("has left since; discard it first"),
        "{in_use}"
    );
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

/// The names of what is in `layers/`.
fn layers(rig: &Rig) -> Vec<String> {
    let layers = fs::read_dir(rig.dir.join("state/layers")).unwrap();
    let mut names: Vec<String> = layers
        .map(|layer| layer.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_read_stays_until_it_is_read() {
    let rig = Rig::new();
    rig.stage.snapshot_create("empty").unwrap();
    rig.head().write("0/x", "1").remove("0/log");
    let info = rig.stage.snapshot_create("full").unwrap();
    let (exported, ids) = rig.stage.stack_of_snapshot("full").unwrap();
    assert_eq!(ids, info.layers);
    rig.head().write("0/y", "2");
    let applied = rig.stage.current_stack().unwrap();
    let (of_snapshot, of_stage) = (Tree::of(&exported), Tree::of(&applied));
    assert!(of_stage.has("0/x") && of_stage.has("0/y") && !of_stage.has("0/log"));

    let restored = rig.stage.snapshot_restore("empty").unwrap();
    assert_eq!(restored.dropped.len(), 1, "{restored:?}");
    rig.stage.snapshot_rm("full").unwrap();
    assert!(rig.tree().has("0/log"));
    assert_eq!(layers(&rig).len(), 2);
    assert_eq!(Tree::of(&exported), of_snapshot);
    assert_eq!(Tree::of(&applied), of_stage);

    // Whoever is the last to read a layer ends it, and other layers stay.
    drop(applied);
    assert_eq!(layers(&rig), ids);
    assert_eq!(Tree::of(&exported), of_snapshot);
    rig.head().write("0/z", "3");
    rig.stage.snapshot_create("later").unwrap();
    drop(exported);
    assert_eq!(layers(&rig), rig.stage.snapshot_list()[1].layers);
    assert!(rig.tree().has("0/z"));
}

#[test]
fn what_is_read_outlives_the_step_that_had_it() {
    let rig = Rig::new();
    rig.stage.snapshot_create("empty").unwrap();
    rig.head().write("0/x", "1");
    rig.begin("s");
    let lent = rig.stage.current_stack().unwrap();
    rig.stage.snapshot_restore("empty").unwrap();
    rig.stage.discard("s").unwrap();
    assert_eq!(Tree::of(&lent).text("0/x"), "1");
    let held = layers(&rig);
    assert_eq!(held.len(), 1);
    drop(lent);
    assert!(layers(&rig).is_empty());
}
