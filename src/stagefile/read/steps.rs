//! `steps`: steps, groups, and what runs in parallel.

use std::collections::HashMap;

use super::Reader;
use super::fields::Fields;
use crate::stagefile::place::shown;
use crate::stagefile::yaml::{Node as Yaml, Value};
use crate::stagefile::{
    Command, Group, Node, OutputVariable, Parallel, Place, Shell, Step, StepKind, Text,
};

/// The identifiers of one list of steps, and the lines that they are on.
type Seen = HashMap<String, usize>;

/// What is done by the machine that runs a step's container.
const INFRASTRUCTURE: [&str; 6] = [
    "image",
    "connectorRef",
    "imagePullPolicy",
    "privileged",
    "resources",
    "portBindings",
];

const IN_SPEC: &[&str] = &[
    "command",
    "shell",
    "envVariables",
    "runAsUser",
    "outputVariables",
    "image",
    "connectorRef",
    "entrypoint",
    "reports",
];

const BESIDE_SPEC: &[&str] = &[
    "timeout",
    "when",
    "strategy",
    "failureStrategies",
    "workspace",
    "name",
    "identifier",
];

const NO_TEMPLATES: &str = "templates are kept in Harness, not here: write out what it stands for";

impl Reader {
    /// A list of steps.
    pub fn nodes(&mut self, node: &Yaml, what: &str) -> Vec<Node> {
        let items = self.list(node, what);
        if items.is_empty() && matches!(node.value, Value::List(_)) {
            self.problem(node.place, format!("{what} is empty"));
        }
        let mut seen = Seen::new();
        items
            .into_iter()
            .filter_map(|item| self.node(item, &mut seen, true))
            .collect()
    }

    fn node(&mut self, node: &Yaml, seen: &mut Seen, may_be_parallel: bool) -> Option<Node> {
        let mut fields = self.fields(node, "an entry of a list of steps")?;
        let place = fields.place;
        let step = fields.take("step");
        let group = fields.take("stepGroup");
        let parallel = fields.take_with_place("parallel");
        fields.elsewhere(
            &["type", "spec", "name", "identifier", "command"],
            "put 'step:' before it",
        );
        fields.elsewhere(&["insert", "template"], NO_TEMPLATES);
        fields.finish(self);
        match (step, group, parallel) {
            (Some(step), None, None) => Some(Node::Step(Box::new(self.step(step, seen)?))),
            (None, Some(group), None) => Some(Node::Group(Box::new(self.group(group, seen)?))),
            (None, None, Some((place, list))) if may_be_parallel => {
                let items = self.list(list, "parallel");
                if items.is_empty() && matches!(list.value, Value::List(_)) {
                    self.problem(list.place, "parallel is empty");
                }
                let members = items
                    .into_iter()
                    .filter_map(|item| self.node(item, seen, false))
                    .collect();
                Some(Node::Parallel(Parallel { members, place }))
            }
            (None, None, Some((place, _))) => {
                let text = "a member of 'parallel' is a step or a stepGroup; a stepGroup can have \
                            a 'parallel' in it";
                self.problem(place, text);
                None
            }
            _ => {
                let text = "an entry of a list of steps is one of 'step', 'stepGroup', 'parallel'";
                self.problem(place, text);
                None
            }
        }
    }

    /// The identifier and the name, of which one can be made of the other.
    pub fn identity(
        &mut self,
        fields: &mut Fields<'_>,
        default: Option<&str>,
    ) -> Option<(String, String)> {
        let identifier = fields.take("identifier");
        let name = fields.take("name");
        let place = identifier.or(name).map_or(fields.place, |node| node.place);
        let name = match name {
            Some(node) => Some(self.name(node, "the name")?),
            None => None,
        };
        let identifier = match (identifier, &name) {
            (Some(node), _) => self.known(node, "identifier")?,
            (None, Some(name)) => identifier_of(name),
            (None, None) => match default {
                Some(default) => default.to_owned(),
                None => {
                    self.problem(place, format!("{} has no 'identifier'", fields.what));
                    return None;
                }
            },
        };
        if !is_identifier(&identifier) {
            let text = format!(
                "the identifier '{}' is not a letter or '_', followed by up to 127 letters, \
                 digits, '_' or '$'",
                shown(&identifier)
            );
            self.problem(place, text);
            return None;
        }
        let name = name.unwrap_or_else(|| identifier.clone());
        Some((identifier, name))
    }

