//! From an open layer to an immutable one.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags};

use super::block_map::{self, BlockMap};
use super::copy_up::{copy_dir, keeping_times};
use super::disk::DiskTree;
use super::fill::{CAPABILITY, fill, fill_open, partial_paths};
use super::manifest::Manifest;
use super::open::{OpenLayer, TREE};
use super::{Backing, Layer, Partial, Stack, Visit, Whiteouts, walk};
use crate::error::{Context, Result};
use crate::sys::at;
use crate::tree::union::{Entry, Found, Name, Part};
use crate::tree::{Ino, Kind};

/// A layer that is never written again.
#[derive(Debug)]
pub struct SealedLayer {
    manifest: Manifest,
    tree: DiskTree,
    links: HashMap<Ino, i64>,
    maps: HashMap<Ino, Arc<BlockMap>>,
    /// Its directory, by a path that can be written to.
    writable: Option<PathBuf>,
}

impl SealedLayer {
    /// Opens the layer `id` below `layers`, a read-only clone of the mount
    /// that holds the layers.
    ///
    /// # Errors
    /// As openat(2), or `EINVAL` for a damaged manifest; both name the layer.
    pub fn open(layers: impl AsFd, id: &str) -> Result<SealedLayer> {
        let open = || {
            let dir = at::open_dir(layers, Path::new(id))?;
            let manifest = Manifest::read(&dir)?;
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            let root = at::open(&dir, Path::new(TREE), flags, 0)?;
            let tree = DiskTree::new(root, manifest.whiteout_form());
            let links = manifest
                .links
                .iter()
                .map(|(ino, change)| (*ino, *change))
                .collect();
            let maps = match manifest.partial {
                0 => HashMap::new(),
                _ => block_map::read_all(&dir, true)?,
            };
            Ok(SealedLayer {
                manifest,
                tree,
                links,
                maps,
                writable: None,
            })
        };
        open().map_err(|error: crate::error::Error| error.context(format!("layer {id}")))
    }

    /// The same, with the path where its partial files can be completed.
    #[must_use]
    pub fn writable_at(self, dir: PathBuf) -> SealedLayer {
        SealedLayer {
            writable: Some(dir),
            ..self
        }
    }

    /// What is told of it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl Layer for SealedLayer {
    fn id(&self) -> &str {
        &self.manifest.id
    }

    fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let mut entry = self.tree.entry(path)?;
        if !self.maps.is_empty()
            && let Some(Entry::Present(attr, _)) = &mut entry
            && let Some(map) = self.maps.get(&attr.ino)
        {
            // Completing it changes the times of the file on disk.
            map.dress(attr);
        }
        Ok(entry)
    }

    fn names(&self, path: &Path) -> Result<Vec<Name>> {
        self.tree.names(path)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd> {
        self.tree.open(path)
    }

    fn readlink(&self, path: &Path) -> Result<OsString> {
        self.tree.readlink(path)
    }

    fn xattr(&self, path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
        let value = self.tree.xattr(path, name)?;
        if value.is_some() || name != CAPABILITY || self.maps.is_empty() {
            return Ok(value);
        }
        // Completing the file takes it for a while.
        match self.tree.put_by(path)? {
            // Or did, and has just put it back.
            None => self.tree.xattr(path, name),
            capability => Ok(capability),
        }
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<OsString>> {
        let mut names = self.tree.xattrs(path)?;
        if !self.maps.is_empty()
            && !names.iter().any(|name| name == CAPABILITY)
            && self.xattr(path, OsStr::new(CAPABILITY))?.is_some()
        {
            names.push(CAPABILITY.into());
        }
        Ok(names)
    }

    fn link_changes(&self) -> &HashMap<Ino, i64> {
        &self.links
    }

    fn block_map(&self, path: &Path) -> Result<Option<Arc<BlockMap>>> {
        let map = map_of(&self.tree, &self.maps, path)?;
        Ok(map.map(|(_, map)| map).filter(|map| !map.is_whole()))
    }

    fn partial_files(&self) -> Result<Vec<PathBuf>> {
        if self.maps.is_empty() {
            return Ok(Vec::new());
        }
        let paths = partial_paths(&self.tree, &self.maps)?;
        Ok(paths.into_iter().map(|(_, path)| path).collect())
    }

    fn fill(
        &self,
        path: &Path,
        below: &Arc<Backing>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let Some((ino, map)) = map_of(&self.tree, &self.maps, path)? else {
            return Ok(true);
        };
        let dir = self.writable.as_ref().ok_or(Errno::EROFS)?;
        let dir = at::open_dir(nix::fcntl::AT_FDCWD, dir)?;
        let path = Path::new(TREE).join(path);
        fill(&dir, &path, ino, &map, below, go_on).context(|| path.display().to_string())
    }
}

/// The map of the file at `path`, if it has one.
fn map_of(
    tree: &DiskTree,
    maps: &HashMap<Ino, Arc<BlockMap>>,
    path: &Path,
) -> Result<Option<(Ino, Arc<BlockMap>)>> {
    if maps.is_empty() {
        return Ok(None);
    }
    Ok(match tree.entry(path)? {
        Some(Entry::Present(attr, _)) => maps.get(&attr.ino).map(|map| (attr.ino, map.clone())),
        _ => None,
    })
}

/// Gives every name of a copied-up inode its own hard link in the tree, so that
/// the sealed layer needs no index: afterwards names and content agree for
/// whoever reads the layer, the kernel's overlayfs among them.
pub(super) fn write_links(open: &OpenLayer, stack: &Stack) -> Result<BTreeMap<Ino, i64>> {
    let mut changes = BTreeMap::new();
    let mut wanted: HashMap<Ino, u32> = HashMap::new();
    for (ino, state) in open.link_states() {
        if state.here && state.origin > 1 && state.nlink > 0 {
            wanted.insert(ino, state.nlink);
        } else if (!state.here || state.nlink == 0) && state.nlink != state.origin {
            // Also of what was written and then removed: who has it open below
            // must see that it has no name.
            changes.insert(ino, i64::from(state.nlink) - i64::from(state.origin));
        }
    }
    if wanted.is_empty() {
        return Ok(changes);
    }
    let top = stack.layers().len();
    let upper = OpenTree {
        dir: None,
        tree: open.tree().again()?,
        maps: HashMap::new(),
    };
    let view = stack.with(Arc::new(upper));
    let mut missing: u64 = wanted.values().map(|nlink| u64::from(*nlink)).sum();
    let mut names = Vec::new();
    walk(&view, open.start(), &mut |path, found| {
        if found.attr.kind != Kind::Dir && wanted.contains_key(&found.attr.ino) {
            if found.parts[0].layer != top {
                names.push((path.to_path_buf(), found.attr.ino));
            }
            missing = missing.saturating_sub(1);
        }
        Ok(if missing == 0 {
            Visit::Stop
        } else {
            Visit::Enter
        })
    })?;
    for (path, ino) in names {
        let Some(parent) = path.parent() else {
            continue;
        };
        // As the view shows it: directories may have been renamed.
        copy_dir(open, &view, parent)?;
        let target = Path::new(TREE).join(&path);
        let dir = Path::new(TREE).join(parent);
        keeping_times(open, &dir, || {
            at::link(open, &OpenLayer::index_path(ino), open, &target)
        })?;
    }
    Ok(changes)
}

/// An open layer's tree, read as if it were sealed.
#[derive(Debug)]
struct OpenTree {
    /// Its directory, where it can be written to.
    dir: Option<OwnedFd>,
    tree: DiskTree,
    maps: HashMap<Ino, Arc<BlockMap>>,
}

static NO_CHANGES: std::sync::LazyLock<HashMap<Ino, i64>> = std::sync::LazyLock::new(HashMap::new);

impl Layer for OpenTree {
    fn id(&self) -> &'static str {
        "open"
    }
    fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        self.tree.entry(path)
    }
    fn names(&self, path: &Path) -> Result<Vec<Name>> {
        self.tree.names(path)
    }
    fn open(&self, path: &Path) -> Result<OwnedFd> {
        self.tree.open(path)
    }
    fn readlink(&self, path: &Path) -> Result<OsString> {
        self.tree.readlink(path)
    }
    fn xattr(&self, path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
        self.tree.xattr(path, name)
    }
    fn xattrs(&self, path: &Path) -> Result<Vec<OsString>> {
        self.tree.xattrs(path)
    }
    fn link_changes(&self) -> &HashMap<Ino, i64> {
        &NO_CHANGES
    }
    fn block_map(&self, path: &Path) -> Result<Option<Arc<BlockMap>>> {
        let map = map_of(&self.tree, &self.maps, path)?;
        Ok(map.map(|(_, map)| map).filter(|map| !map.is_whole()))
    }
    fn open_whole(&self, path: &Path, below: &Arc<Backing>) -> Result<OwnedFd> {
        let map = self.block_map(path)?;
        let file = self.open(path)?;
        let (Some(map), Some(dir)) = (map, &self.dir) else {
            return Ok(file);
        };
        // Whoever writes it may go on, so it is left as it is.
        let size = at::fstat(&file)?.attr.size;
        let content = Backing::Partial(Partial::new(file, None, map, below.clone()));
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR;
        let copy = at::open(dir, Path::new("."), flags, 0o600)?;
        content.copy_all(&copy, size)?;
        Ok(copy)
    }
}

