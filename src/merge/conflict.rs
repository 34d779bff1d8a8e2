//! A conflict: its class, what both sides did, and what was decided.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Change, Facts, Policy, Read};
use crate::tree::{Kind, shown};

/// In what way the two sides disagree about a path.
///
/// The order is that of precedence: a path has one class, the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Class {
    /// One side removed, replaced or renamed a directory below which the other changed something.
    #[serde(rename = "tree")]
    Tree,
    /// The sides have different kinds of entry there.
    #[serde(rename = "type")]
    Type,
    /// Both changed what the base has.
    #[serde(rename = "write/write")]
    WriteWrite,
    /// Both made something where the base has nothing.
    #[serde(rename = "add/add")]
    AddAdd,
    /// One removed what the other changed.
    #[serde(rename = "delete/modify")]
    DeleteModify,
    /// Both changed one inode through different names.
    #[serde(rename = "link")]
    Link,
    /// The step changed what someone has open for writing in the stage view.
    #[serde(rename = "busy")]
    Busy,
    /// Equal content; mode, owner or extended attributes differ.
    #[serde(rename = "metadata")]
    Metadata,
    /// The same, of a directory.
    #[serde(rename = "directory metadata")]
    DirectoryMetadata,
    /// The step saw what another changed meanwhile.
    #[serde(rename = "read/write")]
    ReadWrite,
}

impl Class {
    /// Whether no content is at stake. These classes take `last` by default.
    pub fn is_metadata(self) -> bool {
        matches!(self, Class::Metadata | Class::DirectoryMetadata)
    }

    /// The name that reports show.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Tree => "tree",
            Class::Type => "type",
            Class::WriteWrite => "write/write",
            Class::AddAdd => "add/add",
            Class::DeleteModify => "delete/modify",
            Class::Link => "link",
            Class::Busy => "busy",
            Class::Metadata => "metadata",
            Class::DirectoryMetadata => "directory metadata",
            Class::ReadWrite => "read/write",
        }
    }
}

/// What a side did at the path of a conflict, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Nothing.
    Unchanged,
    /// Made it.
    Added,
    /// Changed it.
    Changed,
    /// Changed something below it.
    ChangedBelow,
    /// Put something else in its place.
    Replaced,
    /// Removed it.
    Removed,
    /// Gave it another name, or gave its name to another directory.
    Renamed,
    /// Has it open for writing.
    Open,
    /// Read its content.
    Read,
    /// Listed its names.
    Listed,
    /// Looked it up, and it was there.
    LookedUp,
    /// Looked it up, and there was nothing.
    FoundNothing,
    /// Was told its attributes.
    SawAttributes,
    /// Nobody knows what it saw.
    MayHaveRead,
}

impl Deed {
    /// The verb, for a sentence that begins with the writer's name.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Deed::Unchanged => "did not change it",
            Deed::Added => "added it",
            Deed::Changed => "changed it",
            Deed::ChangedBelow => "changed what is below",
            Deed::Replaced => "replaced it",
            Deed::Removed => "removed it",
            Deed::Renamed => "renamed it",
            Deed::Open => "has it open for writing",
            Deed::Read => "read it",
            Deed::Listed => "listed it",
            Deed::LookedUp => "looked it up",
            Deed::FoundNothing => "found nothing there",
            Deed::SawAttributes => "looked at its attributes",
            Deed::MayHaveRead => "may have read it",
        }
    }

    /// What the change at the path alone tells.
    pub(super) fn of(change: &Change) -> Deed {
        match change {
            Change::Deleted { .. } => Deed::Removed,
            Change::Present(present) if present.redirect_from.is_some() => Deed::Renamed,
            Change::Present(present) if present.was.is_none() => Deed::Added,
            Change::Present(present) if present.was != Some(present.kind) => Deed::Replaced,
            Change::Present(present) if present.replaces_directory() => Deed::Replaced,
            Change::Present(_) => Deed::Changed,
        }
    }
}

impl From<Read> for Deed {
    fn from(read: Read) -> Deed {
        match read {
            Read::Content => Deed::Read,
            Read::Missing => Deed::FoundNothing,
            Read::Found => Deed::LookedUp,
            Read::Listing => Deed::Listed,
            Read::Metadata => Deed::SawAttributes,
            Read::Unknown => Deed::MayHaveRead,
        }
    }
}

/// One side of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// The step that last wrote there; for an entry that nobody changed, the side itself.
    pub writer: String,
    /// What it did.
    pub did: Deed,
    /// What it left there, `None` if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Size and digest, where the caller supplies them.
    #[serde(flatten)]
    pub facts: Option<Facts>,
}

/// One path, or one subtree, about which the two sides disagree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The path as the user sees it.
    #[serde(serialize_with = "shown::serialize")]
    pub path: PathBuf,
    /// The path in the deltas.
    #[serde(skip)]
    pub tree_path: PathBuf,
    /// In what way they disagree.
    pub class: Class,
    /// What the stage has.
    pub stage: Party,
    /// What the step has.
    pub step: Party,
    /// How many changed paths are concerned: 1, or all those below the path.
    pub count: usize,
    /// The other paths that are decided together with this one: the other end of a rename, the
    /// other names of an inode.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "shown::all::serialize"
    )]
    pub related: Vec<PathBuf>,
    /// The policy that applies.
    pub policy: Policy,
    /// Whether the policy decided it. If not, nothing may be merged.
    pub resolved: bool,
    /// Where `keep-both` keeps the later side's version, if both sides have one.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "shown::all::serialize"
    )]
    pub kept_as: Vec<PathBuf>,
    /// For an unresolved conflict, what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
}

impl Conflict {
    /// Whether one side no longer has what the other changed.
    pub fn is_deletion(&self) -> bool {
        [&self.stage, &self.step]
            .iter()
            .any(|party| party.did == Deed::Removed)
    }
}

/// How an unresolved conflict can be decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Hint {
    /// Why the policy did not decide it, if it was not `fail`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The option for the command line.
    pub option: String,
    /// The option for `mount` that decides it from then on.
    pub line: String,
}

impl Hint {
    pub(super) fn new(reason: Option<&'static str>, pattern: &str, policy: Policy) -> Hint {
        Hint {
            reason,
            option: format!("--on-conflict {policy}"),
            line: format!("--policy {}", quoted(&format!("{pattern}={policy}"))),
        }
    }
}

impl Hint {
    /// How a step is merged all the same that saw what others changed.
    pub(super) fn accepting(pattern: &str) -> Hint {
        Hint {
            reason: None,
            option: "--strict=false".to_owned(),
            line: format!(
                "--policy {}",
                quoted(&format!("{pattern}={}", Policy::Ignore))
            ),
        }
    }
}

/// A text as one word of a shell's command line, free of control characters
/// (bash(1), "QUOTING").
fn quoted(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '\'' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("$'{escaped}'")
}
