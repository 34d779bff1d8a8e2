//! Groups merge in declared order, whoever ends first.

use harness_fs::stage::{Failure, MemberOutcome, OnFailure, Phase};

use crate::rig::{Rig, Tree, names};

const ORDERS: [[usize; 3]; 4] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]];

fn run(order: [usize; 3]) -> Tree {
    let rig = Rig::new();
    let members = names(&["a", "b", "c"]);
    rig.stage.declare_group("g", &members).unwrap();
    for index in [order[1], order[2], order[0]] {
        rig.begin(&members[index]);
        let hand = rig.in_view(&members[index]);
        hand.write(&format!("0/report-{index}"), &format!("of {index}"));
        // One file that all three make, in a cache that takes the last.
        hand.write("1/_cacache/content-v2/x", &format!("by {index}"));
        // Metadata takes the last, too.
        hand.chmod("0/log", 0o600 + index as u32);
    }
    for (at, index) in order.into_iter().enumerate() {
        let ended =
            rig.stage
                .group_member_ended("g", &members[index], MemberOutcome::Succeeded, None);
        let report = ended.unwrap();
        assert_eq!(report.is_some(), at == 2);
        if let Some(report) = report {
            assert_eq!(report.steps, members);
        }
    }
    rig.tree()
}

#[test]
fn any_finishing_order_gives_one_tree() {
    let first = run(ORDERS[0]);
    assert!(
        first.0["0/log"].starts_with("File 602"),
        "{}",
        first.0["0/log"]
    );
    for order in &ORDERS[1..] {
        assert_eq!(run(*order), first, "{order:?}");
    }
}

#[test]
fn failed_members_are_dropped_and_the_others_merge() {
    let rig = Rig::new();
    let members = names(&["a", "b", "c"]);
    rig.stage.declare_group("g", &members).unwrap();
    for member in &members {
        rig.begin(member);
        rig.in_view(member).write(&format!("0/{member}"), member);
    }
    let failed = |on_failure| MemberOutcome::Failed {
        exit: 3,
        on_failure,
    };
    let end = |step: &str, outcome| {
        rig.stage
            .group_member_ended("g", step, outcome, None)
            .unwrap()
    };
    assert!(end("c", failed(OnFailure::Keep)).is_none());
    assert!(end("b", failed(OnFailure::Discard)).is_none());
    assert_eq!(end("a", MemberOutcome::Succeeded).unwrap().steps, ["a"]);
    let tree = rig.tree();
    assert!(tree.has("0/a") && !tree.has("0/b") && !tree.has("0/c"));
    let steps = rig.stage.steps();
    assert_eq!(
        (steps[0].name.as_str(), steps[0].state, steps[0].exit),
        ("c", Phase::Kept, Some(3))
    );
    assert!(matches!(
        rig.stage.check_member("g", "a"),
        Err(Failure::NotFound(_))
    ));
}

#[test]
fn who_was_not_declared_is_refused() {
    let rig = Rig::new();
    rig.stage.declare_group("g", &names(&["a"])).unwrap();
    let ended = |group, step| {
        rig.stage
            .group_member_ended(group, step, MemberOutcome::Succeeded, None)
    };
    assert!(matches!(ended("h", "a"), Err(Failure::NotFound(_))));
    assert!(matches!(ended("g", "x"), Err(Failure::NotFound(_))));
    assert!(matches!(ended("g", "a"), Err(Failure::NotFound(_))));
    let check = |group, step| rig.stage.check_member(group, step);
    assert!(matches!(check("h", "a"), Err(Failure::NotFound(_))));
    assert!(matches!(check("g", "x"), Err(Failure::Usage(_))));
    let declare = |name, members: &[&str]| rig.stage.declare_group(name, &names(members));
    assert!(matches!(declare("g", &["b"]), Err(Failure::Usage(_))));
    assert!(matches!(declare("h", &["a"]), Err(Failure::Usage(_))));
    assert!(matches!(declare("h", &["b", "b"]), Err(Failure::Usage(_))));
    assert!(matches!(declare("h", &[]), Err(Failure::Usage(_))));
}

