//! What expressions can refer to while a stage runs.

use std::collections::BTreeMap;

use super::{Group, Instance, Step};

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
}

impl Context {
    /// Gives a name a value; the name is one of those in `docs/stage-file.md`.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.values.insert(key.into(), value.into());
    }

    /// The value of a name, if it has one.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// A step, or a whole group, has ended. `path` is that of [`super::Path`]: the identifiers
    /// with a dot between, such as `checks.lint_0`.
    pub fn ended(&mut self, path: &str, status: Status) {
        self.set(format!("steps.{path}/status"), status.as_str());
    }

    /// A step that has ended gave a variable this value.
    pub fn output(&mut self, path: &str, name: &str, value: &str) {
        self.set(format!("steps.{path}/output.{name}"), value);
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

    /// The context inside a group.
    #[must_use]
    pub fn enter_group(&self, group: &Group) -> Context {
        let mut inner = self.clone();
        inner.set("stepGroup.name", group.name.clone());
        inner.set("stepGroup.identifier", group.identifier.clone());
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
