//! The stage, and what may stand around it.

use super::fields::Fields;
use super::{ITERATION, Reader};
use crate::stagefile::place::shown;
use crate::stagefile::yaml::{Node, Value};
use crate::stagefile::{Context, Notice, Place, Stage, Text, Variable, check, expand};

/// What the machine does on which a stage runs.
const INFRASTRUCTURE: [&str; 5] = [
    "infrastructure",
    "platform",
    "runtime",
    "buildIntelligence",
    "slsa_provenance",
];

const IN_SPEC: &[&str] = &[
    "execution",
    "sharedPaths",
    "caching",
    "infrastructure",
    "platform",
    "runtime",
    "cloneCodebase",
];

const BESIDE_SPEC: &[&str] = &[
    "name",
    "identifier",
    "type",
    "variables",
    "failureStrategies",
    "when",
    "strategy",
    "timeout",
];

/// A stage's fields: those beside `spec`, and those in it. In the short form, without `spec`, they
/// are all in one map.
struct Parts<'n> {
    outer: Fields<'n>,
    spec: Option<Fields<'n>>,
}

impl<'n> Parts<'n> {
    fn in_spec(&mut self) -> &mut Fields<'n> {
        self.spec.as_mut().unwrap_or(&mut self.outer)
    }

    /// A field of our own, which may stand in either place.
    fn own(&mut self, name: &'static str) -> Option<&'n Node> {
        let inner = self.spec.as_mut().and_then(|spec| spec.take(name));
        inner.or_else(|| self.outer.take(name))
    }
}

impl Reader {
    /// The stage of a document; `wanted` is the one of several.
    pub fn document(&mut self, node: &Node, wanted: Option<&str>) -> Option<Stage> {
        match &node.value {
            Value::List(_) => {
                let found = self.choose(node, wanted)?;
                self.stage(found)
            }
            Value::Map(entries) => {
                let has = |name: &str| entries.iter().any(|entry| entry.key == name);
                if has("pipeline") {
                    self.pipeline(node, wanted)
                } else if has("stage") {
                    let mut fields = self.fields(node, "the file")?;
                    let stage = fields.take("stage");
                    fields.finish(self);
                    let Some(stage) = stage else {
                        self.problem(node.place, "'stage' is empty");
                        return None;
                    };
                    self.check_wanted(stage, wanted);
                    self.stage(stage)
                } else {
                    self.check_wanted(node, wanted);
                    self.stage(node)
                }
            }
            Value::Scalar { .. } => {
                let text = "the file is no stage: it has neither 'stage', 'spec' nor 'execution'";
                self.problem(node.place, text);
                None
            }
        }
    }

    fn pipeline(&mut self, node: &Node, wanted: Option<&str>) -> Option<Stage> {
        let mut fields = self.fields(node, "the file")?;
        let pipeline = fields.take("pipeline");
        fields.finish(self);
        let Some(pipeline) = pipeline else {
            self.problem(node.place, "'pipeline' is empty");
            return None;
        };
        let mut fields = self.fields(pipeline, "a pipeline")?;
        let place = fields.place;
        let (identifier, name) = self.identity(&mut fields, Some("pipeline"))?;
        let stages = fields.take("stages");
        let variables = fields.take("variables");
        fields.skip(&["projectIdentifier", "orgIdentifier", "tags", "description"]);
        let infrastructure = ["properties", "delegateSelectors", "flowControl"];
        fields.leave_out(self, &infrastructure, "infrastructure");
        let whole = [
            "timeout",
            "notificationRules",
            "allowStageExecutions",
            "fixedInputsOnRerun",
        ];
        fields.leave_out(self, &whole, "only one stage of the pipeline is run");
        fields.finish(self);
        for (key, value) in [("pipeline.identifier", identifier), ("pipeline.name", name)] {
            if self.context.get(key).is_none() {
                self.context.set(key, value);
            }
        }
        let mut variables = self.variables(variables);
        self.resolve("pipeline", &mut variables);
        let Some(stages) = stages else {
            self.problem(place, "a pipeline has no 'stages'");
            return None;
        };
        let stage = self.choose(stages, wanted)?;
        self.stage(stage)
    }

