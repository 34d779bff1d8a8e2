//! Whether everything that expressions refer to is there when they are evaluated.

mod known;

use std::collections::{BTreeMap, BTreeSet};

use known::{Found, Known, Position, find, join, outline, positioned, result_problem};

use super::expression::{Expression, Piece, Reference, Text};
use super::place::shown;
use super::read::{MOST, nearest};
use super::reference::of_step;
use super::{
    Command, Context, Group, Items, Node, Problem, Stage, Step, Strategy, StrategyKind, Variable,
    When, expand,
};

/// What a file refers to, in the form of [`Context`].
pub type Used = BTreeSet<String>;

/// Checks a text of which all must be known already.
pub fn text(text: &Text, context: &Context, used: &mut Used, problems: &mut Vec<Problem>) {
    let nothing = Scope::default();
    Checker {
        context,
        problems,
        used,
        steps: &BTreeMap::new(),
    }
    .text(text, &nothing);
}

/// Whether all that a text refers to is known: without saying what is wrong, which takes longer.
pub fn is_known(text: &Text, context: &Context) -> bool {
    text.refers_only_to(&|reference| context.get(&reference.key).is_some())
}

/// Checks the strategy of the stage itself.
pub fn strategy(
    strategy: &Strategy,
    context: &Context,
    used: &mut Used,
    problems: &mut Vec<Problem>,
) {
    Checker {
        context,
        problems,
        used,
        steps: &BTreeMap::new(),
    }
    .strategy(Some(strategy), &Scope::default());
}

/// Checks all of a stage.
pub fn stage(stage: &Stage, used: &mut Used, problems: &mut Vec<Problem>) {
    let mut steps = BTreeMap::new();
    outline(&stage.body, "", &[], stage, &mut steps);
    let mut checker = Checker {
        context: &stage.context,
        problems,
        used,
        steps: &steps,
    };
    let scope = Scope::default();
    checker.when(stage.when.as_ref(), &scope);
    checker.variables(&stage.env, &scope);
    if let Some(caching) = &stage.caching {
        for text in caching.texts() {
            checker.text(text, &scope);
        }
    }
    checker.nodes(&stage.body, &scope);
}

/// Where a text stands.
#[derive(Clone, Debug, Default)]
struct Scope {
    /// Names that have values there which the stage's context does not have.
    names: Vec<String>,
    /// The identifiers of the groups around it, with dots between, from the outside in.
    groups: Vec<String>,
    position: Position,
    /// Names that a group has of its own.
    group_names: Vec<String>,
}

struct Checker<'c> {
    context: &'c Context,
    problems: &'c mut Vec<Problem>,
    used: &'c mut Used,
    steps: &'c BTreeMap<String, Known>,
}

