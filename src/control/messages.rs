//! What is said over the socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PROTOCOL, VERSION};
use crate::export::Compat;
use crate::merge::{Policy, Race, SuffixPattern};
use crate::stage::survivors::Survivor;
use crate::stage::{IfOneFails, StepView};

/// How long processes that are left have to end, where a client does not say.
const GRACE_MS: u64 = 10_000;

fn grace_ms() -> u64 {
    GRACE_MS
}

fn yes() -> bool {
    true
}

/// The first message each way. Frozen; a later version may add fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol it speaks.
    pub protocol: u32,
    /// Which program of which version it is, for people.
    #[serde(default)]
    pub version: String,
    /// Its process.
    #[serde(default)]
    pub pid: i32,
    /// The daemon's supervisor, whose end is the end of everything.
    #[serde(default)]
    pub supervisor: i32,
}

impl Hello {
    /// What this program says of itself.
    pub fn own(supervisor: i32) -> Hello {
        Hello {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            pid: nix::unistd::getpid().as_raw(),
            supervisor,
        }
    }

    /// Whether the other side can be told everything.
    pub fn fits(&self, other: &Hello) -> bool {
        self.protocol == other.protocol
    }
}

/// What becomes of a step that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Forget what it did: the stage stays as it was.
    #[default]
    Discard,
    /// Keep its layer aside, to look at, merge or discard later.
    Keep,
    /// Merge it as if it had succeeded.
    Merge,
}

/// A step that the client is going to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Its name.
    pub step: String,
    /// The group it is a member of.
    pub group: Option<String>,
    /// What becomes of it when it fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// One policy for every conflict, in place of those per path.
    pub on_conflict: Option<Policy>,
    /// How `keep-both` names its version, in place of what the stage was mounted with.
    #[serde(default)]
    pub keep_both_as: Option<SuffixPattern>,
    /// Whether it is a conflict that it saw what another changed, in place of what the stage was
    /// mounted with.
    #[serde(default)]
    pub strict: Option<bool>,
    /// How long what it leaves behind has to end by itself.
    #[serde(default = "grace_ms")]
    pub grace_ms: u64,
    /// Shared paths that it has for itself, whatever their mode.
    #[serde(default)]
    pub private: Vec<PathBuf>,
}

/// What is said of one step of those that are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfOne {
    /// One policy for every conflict of it.
    #[serde(default)]
    pub on_conflict: Option<Policy>,
    /// Patterns: of what it changed, what one of them matches is merged, and nothing else.
    /// All of it if there are none.
    #[serde(default)]
    pub only: Vec<String>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Whether it could be started at all.
    #[serde(default = "yes")]
    pub started: bool,
    /// What the shell would report: its exit code, 128+N for a signal.
    pub exit_code: u8,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was ended for taking too long.
    #[serde(default)]
    pub timed_out: bool,
}

impl Ended {
    /// Whether it did what it was asked to.
    pub fn success(&self) -> bool {
        self.started && self.exit_code == 0 && !self.timed_out
    }
}

impl From<OnFailure> for crate::stage::OnFailure {
    fn from(on_failure: OnFailure) -> crate::stage::OnFailure {
        match on_failure {
            OnFailure::Discard => crate::stage::OnFailure::Discard,
            OnFailure::Keep => crate::stage::OnFailure::Keep,
            OnFailure::Merge => crate::stage::OnFailure::Merge,
        }
    }
}

/// A snapshot that is to leave.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// Its name.
    pub snapshot: String,
    /// The directory of the layout.
    pub to: PathBuf,
    /// Leave the base out.
    #[serde(default)]
    pub without_base: bool,
    /// Secret files that may leave all the same.
    #[serde(default)]
    pub allow_secret: Vec<String>,
    /// For tools that do not know the layers of today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<Compat>,
}

