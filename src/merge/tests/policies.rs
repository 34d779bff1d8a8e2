//! Which policy applies where.

use super::super::PolicyError;
use super::*;

fn decide(policies: &Policies, path: &str) -> Policy {
    policies.decide(Path::new(path), Class::WriteWrite)
}

#[test]
fn the_first_match_wins() {
    let policies = mapped()
        .rule("reports/special/*", Policy::First)
        .and_then(|policies| policies.rule("reports/**", Policy::KeepBoth))
        .unwrap();
    assert_eq!(decide(&policies, "0/reports/special/x"), Policy::First);
    assert_eq!(
        decide(&policies, "0/reports/special/deep/x"),
        Policy::KeepBoth
    );
    assert_eq!(decide(&policies, "0/reports"), Policy::KeepBoth);
    assert_eq!(decide(&policies, "0/src/reports/x"), Policy::Fail);
    assert_eq!(
        decide(&policies.override_with(Policy::Last), "0/reports/x"),
        Policy::Last
    );
}

#[test]
fn patterns_match_what_the_user_sees() {
    let rules = [
        ("/harness/a/*.xml", "0/a/x.xml", true),
        ("/harness/a/*.xml", "0/a/b/x.xml", false),
        ("a/*.xml", "0/a/x.xml", true),
        ("a/*.xml", "1/a/x.xml", true),
        ("*.xml", "0/a/x.xml", false),
        ("**/*.xml", "0/a/b/x.xml", true),
        ("**/*.xml", "0/x.xml", true),
        ("**/.m2/settings.xml", "1/settings.xml", true),
        ("/root/.m2/**", "1/settings.xml", true),
        ("/root/.m2/**", "1", true),
        ("/root/.gitconfig", "2", true),
        (".gitconfig", "2", true),
        ("**", "0/anything/at/all", true),
        ("**", "2", true),
        ("{a,b}/[xy]", "0/b/y", true),
    ];
    for (pattern, path, matches) in rules {
        let policies = mapped().rule(pattern, Policy::First).unwrap();
        let expected = if matches { Policy::First } else { Policy::Fail };
        assert_eq!(decide(&policies, path), expected, "{pattern} on {path}");
    }
}

#[test]
fn names_that_are_no_text_match() {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new("0/reports").join(std::ffi::OsStr::from_bytes(b"\xff.xml"));
    let policies = mapped().rule("reports/*.xml", Policy::First).unwrap();
    assert_eq!(policies.decide(&path, Class::AddAdd), Policy::First);
}

#[test]
fn caches_take_the_last() {
    let paths = [
        ("1/repository/org/x/1.0/x-1.0.jar", Policy::Last),
        ("1/repository/org/x/1.0/_remote.repositories", Policy::Last),
        (
            "1/repository/org/x/1.0-SNAPSHOT/x-1.0-SNAPSHOT.jar",
            Policy::Fail,
        ),
        (
            "1/repository/org/x/1.0-SNAPSHOT/_remote.repositories",
            Policy::Last,
        ),
        ("1/repository/org/x/maven-metadata-local.xml", Policy::Fail),
        (
            "1/repository/org/x/maven-metadata-central.xml",
            Policy::Last,
        ),
        ("1/settings.xml", Policy::Fail),
        ("0/.npm/_cacache/index-v5/aa/bb/cc", Policy::Last),
        ("0/.cargo/registry/index/x", Policy::Last),
        ("0/.cargo/config.toml", Policy::Fail),
        ("0/go/pkg/mod/cache/download/x", Policy::Last),
        ("0/.gradle/caches/modules-2/x", Policy::Last),
        ("0/.cache/pip/http-v2/a", Policy::Last),
        ("0/src/main.c", Policy::Fail),
    ];
    for (path, policy) in paths {
        assert_eq!(decide(&mapped(), path), policy, "{path}");
    }
    // The user's own rules come first.
    let policies = mapped().rule("/root/.m2/**", Policy::First).unwrap();
    assert_eq!(
        decide(&policies, "1/repository/org/x/1.0/x-1.0.jar"),
        Policy::First
    );
}

#[test]
fn shipped_patterns_parse() {
    for (pattern, policy) in super::super::caches::CACHES {
        mapped().rule(pattern, *policy).unwrap();
    }
}

#[test]
fn metadata_takes_the_last_and_rules_apply_to_it() {
    let path = Path::new("0/f");
    for class in [Class::Metadata, Class::DirectoryMetadata] {
        assert_eq!(mapped().decide(path, class), Policy::Last);
        let strict = mapped().rule("**", Policy::Fail).unwrap();
        assert_eq!(strict.decide(path, class), Policy::Fail);
    }
}

#[test]
fn names_of_policies() {
    for policy in Policy::ALL {
        assert_eq!(policy.as_str().parse(), Ok(policy));
        assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
    }
    let error = "newest".parse::<Policy>().unwrap_err();
    assert!(error.to_string().contains("keep-both"), "{error}");
    assert!(matches!(
        mapped().rule("a[", Policy::Last),
        Err(PolicyError::Glob(..))
    ));
}
