//! The inode table's rows: what an inode is and where it lies now.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::reads::Marks;
use crate::layer::{Backing, OpenLayer, Stack, TREE};
use crate::sys::ordered::{Mutex, Rank, RwLock};
use crate::tree::listing::Listing;
use crate::tree::union::{Found, Part};
use crate::tree::{Attr, Ino, Kind};

/// An inode, independent of its names. The kernel knows it by its number.
///
/// Locks, in this order: `copying` of a file, the view's state, `names` (of a
/// parent before its child), `copying` of a directory, `inner`. Nothing else is
/// locked while `inner` is.
#[derive(Debug)]
pub(super) struct Node {
    pub ino: Ino,
    pub kind: Kind,
    /// How often the kernel was told of it and has not forgotten it (`FORGET`).
    pub lookups: AtomicU64,
    /// A directory's names: read to look up, write to change.
    pub names: RwLock<()>,
    /// Held while this inode is copied up.
    pub copying: Mutex<()>,
    pub marks: Marks,
    pub inner: RwLock<Inner>,
}

/// The changing part of a node.
#[derive(Debug)]
pub(super) struct Inner {
    /// The name it was last seen under; its parent. `None` for the root, and
    /// for a file all of whose known names are gone.
    pub place: Option<Place>,
    /// Further names of a file that were seen, by directory and name: a file may
    /// have tens of thousands.
    pub other_places: BTreeMap<(Ino, OsString), Arc<Node>>,
    /// The last name is gone; a file may still be here because it is open.
    pub unlinked: bool,
    /// A merge or a restore took the names, so the kernel may not know yet and
    /// still lead here who asks for what has the name now.
    pub taken: bool,
    /// The generation of the view's stack that `here` was resolved in.
    pub generation: u64,
    pub here: Here,
    /// Open handles, and how many of them may write.
    pub opens: u32,
    pub writers: u32,
    /// The content, opened once for all handles.
    pub file: Option<OpenFile>,
    /// A directory's names in order, while somebody lists it.
    pub listing: Option<Listing>,
    /// What new entries of this directory inherit from it.
    pub inherit: Option<Inherit>,
}

#[derive(Clone, Debug)]
pub(super) struct Place {
    pub parent: Arc<Node>,
    pub name: OsString,
}

#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    pub content: Arc<Backing>,
    pub writable: bool,
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
    Dir(DirHere),
    /// In the stack, untouched.
    Below {
        stack: Stack,
        found: Arc<Found>,
    },
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

/// Where a directory lies: parts of the stack, and perhaps the open layer.
#[derive(Clone, Debug)]
pub(super) struct DirHere {
    /// Its parts in the stack, uppermost first; empty where it is opaque.
    pub below: Arc<[Part]>,
    /// Its path as the stack shows it.
    pub origin: Arc<Path>,
    /// Its attributes in the stack, if it is there.
    pub attr: Option<Attr>,
    /// It exists in the open layer.
    pub upper: bool,
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
    Below { stack: Stack, part: Part },
}

impl Place {
    fn keyed(self) -> ((Ino, OsString), Arc<Node>) {
        ((self.parent.ino, self.name), self.parent)
    }

    pub fn is(&self, parent: &Arc<Node>, name: &OsStr) -> bool {
        Arc::ptr_eq(&self.parent, parent) && self.name == name
    }
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

impl Inner {
    /// The content, if it is open already.
    pub fn kept(&self, writable: bool) -> Option<Arc<Backing>> {
        let file = self.file.as_ref()?;
        (file.writable || !writable).then(|| file.content.clone())
    }

    /// A name was seen.
    pub fn add_place(&mut self, kind: Kind, place: Place) {
        match &self.place {
            Some(known) if known.is(&place.parent, &place.name) => return,
            Some(_) if kind == Kind::Dir => {}
            Some(known) => {
                let (key, parent) = known.clone().keyed();
                self.other_places
                    .remove(&(place.parent.ino, place.name.clone()));
                self.other_places.insert(key, parent);
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
        let others = self.other_places.iter().map(|((_, name), parent)| Place {
            parent: parent.clone(),
            name: name.clone(),
        });
        self.place.iter().cloned().chain(others).collect()
    }

    /// It lies somewhere else in the stack that the view has now, and there it
    /// has these names.
    pub fn seat(&mut self, generation: u64, here: Here, places: Vec<Place>) {
        let mut places = places.into_iter();
        self.place = places.next();
        self.other_places = places.map(Place::keyed).collect();
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
            self.other_places.clear();
        }
        // What was removed before is known to the kernel.
        self.taken |= !self.unlinked;
        self.unlinked = true;
        self.move_to(generation, here);
    }

    fn move_to(&mut self, generation: u64, here: Here) {
        self.here = here;
        self.file = None;
        self.listing = None;
        self.inherit = None;
        self.generation = generation;
    }

    /// A name is gone.
    pub fn remove_place(&mut self, parent: &Arc<Node>, name: &OsStr) {
        self.other_places.remove(&(parent.ino, name.to_os_string()));
        if self
            .place
            .as_ref()
            .is_some_and(|place| place.is(parent, name))
        {
            let next = self.other_places.pop_last();
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
            lookups: AtomicU64::new(0),
            names: RwLock::new(Rank::Names, ()),
            copying: Mutex::new(copying, ()),
            marks: Marks::default(),
            inner: RwLock::new(
                Rank::Inode,
                Inner {
                    place,
                    other_places: BTreeMap::new(),
                    unlinked: false,
                    taken: false,
                    generation,
                    here,
                    opens: 0,
                    writers: 0,
                    file: None,
                    listing: None,
                    inherit: None,
                },
            ),
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
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
            let _names = place.parent.names.read();
            if self.is_still_at(&place) {
                return with();
            }
        }
        with()
    }

    /// [`Node::in_place`] with nobody else in the same place.
    pub fn in_place_alone<T>(&self, with: impl FnOnce() -> T) -> T {
        while let Some(place) = self.place() {
            let _names = place.parent.names.write();
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
        inner.listing = None;
    }

    /// How to answer who wants something of it that is gone. `ESTALE` has the
    /// kernel look the path up again (fs/namei.c, `retry_estale`).
    pub fn gone(&self) -> Errno {
        match self.inner.read().taken {
            true => Errno::ESTALE,
            false => Errno::ENOENT,
        }
    }

    pub fn dir(&self) -> Option<DirHere> {
        match &self.inner.read().here {
            Here::Dir(dir) => Some(dir.clone()),
            _ => None,
        }
    }

    pub fn count_lookup(&self) {
        self.lookups.fetch_add(1, Ordering::AcqRel);
    }
}