#[test]
fn a_conflict_in_a_group_changes_nothing_and_names_both_writers() {
    let rig = Rig::new();
    let before = rig.tree();
    let members = names(&["a", "b", "c"]);
    rig.stage.declare_group("g", &members).unwrap();
    for member in &members {
        rig.begin(member);
        rig.in_view(member).write("0/reports/junit.xml", member);
    }
    let mut last = Ok(None);
    for member in &members {
        last = rig
            .stage
            .group_member_ended("g", member, MemberOutcome::Succeeded, None);
    }
    let Err(Failure::Conflict(report)) = last else {
        panic!("{last:?}");
    };
    assert_eq!(report.conflicts.len(), 2, "{}", report.text);
    assert_eq!(&*report.conflicts[0].stage.writer, "a");
    assert_eq!(&*report.conflicts[1].stage.writer, "b");
    assert_eq!(rig.tree(), before);
    assert!(
        rig.stage
            .steps()
            .iter()
            .all(|step| step.state == Phase::Kept)
    );
    let both = Some(harness_fs::merge::Policy::KeepBoth);
    rig.stage.merge(&members, both).unwrap();
    let tree = rig.tree();
    assert_eq!(tree.text("0/reports/junit.xml"), "a");
    assert_eq!(tree.text("0/reports/junit.xml.b"), "b");
    assert_eq!(tree.text("0/reports/junit.xml.c"), "c");
}

fn success(rig: &Rig, step: &str) -> Option<Vec<String>> {
    let ended = rig
        .stage
        .group_member_ended("g", step, MemberOutcome::Succeeded, None);
    ended.unwrap().map(|report| report.steps)
}

#[test]
fn a_member_that_never_runs_is_left_out() {
    let rig = Rig::new();
    rig.stage
        .declare_group("g", &names(&["a", "b", "c"]))
        .unwrap();
    for step in ["c", "a"] {
        rig.begin(step);
        rig.in_view(step).write(&format!("0/{step}"), step);
    }
    assert_eq!(success(&rig, "c"), None);
    let open = rig.stage.close_group("g").unwrap_err().to_string();
    assert!(open.contains("'a'"), "{open}");
    assert_eq!(success(&rig, "a"), None);
    assert_eq!(rig.stage.close_group("g").unwrap().steps, ["a", "c"]);
    assert!(rig.tree().has("0/a") && rig.tree().has("0/c"));
    let gone = rig.stage.close_group("g");
    assert!(matches!(gone, Err(Failure::NotFound(_))));
}

#[test]
fn a_member_that_is_discarded_or_merged_by_hand_is_not_waited_for() {
    let rig = Rig::new();
    let members = names(&["a", "b", "c"]);
    rig.stage.declare_group("g", &members).unwrap();
    // Never begun.
    rig.stage.discard("b").unwrap();
    for step in ["a", "c"] {
        rig.begin(step);
        rig.in_view(step).write(&format!("0/{step}"), step);
    }
    rig.stage.merge(&names(&["c"]), None).unwrap();
    assert_eq!(success(&rig, "a"), Some(names(&["a"])));
    // The group is gone, and so it is when nothing is left to merge.
    rig.stage.declare_group("g", &members).unwrap();
    for step in &members {
        rig.stage.discard(step).unwrap();
    }
    assert!(rig.stage.status().groups.is_empty());
}

/// The last member to end failed, stayed open, and the group could not be closed.
#[test]
fn members_that_a_restore_has_stranded_are_kept_and_the_others_merge() {
    let rig = Rig::new();
    let members = names(&["a", "b", "idle", "c"]);
    rig.stage.snapshot_create("before").unwrap();
    rig.head().write("0/later", "");
    rig.stage.declare_group("g", &members).unwrap();
    for step in ["a", "b", "idle"] {
        rig.begin(step);
    }
    for step in ["a", "b"] {
        rig.in_view(step).write(&format!("0/{step}"), step);
    }
    assert_eq!(success(&rig, "a"), None);
    // What they began on is left behind.
    rig.stage.snapshot_restore("before").unwrap();
    rig.begin("c");
    rig.in_view("c").write("0/c", "c");
    assert_eq!(success(&rig, "b"), None);
    assert_eq!(success(&rig, "idle"), None);
    let ended = rig
        .stage
        .group_member_ended("g", "c", MemberOutcome::Succeeded, None);
    let report = ended.unwrap().unwrap();
    // Having changed nothing is possible on any state.
    assert_eq!(report.steps, ["idle", "c"]);
    for (step, note) in ["'a'", "'b'"].iter().zip(&report.notes) {
        assert!(note.contains(step) && note.contains("restore"), "{note}");
    }
    let tree = rig.tree();
    assert!(tree.has("0/c") && !tree.has("0/a") && !tree.has("0/later"));
    assert!(rig.stage.status().groups.is_empty());
    for step in rig.stage.steps() {
        assert_eq!(step.state, Phase::Kept, "{step:?}");
        assert!(step.reason.unwrap().contains("restore"));
        rig.stage.discard(&step.name).unwrap();
    }
}

