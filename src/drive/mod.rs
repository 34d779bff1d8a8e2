//! Drives a whole stage through its socket, as a stage file says.
//!
//! Steps that follow each other begin on the stage as it is, and are merged when they have
//! ended. What runs at once begins on one state, each member in a view of its own, and is
//! merged in the order of the file when all have ended, in one commit. A step group that is
//! one of several members is a chain: each of its steps begins on what the one before has
//! left, outside of the stage, and the chain is merged as one.
//!
//! All steps are tied to this process: if it dies, the daemon discards what is not merged.

mod asking;
mod background;
mod halt;
mod lane;
mod left_out;
mod output;
mod report;
mod scope;
mod script;
mod step;
mod together;
mod walk;
mod worker;

pub use asking::Refused;
pub use halt::{Halt, Why};
pub use output::Stream;
pub use report::{Layer, Report, Result, Row};
pub use walk::{Setting, outline, run};
pub use worker::{Answer, CHANNEL, Order, WORKER};
