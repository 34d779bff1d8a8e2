//! Composition of layers, row by row. The random trees are in `tests/model/merge`.

use super::*;

fn delta(entries: &[(&str, Change)]) -> Delta {
    let mut delta = Delta::new();
    for (path, change) in entries {
        delta.insert(*path, change.clone(), &Arc::from("one"));
    }
    delta
}

fn check(first: &[(&str, Change)], second: &[(&str, Change)], composed: &[(&str, Change)]) {
    let mut both = delta(first);
    both.then(delta(second));
    assert_eq!(both, delta(composed));
}

#[test]
fn what_was_made_and_removed_again_leaves_nothing() {
    let gone = deleted(Kind::Dir);
    check(
        &[("0/d", new_dir().into()), ("0/d/x", added().into())],
        &[("0/d", gone)],
        &[],
    );
}

#[test]
fn a_removal_erases_what_is_below() {
    let gone = deleted(Kind::Dir);
    check(
        &[("0/d/x", changed().into())],
        &[("0/d", gone.clone())],
        &[("0/d", gone)],
    );
}

#[test]
fn a_directory_made_again_is_opaque() {
    let gone = ("0/d", deleted(Kind::Dir));
    check(
        &[gone],
        &[("0/d", new_dir().into())],
        &[("0/d", opaque().into())],
    );
    check(
        &[("0/d", Present::new(Kind::File, Some(Kind::Dir)).into())],
        &[("0/d", Present::new(Kind::Dir, Some(Kind::File)).into())],
        &[("0/d", opaque().into())],
    );
}

#[test]
fn renamed_twice_is_renamed_once() {
    let gone = deleted(Kind::Dir);
    check(
        &[
            ("0/a", gone.clone()),
            ("0/b", renamed_from("0/a").into()),
            ("0/b/x", added().into()),
        ],
        &[("0/b", gone.clone()), ("0/c", renamed_from("0/b").into())],
        &[
            ("0/a", gone),
            ("0/c", renamed_from("0/a").into()),
            ("0/c/x", added().into()),
        ],
    );
}

#[test]
fn renamed_back_is_not_renamed() {
    let gone = deleted(Kind::Dir);
    check(
        &[
            ("0/a", gone.clone()),
            ("0/b", renamed_from("0/a").into()),
            ("0/b/x", added().into()),
        ],
        &[("0/b", gone), ("0/a", renamed_from("0/b").into())],
        &[("0/a", dir().into()), ("0/a/x", added().into())],
    );
}

#[test]
fn directories_change_places() {
    let over = |from: &str| {
        Change::from(Present {
            was: Some(Kind::Dir),
            ..renamed_from(from)
        })
    };
    check(
        &[("0/a/x", changed().into()), ("0/b/y", changed().into())],
        &[("0/a", over("0/b")), ("0/b", over("0/a"))],
        &[
            ("0/a", over("0/b")),
            ("0/a/y", changed().into()),
            ("0/b", over("0/a")),
            ("0/b/x", changed().into()),
        ],
    );
}

#[test]
fn a_new_directory_renamed_is_a_new_directory() {
    let second = [
        ("0/a", deleted(Kind::Dir)),
        ("0/b", renamed_from("0/a").into()),
    ];
    let composed = Present {
        opaque: true,
        ..new_dir()
    };
    check(
        &[("0/a", new_dir().into()), ("0/a/x", added().into())],
        &second,
        &[("0/b", composed.into()), ("0/b/x", added().into())],
    );
}

#[test]
fn a_chmod_of_a_written_file_keeps_its_content() {
    let chmod = Present {
        content: Content::Below,
        ..changed()
    };
    check(
        &[("0/f", changed().into())],
        &[("0/f", chmod.into())],
        &[("0/f", changed().into())],
    );
}

#[test]
fn the_later_writer_is_named() {
    let mut both = delta(&[("0/f", changed().into()), ("0/g", changed().into())]);
    let mut later = Delta::new();
    later.insert("0/f", changed(), &Arc::from("two"));
    both.then(later);
    let writer = |path| both.get(Path::new(path)).unwrap().writer.to_string();
    assert_eq!(
        (writer("0/f").as_str(), writer("0/g").as_str()),
        ("two", "one")
    );
}
