//! Steps whose layers are kept aside.

use harness_fs::stage::{Failure, Phase};

use crate::rig::{Rig, names};

#[test]
fn an_open_step_is_put_aside_and_nothing_is_merged() {
    let rig = Rig::new();
    let before = rig.tree();
    rig.begin("s");
    rig.in_view("s").write("0/new", "n").remove("0/log");
    let kept = rig.stage.put_aside("s").unwrap();
    assert_eq!((kept.entries, kept.whiteouts), (1, 1), "{kept:?}");
    assert_eq!(rig.tree(), before);
    let known = &rig.stage.steps()[0];
    assert_eq!((known.state, &known.layer), (Phase::Kept, &kept.layer));
    let twice = rig.stage.put_aside("s").unwrap_err();
    assert!(matches!(&twice, Failure::Usage(text) if text.contains("has ended already")));
    assert!(matches!(
        rig.stage.put_aside("none"),
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
    assert_eq!(rig.stage.put_aside("s").unwrap().layer, None);
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
    let succeeded = harness_fs::stage::MemberOutcome::Succeeded;
    let waits = rig.stage.group_member_ended("g", "a", succeeded, None);
    assert!(waits.unwrap().is_none());
    rig.begin("b");
    rig.in_view("b").write("0/b", "b");
    rig.stage.put_aside("b").unwrap();
    let ended = rig.stage.end_groups_without(&names(&["b"]));
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].merged.as_ref().unwrap().steps, ["a"]);
    let tree = rig.tree();
    assert!(tree.has("0/a") && !tree.has("0/b"));
    let left = rig.stage.steps();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].name.as_str(), &left[0].group), ("b", &None));
}
