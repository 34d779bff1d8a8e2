//! Copy-up: bringing an entry of the stack into the open layer.
//!
//! A copy is made in `work/` and renamed into place, so it is complete or
//! invisible. It keeps owner, mode, times to the nanosecond, xattrs (with ACLs
//! and capabilities) and holes.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use super::disk::{ino_value, set_ino};
use super::open::{LinkState, OpenLayer, TREE};
use super::{Backing, BlockMap, Layer, Origin, Stack};
use crate::error::{Context, Result};
use crate::sys::at::{self, SetTime};
use crate::sys::{copy, xattr};
use crate::tree::union::{Entry, Found, Part, redirect_text};
use crate::tree::{Attr, Ino, Kind, marker};

/// What a file may do whoever runs it (capabilities(7)).
const CAPABILITY: &str = "security.capability";

/// How much of a regular file to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Metadata and content.
    Whole,
    /// Metadata; content only where the disk can share it. Else that comes in blocks
    /// of so many bytes, when they are written (see [`super::Partial`]).
    Partial(u64),
    /// Metadata; the content stays below (`metacopy`).
    Metadata,
    /// Metadata of a file that is about to be emptied.
    Empty,
}

/// The extended attributes of an entry of a layer, under the names they have
/// inside a layer.
fn inner_xattrs(layer: &dyn Layer, from: &Path) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut all = Vec::new();
    for name in layer.xattrs(from)? {
        let Some(value) = layer.xattr(from, &name)? else {
            continue;
        };
        match name.to_str().map(marker::xattr_to_layer) {
            Some(Some(inside)) => all.push((inside.into_owned().into(), value)),
            Some(None) => {}
            None => all.push((name, value)),
        }
    }
    Ok(all)
}

/// The state's disk may know fewer kinds of attributes than the base's (tmpfs:
/// no `user.*` before 6.6); what it cannot keep is told, and no failure.
fn keep_or_warn(from: &Path, name: &OsStr, set: Result<()>) -> Result<()> {
    match set {
        Err(error) if error.errno() == Errno::EOPNOTSUPP => {
            log::warn!("{}: {name:?} cannot be kept on this disk", from.display());
            Ok(())
        }
        other => other,
    }
}

fn dress(layer: &dyn Layer, from: &Path, attr: &Attr, open: &OpenLayer, to: &Path) -> Result<()> {
    at::chown(open, to, Some(attr.uid), Some(attr.gid))?;
    if attr.kind != Kind::Symlink {
        at::chmod(open, to, attr.perm)?;
    }
    for (name, value) in inner_xattrs(layer, from)? {
        keep_or_warn(from, &name, xattr::set(open, to, &name, &value, 0))?;
    }
    at::utimens(open, to, SetTime::To(attr.atime), SetTime::To(attr.mtime))
}

/// [`dress`] for an open regular file: the commonest copy-up, with the fewest
/// calls.
fn dress_file(layer: &dyn Layer, from: &Path, attr: &Attr, file: &OwnedFd) -> Result<()> {
    if (attr.uid, attr.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
        nix::unistd::fchown(file, Some(uid), Some(gid))?;
    }
    nix::sys::stat::fchmod(file, Mode::from_bits_truncate(attr.perm))?;
    for (name, value) in inner_xattrs(layer, from)? {
        keep_or_warn(from, &name, xattr::fset(file, &name, &value))?;
    }
    at::futimens(file, SetTime::To(attr.atime), SetTime::To(attr.mtime))
}

/// Runs `change` on a directory of the open layer and puts its times back:
/// a copy-up is no change of the directory that it happens in.
///
/// # Errors
/// What `change` reports, or as fstatat(2); then nothing was changed.
pub fn keeping_times<T>(
    open: &OpenLayer,
    dir: &Path,
    change: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let before = at::stat(open, dir)?.attr;
    let value = change()?;
    let (atime, mtime) = (SetTime::To(before.atime), SetTime::To(before.mtime));
    if let Err(error) = at::utimens(open, dir, atime, mtime) {
        // The change is made; who asked for it must not be told otherwise.
        log::warn!("times of {}: {error}", dir.display());
    }
    Ok(value)
}

/// Copies one directory, without its entries, to `tree/<path>`.
///
/// # Errors
/// What the disk reports.
pub fn directory(open: &OpenLayer, stack: &Stack, found: &Found, to: &Path) -> Result<()> {
    let part = &found.parts[0];
    let temporary = open.temporary();
    let made = (|| {
        at::mkdir(open, &temporary, 0o700)?;
        set_ino(open, &temporary, found.attr.ino, false)?;
        let layer = stack.layer(part.layer).as_ref();
        dress(layer, &part.path, &found.attr, open, &temporary)?;
        put(open, &temporary, to, true)
    })();
    made.inspect_err(|_| open.drop_temporary(&temporary))
}

