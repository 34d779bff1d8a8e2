//! The inode table's rows: what an inode is and where it lies now.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::lower::{DirHere, Lower};
use super::name::{Name, Place};
use super::reads::{DirMarks, Marks};
use crate::layer::{Backing, OpenLayer, Stack, TREE};
use crate::sys::ordered::{Mutex, Rank, RwLock};
use crate::tree::listing::Listing;
use crate::tree::union::Part;
use crate::tree::{Attr, Ino, Kind};

/// An inode, independent of its names. The kernel knows it by its number.
///
/// There is one for each that the kernel remembers, a million perhaps: what few have, or none for
/// long, lies elsewhere.
///
/// Locks, in this order: `copying` of a file, the view's state, `names` (of a
/// parent before its child), `copying` of a directory, `inner`. Nothing else is
/// locked while `inner` is.
#[derive(Debug)]
pub(super) struct Node {
    pub ino: Ino,
    pub kind: Kind,
    /// How often the kernel was told of it and has not forgotten it (`FORGET`); with the largest
    /// number it is never forgotten.
    lookups: AtomicU32,
    /// Held while this inode is copied up.
    pub copying: Mutex<()>,
    pub marks: Marks,
    /// What only directories have.
    own: Option<Box<DirOwn>>,
    pub inner: RwLock<Inner>,
}

#[derive(Debug)]
struct DirOwn {
    names: RwLock<()>,
    marks: DirMarks,
}

/// Of what is no directory.
static NO_NAMES: RwLock<()> = RwLock::new(Rank::Names, ());

/// The changing part of a node.
#[derive(Debug)]
pub(super) struct Inner {
    /// The name it was last seen under; its parent. `None` for the root, and
    /// for a file all of whose known names are gone.
    pub place: Option<Place>,
    /// The last name is gone; a file may still be here because it is open.
    pub unlinked: bool,
    /// A merge or a restore took the names, so the kernel may not know yet and
    /// still lead here who asks for what has the name now.
    pub taken: bool,
    /// The generation of the view's stack that `here` was resolved in.
    pub generation: u64,
    pub here: Here,
    /// Open handles.
    pub opens: u32,
    /// What most inodes do not have at the moment; `None` when there is nothing in it.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    /// Further names of a file that were seen, by directory and name: a file may
    /// have tens of thousands.
    other_places: BTreeMap<(Ino, Name), Arc<Node>>,
    /// The content, opened once for all handles.
    file: Option<OpenFile>,
    /// A directory's names in order, while somebody lists it.
    listing: Option<Listing>,
    /// What new entries of this directory inherit from it.
    inherit: Option<Inherit>,
}

#[derive(Debug)]
pub(super) struct OpenFile {
    pub content: Arc<Backing>,
    pub writable: bool,
    _counted: Counted,
}

impl OpenFile {
    /// What is open already, to be kept so. `None` if half of the descriptors that
    /// this process may have are kept files: requests need some too, and then open
    /// the file anew.
    pub fn keep(content: Arc<Backing>, writable: bool) -> Option<OpenFile> {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let _counted = Counted::new(content.descriptors());
        (KEPT.load(Ordering::Relaxed) <= limit / 2).then_some(OpenFile {
            content,
            writable,
            _counted,
        })
    }
}

/// How many descriptors of files all views keep open.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// So many of [`KEPT`], until it is dropped.
#[derive(Debug)]
struct Counted(u64);

impl Counted {
    fn new(descriptors: u64) -> Counted {
        KEPT.fetch_add(descriptors, Ordering::Relaxed);
        Counted(descriptors)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Inherit {
    /// The group, where the directory has setgid (inode(7)).
    pub gid: Option<u32>,
    /// It has a default ACL, which takes the umask's place (acl(5)).
    pub acl: bool,
}

/// Where an inode lies now.
#[derive(Clone, Debug)]
pub(super) enum Here {
    Dir(Arc<DirHere>),
    /// In the stack, untouched.
    Below(Lower),
    /// In the open layer.
    Upper {
        at: UpperAt,
        content: Content,
    },
    /// In no layer that the view has, but still open.
    Detached {
        content: Arc<Backing>,
        /// In a sealed layer, though: it may only be read.
        sealed: bool,
    },
    /// Removed; the last attributes are all that is left.
    Gone(Box<Attr>),
}

/// Where in the open layer a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpperAt {
    /// At its place in the tree.
    Name,
    /// In `index/`: it has, or had, several names.
    Index,
    /// In `orphans/`: unlinked but open.
    Orphan,
}

/// Where the content of a file in the open layer lies.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// In its file there; blocks of it may still be below, where the layer has a map
    /// of them ([`OpenLayer::map`]).
    Whole,
    /// Still below: only metadata was copied up.
    Below { stack: Stack, part: Arc<Part> },
}

impl Here {
    /// True if a file's content lies in the same kind of place.
    pub fn same_content(&self, other: &Here) -> bool {
        use std::mem::discriminant;
        match (self, other) {
            (Here::Upper { content, .. }, Here::Upper { content: other, .. }) => {
                discriminant(content) == discriminant(other)
            }
            _ => discriminant(self) == discriminant(other),
        }
    }
}

