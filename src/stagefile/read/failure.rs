//! `failureStrategies` and `when`.

use super::Reader;
use super::fields::Fields;
use crate::stagefile::place::shown;
use crate::stagefile::yaml::{Node, Value};
use crate::stagefile::{Action, ErrorType, FailureStrategy, When, WhenStatus};

/// What Harness knows and what it is here.
const ERRORS: [(&str, ErrorType); 18] = [
    ("AllErrors", ErrorType::AllErrors),
    ("Timeout", ErrorType::Timeout),
    ("Unknown", ErrorType::Unknown),
    ("ApprovalRejection", ErrorType::Never),
    ("Authentication", ErrorType::Never),
    ("Authorization", ErrorType::Never),
    ("ConfigurationFailure", ErrorType::Never),
    ("Connectivity", ErrorType::Never),
    ("DelegateProvisioning", ErrorType::Never),
    ("DelegateRestart", ErrorType::Never),
    ("InfrastructureFailure", ErrorType::Never),
    ("InputTimeoutError", ErrorType::Never),
    ("PluginImageFailure", ErrorType::Never),
    ("PolicyEvaluationFailure", ErrorType::Never),
    ("ResourceLimitsFailure", ErrorType::Never),
    ("RetryableTransientFailure", ErrorType::Never),
    ("UserMarkedFailure", ErrorType::Never),
    ("Verification", ErrorType::Never),
];

/// The types of actions that are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Retry,
    Ignore,
    MarkAsSuccess,
    MarkAsFailure,
    Abort,
}

const ACTIONS: [(&str, Kind); 5] = [
    ("Retry", Kind::Retry),
    ("Ignore", Kind::Ignore),
    ("MarkAsSuccess", Kind::MarkAsSuccess),
    ("MarkAsFailure", Kind::MarkAsFailure),
    ("Abort", Kind::Abort),
];

/// Actions of Harness that cannot be done here, and what to do.
const OTHERS: [(&str, &str); 7] = [
    ("ManualIntervention", "nobody is asked here"),
    (
        "StageRollback",
        "there is nothing to roll back: what a failed step did is not merged",
    ),
    (
        "PipelineRollback",
        "there is nothing to roll back: what a failed step did is not merged",
    ),
    (
        "StepGroupRollback",
        "there is nothing to roll back: what a failed step did is not merged",
    ),
    (
        "RetryStepGroup",
        "a group is not begun again; put Retry on its steps",
    ),
    (
        "ProceedWithDefaultValues",
        "there are no inputs to wait for",
    ),
    ("ProceedWithDefaultValue", "there are no inputs to wait for"),
];

impl Reader {
    /// `failureStrategies`.
    pub fn failure_strategies(&mut self, node: Option<&Node>) -> Vec<FailureStrategy> {
        let Some(node) = node else {
            return Vec::new();
        };
        let items = self.list(node, "failureStrategies");
        items
            .into_iter()
            .filter_map(|item| self.failure_strategy(item))
            .collect()
    }

    fn failure_strategy(&mut self, node: &Node) -> Option<FailureStrategy> {
        let mut fields = self.fields(node, "a failure strategy")?;
        let place = fields.place;
        let on_failure = fields.take("onFailure");
        fields.elsewhere(&["errors", "action"], "it belongs in 'onFailure'");
        fields.finish(self);
        let Some(on_failure) = on_failure else {
            self.problem(place, "a failure strategy has no 'onFailure'");
            return None;
        };
        let mut fields = self.fields(on_failure, "onFailure")?;
        let errors = fields.take("errors");
        let action = fields.take("action");
        fields.finish(self);
        let errors = match errors {
            Some(node) => self.errors(node),
            None => {
                self.problem(
                    place,
                    "a failure strategy has no 'errors', such as [AllErrors]",
                );
                Vec::new()
            }
        };
        let Some(action) = action else {
            self.problem(place, "a failure strategy has no 'action'");
            return None;
        };
        let action = self.action(action, true)?;
        Some(FailureStrategy {
            errors,
            action,
            place,
        })
    }

