//! The open layer of a view: the only place that is written.
//!
//! Its directory holds `tree/` (the diff, overlayfs conventions), `index/` (one
//! name per inode that has or had several names), `orphans/` (unlinked but
//! open), `work/` (made here, then renamed into place) and `links` (a journal).
//! Paths are relative to that directory, so a file of the tree is `tree/0/…`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags};

use super::block_map::{self, BlockMap, MAPS};
use super::disk::{DiskTree, Whiteouts, set_ino};
use crate::error::{Context, Error, Result};
use crate::sys::inherit::hand_nothing_down;
use crate::sys::ordered::{Mutex, Rank};
use crate::sys::{at, xattr};
use crate::tree::union::Entry;
use crate::tree::{Ino, Kind, marker};

/// The subdirectory that holds the diff.
pub const TREE: &str = "tree";
const INDEX: &str = "index";
const ORPHANS: &str = "orphans";
const WORK: &str = "work";
const LINKS: &str = "links";
/// Inside `work/`: every device whiteout is a hard link to this one.
const WHITEOUT: &str = "work/whiteout";

/// What is known of an inode that has, or had, several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Names it has now in this view.
    pub nlink: u32,
    /// Names it had in the stack below; 0 for an inode born in this layer.
    pub origin: u32,
    /// Its content is in this layer, at `index/<ino>`.
    pub here: bool,
}

/// A layer being written.
#[derive(Debug)]
pub struct OpenLayer {
    path: PathBuf,
    dir: OwnedFd,
    tree: DiskTree,
    serial: AtomicU64,
    links: Mutex<HashMap<Ino, LinkState>>,
    journal: Mutex<File>,
    maps: Mutex<HashMap<Ino, Arc<BlockMap>>>,
    manner: Manner,
    start: PathBuf,
    room: Option<OwnedFd>,
}

/// In which forms an open layer may hold what was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Files of which only a part is here, the rest being below: copies of metadata.
    pub parts: bool,
    /// Directories that go on below under another name (redirects).
    pub redirects: bool,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Somebody else has written here, and then a file can have several names that nobody counted.
    pub foreign: bool,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner {
            parts: true,
            redirects: true,
            read_only: false,
            foreign: false,
        }
    }
}

impl OpenLayer {
    /// Makes a new open layer in the directory `path`, or takes up the one that
    /// a dead daemon left there.
    ///
    /// # Errors
    /// As mkdir(2) and mknod(2), naming the path.
    pub fn open(path: &Path) -> Result<OpenLayer> {
        Self::try_open(path).context(|| path.display().to_string())
    }

    fn try_open(path: &Path) -> Result<OpenLayer> {
        std::fs::create_dir_all(path)?;
        let dir = at::open_dir(nix::fcntl::AT_FDCWD, path)?;
        let (manner, start) = (Manner::default(), PathBuf::new());
        Self::around(path, dir, manner, start, Self::plain_tree)
    }

    /// The tree of a layer that is ours alone.
    pub(super) fn plain_tree(dir: &OwnedFd, whiteouts: Whiteouts) -> Result<DiskTree> {
        at::mkdir_if_missing(dir, Path::new(TREE), 0o755)?;
        // What is taken up may have got some before.
        hand_nothing_down(dir, Path::new(TREE), 0o755)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = at::open(dir, Path::new(TREE), flags, 0)?;
        Ok(DiskTree::new(root, whiteouts))
    }

