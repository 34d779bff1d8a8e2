//! Hard links through merges: who is one file with whom, and how many names
//! each says that it has. `log` has one name in the base; `README` and
//! `README2` are one file.

use harness_fs::merge::{Class, Policy};

use crate::rig::{Rig, names};

/// Merges two steps that began on the same state. What conflicts there were is
/// handed to `check`, with the names of `of` that are one file.
struct Merged {
    rig: Rig,
    classes: Vec<Class>,
}

fn merge(a: &str, b: &str, policy: Option<Policy>) -> Merged {
    let rig = Rig::new();
    rig.begin("a");
    rig.begin("b");
    rig.run("a", a);
    rig.run("b", b);
    let report = rig.stage.merge(&names(&["a", "b"]), policy);
    let report = report.unwrap_or_else(|failure| panic!("{a} | {b}: {failure}"));
    let classes = report.conflicts.iter().map(|conflict| conflict.class);
    Merged {
        classes: classes.collect(),
        rig,
    }
}

impl Merged {
    /// These names, and no others, are one file with this content.
    fn one_file(&self, text: &str, paths: &[&str]) -> &Merged {
        // Reading the tree checks the number of names of every file in it.
        let tree = self.rig.tree();
        let ino = self.rig.ino(paths[0]);
        let same: Vec<&str> = tree
            .0
            .keys()
            .map(String::as_str)
            .filter(|path| self.rig.ino(path) == ino)
            .collect();
        assert_eq!(same, paths);
        assert_eq!(tree.text(paths[0]), text);
        self
    }

    fn gone(&self, path: &str) -> &Merged {
        assert!(!self.rig.tree().has(path), "{path}");
        self
    }

    fn clean(&self) -> &Merged {
        assert_eq!(self.classes, []);
        self
    }
}

#[test]
fn a_further_name_and_a_change_are_no_conflict() {
    for (link, change, text) in [
        ("ln 0/log 0/log-1.0", "chmod 755 0/log", "one\n"),
        ("ln 0/log 0/log-1.0", "write 0/log B", "B"),
    ] {
        for (a, b) in [(link, change), (change, link)] {
            let merged = merge(a, b, None);
            merged.clean().one_file(text, &["0/log", "0/log-1.0"]);
            if change.starts_with("chmod") {
                let tree = merged.rig.tree();
                assert!(tree.0["0/log-1.0"].starts_with("File 755"), "{a} | {b}");
            }
        }
    }
    merge("ln 0/log 0/x; ln 0/log 0/y", "chmod 600 0/log", None)
        .clean()
        .one_file("one\n", &["0/log", "0/x", "0/y"]);
    merge("ln 0/log 0/x", "touch 0/log", None)
        .clean()
        .one_file("one\n", &["0/log", "0/x"]);
}

#[test]
fn a_further_name_outlives_the_old_one() {
    for b in ["rm 0/log", "replace 0/log new", "rm 0/log; write 0/log new"] {
        let merged = merge("ln 0/log 0/x", b, None);
        merged.clean().one_file("one\n", &["0/x"]);
        let merged = merge(b, "ln 0/log 0/x", None);
        merged.clean().one_file("one\n", &["0/x"]);
    }
    for (a, b) in [
        ("ln 0/README 0/x", "rm 0/README"),
        ("rm 0/README", "ln 0/README 0/x"),
    ] {
        merge(a, b, None)
            .clean()
            .one_file("read me\n", &["0/README2", "0/x"]);
    }
}

#[test]
fn two_further_names_of_one_file() {
    merge("ln 0/log 0/x", "ln 0/log 0/y", None)
        .clean()
        .one_file("one\n", &["0/log", "0/x", "0/y"]);
    merge("ln 0/log 0/x", "ln 0/log 0/x; write 0/x B", None)
        .clean()
        .one_file("B", &["0/log", "0/x"]);
    merge("ln 0/README 0/x", "ln 0/README2 0/y", None)
        .clean()
        .one_file("read me\n", &["0/README", "0/README2", "0/x", "0/y"]);
    merge(
        "mkdir 0/new; ln 0/log 0/new/x",
        "mkdir 0/new; ln 0/log 0/new/y",
        None,
    )
    .clean()
    .one_file("one\n", &["0/log", "0/new/x", "0/new/y"]);
}

