//! What a stage file says, with every field checked.

use std::path::PathBuf;
use std::time::Duration;

use super::{Context, Expression, Notice, Place, Text};
use crate::merge::{Policy, SharingMode, SuffixPattern};

/// A stage: what to mount, and what to run.
#[derive(Clone, Debug)]
pub struct Stage {
    /// `name`, else the identifier; `stage` without either.
    pub name: String,
    /// `identifier`, else made of the name.
    pub identifier: String,
    /// The `workspace:` block.
    pub workspace: Workspace,
    /// `sharedPaths`, in the file's order.
    pub shared_paths: Vec<SharedPath>,
    /// `variables`, in the file's order. [`Stage::context`] has their values.
    pub variables: Vec<Variable>,
    /// `envVariables` of the stage, for every step in it.
    pub env: Vec<Variable>,
    /// `timeout` of the stage: when it is over, the stage has failed and ends.
    pub timeout: Option<Duration>,
    /// `execution.steps`, to be run in this order.
    pub body: Vec<Node>,
    /// `failureStrategies` of the stage.
    pub failure: Vec<FailureStrategy>,
    /// `when` of the stage; its status is `pipelineStatus`, and nothing has failed before it.
    pub when: Option<When>,
    /// `caching`.
    pub caching: Option<Caching>,
    /// What is left out of what the file says, to be printed before the stage runs.
    pub notices: Vec<Notice>,
    /// What is known before the first step: given values and variables.
    pub(super) context: Context,
}

impl Stage {
    /// What is known before the first step: what was given, the variables, the name.
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// What is not to be printed: values of `secrets.getValue(…)`, and of variables that are
    /// secret. Empty ones are left out.
    pub fn secrets(&self) -> Vec<String> {
        let variables = self.variables.iter().filter(|variable| variable.secret);
        let variables = variables.map(|variable| format!("stage.variables.{}", variable.name));
        let given = self.context.names("secrets.");
        let keys = given.map(|name| format!("secrets.{name}")).chain(variables);
        let values = keys.filter_map(|key| self.context.get(&key).map(str::to_owned));
        let mut secrets: Vec<String> = values.filter(|value| !value.is_empty()).collect();
        secrets.sort();
        secrets.dedup();
        secrets
    }
}

/// Our own block: where the stage works, and how its steps are merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// `path`: absolute; `/harness` unless the file says otherwise.
    pub path: PathBuf,
    /// `policies`, the first that matches wins.
    pub policies: Vec<PolicyRule>,
    /// `keepBothAs`: how `keep-both` names the later side's version.
    pub keep_both_as: Option<SuffixPattern>,
    /// `onConflict`: one policy for every conflict.
    pub on_conflict: Option<Policy>,
    /// `strict`: what a step read and an earlier member of its group changed is a conflict.
    pub strict: bool,
    /// `onFailure`: what the layer of a failed step becomes.
    pub on_failure: FailedLayer,
}

/// One of `workspace.policies`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// `match`: a pattern that [`crate::merge::Policies::rule`] takes.
    pub pattern: String,
    /// `onConflict`.
    pub policy: Policy,
}

/// What becomes of what a failed step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailedLayer {
    /// It is dropped.
    Discard,
    /// It is kept aside, to be looked at.
    Keep,
    /// It is merged as if the step had succeeded.
    Merge,
    /// Of it, what these patterns match is merged; patterns are those of
    /// [`crate::merge::Policies`]. The rest is dropped.
    MergeMatching(Vec<String>),
}

/// A shared path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPath {
    /// Absolute.
    pub path: PathBuf,
    /// How steps share it.
    pub mode: SharingMode,
    /// Where the file names it.
    pub place: Place,
}

/// A name and the text that gives its value.
#[derive(Clone, Debug)]
pub struct Variable {
    /// The name.
    pub name: String,
    /// The value.
    pub value: Text,
    /// `type: Secret`: it is not to be printed.
    pub secret: bool,
}