impl Checker<'_> {
    fn nodes(&mut self, nodes: &[Node], around: &Scope) {
        for (position, node) in positioned(nodes, &around.position) {
            let scope = Scope {
                position,
                ..around.clone()
            };
            match node {
                Node::Step(step) => self.step(step, &scope),
                Node::Group(group) => self.group(group, scope),
                Node::Parallel(_) => {}
            }
        }
    }

    fn step(&mut self, step: &Step, scope: &Scope) {
        self.strategy(step.strategy.as_ref(), scope);
        let mut inner = scope.clone();
        names_of(step.strategy.as_ref(), &mut inner.names);
        inner.names.push("step.name".to_owned());
        inner.names.push("step.identifier".to_owned());
        self.when(step.when.as_ref(), &inner);
        self.variables(&step.env, &inner);
        match &step.command {
            Command::Script { script, .. } => self.text(script, &inner),
            Command::Words(words) => {
                for word in words {
                    self.text(word, &inner);
                }
            }
        }
    }

    fn group(&mut self, group: &Group, scope: Scope) {
        let mut inner = scope;
        self.strategy(group.strategy.as_ref(), &inner);
        names_of(group.strategy.as_ref(), &mut inner.names);
        self.when(group.when.as_ref(), &inner);
        let looped: Vec<String> = inner
            .names
            .iter()
            .filter(|name| {
                ["matrix.", "repeat.", "strategy."]
                    .iter()
                    .any(|kind| name.starts_with(kind))
            })
            .map(|name| format!("stepGroup.{name}"))
            .collect();
        inner.group_names.extend(looped);
        inner.group_names.push("stepGroup.name".to_owned());
        inner.group_names.push("stepGroup.identifier".to_owned());
        let around = inner.groups.last().map_or("", String::as_str);
        let path = join(around, &group.identifier);
        inner.groups.push(path);
        self.variables(&group.variables, &inner);
        for variable in &group.variables {
            let name = format!("stepGroup.variables.{}", variable.name);
            inner.group_names.push(name);
        }
        self.variables(&group.env, &inner);
        self.nodes(&group.body, &inner);
    }

    fn variables(&mut self, variables: &[Variable], scope: &Scope) {
        for variable in variables {
            self.text(&variable.value, scope);
        }
    }

    fn when(&mut self, when: Option<&When>, scope: &Scope) {
        if let Some(condition) = when.and_then(|when| when.condition.as_ref()) {
            self.expression(&condition.expression, scope);
        }
    }

    /// A strategy is evaluated before it gives its own names, but for `nodeName`. One of which all
    /// is known already is tried out.
    fn strategy(&mut self, strategy: Option<&Strategy>, scope: &Scope) {
        let Some(strategy) = strategy else {
            return;
        };
        let before = self.problems.len();
        let mut node_name_scope = scope.clone();
        names_of(Some(strategy), &mut node_name_scope.names);
        if let Some(text) = &strategy.max_concurrency {
            self.text(text, scope);
        }
        match &strategy.kind {
            StrategyKind::Matrix {
                axes,
                exclude,
                node_name,
            } => {
                for (_, items) in axes {
                    self.items(items, scope);
                }
                for (_, text) in exclude.iter().flatten() {
                    self.text(text, scope);
                }
                if let Some(text) = node_name {
                    self.text(text, &node_name_scope);
                }
            }
            StrategyKind::Times(text) | StrategyKind::Parallelism(text) => {
                self.text(text, scope);
            }
            StrategyKind::Items { items, node_name } => {
                self.items(items, scope);
                if let Some(text) = node_name {
                    self.text(text, &node_name_scope);
                }
            }
        }
        let known = |text: &Text| text.as_literal().is_some();
        if self.problems.len() == before && texts_of(strategy).into_iter().all(known) {
            let wrong = expand(Some(strategy), self.context).err();
            self.problems.extend(wrong);
        }
    }

    fn items(&mut self, items: &Items, scope: &Scope) {
        match items {
            Items::Text(text) => self.text(text, scope),
            Items::List(texts) => {
                for text in texts {
                    self.text(text, scope);
                }
            }
        }
    }

    fn text(&mut self, text: &Text, scope: &Scope) {
        for piece in &text.pieces {
            if let Piece::Expression(expression) = piece {
                self.expression(expression, scope);
            }
        }
    }

    fn expression(&mut self, expression: &Expression, scope: &Scope) {
        match expression {
            Expression::Null | Expression::Bool(_) | Expression::Number(_) => {}
            Expression::Text(text) => self.text(text, scope),
            Expression::Reference(reference) => self.reference(reference, scope),
            Expression::Not(inner) => self.expression(inner, scope),
            Expression::Binary(_, sides) => {
                self.expression(&sides.0, scope);
                self.expression(&sides.1, scope);
            }
            Expression::Choice(parts) => {
                self.expression(&parts.0, scope);
                self.expression(&parts.1, scope);
                self.expression(&parts.2, scope);
            }
            Expression::Call(of, _, arguments, _) => {
                self.expression(of, scope);
                for argument in arguments {
                    self.expression(argument, scope);
                }
            }
        }
    }

    fn reference(&mut self, reference: &Reference, scope: &Scope) {
        let own = self.context.in_this_stage(&reference.key);
        let key = own.as_deref().unwrap_or(&reference.key);
        self.used.insert(key.to_owned());
        let found = self.context.get(key).is_some()
            || scope.names.iter().any(|name| name == key)
            || scope.group_names.iter().any(|name| name == key);
        if found {
            return;
        }
        let what = match of_step(key) {
            Some((from_stage, path, what)) => self.step_problem(from_stage, path, what, scope),
            None => Some(self.unknown(key, &reference.written, scope)),
        };
        if let Some(what) = what {
            let written = shown(&reference.written);
            let what = format!("<+{written}>: {what}");
            self.problems.push(Problem::new(reference.place, what));
        }
    }

    /// What is wrong with a reference to a step's result.
    fn step_problem(
        &self,
        from_stage: bool,
        path: &str,
        what: &str,
        scope: &Scope,
    ) -> Option<String> {
        let around = scope.groups.iter().rev().map(String::as_str);
        let scopes = around.filter(|_| !from_stage).chain([""]);
        let mut in_scopes = scopes.map(|scope| find(self.steps, &join(scope, path), scope));
        let found = in_scopes.find_map(|found| match found {
            Found::Nothing => None,
            found => Some(found),
        });
        match found {
            None => {
                let names = self.steps.keys().map(String::as_str);
                let found = match self.problems.len() < MOST {
                    true => nearest(path, names),
                    false => None,
                };
                let hint = match found {
                    Some(name) => format!("; did you mean '{}'?", name.replace('.', ".steps.")),
                    None => String::new(),
                };
                Some(format!("there is no step '{}'{hint}", shown(path)))
            }
            Some(Found::Nothing) => None,
            Some(Found::Instance(name, examples)) => Some(format!(
                "'{name}' runs several times; say which one, such as {examples}"
            )),
            Some(Found::Step(known)) => result_problem(known, path, what, &scope.position),
        }
    }

    /// A name that has no value, and what to do.
    fn unknown(&self, key: &str, written: &str, scope: &Scope) -> String {
        let (kind, rest) = key.split_once('.').unwrap_or((key, ""));
        match kind {
            "stage" if rest.starts_with("variables.") => {
                let name = &rest["variables.".len()..];
                let known = self.context.names("stage.variables.");
                let hint = match nearest(name, known) {
                    Some(known) => format!("; did you mean '{known}'?"),
                    None => given_hint(key),
                };
                format!("the stage has no variable '{}'{hint}", shown(name))
            }
            "env" => format!("the environment has no variable '{}'", shown(rest)),
            "matrix" => {
                let axes = scope
                    .names
                    .iter()
                    .filter_map(|name| name.strip_prefix("matrix."));
                let axes: Vec<&str> = axes.collect();
                if axes.is_empty() {
                    "there is no matrix around it".to_owned()
                } else {
                    format!(
                        "the matrix has no axis '{}': {}",
                        shown(rest),
                        axes.join(", ")
                    )
                }
            }
            "repeat" => "it is known inside a 'repeat' with items only".to_owned(),
            "strategy" => {
                "inside a strategy there are strategy.iteration, strategy.iterations and \
                 strategy.identifierPostFix"
                    .to_owned()
            }
            "stepGroup" => "it is not known in this place".to_owned(),
            "step" => "of a step, in its own texts, there are name and identifier".to_owned(),
            "input" => "it is a runtime input: write its value here, or put it in a variable of \
                        the stage, which --var 'stage.variables.NAME=VALUE' can set"
                .to_owned(),
            _ => format!("it is not known here{}", given_hint(&shown(written))),
        }
    }
}

