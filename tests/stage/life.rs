//! Begin, seal, merge, discard, keep, end, resume.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness_fs::merge::Policy;
use harness_fs::stage::{Failure, Invalidation, Options, Phase, Stage};

use crate::rig::{BASE, Fakes, Rig, mapped, names};

#[test]
fn a_step_that_is_merged_shows_and_one_that_is_discarded_does_not() {
    let rig = Rig::new();
    let before = rig.tree();
    rig.begin("bad");
    rig.in_view("bad").write("0/new", "x").remove("0/src");
    rig.stage.discard("bad").unwrap();
    assert_eq!(rig.tree(), before);
    assert!(!rig.dir.join("state/views/bad").exists());
    let events = rig.fakes.events.lock().unwrap().clone();
    assert_eq!(events, ["abort bad", "unmount bad"]);

    rig.begin("bad");
    rig.in_view("bad").write("0/new", "x").remove("0/src");
    let report = rig.stage.merge(&names(&["bad"]), None).unwrap();
    assert_eq!(report.layers.len(), 1);
    let after = rig.tree();
    assert_eq!(after.text("0/new"), "x");
    assert!(!after.has("0/src") && !after.has("0/src/main.c"));
    // The base is as it was.
    for (path, content) in BASE {
        let found = fs::read_to_string(rig.dir.join("ws").join(path)).unwrap();
        assert_eq!(found, *content);
    }
    let again = rig.stage.merge(&names(&["bad"]), None).unwrap_err();
    assert!(
        matches!(&again, Failure::NotFound(text) if text.contains("merged")),
        "{again}"
    );
}

#[test]
fn what_the_head_has_is_below_a_step_and_later_writes_are_not() {
    let rig = Rig::new();
    rig.head().write("0/early", "1");
    rig.begin("s");
    rig.head().write("0/late", "2");
    let view = rig.fakes.views.lock().unwrap()["s"].clone();
    assert!(view.stack().find("0/early".as_ref()).unwrap().is_some());
    assert!(view.stack().find("0/late".as_ref()).unwrap().is_none());
    rig.in_view("s").write("0/mine", "3");
    rig.stage.merge(&names(&["s"]), None).unwrap();
    let tree = rig.tree();
    assert!(tree.has("0/early") && tree.has("0/late") && tree.has("0/mine"));
}

#[test]
fn a_clean_head_seals_to_nothing() {
    let rig = Rig::new();
    rig.begin("a");
    rig.begin("b");
    assert_eq!(rig.stage.status().layers.len(), 0);
    rig.stage.seal_step("a").unwrap();
    let report = rig.stage.merge(&names(&["a", "b"]), None).unwrap();
    assert!(report.layers.is_empty(), "{report:?}");
    assert_eq!(report.notes.len(), 2);
}

#[test]
fn bad_names_are_refused() {
    let rig = Rig::new();
    for bad in ["", ".", "..", "a/b", "a\nb", "stage"] {
        assert!(
            matches!(rig.stage.begin(bad), Err(Failure::Usage(_))),
            "{bad:?}"
        );
    }
    rig.begin("s");
    let twice = rig.stage.begin("s").unwrap_err();
    assert!(matches!(&twice, Failure::Usage(text) if text.contains("discard it first")));
    rig.stage.keep("s", "exit 1").unwrap();
    assert!(matches!(rig.stage.begin("s"), Err(Failure::Usage(_))));
    assert!(matches!(
        rig.stage.discard("none"),
        Err(Failure::NotFound(_))
    ));
    let twice = rig.stage.merge(&names(&["s", "s"]), None);
    assert!(matches!(twice, Err(Failure::Usage(_))));
    rig.stage.discard("s").unwrap();
    rig.begin("s");
}

