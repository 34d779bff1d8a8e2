//! Who wins where both sides changed a path.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::caches::CACHES;
use super::{Class, SuffixPattern};

/// What to do about a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Merge nothing and report.
    Fail,
    /// Take the later side's view of the path: the step's.
    Last,
    /// Take the earlier side's view of the path: the stage's.
    First,
    /// Keep both; the later gets a suffix. Of a deletion and a change the change is kept. For the
    /// metadata classes it means `last`: two copies of equal content help nobody.
    KeepBoth,
    /// If both only appended to a regular file: what the stage appended, then what the step did.
    /// If not, it fails. For the metadata classes it means `last`.
    Append,
    /// As `first`, and not reported.
    Ignore,
}

impl Policy {
    /// All policies, for help texts.
    pub const ALL: [Policy; 6] = [
        Policy::Fail,
        Policy::Last,
        Policy::First,
        Policy::KeepBoth,
        Policy::Append,
        Policy::Ignore,
    ];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Fail => "fail",
            Policy::Last => "last",
            Policy::First => "first",
            Policy::KeepBoth => "keep-both",
            Policy::Append => "append",
            Policy::Ignore => "ignore",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(name: &str) -> Result<Policy, PolicyError> {
        let known = Policy::ALL
            .into_iter()
            .find(|policy| policy.as_str() == name);
        known.ok_or_else(|| PolicyError::Unknown(name.to_owned()))
    }
}

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// No policy has this name.
    Unknown(String),
    /// The glob does not parse: the pattern and the reason.
    Glob(String, String),
    /// A [`SuffixPattern`] does not parse: the reason.
    Suffix(String),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::Unknown(name) => {
                let known = Policy::ALL.map(Policy::as_str).join(", ");
                write!(f, "unknown conflict policy '{name}': it is one of {known}")
            }
            PolicyError::Glob(pattern, reason) => write!(f, "bad pattern '{pattern}': {reason}"),
            PolicyError::Suffix(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for PolicyError {}

/// The policies of a stage.
///
/// The first of these that applies decides:
///
/// 1. the override (`--on-conflict`);
/// 2. the rules of the user, in their order, whatever the class;
/// 3. for data classes, the shipped list of caches;
/// 4. `last` for metadata classes, `fail` for data classes.
///
/// Patterns are globs: `*` and `?` do not match a slash, `**` matches any number of directories,
/// `[…]` and `{a,b}` are sets. A pattern
///
/// - with a leading slash is matched against the path as the user sees it (`/root/.m2/x`);
/// - with a leading `**/` likewise, so that it also finds a mapped path's own name;
/// - otherwise against the path below its mapped path (`reports/**` is `/harness/reports/**`,
///   and that directory of any shared path). A single file that is mapped counts as its name.
///
/// A pattern that ends in `/**` also matches the directory itself: a conflict about the whole of
/// `reports` is reported there.
#[derive(Clone, Debug)]
pub struct Policies {
    mapped: Vec<PathBuf>,
    override_with: Option<Policy>,
    rules: Vec<Rule>,
    keep_both_as: SuffixPattern,
    strict: bool,
}

impl Policies {
    /// The defaults, for these mapped paths: absolute, in the order of their indexes.
    pub fn new(mapped: Vec<PathBuf>) -> Policies {
        Policies {
            mapped,
            override_with: None,
            rules: Vec::new(),
            keep_both_as: SuffixPattern::default(),
            strict: false,
        }
    }

    /// Adds a rule after those that are there.
    pub fn rule(mut self, pattern: &str, policy: Policy) -> Result<Policies, PolicyError> {
        self.rules.push(Rule::new(pattern, policy)?);
        Ok(self)
    }

    /// Applies one policy to every conflict.
    pub fn override_with(mut self, policy: Policy) -> Policies {
        self.override_with = Some(policy);
        self
    }

    /// Has `keep-both` name the later side's version so.
    pub fn keep_both_as(mut self, pattern: SuffixPattern) -> Policies {
        self.keep_both_as = pattern;
        self
    }

    /// Says whether it is a conflict when a step saw what another changed.
    pub fn strict(mut self, strict: bool) -> Policies {
        self.strict = strict;
        self
    }

    /// Whether it is a conflict when a step saw what another changed.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// The names that `keep-both` can give a step's version, best first.
    pub(super) fn names_beside(&self, path: &Path, step: &str) -> impl Iterator<Item = PathBuf> {
        self.keep_both_as.names(path, step)
    }

    /// What decides a conflict of this class at this path of a delta.
    pub fn decide(&self, path: &Path, class: Class) -> Policy {
        if let Some(policy) = self.override_with {
            return policy;
        }
        let absolute = self.absolute(path);
        let relative = relative(path, &absolute);
        let matching = |rules: &[Rule]| {
            rules
                .iter()
                .find(|rule| rule.matches(&absolute, relative))
                .map(|rule| rule.policy)
        };
        if let Some(policy) = matching(&self.rules) {
            policy
        } else if class.is_metadata() {
            Policy::Last
        } else {
            match matching(&SHIPPED).unwrap_or(Policy::Fail) {
                // Where a name stands for a content, it does not matter who has read it when.
                Policy::Last if class == Class::ReadWrite => Policy::Ignore,
                policy => policy,
            }
        }
    }

    /// The path as the user sees it.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        let mut components = path.components();
        let index = components
            .next()
            .map(Component::as_os_str)
            .and_then(OsStr::to_str);
        let root = index.and_then(|index| self.mapped.get(index.parse::<usize>().ok()?));
        let rest = components.as_path();
        match root {
            Some(root) if rest.as_os_str().is_empty() => root.clone(),
            Some(root) => root.join(rest),
            // Not a path of this stage; showing it beats hiding it.
            None => path.to_path_buf(),
        }
    }

    /// A pattern that matches the path, or for a subtree all of it, as a user would write it.
    pub fn pattern_for(&self, path: &Path, subtree: bool) -> String {
        let absolute = self.absolute(path);
        let in_workspace = path.starts_with("0") && path != Path::new("0");
        let shown = if in_workspace {
            relative(path, &absolute)
        } else {
            &absolute
        };
        match shown
            .parent()
            .filter(|parent| parent.components().next().is_some())
        {
            _ if subtree => format!("{}/**", escape(shown)),
            // Siblings tend to meet the same conflict. `/etc/x` stays alone: `/etc/**` is a lot.
            Some(parent) if in_workspace || path.components().count() > 2 => {
                format!("{}/**", escape(parent))
            }
            _ => escape(shown),
        }
    }
}