/// What a list of steps is made of.
#[derive(Clone, Debug)]
pub enum Node {
    /// `step:`
    Step(Box<Step>),
    /// `stepGroup:`
    Group(Box<Group>),
    /// `parallel:`
    Parallel(Parallel),
}

/// Steps and step groups that run at the same time, and are merged in this order.
#[derive(Clone, Debug)]
pub struct Parallel {
    /// Only [`Node::Step`] and [`Node::Group`].
    pub members: Vec<Node>,
    /// Where `parallel` is.
    pub place: Place,
}

/// Steps that belong together; they run one after the other.
#[derive(Clone, Debug)]
pub struct Group {
    /// Unique among its siblings.
    pub identifier: String,
    /// For people.
    pub name: String,
    /// Where it begins.
    pub place: Place,
    /// `variables`, for `<+stepGroup.variables.NAME>`.
    pub variables: Vec<Variable>,
    /// `envVariables`, for every step in it.
    pub env: Vec<Variable>,
    /// `steps`.
    pub body: Vec<Node>,
    /// `when`.
    pub when: Option<When>,
    /// `strategy`: the group as a whole runs several times.
    pub strategy: Option<Strategy>,
    /// `failureStrategies`, for its steps.
    pub failure: Vec<FailureStrategy>,
}

/// A step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Unique among its siblings.
    pub identifier: String,
    /// For people.
    pub name: String,
    /// Where it begins.
    pub place: Place,
    /// Run, or Background.
    pub kind: StepKind,
    /// What it runs.
    pub command: Command,
    /// `envVariables`. They win over those of its groups, which win over those of the stage.
    pub env: Vec<Variable>,
    /// `runAsUser`: a user id.
    pub run_as_user: Option<u32>,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `when`.
    pub when: Option<When>,
    /// `strategy`; never of a background step.
    pub strategy: Option<Strategy>,
    /// `failureStrategies`.
    pub failure: Vec<FailureStrategy>,
    /// `outputVariables`; never of a background step.
    pub output_variables: Vec<OutputVariable>,
    /// `workspace.onFailure` of the step; else the stage's.
    pub on_failure: Option<FailedLayer>,
    /// `workspace.onConflict` of the step; else the stage's.
    pub on_conflict: Option<Policy>,
}

/// The kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// It has ended before the next one begins.
    Run,
    /// It runs until the stage ends.
    Background,
}

/// What a step runs.
#[derive(Clone, Debug)]
pub enum Command {
    /// `command` in `shell`.
    Script {
        /// `shell`.
        shell: Shell,
        /// `command`.
        script: Text,
    },
    /// `entrypoint` of a background step: a program and its arguments.
    Words(Vec<Text>),
}

/// What runs a script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shell {
    /// `sh`.
    #[default]
    Sh,
    /// `bash`.
    Bash,
    /// `python3`.
    Python,
    /// `pwsh`.
    Pwsh,
}

/// One of `outputVariables`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputVariable {
    /// The name in expressions.
    pub name: String,
    /// `value`: the variable of the script that holds the value at its end; else the name.
    pub from: String,
    /// `type: Secret`: it is not to be printed.
    pub secret: bool,
    /// Where it is.
    pub place: Place,
}

/// When something runs.
#[derive(Clone, Debug)]
pub struct When {
    /// `stageStatus`.
    pub status: WhenStatus,
    /// `condition`.
    pub condition: Option<Condition>,
    /// Where it is.
    pub place: Place,
}

/// What must have become of the stage so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenStatus {
    /// No step has failed.
    #[default]
    Success,
    /// A step has failed.
    Failure,
    /// Either.
    All,
}

/// An expression that says yes or no.
#[derive(Clone, Debug)]
pub struct Condition {
    pub(super) expression: Expression,
    /// As it is written.
    pub source: String,
    /// Where it is.
    pub place: Place,
}

/// How often a step or a group runs, and with what.
#[derive(Clone, Debug)]
pub struct Strategy {
    /// Which of the three.
    pub kind: StrategyKind,
    /// `maxConcurrency`: how many at the same time; all of them without it.
    pub max_concurrency: Option<Text>,
    /// Where it is.
    pub place: Place,
}

