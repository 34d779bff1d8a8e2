//! What expressions can refer to while a stage runs.

use std::collections::BTreeMap;

use super::reference::of_step;
use super::{Group, Instance, Path, Step, Variable};

/// What became of a step, for `<+steps.ID.status>` and for `when`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It succeeded, or was marked as a success.
    Succeeded,
    /// It failed.
    Failed,
    /// It failed, which was ignored.
    IgnoreFailed,
    /// It did not run.
    Skipped,
    /// It was ended because the stage was.
    Aborted,
}

impl Status {
    /// As Harness writes it, and conditions compare it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Succeeded => "SUCCEEDED",
            Status::Failed => "FAILED",
            Status::IgnoreFailed => "IGNORE_FAILED",
            Status::Skipped => "SKIPPED",
            Status::Aborted => "ABORTED",
        }
    }
}

/// The values of names with dots. [`super::Stage::context`] begins one; whoever runs the stage
/// adds what happens, and makes a copy for each step.
#[derive(Clone, Debug, Default)]
pub struct Context {
    values: BTreeMap<String, String>,
    /// The paths of the groups around, the innermost last.
    scopes: Vec<String>,
}

impl Context {
    /// Gives a name a value; the name is one of those in `docs/stage-file.md`.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.values.insert(key.into(), value.into());
    }

    /// The value of a name, if it has one.
    pub fn get(&self, key: &str) -> Option<&str> {
        let known = |key: &str| self.values.get(key).map(String::as_str);
        let own = self.in_this_stage(key);
        let key = own.as_deref().unwrap_or(key);
        let Some((from_stage, path, what)) = of_step(key) else {
            return known(key);
        };
        let scopes = self.scopes.iter().rev().filter(|_| !from_stage);
        let mut keys = scopes.map(|scope| format!("steps.{scope}.{path}/{what}"));
        let found = keys.find_map(|key| known(&key));
        found.or_else(|| known(&format!("steps.{path}/{what}")))
    }

    /// The names that begin so, without that.
    pub(super) fn names<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = &'c str> {
        let names = self.values.keys();
        names.filter_map(move |name| name.strip_prefix(prefix))
    }

    /// What `pipeline.stages.THIS.…` is called without that.
    pub(super) fn in_this_stage(&self, key: &str) -> Option<String> {
        let rest = key.strip_prefix("pipeline.stages.")?;
        let (stage, rest) = rest.split_once('.')?;
        if self.values.get("stage.identifier").map(String::as_str) != Some(stage) {
            return None;
        }
        let of = if rest.starts_with("steps.") {
            "execution"
        } else {
            "stage"
        };
        Some(format!("{of}.{rest}"))
    }

    /// A step, or a whole group, has ended.
    pub fn ended(&mut self, path: &Path, status: Status) {
        self.set(format!("steps.{}/status", path.as_str()), status.as_str());
    }

    /// A step that has ended gave a variable this value.
    pub fn output(&mut self, path: &Path, name: &str, value: &str) {
        self.set(format!("steps.{}/output.{name}", path.as_str()), value);
    }

    /// Takes over what ended in another context of the same stage: how a group's steps become
    /// known outside of it.
    pub fn learn(&mut self, from: &Context) {
        for (key, value) in &from.values {
            if key.starts_with("steps.") {
                self.values.insert(key.clone(), value.clone());
            }
        }
    }

    /// The context of one run of what has a strategy: `matrix`, `repeat`, `strategy`.
    #[must_use]
    pub fn enter(&self, instance: &Instance) -> Context {
        let mut inner = self.clone();
        for (key, value) in &instance.values {
            inner.set(key.clone(), value.clone());
        }
        inner
    }

    /// The context inside a group: in one of its instances, after [`Context::enter`].
    #[must_use]
    pub fn enter_group(&self, group: &Group, path: &Path) -> Context {
        let mut inner = self.clone();
        for kind in ["matrix.", "repeat.", "strategy."] {
            for (key, value) in &self.values {
                if key.starts_with(kind) {
                    inner.set(format!("stepGroup.{key}"), value.clone());
                }
            }
        }
        inner.set("stepGroup.name", group.name.clone());
        inner.set("stepGroup.identifier", group.identifier.clone());
        inner.scopes.push(path.as_str().to_owned());
        for Variable { name, value, .. } in &group.variables {
            // One that has no value is reported where it is used.
            if let Ok(value) = value.evaluate(&inner) {
                inner.set(format!("stepGroup.variables.{name}"), value);
            }
        }
        inner
    }

    /// The context of a step.
    #[must_use]
    pub fn enter_step(&self, step: &Step) -> Context {
        let mut inner = self.clone();
        inner.set("step.name", step.name.clone());
        inner.set("step.identifier", step.identifier.clone());
        inner
    }
}
