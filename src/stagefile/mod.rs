//! Stage files: Harness CI's stage YAML, and our own `workspace:` block in it.
//!
//! Pure: text goes in, a [`Stage`] with every field checked comes out, or all that is wrong with
//! it, each with its line. Whoever runs the stage asks here what an expression is worth
//! ([`Context`]), how often a step runs ([`Expansion`]), whether it does (`when`) and what its
//! failure means ([`decide`]).
//!
//! `docs/stage-file.md` lists the fields.

mod context;
mod expand;
mod expression;
mod failure;
mod model;
mod names;
mod place;

pub use context::{Context, Status};
pub use expand::{Expansion, Instance};
pub use expression::{Expression, Method, Operator, Piece, Reference, Text};
pub use failure::{Decision, FailureKind, decide};
pub use model::{
    Action, CachePolicy, Caching, Command, Condition, ErrorType, FailedLayer, FailureStrategy,
    Group, Items, Node, OutputVariable, Parallel, PolicyRule, SharedPath, SharingMode, Shell,
    Stage, Step, StepKind, Strategy, StrategyKind, Variable, When, WhenStatus, Workspace,
};
pub use names::Path;
pub use place::{Notice, Place, Problem};
