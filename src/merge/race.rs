//! A race: a step has seen something of what it began on that another changed meanwhile.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Deed;
use crate::tree::shown::{self, shown};

/// So many names of a listing are in the line for people.
const IN_A_LINE: usize = 3;

/// In what way a step has seen a path. A path that was seen in several ways counts as the first of
/// them that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Read {
    /// Opened it to read, or followed it.
    Content,
    /// Looked it up, and there was nothing.
    Missing,
    /// Listed its names.
    Listing,
    /// Looked it up, and it was there.
    Found,
    /// Was told its size, times, mode, owner or extended attributes.
    Metadata,
    /// Perhaps: what it has seen was not, or not all, written down.
    Unknown,
}

/// What a step saw of what it began on, and another changed before the step was merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Race {
    /// The step that saw it.
    pub step: String,
    /// The path as the user sees it; of several the directory that they are in, or below.
    #[serde(with = "shown")]
    pub path: PathBuf,
    /// In what way it was seen.
    pub read: Read,
    /// The step that changed it, or `stage` for who works outside of steps.
    pub writer: String,
    /// What that did.
    pub did: Deed,
    /// How many paths it is about.
    pub count: usize,
    /// Of a listing, some of the names that are different.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Race { step, writer, .. } = self;
        let path = shown(&self.path);
        let did = match self.did {
            Deed::Added => "added",
            Deed::Removed => "removed",
            Deed::Replaced => "replaced",
            Deed::Renamed => "renamed",
            _ => "changed",
        };
        if self.count > 1 {
            let how = match self.read {
                Read::Content => "read",
                Read::Missing => "found nothing at",
                Read::Found => "looked up",
                Read::Listing => "listed",
                Read::Metadata => "looked at the attributes of",
                Read::Unknown => "may have read",
            };
            let count = self.count;
            return write!(
                f,
                "{step} {how} {count} paths in {path}, which {writer} {did}"
            );
        }
        match self.read {
            Read::Content => write!(f, "{step} read {path}, which {writer} {did}"),
            Read::Missing => write!(f, "{step} found no {path}, which {writer} {did}"),
            Read::Found => write!(f, "{step} looked up {path}, which {writer} {did}"),
            Read::Metadata => write!(
                f,
                "{step} looked at the attributes of {path}, which {writer} {did}"
            ),
            Read::Unknown => write!(f, "{step} may have read {path}, which {writer} {did}"),
            Read::Listing if self.names.is_empty() => {
                write!(f, "{step} listed {path}, which {writer} {did}")
            }
            Read::Listing => {
                let (first, more) = self.names.split_at(self.names.len().min(IN_A_LINE));
                let names = first.join(", ");
                let more = if more.is_empty() { "" } else { ", …" };
                write!(
                    f,
                    "{step} listed {path}, where {writer} {did} {names}{more}"
                )
            }
        }
    }
}
