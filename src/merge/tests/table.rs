//! One scenario per row: its class, and its actions under each policy.

use super::*;

/// What is expected under each policy but `fail`: the actions, or `None` if the merge stops.
struct Expected<'a> {
    last: &'a [&'a str],
    first: &'a [&'a str],
    keep_both: &'a [&'a str],
    append: Option<&'a [&'a str]>,
}

fn check(case: Case, class: Class, path: &str, count: usize, expected: Expected<'_>) {
    let failed = case.merge(&mapped().override_with(Policy::Fail));
    assert_eq!(classes(&failed), [(class, path)]);
    assert_eq!(failed.conflicts[0].count, count);
    assert_eq!(failed.plan, None);
    assert!(failed.conflicts[0].hint.is_some());

    let rows = [
        (Policy::Last, Some(expected.last)),
        (Policy::First, Some(expected.first)),
        (Policy::KeepBoth, Some(expected.keep_both)),
        (Policy::Append, expected.append),
        (Policy::Ignore, Some(expected.first)),
    ];
    for (policy, expected) in rows {
        let actions = case.actions(policy);
        let actions = actions
            .as_ref()
            .map(|actions| actions.iter().map(String::as_str));
        assert_eq!(
            actions.map(Vec::from_iter),
            expected.map(<[&str]>::to_vec),
            "{policy}"
        );
        let outcome = case.merge(&mapped().override_with(policy));
        let reported = if policy == Policy::Ignore {
            vec![]
        } else {
            vec![(class, path)]
        };
        assert_eq!(classes(&outcome), reported, "{policy}");
    }

    let default = case.merge(&mapped());
    let policy = if class.is_metadata() {
        Policy::Last
    } else {
        Policy::Fail
    };
    assert_eq!(default.conflicts[0].policy, policy);
}

#[test]
fn write_write() {
    let case = Case::new().stage("0/f", changed()).step("0/f", changed());
    let expected = Expected {
        last: &[],
        first: &["take stage 0/f"],
        keep_both: &["take stage 0/f", "take step 0/f as 0/f.lint"],
        append: None,
    };
    check(case, Class::WriteWrite, "0/f", 1, expected);
}

#[test]
fn both_appended() {
    let case = Case::new()
        .stage("0/f", changed())
        .step("0/f", changed())
        .appended();
    let expected = Expected {
        last: &[],
        first: &["take stage 0/f"],
        keep_both: &["take stage 0/f", "take step 0/f as 0/f.lint"],
        append: Some(&["concatenate 0/f"]),
    };
    check(case, Class::WriteWrite, "0/f", 1, expected);
}

#[test]
fn add_add() {
    let case = Case::new().stage("0/f", added()).step("0/f", added());
    let expected = Expected {
        last: &[],
        first: &["take stage 0/f"],
        keep_both: &["take stage 0/f", "take step 0/f as 0/f.lint"],
        append: None,
    };
    check(case, Class::AddAdd, "0/f", 1, expected);
}

#[test]
fn stage_deletes_what_the_step_modifies() {
    let case = Case::new()
        .stage("0/f", deleted(Kind::File))
        .step("0/f", changed());
    let expected = Expected {
        last: &[],
        first: &["remove 0/f"],
        keep_both: &[],
        append: None,
    };
    check(case, Class::DeleteModify, "0/f", 1, expected);
}

#[test]
fn step_deletes_what_the_stage_modifies() {
    let case = Case::new()
        .stage("0/f", changed())
        .step("0/f", deleted(Kind::File));
    let expected = Expected {
        last: &[],
        first: &["take stage 0/f"],
        keep_both: &["take stage 0/f"],
        append: None,
    };
    check(case, Class::DeleteModify, "0/f", 1, expected);
}

#[test]
fn different_types() {
    let case = Case::new()
        .stage("0/f", Present::new(Kind::Symlink, None))
        .step("0/f", added());
    let expected = Expected {
        last: &[],
        first: &["take stage 0/f"],
        keep_both: &["take stage 0/f", "take step 0/f as 0/f.lint"],
        append: None,
    };
    check(case, Class::Type, "0/f", 1, expected);
}

#[test]
fn a_new_directory_meets_a_new_file() {
    let case = Case::new()
        .stage("0/f", added())
        .step("0/f", new_dir())
        .step("0/f/x", added())
        .step("0/f/y", added());
    let expected = Expected {
        last: &[],
        first: &["take stage 0/f"],
        keep_both: &["take stage 0/f", "take step 0/f as 0/f.lint"],
        append: None,
    };
    check(case, Class::Type, "0/f", 2, expected);
}

