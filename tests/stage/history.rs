//! What layers tell of the past: log, show.

use harness_fs::merge::Policy;
use harness_fs::stage::{Change, Failure, LayerKind, LogLine, StepEnd};

use crate::rig::{Rig, names};

/// A stage with a layer of each kind: written outside of steps, by steps that
/// were merged, by a merge, and by a step that is kept.
fn eventful() -> Rig {
    let rig = Rig::new();
    rig.stage.snapshot_create("first").unwrap();
    rig.head().write("0/outside", "1");
    rig.stage.snapshot_create("one").unwrap();
    rig.begin("a");
    rig.begin("b");
    rig.in_view("a").append("0/log", "a\n").write("0/new", "a");
    rig.in_view("b").append("0/log", "b\n").remove("0/docs/b");
    rig.begin("late");
    rig.in_view("late").write("0/log", "late\n");
    let append = Some(Policy::Append);
    rig.stage.merge(&names(&["a", "b"]), append).unwrap();
    let refused = rig.stage.merge(&names(&["late"]), None);
    assert!(matches!(refused, Err(Failure::Conflict(_))));
    rig
}

fn told(lines: &[LogLine]) -> Vec<(LayerKind, Option<&str>, Option<StepEnd>, bool)> {
    let told = lines.iter();
    told.map(|line| (line.kind, line.step.as_deref(), line.result, line.in_stack))
        .collect()
}

#[test]
fn the_log_has_every_layer_once_the_newest_first() {
    use LayerKind::{Base, Head, Join, Step};
    let rig = eventful();
    let log = rig.stage.log().unwrap();
    let merged = Some(StepEnd::Merged);
    assert_eq!(
        told(&log),
        [
            (Step, Some("late"), Some(StepEnd::Kept), false),
            (Join, Some("b"), merged, true),
            (Step, Some("b"), merged, true),
            (Step, Some("a"), merged, true),
            (Head, None, None, true),
            (Base, None, None, true),
        ]
    );
    assert!(log[0].reason.is_some() && log[0].sealed.is_some());
    assert_eq!((log[2].whiteouts, log[3].entries), (Some(1), Some(2)));
    assert_eq!(log[4].snapshots, ["one"]);
    assert_eq!(log[5].snapshots, ["first"]);
    assert_eq!((log[5].sealed, log[5].entries), (None, None));

    // What the stage has left behind is listed where it was made.
    rig.stage.snapshot_create("two").unwrap();
    rig.stage.snapshot_restore("one").unwrap();
    rig.head().write("0/after", "1");
    rig.stage.snapshot_create("three").unwrap();
    let log = rig.stage.log().unwrap();
    let in_stack: Vec<bool> = log.iter().map(|line| line.in_stack).collect();
    assert_eq!(in_stack, [true, false, false, false, false, true, true]);
    assert_eq!(log[2].snapshots, ["two"]);
    let rig = rig.die_and_resume();
    assert_eq!(rig.stage.log().unwrap(), log);
}

/// The changes of a layer, without the mapped path.
fn changes(rig: &Rig, layer: &str) -> Vec<(Change, String)> {
    let report = rig.stage.show(layer).unwrap();
    let workspace = rig.dir.join("ws");
    let changes = report.changes.into_iter().map(|line| {
        let path = line.path.strip_prefix(&workspace).unwrap();
        (line.change, path.to_str().unwrap().to_owned())
    });
    changes.collect()
}

#[test]
fn a_layer_shows_what_it_does_to_what_is_below_it() {
    let rig = eventful();
    let expected = |list: &[(Change, &str)]| -> Vec<(Change, String)> {
        let list = list.iter();
        list.map(|(change, path)| (*change, (*path).to_owned()))
            .collect()
    };
    let log = rig.stage.log().unwrap();
    let b = expected(&[(Change::Deleted, "docs/b"), (Change::Modified, "log")]);
    assert_eq!(changes(&rig, "b"), b);
    assert_eq!(changes(&rig, "step:b"), b);
    assert_eq!(changes(&rig, &log[2].id), b);
    assert_eq!(changes(&rig, log[2].id.split('-').next().unwrap()), b);
    let join = expected(&[(Change::Modified, "log")]);
    assert_eq!(changes(&rig, &log[1].id), join);
    let a = expected(&[(Change::Modified, "log"), (Change::Added, "new")]);
    assert_eq!(changes(&rig, "a"), a);
    // Against what the step began on, not against what was merged since.
    assert_eq!(changes(&rig, "late"), join);
    let report = rig.stage.show("a").unwrap();
    assert_eq!(report.layer, log[3]);
    assert_eq!(report.manifest.id, log[3].id);

    // Also where only a snapshot has it.
    rig.stage.snapshot_create("two").unwrap();
    rig.stage.snapshot_restore("first").unwrap();
    assert_eq!(changes(&rig, "a"), a);
}

#[test]
fn words_that_mean_no_layer_or_several() {
    let rig = eventful();
    let refused = |word: &str| rig.stage.show(word).unwrap_err();
    for (word, part) in [
        ("nothing", "there is no layer and no step 'nothing'"),
        ("step:late2", "no step 'late2'"),
        ("one", "there is no layer"),
    ] {
        let failure = refused(word);
        assert!(matches!(failure, Failure::NotFound(_)), "{failure}");
        assert!(failure.to_string().contains(part), "{failure}");
    }
    for (word, part) in [
        ("00000", "can be several layers: 000001-head, 000002-a, "),
        ("", "can be several layers"),
        ("base", "what the mapped paths held"),
    ] {
        let failure = refused(word);
        assert!(matches!(failure, Failure::Usage(_)), "{failure}");
        assert!(failure.to_string().contains(part), "{failure}");
    }
    rig.begin("open");
    assert!(refused("open").to_string().contains("is open"));
    rig.in_view("open").write("0/x", "x");
    rig.stage.discard("open").unwrap();
    assert!(refused("open").to_string().contains("was discarded"));
    rig.begin("idle");
    rig.stage.merge(&names(&["idle"]), None).unwrap();
    assert!(refused("idle").to_string().contains("changed nothing"));
}
