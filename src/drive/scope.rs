//! Where in a stage file something is: what it inherits from around it.

use super::lane::Lane;
use crate::stagefile::{Context, FailureStrategy, Group, Instance, Path, Stage, Step, Variable};

/// What a step or group inherits.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// The identifiers of what is around it.
    pub path: Path,
    /// What instances are called for people.
    pub labels: Vec<String>,
    /// Variables of the environment, of the outermost first.
    pub env: Vec<&'a [Variable]>,
    /// `HARNESS_NODE_INDEX` and its like, of the outermost first.
    pub node_env: Vec<(String, String)>,
    /// Failure strategies, of the innermost first.
    pub failure: Vec<&'a [FailureStrategy]>,
    inner: Vec<Inner<'a>>,
}

#[derive(Clone, Debug)]
enum Inner<'a> {
    Instance(Instance),
    Group(&'a Group, Path),
}

impl<'a> Scope<'a> {
    /// That of the stage.
    pub fn of(stage: &'a Stage) -> Scope<'a> {
        Scope {
            path: Path::root(),
            labels: Vec::new(),
            env: vec![&stage.env],
            node_env: Vec::new(),
            failure: vec![&stage.failure],
            inner: Vec::new(),
        }
    }

    /// That of one instance of a step or group with this identifier.
    pub fn instance(&self, identifier: &str, instance: Instance) -> Scope<'a> {
        let mut scope = self.clone();
        scope.path = self.path.join(identifier, &instance);
        if !instance.label.is_empty() {
            scope.labels.push(instance.label.clone());
        }
        scope.node_env.extend(instance.env.iter().cloned());
        scope.inner.push(Inner::Instance(instance));
        scope
    }

    /// That inside of a group; this one is of the group itself.
    pub fn group(&self, group: &'a Group) -> Scope<'a> {
        let mut scope = self.clone();
        scope.env.push(&group.env);
        if !group.failure.is_empty() {
            scope.failure.insert(0, &group.failure);
        }
        scope.inner.push(Inner::Group(group, self.path.clone()));
        scope
    }

    /// That of a step, with its own.
    pub fn step(&self, step: &'a Step) -> Scope<'a> {
        let mut scope = self.clone();
        scope.env.push(&step.env);
        scope.failure.insert(0, &step.failure);
        scope
    }

    /// What expressions see here.
    pub fn context(&self, lane: &Lane) -> Context {
        let mut context = lane.context.clone();
        for inner in &self.inner {
            context = match inner {
                Inner::Instance(instance) => context.enter(instance),
                Inner::Group(group, path) => context.enter_group(group, path),
            };
        }
        context
    }

    /// A name for people.
    pub fn name(&self, name: &str) -> String {
        match self.labels.is_empty() {
            true => name.to_owned(),
            false => format!("{name} ({})", self.labels.join(", ")),
        }
    }

    /// What this run is called besides the identifiers: nothing, where that is a number which
    /// they end in.
    pub fn label(&self) -> String {
        let labels = self.inner.iter().filter_map(|inner| match inner {
            Inner::Instance(instance) => Some(instance),
            Inner::Group(..) => None,
        });
        let labels = labels.filter(|instance| instance.postfix != format!("_{}", instance.label));
        let labels = labels.map(|instance| instance.label.as_str());
        let labels: Vec<&str> = labels.filter(|label| !label.is_empty()).collect();
        labels.join(", ")
    }
}
