//! What layers tell of the past: log, show, files as they were, blame, diffs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use harness_fs::merge::Policy;
use harness_fs::stage::{Change, Did, Failure, LayerKind, LogLine, StepEnd};

use crate::rig::{Hand, Rig, names};

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

/// A file of the workspace as of a layer.
fn file(rig: &Rig, layer: &str, path: &str) -> Result<String, Failure> {
    let mut file = rig
        .stage
        .file_as_of(layer, &rig.dir.join("ws").join(path))?;
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn a_file_is_as_it_was_with_the_layer_on_top() {
    let rig = eventful();
    let log = rig.stage.log().unwrap();
    let is = |layer: &str, path: &str, text: &str| {
        assert_eq!(file(&rig, layer, path).unwrap(), text, "{layer}:{path}");
    };
    is("a", "log", "one\na\n");
    is("b", "log", "one\nb\n");
    is("late", "log", "late\n");
    is(&log[1].id, "log", "one\na\nb\n");
    is("base", "log", "one\n");
    // What a layer does not have shows from below, of what lies above nothing.
    is("b", "new", "a");
    is("late", "outside", "1");
    is("a", "docs/b", "b\n");
    is("base", "README2", "read me\n");
    let jar = rig.stage.file_as_of("late", &rig.dir.join("m2/repo/jar"));
    assert_eq!(jar.unwrap().metadata().unwrap().len(), 4);

    rig.step("move", |hand| {
        hand.rename_dir("0/docs/a", "0/moved")
            .chmod("0/src/util.c", 0o600);
    });
    is("move", "moved/deep", "deep\n");
    is("move", "src/util.c", "util\n");
}

#[test]
fn what_is_no_file_as_of_a_layer() {
    let rig = eventful();
    let not_found = |layer: &str, path: &str, part: &str| {
        let failure = file(&rig, layer, path).unwrap_err();
        assert!(matches!(failure, Failure::NotFound(_)), "{failure}");
        assert!(failure.to_string().contains(part), "{failure}");
    };
    not_found("b", "docs/b", "is deleted in layer '000003-b'");
    not_found("late", "new", "is not there in layer");
    not_found("base", "outside", "is not there in the base");
    not_found("base", "log/below", "is not there in the base");
    not_found("none", "log", "no layer");
    let usage = |path: &str, part: &str| {
        let failure = file(&rig, "a", path).unwrap_err();
        assert!(matches!(failure, Failure::Usage(_)), "{failure}");
        assert!(failure.to_string().contains(part), "{failure}");
    };
    usage("src", "is a directory");
    usage("", "is a directory");
    usage("/no/such/place", "in none of the mapped paths, which are /");
}

#[test]
fn a_file_that_is_open_outlives_its_layer_and_names_can_be_any_bytes() {
    let rig = Rig::new();
    rig.stage.snapshot_create("empty").unwrap();
    rig.head().write("0/x", "1");
    rig.stage.snapshot_create("full").unwrap();
    let id = rig.stage.log().unwrap()[0].id.clone();
    let mut open = rig.stage.file_as_of(&id, &rig.dir.join("ws/x")).unwrap();
    rig.stage.snapshot_restore("empty").unwrap();
    rig.stage.snapshot_rm("full").unwrap();
    let gone = rig.stage.file_as_of(&id, &rig.dir.join("ws/x"));
    assert!(matches!(gone, Err(Failure::NotFound(_))));
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1");

    let name = OsStr::from_bytes(b"a\xff");
    std::fs::write(rig.dir.join("ws").join(name), "odd").unwrap();
    let odd = rig.stage.file_as_of("base", &rig.dir.join("ws").join(name));
    assert_eq!(odd.unwrap().metadata().unwrap().len(), 3);
}

/// What was done to a path of the workspace: how, in whose layer, from which name.
fn blame(rig: &Rig, path: &str) -> Vec<(Did, String, Option<String>)> {
    let workspace = rig.dir.join("ws");
    let lines = rig.stage.blame(&workspace.join(path)).unwrap();
    let mut name = workspace.join(path);
    let lines = lines.into_iter().map(|line| {
        assert_eq!(
            line.path, name,
            "a line is about the name that the one before led to"
        );
        if let Some(from) = &line.from {
            name.clone_from(from);
        }
        let from = line.from.map(|from| {
            let from = from.strip_prefix(&workspace).unwrap();
            from.to_str().unwrap().to_owned()
        });
        let number = line.layer.split_once('-').map(|(number, _)| number);
        assert_eq!(line.sealed.is_some(), number.is_some());
        (line.did, line.step.unwrap_or(line.layer), from)
    });
    lines.collect()
}

#[track_caller]
fn blamed(rig: &Rig, path: &str, expected: &[(Did, &str, Option<&str>)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(did, who, from)| (*did, (*who).to_owned(), from.map(str::to_owned)))
        .collect();
    assert_eq!(blame(rig, path), expected, "{path}");
}

fn merged(rig: &Rig, step: &str, act: impl FnOnce(&Hand<'_>)) {
    rig.step(step, act);
    rig.stage.merge(&names(&[step]), None).unwrap();
}

#[test]
fn who_wrote_and_deleted_a_path_down_to_the_base() {
    let rig = Rig::new();
    merged(&rig, "edit", |hand| {
        hand.write("0/log", "2\n").write("0/docs/b", "2\n");
    });
    merged(&rig, "same", |hand| {
        hand.copy_up("0/log").remove("0/docs");
    });
    merged(&rig, "mode", |hand| {
        hand.chmod("0/log", 0o600).write("0/docs/b", "3\n");
    });
    rig.head().write("0/log", "3\n");
    let original = (Did::Original, "base", None);
    blamed(
        &rig,
        "log",
        &[
            (Did::Modified, "000004-head", None),
            (Did::Metadata, "mode", None),
            (Did::Modified, "edit", None),
            original,
        ],
    );
    blamed(
        &rig,
        "docs/b",
        &[
            (Did::Added, "mode", None),
            (Did::Deleted, "same", None),
            (Did::Modified, "edit", None),
            original,
        ],
    );
    blamed(
        &rig,
        "docs/a/deep",
        &[(Did::Deleted, "same", None), original],
    );
    blamed(&rig, "src", &[original]);
    blamed(&rig, "", &[original]);
    let failure = rig.stage.blame(&rig.dir.join("ws/never")).unwrap_err();
    assert!(matches!(failure, Failure::NotFound(_)), "{failure}");
    let failure = rig.stage.blame(&rig.dir.join("elsewhere")).unwrap_err();
    assert!(matches!(failure, Failure::Usage(_)), "{failure}");
}

#[test]
fn blame_follows_names() {
    let rig = Rig::new();
    merged(&rig, "edit", |hand| {
        hand.write("0/docs/a/deep", "2\n");
    });
    merged(&rig, "dir", |hand| {
        hand.rename_dir("0/docs", "0/manual");
    });
    merged(&rig, "again", |hand| {
        hand.rename_dir("0/manual/a", "0/a")
            .write("0/a/deep", "3\n");
    });
    merged(&rig, "file", |hand| {
        hand.rename_file("0/log", "0/journal");
        hand.rename_file("0/src/util.c", "0/src/main.c");
    });
    merged(&rig, "link", |hand| {
        hand.copy_up("0/a/deep").link("0/a/deep", "0/other");
    });
    let original = (Did::Original, "base", None);
    let deep = [
        (Did::Modified, "again", Some("manual/a/deep")),
        (Did::Renamed, "dir", Some("docs/a/deep")),
        (Did::Modified, "edit", None),
        original,
    ];
    blamed(&rig, "a/deep", &deep);
    blamed(
        &rig,
        "other",
        &[&[(Did::Linked, "link", Some("a/deep"))], &deep[..]].concat(),
    );
    blamed(
        &rig,
        "manual",
        &[(Did::Renamed, "dir", Some("docs")), original],
    );
    blamed(&rig, "docs/b", &[(Did::Deleted, "dir", None), original]);
    blamed(
        &rig,
        "manual/b",
        &[(Did::Renamed, "dir", Some("docs/b")), original],
    );
    blamed(
        &rig,
        "journal",
        &[(Did::Renamed, "file", Some("log")), original],
    );
    blamed(
        &rig,
        "src/main.c",
        &[(Did::Renamed, "file", Some("src/util.c")), original],
    );
    // Both names of one file.
    merged(&rig, "names", |hand| {
        hand.copy_up("0/README")
            .link("0/README", "0/README2")
            .write("0/README", "new\n");
    });
    for name in ["README", "README2"] {
        blamed(&rig, name, &[(Did::Modified, "names", None), original]);
    }
}

/// What a merge took from the stage is no change of the step that was merged.
#[test]
fn blame_after_conflicts() {
    let rig = eventful();
    let original = (Did::Original, "base", None);
    let both = [
        (Did::Modified, "b", None),
        (Did::Modified, "a", None),
        original,
    ];
    blamed(&rig, "log", &both);
    rig.stage
        .merge(&names(&["late"]), Some(Policy::First))
        .unwrap();
    blamed(&rig, "log", &both);

    rig.begin("mover");
    rig.begin("other");
    rig.in_view("mover")
        .rename_file("0/src/util.c", "0/src/tool.c");
    rig.in_view("other").write("0/src/util.c", "changed");
    rig.stage.merge(&names(&["other"]), None).unwrap();
    let first = Some(Policy::First);
    rig.stage.merge(&names(&["mover"]), first).unwrap();
    let other = (Did::Modified, "other", None);
    blamed(&rig, "src/util.c", &[other, original]);

    rig.begin("one");
    rig.begin("two");
    rig.in_view("one").write("0/src/main.c", "one");
    rig.in_view("two").write("0/src/main.c", "two");
    rig.stage.merge(&names(&["one"]), None).unwrap();
    let keep = Some(Policy::KeepBoth);
    rig.stage.merge(&names(&["two"]), keep).unwrap();
    blamed(
        &rig,
        "src/main.c",
        &[(Did::Modified, "one", None), original],
    );
    blamed(&rig, "src/main.c.two", &[(Did::Added, "two", None)]);
}

/// What differs, as `A log`, without the mapped path.
fn differs(rig: &Rig, range: &str) -> Vec<String> {
    let workspace = rig.dir.join("ws");
    let lines = rig.stage.diff(Some(range)).unwrap().into_iter();
    lines
        .map(|line| {
            let path = line.path.strip_prefix(&workspace).unwrap();
            format!("{:?} {}", line.change, path.display())
        })
        .collect()
}

#[test]
fn what_differs_between_two_moments() {
    let rig = eventful();
    let log = rig.stage.log().unwrap();
    rig.head().write("0/unsaved", "u");
    let ab = ["Deleted docs/b", "Modified log", "Added new"];
    assert_eq!(differs(&rig, "one..b"), ab);
    assert_eq!(differs(&rig, "a..b"), ["Deleted docs/b", "Modified log"]);
    assert_eq!(differs(&rig, "b..a"), ["Added docs/b", "Modified log"]);
    let as_of = |index: usize| log[index].id.clone();
    // A layer is that layer; a step is its merge.
    assert_eq!(differs(&rig, &format!("b..{}", as_of(1))), [""; 0]);
    let join = format!("{}..{}", as_of(2), as_of(1));
    assert_eq!(differs(&rig, &join), ["Modified log"]);
    assert_eq!(differs(&rig, "000003..000004"), ["Modified log"]);
    assert_eq!(differs(&rig, "one..step:late"), ["Modified log"]);
    assert_eq!(differs(&rig, "first..snapshot:one"), ["Added outside"]);
    assert_eq!(differs(&rig, "b.."), ["Added unsaved"]);
    assert_eq!(differs(&rig, "..b"), ["Deleted unsaved"]);
    assert_eq!(differs(&rig, ".."), [""; 0]);
    let all = [
        "Deleted docs/b",
        "Modified log",
        "Added new",
        "Added outside",
        "Added unsaved",
    ];
    assert_eq!(differs(&rig, "base.."), all);
    assert_eq!(differs(&rig, "first.."), all);
}

#[test]
fn names_with_dots_and_words_that_mean_no_moment() {
    let rig = eventful();
    merged(&rig, "v1..2", |hand| {
        hand.write("0/two", "2");
    });
    rig.stage.snapshot_create("a...").unwrap();
    rig.head().write("0/last", "1");
    assert_eq!(differs(&rig, "v1..2"), ["Added two"]);
    assert_eq!(differs(&rig, "b..v1..2"), ["Added two"]);
    assert_eq!(differs(&rig, "v1..2.."), ["Added last"]);
    assert_eq!(differs(&rig, "a..."), differs(&rig, "base..a..."));
    assert_eq!(differs(&rig, "a....."), ["Added last"]);

    rig.stage.snapshot_create("b").unwrap();
    let failure = |range: &str| rig.stage.diff(Some(range)).unwrap_err();
    for (range, part) in [
        ("one..b", "is the name of a snapshot, and of a step"),
        ("one..00000", "can be several layers"),
    ] {
        let failure = failure(range);
        assert!(matches!(failure, Failure::Usage(_)), "{failure}");
        assert!(failure.to_string().contains(part), "{failure}");
    }
    assert_eq!(differs(&rig, "one..snapshot:b").len(), 5);
    for (range, part) in [
        ("none..b", "there is no layer and no snapshot 'none'"),
        ("one..none", "there is no layer and no snapshot 'none'"),
        ("none", "there is no step and no snapshot 'none'"),
    ] {
        let failure = failure(range);
        assert!(matches!(failure, Failure::NotFound(_)), "{failure}");
        assert!(failure.to_string().contains(part), "{failure}");
    }
}

/// Layers come and go while they are looked at.
#[test]
fn the_past_is_read_while_others_merge_and_restore() {
    let rig = Rig::new();
    rig.stage.snapshot_create("start").unwrap();
    let path = rig.dir.join("ws/log");
    let check = |failure: Failure| {
        assert!(matches!(failure, Failure::NotFound(_)), "{failure}");
    };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..12 {
                let text = format!("{round}\n");
                merged(&rig, &format!("s{round}"), |hand| {
                    hand.write("0/log", &text).write("0/other", &text);
                });
                if round % 3 == 2 {
                    rig.stage.snapshot_restore("start").unwrap();
                }
            }
        });
        while !writer.is_finished() {
            for line in rig.stage.log().unwrap() {
                if line.kind != LayerKind::Base {
                    let shown = rig.stage.show(&line.id);
                    shown.map(drop).unwrap_or_else(check);
                }
                let file = rig.stage.file_as_of(&line.id, &path);
                file.map(drop).unwrap_or_else(check);
                let range = format!("{}..", line.id);
                let diff = rig.stage.diff(Some(&range));
                diff.map(drop).unwrap_or_else(check);
            }
            let blamed = rig.stage.blame(&path).unwrap();
            assert_eq!(blamed.last().unwrap().did, Did::Original);
        }
        writer.join().unwrap();
    });
}