/// Counts what a tree holds: entries, whiteouts, bytes of content. Directories
/// that only lead to something are no change, and are not counted.
fn count(tree: &DiskTree, stack: &Stack) -> Result<(u64, u64, u64)> {
    let (mut entries, mut whiteouts, mut bytes) = (0, 0, 0);
    // Each with what is below it in the stack.
    let mut dirs = vec![(Path::new("").to_path_buf(), Some(stack.roots()))];
    while let Some((dir, parts)) = dirs.pop() {
        for name in tree.names(&dir)? {
            let path = dir.join(&name.name);
            match name.kind {
                None => whiteouts += 1,
                Some(Kind::Dir) => {
                    let below = match &parts {
                        Some(parts) => covered(tree, &path, stack, parts, &name.name)?,
                        None => None,
                    };
                    match &below {
                        Some(below) if same_directory(tree, &path, stack, below)? => {}
                        _ => entries += 1,
                    }
                    dirs.push((path, below.map(|below| below.parts)));
                }
                Some(Kind::File) => {
                    entries += 1;
                    bytes += at::stat(tree.root(), &path)?.attr.blocks * 512;
                }
                Some(_) => entries += 1,
            }
        }
    }
    Ok((entries, whiteouts, bytes))
}

/// The directory of the stack that one of the tree is united with under its own name.
fn covered(
    tree: &DiskTree,
    path: &Path,
    stack: &Stack,
    parts: &[Part],
    name: &OsStr,
) -> Result<Option<Found>> {
    match tree.entry(path)? {
        Some(Entry::Present(_, marks)) if !marks.opaque && marks.redirect.is_none() => {
            let below = stack.lookup(parts, name)?;
            Ok(below.filter(|below| below.attr.kind == Kind::Dir))
        }
        _ => Ok(None),
    }
}

