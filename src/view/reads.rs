//! What a step sees of the tree that it began on is written down, where it asks for it.
//!
//! The kernel of a view begins with nothing in its caches, and keeps what it is told: the first
//! look-up of a name, the first listing and each opening come here, and most of what follows does
//! not. So it is enough to note what is asked, and there is no need to be told that it is used:
//! who was given attributes may have looked at them.
//!
//! What is noted is where the stack has it that the step began on, whatever the step has renamed
//! since. What a step has made itself is not noted.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::View;
use super::node::{Here, Node};
use crate::sys::ordered::{Mutex, Rank};
use crate::tree::listing::hash;
use crate::tree::reads::{Reads, Sight};

/// The directory has no number yet.
const UNNUMBERED: u32 = 0;
/// Nothing of the stack shows in the directory.
const OWN: u32 = u32::MAX;

/// What a view has noted so far.
#[derive(Debug)]
pub(super) struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    reads: Reads,
    numbers: HashMap<Arc<Path>, u32>,
}

/// What a node remembers of what was noted about it.
#[derive(Debug, Default)]
pub(super) struct Marks(AtomicU8);

/// What that of a directory remembers besides.
#[derive(Debug, Default)]
pub(super) struct DirMarks {
    /// Its number among those noted, plus one.
    number: AtomicU32,
    /// The name that was looked up last, if there was nothing; hashed.
    missing: AtomicU64,
}

/// Its content was opened, or its names were listed, and that is noted.
const SEEN: u8 = 1;
/// Its content is the step's own.
const REWRITTEN: u8 = 1 << 1;

impl Marks {
    /// Its content is what the step has written, not what it began on.
    pub fn rewritten(&self) {
        self.add(REWRITTEN);
    }

    /// Adds a mark, and tells which there were.
    fn add(&self, mark: u8) -> u8 {
        self.0.fetch_or(mark, Ordering::Relaxed)
    }
}

impl Notes {
    pub fn new() -> Notes {
        Notes(Mutex::new(Rank::Reads, Noted::default()))
    }
}

impl View {
    /// What was seen until now, of a view that notes it; it begins anew.
    pub fn take_reads(&self) -> Option<Reads> {
        let notes = self.notes.as_ref()?;
        Some(std::mem::take(&mut *notes.0.lock()).reads)
    }

    /// A name was looked up, and what it stands for comes from the stack, or there is nothing.
    pub(super) fn saw_name(&self, parent: &Node, name: &OsStr, sight: Sight) {
        let Some(notes) = &self.notes else { return };
        // The mapped paths themselves are there for everybody.
        if parent.ino == self.top {
            return;
        }
        let missing = match sight {
            Sight::MISSING => hash(name),
            _ => 0,
        };
        if let Some(marks) = parent.dir_marks() {
            marks.missing.store(missing, Ordering::Relaxed);
        }
        self.note(notes, parent, name, sight);
    }

    /// A name was made. Where the kernel had asked for just that name, it may have done so to make
    /// it: nobody need have seen that there was nothing.
    pub(super) fn made_name(&self, parent: &Node, name: &OsStr) {
        let (Some(notes), Some(marks)) = (&self.notes, parent.dir_marks()) else {
            return;
        };
        if marks.missing.swap(0, Ordering::Relaxed) == hash(name) {
            self.note(notes, parent, name, Sight::MADE);
        }
    }

    /// The attributes of a name were given with a listing.
    pub(super) fn told_of(&self, parent: &Node, name: &OsStr) {
        if let Some(notes) = &self.notes
            && parent.ino != self.top
        {
            self.note(notes, parent, name, Sight::TOLD);
        }
    }

    /// A directory is listed.
    pub(super) fn saw_names(&self, dir: &Node) {
        let Some(notes) = &self.notes else { return };
        if dir.ino != self.top && dir.marks.add(SEEN) & SEEN == 0 {
            self.note(notes, dir, OsStr::new(""), Sight::LISTED);
        }
    }

    /// The content of a file is opened to be read, or the target of a link is.
    pub(super) fn saw_content(&self, node: &Node) {
        let Some(notes) = &self.notes else { return };
        if node.marks.add(SEEN) != 0 {
            return;
        }
        let (mut places, below) = {
            let inner = node.inner.read();
            (inner.places(), matches!(inner.here, Here::Below(_)))
        };
        if below {
            places.truncate(1);
        }
        // Of a file that the step has given a name, the stack may know it by another.
        for place in places {
            self.note(notes, &place.parent, &place.name, Sight::READ);
        }
    }

    fn note(&self, notes: &Notes, dir: &Node, name: &OsStr, sight: Sight) {
        let Some(marks) = dir.dir_marks() else { return };
        let known = marks.number.load(Ordering::Relaxed);
        if known == OWN {
            return;
        }
        let origin = match known {
            UNNUMBERED => match &dir.inner.read().here {
                Here::Dir(here) if !here.below.is_empty() => Some(here.origin.clone()),
                _ => None,
            },
            _ => None,
        };
        if known == UNNUMBERED && origin.is_none() {
            marks.number.store(OWN, Ordering::Relaxed);
            return;
        }
        let mut noted = notes.0.lock();
        let number = match origin {
            Some(origin) => {
                let Some(number) = noted.number(origin) else {
                    return;
                };
                marks.number.store(number + 1, Ordering::Relaxed);
                number
            }
            None => known - 1,
        };
        noted.reads.note(number, name, sight);
    }
}

impl Noted {
    /// The number of a directory.
    fn number(&mut self, origin: Arc<Path>) -> Option<u32> {
        if let Some(number) = self.numbers.get(&origin) {
            return Some(*number);
        }
        if self.reads.is_partial() {
            return None;
        }
        let number = self.reads.dir(&origin);
        self.numbers.insert(origin, number);
        Some(number)
    }
}