/// Gives a directory that is at `to` in the open layer the number and the attributes
/// that one of the stack has.
///
/// # Errors
/// What the disk reports.
pub fn dress_dir(open: &OpenLayer, stack: &Stack, found: &Found, to: &Path) -> Result<()> {
    let part = &found.parts[0];
    set_ino(open, to, found.attr.ino, false)?;
    let layer = stack.layer(part.layer).as_ref();
    dress(layer, &part.path, &found.attr, open, to)
}

/// Puts what was made at `from` in its place in the tree.
fn put(open: &OpenLayer, from: &Path, to: &Path, is_dir: bool) -> Result<()> {
    match to.parent() {
        Some(parent) if parent != Path::new(TREE) => {
            keeping_times(open, parent, || open.put(from, to, is_dir, false))
        }
        _ => open.put(from, to, is_dir, false),
    }
}

/// Sees to it that a directory of the stack, and all above it, are in the open
/// layer under the same path. For use without a view; `stack` may hold the open
/// layer itself as its uppermost.
///
/// # Errors
/// What the disk reports.
pub fn copy_dir(open: &OpenLayer, stack: &Stack, path: &Path) -> Result<()> {
    let mut missing = 0;
    for path in path.ancestors() {
        if path.as_os_str().is_empty() || matches!(open.entry(path)?, Some(Entry::Present(..))) {
            break;
        }
        missing += 1;
    }
    // Looked up on one way down: each from the root would make the time grow with the cube of
    // the depth, as every look-up walks its path again.
    let mut parts = stack.roots();
    let mut above = PathBuf::new();
    let depth = path.components().count();
    for (level, name) in path.iter().enumerate() {
        if missing == 0 {
            break;
        }
        above.push(name);
        let found = stack.lookup(&parts, name)?.ok_or(Errno::ENOENT)?;
        if level >= depth - missing {
            directory(open, stack, &found, &Path::new(TREE).join(&above))?;
        }
        parts = found.parts;
    }
    Ok(())
}

/// A copy in `work/` that is complete but not visible yet.
#[derive(Debug)]
pub struct Prepared {
    temporary: PathBuf,
    map: Option<PreparedMap>,
}

/// The map of a file whose content is not all there, and where it was written.
type PreparedMap = (PathBuf, Arc<BlockMap>);

/// Copies anything but a directory, which may take long, without showing it.
///
/// `origin` is where the entry shows in the stack, for a copy of metadata to
/// point at.
///
/// # Errors
/// What the disk reports, `ENOSPC` above all; then nothing is left.
pub fn prepare(
    open: &OpenLayer,
    stack: &Stack,
    found: &Found,
    origin: &Path,
    extent: Extent,
) -> Result<Prepared> {
    let temporary = open.temporary();
    match make(open, stack, found, origin, &temporary, extent) {
        Ok(map) => Ok(Prepared { temporary, map }),
        Err(error) => {
            open.drop_temporary(&temporary);
            Err(error.context(format_args!("copy-up of {}", found.parts[0].path.display())))
        }
    }
}

/// Copies the content of a file, `size` bytes, which may take long, without
/// showing it: for a copy of metadata that is to be whole, or at least partial.
///
/// # Errors
/// What the disk reports, `ENOSPC` above all; then nothing is left.
pub fn content(
    open: &OpenLayer,
    stack: &Stack,
    part: &Part,
    size: u64,
    extent: Extent,
) -> Result<Prepared> {
    let temporary = open.temporary();
    let make = || {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
        let file = at::open(open, &temporary, flags, 0o600)?;
        match extent {
            Extent::Partial(block) => start(open, stack, part, &file, size, block),
            _ => stack.backing_at(part)?.copy_all(&file, size).map(|()| None),
        }
    };
    match make() {
        Ok(map) => Ok(Prepared { temporary, map }),
        Err(error) => {
            open.drop_temporary(&temporary);
            Err(error.context("copy-up of content"))
        }
    }
}

/// Over how many partial files another one is made. More come to lie over each
/// other only if seals follow faster than files can be completed, and reading and
/// opening takes all of them.
const DEPTH_MAX: usize = 16;