/// The three looping strategies.
#[derive(Clone, Debug)]
pub enum StrategyKind {
    /// `matrix`: each combination of the axes' values.
    Matrix {
        /// The axes, in the file's order.
        axes: Vec<(String, Items)>,
        /// `exclude`: combinations that do not run, each by some of the axes.
        exclude: Vec<Vec<(String, Text)>>,
        /// `nodeName`: what an instance is called for people.
        node_name: Option<Text>,
    },
    /// `repeat.times`.
    Times(Text),
    /// `repeat.items`.
    Items {
        /// The items.
        items: Items,
        /// `nodeName`.
        node_name: Option<Text>,
    },
    /// `parallelism`.
    Parallelism(Text),
}

/// Values to go through.
#[derive(Clone, Debug)]
pub enum Items {
    /// A list.
    List(Vec<Text>),
    /// One expression that gives a list: a JSON array, or items with commas between.
    Text(Text),
}

/// What is to be done when a step has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureStrategy {
    /// `onFailure.errors`.
    pub errors: Vec<ErrorType>,
    /// `onFailure.action`.
    pub action: Action,
    /// Where it is.
    pub place: Place,
}

/// What a failure strategy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// Any failure.
    AllErrors,
    /// The step's `timeout` was over.
    Timeout,
    /// The command failed.
    Unknown,
    /// One that can only occur in Harness itself, such as `DelegateProvisioning`.
    Never,
}

/// What a failure strategy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `Ignore`: the failure is shown, and the stage goes on as if there had been none.
    Ignore,
    /// `MarkAsSuccess`: the step counts as one that succeeded.
    MarkAsSuccess,
    /// `MarkAsFailure`: as without a strategy.
    MarkAsFailure,
    /// `Abort`: the stage ends at once; what runs is ended, and nothing more is begun.
    Abort,
    /// `Retry`.
    Retry {
        /// `retryCount`: how often at most, after the first time.
        count: u32,
        /// `retryIntervals`: how long to wait before each; the last one also for all further.
        intervals: Vec<Duration>,
        /// `onRetryFailure`: what to do after the last; else `MarkAsFailure`. Never `Retry`.
        then: Option<Box<Action>>,
    },
}

/// `caching`: what is restored before the first step, and saved after the last.
#[derive(Clone, Debug)]
pub struct Caching {
    /// `enabled`, and with a key and paths that this version understands.
    pub enabled: bool,
    /// `key`.
    pub key: Option<Text>,
    /// `restoreKeys`, our own: what other keys may begin with.
    pub restore_keys: Vec<Text>,
    /// `store`, our own: the URL.
    pub store: Option<Text>,
    /// `scope`, our own.
    pub scope: Option<Text>,
    /// `scopeFallback`, our own: where keys are looked for too.
    pub scope_fallback: Vec<Text>,
    /// `failIfKeyNotFound`, our own.
    pub fail_if_key_not_found: bool,
    /// `saveOnFailure`, our own: save even if a step has failed.
    pub save_on_failure: bool,
    /// `onStoreError: fail`, our own; else the stage runs without.
    pub fail_on_store_error: bool,
    /// `paths`.
    pub paths: Vec<Text>,
    /// `policy`.
    pub policy: CachePolicy,
    /// `override`: save even if there is one under the key.
    pub overwrite: bool,
    /// Where it is.
    pub place: Place,
}

impl Caching {
    /// All texts in it.
    pub fn texts(&self) -> impl Iterator<Item = &Text> {
        let one = [&self.key, &self.store, &self.scope].into_iter().flatten();
        let many = [&self.paths, &self.restore_keys, &self.scope_fallback];
        one.chain(many.into_iter().flatten())
    }
}

/// Which way a cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// Restored only.
    Pull,
    /// Saved only.
    Push,
    /// Both.
    #[default]
    PullPush,
}