    /// The one CI stage of a list of `stage:` and `parallel:`, or the one that is wanted.
    fn choose<'n>(&mut self, list: &'n Node, wanted: Option<&str>) -> Option<&'n Node> {
        let mut found = Vec::new();
        for item in self.list(list, "stages") {
            let mut fields = self.fields(item, "an entry of 'stages'")?;
            let stage = fields.take("stage");
            let parallel = fields.take("parallel");
            fields.finish(self);
            if let Some(stage) = stage {
                found.push(stage);
            }
            if let Some(parallel) = parallel {
                for item in self.list(parallel, "parallel") {
                    let mut fields = self.fields(item, "an entry of 'parallel'")?;
                    let stage = fields.take("stage");
                    fields.finish(self);
                    found.extend(stage);
                }
            }
        }
        let of_ci = |node: &&Node| text_of(node, "type").is_none_or(|kind| kind == "CI");
        found.retain(of_ci);
        let label = |node: &Node| {
            let name = text_of(node, "identifier").or_else(|| text_of(node, "name"));
            shown(name.unwrap_or("without a name"))
        };
        let names = found.iter().map(|node| label(node)).collect::<Vec<_>>();
        let names = names.join(", ");
        match (wanted, found.as_slice()) {
            (_, []) => {
                self.problem(list.place, "there is no stage of type CI");
                None
            }
            (None, [stage]) => Some(stage),
            (None, _) => {
                let text = format!(
                    "there are {} stages of type CI ({names}); choose one with --pipeline-stage NAME",
                    found.len()
                );
                self.problem(list.place, text);
                None
            }
            (Some(wanted), stages) => {
                let stage = stages.iter().find(|node| is_called(node, wanted));
                if stage.is_none() {
                    let text = format!("there is no CI stage '{}': {names}", shown(wanted));
                    self.problem(list.place, text);
                }
                stage.copied()
            }
        }
    }

    /// A file of one stage needs no choice, but a wrong one is a mistake.
    fn check_wanted(&mut self, stage: &Node, wanted: Option<&str>) {
        if let Some(wanted) = wanted.filter(|wanted| !is_called(stage, wanted)) {
            let text = format!("the file's only stage is not called '{}'", shown(wanted));
            self.problem(stage.place, text);
        }
    }

    fn stage(&mut self, node: &Node) -> Option<Stage> {
        let mut outer = self.fields(node, "a stage")?;
        let place = outer.place;
        let spec = match outer.take("spec") {
            Some(node) => {
                let mut spec = self.fields(node, "the spec of a stage")?;
                spec.elsewhere(BESIDE_SPEC, "it belongs beside 'spec'");
                outer.elsewhere(IN_SPEC, "it belongs in 'spec'");
                Some(spec)
            }
            None => None,
        };
        outer.elsewhere(&["steps"], "it belongs in 'execution'");
        outer.elsewhere(
            &["template"],
            "templates are kept in Harness: write out the stage",
        );
        let mut parts = Parts { outer, spec };
        self.kind(&mut parts.outer);
        let (identifier, name) = self.identity(&mut parts.outer, Some("stage"))?;
        self.context.set("stage.identifier", identifier.clone());
        self.context.set("stage.name", name.clone());
        self.context.set("stage.type", "CI");
        let node_env = self.run_of_stage(parts.outer.take("strategy"));
        let mut variables = self.variables(parts.outer.take("variables"));
        self.resolve("stage", &mut variables);
        let when = parts.outer.take("when");
        let failure = parts.outer.take("failureStrategies");
        let timeout = parts.outer.take("timeout");
        parts.outer.skip(&["description", "tags"]);
        let infrastructure = ["delegateSelectors", "skipInstances", "pipelineVariables"];
        parts
            .outer
            .leave_out(self, &infrastructure, "infrastructure");

        let workspace = parts.own("workspace");
        let env = parts.own("envVariables");
        let inner = parts.in_spec();
        let shared = inner.take("sharedPaths");
        let caching = inner.take_with_place("caching");
        let execution = inner.take("execution");
        inner.leave_out(self, &INFRASTRUCTURE, "infrastructure");
        self.clone_codebase(parts.in_spec());
        let dependencies = "services are not started; write them as Background steps";
        parts
            .in_spec()
            .leave_out(self, &["serviceDependencies"], dependencies);
        let Parts { outer, spec } = parts;
        outer.finish(self);
        if let Some(spec) = spec {
            spec.finish(self);
        }

        let (workspace, sharing) = self.workspace(workspace);
        Some(Stage {
            name,
            identifier,
            shared_paths: self.shared_paths(shared, sharing),
            workspace,
            variables,
            env: node_env.into_iter().chain(self.env(env)).collect(),
            timeout: timeout.and_then(|node| self.duration(node, "timeout")),
            body: self.execution(place, execution),
            failure: self.failure_strategies(failure),
            when: self.when(when, "pipelineStatus"),
            caching: self.caching(caching),
            notices: Vec::new(),
            context: self.context.clone(),
        })
    }

    fn kind(&mut self, outer: &mut Fields<'_>) {
        let Some(node) = outer.take("type") else {
            return;
        };
        let kind = self.known(node, "the type of a stage");
        if let Some(kind) = kind.filter(|kind| kind != "CI") {
            let text = format!(
                "a stage of type '{}' is not run here, only CI",
                shown(&kind)
            );
            self.problem(node.place, text);
        }
    }

    /// Takes one run of a stage that has a strategy: in Harness each is on a machine of its own.
    /// Gives what is in its environment.
    fn run_of_stage(&mut self, node: Option<&Node>) -> Vec<Variable> {
        let Some(strategy) = self.strategy(node) else {
            return Vec::new();
        };
        let before = self.problems.len();
        check::strategy(&strategy, &self.context, &mut self.used, &mut self.problems);
        if self.problems.len() > before {
            return Vec::new();
        }
        let expansion = expand(Some(&strategy), &self.context);
        let Some(expansion) = self.ok(expansion) else {
            return Vec::new();
        };
        let instances = expansion.instances;
        let wanted = self.iteration.as_deref();
        let index = wanted.and_then(|wanted| wanted.trim().parse::<usize>().ok());
        self.used.insert(ITERATION.to_owned());
        let Some(instance) = index.and_then(|index| instances.get(index)) else {
            let text = format!(
                "the stage runs {} times, each in a workspace of its own; choose one run with \
                 --var strategy.iteration=N, from 0 to {}",
                instances.len(),
                instances.len() - 1
            );
            self.problem(strategy.place, text);
            // Its texts can be checked all the same.
            let first = instances.first();
            self.context = first.map_or_else(Context::default, |first| self.context.enter(first));
            return Vec::new();
        };
        self.notices.push(Notice {
            place: strategy.place,
            text: format!(
                "of the stage's strategy at line {} this is run {} of {}: {}",
                strategy.place.line, instance.index, instance.total, instance.label
            ),
        });
        self.context = self.context.enter(instance);
        for (key, value) in &instance.values {
            self.context.set(format!("stage.{key}"), value.clone());
        }
        let variable = |(name, value): &(String, String)| Variable {
            name: name.clone(),
            value: Text::literal(value.clone(), strategy.place),
            secret: false,
        };
        instance.env.iter().map(variable).collect()
    }

    /// `false` asks for nothing.
    fn clone_codebase(&mut self, fields: &mut Fields<'_>) {
        let Some((place, node)) = fields.take_with_place("cloneCodebase") else {
            return;
        };
        if self.raw(node, "cloneCodebase") != Some("false") {
            self.left_out(
                "cloneCodebase",
                place,
                "the workspace is used as it is; nothing is cloned",
            );
        }
    }

    fn execution(&mut self, place: Place, node: Option<&Node>) -> Vec<crate::stagefile::Node> {
        let Some(node) = node else {
            self.problem(place, "a stage has no 'execution' with 'steps'");
            return Vec::new();
        };
        let Some(mut fields) = self.fields(node, "execution") else {
            return Vec::new();
        };
        let place = fields.place;
        let steps = fields.take("steps");
        let rollback = fields.take_with_place("rollbackSteps");
        fields.finish(self);
        // Harness writes an empty list there.
        let some = |node: &Node| !matches!(&node.value, Value::List(list) if list.is_empty());
        if let Some((place, _)) = rollback.filter(|(_, node)| some(node)) {
            let text = "rollbackSteps are not run here; use a step with \
                        'when: {stageStatus: Failure}'";
            self.problem(place, text);
        }
        match steps {
            Some(node) => self.nodes(node, "steps"),
            None => {
                self.problem(place, "execution has no 'steps'");
                Vec::new()
            }
        }
    }
}

/// What a field of a map says, if it is text.
fn text_of<'n>(node: &'n Node, name: &str) -> Option<&'n str> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let entry = entries.iter().find(|entry| entry.key == name)?;
    match &entry.node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

fn is_called(node: &Node, name: &str) -> bool {
    [text_of(node, "identifier"), text_of(node, "name")].contains(&Some(name))
}