/// Starts a partial file: an empty one gets its full size, the room that its
/// content below takes, and a map, unless the disk can share the content itself.
fn start(
    open: &OpenLayer,
    stack: &Stack,
    part: &Part,
    file: &OwnedFd,
    size: u64,
    block: u64,
) -> Result<Option<PreparedMap>> {
    let below = stack.backing_at(part)?;
    if let Backing::Whole(from) = &below
        && copy::reflink(from, file)?
    {
        return Ok(None);
    }
    if below.depth() >= DEPTH_MAX {
        return below.copy_all(file, size).map(|()| None);
    }
    nix::unistd::ftruncate(file, size.cast_signed())?;
    let mut holes = Vec::new();
    let mut at = 0;
    while at < size {
        let (start, end) = below.data(at, size)?;
        holes.push((at, start));
        let (offset, length) = (start.cast_signed(), (end - start).cast_signed());
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if start < end {
            match nix::fcntl::fallocate(file, keep, offset, length) {
                // A disk that cannot say now whether there will be room.
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                    nix::unistd::ftruncate(file, 0)?;
                    return below.copy_all(file, size).map(|()| None);
                }
                reserved => reserved?,
            }
        }
        at = end;
    }
    let origin = Origin {
        layer: stack.layer(part.layer).id().to_owned(),
        path: part.path.to_path_buf(),
    };
    let map = BlockMap::new(origin, size, block, &holes);
    if map.is_whole() {
        return Ok(None);
    }
    let temporary = open.temporary();
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
    at::open(open, &temporary, flags, 0o600)
        .and_then(|file| map.write(&file))
        .inspect_err(|_| open.drop_temporary(&temporary))?;
    Ok(Some((temporary, Arc::new(map))))
}

/// Puts content in the place of the copy of metadata at `to`, with the metadata
/// that this has now. Nobody else changes it meanwhile.
///
/// The file is replaced, not filled: a seal may come in between, and a write
/// would change the times and take `security.capability`.
///
/// # Errors
/// What the disk reports; then nothing has changed.
pub fn complete(open: &OpenLayer, content: &Prepared, to: &Path, ino: Ino) -> Result<()> {
    let temporary = &content.temporary;
    let attr = at::stat(open, to)?.attr;
    at::chown(open, temporary, Some(attr.uid), Some(attr.gid))?;
    at::chmod(open, temporary, attr.perm)?;
    for name in xattr::list(open, to)? {
        let ours = [marker::METACOPY, marker::REDIRECT, marker::INO];
        if ours.iter().any(|ours| name == *ours) {
            continue;
        }
        if let Some(value) = xattr::get(open, to, &name)? {
            xattr::set(open, temporary, &name, &value, 0)?;
        }
    }
    set_ino(open, temporary, ino, false)?;
    let (atime, mtime) = (SetTime::To(attr.atime), SetTime::To(attr.mtime));
    at::utimens(open, temporary, atime, mtime)?;
    open.set_map(ino, content.map.as_ref())?;
    put(open, temporary, to, false).inspect_err(|_| open.forget_map(ino))
}

/// Where in the open layer a copy belongs.
#[derive(Clone, Copy, Debug)]
pub enum Spot<'a> {
    /// At this path of the open layer.
    Name(&'a Path),
    /// In `index/`: all names of the inode lead there, and are written when the
    /// layer is sealed.
    Index,
    /// In `orphans/`: it has no name any more.
    Orphan,
}

/// Puts a prepared copy in its place.
///
/// # Errors
/// What the disk reports; then nothing has changed.
pub fn place(open: &OpenLayer, found: &Found, prepared: &Prepared, spot: Spot<'_>) -> Result<()> {
    let temporary = &prepared.temporary;
    let ino = found.attr.ino;
    open.set_map(ino, prepared.map.as_ref())
        .inspect_err(|_| drop_prepared(open, prepared))?;
    let placed = match spot {
        Spot::Name(to) => put(open, temporary, to, false),
        Spot::Orphan => open.put(temporary, &OpenLayer::orphan_path(ino), false, false),
        Spot::Index => open
            .put(temporary, &OpenLayer::index_path(ino), false, false)
            .and_then(|()| {
                let nlink = found.attr.nlink;
                open.change_link_state(ino, |known| {
                    let state = known.unwrap_or(LinkState {
                        nlink,
                        // At least two: its names have to be written at seal.
                        origin: nlink.max(2),
                        here: true,
                    });
                    Some(LinkState {
                        here: true,
                        ..state
                    })
                })
            })
            .map(drop),
    };
    if placed.is_err() {
        open.forget_map(ino);
        open.drop_temporary(temporary);
    }
    placed.context(|| format!("copy-up of {}", found.parts[0].path.display()))
}

/// Throws a prepared copy away.
pub fn drop_prepared(open: &OpenLayer, prepared: &Prepared) {
    open.drop_temporary(&prepared.temporary);
    if let Some((map, _)) = &prepared.map {
        open.drop_temporary(map);
    }
}