/// Paths that are to be saved as a cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSaveRequest {
    /// The paths, as users see them; none in another.
    pub paths: Vec<PathBuf>,
    /// Secret files that may leave all the same.
    #[serde(default)]
    pub allow_secret: Vec<String>,
    /// Layers for other tools than ours.
    #[serde(default)]
    pub compat: Option<Compat>,
    /// Make one layer of all there is, whatever the stage has had before.
    #[serde(default)]
    pub whole: bool,
}

/// A cache that is to be restored. The files of its layers come along, the lowest
/// first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheRestoreRequest {
    /// The manifest of its image, as it is stored.
    pub manifest: String,
    /// The configuration that it names.
    pub config: String,
    /// Which of its paths to restore; all of them if there are none.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
    /// Devices, capabilities and set-id bits of root are welcome.
    #[serde(default)]
    pub trust: bool,
}

/// What a client asks for.
///
/// A field that is not known is refused: without it something else would be
/// done than the client means.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What the stage is doing. Frozen.
    Status {},
    /// End the stage. Frozen.
    Unmount {
        /// Leave what `mount --resume` needs.
        #[serde(default)]
        keep_state: bool,
        /// First write the tree to this directory.
        #[serde(default)]
        apply: Option<PathBuf>,
        /// Every mapped path, below its own name, not the workspace alone.
        #[serde(default)]
        all: bool,
    },
    /// Open a view for a step that this connection runs.
    StepRun(RunRequest),
    /// The command of `step_run`, `step_exec`, `step_shell` or `step_background` on this
    /// connection has ended.
    StepEnded(Ended),
    /// Open a view for a step that others will run commands in.
    StepBegin {
        /// Its name.
        step: String,
        /// It is discarded when this connection ends before it is merged or kept.
        #[serde(default)]
        tied: bool,
        /// The step whose state it begins on, in place of the stage as it is.
        #[serde(default)]
        like: Option<String>,
        /// The step whose end it begins on: it sees what that has changed.
        #[serde(default)]
        after: Option<String>,
        /// Shared paths that it has for itself, whatever their mode.
        #[serde(default)]
        private: Vec<PathBuf>,
        /// The slot that containers see it in.
        #[serde(default)]
        slot: Option<String>,
    },
    /// Forget what an open step did, and begin it once more on the state that it began on.
    StepReset {
        /// Its name.
        step: String,
        /// How long what is left in it has to end by itself.
        #[serde(default = "grace_ms")]
        grace_ms: u64,
    },
    /// Run a command in an open step.
    StepExec {
        /// Its name.
        step: String,
    },
    /// Run a command in a copy of what a step has left, or in an open step.
    StepShell {
        /// Its name.
        step: String,
        /// How long what is left in the copy has to end by itself.
        #[serde(default = "grace_ms")]
        grace_ms: u64,
    },
    /// Run a command in the stage view.
    StepBackground {
        /// Its name.
        step: String,
        /// How long what is left of it has to end by itself.
        #[serde(default = "grace_ms")]
        grace_ms: u64,
    },
    /// End a background step.
    StepStop {
        /// Its name.
        step: String,
        /// How long its processes have to end by themselves.
        #[serde(default = "grace_ms")]
        grace_ms: u64,
    },
    /// Merge steps, all or none, in this order.
    StepMerge {
        /// Their names.
        steps: Vec<String>,
        /// One policy for every conflict.
        on_conflict: Option<Policy>,
        /// How `keep-both` names their versions.
        #[serde(default)]
        keep_both_as: Option<SuffixPattern>,
        /// What is said of some of the steps, by name.
        #[serde(default)]
        each: BTreeMap<String, OfOne>,
        /// Whether it is a conflict that one saw what another changed.
        #[serde(default)]
        strict: Option<bool>,
        /// How long what is left in them has to end by itself.
        #[serde(default = "grace_ms")]
        grace_ms: u64,
    },
    /// Make the layer of an open step, which waits to be merged then.
    StepSeal {
        /// Its name.
        step: String,
        /// Patterns: what no path of matches is forgotten.
        #[serde(default)]
        only: Vec<String>,
        /// How long what is left in it has to end by itself.
        #[serde(default = "grace_ms")]
        grace_ms: u64,
    },
    /// Put an open step aside, without a merge.
    StepKeep {
        /// Its name.
        step: String,
        /// The exit code with which it failed; `None` if it is put aside for another reason.
        #[serde(default)]
        exit_code: Option<u8>,
        /// How long what is left in it has to end by itself.
        #[serde(default = "grace_ms")]
        grace_ms: u64,
    },
    /// Forget what a step did.
    StepDiscard {
        /// Its name.
        step: String,
        /// How long what is left in it has to end by itself.
        #[serde(default = "grace_ms")]
        grace_ms: u64,
    },
    /// The steps there are, or what they saw that others changed.
    StepList {
        /// What they saw.
        #[serde(default)]
        reads: bool,
    },
    /// Merge what has ended of a group, without waiting for the rest.
    GroupClose {
        /// The group.
        group: String,
    },
    /// Forget a group; its steps stay.
    GroupRemove {
        /// The group.
        group: String,
    },
    /// Steps that are to be merged together.
    GroupDeclare {
        /// The group's name.
        group: String,
        /// Its members, in the order of the merge.
        members: Vec<String>,
        /// What the failure of one does to the others.
        #[serde(default)]
        if_one_fails: IfOneFails,
    },
    /// End what runs of a group, and merge nothing of it.
    GroupAbort {
        /// The group.
        group: String,
    },
    /// What changed: in the stage, by a step, up to a snapshot or between two moments.
    Diff {
        /// A step, a snapshot or `A..B`.
        of: Option<String>,
    },
    /// The layers there are.
    Log {},
    /// What a layer does.
    Show {
        /// A layer, or a step that has one.
        layer: String,
    },
    /// A file's content as of a layer: `content` replies, and a report.
    Cat {
        /// A layer, or a step that has one.
        layer: String,
        /// The file, as a user sees it.
        #[serde(with = "crate::tree::shown")]
        path: PathBuf,
    },
    /// Who wrote a path, and who before.
    Blame {
        /// The path, as a user sees it.
        #[serde(with = "crate::tree::shown")]
        path: PathBuf,
    },
    /// Name the present state.
    SnapshotCreate {
        /// The name.
        name: String,
    },
    /// The snapshots there are.
    SnapshotList {},
    /// Forget a snapshot.
    SnapshotRm {
        /// Its name.
        name: String,
    },
    /// Go back to a snapshot.
    SnapshotRestore {
        /// Its name.
        name: String,
    },
    /// Go back to the state just after a layer was pushed.
    Rollback {
        /// The layer.
        layer: String,
    },
    /// Write a snapshot as an OCI image layout.
    Export(ExportRequest),
    /// Make an image of some paths of the tree. With the reply comes the blob of its
    /// uppermost layer, if that is new.
    CacheSave(CacheSaveRequest),
    /// Files on the disk of the stage, to be filled with layers. They come with the reply.
    CacheFiles {
        /// How many.
        count: usize,
    },
    /// Have the tree show an image of some of its paths.
    CacheRestore(CacheRestoreRequest),
    /// Write the tree into an ordinary directory.
    Apply {
        /// The directory.
        dir: PathBuf,
        /// Every mapped path, below its own name, not the workspace alone.
        #[serde(default)]
        all: bool,
    },
}

