//! Conflicts, policies, join layers.

use harness_fs::merge::{Class, Policy};
use harness_fs::stage::{ConflictReport, Failure, Phase};

use harness_fs::view::ROOT;
use nix::fcntl::OFlag;

use crate::rig::{Hand, Interlude, Rig, Tree, names};

/// Two steps from one base; the first is merged, the second is ready.
fn two(first: impl FnOnce(&Hand<'_>), second: impl FnOnce(&Hand<'_>)) -> Rig {
    let rig = Rig::new();
    rig.begin("a");
    rig.begin("b");
    first(&rig.in_view("a"));
    second(&rig.in_view("b"));
    rig.stage.merge(&names(&["a"]), None).unwrap();
    rig.stage.seal_step("b").unwrap();
    rig
}

fn conflict(rig: &Rig) -> Box<ConflictReport> {
    let before = rig.tree();
    let failure = rig.stage.merge(&names(&["b"]), None).unwrap_err();
    assert_eq!(rig.tree(), before, "a refused merge changed the stage");
    let step = &rig.stage.steps()[0];
    assert_eq!(step.state, Phase::Kept, "{step:?}");
    match failure {
        Failure::Conflict(report) => report,
        other => panic!("{other}"),
    }
}

fn with(rig: &Rig, policy: Policy) -> Tree {
    rig.stage.merge(&names(&["b"]), Some(policy)).unwrap();
    rig.tree()
}

fn write_write() -> Rig {
    two(
        |hand| {
            hand.write("0/src/main.c", "of a").write("0/a", "a");
        },
        |hand| {
            hand.write("0/src/main.c", "of b!").write("0/b", "b");
        },
    )
}

#[test]
fn different_files_unite() {
    let rig = two(
        |hand| {
            hand.write("0/src/a.c", "a").write("0/src/main.c", "main");
        },
        |hand| {
            hand.write("0/src/b.c", "b")
                .remove("0/docs/b")
                .copy_up("0/src/main.c");
        },
    );
    let report = rig.stage.merge(&names(&["b"]), None).unwrap();
    assert!(report.conflicts.is_empty());
    let tree = rig.tree();
    assert!(tree.has("0/src/a.c") && tree.has("0/src/b.c") && !tree.has("0/docs/b"));
    assert_eq!(tree.text("0/src/main.c"), "main", "a copy-up is no change");
}