    fn unique(&mut self, identifier: &str, place: Place, seen: &mut Seen) {
        match seen.insert(identifier.to_owned(), place.line) {
            None => {}
            Some(line) => {
                let text =
                    format!("the identifier '{identifier}' is there already, at line {line}");
                self.problem(place, text);
            }
        }
    }

    fn group(&mut self, node: &Yaml, seen: &mut Seen) -> Option<Group> {
        let mut fields = self.fields(node, "a step group")?;
        let place = fields.place;
        let identity = self.identity(&mut fields, None);
        let variables = fields.take("variables");
        let env = fields.take("envVariables");
        let steps = fields.take("steps");
        let when = fields.take("when");
        let strategy = fields.take("strategy");
        let failure = fields.take("failureStrategies");
        fields.skip(&["description", "tags"]);
        let infrastructure = ["delegateSelectors", "stepGroupInfra", "sharedPaths"];
        fields.leave_out(self, &infrastructure, "infrastructure");
        fields.elsewhere(&["template", "templateInputs"], NO_TEMPLATES);
        fields.elsewhere(&["step", "parallel"], "it belongs in 'steps'");
        fields.elsewhere(&["workspace"], "it belongs to the stage or to its steps");
        fields.finish(self);
        if let Some((identifier, _)) = &identity {
            self.unique(identifier, place, seen);
        }
        let group = Group {
            identifier: String::new(),
            name: String::new(),
            place,
            variables: self.variables(variables),
            env: self.env(env),
            when: self.when(when, "stageStatus"),
            strategy: self.strategy(strategy),
            failure: self.failure_strategies(failure),
            body: match steps {
                Some(node) => self.nodes(node, "steps"),
                None => {
                    self.problem(place, "a step group has no 'steps'");
                    Vec::new()
                }
            },
        };
        let (identifier, name) = identity?;
        Some(Group {
            identifier,
            name,
            ..group
        })
    }

    fn step(&mut self, node: &Yaml, seen: &mut Seen) -> Option<Step> {
        let mut fields = self.fields(node, "a step")?;
        let place = fields.place;
        let identity = self.identity(&mut fields, None);
        let kind = fields.take("type");
        let spec = fields.take("spec");
        let timeout = fields.take_with_place("timeout");
        let when = fields.take("when");
        let strategy = fields.take_with_place("strategy");
        let failure = fields.take_with_place("failureStrategies");
        let workspace = fields.take_with_place("workspace");
        fields.skip(&["description"]);
        fields.leave_out(self, &["enforce", "delegateSelectors"], "infrastructure");
        fields.elsewhere(&["template"], NO_TEMPLATES);
        fields.elsewhere(IN_SPEC, "it belongs in 'spec'");
        fields.finish(self);
        if let Some((identifier, _)) = &identity {
            self.unique(identifier, place, seen);
        }
        let kind = match kind {
            Some(node) => self.step_kind(node),
            None => {
                self.problem(place, "a step has no 'type': Run or Background");
                None
            }
        };
        let spec = match (spec, kind) {
            (Some(node), Some(kind)) => self.spec(node, kind),
            (None, _) => {
                self.problem(place, "a step has no 'spec'");
                None
            }
            (Some(_), None) => None,
        };
        let mut step = Step {
            identifier: String::new(),
            name: String::new(),
            place,
            kind: StepKind::Run,
            command: Command::Words(Vec::new()),
            env: Vec::new(),
            run_as_user: None,
            timeout: timeout.and_then(|(_, node)| self.duration(node, "timeout")),
            when: self.when(when, "stageStatus"),
            strategy: self.strategy(strategy.map(|(_, node)| node)),
            failure: self.failure_strategies(failure.map(|(_, node)| node)),
            output_variables: Vec::new(),
            on_failure: None,
            on_conflict: None,
        };
        if let Some((_, node)) = workspace {
            (step.on_failure, step.on_conflict) = self.step_workspace(node);
        }
        if kind == Some(StepKind::Background) {
            self.in_background(&mut step, [timeout, failure], [strategy, workspace]);
        }
        let (identifier, name) = identity?;
        // What is wrong in a step keeps the stage from being run; that others refer to the step is
        // no mistake of theirs.
        let spec = spec.unwrap_or_default();
        Some(Step {
            identifier,
            name,
            kind: kind.unwrap_or(StepKind::Run),
            command: spec.command.unwrap_or(step.command),
            env: spec.env,
            run_as_user: spec.run_as_user,
            output_variables: spec.output_variables,
            timeout: step.timeout,
            when: step.when,
            strategy: step.strategy,
            failure: step.failure,
            on_failure: step.on_failure,
            on_conflict: step.on_conflict,
            place,
        })
    }