impl More {
    fn is_empty(&self) -> bool {
        self.other_places.is_empty()
            && self.file.is_none()
            && self.listing.is_none()
            && self.inherit.is_none()
    }
}

impl Inner {
    fn change_more<R>(&mut self, change: impl FnOnce(&mut More) -> R) -> R {
        let more = self.more.get_or_insert_default();
        let result = change(more);
        if more.is_empty() {
            self.more = None;
        }
        result
    }

    /// The content, if it is open.
    pub fn file(&self) -> Option<&OpenFile> {
        self.more.as_ref()?.file.as_ref()
    }

    pub fn set_file(&mut self, file: Option<OpenFile>) {
        if file.is_some() || self.file().is_some() {
            self.change_more(|more| more.file = file);
        }
    }

    /// A directory's names in order, while somebody lists it.
    pub fn listing(&self) -> Option<&Listing> {
        self.more.as_ref()?.listing.as_ref()
    }

    pub fn listing_mut(&mut self) -> Option<&mut Listing> {
        self.more.as_mut()?.listing.as_mut()
    }

    pub fn set_listing(&mut self, listing: Option<Listing>) {
        if listing.is_some() || self.listing().is_some() {
            self.change_more(|more| more.listing = listing);
        }
    }

    /// What new entries of this directory inherit from it, if that is known.
    pub fn inherit(&self) -> Option<Inherit> {
        self.more.as_ref()?.inherit
    }

    pub fn set_inherit(&mut self, inherit: Option<Inherit>) {
        if inherit.is_some() || self.inherit().is_some() {
            self.change_more(|more| more.inherit = inherit);
        }
    }

    /// The content, if it is open already.
    pub fn kept(&self, writable: bool) -> Option<Arc<Backing>> {
        let file = self.file()?;
        (file.writable || !writable).then(|| file.content.clone())
    }

    /// A name was seen.
    pub fn add_place(&mut self, kind: Kind, place: Place) {
        match &self.place {
            Some(known) if known.is(&place.parent, &place.name) => return,
            Some(_) if kind == Kind::Dir => {}
            Some(known) => {
                let (key, parent) = known.clone().keyed();
                let (now, _) = place.clone().keyed();
                self.change_more(|more| {
                    more.other_places.remove(&now);
                    more.other_places.insert(key, parent);
                });
            }
            None => {}
        }
        self.place = Some(place);
    }

    /// Its content is in `orphans/`.
    pub fn is_orphan(&self) -> bool {
        matches!(
            self.here,
            Here::Upper {
                at: UpperAt::Orphan,
                ..
            }
        )
    }

    /// All names that were seen and not gone since; the last one that was seen
    /// comes first.
    pub fn places(&self) -> Vec<Place> {
        let others = self.more.iter().flat_map(|more| &more.other_places);
        let others = others.map(|((_, name), parent)| Place {
            parent: parent.clone(),
            name: name.clone(),
        });
        self.place.iter().cloned().chain(others).collect()
    }

    /// The directories of these names.
    pub fn parents(&self) -> impl Iterator<Item = Ino> {
        let others = self.more.iter().flat_map(|more| more.other_places.keys());
        let place = self.place.iter().map(|place| place.parent.ino);
        place.chain(others.map(|(parent, _)| *parent))
    }

    fn set_other_places(&mut self, others: BTreeMap<(Ino, Name), Arc<Node>>) {
        if self.more.is_some() || !others.is_empty() {
            self.change_more(|more| more.other_places = others);
        }
    }

    /// It lies somewhere else in the stack that the view has now, and there it
    /// has these names.
    pub fn seat(&mut self, generation: u64, here: Here, places: Vec<Place>) {
        let mut places = places.into_iter();
        self.place = places.next();
        self.set_other_places(places.map(Place::keyed).collect());
        self.unlinked = false;
        self.taken = false;
        self.move_to(generation, here);
    }

    /// Nothing in the stack that the view has now leads to it.
    pub fn lose(&mut self, generation: u64, here: Here) {
        // What is gone keeps its place: that of a directory leads to what was
        // below it, and so to `ESTALE`.
        if !matches!(here, Here::Gone(_)) {
            self.place = None;
            self.set_other_places(BTreeMap::new());
        }
        // What was removed before is known to the kernel.
        self.taken |= !self.unlinked;
        self.unlinked = true;
        self.move_to(generation, here);
    }

    fn move_to(&mut self, generation: u64, here: Here) {
        self.here = here;
        self.set_file(None);
        self.set_listing(None);
        self.set_inherit(None);
        self.generation = generation;
    }

    /// A name is gone.
    pub fn remove_place(&mut self, parent: &Arc<Node>, name: &OsStr) {
        let first = self.place.as_ref();
        let first = first.is_some_and(|place| place.is(parent, name));
        let next = match self.more {
            None => None,
            Some(_) => self.change_more(|more| {
                more.other_places.remove(&(parent.ino, name.into()));
                first.then(|| more.other_places.pop_last()).flatten()
            }),
        };
        if first {
            self.place = next.map(|((_, name), parent)| Place { parent, name });
        }
    }
}

