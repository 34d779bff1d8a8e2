//! Unit tests: every class under every policy, and what no random tree comes across.

#![allow(clippy::unwrap_used)]

mod compose;
mod policies;
mod reports;
mod stacking;
mod suffixes;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Action, Change, Class, Compare, Content, Delta, Effect, Facts, Inputs, Outcome, Policies,
    Policy, Present, Sameness, Side, classify,
};
use crate::tree::Kind;

/// One merge, put together line by line. Unless told otherwise, content differs everywhere.
#[derive(Clone, Default)]
struct Case {
    stage: Delta,
    step: Delta,
    busy: BTreeSet<PathBuf>,
    answers: Answers,
}

#[derive(Clone, Default)]
struct Answers {
    base: BTreeSet<PathBuf>,
    effects: BTreeMap<(Side, PathBuf), Effect>,
    same: BTreeMap<PathBuf, Sameness>,
    appended: bool,
    asked: usize,
}

impl Case {
    fn new() -> Case {
        Case::default()
    }

    fn with(mut self, side: Side, path: &str, change: impl Into<Change>) -> Case {
        match side {
            Side::Stage => self.stage.insert(path, change, &Arc::from("unit")),
            Side::Step => self.step.insert(path, change, &Arc::from("lint")),
        }
        self
    }

    fn stage(self, path: &str, change: impl Into<Change>) -> Case {
        self.with(Side::Stage, path, change)
    }

    fn step(self, path: &str, change: impl Into<Change>) -> Case {
        self.with(Side::Step, path, change)
    }

    fn base(mut self, path: &str) -> Case {
        self.answers.base.insert(path.into());
        self
    }

    fn busy(mut self, path: &str) -> Case {
        self.busy.insert(path.into());
        self
    }

    fn effect(mut self, side: Side, path: &str, effect: Effect) -> Case {
        self.answers.effects.insert((side, path.into()), effect);
        self
    }

    fn same(mut self, path: &str, sameness: Sameness) -> Case {
        self.answers.same.insert(path.into(), sameness);
        self
    }

    fn appended(mut self) -> Case {
        self.answers.appended = true;
        self
    }

    fn merge(&self, policies: &Policies) -> Outcome {
        self.merge_asking(policies).0
    }

    /// The outcome, and how many questions were asked.
    fn merge_asking(&self, policies: &Policies) -> (Outcome, usize) {
        let inputs = Inputs {
            stage: &self.stage,
            step: &self.step,
            step_name: "lint",
            busy: &self.busy,
            policies,
        };
        let mut answers = self.answers.clone();
        let outcome = classify(&inputs, &mut answers).unwrap();
        (outcome, answers.asked)
    }

    /// The actions under one policy for everything, `None` if the merge stops.
    fn actions(&self, policy: Policy) -> Option<Vec<String>> {
        actions(&self.merge(&mapped().override_with(policy)))
    }
}

impl Compare for Answers {
    type Error = Infallible;

    fn effect(&mut self, side: Side, path: &Path) -> Result<Effect, Infallible> {
        self.asked += 1;
        let told = self.effects.get(&(side, path.to_path_buf()));
        Ok(told.copied().unwrap_or(Effect::Content))
    }

    fn same(&mut self, path: &Path) -> Result<Sameness, Infallible> {
        self.asked += 1;
        Ok(self.same.get(path).copied().unwrap_or(Sameness::Different))
    }

    fn inode(&mut self, side: Side, _: u64, name: &Path) -> Result<Effect, Infallible> {
        self.effect(side, name)
    }

    fn same_inode(&mut self, _: &Path, step: &Path) -> Result<Sameness, Infallible> {
        self.same(step)
    }

    fn appended(&mut self, _: &Path) -> Result<bool, Infallible> {
        self.asked += 1;
        Ok(self.appended)
    }

    fn exists(&mut self, _: Side, path: &Path) -> Result<bool, Infallible> {
        self.asked += 1;
        Ok(self.base.contains(path))
    }

    fn facts(&mut self, side: Side, _: &Path) -> Result<Option<Facts>, Infallible> {
        let digest = (side == Side::Step).then(|| "sha256:00".to_owned());
        Ok(Some(Facts { size: 7, digest }))
    }
}

fn mapped() -> Policies {
    Policies::new(vec![
        "/harness".into(),
        "/root/.m2".into(),
        "/root/.gitconfig".into(),
    ])
}

fn actions(outcome: &Outcome) -> Option<Vec<String>> {
    let side = |side: &Side| {
        if *side == Side::Stage {
            "stage"
        } else {
            "step"
        }
    };
    let line = |action: &Action| match action {
        Action::Take { side: of, path, to } if path == to => {
            format!("take {} {}", side(of), path.display())
        }
        Action::Take { side: of, path, to } => {
            format!("take {} {} as {}", side(of), path.display(), to.display())
        }
        Action::Remove { path } => format!("remove {}", path.display()),
        Action::Directory { side: of, path } => {
            format!("directory {} {}", side(of), path.display())
        }
        Action::Metadata { side: of, path } => format!("metadata {} {}", side(of), path.display()),
        Action::Concatenate { path } => format!("concatenate {}", path.display()),
    };
    let plan = outcome.plan.as_ref()?;
    let united = plan.links().iter().map(|links| {
        let names: Vec<&str> = links
            .names
            .iter()
            .filter_map(|name| name.to_str())
            .collect();
        format!("unite {} as {}", side(&links.side), names.join(" "))
    });
    Some(plan.actions().iter().map(line).chain(united).collect())
}

/// The classes and paths of an outcome.
fn classes(outcome: &Outcome) -> Vec<(Class, &str)> {
    let conflicts = outcome.conflicts.iter();
    conflicts
        .map(|conflict| (conflict.class, conflict.tree_path.to_str().unwrap()))
        .collect()
}

/// A regular file that the base has too.
fn changed() -> Present {
    Present::new(Kind::File, Some(Kind::File))
}

fn added() -> Present {
    Present::new(Kind::File, None)
}

fn deleted(was: Kind) -> Change {
    Change::Deleted { was: Some(was) }
}

/// A directory that the base has too.
fn dir() -> Present {
    Present::new(Kind::Dir, Some(Kind::Dir))
}

fn new_dir() -> Present {
    Present::new(Kind::Dir, None)
}

fn opaque() -> Present {
    Present {
        opaque: true,
        ..dir()
    }
}

fn renamed_from(from: &str) -> Present {
    Present {
        redirect_from: Some(from.into()),
        ..new_dir()
    }
}

fn linked(inode: u64) -> Present {
    Present {
        link: Some(inode),
        ..changed()
    }
}

/// A further name, which the base does not have.
fn new_link(inode: u64) -> Present {
    Present {
        link: Some(inode),
        ..added()
    }
}
