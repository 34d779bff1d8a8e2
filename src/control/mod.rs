//! The control socket: how the command line talks to the daemon of a stage.
//!
//! One JSON value per line over a UNIX socket. The client says [`Hello`], the
//! daemon answers with its own; then requests and replies take turns. The
//! shapes of `Hello`, of the requests `status` and `unmount` and of the replies
//! `report` and `failure` are frozen, so that those two commands work between
//! any two versions; everything else needs the same [`PROTOCOL`] on both sides.
//! `docs/protocol.md` describes it all, for clients that others write.

mod address;
mod client;
mod messages;
mod resumable;
mod server;
mod wire;

pub use crate::stage::namespace::STEP_SOCKET;
pub use client::{
    Client, Death, Patience, Problem, STAGE_FILE, WhereStage, death, find, has_stage, in_step,
    is_taken,
};
pub use messages::{
    CacheRestoreRequest, CacheSaveRequest, Ended, ExportRequest, Hello, OfOne, OnFailure, Outcome,
    Reply, Request, RunRequest, StepResult,
};
pub use resumable::{not_resumable, only_discarded};
pub use server::{Connection, Handler, Server};
pub use wire::Wire;

/// The number of the protocol. Requests, fields of replies, and fields of
/// requests that may be left out can be added; any other change of a message
/// counts it up. `tests/docs/protocol-N.jsonl` has what clients of it rely on.
pub const PROTOCOL: u32 = 1;
/// This package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The socket's name in the state directory.
pub const SOCKET: &str = "control.sock";
/// Where the supervisor writes why the daemon ended.
pub const DIED: &str = "died";
