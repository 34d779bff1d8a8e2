//! What runs in a row: the steps of the stage, or those of one member of what runs at once.

use super::asking::Origin;
use super::report::Row;
use crate::merge::Policy;
use crate::stagefile::{Context, Decision};

/// Steps that run one after the other, and what has become of them.
#[derive(Debug)]
pub struct Lane {
    /// What expressions see.
    pub context: Context,
    /// A step has failed.
    pub failed: bool,
    /// What became of the steps.
    pub rows: Vec<Row>,
    /// Set if what it does waits for others.
    pub branch: Option<Branch>,
}

/// A lane outside of the stage.
#[derive(Debug)]
pub struct Branch {
    /// The open step that began where all members of this begin.
    pub anchor: String,
    /// What is to be merged, in this order; each step but the first began on what the one
    /// before had left.
    pub parts: Vec<Part>,
}

/// A step that waits to be merged.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name.
    pub step: String,
    /// One policy for all of its conflicts.
    pub on_conflict: Option<Policy>,
    /// What its failure strategies say of a merge that is not possible.
    pub not_merged: Decision,
}

impl Lane {
    /// That of the stage.
    pub fn new(context: Context) -> Lane {
        Lane {
            context,
            failed: false,
            rows: Vec::new(),
            branch: None,
        }
    }

    /// That of a member; it knows what is known so far, and nothing of the other members.
    pub fn fork(&self, anchor: &str) -> Lane {
        Lane {
            context: self.context.clone(),
            failed: self.failed,
            rows: Vec::new(),
            branch: Some(Branch {
                anchor: anchor.to_owned(),
                parts: Vec::new(),
            }),
        }
    }

    /// Takes over what a member has to tell; what it did is up to the caller.
    pub fn join(&mut self, member: Lane) {
        self.failed |= member.failed;
        self.rows.extend(member.rows);
        self.context.learn(&member.context);
    }

    /// What the next step begins on.
    pub fn from(&self) -> Origin {
        match &self.branch {
            None => Origin::Stage,
            Some(branch) => match branch.parts.last() {
                None => Origin::Like(branch.anchor.clone()),
                Some(last) => Origin::After(last.step.clone()),
            },
        }
    }
}
