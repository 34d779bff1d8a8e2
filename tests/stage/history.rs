//! What layers tell of the past: log, show, files as they were, diffs.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use harness_fs::merge::Policy;
use harness_fs::stage::{Change, Did, Failure, LayerKind, LogLine, StepEnd};

use crate::rig::{Hand, Rig, names};

/// A stage with a layer of each kind: written outside of steps, by steps that
/// were merged, by a merge, and by a step that is kept.
pub fn eventful() -> Rig {
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

pub fn merged(rig: &Rig, step: &str, act: impl FnOnce(&Hand<'_>)) {
    rig.step(step, act);
    rig.stage.merge(&names(&[step]), None).unwrap();
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
