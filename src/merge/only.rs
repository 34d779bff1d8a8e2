//! A part of what a step did: the paths that patterns match, and no others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::policy::{Rule, relative};
use super::{Action, Change, Delta, JoinPlan, Policies, Policy, PolicyError, Present, Side};
use crate::tree::Kind;

/// The paths that some patterns match.
#[derive(Clone, Debug)]
pub struct Selection {
    mapped: Policies,
    /// `None` for all paths.
    rules: Option<Vec<Rule>>,
}

impl Selection {
    /// All paths.
    pub fn all() -> Selection {
        Selection {
            mapped: Policies::new(Vec::new()),
            rules: None,
        }
    }

    /// What one of these patterns matches, which are those of [`Policies::rule`], for these
    /// mapped paths: absolute, in the order of their indexes.
    ///
    /// # Errors
    /// A pattern that cannot be one.
    pub fn of(patterns: &[String], mapped: Vec<PathBuf>) -> Result<Selection, PolicyError> {
        let rule = |pattern: &String| Rule::new(pattern, Policy::Fail);
        Ok(Selection {
            mapped: Policies::new(mapped),
            rules: Some(patterns.iter().map(rule).collect::<Result<_, _>>()?),
        })
    }

    fn matches(&self, path: &Path) -> bool {
        let Some(rules) = &self.rules else {
            return true;
        };
        let absolute = self.mapped.absolute(path);
        let relative = relative(path, &absolute);
        rules.iter().any(|rule| rule.matches(&absolute, relative))
    }
}

/// What a layer on top of the base has to hold so that of all that `delta` does it does what is
/// selected.
///
/// A directory that is new, or took the place of another one, is taken as a whole if it is
/// selected. Directories that lead to what is selected come along, with nothing else in them.
pub fn part(delta: &Delta, selection: &Selection) -> JoinPlan {
    let mut plan = JoinPlan::default();
    let mut whole: Option<&Path> = None;
    let mut leading = BTreeSet::new();
    for (at, entry) in delta.iter() {
        if whole.is_some_and(|above| at.starts_with(above)) || !selection.matches(at) {
            continue;
        }
        let (side, path) = (Side::Step, at.clone());
        match &entry.change {
            Change::Deleted { was: None } => continue,
            Change::Deleted { was: Some(_) } => plan.push(Action::Remove { path }),
            Change::Present(present) if is_continued(present) => {
                plan.push(Action::Metadata { side, path });
            }
            Change::Present(_) => {
                whole = Some(at);
                let to = path.clone();
                plan.push(Action::Take { side, path, to });
            }
        }
        for above in at.ancestors().skip(1) {
            let made = delta.get(above).and_then(|entry| entry.change.directory());
            if made.is_some_and(|made| made.was != Some(Kind::Dir)) {
                leading.insert(above.to_path_buf());
            }
        }
    }
    for path in leading {
        if !selection.matches(&path) {
            let side = Side::Step;
            plan.push(Action::Directory { side, path });
        }
    }
    plan.sort();
    plan
}

/// Whether it is a directory in which the base shows through.
fn is_continued(present: &Present) -> bool {
    present.kind == Kind::Dir && present.was == Some(Kind::Dir) && !present.replaces_directory()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn delta(entries: &[(&str, Change)]) -> Delta {
        let writer: Arc<str> = Arc::from("step");
        let mut delta = Delta::new();
        for (path, change) in entries {
            delta.insert(*path, change.clone(), &writer);
        }
        delta
    }

    fn present(kind: Kind, was: Option<Kind>) -> Change {
        Present::new(kind, was).into()
    }

    fn selection(patterns: &[&str]) -> Selection {
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        Selection::of(&patterns, vec!["/harness".into(), "/root/.m2".into()]).unwrap()
    }

    fn told(plan: &JoinPlan) -> Vec<String> {
        let tell = |action: &Action| {
            let what = match action {
                Action::Take { .. } => "take",
                Action::Remove { .. } => "remove",
                Action::Directory { .. } => "directory",
                Action::Metadata { .. } => "metadata",
                Action::Concatenate { .. } => "concatenate",
            };
            format!("{what} {}", action.target().display())
        };
        plan.actions().iter().map(tell).collect()
    }

    #[test]
    fn what_matches_and_what_leads_there() {
        let (file, dir) = (Kind::File, Kind::Dir);
        let delta = delta(&[
            ("0", present(dir, Some(dir))),
            ("0/a.xml", present(file, None)),
            ("0/gone.xml", Change::Deleted { was: Some(file) }),
            ("0/never.xml", Change::Deleted { was: None }),
            ("0/out", present(dir, None)),
            ("0/out/bin", present(file, None)),
            ("0/out/deep", present(dir, Some(file))),
            ("0/out/deep/b.xml", present(file, None)),
            ("0/src", present(dir, Some(dir))),
            ("0/src/c.xml", present(file, Some(file))),
            ("0/src/main", present(file, Some(file))),
            ("1", present(dir, Some(dir))),
            ("1/d.xml", present(file, None)),
        ]);
        let expected = [
            "take 0/a.xml",
            "remove 0/gone.xml",
            "directory 0/out",
            "directory 0/out/deep",
            "take 0/out/deep/b.xml",
            "take 0/src/c.xml",
            "take 1/d.xml",
        ];
        assert_eq!(told(&part(&delta, &selection(&["**/*.xml"]))), expected);
        let absolute = selection(&["/root/.m2/**"]);
        assert_eq!(
            told(&part(&delta, &absolute)),
            ["metadata 1", "take 1/d.xml"]
        );
        assert!(part(&delta, &selection(&["none/**"])).is_empty());
    }

    #[test]
    fn new_directories_are_taken_whole() {
        let (file, dir) = (Kind::File, Kind::Dir);
        let mut opaque = Present::new(dir, Some(dir));
        opaque.opaque = true;
        let delta = delta(&[
            ("0", present(dir, Some(dir))),
            ("0/new", present(dir, None)),
            ("0/new/x", present(file, None)),
            ("0/old", opaque.into()),
            ("0/old/y", present(file, None)),
            ("0/z", present(file, None)),
        ]);
        let new = ["take 0/new"];
        assert_eq!(told(&part(&delta, &selection(&["new/**"]))), new);
        let both = ["metadata 0", "take 0/new", "take 0/old", "take 0/z"];
        assert_eq!(told(&part(&delta, &Selection::all())), both);
        // What the base has there stays.
        let inner = ["take 0/old/y"];
        assert_eq!(told(&part(&delta, &selection(&["old/y"]))), inner);
    }
}
