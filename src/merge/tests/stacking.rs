//! What the join layer holds and what it need not hold.

use super::*;

/// What is no conflict, and what it takes to show the right tree.
#[test]
fn no_conflict() {
    let nothing = |side, path: &str| Case::new().effect(side, path, Effect::Nothing);
    let rows: [(&str, Case, &[&str]); 14] = [
        (
            "alike",
            Case::new()
                .stage("0/f", changed())
                .step("0/f", changed())
                .same("0/f", Sameness::Identical),
            &[],
        ),
        (
            "both removed",
            Case::new()
                .stage("0/f", deleted(Kind::File))
                .step("0/f", deleted(Kind::File)),
            &[],
        ),
        (
            "the step's copy-up came to nothing",
            nothing(Side::Step, "0/f")
                .stage("0/f", changed())
                .step("0/f", changed()),
            &["take stage 0/f"],
        ),
        (
            "the stage's copy-up came to nothing",
            nothing(Side::Stage, "0/f")
                .stage("0/f", changed())
                .step("0/f", changed()),
            &[],
        ),
        (
            "a copy-up of what the stage removed",
            nothing(Side::Step, "0/f")
                .stage("0/f", deleted(Kind::File))
                .step("0/f", changed()),
            &["remove 0/f"],
        ),
        (
            "a removed copy-up",
            nothing(Side::Stage, "0/f")
                .stage("0/f", changed())
                .step("0/f", deleted(Kind::File)),
            &[],
        ),
        (
            "names unite",
            Case::new()
                .stage("0/d", new_dir())
                .stage("0/d/x", added())
                .step("0/d", new_dir())
                .step("0/d/y", added())
                .same("0/d", Sameness::Identical),
            &[],
        ),
        (
            "names unite below a needless opaque mark",
            Case::new()
                .stage("0/d", new_dir())
                .stage("0/d/x", added())
                .step(
                    "0/d",
                    Present {
                        opaque: true,
                        ..new_dir()
                    },
                )
                .step("0/d/y", added())
                .same("0/d", Sameness::Identical),
            &["take stage 0/d/x"],
        ),
        (
            "the stage's mode of a directory on the step's way",
            nothing(Side::Step, "0/d")
                .stage("0/d", dir())
                .step("0/d", dir())
                .step("0/d/x", added()),
            &["metadata stage 0/d"],
        ),
        (
            "removing in a removed directory",
            nothing(Side::Step, "0/d")
                .stage("0/d", deleted(Kind::Dir))
                .step("0/d", dir())
                .step("0/d/x", deleted(Kind::File)),
            &["remove 0/d"],
        ),
        (
            "a whiteout over nothing",
            Case::new()
                .stage("0/f", added())
                .step("0/f", Change::Deleted { was: None }),
            &["take stage 0/f"],
        ),
        (
            "both renamed alike",
            Case::new()
                .stage("0/old", deleted(Kind::Dir))
                .stage("0/new", renamed_from("0/old"))
                .step("0/old", deleted(Kind::Dir))
                .step("0/new", renamed_from("0/old"))
                .same("0/new", Sameness::Identical),
            &["take stage 0/new"],
        ),
        (
            "both installed the same",
            Case::new()
                .stage("0/d", opaque())
                .stage("0/d/x", added())
                .step("0/d", opaque())
                .step("0/d/x", added())
                .same("0/d", Sameness::Identical)
                .same("0/d/x", Sameness::Identical),
            &[],
        ),
        (
            "one inode, changed alike",
            Case::new()
                .stage("0/a", linked(7))
                .step("0/b", linked(7))
                .same("0/b", Sameness::Identical),
            &["unite step as 0/a 0/b"],
        ),
    ];
    for (name, case, expected) in rows {
        let outcome = case.merge(&mapped().override_with(Policy::Fail));
        assert_eq!(classes(&outcome), [], "{name}");
        assert_eq!(actions(&outcome).unwrap(), expected, "{name}");
    }
}

/// A step's file that needs the content below it cannot stay on top of other content.
#[test]
fn incomplete_files_are_taken_whole() {
    for content in [Content::Partial, Content::Below] {
        let file = Present {
            content,
            ..changed()
        };
        let case = Case::new()
            .stage("0/f", changed())
            .step("0/f", file.clone());
        assert_eq!(case.actions(Policy::Last).unwrap(), ["take step 0/f"]);
        let case = Case::new()
            .stage("0/f", deleted(Kind::File))
            .step("0/f", file.clone());
        assert_eq!(case.actions(Policy::Last).unwrap(), ["take step 0/f"]);
        assert_eq!(case.actions(Policy::KeepBoth).unwrap(), ["take step 0/f"]);
        // Alone it is right where it is.
        assert!(
            Case::new()
                .stage("0/g", changed())
                .step("0/f", file)
                .actions(Policy::Fail)
                .unwrap()
                .is_empty()
        );
    }
}

#[test]
fn a_tree_conflict_is_reported_once_and_decides_all_below() {
    let case = Case::new()
        .stage("0/d", dir())
        .stage("0/d/e", dir())
        .stage("0/d/e/x", changed())
        .stage("0/d/f", changed())
        .step("0/d", deleted(Kind::Dir))
        // From below the removed directory: decided with it.
        .step("0/moved", renamed_from("0/d/e"))
        .base("0/d");
    let outcome = case.merge(&mapped().override_with(Policy::First));
    assert_eq!(classes(&outcome), [(Class::Tree, "0/d")]);
    assert_eq!(
        outcome.conflicts[0].related,
        [PathBuf::from("/harness/moved")]
    );
    assert_eq!(
        actions(&outcome).unwrap(),
        ["take stage 0/d", "remove 0/moved"]
    );
}

#[test]
fn what_only_one_side_touches_is_not_asked_about() {
    let mut case = Case::new().stage("0/src", dir()).step("0/docs", dir());
    for n in 0..100 {
        case = case.stage(&format!("0/src/{n}"), changed());
        case = case.step(&format!("0/docs/{n}"), changed());
    }
    let (outcome, asked) = case.merge_asking(&mapped());
    assert!(outcome.plan.unwrap().is_empty());
    assert_eq!(asked, 0);
}

/// An idle copy-up must not replace a file in use; without a change it is no conflict either.
#[test]
fn an_idle_copy_up_leaves_a_busy_file_alone() {
    let case = Case::new()
        .step("0/log", changed())
        .effect(Side::Step, "0/log", Effect::Nothing)
        .busy("0/log")
        .base("0/log");
    assert_eq!(case.actions(Policy::Fail).unwrap(), ["take stage 0/log"]);
}

#[test]
fn a_busy_file_elsewhere_is_no_matter() {
    let case = Case::new()
        .step("0/d", dir())
        .step("0/d/x", changed())
        .busy("0/d/log");
    assert!(case.actions(Policy::Fail).unwrap().is_empty());
}
