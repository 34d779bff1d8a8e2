//! Looking at what a step has left.

use std::fs;

use harness_fs::stage::{Failure, Phase, Shell};

use crate::rig::{Hand, Rig, names};

/// A step that failed, on a stage that has gone on since.
fn failed() -> Rig {
    let rig = Rig::new();
    rig.head().write("0/before", "1");
    rig.begin("s");
    rig.in_view("s").write("0/new", "n").remove("0/log");
    rig.stage.keep("s", "exit code 1").unwrap();
    rig.head().write("0/later", "2");
    rig
}

fn open(rig: &Rig) -> Shell {
    rig.stage.open_shell("s").unwrap().unwrap()
}

fn as_the_step_left_it(hand: &Hand<'_>) {
    for there in ["0/new", "0/before", "0/src/main.c"] {
        assert!(hand.has(there), "{there}");
    }
    for gone in ["0/log", "0/later"] {
        assert!(!hand.has(gone), "{gone}");
    }
}

fn views(rig: &Rig) -> Vec<String> {
    let views = fs::read_dir(rig.dir.join("state/views")).unwrap();
    let mut names: Vec<String> = views
        .map(|view| view.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_shell_sees_what_the_step_saw_and_changes_nothing() {
    let rig = failed();
    let (before, diff) = (rig.tree(), rig.stage.diff(Some("s")).unwrap());
    let steps = format!("{:?}", rig.stage.steps());
    let (one, two) = (open(&rig), open(&rig));
    assert_eq!((&*one.name, &*two.name), ("s/shell-1", "s/shell-2"));
    assert_eq!(one.view.name, "s");
    assert_ne!(one.view.mount, two.view.mount);
    assert!(
        one.view
            .other_mounts
            .contains(&rig.stage.status().views[2].mount)
    );
    let hand = rig.in_view(&one.name);
    as_the_step_left_it(&hand);
    hand.write("0/new", "other")
        .write("0/mine", "m")
        .remove("0/src");
    as_the_step_left_it(&rig.in_view(&two.name));
    assert!(!rig.in_view(&two.name).has("0/mine"));
    for shell in [&one, &two] {
        rig.stage.close_shell(&shell.name).unwrap();
        rig.stage.close_shell(&shell.name).unwrap();
    }
    let events = rig.fakes.events.lock().unwrap().clone();
    assert!(
        events.contains(&"unmount s/shell-1".to_owned()),
        "{events:?}"
    );
    assert_eq!(views(&rig), ["stage"]);
    assert_eq!(rig.stage.diff(Some("s")).unwrap(), diff);
    assert_eq!(rig.tree(), before);
    assert_eq!(format!("{:?}", rig.stage.steps()), steps);
    rig.stage.merge(&names(&["s"]), None).unwrap();
    assert_eq!(rig.tree().text("0/new"), "n");
}

#[test]
fn a_shell_outlives_the_step_it_looks_at() {
    let rig = failed();
    let shell = open(&rig);
    rig.stage.snapshot_create("later").unwrap();
    let layer = rig.stage.steps()[0].layer.clone().unwrap();
    let layer = rig.dir.join("state/layers").join(layer);
    rig.stage.discard("s").unwrap();
    assert!(layer.exists());
    as_the_step_left_it(&rig.in_view(&shell.name));
    // The name can be used again meanwhile.
    rig.begin("s");
    rig.in_view("s").write("0/again", "a");
    rig.stage.merge(&names(&["s"]), None).unwrap();
    as_the_step_left_it(&rig.in_view(&shell.name));
    rig.stage.close_shell(&shell.name).unwrap();
    assert!(!layer.exists());
    assert_eq!(views(&rig), ["stage"]);
}

#[test]
fn only_what_has_ended_and_is_there_can_be_looked_at() {
    let rig = failed();
    rig.begin("open");
    assert!(rig.stage.open_shell("open").unwrap().is_none());
    rig.stage.merge(&names(&["s"]), None).unwrap();
    for gone in ["s", "none", "stage", "s/shell-1"] {
        let refused = rig.stage.open_shell(gone);
        assert!(matches!(refused, Err(Failure::NotFound(_))), "{gone}");
    }
    // One that changed nothing shows what it began on, one that waits what it made.
    rig.stage.keep("open", "exit code 1").unwrap();
    let shell = rig.stage.open_shell("open").unwrap().unwrap();
    assert!(rig.in_view(&shell.name).has("0/later"));
    rig.stage.close_shell(&shell.name).unwrap();
    rig.step("waits", |hand| {
        hand.write("0/waits", "w");
    });
    assert_eq!(rig.stage.steps()[1].state, Phase::Sealed);
    let shell = rig.stage.open_shell("waits").unwrap().unwrap();
    assert!(rig.in_view(&shell.name).has("0/waits"));
}

#[test]
fn the_end_of_the_stage_is_the_end_of_its_shells() {
    let rig = failed();
    let shell = open(&rig);
    rig.in_view(&shell.name).write("0/mine", "m");
    let report = rig.stage.end(true).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(report.kept_steps, ["s"]);
    assert_eq!(views(&rig), ["stage"]);
    // And a daemon that dies leaves nothing of them to the next.
    let rig = rig.die_and_resume();
    rig.in_view(&open(&rig).name).write("0/mine", "m");
    let rig = rig.die_and_resume();
    assert_eq!(views(&rig), ["stage"]);
    assert_eq!(rig.stage.steps().len(), 1);
    as_the_step_left_it(&rig.in_view(&open(&rig).name));
    rig.stage.end(false).unwrap();
    assert!(!rig.dir.join("state").exists());
}
