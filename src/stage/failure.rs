//! Why an operation on the stage did not happen.

use std::fmt;

use serde::Serialize;

use crate::error::Error;
use crate::merge::Conflict;

/// Why an operation on the stage did not happen. Its text is one sentence for people.
#[derive(Debug)]
pub enum Failure {
    /// It was asked for wrongly (exit code 2).
    Usage(String),
    /// There is no such step, snapshot, group, layer or path (exit code 3).
    NotFound(String),
    /// A merge met conflicts that no policy decided (exit code 4; 121 for `step run`).
    Conflict(Box<ConflictReport>),
    /// Something else failed (exit code 1).
    Failed(Error),
}

/// The conflicts that kept a merge from happening.
#[derive(Clone, Debug, Serialize)]
pub struct ConflictReport {
    /// The steps that were to be merged, in order; all are kept.
    pub steps: Vec<String>,
    /// Every conflict met, those that a policy would have decided among them.
    pub conflicts: Vec<Conflict>,
    /// The report for people.
    pub text: String,
}

impl ConflictReport {
    /// The number of conflicts that nothing decided.
    pub fn undecided(&self) -> usize {
        let open = self.conflicts.iter().filter(|conflict| !conflict.resolved);
        open.count()
    }
}

impl fmt::Display for ConflictReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.undecided();
        let plural = if open == 1 { "" } else { "s" };
        write!(
            f,
            "merging {}: {open} undecided conflict{plural}; the stage is unchanged and the \
             layers are kept",
            self.steps.join(", ")
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::NotFound(text) => f.write_str(text),
            Failure::Conflict(report) => report.fmt(f),
            Failure::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Failed(error.into())
    }
}
