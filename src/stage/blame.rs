//! Who wrote a path, and who before.
//!
//! The layers are gone through from the top down. A step's layer and the join
//! layer that its merge put on top count as one, compared as the trees below and
//! above both: what the merge took from the stage is then no change of the step.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::content::Seen;
use super::delta::Scan;
use super::diff::as_seen;
use super::log::LayerKind;
use super::named::{BASE, in_layers};
use super::{Failure, Stage};
use crate::error::Result;
use crate::layer::{Layer, Stack};
use crate::tree::shown::{self, shown};
use crate::tree::union::{Entry, Found};
use crate::tree::{Ino, Kind};

/// What a layer did to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Did {
    /// Made it.
    Added,
    /// Changed its type, content, link target or device number.
    Modified,
    /// Changed only its mode, owner or extended attributes.
    Metadata,
    /// Gave it this name in the place of another.
    Renamed,
    /// Gave it this name beside another.
    Linked,
    /// Removed it.
    Deleted,
    /// Nothing: the mapped path held it.
    Original,
}

/// One thing that was done to a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlameLine {
    /// What was done.
    pub did: Did,
    /// The layer, or `base`.
    pub layer: String,
    /// What made it.
    pub kind: LayerKind,
    /// The step that made it.
    pub step: Option<String>,
    /// When it was sealed, in seconds since the epoch.
    pub sealed: Option<u64>,
    /// What the path was called then.
    #[serde(serialize_with = "shown::serialize")]
    pub path: PathBuf,
    /// What it was called before, where that differs.
    #[serde(serialize_with = "optional")]
    pub from: Option<PathBuf>,
    /// What was there then; of what was deleted, what there had been.
    pub file: Kind,
    /// Its size in bytes, of a regular file or symbolic link.
    pub size: u64,
}