/// Blame names the layers that a diff of all layers, one by one, names.
pub fn assert_blamed(rig: &Rig, also: &[&str]) {
    let mapped = rig.stage.options().mapped;
    let log = rig.stage.log().unwrap();
    let mut tops: Vec<&LogLine> = Vec::new();
    for line in log.iter().rev().filter(|line| line.in_stack) {
        match tops.last_mut() {
            Some(last) if line.kind == LayerKind::Join && last.step == line.step => *last = line,
            _ => tops.push(line),
        }
    }
    // By path: which of them changed it last, counted from the base.
    let mut latest = BTreeMap::new();
    for (place, pair) in tops.windows(2).enumerate() {
        let range = format!("{}..{}", pair[0].id, pair[1].id);
        for line in rig.stage.diff(Some(&range)).unwrap() {
            latest.insert(line.path, place + 1);
        }
    }
    let tree = rig.tree();
    let known = tree.0.keys().map(String::as_str);
    for inside in known.chain(also.iter().copied()) {
        let (index, rest) = inside.split_once('/').unwrap_or((inside, ""));
        let path = mapped[index.parse::<usize>().unwrap()].join(rest);
        let lines = match rig.stage.blame(&path) {
            Ok(lines) => lines,
            Err(failure) => {
                assert!(matches!(failure, Failure::NotFound(_)), "{failure}");
                assert!(!tree.has(inside) && !latest.contains_key(&path), "{inside}");
                continue;
            }
        };
        let first = &lines[0];
        assert_eq!(first.did != Did::Deleted, tree.has(inside), "{lines:?}");
        let of_layer = |top: &&LogLine| match first.step.as_deref() {
            Some(step) => top.step.as_deref() == Some(step),
            None => top.id == first.layer,
        };
        let place = tops.iter().position(of_layer).unwrap();
        let by_diff = latest.get(&path).copied().unwrap_or(0);
        // A file that took the name of its equal is no difference.
        let moved = first.from.is_some() && place > by_diff;
        assert!(moved || place == by_diff, "{inside}: {lines:?}, {tops:?}");
    }
}