/// It waited for ever.
#[test]
fn a_group_whose_last_missing_member_leaves_is_merged_then() {
    for by_hand in ["discarded", "never begun", "merged"] {
        let rig = Rig::new();
        let members = names(&["a", "b", "c"]);
        rig.stage.declare_group("g", &members).unwrap();
        let last = names(&["b"]);
        if by_hand != "never begun" {
            rig.begin("b");
            rig.in_view("b").write("0/b", "b");
        }
        for step in ["c", "a"] {
            rig.begin(step);
            rig.in_view(step).write(&format!("0/{step}"), step);
            assert_eq!(success(&rig, step), None);
            assert!(rig.stage.end_groups_without(&last).is_empty());
        }
        if by_hand == "merged" {
            rig.stage.merge(&last, None).unwrap();
        } else {
            rig.stage.discard("b").unwrap();
        }
        let ends = rig.stage.end_groups_without(&last);
        assert_eq!((ends.len(), ends[0].group.as_str()), (1, "g"), "{by_hand}");
        assert_eq!(ends[0].merged.as_ref().unwrap().steps, ["a", "c"]);
        let tree = rig.tree();
        assert!(tree.has("0/a") && tree.has("0/c"));
        assert_eq!(tree.has("0/b"), by_hand == "merged");
        assert!(rig.stage.status().groups.is_empty());
    }
}

#[test]
fn a_group_that_is_forgotten_keeps_what_has_ended() {
    let rig = Rig::new();
    rig.stage.declare_group("g", &names(&["a", "b"])).unwrap();
    rig.begin("a");
    rig.in_view("a").write("0/a", "");
    assert_eq!(success(&rig, "a"), None);
    rig.stage.remove_group("g").unwrap();
    let kept = rig.stage.steps();
    assert_eq!((kept.len(), &kept[0].group), (1, &None));
    rig.stage.merge(&names(&["a"]), None).unwrap();
    assert!(rig.tree().has("0/a"));
}

#[test]
fn a_member_does_not_run_alone_unnoticed() {
    let rig = Rig::new();
    rig.stage.declare_group("g", &names(&["a"])).unwrap();
    let alone = rig.stage.check_no_member("a").unwrap_err().to_string();
    assert!(alone.contains("--group 'g'"), "{alone}");
    rig.stage.check_no_member("b").unwrap();
}

/// The success was lost, and the step stayed open.
#[test]
fn a_member_whose_group_is_removed_while_it_runs_ends_by_itself() {
    let rig = Rig::new();
    let members = names(&["a", "b", "c", "d"]);
    rig.stage.declare_group("g", &members).unwrap();
    for step in &members {
        rig.begin(step);
        rig.in_view(step).write(&format!("0/{step}"), step);
    }
    assert_eq!(success(&rig, "a"), None);
    rig.stage.remove_group("g").unwrap();
    let end = |step: &str, outcome| {
        let ended = rig.stage.group_member_ended("g", step, outcome, None);
        ended.unwrap().unwrap()
    };
    let report = end("b", MemberOutcome::Succeeded);
    assert_eq!(report.steps, ["b"]);
    assert!(report.notes[0].contains("'g' was removed"), "{report:?}");
    for (step, on_failure) in [("c", OnFailure::Discard), ("d", OnFailure::Keep)] {
        let failed = MemberOutcome::Failed {
            exit: 3,
            on_failure,
        };
        assert!(end(step, failed).steps.is_empty());
    }
    assert!(rig.tree().has("0/b") && !rig.tree().has("0/d"));
    let left = rig.stage.steps();
    let left: Vec<_> = left
        .iter()
        .map(|step| (step.name.as_str(), step.state, step.exit))
        .collect();
    // What had ended before is kept as it was.
    assert_eq!(
        left,
        [("a", Phase::Sealed, Some(0)), ("d", Phase::Kept, Some(3))]
    );
}

#[test]
fn a_group_that_has_ended_is_remembered_until_it_is_declared_anew() {
    let rig = Rig::new();
    let over = |group: &str, step: &str| rig.stage.group_is_over(group, step);
    let failed = MemberOutcome::Failed {
        exit: 1,
        on_failure: OnFailure::Discard,
    };
    for members in [&["a"][..], &["a", "b"]] {
        rig.stage.declare_group("g", &names(members)).unwrap();
        assert!(!over("g", "a"));
        for step in members {
            rig.begin(step);
            let outcome = match *step {
                "a" => failed,
                _ => MemberOutcome::Succeeded,
            };
            rig.stage
                .group_member_ended("g", step, outcome, None)
                .unwrap();
        }
        assert!(over("g", "a") && !over("g", "x") && !over("h", "a"));
    }
    let rig = rig.die_and_resume();
    assert!(rig.stage.group_is_over("g", "b"));
    // To forget a group is no end.
    rig.stage.declare_group("g", &names(&["a"])).unwrap();
    rig.stage.remove_group("g").unwrap();
    assert!(!rig.stage.group_is_over("g", "a"));
}
