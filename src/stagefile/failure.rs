//! What is to be done when a step has failed.

use std::time::Duration;

use super::{Action, ErrorType, FailureStrategy};

/// How a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Its command ended with another exit code than 0, or could not be started, or its changes
    /// could not be merged.
    Command,
    /// Its `timeout` was over.
    Timeout,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run it again, after this time.
    Retry(Duration),
    /// Go on; its status is [`super::Status::IgnoreFailed`].
    Ignore,
    /// Go on; its status is [`super::Status::Succeeded`].
    MarkAsSuccess,
    /// The stage has failed. What is there for that case still runs.
    Fail,
    /// The stage has failed and ends at once.
    Abort,
}

/// Decides about a step that has failed. `levels` are the strategies of the step, of its groups
/// from the inside out, and of the stage: the first of these that has one for this failure
/// decides. `retries` is how often the step has been run again already.
pub fn decide(levels: &[&[FailureStrategy]], kind: FailureKind, retries: u32) -> Decision {
    let action = levels.iter().find_map(|level| matching(level, kind));
    match action {
        None => Decision::Fail,
        Some(action) => act(action, retries),
    }
}

/// The strategy of one level: what names the failure goes before what names all.
fn matching(level: &[FailureStrategy], kind: FailureKind) -> Option<&Action> {
    let named = match kind {
        FailureKind::Command => ErrorType::Unknown,
        FailureKind::Timeout => ErrorType::Timeout,
    };
    [named, ErrorType::AllErrors].into_iter().find_map(|error| {
        let found = level
            .iter()
            .find(|strategy| strategy.errors.contains(&error));
        found.map(|strategy| &strategy.action)
    })
}

fn act(action: &Action, retries: u32) -> Decision {
    match action {
        Action::Ignore => Decision::Ignore,
        Action::MarkAsSuccess => Decision::MarkAsSuccess,
        Action::MarkAsFailure => Decision::Fail,
        Action::Abort => Decision::Abort,
        Action::Retry {
            count, intervals, ..
        } if retries < *count => {
            let index = usize::try_from(retries).unwrap_or(usize::MAX);
            let interval = intervals.get(index).or(intervals.last());
            Decision::Retry(interval.copied().unwrap_or_default())
        }
        // `then` is never another Retry, so this goes one deep.
        Action::Retry { then, .. } => match then.as_deref() {
            None | Some(Action::Retry { .. }) => Decision::Fail,
            Some(then) => act(then, retries),
        },
    }
}
