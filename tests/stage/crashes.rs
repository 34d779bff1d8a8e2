//! kill -9 at every fail-point: afterwards exactly the old or exactly the new tree.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use harness_fs::export::{InPlace, finish};
use harness_fs::layer::{Base, Inos, Stack};
use harness_fs::merge::Policy;
use harness_fs::stage::{Failure, failpoint};

use crate::rig::{Rig, Tree, mapped, names};

const DIR: &str = "HARNESS_FS_TEST_DIR";
const OPERATION: &str = "HARNESS_FS_TEST_OPERATION";

/// The stage that every operation starts from: a snapshot, two finished steps
/// that conflict, one that is open, and something written in the head.
fn prepare(dir: &Path) {
    let rig = Rig::create(dir);
    rig.head().write("0/first", "1");
    rig.stage.snapshot_create("snap").unwrap();
    rig.head().write("0/second", "2").remove("0/docs/b");
    rig.step("a", |hand| {
        hand.write("0/log", "of a").write("0/a", "a");
    });
    rig.begin("b");
    rig.in_view("b").write("0/log", "of b").write("0/b", "b");
    // `b` began after `a` was sealed, not merged: both start from one base.
    rig.stage.seal_step("b").unwrap();
}

fn operate(rig: &Rig, operation: &str) {
    // Acknowledged before the operation, so part of the old tree and the new.
    rig.head().write("0/third", "3");
    match operation {
        "nothing" => {}
        "merge" => {
            let steps = names(&["a", "b"]);
            rig.stage.merge(&steps, Some(Policy::KeepBoth)).unwrap();
        }
        "snapshot" => drop(rig.stage.snapshot_create("two").unwrap()),
        "restore" => drop(rig.stage.snapshot_restore("snap").unwrap()),
        "rollback" => drop(rig.stage.rollback("000001").unwrap()),
        "step" => {
            rig.begin("c");
            rig.in_view("c").write("0/c", "c");
            rig.stage.merge(&names(&["c"]), None).unwrap();
        }
        "unmount" => drop(rig.stage.end(true).unwrap()),
        "remove" => drop(rig.stage.end(false).unwrap()),
        "apply" => {
            let (stack, mapped) = (rig.stage.current_stack().unwrap(), mapped(&rig.dir));
            let state = rig.stage.state_dir();
            let committed = InPlace::commit(&stack, &mapped, true, state).unwrap();
            committed.carry_out().unwrap();
            rig.stage.end(false).unwrap();
        }
        other => panic!("{other}"),
    }
}

/// Run by [`die_at`] in a process of its own; nothing to do otherwise.
#[test]
fn child() {
    let (Ok(dir), Ok(operation)) = (std::env::var(DIR), std::env::var(OPERATION)) else {
        return;
    };
    operate(&Rig::resume(Path::new(&dir)), &operation);
}

/// Runs an operation in a child. Returns whether it died at the fail-point.
fn die_at(dir: &Path, operation: &str, point: Option<&str>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "crashes::child", "--nocapture"])
        .env(DIR, dir)
        .env(OPERATION, operation)
        .stdout(Stdio::null());
    match point {
        Some(point) => command.env(failpoint::VARIABLE, point),
        None => command.env_remove(failpoint::VARIABLE),
    };
    let status = command.status().unwrap();
    assert!(status.success() || status.signal() == Some(9), "{status}");
    status.signal().is_some()
}

fn tree_after(operation: &str) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    assert!(!die_at(dir.path(), operation, None));
    Rig::resume(dir.path()).tree()
}

fn every_point(operation: &str, seen: &mut BTreeSet<&'static str>) {
    let old = tree_after("nothing");
    let new = match operation {
        "remove" => old.clone(),
        operation => tree_after(operation),
    };
    let points = failpoint::ALL.iter();
    for point in points.filter(|point| !point.starts_with("apply-")) {
        for time in 1..=8 {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            let at = format!("{point}:{time}");
            if !die_at(dir.path(), operation, Some(&at)) {
                break;
            }
            seen.insert(point);
            if operation == "remove" && *point == "unmount-in-remove" {
                let fakes = std::sync::Arc::default();
                let gone = harness_fs::stage::Stage::resume(
                    &dir.path().join("state"),
                    fakes as std::sync::Arc<crate::rig::Fakes>,
                );
                assert!(matches!(gone, Err(Failure::NotFound(_))));
                let state = dir.path().join("state");
                harness_fs::daemon::remove_state(&state).unwrap();
                assert!(!state.exists(), "{at}");
                continue;
            }
            let rig = Rig::resume(dir.path());
            let mut found = rig.tree();
            // What was acknowledged is there; the child may have died before.
            let goes_back = ["restore", "rollback"].contains(&operation);
            if !found.has("0/third") && !goes_back {
                rig.head().write("0/third", "3");
                found = rig.tree();
            }
            if !found.has("0/third") && goes_back && found != new {
                rig.head().write("0/third", "3");
                found = rig.tree();
            }
            assert!(
                found == old || found == new,
                "{operation} at {at}: {found:#?}"
            );
            if operation == "merge" && found == old {
                let steps = names(&["a", "b"]);
                rig.stage.merge(&steps, Some(Policy::KeepBoth)).unwrap();
                assert_eq!(rig.tree(), new, "{at}, merged again");
            }
            // And the next start finds the same.
            let before = rig.tree();
            drop(rig);
            assert_eq!(Rig::resume(dir.path()).tree(), before, "{at}");
        }
    }
}

/// What the mapped paths themselves hold.
fn base(dir: &Path) -> Tree {
    let base = Base::take(&mapped(dir), Arc::new(Inos::new(1))).unwrap();
    Tree::of(&Stack::new(vec![Arc::new(base)]))
}

/// The stage's tree replaces its base: this takes more than a resume.
fn apply_at_every_point(seen: &mut BTreeSet<&'static str>) {
    let new = tree_after("nothing");
    let points = failpoint::ALL.iter();
    let of_apply = |point: &&&str| point.starts_with("apply-") || point.starts_with("unmount-");
    for point in points.filter(of_apply) {
        for time in 1..=8 {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            let (old, state) = (base(dir.path()), dir.path().join("state"));
            let at = format!("{point}:{time}");
            if !die_at(dir.path(), "apply", Some(&at)) {
                assert_eq!(base(dir.path()), new, "{at}");
                break;
            }
            seen.insert(point);
            let over = !state.join("stage.json").exists() || finish(&state).unwrap().is_some();
            if over {
                assert_eq!(base(dir.path()), new, "{at}");
                continue;
            }
            assert_eq!(base(dir.path()), old, "{at}");
            let rig = Rig::resume(dir.path());
            if !rig.tree().has("0/third") {
                rig.head().write("0/third", "3");
            }
            assert_eq!(rig.tree(), new, "{at}");
        }
    }
}

#[test]
fn every_operation_at_every_point() {
    let mut seen = BTreeSet::new();
    apply_at_every_point(&mut seen);
    for operation in [
        "merge", "step", "snapshot", "restore", "rollback", "unmount", "remove",
    ] {
        every_point(operation, &mut seen);
    }
    // What restores a cache lies above the stage: `fail_points.rs` of the daemon's tests.
    let missed: Vec<_> = failpoint::ALL
        .iter()
        .filter(|point| !seen.contains(*point) && !point.starts_with("cache-"))
        .collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}
