//! What one side did, as a whole: a sorted list of changes, and their composition.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Change;
use crate::tree::Kind;

/// A change and the name of the step (or of the stage itself) that last wrote the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was done.
    pub change: Change,
    /// By whom.
    pub writer: Arc<str>,
}

/// The changes of one layer, or of several consecutive ones, against the base below them.
///
/// Paths are relative; the first component is the index of the mapped path, so `0/src/main.c` is
/// `src/main.c` in the workspace. Names may hold any byte a file name may. Everything a layer
/// physically holds belongs in here, the directories that lead to its entries and copy-ups that
/// came to nothing included: they hide things once the layer lies on top of others. Nothing may
/// stand below a path that is deleted or is no directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Delta {
    /// A delta without changes.
    pub fn new() -> Delta {
        Delta::default()
    }

    /// Records a change, in the place of an earlier record for the path.
    pub fn insert(
        &mut self,
        path: impl Into<PathBuf>,
        change: impl Into<Change>,
        writer: &Arc<str>,
    ) {
        let entry = Entry {
            change: change.into(),
            writer: Arc::clone(writer),
        };
        self.entries.insert(path.into(), entry);
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many paths are recorded.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The record for exactly this path.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The change at exactly this path.
    pub fn change(&self, path: &Path) -> Option<&Change> {
        self.get(path).map(|entry| &entry.change)
    }

    /// All records, ancestors before what is below them.
    pub fn iter(&self) -> btree_map::Iter<'_, PathBuf, Entry> {
        self.entries.iter()
    }

    /// The records strictly below a path.
    pub fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Entry)> {
        // Paths compare component by component, so a subtree is one range of the map.
        self.entries
            .range::<Path, _>((Bound::Excluded(path), Bound::Unbounded))
            .take_while(move |(other, _)| other.starts_with(path))
    }

    /// Whether anything is recorded at the path or below it.
    pub fn touches(&self, path: &Path) -> bool {
        self.get(path).is_some() || self.below(path).next().is_some()
    }

    /// Whether a strict ancestor of the path was removed or replaced.
    pub fn severs_above(&self, path: &Path) -> bool {
        self.ancestors(path).any(|(_, entry)| entry.change.severs())
    }

    /// Whether this delta's layer, lying on top, hides what lower layers have at the path because
    /// of what it holds at an ancestor.
    pub fn hides_from_above(&self, path: &Path) -> bool {
        self.ancestors(path)
            .any(|(_, entry)| entry.change.hides_below())
    }

    /// The records of strict ancestors, nearest first.
    fn ancestors<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a Path, &'a Entry)> {
        path.ancestors()
            .skip(1)
            .filter_map(|above| Some((above, self.get(above)?)))
    }

    /// Where the base keeps what shows through at a directory, `None` if nothing of the base does.
    pub fn origin(&self, path: &Path) -> Option<PathBuf> {
        for above in path.ancestors() {
            let Some(entry) = self.get(above) else {
                continue;
            };
            let directory = entry.change.directory()?;
            if let Some(from) = &directory.redirect_from {
                let rest = path.strip_prefix(above).ok()?;
                return Some(join(from, rest));
            }
            if directory.opaque || directory.was != Some(Kind::Dir) {
                return None;
            }
        }
        Some(path.to_path_buf())
    }

    /// Composes two consecutive layers: afterwards `self` says, against its own base, what it and
    /// `later` on top of it did together. `later` is a delta against the result of `self`.
    ///
    /// - A removal or a replacement erases what was recorded below the path. Removing what only
    ///   `self` had made leaves no record.
    /// - A directory made where `self` had removed one is an opaque directory.
    /// - A renamed directory takes along what `self` recorded below its old name. Renamed twice,
    ///   it counts as renamed once; renamed back, as never renamed.
    pub fn then(&mut self, later: Delta) {
        let renames = self.renames(&later);
        for (path, entry) in later.entries {
            let before = self.entries.get(&path);
            let was = match before {
                Some(before) => before.change.was(),
                None => entry.change.was(),
            };
            let present = match entry.change {
                Change::Deleted { .. } => {
                    self.erase(&path);
                    if was.is_some() {
                        self.insert(path, Change::Deleted { was }, &entry.writer);
                    }
                    continue;
                }
                Change::Present(present) => present,
            };
            let mut merged = present.clone();
            merged.was = was;
            let before = before.map(|before| before.change.clone());
            if present.kind != Kind::Dir {
                let content = before
                    .as_ref()
                    .and_then(Change::present)
                    .map(|before| before.content);
                if let Some(content) = content
                    && merged.content != super::Content::Own
                {
                    merged.content = content;
                }
                self.erase(&path);
            } else if let Some(rename) = renames.get(&path) {
                self.erase(&path);
                merged.redirect_from = rename.origin.clone();
                merged.opaque = rename.origin.is_none();
                if merged.redirect_from.is_some() && merged.redirect_from == self.covered(&path) {
                    merged.redirect_from = None;
                }
                for (rest, moved) in &rename.moved {
                    self.entries.insert(path.join(rest), moved.clone());
                }
            } else if present.opaque {
                self.erase(&path);
            } else if let Some(before) = before {
                match before.directory() {
                    Some(before) => {
                        merged.opaque = before.opaque;
                        merged.redirect_from = before.redirect_from.clone();
                    }
                    // Made where `self` had removed something, which must not come back.
                    None => merged.opaque = was == Some(Kind::Dir),
                }
            }
            self.insert(path, merged, &entry.writer);
        }
    }

    /// What the directories that `later` renames are in `self`. Read before anything is changed:
    /// two directories may have changed places.
    fn renames(&self, later: &Delta) -> BTreeMap<PathBuf, Rename> {
        let mut renames = BTreeMap::new();
        for (path, entry) in later.iter() {
            let Some(from) = entry.change.redirect_from() else {
                continue;
            };
            let moved = self
                .below(from)
                .filter_map(|(old, entry)| {
                    Some((old.strip_prefix(from).ok()?.to_path_buf(), entry.clone()))
                })
                .collect();
            renames.insert(
                path.clone(),
                Rename {
                    origin: self.origin(from),
                    moved,
                },
            );
        }
        renames
    }

    /// What the base would show at a name if it were not recorded.
    fn covered(&self, path: &Path) -> Option<PathBuf> {
        Some(self.origin(path.parent()?)?.join(path.file_name()?))
    }

    /// Drops the records at and below a path.
    fn erase(&mut self, path: &Path) {
        let gone: Vec<PathBuf> = self.below(path).map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.entries.remove(&path);
        }
        self.entries.remove(path);
    }
}

/// A directory that a later layer renames.
struct Rename {
    /// Its place in the base, `None` if nothing of it comes from there.
    origin: Option<PathBuf>,
    /// What the earlier layers recorded below it, relative to it.
    moved: Vec<(PathBuf, Entry)>,
}

/// `base.join(rest)` without the slash that joining nothing leaves at the end.
fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() {
        base.to_path_buf()
    } else {
        base.join(rest)
    }
}