    /// A background step ends with the stage, and has neither an end nor a layer of its own.
    fn in_background(
        &mut self,
        step: &mut Step,
        left_out: [Option<(Place, &Yaml)>; 2],
        refused: [Option<(Place, &Yaml)>; 2],
    ) {
        let names = ["timeout", "failureStrategies"];
        for (name, field) in names.into_iter().zip(left_out) {
            if let Some((place, _)) = field {
                self.left_out(name, place, "a background step runs until the stage ends");
            }
        }
        step.timeout = None;
        step.failure = Vec::new();
        let reasons = [
            "a background step runs once; it has no 'strategy'",
            "a background step works in the stage itself; it has no 'workspace'",
        ];
        for (reason, field) in reasons.into_iter().zip(refused) {
            if let Some((place, _)) = field {
                self.problem(place, reason);
            }
        }
    }

    fn step_kind(&mut self, node: &Yaml) -> Option<StepKind> {
        let name = self.known(node, "the type of a step")?;
        match name.as_str() {
            "Run" => Some(StepKind::Run),
            "Background" => Some(StepKind::Background),
            _ => {
                let known = ["Run", "Background"];
                let hint = match super::nearest(&name, known.into_iter()) {
                    Some(known) => format!("did you mean '{known}'?"),
                    None => "there are Run and Background; write it as a Run step".to_owned(),
                };
                let text = format!(
                    "a step of type '{}' cannot be run here; {hint}",
                    shown(&name)
                );
                self.problem(node.place, text);
                None
            }
        }
    }

    fn spec(&mut self, node: &Yaml, kind: StepKind) -> Option<Spec> {
        let what = match kind {
            StepKind::Run => "the spec of a Run step",
            StepKind::Background => "the spec of a Background step",
        };
        let mut fields = self.fields(node, what)?;
        let place = fields.place;
        let command = fields.take("command");
        let shell = fields.take("shell");
        let env = fields.take("envVariables");
        let user = fields.take("runAsUser");
        let (mut outputs, mut entrypoint) = (None, None);
        match kind {
            StepKind::Run => outputs = fields.take("outputVariables"),
            StepKind::Background => entrypoint = fields.take("entrypoint"),
        }
        fields.leave_out(self, &INFRASTRUCTURE, "infrastructure");
        fields.leave_out(
            self,
            &["reports"],
            "test results are shown in Harness; the files stay in the workspace",
        );
        fields.elsewhere(BESIDE_SPEC, "it belongs beside 'spec'");
        let env_of_others = &["env", "environment", "environmentVariables"];
        fields.elsewhere(env_of_others, "did you mean 'envVariables'?");
        match kind {
            StepKind::Run => fields.elsewhere(&["entrypoint"], "write it as 'command'"),
            StepKind::Background => {
                fields.elsewhere(&["outputVariables"], "a background step has no outputs");
            }
        }
        fields.finish(self);
        let shell = match shell {
            Some(node) => self.shell(node),
            None => Some(Shell::default()),
        };
        let command = match (command, entrypoint) {
            (Some(node), None) => self.script(node, shell),
            (None, Some(node)) => self.words(node),
            (Some(command), Some(node)) => {
                self.left_out("command", command.place, "the entrypoint goes before it");
                self.words(node)
            }
            (None, None) => {
                let text = match kind {
                    StepKind::Run => "a Run step has no 'command'",
                    StepKind::Background => {
                        "a Background step has no 'command': what its image would run is not \
                         known here"
                    }
                };
                self.problem(place, text);
                None
            }
        };
        Some(Spec {
            command,
            env: self.env(env),
            run_as_user: user.and_then(|node| self.number(node, "runAsUser", u32::MAX - 1)),
            output_variables: self.output_variables(outputs),
        })
    }