#[test]
fn one_file_changed_through_different_names() {
    let (a, b) = (
        "write 0/README A; ln 0/README 0/x",
        "write 0/README2 BB; rm 0/README",
    );
    merge(a, b, Some(Policy::First)).one_file("A", &["0/README", "0/README2", "0/x"]);
    let last = merge(a, b, Some(Policy::Last));
    assert_eq!(last.classes, [Class::Link]);
    last.one_file("BB", &["0/README2", "0/x"]).gone("0/README");
    merge(a, b, Some(Policy::KeepBoth)).one_file("A", &["0/README", "0/README2", "0/x"]);

    let (a, b) = ("write 0/log A; ln 0/log 0/x", "write 0/log B; ln 0/log 0/y");
    for (policy, text) in [(Policy::First, "A"), (Policy::Last, "B")] {
        merge(a, b, Some(policy)).one_file(text, &["0/log", "0/x", "0/y"]);
    }
    merge(a, b, Some(Policy::KeepBoth))
        .one_file("A", &["0/log", "0/x"])
        .one_file("B", &["0/log.b"])
        .one_file("B", &["0/y"]);

    // Equal content: the later one's metadata, and every name.
    let merged = merge(
        "chmod 600 0/log; ln 0/log 0/x",
        "chmod 640 0/log; ln 0/log 0/y",
        None,
    );
    assert_eq!(merged.classes, [Class::Metadata]);
    merged.one_file("one\n", &["0/log", "0/x", "0/y"]);
    assert!(merged.rig.tree().0["0/x"].starts_with("File 640"));
}

#[test]
fn a_name_that_both_removed_is_counted_once() {
    let both = "rm 0/README";
    merge(both, both, None)
        .clean()
        .one_file("read me\n", &["0/README2"]);
    merge("write 0/README2 A; rm 0/README", both, None).one_file("A", &["0/README2"]);
    merge(both, "write 0/README2 A; rm 0/README", None).one_file("A", &["0/README2"]);
    let rig = Rig::new();
    rig.step("first", |_| {
        rig.run("first", "ln 0/docs/a/deep 0/deep; ln 0/docs/b 0/docs/a/b")
    });
    rig.stage.merge(&names(&["first"]), None).unwrap();
    for step in ["a", "b", "c"] {
        rig.begin(step);
    }
    rig.run("a", "rm -r 0/docs");
    rig.run("b", "rm 0/docs/a/deep; rm 0/docs/a/b");
    rig.run("c", "rm -r 0/docs/a");
    rig.stage.merge(&names(&["a", "b", "c"]), None).unwrap();
    assert_eq!(rig.tree().text("0/deep"), "deep\n");
}

#[test]
fn names_below_renamed_directories_stay_one_file() {
    for (a, b) in [
        ("ln 0/docs/b 0/x", "mv 0/docs 0/manual"),
        ("mv 0/docs 0/manual", "ln 0/docs/b 0/x"),
    ] {
        merge(a, b, None)
            .clean()
            .one_file("b\n", &["0/manual/b", "0/x"]);
    }
    // The stage has no other name of the file; the step removed the one that moved.
    let removes = "ln 0/docs/b 0/x; rm -r 0/docs";
    merge("mv 0/docs 0/manual", removes, Some(Policy::First))
        .one_file("b\n", &["0/manual/b", "0/x"]);
    let (a, b) = ("mv 0/docs 0/manual", "ln 0/docs/b 0/x; write 0/docs/b B");
    merge(a, b, Some(Policy::First))
        .one_file("b\n", &["0/manual/b"])
        .one_file("B", &["0/x"]);
    merge(a, b, Some(Policy::Last)).one_file("B", &["0/docs/b", "0/x"]);
}

#[test]
fn what_a_conflict_restores_takes_no_other_content_along() {
    // The directory comes back whole; the file changed outside of it does not.
    let rig = Rig::new();
    rig.step("first", |_| rig.run("first", "ln 0/docs/b 0/x"));
    rig.stage.merge(&names(&["first"]), None).unwrap();
    rig.begin("a");
    rig.begin("b");
    rig.run("a", "rm -r 0/docs; write 0/x A");
    rig.run("b", "write 0/docs/a/new B");
    let steps = names(&["a", "b"]);
    rig.stage.merge(&steps, Some(Policy::Last)).unwrap();
    assert_eq!(rig.tree().text("0/x"), "A");
    assert_eq!(rig.tree().text("0/docs/b"), "b\n");
}

