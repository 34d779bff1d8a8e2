//! Why a cache was not saved or restored.

use crate::control::{Problem, Reply};
use crate::error::Error;
use crate::store;

/// A failure of the store, of the stage, or of what lies between.
#[derive(Debug)]
pub enum Trouble {
    /// Of the store.
    Store(store::Failure),
    /// The stage cannot be talked to.
    Stage(Problem),
    /// The stage refused: its reply.
    Refused(Box<Reply>),
    /// Something here.
    Here(Error),
}

impl From<store::Failure> for Trouble {
    fn from(failure: store::Failure) -> Trouble {
        Trouble::Store(failure)
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Trouble {
        Trouble::Stage(problem)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Here(error)
    }
}

impl Trouble {
    /// Whether it is the store's own: an outage, or credentials that it does not take.
    /// A cache that is damaged is none.
    pub fn is_outage(&self) -> bool {
        use store::Kind::{Denied, Unreachable};
        matches!(self, Trouble::Store(failure) if matches!(failure.kind(), Denied | Unreachable))
    }
}