/// The path below its mapped path; for a mapped path itself, its name.
pub(super) fn relative<'a>(path: &'a Path, absolute: &'a Path) -> &'a Path {
    let mut components = path.components();
    components.next();
    match components.as_path() {
        rest if rest.as_os_str().is_empty() => absolute.file_name().map_or(absolute, Path::new),
        rest => rest,
    }
}

/// A glob that matches one path. What is not UTF-8 matches loosely: a pattern is text.
fn escape(path: &Path) -> String {
    globset::escape(&path.to_string_lossy()).replace(char::REPLACEMENT_CHARACTER, "*")
}

/// Compiled when the first conflict asks for them. One that does not parse is a bug which a test
/// finds; a merge must not end for it.
static SHIPPED: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    CACHES
        .iter()
        .filter_map(|(pattern, policy)| Rule::new(pattern, *policy).ok())
        .collect()
});

/// One line of a policy list.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    matchers: Vec<GlobMatcher>,
    absolute: bool,
    policy: Policy,
}

impl Rule {
    pub fn new(pattern: &str, policy: Policy) -> Result<Rule, PolicyError> {
        let directory = pattern
            .strip_suffix("/**")
            .filter(|directory| !directory.is_empty());
        let globs = std::iter::once(pattern).chain(directory);
        let compile = |glob| {
            let built = GlobBuilder::new(glob).literal_separator(true).build();
            built
                .map(|glob| glob.compile_matcher())
                .map_err(|error| PolicyError::Glob(pattern.to_owned(), error.kind().to_string()))
        };
        Ok(Rule {
            matchers: globs.map(compile).collect::<Result<_, _>>()?,
            absolute: pattern.starts_with('/') || pattern.starts_with("**/"),
            policy,
        })
    }

    /// Whether it is about this path: as the user sees it, and below its mapped path.
    pub fn matches(&self, absolute: &Path, relative: &Path) -> bool {
        let path = if self.absolute { absolute } else { relative };
        self.matchers.iter().any(|matcher| matcher.is_match(path))
    }
}