    /// An open layer whose tree is what `tree` makes or finds at `tree/` below `dir`; of that,
    /// `start` and what is below is the layer's.
    pub(super) fn around(
        path: &Path,
        dir: OwnedFd,
        manner: Manner,
        start: PathBuf,
        tree: impl FnOnce(&OwnedFd, Whiteouts) -> Result<DiskTree>,
    ) -> Result<OpenLayer> {
        // An entry that is made here inherits from the tree's directories alone.
        hand_nothing_down(&dir, Path::new(""), 0o755)?;
        at::remove_all(&dir, Path::new(WORK))?;
        at::remove_all(&dir, Path::new(ORPHANS))?;
        for name in [INDEX, ORPHANS, WORK] {
            at::mkdir_if_missing(&dir, Path::new(name), 0o755)?;
        }
        let whiteouts = match at::mknod(&dir, Path::new(WHITEOUT), Kind::CharDevice, 0, 0) {
            Ok(()) => Whiteouts::Device,
            Err(error) if matches!(error.errno(), Errno::EPERM | Errno::EINVAL) => Whiteouts::Xattr,
            Err(error) => return Err(error),
        };
        let tree = tree(&dir, whiteouts)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND;
        let mut journal = File::from(at::open(&dir, Path::new(LINKS), flags, 0o600)?);
        let links = replay(&mut journal)?;
        let maps = block_map::read_all(&dir, false)?;
        Ok(OpenLayer {
            path: path.to_path_buf(),
            dir,
            tree,
            serial: AtomicU64::new(0),
            links: Mutex::new(Rank::LinkStates, links),
            journal: Mutex::new(Rank::LinkJournal, journal),
            maps: Mutex::new(Rank::Maps, maps),
            manner,
            start,
            room: None,
        })
    }

    /// The same, that tells of the room of another filesystem.
    pub(super) fn with_room(mut self, room: OwnedFd) -> OpenLayer {
        self.room = Some(room);
        self
    }

    /// What to ask how much room there is (statfs(2)).
    pub fn room(&self) -> &OwnedFd {
        self.room.as_ref().unwrap_or(&self.dir)
    }

    /// What it may hold.
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// What of the tree is the layer's: all, or one directory and what is below.
    pub fn start(&self) -> &Path {
        &self.start
    }

    /// Fails where nothing may be changed.
    ///
    /// # Errors
    /// `EROFS`.
    pub fn writable(&self) -> Result<()> {
        match self.manner.read_only {
            true => Err(Errno::EROFS.into()),
            false => Ok(()),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it still lies there, and was not moved.
    pub fn is_in_place(&self) -> bool {
        let here = at::stat(nix::fcntl::AT_FDCWD, &self.path);
        match (here, at::fstat(&self.dir)) {
            (Ok(here), Ok(own)) => (here.dev, here.ino) == (own.dev, own.ino),
            _ => false,
        }
    }

    /// The descriptor that paths of this layer are relative to.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// The tree, to read.
    pub fn tree(&self) -> &DiskTree {
        &self.tree
    }

    /// The entry at `path` in the tree (without the leading `tree/`).
    ///
    /// # Errors
    /// What the disk reports.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        self.tree.entry(path)
    }

    /// True when nothing was ever changed in it.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn is_clean(&self) -> Result<bool> {
        let changed = at::list(&self.dir, Path::new(TREE));
        let changed = changed.context(|| self.path.display().to_string())?;
        Ok(changed.is_empty() && self.links.lock().is_empty())
    }