impl Node {
    pub fn new(ino: Ino, kind: Kind, place: Option<Place>, generation: u64, here: Here) -> Node {
        let copying = match kind {
            Kind::Dir => Rank::DirCopy,
            _ => Rank::FileCopy,
        };
        Node {
            ino,
            kind,
            lookups: AtomicU32::new(0),
            copying: Mutex::new(copying, ()),
            marks: Marks::default(),
            own: (kind == Kind::Dir).then(|| {
                Box::new(DirOwn {
                    names: RwLock::new(Rank::Names, ()),
                    marks: DirMarks::default(),
                })
            }),
            inner: RwLock::new(
                Rank::Inode,
                Inner {
                    place,
                    unlinked: false,
                    taken: false,
                    generation,
                    here,
                    opens: 0,
                    more: None,
                },
            ),
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// A directory's names: read to look up, write to change.
    pub fn names(&self) -> &RwLock<()> {
        self.own.as_ref().map_or(&NO_NAMES, |own| &own.names)
    }

    /// What is remembered of a directory for what is noted of it.
    pub fn dir_marks(&self) -> Option<&DirMarks> {
        self.own.as_ref().map(|own| &own.marks)
    }

    pub fn place(&self) -> Option<Place> {
        self.inner.read().place.clone()
    }

    /// Runs `with` while the name that this file was last seen under stays what
    /// it is, so that a path made from it leads to this file and to no other.
    /// (A directory's name only changes while no other request runs.) For who
    /// holds no lock but the view's.
    pub fn in_place<T>(&self, with: impl FnOnce() -> T) -> T {
        if self.is_dir() {
            return with();
        }
        while let Some(place) = self.place() {
            let _names = place.parent.names().read();
            if self.is_still_at(&place) {
                return with();
            }
        }
        with()
    }

    /// [`Node::in_place`] with nobody else in the same place.
    pub fn in_place_alone<T>(&self, with: impl FnOnce() -> T) -> T {
        while let Some(place) = self.place() {
            let _names = place.parent.names().write();
            if self.is_still_at(&place) {
                return with();
            }
        }
        with()
    }

    fn is_still_at(&self, place: &Place) -> bool {
        let inner = self.inner.read();
        let now = inner.place.as_ref();
        now.is_some_and(|now| now.is(&place.parent, &place.name))
    }

    /// The path of this node in the view, from its last known names.
    pub fn path(&self) -> PathBuf {
        let mut names = Vec::new();
        let mut at = self.place();
        while let Some(place) = at {
            names.push(place.name);
            at = place.parent.place();
        }
        names.iter().rev().collect()
    }

    /// The path in the open layer of the entry `name` of this directory.
    pub fn upper_child(&self, name: &OsStr) -> PathBuf {
        let mut path = PathBuf::from(TREE);
        path.push(self.path());
        path.push(name);
        path
    }

    /// The path of this node in the open layer, if it is there.
    pub fn upper_path(&self) -> Option<PathBuf> {
        let here = self.inner.read().here.clone();
        match here {
            Here::Dir(dir) if dir.upper => Some(Path::new(TREE).join(self.path())),
            Here::Upper { at, .. } => Some(match at {
                UpperAt::Name => Path::new(TREE).join(self.path()),
                UpperAt::Index => OpenLayer::index_path(self.ino),
                UpperAt::Orphan => OpenLayer::orphan_path(self.ino),
            }),
            _ => None,
        }
    }

    /// A directory was removed; `attr` is the last that is known of it.
    pub fn remove_dir(&self, attr: Attr) {
        let mut inner = self.inner.write();
        inner.here = Here::Gone(Box::new(Attr { nlink: 0, ..attr }));
        inner.unlinked = true;
        inner.set_listing(None);
    }

    /// How to answer who wants something of it that is gone. `ESTALE` has the
    /// kernel look the path up again (fs/namei.c, `retry_estale`).
    pub fn gone(&self) -> Errno {
        match self.inner.read().taken {
            true => Errno::ESTALE,
            false => Errno::ENOENT,
        }
    }

    pub fn dir(&self) -> Option<Arc<DirHere>> {
        match &self.inner.read().here {
            Here::Dir(dir) => Some(dir.clone()),
            _ => None,
        }
    }

    /// The kernel is told of it once more.
    pub fn count_lookup(&self) {
        let more = |count: u32| count.checked_add(1);
        let _ = self
            .lookups
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// The kernel has forgotten that it was told of it so often.
    pub fn forget(&self, count: u64) {
        let less = |known: u32| {
            let left = u64::from(known).saturating_sub(count);
            (known != u32::MAX).then_some(u32::try_from(left).unwrap_or(0))
        };
        let _ = self
            .lookups
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// True for what the kernel need not be told of again to name it.
    pub fn is_known(&self) -> bool {
        self.lookups.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is there a million times. In a build without the ranks of locks it is 16 bytes less.
    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node>() <= 144, "{}", size_of::<Node>());
    }
}