fn given_hint(key: &str) -> String {
    format!("; give it with --var '{key}=VALUE'")
}

/// The names that a strategy gives to what is in it.
fn names_of(strategy: Option<&Strategy>, names: &mut Vec<String>) {
    let Some(strategy) = strategy else {
        return;
    };
    for name in ["iteration", "iterations", "identifierPostFix"] {
        names.push(format!("strategy.{name}"));
    }
    match &strategy.kind {
        StrategyKind::Matrix { axes, .. } => {
            names.extend(axes.iter().map(|(axis, _)| format!("matrix.{axis}")));
        }
        StrategyKind::Items { .. } => {
            names.push("repeat.item".to_owned());
            names.push("repeat.index".to_owned());
        }
        StrategyKind::Times(_) | StrategyKind::Parallelism(_) => {}
    }
}

/// The texts that decide about a strategy's instances.
fn texts_of(strategy: &Strategy) -> Vec<&Text> {
    let mut texts: Vec<&Text> = strategy.max_concurrency.iter().collect();
    match &strategy.kind {
        StrategyKind::Matrix { axes, exclude, .. } => {
            for (_, axis) in axes {
                texts.extend(of_items(axis));
            }
            texts.extend(exclude.iter().flatten().map(|(_, text)| text));
        }
        StrategyKind::Times(text) | StrategyKind::Parallelism(text) => texts.push(text),
        StrategyKind::Items { items, .. } => texts.extend(of_items(items)),
    }
    texts
}

fn of_items(items: &Items) -> &[Text] {
    match items {
        Items::Text(text) => std::slice::from_ref(text),
        Items::List(texts) => texts,
    }
}