    fn errors(&mut self, node: &Node) -> Vec<ErrorType> {
        let mut errors = Vec::new();
        for item in self.list(node, "errors") {
            let Some(error) = self.choice(item, "error type", &ERRORS) else {
                continue;
            };
            if error == ErrorType::Never {
                let name = self
                    .raw(item, "an error type")
                    .unwrap_or_default()
                    .to_owned();
                let field = format!("error type {}", shown(&name));
                self.left_out(&field, item.place, "it can only occur in Harness itself");
            }
            errors.push(error);
        }
        if matches!(&node.value, Value::List(list) if list.is_empty()) {
            self.problem(node.place, "errors is empty; all are AllErrors");
        }
        errors
    }

    fn action(&mut self, node: &Node, may_retry: bool) -> Option<Action> {
        let mut fields = self.fields(node, "an action")?;
        let place = fields.place;
        let kind = fields.take("type");
        let spec = fields.take("spec");
        fields.elsewhere(
            &["retryCount", "retryIntervals", "onRetryFailure"],
            "it belongs in 'spec'",
        );
        fields.finish(self);
        let Some(kind) = kind else {
            self.problem(place, "an action has no 'type', such as Ignore");
            return None;
        };
        let name = self.known(kind, "the type of an action")?;
        if let Some((name, why)) = OTHERS.iter().find(|(other, _)| *other == name) {
            let text = format!(
                "the action '{name}' cannot be done here: {why}; there are Retry, Ignore, \
                 MarkAsSuccess, MarkAsFailure and Abort"
            );
            self.problem(kind.place, text);
            return None;
        }
        let plain = match self.choice(kind, "type of action", &ACTIONS)? {
            Kind::Retry if may_retry => {
                let Some(spec) = spec else {
                    self.problem(
                        place,
                        "Retry has no 'spec' with retryCount and retryIntervals",
                    );
                    return None;
                };
                return self.retry(spec);
            }
            Kind::Retry => {
                self.problem(
                    kind.place,
                    "after the last Retry there cannot be another one",
                );
                return None;
            }
            Kind::Ignore => Action::Ignore,
            Kind::MarkAsSuccess => Action::MarkAsSuccess,
            Kind::MarkAsFailure => Action::MarkAsFailure,
            Kind::Abort => Action::Abort,
        };
        let spec = spec.and_then(|spec| self.fields(spec, "the spec of this action"));
        if let Some(fields) = spec {
            fields.finish(self);
        }
        Some(plain)
    }

    fn retry(&mut self, node: &Node) -> Option<Action> {
        let mut fields = self.fields(node, "the spec of Retry")?;
        let place = fields.place;
        let count = fields.take("retryCount");
        let intervals = fields.take("retryIntervals");
        let then = fields.take("onRetryFailure");
        fields.finish(self);
        let Some(count) = count else {
            self.problem(place, "Retry has no 'retryCount'");
            return None;
        };
        let count = self.number(count, "retryCount", 1000);
        let intervals: Vec<_> = match intervals {
            Some(node) => {
                let items = self.list(node, "retryIntervals");
                let interval = |item| self.duration(item, "an interval");
                items.into_iter().filter_map(interval).collect()
            }
            None => Vec::new(),
        };
        let then = match then {
            Some(node) => Some(Box::new(self.retry_failure(node)?)),
            None => None,
        };
        Some(Action::Retry {
            count: count?,
            intervals,
            then,
        })
    }

    fn retry_failure(&mut self, node: &Node) -> Option<Action> {
        let mut fields: Fields<'_> = self.fields(node, "onRetryFailure")?;
        let place = fields.place;
        let action = fields.take("action");
        fields.finish(self);
        match action {
            Some(node) => self.action(node, false),
            None => {
                self.problem(place, "onRetryFailure has no 'action'");
                None
            }
        }
    }

    /// `when`, of a step or group (`stageStatus`) or of a stage (`pipelineStatus`).
    pub fn when(&mut self, node: Option<&Node>, status: &'static str) -> Option<When> {
        let node = node?;
        let mut fields = self.fields(node, "when")?;
        let place = fields.place;
        let value = fields.take(status);
        let condition = fields.take("condition");
        fields.finish(self);
        let statuses = [
            ("Success", WhenStatus::Success),
            ("Failure", WhenStatus::Failure),
            ("All", WhenStatus::All),
        ];
        let status = match value {
            Some(node) => self.choice(node, status, &statuses)?,
            None => WhenStatus::default(),
        };
        let condition = match condition {
            Some(node) => Some(self.condition(node)?),
            None => None,
        };
        Some(When {
            status,
            condition,
            place,
        })
    }
}