impl Request {
    /// Whether a command inside a step may ask for it: it acts on the stage, whose
    /// tree is no secret to its steps, and on nothing that a step could wait for.
    pub fn for_steps(&self) -> bool {
        matches!(
            self,
            Request::Status {}
                | Request::CacheSave(_)
                | Request::CacheFiles { .. }
                | Request::CacheRestore(_)
        )
    }

    /// Whether every version understands it.
    pub fn frozen(&self) -> bool {
        matches!(self, Request::Status {} | Request::Unmount { .. })
    }
}

/// What became of a step that was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its changes are in the stage.
    Merged,
    /// Nothing was merged; its layer is kept for `step merge`.
    Conflict,
    /// It is forgotten.
    Discarded,
    /// It failed and its layer is kept.
    Kept,
    /// It succeeded and waits for the rest of its group.
    WaitingForGroup,
    /// Its group was aborted, and so it is ended, and is not merged.
    Aborted,
    /// harness-fs failed; the stage is as before.
    Failed,
}

/// What became of a step, for people and for `--result`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepResult {
    /// In one word.
    pub outcome: Outcome,
    /// For people.
    pub text: String,
    /// The merge's conflicts, decided or not.
    pub conflicts: Value,
    /// What it left behind.
    pub survivors: Vec<Survivor>,
    /// The id of its layer, if it has one.
    pub layer: Option<String>,
    /// Members of its group that have not ended.
    pub waiting_for: Vec<String>,
    /// What the steps that were merged saw and others changed meanwhile.
    #[serde(default)]
    pub races: Vec<Race>,
}

