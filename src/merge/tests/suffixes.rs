//! How `keep-both` names what it keeps.

use super::super::SuffixPattern;
use super::*;

/// Where the step's version of a path is, if it is kept beside the stage's.
fn kept(pattern: &str, path: &str) -> String {
    let policies = mapped().override_with(Policy::KeepBoth);
    let policies = policies.keep_both_as(pattern.parse().unwrap());
    let case = Case::new().stage(path, added()).step(path, added());
    let outcome = case.merge(&policies);
    let told = &outcome.conflicts[0].kept_as[0];
    told.strip_prefix("/harness")
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_pattern_names_the_later_version() {
    for (pattern, path, expected) in [
        ("{path}.{step}", "0/r/junit.xml", "r/junit.xml.lint"),
        ("{stem}.{step}{ext}", "0/r/junit.xml", "r/junit.lint.xml"),
        ("{stem}.{step}{ext}", "0/r/a.tar.gz", "r/a.tar.lint.gz"),
        ("{stem}.{step}{ext}", "0/Makefile", "Makefile.lint"),
        ("{stem}.{step}{ext}", "0/.env", ".env.lint"),
        ("{stem}.{step}{ext}", "0/odd.", "odd.lint."),
        ("{step}-{stem}{ext}", "0/r/junit.xml", "r/lint-junit.xml"),
        ("{path} (of {step})", "0/r/a", "r/a (of lint)"),
        // Its own name is taken too.
        ("{stem}.{step}", "0/junit.lint", "junit.lint.2"),
    ] {
        assert_eq!(kept(pattern, path), expected, "{pattern}");
    }
}

#[test]
fn names_that_are_not_text_are_kept() {
    use std::os::unix::ffi::OsStrExt;
    let name = |bytes: &[u8]| Path::new("0").join(std::ffi::OsStr::from_bytes(bytes));
    let pattern: SuffixPattern = "{stem}.{step}{ext}".parse().unwrap();
    let kept = pattern.names(&name(b"\xff.x\xfe"), "lint").next();
    assert_eq!(kept, Some(name(b"\xff.lint.x\xfe")));
}

#[test]
fn a_number_goes_with_the_step() {
    let case = Case::new()
        .stage("0/a.xml", added())
        .step("0/a.xml", added());
    let case = case.base("0/a.lint.xml");
    let policies = mapped().override_with(Policy::KeepBoth);
    let outcome = case.merge(&policies.keep_both_as("{stem}.{step}{ext}".parse().unwrap()));
    assert_eq!(
        actions(&outcome).unwrap(),
        ["take step 0/a.xml as 0/a.lint.2.xml", "take stage 0/a.xml"]
    );
}

#[test]
fn what_is_no_pattern() {
    for (text, why) in [
        ("", "needs {path} or {stem}"),
        ("{path}.later", "needs {step}"),
        ("{step}{ext}", "needs {path} or {stem}"),
        ("{step}.{path}", "nothing can come before"),
        ("{stem}/{step}", "'/'"),
        (
            "{path}.{stepp}",
            "{stepp} is none of {path}, {stem}, {ext}, {step}",
        ),
        ("{path}.{step", "has no '}'"),
        ("{path}.step}", "has no '{'"),
        ("{path}\n{step}", "control character"),
    ] {
        let error = text.parse::<SuffixPattern>().unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
        let told = serde_json::from_value::<SuffixPattern>(text.into()).unwrap_err();
        assert!(told.to_string().contains(why), "{text}: {told}");
    }
    let default = SuffixPattern::default();
    assert_eq!(default.as_str().parse(), Ok(default.clone()));
    assert_eq!(serde_json::to_value(&default).unwrap(), "{path}.{step}");
}

#[test]
fn taken_names_are_passed_over() {
    let both = Case::new().stage("0/f", added()).step("0/f", added());
    let case = both.clone().base("0/f.lint").step("0/f.lint.2", added());
    let expected = ["take stage 0/f", "take step 0/f as 0/f.lint.3"];
    assert_eq!(case.actions(Policy::KeepBoth).unwrap(), expected);
    // A name that is free again is free.
    let case = both
        .base("0/f.lint")
        .stage("0/f.lint", deleted(Kind::File))
        .step("0/f.lint", deleted(Kind::File));
    let expected = ["take stage 0/f", "take step 0/f as 0/f.lint"];
    assert_eq!(case.actions(Policy::KeepBoth).unwrap(), expected);
}

#[test]
fn keep_both_needs_a_name() {
    let long = format!("0/{}", "x".repeat(251));
    // Next to a mapped file there is nothing of ours.
    for (path, why) in [("2", "mapped path"), (&long, "longer than 255 bytes")] {
        let case = Case::new().stage(path, added()).step(path, added());
        let outcome = case.merge(&mapped().override_with(Policy::KeepBoth));
        assert_eq!(outcome.plan, None);
        let hint = outcome.conflicts[0].hint.as_ref().unwrap();
        assert!(hint.reason.unwrap().contains(why), "{hint:?}");
        assert_eq!(hint.option, "--on-conflict last");
    }
}