fn optional<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match path {
        Some(path) => shown::serialize(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// What was done by the layers of one merge, in terms of the layers.
struct Event {
    did: Did,
    /// What it was called below, if it was there.
    from: Option<PathBuf>,
    file: Kind,
    size: u64,
}

impl Stage {
    /// What was done to a path, the latest first, down to the base. Names that
    /// it had before are followed. Of a directory it is what was done to itself,
    /// not below it.
    ///
    /// The head is sealed. Of steps that are not merged nothing is told.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a path outside of the mapped ones,
    /// [`Failure::NotFound`] for one that never was, else what sealing the head
    /// or the layers report.
    pub fn blame(&self, path: &Path) -> Result<Vec<BlameLine>, Failure> {
        let (state, _lease) = {
            let _life = self.life.lock();
            self.seal_dirty_head()?;
            self.lease(|state| state.stack.clone())
        };
        let mapped = &state.options.mapped;
        let mut at = in_layers(mapped, path)?;
        let stack = self.stack_of(&state.stack)?;
        let lowest = usize::from(self.own_base());
        let mut lines = Vec::new();
        for range in self.merges(&state.stack)?.into_iter().rev() {
            let id = &state.stack[range.start];
            let indices = range.start + lowest..range.end + lowest;
            let Some(event) = event(&stack, indices, &at)? else {
                continue;
            };
            let layer = self.layer(id)?;
            let told = layer.manifest();
            let kind = LayerKind::of(told);
            let from = event.from.as_ref().filter(|from| **from != at);
            lines.push(BlameLine {
                did: event.did,
                layer: id.clone(),
                kind,
                step: (kind == LayerKind::Step).then(|| told.step.clone()),
                sealed: Some(told.sealed),
                path: as_seen(mapped, &at),
                from: from.map(|from| as_seen(mapped, from)),
                file: event.file,
                size: event.size,
            });
            at = event.from.unwrap_or(at);
        }
        if lowest > 0
            && let Some(found) = stack.below(lowest).find(&at)?
        {
            lines.push(BlameLine {
                did: Did::Original,
                layer: BASE.to_owned(),
                kind: LayerKind::Base,
                step: None,
                sealed: None,
                path: as_seen(mapped, &at),
                from: None,
                file: found.attr.kind,
                size: size(&found),
            });
        }
        if lines.is_empty() {
            let text = format!(
                "{} is not in the stage and never was: look at `harness-fs step list` for steps that are not merged",
                shown(path)
            );
            return Err(Failure::NotFound(text));
        }
        Ok(lines)
    }

    /// The layers that came together, the lowest first.
    fn merges(&self, ids: &[String]) -> Result<Vec<Range<usize>>> {
        let mut merges: Vec<Range<usize>> = Vec::new();
        let mut step = false;
        for (index, id) in ids.iter().enumerate() {
            let kind = LayerKind::of(self.layer(id)?.manifest());
            match merges.last_mut() {
                Some(last) if step && kind == LayerKind::Join => last.end = index + 1,
                _ => merges.push(index..index + 1),
            }
            step = kind == LayerKind::Step;
        }
        Ok(merges)
    }
}

/// What some neighbouring layers did to a path; `None` if they left it as it was.
fn event(stack: &Stack, layers: Range<usize>, path: &Path) -> Result<Option<Event>> {
    let (below, with) = (stack.below(layers.start), stack.below(layers.end));
    let mut from = path.to_path_buf();
    let mut touched = false;
    for index in layers.rev() {
        let reach = reach(&**stack.layer(index), &from)?;
        if reach.touched {
            touched = true;
            from = earlier(stack, index, &from, reach.place)?.unwrap_or(from);
        }
    }
    if !touched {
        return Ok(None);
    }
    let mut old = below.find(&from)?;
    if old.is_none() {
        from = path.to_path_buf();
        old = below.find(&from)?;
    }
    let new = with.find(path)?;
    let did = match (&old, &new) {
        (None, None) => return Ok(None),
        (None, Some(_)) => Did::Added,
        (Some(_), None) => Did::Deleted,
        (Some(old), Some(new)) => {
            let (was, is) = (Seen::new(&below, old), Seen::new(&with, new));
            if !is.same_content(was)? {
                Did::Modified
            } else if !is.same_metadata(was)? {
                Did::Metadata
            } else if from == path {
                return Ok(None);
            } else if number(&with, &from)? == Some(new.attr.ino) {
                Did::Linked
            } else {
                Did::Renamed
            }
        }
    };
    let there = new.as_ref().or(old.as_ref());
    Ok(there.map(|found| Event {
        did,
        from: old.is_some().then_some(from),
        file: found.attr.kind,
        size: size(found),
    }))
}

/// What of the layers below a layer shows at a path of it.
struct Reach {
    /// The layer has the path itself, or something above it that counts.
    touched: bool,
    /// Where the layers below have what shows there, or would show if the layer
    /// did not have it itself; `None` if nothing of them can.
    place: Option<PathBuf>,
}

fn reach(layer: &dyn Layer, path: &Path) -> Result<Reach> {
    let (mut above, mut place) = (PathBuf::new(), PathBuf::new());
    let mut touched = false;
    let mut components = path.components().peekable();
    while let Some(name) = components.next() {
        above.push(name);
        place.push(name);
        let Some(entry) = layer.entry(&above)? else {
            break;
        };
        let last = components.peek().is_none();
        let through = match entry {
            Entry::Whiteout => false,
            Entry::Present(attr, marks) => {
                touched |= last || marks.redirect.is_some();
                let through = last || (attr.is_dir() && !marks.opaque);
                place = marks.redirect.unwrap_or(place);
                through
            }
        };
        if !through {
            return Ok(Reach {
                touched: true,
                place: None,
            });
        }
    }
    place.extend(components);
    Ok(Reach {
        touched,
        place: Some(place),
    })
}

/// Where the layers below have what a layer has at a path; `None` if that is not
/// known to be anything.
fn earlier(
    stack: &Stack,
    index: usize,
    path: &Path,
    place: Option<PathBuf>,
) -> Result<Option<PathBuf>> {
    let below = stack.below(index);
    let Some(found) = stack.below(index + 1).find(path)? else {
        return Ok(None);
    };
    let was = match &place {
        Some(place) => number(&below, place)?,
        None => None,
    };
    let own = found.parts[0].layer == index && found.attr.ino != 0;
    if own && was != Some(found.attr.ino) {
        // A file keeps its number when it is renamed or linked to: it is one that
        // the layer covers under another name.
        let nobody = Arc::from("");
        let mut homes = Scan::of(stack, index, &nobody)?.homes;
        if let Some(paths) = homes.remove(&found.attr.ino) {
            return Ok(paths.into_iter().next());
        }
    }
    Ok(place.filter(|_| was.is_some()))
}

fn number(stack: &Stack, path: &Path) -> Result<Option<Ino>> {
    Ok(stack.find(path)?.map(|found| found.attr.ino))
}

fn size(found: &Found) -> u64 {
    match found.attr.kind {
        Kind::File | Kind::Symlink => found.attr.size,
        _ => 0,
    }
}
