//! Who wrote a path, and who before.

use std::collections::BTreeMap;

use harness_fs::merge::Policy;
use harness_fs::stage::{Did, Failure, LayerKind, LogLine};

use crate::history::{eventful, merged};
use crate::rig::{Rig, names};

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