/// What the daemon answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; for people and for programs. Frozen.
    Report {
        /// For people; may be empty.
        text: String,
        /// For programs.
        data: Value,
    },
    /// Not done. Frozen.
    Failure {
        /// The exit code.
        code: u8,
        /// One sentence, or a report.
        message: String,
        /// For programs.
        data: Value,
    },
    /// A view to run a command in.
    Entered {
        /// The view.
        view: StepView,
        /// Steps that run at the same time and are in no group with this one.
        others: Vec<String>,
        /// What becomes of what is changed in it, for people; may be empty.
        note: String,
    },
    /// The step that was run has come to its end.
    StepDone(StepResult),
    /// So many bytes of content follow this line, and then the next reply.
    Content {
        /// How many.
        length: usize,
    },
}

impl Reply {
    /// A report of a serialisable value; a failure if it cannot be written as
    /// JSON, which must not pass for having nothing to tell.
    pub fn report(text: impl Into<String>, data: &impl Serialize) -> Reply {
        match serde_json::to_value(data) {
            Ok(data) => Reply::Report {
                text: text.into(),
                data,
            },
            Err(error) => {
                Reply::failure(1, format!("the report cannot be written as JSON: {error}"))
            }
        }
    }

    /// Done, and nothing to say.
    pub fn done() -> Reply {
        Reply::report("", &Value::Null)
    }

    /// A failure that needs no data.
    pub fn failure(code: u8, message: impl Into<String>) -> Reply {
        Reply::Failure {
            code,
            message: message.into(),
            data: Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What other versions rely on.
    #[test]
    fn the_frozen_shapes_are_as_ever() {
        let hello = r#"{"protocol":9,"version":"8.0.0","pid":7,"later":true}"#;
        let hello: Hello = serde_json::from_str(hello).unwrap();
        assert!(!hello.fits(&Hello::own(0)));
        let least = format!(r#"{{"protocol":{PROTOCOL}}}"#);
        let least: Hello = serde_json::from_str(&least).unwrap();
        assert!(least.fits(&Hello::own(0)));
        let shape = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(shape(&Request::Status {}), r#"{"status":{}}"#);
        let unmount = r#"{"unmount":{"keep_state":true}}"#;
        let request: Request = serde_json::from_str(unmount).unwrap();
        assert!(request.frozen());
        assert!(shape(&request).starts_with(r#"{"unmount":{"keep_state":true"#));
        let reply = serde_json::to_string(&Reply::failure(3, "no")).unwrap();
        assert_eq!(
            reply,
            r#"{"failure":{"code":3,"message":"no","data":null}}"#
        );
        let reply = serde_json::to_string(&Reply::report("a", &1)).unwrap();
        assert_eq!(reply, r#"{"report":{"text":"a","data":1}}"#);
    }

    #[test]
    fn what_cannot_be_written_is_a_failure() {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(b"\xff"));
        let reply = Reply::report("text", &path);
        assert!(matches!(reply, Reply::Failure { code: 1, .. }), "{reply:?}");
    }
}