#[test]
fn step_removes_a_directory_in_use() {
    let case = Case::new()
        .stage("0/d", dir())
        .stage("0/d/x", changed())
        .stage("0/d/y", added())
        .effect(Side::Stage, "0/d", Effect::Nothing)
        .step("0/d", deleted(Kind::Dir));
    let expected = Expected {
        last: &[],
        first: &["take stage 0/d"],
        keep_both: &["take stage 0/d"],
        append: None,
    };
    check(case, Class::Tree, "0/d", 2, expected);
}

#[test]
fn stage_removes_a_directory_in_use() {
    let case = Case::new()
        .stage("0/d", deleted(Kind::Dir))
        .step("0/d/x", changed())
        .base("0/d");
    let expected = Expected {
        last: &["take step 0/d"],
        first: &["remove 0/d"],
        keep_both: &["take step 0/d"],
        append: None,
    };
    check(case, Class::Tree, "0/d", 1, expected);
}

#[test]
fn step_makes_a_directory_opaque() {
    let case = Case::new()
        .stage("0/d/x", added())
        .step("0/d", opaque())
        .base("0/d");
    let expected = Expected {
        last: &[],
        first: &["take stage 0/d"],
        keep_both: &["take stage 0/d", "take step 0/d as 0/d.lint"],
        append: None,
    };
    check(case, Class::Tree, "0/d", 1, expected);
}

#[test]
fn both_make_a_directory_opaque() {
    let case = Case::new()
        .stage("0/d", opaque())
        .stage("0/d/x", added())
        .step("0/d", opaque())
        .step("0/d/y", added());
    let expected = Expected {
        last: &[],
        first: &["take stage 0/d"],
        keep_both: &["take stage 0/d", "take step 0/d as 0/d.lint"],
        append: None,
    };
    check(case, Class::Tree, "0/d", 2, expected);
}

#[test]
fn step_renames_a_directory_in_use() {
    let case = Case::new()
        .stage("0/old/x", changed())
        .step("0/old", deleted(Kind::Dir))
        .step("0/new", renamed_from("0/old"))
        .base("0/old");
    let expected = Expected {
        last: &["take step 0/new"],
        first: &["remove 0/new", "take stage 0/old"],
        keep_both: &["take step 0/new", "take stage 0/old"],
        append: None,
    };
    check(case, Class::Tree, "0/new", 1, expected);
}

#[test]
fn stage_renames_a_directory_in_use() {
    let case = Case::new()
        .stage("0/old", deleted(Kind::Dir))
        .stage("0/new", renamed_from("0/old"))
        .step("0/old/x", changed())
        .base("0/old");
    let expected = Expected {
        last: &["remove 0/new", "take step 0/old"],
        first: &["remove 0/old"],
        keep_both: &["take step 0/old"],
        append: None,
    };
    check(case, Class::Tree, "0/old", 1, expected);
}

#[test]
fn both_rename_one_directory() {
    let case = Case::new()
        .stage("0/old", deleted(Kind::Dir))
        .stage("0/a", renamed_from("0/old"))
        .step("0/old", deleted(Kind::Dir))
        .step("0/b", renamed_from("0/old"));
    let expected = Expected {
        last: &["remove 0/a", "take step 0/b"],
        first: &["remove 0/b"],
        keep_both: &["take step 0/b"],
        append: None,
    };
    check(case, Class::Tree, "0/b", 2, expected);
}

#[test]
fn one_inode_through_two_names() {
    let case = Case::new()
        .stage("0/a", linked(7))
        .stage("0/b", deleted(Kind::File))
        .stage("0/c", new_link(7))
        .step("0/a", linked(7))
        .step("0/b", linked(7))
        .step("0/d", new_link(7))
        .base("0/a");
    let expected = Expected {
        last: &["unite step as 0/a 0/b 0/c 0/d"],
        first: &[
            "take stage 0/a",
            "remove 0/b",
            "unite stage as 0/a 0/b 0/c 0/d",
        ],
        keep_both: &["take stage 0/a", "take step 0/a as 0/a.lint"],
        append: None,
    };
    check(case, Class::Link, "0/b", 4, expected);
}

#[test]
fn further_names_are_no_conflict() {
    let case = |stage, step| {
        Case::new()
            .stage("0/a", linked(7))
            .stage("0/b", new_link(7))
            .step("0/a", linked(7))
            .step("0/c", new_link(7))
            .effect(Side::Stage, "0/a", stage)
            .effect(Side::Step, "0/a", step)
            .same("0/a", Sameness::Identical)
    };
    use Effect::{Content, Metadata, Nothing};
    for (stage, step, actions) in [
        (Nothing, Nothing, ["unite step as 0/a 0/b 0/c"].as_slice()),
        (Nothing, Metadata, &["unite step as 0/a 0/b 0/c"]),
        (Content, Content, &["unite step as 0/a 0/b 0/c"]),
        (
            Content,
            Nothing,
            &["take stage 0/a", "unite stage as 0/a 0/b 0/c"],
        ),
    ] {
        assert_eq!(
            case(stage, step).actions(Policy::Fail).as_deref(),
            Some(
                actions
                    .iter()
                    .map(|line| (*line).to_owned())
                    .collect::<Vec<_>>()
                    .as_slice()
            ),
            "{stage:?} {step:?}"
        );
    }
}

