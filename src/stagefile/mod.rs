//! Stage files: Harness CI's stage YAML, and our own `workspace:` block in it.
//!
//! Pure: text goes in, a [`Stage`] with every field checked comes out, or all that is wrong with
//! it, each with its line. Whoever runs the stage asks here what an expression is worth
//! ([`Context`]), how often a step runs ([`Expansion`]), whether it does (`when`) and what its
//! failure means ([`decide`]).
//!
//! `docs/stage-file.md` lists the fields.

mod check;
mod context;
mod evaluate;
mod expand;
mod expression;
mod failure;
mod model;
mod names;
mod parse;
mod place;
mod read;
mod reference;
mod yaml;

pub use context::{Context, Status};
pub use expand::{Expansion, Instance, expand};
pub use expression::{Expression, Method, Operator, Piece, Reference, Text};
pub use failure::{Decision, FailureKind, decide};
pub use model::{
    Action, CachePolicy, Caching, Command, Condition, ErrorType, FailedLayer, FailureStrategy,
    Group, Items, Node, OutputVariable, Parallel, PolicyRule, SharedPath, Shell, Stage, Step,
    StepKind, Strategy, StrategyKind, Variable, When, WhenStatus, Workspace,
};
pub use names::Path;
pub use place::{Notice, Place, Problem, shown};
pub use read::{Given, read, variable};

#[cfg(test)]
mod tests;