#[test]
fn many_files_with_further_names() {
    let rig = Rig::new();
    let files: Vec<String> = (0..100).map(|n| format!("0/src/f{n}")).collect();
    rig.step("first", |_| {
        for file in &files {
            rig.run("first", &format!("write {file} x"));
        }
    });
    rig.stage.merge(&names(&["first"]), None).unwrap();
    for step in ["a", "b"] {
        rig.begin(step);
        rig.run(step, &format!("mkdir 0/{step}"));
        for (n, file) in files.iter().enumerate() {
            rig.run(step, &format!("ln {file} 0/{step}/f{n}"));
        }
    }
    let report = rig.stage.merge(&names(&["a", "b"]), None).unwrap();
    assert!(report.conflicts.is_empty());
    let tree = rig.tree();
    assert!(
        tree.0["0/a/f99"].contains("nlink 3"),
        "{}",
        tree.0["0/a/f99"]
    );
    assert_eq!(rig.ino("0/a/f99"), rig.ino("0/b/f99"));
    assert_eq!(rig.ino("0/a/f99"), rig.ino("0/src/f99"));
}

/// A renamed file is a copy of its metadata alone; the content stays below.
#[test]
fn a_renamed_file_keeps_its_content_whatever_became_of_the_old_name() {
    for a in ["rm 0/docs/b", "rm -r 0/docs", "replace 0/docs/b new"] {
        let policy = Some(Policy::Last);
        merge(a, "mv 0/docs/b 0/x", policy).one_file("b\n", &["0/x"]);
    }
}

/// What a step has below its directory is nowhere once the stage's file stands there.
#[test]
fn a_file_that_stays_hides_the_names_below_the_directory_in_its_place() {
    let dir = "rm 0/log; mkdir 0/log; ln 0/src/util.c 0/log/c; ln 0/src/util.c 0/x";
    for policy in [Policy::First, Policy::Ignore, Policy::KeepBoth] {
        let merged = merge("write 0/log A", dir, Some(policy));
        merged.one_file("A", &["0/log"]);
        match policy {
            Policy::KeepBoth => merged
                .one_file("util\n", &["0/src/util.c", "0/x"])
                .one_file("util\n", &["0/log.b/c"]),
            _ => merged.one_file("util\n", &["0/src/util.c", "0/x"]),
        };
    }
    merge("write 0/log A", dir, Some(Policy::Last))
        .one_file("util\n", &["0/log/c", "0/src/util.c", "0/x"]);
    merge(dir, "write 0/log A", Some(Policy::Last))
        .one_file("A", &["0/log"])
        .one_file("util\n", &["0/src/util.c", "0/x"]);
}

#[test]
fn a_file_and_a_directory_that_change_places_can_be_merged() {
    let every = [
        Policy::First,
        Policy::Ignore,
        Policy::KeepBoth,
        Policy::Last,
    ];
    for (before, a, b) in [
        // One file with a name in the directory that it changes places with.
        (
            "ln 0/docs/b 0/c",
            "write 0/docs/a/new A",
            "exchange 0/c 0/docs",
        ),
        // A directory goes below the other, and then changes places with a file in it.
        (
            "mkdir 0/docs/e",
            "ln 0/docs/a/deep 0/docs/e/h",
            "mv 0/docs/e 0/docs/a/h; exchange 0/docs/a/deep 0/docs/a/h",
        ),
    ] {
        for policy in every {
            for (a, b) in [(a, b), (b, a)] {
                let rig = Rig::new();
                rig.step("first", |_| rig.run("first", before));
                rig.stage.merge(&names(&["first"]), None).unwrap();
                rig.begin("a");
                rig.begin("b");
                rig.run("a", a);
                rig.run("b", b);
                let merged = rig.stage.merge(&names(&["a", "b"]), Some(policy));
                merged.unwrap_or_else(|failure| panic!("{a} | {b}, {policy:?}: {failure}"));
                rig.tree();
            }
        }
    }
}

/// What was made in the stage since the step began, and moved by a later layer.
#[test]
fn a_further_name_below_a_directory_that_was_made_and_renamed_is_counted() {
    for moved in ["0/moved", "0/src/moved"] {
        let rig = Rig::new();
        rig.begin("a");
        let head = rig.head();
        head.mkdir("0/new").write("0/new/f", "text");
        head.link("0/new/f", "0/second");
        rig.stage.snapshot_create("one").unwrap();
        rig.head().rename_dir("0/new", moved);
        rig.stage.snapshot_create("two").unwrap();
        rig.head().rename_dir("0/docs", "0/papers");
        rig.in_view("a").write("0/a", "a");
        let before = rig.ino("0/second");
        rig.stage.merge(&names(&["a"]), None).unwrap();
        // Reading the tree checks the number of names of every file in it.
        assert_eq!(rig.tree().text(&format!("{moved}/f")), "text");
        assert_eq!(rig.ino(&format!("{moved}/f")), before);
        assert_eq!(rig.ino("0/second"), before);
    }
}