#[test]
fn a_renamed_file_is_a_name_removed_and_a_name_made() {
    let case = Case::new()
        .stage("0/a", deleted(Kind::File))
        .stage("0/b", new_link(7))
        .step("0/a", linked(7))
        .effect(Side::Stage, "0/b", Effect::Nothing);
    let expected = Expected {
        last: &["unite step as 0/a 0/b"],
        first: &["remove 0/a", "unite step as 0/a 0/b"],
        keep_both: &["unite step as 0/a 0/b"],
        append: None,
    };
    check(case, Class::DeleteModify, "0/a", 1, expected);
}

#[test]
fn busy() {
    let case = Case::new()
        .step("0/log", changed())
        .busy("0/log")
        .base("0/log");
    let expected = Expected {
        last: &[],
        first: &["take stage 0/log"],
        keep_both: &["take stage 0/log", "take step 0/log as 0/log.lint"],
        append: None,
    };
    check(case, Class::Busy, "0/log", 1, expected);
}

#[test]
fn busy_below_a_removed_directory() {
    let case = Case::new()
        .step("0/d", deleted(Kind::Dir))
        .busy("0/d/log")
        .base("0/d");
    let expected = Expected {
        last: &[],
        first: &["take stage 0/d"],
        keep_both: &["take stage 0/d"],
        append: None,
    };
    check(case, Class::Busy, "0/d", 1, expected);
}

#[test]
fn busy_below_a_renamed_directory() {
    let case = Case::new()
        .step("0/old", deleted(Kind::Dir))
        .step("0/new", renamed_from("0/old"))
        .busy("0/old/log")
        .base("0/old");
    let expected = Expected {
        last: &[],
        first: &["remove 0/new", "take stage 0/old"],
        keep_both: &["take stage 0/old"],
        append: None,
    };
    check(case, Class::Busy, "0/old", 1, expected);
}

#[test]
fn metadata() {
    let case = Case::new()
        .stage("0/f", changed())
        .step(
            "0/f",
            Present {
                content: Content::Below,
                ..changed()
            },
        )
        .same("0/f", Sameness::SameContent);
    let expected = Expected {
        last: &[],
        first: &["take stage 0/f"],
        keep_both: &[],
        append: Some(&[]),
    };
    check(case, Class::Metadata, "0/f", 1, expected);
}

#[test]
fn directory_metadata() {
    let case = Case::new()
        .stage("0/d", dir())
        .step("0/d", dir())
        .same("0/d", Sameness::SameContent);
    let expected = Expected {
        last: &[],
        first: &["metadata stage 0/d"],
        keep_both: &[],
        append: Some(&[]),
    };
    check(case, Class::DirectoryMetadata, "0/d", 1, expected);
}

#[test]
fn directory_metadata_of_a_directory_that_the_stage_replaced() {
    let case = Case::new()
        .stage("0/d", opaque())
        .step("0/d", dir())
        .same("0/d", Sameness::SameContent);
    let expected = Expected {
        last: &["take stage 0/d", "metadata step 0/d"],
        first: &["take stage 0/d"],
        keep_both: &["take stage 0/d", "metadata step 0/d"],
        append: Some(&["take stage 0/d", "metadata step 0/d"]),
    };
    check(case, Class::DirectoryMetadata, "0/d", 1, expected);
}

/// The step made anew what the stage removed; removing what the step removed too would be fine.
#[test]
fn a_removal_below_a_directory_made_anew() {
    let case = Case::new()
        .stage("0/d/x", deleted(Kind::File))
        .stage("0/d/y", deleted(Kind::File))
        .step("0/d", opaque())
        .step("0/d/x", added())
        .base("0/d");
    let expected = Expected {
        last: &[],
        first: &["take stage 0/d"],
        keep_both: &["take stage 0/d", "take step 0/d as 0/d.lint"],
        append: None,
    };
    check(case, Class::Tree, "0/d", 1, expected);
}

/// The stage's old directory would have to come back into one that the step removed.
#[test]
fn a_rename_out_of_a_removed_directory() {
    let case = Case::new()
        .stage("0/d/old/x", deleted(Kind::File))
        .step("0/d", deleted(Kind::Dir))
        .step("0/new", renamed_from("0/d/old"))
        .base("0/d")
        .base("0/d/old");
    let expected = Expected {
        last: &["take step 0/new"],
        first: &["take stage 0/d", "remove 0/new"],
        keep_both: &["take stage 0/d", "take step 0/new"],
        append: None,
    };
    check(case, Class::Tree, "0/d", 1, expected);
}