    /// Drops the files without a name, which who has them open keeps by descriptor:
    /// for a layer that is clean. Nobody else changes it meanwhile, but for its
    /// `work/`.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn forget_orphans(&self) -> Result<()> {
        for orphan in at::list(&self.dir, Path::new(ORPHANS))? {
            at::unlink(&self.dir, &Path::new(ORPHANS).join(&orphan.name))?;
        }
        for ino in self.maps().into_keys() {
            self.forget_map(ino);
        }
        Ok(())
    }

    /// A fresh name in `work/`.
    pub fn temporary(&self) -> PathBuf {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        PathBuf::from(format!("{WORK}/{serial}"))
    }

    /// The name of an inode in `index/`.
    pub fn index_path(ino: Ino) -> PathBuf {
        PathBuf::from(format!("{INDEX}/{ino}"))
    }

    /// The name of an inode in `orphans/`.
    pub fn orphan_path(ino: Ino) -> PathBuf {
        PathBuf::from(format!("{ORPHANS}/{ino}"))
    }

    /// The map of a file some of whose content lies below.
    pub fn map(&self, ino: Ino) -> Option<Arc<BlockMap>> {
        self.maps.lock().get(&ino).cloned()
    }

    /// The maps of all files some of whose content lies below.
    pub fn maps(&self) -> HashMap<Ino, Arc<BlockMap>> {
        self.maps.lock().clone()
    }

    /// Notes that what its files have of their own is on the disk before anybody
    /// takes them up again: for who syncs it all.
    ///
    /// # Errors
    /// As openat(2) and pwrite(2).
    pub fn settle_maps(&self) -> Result<()> {
        for (ino, map) in self.maps() {
            map.settle_in(&self.dir, ino, None)?;
        }
        Ok(())
    }

    /// Gives a file the map that was written at `from`, or none: before it comes
    /// to its place, so that no file is ever taken for whole that is not.
    ///
    /// # Errors
    /// As mkdirat(2) and renameat(2).
    pub(super) fn set_map(&self, ino: Ino, map: Option<&(PathBuf, Arc<BlockMap>)>) -> Result<()> {
        let Some((from, map)) = map else {
            self.forget_map(ino);
            return Ok(());
        };
        let to = BlockMap::path_of(ino);
        at::mkdir_if_missing(&self.dir, Path::new(MAPS), 0o755)?;
        at::rename(&self.dir, from, &self.dir, &to, RenameFlags::empty())?;
        self.maps.lock().insert(ino, map.clone());
        Ok(())
    }

    /// All content of a file is its own, or it is gone.
    pub fn forget_map(&self, ino: Ino) {
        if self.maps.lock().remove(&ino).is_none() {
            return;
        }
        match at::unlink(&self.dir, &BlockMap::path_of(ino)) {
            Err(error) if error.errno() != Errno::ENOENT => log::warn!("map of {ino}: {error}"),
            _ => {}
        }
    }

    /// What is recorded of an inode with several names.
    pub fn link_state(&self, ino: Ino) -> Option<LinkState> {
        self.links.lock().get(&ino).copied()
    }

    /// All that is recorded of inodes with several names.
    pub fn link_states(&self) -> HashMap<Ino, LinkState> {
        self.links.lock().clone()
    }

    /// Records the names of an inode.
    ///
    /// # Errors
    /// As [`OpenLayer::change_link_state`].
    pub fn set_link_state(&self, ino: Ino, state: LinkState) -> Result<()> {
        self.change_link_state(ino, |_| Some(state)).map(drop)
    }

    /// Records the names of an inode, so that it survives the daemon's death.
    /// `change` makes the new state from the present one, or leaves it.
    ///
    /// # Errors
    /// As write(2); then nothing has changed.
    pub fn change_link_state(
        &self,
        ino: Ino,
        change: impl FnOnce(Option<LinkState>) -> Option<LinkState>,
    ) -> Result<Option<LinkState>> {
        let mut links = self.links.lock();
        let Some(state) = change(links.get(&ino).copied()) else {
            return Ok(None);
        };
        let journal = self.journal.lock();
        let before = journal.metadata()?.len();
        if let Err(error) = (&*journal).write_all(&record(ino, state)) {
            // Half a record would put all later ones out of step.
            let _ = journal.set_len(before);
            return Err(error.into());
        }
        links.insert(ino, state);
        Ok(Some(state))
    }

    /// Forgets what is recorded of the names of these inodes.
    ///
    /// # Errors
    /// As openat(2), write(2) and renameat(2); then nothing has changed.
    pub fn forget_link_states(&self, inodes: &HashSet<Ino>) -> Result<()> {
        let mut links = self.links.lock();
        if !inodes.iter().any(|ino| links.contains_key(ino)) {
            return Ok(());
        }
        let left = links.iter().filter(|(ino, _)| !inodes.contains(ino));
        let bytes: Vec<u8> = left.flat_map(|(ino, state)| record(*ino, *state)).collect();
        let mut journal = self.journal.lock();
        let temporary = self.temporary();
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_APPEND;
        let mut file = File::from(at::open(&self.dir, &temporary, flags, 0o600)?);
        let (to, over) = (Path::new(LINKS), RenameFlags::empty());
        file.write_all(&bytes)
            .map_err(Error::from)
            .and_then(|()| at::rename(&self.dir, &temporary, &self.dir, to, over))
            .inspect_err(|_| self.drop_temporary(&temporary))?;
        *journal = file;
        links.retain(|ino, _| !inodes.contains(ino));
        Ok(())
    }

    /// Makes a whiteout under a fresh name in `work/`.
    fn new_whiteout(&self) -> Result<PathBuf> {
        let temporary = self.temporary();
        match self.tree.whiteouts() {
            Whiteouts::Device => {
                match at::link(&self.dir, Path::new(WHITEOUT), &self.dir, &temporary) {
                    Ok(()) => {}
                    // link(2): EMLINK when the disk's limit of names is reached.
                    Err(error) if matches!(error.errno(), Errno::EMLINK | Errno::ENOENT) => {
                        at::mknod(&self.dir, &temporary, Kind::CharDevice, 0, 0)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            Whiteouts::Xattr => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
                let file = at::open(&self.dir, &temporary, flags, 0)?;
                xattr::fset(&file, marker::XWHITEOUT, b"y")
                    .inspect_err(|_| self.drop_temporary(&temporary))?;
            }
        }
        Ok(temporary)
    }

    /// overlayfs.rst: a directory that may hold xattr whiteouts says so.
    fn announce_whiteout(&self, path: &Path) -> Result<()> {
        if self.tree.whiteouts() == Whiteouts::Xattr
            && let Some(parent) = path.parent()
            && xattr::get(&self.dir, parent, marker::OPAQUE)?.is_none()
        {
            xattr::set(&self.dir, parent, marker::OPAQUE, b"x", 0)?;
        }
        Ok(())
    }

    /// Puts a whiteout at `path`, over a file that may be there, in one step.
    ///
    /// # Errors
    /// As renameat(2).
    pub fn whiteout_file(&self, path: &Path) -> Result<()> {
        self.announce_whiteout(path)?;
        let temporary = self.new_whiteout()?;
        at::rename(&self.dir, &temporary, &self.dir, path, RenameFlags::empty())
            .inspect_err(|_| self.drop_temporary(&temporary))
    }

    /// Puts a whiteout in the place of a directory of which nothing shows any
    /// more, in one step.
    ///
    /// # Errors
    /// As renameat2(2).
    pub fn whiteout_dir(&self, path: &Path) -> Result<()> {
        self.announce_whiteout(path)?;
        let temporary = self.new_whiteout()?;
        let exchange = RenameFlags::RENAME_EXCHANGE;
        let done = at::rename(&self.dir, &temporary, &self.dir, path, exchange);
        // The removed directory, or the whiteout if it could not be removed.
        self.drop_temporary(&temporary);
        done
    }

    /// Removes what lies in `work/` and is no longer of use. What cannot be
    /// removed takes room until the layer is sealed, and does no other harm.
    pub(super) fn drop_temporary(&self, temporary: &Path) {
        if let Err(error) = at::remove_all(&self.dir, temporary) {
            log::warn!("{}: {error}", temporary.display());
        }
    }

    /// Moves what lies at `from` to `to`, over a whiteout or a file.
    ///
    /// # Errors
    /// As renameat2(2); `EEXIST` for a directory where one lies already.
    pub fn put(&self, from: &Path, to: &Path, is_dir: bool, over_whiteout: bool) -> Result<()> {
        if is_dir && over_whiteout {
            // rename(2) does not put a directory over a file: change places.
            at::rename(&self.dir, from, &self.dir, to, RenameFlags::RENAME_EXCHANGE)?;
            self.drop_temporary(from);
            return Ok(());
        }
        // An empty directory would be replaced without a word.
        let flags = match is_dir {
            true => RenameFlags::RENAME_NOREPLACE,
            false => RenameFlags::empty(),
        };
        at::rename(&self.dir, from, &self.dir, to, flags)
    }

    /// Gives the file at `from` the further name `to`, where a whiteout lies.
    ///
    /// # Errors
    /// As linkat(2) and renameat2(2).
    pub fn link_over(&self, from: &Path, to: &Path) -> Result<()> {
        let temporary = self.temporary();
        at::link(&self.dir, from, &self.dir, &temporary)?;
        at::rename(&self.dir, &temporary, &self.dir, to, RenameFlags::empty())
            .inspect_err(|_| self.drop_temporary(&temporary))
    }

    /// Renames `from` to `to` and leaves a whiteout behind.
    ///
    /// # Errors
    /// As renameat2(2).
    pub fn rename_leaving_whiteout(&self, from: &Path, to: &Path) -> Result<()> {
        if self.tree.whiteouts() == Whiteouts::Device {
            let flags = RenameFlags::RENAME_WHITEOUT;
            match at::rename(&self.dir, from, &self.dir, to, flags) {
                Err(error) if error.errno() == Errno::EINVAL => {}
                other => return other,
            }
        }
        // Made first: a full disk says so before anything is moved.
        self.announce_whiteout(from)?;
        let whiteout = self.new_whiteout()?;
        let flags = RenameFlags::empty();
        at::rename(&self.dir, from, &self.dir, to, flags)
            .and_then(|()| at::rename(&self.dir, &whiteout, &self.dir, from, flags))
            .inspect_err(|_| self.drop_temporary(&whiteout))
    }

    /// Removes all that lies in a directory of the tree: whiteouts, where
    /// nothing of it shows any more.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn clear_dir(&self, path: &Path) -> Result<()> {
        for entry in at::list(&self.dir, path)? {
            at::remove_all(&self.dir, &path.join(entry.name))?;
        }
        Ok(())
    }

    /// Sets markers on an entry and records that it has some.
    ///
    /// # Errors
    /// As lsetxattr(2).
    pub fn mark(&self, path: &Path, ino: Ino, marker: &str, value: &OsStr) -> Result<()> {
        set_ino(&self.dir, path, ino, true)?;
        xattr::set(&self.dir, path, marker, value.as_encoded_bytes(), 0)
    }
}

const RECORD: usize = 32;

/// A line of the journal of names.
fn record(ino: Ino, state: LinkState) -> [u8; RECORD] {
    let fields = [
        ino,
        u64::from(state.nlink),
        u64::from(state.origin),
        u64::from(state.here),
    ];
    let mut bytes = [0; RECORD];
    for (slot, value) in bytes.chunks_exact_mut(8).zip(fields) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Reads the journal of names; a torn last record is cut off.
fn replay(journal: &mut File) -> Result<HashMap<Ino, LinkState>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(journal, &mut bytes)?;
    let whole = bytes.len() / RECORD * RECORD;
    if whole < bytes.len() {
        journal.set_len(whole as u64)?;
    }
    let mut links = HashMap::new();
    for record in bytes[..whole].chunks_exact(RECORD) {
        let field = |index: usize| {
            let at = index * 8;
            u64::from_le_bytes(record[at..at + 8].try_into().unwrap_or_default())
        };
        let state = LinkState {
            nlink: u32::try_from(field(1)).unwrap_or(u32::MAX),
            origin: u32::try_from(field(2)).unwrap_or(u32::MAX),
            here: field(3) != 0,
        };
        links.insert(field(0), state);
    }
    Ok(links)
}

impl AsFd for OpenLayer {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