#[test]
fn a_kept_step_can_be_merged_later() {
    let rig = Rig::new();
    rig.begin("s");
    rig.in_view("s").write("0/kept", "k");
    rig.stage.keep("s", "exit code 2").unwrap();
    let info = &rig.stage.steps()[0];
    assert_eq!(
        (info.state, info.reason.as_deref()),
        (Phase::Kept, Some("exit code 2"))
    );
    let rig = rig.die_and_resume();
    assert_eq!(rig.stage.steps()[0].state, Phase::Kept);
    rig.stage.merge(&names(&["s"]), None).unwrap();
    assert_eq!(rig.tree().text("0/kept"), "k");
}

#[test]
fn resuming_keeps_every_byte_and_every_interrupted_step() {
    let rig = Rig::new();
    rig.head().write("0/head1", "1");
    rig.begin("wrote");
    rig.begin("idle");
    rig.in_view("wrote").write("0/of-step", "s");
    rig.head().write("0/head2", "2").remove("0/docs");
    let rig = rig.die_and_resume();
    let tree = rig.tree();
    assert!(tree.has("0/head1") && tree.has("0/head2") && !tree.has("0/docs"));
    assert!(!tree.has("0/of-step"));
    let steps = rig.stage.steps();
    assert_eq!(steps.len(), 1);
    assert_eq!(
        (steps[0].name.as_str(), steps[0].state),
        ("wrote", Phase::Kept)
    );
    assert_eq!(rig.stage.notes().len(), 2, "{:?}", rig.stage.notes());
    rig.stage.merge(&names(&["wrote"]), None).unwrap();
    assert!(rig.tree().has("0/of-step"));
    let left: Vec<_> = fs::read_dir(rig.dir.join("state/views")).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn a_layer_that_cannot_be_swept_is_sealed_all_the_same() {
    let rig = Rig::new();
    rig.begin("s");
    for view in ["s", "stage"] {
        // It has two names, so it is in `index/` as well.
        rig.write_through(view, "0/README", view);
        // rename(2): ENOTEMPTY, so it is not to be moved out of the way.
        let way = rig.dir.join("state/views").join(view);
        fs::create_dir_all(way.join("open/index.gone/obstacle")).unwrap();
    }
    rig.stage.snapshot_create("head").unwrap();
    assert_eq!(rig.tree().text("0/README2"), "stageme\n");
    rig.stage.keep("s", "to be merged later").unwrap();
    rig.stage.merge(&names(&["s"]), Some(Policy::Last)).unwrap();
    assert_eq!(rig.tree().text("0/README2"), "sead me\n");
    // The next start gets what is left.
    let layers = rig.dir.join("state/layers");
    let in_layers = || -> Vec<_> {
        let layers = fs::read_dir(&layers).unwrap();
        let inside = layers.flat_map(|layer| fs::read_dir(layer.unwrap().path()).unwrap());
        inside.map(|entry| entry.unwrap().path()).collect()
    };
    let left: Vec<_> = in_layers()
        .into_iter()
        .filter(|path| path.ends_with("index.gone"))
        .collect();
    assert_eq!(left.len(), 2, "{:?}", in_layers());
    for path in left {
        fs::remove_dir_all(path).unwrap();
    }
    let rig = rig.die_and_resume();
    assert_eq!(rig.tree().text("0/README2"), "sead me\n");
    let kept = |path: &std::path::PathBuf| {
        let mut kept = ["tree", "layer.json", "reads"].iter();
        kept.any(|name| path.ends_with(name))
    };
    assert!(in_layers().iter().all(kept), "{:?}", in_layers());
}

#[test]
fn a_newer_format_or_a_lost_boot_is_one_clear_sentence() {
    let rig = Rig::new();
    rig.head().write("0/x", "1");
    let path = rig.dir.join("state/stage.json");
    let text = fs::read_to_string(&path).unwrap();
    let boot = harness_fs::stage::boot_id().unwrap();
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 9")).unwrap();
    let resume = || Stage::resume(&rig.dir.join("state"), Arc::new(Fakes::default()));
    let error = resume().err().unwrap().to_string();
    assert!(error.contains("format 9"), "{error}");
    fs::write(&path, text.replace(&boot, "another")).unwrap();
    let error = resume().err().unwrap().to_string();
    assert!(error.contains("restarted"), "{error}");
    let durable = text.replace(
        "\"durable\": false,\n  \"run\"",
        "\"durable\": true,\n  \"run\"",
    );
    assert_ne!(durable, text);
    fs::write(&path, durable.replace(&boot, "another")).unwrap();
    let stage = resume().unwrap();
    assert!(stage.notes()[0].contains("restarted"));
    let state = rig.dir.join("nothing");
    let none = Stage::resume(&state, Arc::new(Fakes::default()));
    assert!(matches!(none, Err(Failure::NotFound(_))));
}

#[test]
fn ending_keeps_or_removes_the_state() {
    let rig = Rig::new();
    rig.head().write("0/x", "1");
    rig.begin("s");
    rig.in_view("s").write("0/y", "2");
    let report = rig.stage.end(true).unwrap();
    assert_eq!(report.kept_steps, ["s"]);
    assert!(
        fs::read_to_string(rig.dir.join("state/stage.json"))
            .unwrap()
            .contains("\"durable\": true")
    );
    let rig = rig.die_and_resume();
    assert!(!rig.stage.options().durable, "only that commit was");
    assert!(rig.tree().has("0/x"));
    rig.stage.snapshot_create("snap").unwrap();
    let report = rig.stage.end(false).unwrap();
    assert_eq!(report.discarded_steps, ["s"]);
    assert_eq!(report.discarded_snapshots, ["snap"]);
    assert!(!rig.dir.join("state").exists());
    assert_eq!(fs::read_to_string(rig.dir.join("ws/log")).unwrap(), "one\n");
}

#[test]
fn a_stage_is_not_made_over_another() {
    let rig = Rig::new();
    let options = Options {
        mapped: mapped(&rig.dir),
        ..Options::default()
    };
    let fakes = Arc::new(Fakes::default());
    let again = Stage::create(&rig.dir.join("state"), options, Vec::new(), true, fakes);
    assert!(matches!(again, Err(Failure::Usage(_))));
}

#[test]
fn the_kernel_is_told_of_what_changed_and_of_nothing_else() {
    let rig = Rig::new();
    let (root, src) = (rig.ino("0"), rig.ino("0/src"));
    let (main, docs) = (rig.ino("0/src/main.c"), rig.ino("0/docs"));
    rig.look_at("0/src");
    rig.step("s", |hand| {
        hand.write("0/src/main.c", "changed")
            .write("0/src/new.c", "n");
        hand.remove("0/docs");
    });
    rig.stage.merge(&names(&["s"]), None).unwrap();
    let told = rig.fakes.told.lock().unwrap().clone();
    let entry = |parent, name: &str| Invalidation::Entry {
        parent,
        name: name.into(),
    };
    for expected in [
        Invalidation::Inode(root),
        Invalidation::Inode(src),
        Invalidation::Inode(main),
        Invalidation::Inode(docs),
        entry(src, "new.c"),
        entry(root, "docs"),
    ] {
        assert!(told.contains(&expected), "{expected:?} not in {told:?}");
    }
    assert_eq!(told.len(), 6, "{told:?}");
}

#[test]
fn what_the_kernel_is_not_told_of_is_done_all_the_same() {
    let rig = Rig::new();
    rig.stage.snapshot_create("snap").unwrap();
    rig.fakes
        .deaf
        .store(true, std::sync::atomic::Ordering::Relaxed);
    rig.step("s", |hand| {
        hand.write("0/log", "changed");
    });
    let merged = rig.stage.merge(&names(&["s"]), None).unwrap();
    assert!(merged.notes[0].contains("kernel"), "{merged:?}");
    assert_eq!(rig.tree().text("0/log"), "changed");
    assert!(rig.stage.steps().is_empty());
    let restored = rig.stage.snapshot_restore("snap").unwrap();
    assert!(restored.notes[0].contains("kernel"), "{restored:?}");
    assert_eq!(rig.tree().text("0/log"), "one\n");
    assert_eq!(restored.dropped.len(), 1);
    let layers = fs::read_dir(rig.dir.join("state/layers")).unwrap();
    assert_eq!(layers.count(), 0);
}

#[test]
fn status_and_diff_tell_what_there_is() {
    let rig = Rig::new();
    rig.head().write("0/added", "12345").chmod("0/log", 0o600);
    rig.head().copy_up("0/src/util.c").remove("0/docs/b");
    let lines = rig.stage.diff(None).unwrap();
    let shown: Vec<String> = lines
        .iter()
        .map(|line| {
            let path = line.path.strip_prefix(rig.dir.join("ws")).unwrap();
            format!("{:?} {} {}", line.change, path.display(), line.size)
        })
        .collect();
    assert_eq!(
        shown,
        ["Added added 5", "Deleted docs/b 2", "Metadata log 4"]
    );
    rig.begin("s");
    rig.in_view("s").write("0/log", "two");
    assert_eq!(rig.stage.diff(Some("s")).unwrap().len(), 1);
    rig.stage.seal_step("s").unwrap();
    assert_eq!(rig.stage.diff(Some("s")).unwrap().len(), 1);
    assert!(matches!(
        rig.stage.diff(Some("t")),
        Err(Failure::NotFound(_))
    ));
    let status = serde_json::to_value(rig.stage.status()).unwrap();
    // The stage view, and the step that has ended.
    assert_eq!(status["requests"]["LOOKUP"], 4);
    assert_eq!(status["steps"][0]["state"], "sealed");
    assert_eq!(status["layers"].as_array().unwrap().len(), 2);
}

#[test]
fn diff_shows_what_a_merge_changed() {
    let rig = Rig::new();
    for step in ["a", "b", "empty"] {
        rig.begin(step);
    }
    rig.in_view("a").write("0/log", "of a").write("0/a", "a");
    rig.in_view("b").write("0/log", "of b").write("0/b", "b");
    rig.stage.snapshot_create("before").unwrap();
    let all = names(&["a", "b", "empty"]);
    rig.stage.merge(&all, Some(Policy::KeepBoth)).unwrap();
    rig.head().write("0/a", "later");
    let shown = |step: &str| -> Vec<String> {
        let lines = rig.stage.diff(Some(step)).unwrap();
        let show = |line: &harness_fs::stage::DiffLine| {
            let path = line.path.strip_prefix(rig.dir.join("ws")).unwrap();
            format!("{:?} {}", line.change, path.display())
        };
        lines.iter().map(show).collect()
    };
    assert_eq!(shown("a"), ["Added a", "Modified log"]);
    assert_eq!(shown("b"), ["Added b", "Added log.b"]);
    assert!(shown("empty").is_empty());
    rig.stage.snapshot_restore("before").unwrap();
    assert!(shown("a").is_empty());
    rig.begin("c");
    rig.stage.discard("c").unwrap();
    assert!(matches!(
        rig.stage.diff(Some("c")),
        Err(Failure::NotFound(text)) if text.contains("discarded")
    ));
}

/// The open layer becomes a sealed one, or goes, before the state says so.
#[test]
fn diff_of_a_step_that_ends_meanwhile_finds_its_layer_or_says_what_became_of_it() {
    let rig = Rig::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                match rig.stage.diff(Some("s")) {
                    Ok(lines) => assert!(lines.len() <= 2, "{lines:?}"),
                    Err(Failure::NotFound(text)) => assert!(
                        text.starts_with("there is no step") || text.contains("was discarded;"),
                        "{text}"
                    ),
                    Err(failure) => panic!("{failure:?}"),
                }
            }
        });
        for round in 0..100 {
            rig.begin("s");
            rig.in_view("s").write("0/log", "two").write("0/new", "1");
            if round % 2 == 0 {
                rig.stage.keep("s", "to be looked at").unwrap();
            }
            rig.stage.discard("s").unwrap();
            if reader.is_finished() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}