/// Whether nothing but times tells them apart.
fn same_directory(tree: &DiskTree, path: &Path, stack: &Stack, below: &Found) -> Result<bool> {
    let own = at::stat(tree.root(), path)?.attr;
    let old = &below.attr;
    if (own.perm, own.uid, own.gid) != (old.perm, old.uid, old.gid) {
        return Ok(false);
    }
    let old = stack.xattrs(below)?;
    let names = tree.xattrs(path)?;
    if names.len() != old.len() {
        return Ok(false);
    }
    for name in names {
        if tree.xattr(path, &name)?.as_ref() != old.get(&name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What an open layer has beside its tree.
const SCRATCH: [&str; 4] = ["index", "orphans", "work", "links"];

/// Makes the open layer immutable, with all content of its files, and moves it to
/// `layers/<id>`.
///
/// Nobody may write it any more; the caller sees to that. Nothing refers to the
/// new layer before the stage's next commit.
///
/// # Errors
/// What the disk reports; then the open layer is still where it was, and can be
/// written on.
pub fn seal(
    open: &OpenLayer,
    stack: &Stack,
    layers: &Path,
    id: &str,
    step: &str,
    now: u64,
) -> Result<Manifest> {
    fill_open(open, stack)?;
    let manifest = seal_unswept(open, stack, layers, id, step, now)?;
    sweep_or_leave(open, &layers.join(id));
    Ok(manifest)
}

/// [`seal`] that a rename undoes: what only an open layer needs is still there.
/// Partial files stay what they are.
/// The caller sees to [`sweep_or_leave`] when nothing can fail any more.
///
/// # Errors
/// As [`seal`].
pub fn seal_unswept(
    open: &OpenLayer,
    stack: &Stack,
    layers: &Path,
    id: &str,
    step: &str,
    now: u64,
) -> Result<Manifest> {
    let links = write_links(open, stack).context(|| format!("hard links of layer {id}"))?;
    let here = || open.path().display().to_string();
    let (entries, whiteouts, bytes) = count(open.tree(), stack).context(here)?;
    let partial = seal_maps(open).context(here)?;
    let manifest = Manifest {
        partial,
        id: id.to_owned(),
        step: step.to_owned(),
        sealed: now,
        entries,
        whiteouts,
        bytes,
        links,
        xattr_whiteouts: open.tree().whiteouts() == Whiteouts::Xattr,
    };
    manifest.write(open).context(here)?;
    move_sealed(open.path(), layers, id)?;
    Ok(manifest)
}

/// Notes the times of partial files, which completing them would change, and drops
/// the maps that no file of the tree needs. Returns how many are left.
fn seal_maps(open: &OpenLayer) -> Result<u64> {
    let maps = open.maps();
    if maps.is_empty() {
        return Ok(0);
    }
    let mut paths: HashMap<Ino, PathBuf> = partial_paths(open.tree(), &maps)?.into_iter().collect();
    let mut left = 0;
    for (ino, map) in &maps {
        match paths.remove(ino) {
            Some(path) if !map.is_whole() => {
                let attr = at::stat(open.tree().root(), &path)?.attr;
                map.settle_in(open, *ino, Some(&attr))?;
                left += 1;
            }
            _ => open.forget_map(*ino),
        }
    }
    Ok(left)
}

/// Ends a [`seal`] that a dead daemon had begun in the directory `path`, if it
/// came as far as the manifest. Returns whether it had.
///
/// # Errors
/// What the disk reports; it can be repeated.
pub fn finish_seal(path: &Path, layers: &Path, id: &str) -> Result<bool> {
    let dir = at::open_dir(nix::fcntl::AT_FDCWD, path)?;
    match Manifest::read(&dir) {
        Ok(manifest) if manifest.id == id => {}
        Ok(_) => return Ok(false),
        Err(error) if error.errno() == Errno::ENOENT => return Ok(false),
        Err(error) => return Err(error),
    }
    move_sealed(path, layers, id)?;
    sweep_sealed(&layers.join(id))?;
    Ok(true)
}

/// The point of no return: until the layer is in its place it can be written on,
/// so what only an open layer needs is removed after that, and if that fails the
/// layer is sealed all the same.
fn move_sealed(path: &Path, layers: &Path, id: &str) -> Result<()> {
    let target = layers.join(id);
    let here = nix::fcntl::AT_FDCWD;
    at::rename(here, path, here, &target, RenameFlags::RENAME_NOREPLACE)
        .context(|| target.display().to_string())
}

/// [`sweep_sealed`] of the layer that `open` has become. It is sealed whether that
/// works or not; what is left takes room until the next start.
pub fn sweep_or_leave(open: &OpenLayer, layer: &Path) {
    // A name in `index/` would count as one that the file has. This takes no
    // descriptor, which may be what there is none of.
    for (ino, _) in open.link_states() {
        let _ = at::unlink(open, &OpenLayer::index_path(ino));
    }
    if let Err(error) = sweep_sealed(layer) {
        log::warn!("what the layer no longer needs is still there: {error}");
    }
}

/// Removes what only an open layer needs from a sealed one. To be repeated for a
/// layer whose sealing may have been cut off.
///
/// # Errors
/// As openat(2) and unlinkat(2), naming the layer.
pub fn sweep_sealed(layer: &Path) -> Result<()> {
    let sweep = || {
        let dir = at::open_dir(nix::fcntl::AT_FDCWD, layer)?;
        for name in SCRATCH {
            // Out of the way first, of a copy-up that is still at it.
            let gone = format!("{name}.gone");
            let (from, to) = (Path::new(name), Path::new(&gone));
            match at::rename(&dir, from, &dir, to, RenameFlags::empty()) {
                Err(error) if error.errno() != Errno::ENOENT => return Err(error),
                _ => at::remove_all(&dir, to)?,
            }
        }
        Ok(())
    };
    sweep().context(|| layer.display().to_string())
}

/// An open layer's tree, to read as a layer while nobody writes it. The other
/// names of an inode that was copied up may still show what is below.
///
/// # Errors
/// As openat(2).
pub fn read_open(path: &Path) -> Result<Arc<dyn Layer>> {
    let dir = at::open_dir(nix::fcntl::AT_FDCWD, path)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let root = at::open(&dir, Path::new(TREE), flags, 0)?;
    // Made when the layer was opened, if the disk takes device whiteouts.
    let whiteouts = match at::stat_if_there(&dir, Path::new("work/whiteout"))? {
        Some(_) => Whiteouts::Device,
        None => Whiteouts::Xattr,
    };
    Ok(Arc::new(OpenTree {
        maps: block_map::read_all(&dir, false)?,
        dir: Some(dir),
        tree: DiskTree::new(root, whiteouts),
    }))
}