/// Copies anything but a directory to `to` in one go: [`prepare`], [`place`].
/// An inode with several names gets this one at once.
///
/// # Errors
/// As those two.
pub fn entry(
    open: &OpenLayer,
    stack: &Stack,
    found: &Found,
    origin: &Path,
    to: &Path,
    extent: Extent,
) -> Result<()> {
    let prepared = prepare(open, stack, found, origin, extent)?;
    if found.attr.nlink <= 1 {
        return place(open, found, &prepared, Spot::Name(to));
    }
    place(open, found, &prepared, Spot::Index)?;
    let link = || at::link(open, &OpenLayer::index_path(found.attr.ino), open, to);
    match to.parent() {
        Some(parent) if parent != Path::new(TREE) => keeping_times(open, parent, link),
        _ => link(),
    }
}

fn make(
    open: &OpenLayer,
    stack: &Stack,
    found: &Found,
    origin: &Path,
    to: &Path,
    extent: Extent,
) -> Result<Option<PreparedMap>> {
    let part = &found.parts[0];
    let layer = stack.layer(part.layer).as_ref();
    let attr = &found.attr;
    match attr.kind {
        Kind::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
            let file = at::open(open, to, flags, 0o600)?;
            let (mut marked, mut map) = (false, None);
            match extent {
                Extent::Whole => stack.backing(found)?.copy_all(&file, attr.size)?,
                Extent::Partial(block) => {
                    let part = stack.content(found)?;
                    map = start(open, stack, &part, &file, attr.size, block)?;
                }
                Extent::Metadata => {
                    nix::unistd::ftruncate(&file, attr.size.cast_signed())?;
                    let text = redirect_text(origin);
                    xattr::fset(&file, marker::REDIRECT, text.as_encoded_bytes())?;
                    xattr::fset(&file, marker::METACOPY, b"")?;
                    marked = true;
                }
                Extent::Empty => {}
            }
            xattr::fset(&file, marker::INO, &ino_value(attr.ino, marked))?;
            let dressed = dress_file(layer, &part.path, attr, &file);
            if let (Err(_), Some((map, _))) = (&dressed, &map) {
                open.drop_temporary(map);
            }
            return dressed.map(|()| map);
        }
        Kind::Symlink => {
            at::symlink(&stack.readlink(found)?, open, to)?;
            set_ino(open, to, attr.ino, false)?;
        }
        kind => make_node(open, to, kind, attr.rdev, attr.ino)?,
    }
    dress(layer, &part.path, attr, open, to).map(|()| None)
}

/// [`make_node_as`] for an entry that gets its permissions later.
///
/// # Errors
/// As mknodat(2).
pub fn make_node(open: &OpenLayer, to: &Path, kind: Kind, rdev: u64, ino: Ino) -> Result<()> {
    make_node_as(open, to, kind, 0o600, rdev, ino)
}

/// Makes a FIFO, socket, device node or empty file with a number; a user's own
/// 0:0 character device, which would be a whiteout, becomes a marked empty file.
///
/// # Errors
/// As mknodat(2).
pub fn make_node_as(
    open: &OpenLayer,
    to: &Path,
    kind: Kind,
    perm: u32,
    rdev: u64,
    ino: Ino,
) -> Result<()> {
    if kind == Kind::CharDevice && rdev == 0 {
        at::mknod(open, to, Kind::File, perm, 0)?;
        return open.mark(to, ino, marker::NULL_DEVICE, OsStr::new("y"));
    }
    at::mknod(open, to, kind, perm, rdev)?;
    set_ino(open, to, ino, false)
}

/// Declares a metadata copy whole: its content is here from now on.
///
/// # Errors
/// As lremovexattr(2).
pub fn drop_metacopy(open: &OpenLayer, path: &Path) -> Result<()> {
    xattr::remove(open, path, marker::METACOPY)?;
    match xattr::remove(open, path, marker::REDIRECT) {
        Err(error) if error.errno() == Errno::ENODATA => Ok(()),
        other => other,
    }
}

/// Gives a copy of metadata at `path` in the tree its content, `size` bytes, in place, under all
/// of its names. Nobody has it open.
///
/// # Errors
/// What the disk reports; then it still is such a copy.
pub fn fill(open: &OpenLayer, from: &OwnedFd, path: &Path, size: u64) -> Result<()> {
    let path = Path::new(TREE).join(path);
    let file = at::open(open, &path, OFlag::O_RDWR, 0)?;
    let before = at::fstat(&file)?.attr;
    let capability = xattr::get(open, &path, CAPABILITY)?;
    copy::file(from, &file, size)?;
    nix::unistd::fsync(&file)?;
    if let Some(capability) = capability {
        // A write takes it.
        xattr::fset(&file, CAPABILITY, &capability)?;
    }
    at::futimens(&file, SetTime::To(before.atime), SetTime::To(before.mtime))?;
    drop_metacopy(open, &path)
}