#[test]
fn a_conflict_is_decided_later_without_running_again() {
    let rig = write_write();
    let report = conflict(&rig);
    assert_eq!(report.undecided(), 1);
    assert_eq!(report.conflicts[0].class, Class::WriteWrite);
    assert!(report.text.contains("--on-conflict"), "{}", report.text);
    let rig = rig.die_and_resume();
    assert!(
        rig.stage.steps()[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("main.c")
    );
    assert_eq!(with(&rig, Policy::Last).text("0/src/main.c"), "of b!");
    assert!(rig.tree().has("0/b"));
}

#[test]
fn every_policy_gives_its_tree() {
    assert_eq!(
        with(&write_write(), Policy::First).text("0/src/main.c"),
        "of a"
    );
    let both = with(&write_write(), Policy::KeepBoth);
    assert_eq!(both.text("0/src/main.c"), "of a");
    assert_eq!(both.text("0/src/main.c.b"), "of b!");
    let rig = two(
        |hand| {
            hand.append("0/log", "a\n");
        },
        |hand| {
            hand.append("0/log", "b\n").chmod("0/log", 0o640);
        },
    );
    let tree = with(&rig, Policy::Append);
    assert_eq!(tree.text("0/log"), "one\na\nb\n");
    assert!(tree.0["0/log"].starts_with("File 640"));
    let rig = write_write();
    assert!(matches!(
        rig.stage.merge(&names(&["b"]), Some(Policy::Append)),
        Err(Failure::Conflict(_))
    ));
}

#[test]
fn a_removed_directory_against_a_change_below_it() {
    let make = || {
        two(
            |hand| {
                hand.remove("0/docs");
            },
            |hand| {
                hand.write("0/docs/a/deep", "deeper")
                    .write("0/docs/a/more", "m");
            },
        )
    };
    assert_eq!(conflict(&make()).conflicts[0].class, Class::Tree);
    let last = with(&make(), Policy::Last);
    assert_eq!(last.text("0/docs/a/deep"), "deeper");
    assert_eq!(last.text("0/docs/b"), "b\n");
    let first = with(&make(), Policy::First);
    assert!(!first.has("0/docs"));

    let other_way = || {
        two(
            |hand| {
                hand.write("0/docs/a/deep", "deeper");
            },
            |hand| {
                hand.remove("0/docs");
            },
        )
    };
    assert!(!with(&other_way(), Policy::Last).has("0/docs"));
    let first = with(&other_way(), Policy::First);
    assert_eq!(first.text("0/docs/a/deep"), "deeper");
    assert_eq!(first.text("0/docs/b"), "b\n");
}

#[test]
fn renamed_directories() {
    let rig = two(
        |hand| {
            hand.rename_dir("0/docs", "0/manual");
        },
        |hand| {
            hand.write("0/src/x", "x");
        },
    );
    rig.stage.merge(&names(&["b"]), None).unwrap();
    let tree = rig.tree();
    assert_eq!(tree.text("0/manual/a/deep"), "deep\n");
    assert!(!tree.has("0/docs"));
    for policy in [Policy::First, Policy::Last, Policy::KeepBoth] {
        let rig = two(
            |hand| {
                hand.rename_dir("0/docs", "0/manual");
            },
            |hand| {
                hand.write("0/docs/a/deep", "other");
            },
        );
        let tree = with(&rig, policy);
        match policy {
            Policy::First => assert_eq!(tree.text("0/manual/a/deep"), "deep\n"),
            Policy::Last => assert_eq!(tree.text("0/docs/a/deep"), "other"),
            _ => {
                assert_eq!(tree.text("0/manual/a/deep"), "deep\n");
                assert_eq!(tree.text("0/docs/a/deep"), "other");
            }
        }
    }
}

#[test]
fn a_renamed_file_and_a_change_of_it_never_share_a_number() {
    for policy in [Policy::First, Policy::Last, Policy::KeepBoth] {
        let rig = two(
            |hand| {
                hand.rename_file("0/log", "0/log.1");
            },
            |hand| {
                hand.append("0/log", "two\n");
            },
        );
        // `tree` checks the numbers.
        let tree = with(&rig, policy);
        assert!(tree.has("0/log") || tree.has("0/log.1"));
    }
}

#[test]
fn hard_links_stay_together_through_a_join() {
    for policy in [Policy::First, Policy::Last, Policy::KeepBoth] {
        let rig = two(
            |hand| {
                hand.write("0/new/one", "of a")
                    .link("0/new/one", "0/new/two");
            },
            |hand| {
                hand.write("0/new/one", "of b")
                    .link("0/new/one", "0/new/two");
            },
        );
        let tree = with(&rig, policy);
        let writer = if policy == Policy::Last {
            "of b"
        } else {
            "of a"
        };
        assert_eq!(tree.text("0/new/one"), writer);
        assert_eq!(rig.ino("0/new/one"), rig.ino("0/new/two"), "{policy}");
    }
}

#[test]
fn directories_made_anew_and_types_changed() {
    for policy in [Policy::First, Policy::Last] {
        let rig = two(
            |hand| {
                hand.remake_dir("0/docs").write("0/docs/fresh", "a");
            },
            |hand| {
                hand.write("0/docs/b", "of b");
            },
        );
        let tree = with(&rig, policy);
        assert_eq!(tree.has("0/docs/fresh"), policy == Policy::First);
        let rig = two(
            |hand| {
                hand.remove("0/src").write("0/src", "a file now");
            },
            |hand| {
                hand.write("0/src/main.c", "of b");
            },
        );
        let tree = with(&rig, policy);
        assert_eq!(tree.has("0/src/main.c"), policy == Policy::Last);
        assert_eq!(tree.has("0/src/util.c"), policy == Policy::Last);
    }
}

#[test]
fn directory_metadata_takes_the_last_and_is_reported() {
    let make = || {
        two(
            |hand| {
                hand.chmod("0/src", 0o700).write("0/src/a.c", "a");
            },
            |hand| {
                hand.chmod("0/src", 0o750).write("0/src/b.c", "b");
            },
        )
    };
    let rig = make();
    let report = rig.stage.merge(&names(&["b"]), None).unwrap();
    assert_eq!(report.conflicts[0].class, Class::DirectoryMetadata);
    assert!(rig.tree().0["0/src"].starts_with("Dir 750"));
    let tree = with(&make(), Policy::First);
    assert!(tree.0["0/src"].starts_with("Dir 700"));
    assert!(tree.has("0/src/a.c") && tree.has("0/src/b.c"));
}

#[test]
fn several_steps_merge_all_or_none() {
    let rig = Rig::new();
    for step in ["a", "b", "c"] {
        rig.begin(step);
    }
    rig.in_view("a").write("0/a", "a");
    rig.in_view("b").write("0/b", "b").write("0/log", "b");
    rig.in_view("c").write("0/c", "c").write("0/log", "c");
    let before = rig.tree();
    let all = names(&["a", "b", "c"]);
    assert!(matches!(
        rig.stage.merge(&all, None),
        Err(Failure::Conflict(_))
    ));
    assert_eq!(rig.tree(), before);
    assert_eq!(rig.stage.steps().len(), 3);
    rig.stage.merge(&all, Some(Policy::First)).unwrap();
    let tree = rig.tree();
    assert!(tree.has("0/a") && tree.has("0/b") && tree.has("0/c"));
    assert_eq!(tree.text("0/log"), "b");
    // Nothing is left of what the refused merge made.
    let layers = std::fs::read_dir(rig.dir.join("state/layers")).unwrap();
    assert_eq!(layers.count(), rig.stage.status().layers.len());
}

#[test]
fn reports_name_the_writer_of_what_the_stage_holds() {
    for (policy, writer, size) in [
        (Policy::KeepBoth, "a", 2),
        (Policy::First, "a", 2),
        (Policy::Last, "b", 3),
    ] {
        let rig = Rig::new();
        for step in ["a", "b", "c"] {
            rig.begin(step);
        }
        for (step, text) in [("a", "of"), ("b", "of "), ("c", "of c")] {
            rig.in_view(step)
                .write("0/log", text)
                .write("0/new/added", text);
            rig.in_view(step).remove("0/docs/b").chmod("0/src", 0o700);
        }
        rig.in_view("b").chmod("0/docs/a/deep", 0o600);
        rig.in_view("c").write("0/docs/a/deep", "changed");
        let all = rig.stage.merge(&names(&["a", "b", "c"]), Some(policy));
        let conflicts = all.unwrap().conflicts;
        for path in ["0/log", "0/new/added"] {
            let of_c = conflicts
                .iter()
                .find(|conflict| conflict.tree_path.ends_with(path) && conflict.step.writer == "c");
            let stage = &of_c.unwrap().stage;
            assert_eq!(stage.writer, writer, "{policy} {path}");
            assert_eq!(stage.facts.as_ref().unwrap().size, size, "{policy} {path}");
        }
        let deep = conflicts
            .iter()
            .find(|conflict| conflict.tree_path.ends_with("deep"));
        assert_eq!(deep.unwrap().stage.writer, "b", "{policy}");
    }
}

#[test]
fn what_is_written_in_the_stage_view_conflicts_too() {
    let rig = Rig::new();
    rig.begin("b");
    rig.in_view("b").write("0/log", "of b");
    rig.head().write("0/log", "of the stage");
    let report = conflict(&rig);
    assert_eq!(&*report.conflicts[0].stage.writer, "stage");
    assert_eq!(with(&rig, Policy::First).text("0/log"), "of the stage");
}

#[test]
fn a_directory_renamed_by_the_step_and_changed_in_the_stage() {
    for policy in [Policy::First, Policy::Last, Policy::KeepBoth] {
        let rig = two(
            |hand| {
                hand.write("0/docs/a/deep", "other");
            },
            |hand| {
                hand.rename_dir("0/docs", "0/manual");
            },
        );
        let tree = with(&rig, policy);
        assert_eq!(tree.has("0/docs/b"), policy != Policy::Last);
        assert_eq!(tree.has("0/manual/b"), policy != Policy::First);
        if policy != Policy::First {
            assert_eq!(tree.text("0/manual/a/deep"), "deep\n");
        }
    }
}

#[test]
fn a_change_and_a_removal_of_another_name_keep_the_counts_right() {
    for policy in [Policy::First, Policy::Last, Policy::KeepBoth] {
        let rig = two(
            |hand| {
                hand.remove("0/docs/b")
                    .write("0/x/one", "1")
                    .link("0/x/one", "0/x/two");
            },
            |hand| {
                hand.write("0/docs/b", "2").link("0/docs/b", "0/docs/c");
                hand.write("0/x/one", "other");
            },
        );
        let tree = with(&rig, policy);
        assert!(tree.has("0/x/two"));
    }
}

/// It was merged under who had just opened the file.
#[test]
fn what_is_opened_while_a_merge_is_prepared_is_busy() {
    let rig = Rig::new();
    rig.step("b", |hand| {
        hand.write("0/log", "of b");
    });
    let view = rig.fakes.views.lock().unwrap()["stage"].clone();
    let open = move || {
        let mut ino = ROOT;
        for name in ["0", "log"] {
            ino = view.lookup(ino, name.as_ref()).unwrap().ino;
        }
        view.open(ino, OFlag::O_WRONLY, None).unwrap();
    };
    // The first exchange is that of the head before the merge is prepared.
    let interludes: [Interlude; 2] = [Box::new(open), Box::new(|| ())];
    rig.fakes.interludes.lock().unwrap().extend(interludes);
    let failure = rig.stage.merge(&names(&["b"]), None);
    let Err(Failure::Conflict(report)) = failure else {
        panic!("{failure:?}");
    };
    assert_eq!(report.conflicts[0].class, Class::Busy, "{}", report.text);
    assert!(rig.fakes.interludes.lock().unwrap().is_empty());
}

/// A renamed directory is one change at two paths: it is not lost where the other side has its
/// new name.
#[test]
fn a_directory_whose_new_name_is_lost_comes_back() {
    let renames = "rm 0/log; mv 0/docs 0/log";
    let writes = "write 0/log new";
    for (a, b, policy) in [
        (renames, writes, Policy::Last),
        (writes, renames, Policy::First),
        (writes, renames, Policy::Ignore),
        ("exchange 0/log 0/docs", writes, Policy::Last),
        (writes, "exchange 0/log 0/docs", Policy::First),
        (
            "mv 0/docs 0/src/docs",
            "rm -r 0/src; write 0/src new",
            Policy::Last,
        ),
        (
            "rm -r 0/src; write 0/src new",
            "mv 0/docs 0/src/docs",
            Policy::First,
        ),
        (
            "mv 0/docs/a 0/a; rm -r 0/docs",
            "mkdir 0/a; write 0/a/x new",
            Policy::Last,
        ),
    ] {
        let rig = Rig::new();
        rig.begin("a");
        rig.begin("b");
        rig.run("a", a);
        rig.run("b", b);
        let report = rig.stage.merge(&names(&["a", "b"]), Some(policy)).unwrap();
        let told = format!("{a} | {b}: {:?}", report.conflicts);
        let tree = rig.tree();
        assert_eq!(tree.text("0/docs/a/deep"), "deep\n", "{told}");
        assert_eq!(tree.text("0/docs/b"), "b\n", "{told}");
        let found = |path: &&str| tree.has(path) && !tree.0[*path].starts_with("Dir");
        let kept: Vec<&str> = ["0/log", "0/src", "0/a/x"]
            .into_iter()
            .filter(found)
            .collect();
        assert!(kept.iter().any(|path| tree.text(path) == "new"), "{told}");
        if policy != Policy::Ignore {
            let docs = rig.dir.join("ws/docs");
            assert!(report.conflicts[0].related.contains(&docs), "{told}");
        }
    }
}