    fn script(&mut self, node: &Yaml, shell: Option<Shell>) -> Option<Command> {
        let script = self.text(node, "command")?;
        if script
            .as_literal()
            .is_some_and(|text| text.trim().is_empty())
        {
            self.problem(node.place, "the command is empty");
        }
        Some(Command::Script {
            shell: shell?,
            script,
        })
    }

    fn words(&mut self, node: &Yaml) -> Option<Command> {
        let mut words: Vec<Text> = Vec::new();
        for item in self.list(node, "entrypoint") {
            words.push(self.text(item, "a word of entrypoint")?);
        }
        if words.is_empty() {
            self.problem(node.place, "entrypoint names no program");
            return None;
        }
        Some(Command::Words(words))
    }

    fn shell(&mut self, node: &Yaml) -> Option<Shell> {
        let name = self.known(node, "shell")?;
        if name == "Powershell" {
            let text = "the shell 'Powershell' is that of Windows; use 'Pwsh'";
            self.problem(node.place, text);
            return None;
        }
        let shells = [
            ("Sh", Shell::Sh),
            ("Bash", Shell::Bash),
            ("Python", Shell::Python),
            ("Pwsh", Shell::Pwsh),
        ];
        self.choice(node, "shell", &shells)
    }

    fn output_variables(&mut self, node: Option<&Yaml>) -> Vec<OutputVariable> {
        let mut variables: Vec<OutputVariable> = Vec::new();
        let Some(node) = node else {
            return variables;
        };
        for item in self.short_list(node, "outputVariables") {
            let Some(variable) = self.output_variable(item) else {
                continue;
            };
            if variables.iter().any(|other| other.name == variable.name) {
                let text = format!("an output variable '{}' is there already", variable.name);
                self.problem(variable.place, text);
                continue;
            }
            variables.push(variable);
        }
        variables
    }

    fn output_variable(&mut self, node: &Yaml) -> Option<OutputVariable> {
        let mut fields = self.fields(node, "an output variable")?;
        let place = fields.place;
        let name = fields.take("name");
        let kind = fields.take("type");
        let value = fields.take("value");
        fields.skip(&["description", "required"]);
        fields.finish(self);
        let Some(name) = name else {
            self.problem(place, "an output variable has no 'name'");
            return None;
        };
        let kinds = [("String", false), ("Secret", true)];
        let secret = match kind {
            Some(node) => self.choice(node, "type of an output variable", &kinds)?,
            None => false,
        };
        let from = value.unwrap_or(name);
        let name = self.shell_name(name, "the name of an output variable")?;
        let from = self.shell_name(from, "the value of an output variable")?;
        Some(OutputVariable {
            name,
            from,
            secret,
            place,
        })
    }

    /// The name of a variable of a script.
    fn shell_name(&mut self, node: &Yaml, what: &str) -> Option<String> {
        let name = self.known(node, what)?;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let digit = name.starts_with(|c: char| c.is_ascii_digit());
        if !name.is_empty() && !digit && name.len() <= 128 && name.chars().all(good) {
            return Some(name);
        }
        let text = format!(
            "{what} is the name of a variable in the script, of letters, digits and '_', not '{}'",
            shown(&name)
        );
        self.problem(node.place, text);
        None
    }
}

/// What a step's `spec` says.
#[derive(Default)]
struct Spec {
    command: Option<Command>,
    env: Vec<crate::stagefile::Variable>,
    run_as_user: Option<u32>,
    output_variables: Vec<OutputVariable>,
}

/// As Harness makes identifiers of names.
fn identifier_of(name: &str) -> String {
    let mut identifier = String::new();
    for c in name.trim().chars() {
        match c {
            ' ' | '-' | '.' => identifier.push('_'),
            _ if c.is_ascii_alphanumeric() || c == '_' || c == '$' => identifier.push(c),
            _ => {}
        }
    }
    if identifier.starts_with(|c: char| c.is_ascii_digit() || c == '$') {
        identifier.insert(0, '_');
    }
    identifier
}

fn is_identifier(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
    let first = text.chars().next();
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && text.len() <= 128
        && text.chars().all(good)
}
