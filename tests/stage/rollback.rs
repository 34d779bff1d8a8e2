//! Going back to the state just after a layer was made.

use std::collections::BTreeSet;
use std::fs;

use harness_fs::merge::Policy;
use harness_fs::stage::{Failure, Invalidation, RollbackReport};

use crate::rig::{Hand, Rig, Tree, names};

fn merged(rig: &Rig, name: &str, act: impl FnOnce(&Hand<'_>)) -> Tree {
    rig.step(name, act);
    rig.stage.merge(&names(&[name]), None).unwrap();
    rig.tree()
}

/// Three steps that were merged, and the trees after the first two.
fn three() -> (Rig, Tree, Tree) {
    let rig = Rig::new();
    let one = merged(&rig, "one", |hand| {
        hand.write("0/a", "1").write("0/src/other", "o");
    });
    let two = merged(&rig, "two", |hand| {
        hand.write("0/a", "2")
            .remove("0/src/main.c")
            .remove("0/docs");
    });
    merged(&rig, "three", |hand| {
        hand.write("0/b", "3").write("1/repo/jar", "3");
    });
    (rig, one, two)
}

fn back(rig: &Rig, layer: &str) -> RollbackReport {
    rig.stage.rollback(layer).unwrap()
}

fn layers(rig: &Rig) -> BTreeSet<String> {
    let layers = fs::read_dir(rig.dir.join("state/layers")).unwrap();
    let name = |layer: std::io::Result<fs::DirEntry>| layer.unwrap().file_name();
    layers
        .map(|layer| name(layer).into_string().unwrap())
        .collect()
}

#[test]
fn the_tree_is_as_it_was_just_after_the_layer() {
    let (rig, one, two) = three();
    rig.begin("open");
    rig.in_view("open").write("0/y", "y");
    rig.head().write("0/unsaved", "u");
    let report = back(&rig, "two");
    assert_eq!(report.layer, "000002-two");
    assert_eq!(report.left, ["000003-three", "000004-head"]);
    assert_eq!(report.steps, ["three"]);
    assert_eq!(report.stranded, ["open"]);
    // The step that is open still reads the layer.
    assert_eq!(report.dropped, ["000004-head"]);
    assert_eq!(rig.tree(), two);
    let stranded = rig.stage.merge(&names(&["open"]), None).unwrap_err();
    assert!(
        matches!(&stranded, Failure::Usage(text) if text.contains("a rollback has left since"))
    );
    rig.stage.discard("open").unwrap();
    assert_eq!(
        layers(&rig),
        ["000001-one", "000002-two"].map(str::to_owned).into()
    );
    let rig = rig.die_and_resume();
    assert_eq!(rig.tree(), two);
    // By the beginning of an id, and on from there.
    let report = back(&rig, "000001");
    assert_eq!(
        (report.left, report.steps),
        (names(&["000002-two"]), names(&["two"]))
    );
    assert_eq!(rig.tree(), one);
    let again = merged(&rig, "two", |hand| {
        hand.write("0/again", "2");
    });
    assert_eq!(again.text("0/a"), "1");
    let newest = back(&rig, "two");
    assert!(
        newest.left.is_empty() && newest.steps.is_empty(),
        "{newest:?}"
    );
    assert_eq!(rig.tree(), again);
}

#[test]
fn the_base_is_the_state_as_it_was_mounted() {
    let rig = Rig::new();
    let before = rig.tree();
    rig.head().write("0/x", "x");
    merged(&rig, "s", |hand| {
        hand.write("0/y", "y");
    });
    let report = back(&rig, "base");
    assert_eq!(report.layer, "base");
    assert_eq!(report.left.len(), 2);
    assert_eq!(rig.tree(), before);
    assert!(layers(&rig).is_empty());
    // What is not in any layer yet goes as well.
    rig.head().write("0/x", "x");
    assert_eq!(back(&rig, "base").left.len(), 1);
    assert_eq!(rig.tree(), before);
}

#[test]
fn what_a_merge_decided_belongs_to_the_layer() {
    let rig = Rig::new();
    for step in ["a", "b"] {
        rig.begin(step);
        rig.in_view(step).write("0/log", step);
    }
    let report = rig.stage.merge(&names(&["a", "b"]), Some(Policy::KeepBoth));
    assert_eq!(report.unwrap().join_layers.len(), 1);
    let both = rig.tree();
    rig.head().write("0/later", "l");
    let layer = rig.stage.status().layers[1].id.clone();
    assert!(layer.ends_with("-b"), "{layer}");
    for word in [layer.as_str(), "b"] {
        assert!(back(&rig, word).layer.ends_with("-join-b"));
        assert_eq!(rig.tree(), both);
    }
    let report = back(&rig, "a");
    assert_eq!((report.left.len(), report.steps), (2, names(&["b"])));
    assert_eq!(rig.tree().text("0/log"), "a");
    assert!(!rig.tree().has("0/log.b"));
}

#[test]
fn the_kernel_is_told_of_what_comes_back_and_of_what_goes() {
    let (rig, _, _) = three();
    let (root, src) = (rig.ino("0"), rig.ino("0/src"));
    let (a, jar) = (rig.ino("0/a"), rig.ino("1/repo/jar"));
    for dir in ["0/src", "1/repo"] {
        rig.look_at(dir);
    }
    rig.fakes.told.lock().unwrap().clear();
    back(&rig, "one");
    let told = rig.fakes.told.lock().unwrap().clone();
    let entry = |parent, name: &str| {
        let name = name.into();
        Invalidation::Entry { parent, name }
    };
    let expected = [entry(src, "main.c"), entry(root, "docs"), entry(root, "b")];
    for expected in expected
        .into_iter()
        .chain([a, jar].map(Invalidation::Inode))
    {
        assert!(told.contains(&expected), "{expected:?} not in {told:?}");
    }
    rig.fakes
        .deaf
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let report = back(&rig, "base");
    assert!(report.notes[0].contains("kernel"), "{report:?}");
}

#[test]
fn a_snapshot_holds_what_is_taken_away() {
    let (rig, one, _) = three();
    let all = rig.tree();
    rig.stage.snapshot_create("all").unwrap();
    let report = back(&rig, "one");
    assert_eq!((report.left.len(), report.dropped.len()), (2, 0));
    assert_eq!(rig.tree(), one);
    let refused = rig.stage.rollback("three").unwrap_err();
    assert!(
        matches!(&refused, Failure::Usage(text) if text.contains("not part of the stage's tree"))
    );
    assert_eq!(rig.tree(), one);
    rig.stage.snapshot_restore("all").unwrap();
    assert_eq!(rig.tree(), all);
    back(&rig, "three");
    assert_eq!(rig.tree(), all);
}

#[test]
fn what_means_no_layer_of_the_stage_changes_nothing() {
    let (rig, _, _) = three();
    rig.begin("kept");
    rig.in_view("kept").write("0/k", "k");
    rig.stage.keep("kept", "exit code 1").unwrap();
    rig.head().write("0/unsaved", "u");
    let before = rig.tree();
    for (word, usage) in [("none", false), ("", true), ("0000", true), ("kept", true)] {
        let refused = rig.stage.rollback(word).unwrap_err();
        let is_usage = matches!(refused, Failure::Usage(_));
        assert_eq!(is_usage, usage, "{word:?}: {refused}");
        assert!(
            is_usage || matches!(refused, Failure::NotFound(_)),
            "{refused}"
        );
    }
    assert_eq!(rig.tree(), before);
}
