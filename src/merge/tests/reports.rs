//! What users and programs read.

use super::*;

fn conflicting() -> Case {
    Case::new()
        .stage("0/reports/junit.xml", added())
        .step("0/reports/junit.xml", added())
        .stage("0/src/x.c", deleted(Kind::File))
        .step("0/src/x.c", changed())
}

#[test]
fn text() {
    let expected = "\
delete/modify  /harness/src/x.c
    unit removed it; lint changed it (7 bytes, sha256:00)
    policy: fail
add/add  /harness/reports/junit.xml
    unit added it (7 bytes); lint added it (7 bytes, sha256:00)
    policy: fail
2 conflicts undecided, nothing was merged. To decide:
  --on-conflict keep-both
or, for every merge, as an option of `harness-fs mount`:
  --policy 'reports/**=keep-both'
  --policy 'src/**=keep-both'
";
    assert_eq!(conflicting().merge(&mapped()).text(), expected);
}

#[test]
fn json_lines() {
    let lines = conflicting().merge(&mapped()).json_lines().unwrap();
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = serde_json::json!({
        "path": "/harness/src/x.c",
        "class": "delete/modify",
        "stage": {"writer": "unit", "did": "removed"},
        "step": {"writer": "lint", "did": "changed", "kind": lines[0]["step"]["kind"],
            "size": 7, "digest": "sha256:00"},
        "count": 1,
        "policy": "fail",
        "resolved": false,
        "hint": {
            "option": "--on-conflict keep-both",
            "line": "--policy 'src/**=keep-both'",
        },
    });
    assert_eq!(lines[0], expected);
    assert_eq!(lines[1]["path"], "/harness/reports/junit.xml");
    assert_eq!(lines.len(), 2);
}

#[test]
fn decided_conflicts_are_reported_without_a_hint() {
    let outcome = conflicting().merge(&mapped().override_with(Policy::KeepBoth));
    assert_eq!(outcome.unresolved().count(), 0);
    assert!(
        outcome
            .text()
            .contains("keep-both: the later one is /harness/reports/junit.xml.lint")
    );
    assert!(!outcome.text().contains("undecided"));
}

#[test]
fn the_hint_decides_the_conflict() {
    let paths = [
        "0/a/b/x",
        "0/x",
        "0/we[i]rd*/x",
        "1/repository-2/x",
        "1/x",
        "2",
        "0/{a}/q",
    ];
    for path in paths {
        let case = Case::new().stage(path, changed()).step(path, changed());
        let failed = case.merge(&mapped());
        let line = failed.conflicts[0].hint.as_ref().unwrap().line.clone();
        let rule = line.strip_prefix("--policy '").unwrap();
        let rule = rule.strip_suffix('\'').unwrap();
        let (pattern, policy) = rule.rsplit_once('=').unwrap();
        let policy = policy.parse().unwrap();
        let decided = case.merge(&mapped().rule(pattern, policy).unwrap());
        assert!(decided.plan.is_some(), "{path}: {line}");
    }
}

#[test]
fn the_hint_for_a_tree_decides_it() {
    let case = Case::new()
        .stage("0/a/d", deleted(Kind::Dir))
        .step("0/a/d/x", changed())
        .base("0/a/d");
    let hint = case.merge(&mapped()).conflicts[0].hint.clone().unwrap();
    assert_eq!(hint.line, "--policy 'a/d/**=keep-both'");
    assert!(
        case.merge(&mapped().rule("a/d/**", Policy::KeepBoth).unwrap())
            .plan
            .is_some()
    );
}

#[test]
fn an_append_that_is_none_says_so() {
    let case = Case::new()
        .stage("0/log", changed())
        .step("0/log", changed());
    let text = case.merge(&mapped().override_with(Policy::Append)).text();
    assert!(
        text.contains("append: the sides did not both append"),
        "{text}"
    );
}

#[test]
fn both_ends_of_a_rename_are_named() {
    let case = Case::new()
        .stage("0/old/x", changed())
        .step("0/old", deleted(Kind::Dir))
        .step("0/new", renamed_from("0/old"))
        .base("0/old");
    let text = case.merge(&mapped()).text();
    assert!(text.contains("tree  /harness/new\n    unit changed what is below; lint renamed it"));
    assert!(text.contains("together with /harness/old"), "{text}");
}

/// A file name can forge neither a line of the report nor a command to the terminal.
#[test]
fn names_are_shown_safely() {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new("0").join(std::ffi::OsStr::from_bytes(b"a\n\x1b[2J\xff\\"));
    let mut case = Case::new();
    case.stage.insert(&path, added(), &Arc::from("unit"));
    case.step.insert(&path, added(), &Arc::from("lint"));
    let outcome = case.merge(&mapped());
    let shown = "/harness/a\\n\\u{1b}[2J\\xff\\\\";
    assert!(outcome.text().contains(shown), "{}", outcome.text());
    assert!(!outcome.text().contains('\x1b'));
    let json: serde_json::Value = serde_json::from_str(&outcome.json_lines().unwrap()).unwrap();
    assert_eq!(json["path"], shown);
}
