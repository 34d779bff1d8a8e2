//! Steps whose layers are kept aside.

use harness_fs::stage::{Failure, MemberOutcome, OnFailure, Phase};

use crate::rig::{Rig, names};

#[test]
fn an_open_step_is_put_aside_and_nothing_is_merged() {
    let rig = Rig::new();
    let before = rig.tree();
    rig.begin("s");
    rig.in_view("s").write("0/new", "n").remove("0/log");
    let kept = rig.stage.put_aside("s", None).unwrap();
    assert_eq!((kept.entries, kept.whiteouts), (1, 1), "{kept:?}");
    assert_eq!(rig.tree(), before);
    let known = &rig.stage.steps()[0];
    assert_eq!((known.state, &known.layer), (Phase::Kept, &kept.layer));
    let twice = rig.stage.put_aside("s", None).unwrap_err();
    assert!(matches!(&twice, Failure::Usage(text) if text.contains("has ended already")));
    assert!(matches!(
        rig.stage.put_aside("none", None),
        Err(Failure::NotFound(_))
    ));
    let rig = rig.die_and_resume();
    assert_eq!(rig.stage.diff(Some("s")).unwrap().len(), 2);
    rig.stage.merge(&names(&["s"]), None).unwrap();
    assert_eq!(rig.tree().text("0/new"), "n");
    assert!(!rig.tree().has("0/log"));
}

#[test]
fn a_step_that_changed_nothing_is_kept_without_a_layer() {
    let rig = Rig::new();
    rig.begin("s");
    assert_eq!(rig.stage.put_aside("s", None).unwrap().layer, None);
    assert_eq!(rig.stage.steps()[0].state, Phase::Kept);
    rig.stage.discard("s").unwrap();
    rig.begin("s");
}

#[test]
fn a_group_does_not_wait_for_a_member_that_was_put_aside() {
    let rig = Rig::new();
    rig.stage.declare_group("g", &names(&["a", "b"])).unwrap();
    rig.step("a", |hand| {
        hand.write("0/a", "a");
    });
    let succeeded = MemberOutcome::Succeeded;
    let waits = rig.stage.group_member_ended("g", "a", succeeded, None);
    assert!(waits.unwrap().is_none());
    rig.begin("b");
    rig.in_view("b").write("0/b", "b");
    rig.stage.put_aside("b", None).unwrap();
    let ended = rig.stage.end_groups_without(&names(&["b"]));
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].merged.as_ref().unwrap().steps, ["a"]);
    let tree = rig.tree();
    assert!(tree.has("0/a") && !tree.has("0/b"));
    let left = rig.stage.steps();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].name.as_str(), &left[0].group), ("b", &None));
}

fn fails(rig: &Rig, step: &str) -> Vec<String> {
    rig.begin(step);
    rig.in_view(step).write(&format!("0/of-{step}"), step);
    rig.stage.keep(step, "exit code 1").unwrap()
}

fn known(rig: &Rig) -> Vec<String> {
    rig.stage
        .steps()
        .into_iter()
        .map(|step| step.name)
        .collect()
}

#[test]
fn of_the_steps_that_failed_only_the_last_are_kept() {
    let rig = Rig::new();
    rig.stage
        .declare_group("g", &names(&["member", "other"]))
        .unwrap();
    rig.begin("idle");
    rig.stage.keep("idle", "exit code 1").unwrap();
    rig.begin("conflict");
    rig.in_view("conflict").write("0/log", "c");
    rig.step("member", |hand| {
        hand.write("0/member", "m");
    });
    rig.head().write("0/log", "h");
    rig.stage.merge(&names(&["conflict"]), None).unwrap_err();
    for step in ["z", "y", "x", "w"] {
        assert!(fails(&rig, step).is_empty());
    }
    rig.begin("v");
    rig.in_view("v").write("0/of-v", "v");
    assert!(rig.stage.put_aside("v", None).unwrap().notes.is_empty());
    assert!(rig.stage.status().made_way.is_empty());
    let layer = rig.stage.steps().pop().unwrap().layer.unwrap();
    assert!(layer.ends_with("-z"), "{layer}");
    assert!(rig.dir.join("state/layers").join(&layer).exists());
    let before = rig.tree();

    let notes = fails(&rig, "u");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].starts_with("step 'z' is discarded, the oldest"),
        "{notes:?}"
    );
    assert!(!rig.dir.join("state/layers").join(&layer).exists());
    let left = ["conflict", "idle", "member", "u", "v", "w", "x", "y"];
    assert_eq!(known(&rig), left);
    assert_eq!(rig.tree(), before);
    let gone = rig.stage.merge(&names(&["z"]), None).unwrap_err();
    assert!(gone.to_string().contains("to make way"), "{gone}");

    let rig = rig.die_and_resume();
    assert!(fails(&rig, "t")[0].contains("'y'"));
    assert_eq!(rig.stage.room(), (5, names(&["y", "z"])));
    rig.begin("y");
    assert_eq!(rig.stage.status().made_way, ["z"]);
}

#[test]
fn what_has_become_a_conflict_makes_way_no_more() {
    let rig = Rig::new();
    rig.begin("first");
    rig.in_view("first").write("0/log", "f");
    rig.stage.keep("first", "exit code 1").unwrap();
    rig.head().write("0/log", "h");
    rig.stage.merge(&names(&["first"]), None).unwrap_err();
    for step in ["a", "b", "c", "d", "e"] {
        assert!(fails(&rig, step).is_empty());
    }
    assert!(fails(&rig, "f")[0].contains("'a'"));
    assert!(known(&rig).contains(&"first".to_owned()));
}

/// A group of later must wait for its member, whose name was another step's.
#[test]
fn a_member_that_failed_makes_way_without_leaving_a_group() {
    let rig = Rig::new();
    fails(&rig, "a");
    rig.stage.declare_group("g", &names(&["a", "b"])).unwrap();
    for step in ["c", "d", "e", "f", "h"] {
        fails(&rig, step);
    }
    assert_eq!(rig.stage.status().made_way, ["a"]);
    assert!(rig.stage.status().groups["g"].ended.is_empty());
    // And one that fails in its group is kept for the same reason as alone.
    rig.begin("b");
    rig.in_view("b").write("0/b", "b");
    rig.stage.keep("b", "it took too long").unwrap();
    let failed = MemberOutcome::Failed {
        exit: 124,
        on_failure: OnFailure::Keep,
    };
    rig.stage
        .group_member_ended("g", "b", failed, None)
        .unwrap();
    let steps = rig.stage.steps();
    let known = steps.iter().find(|step| step.name == "b").unwrap();
    assert_eq!(known.exit, Some(124));
    assert_eq!(known.reason.as_deref(), Some("it took too long"));
}
