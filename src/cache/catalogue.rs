//! What an image holds in the end, and how two images differ.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Trouble;
use crate::error::{Error, Result};
use crate::export::What;
use crate::export::cache::{Image, ImageLayer, Listed, listed, read_through};
use crate::export::chunked::ReadAt;
use crate::store::{Digest, Store};
use crate::tree::{Time, shown};

/// How much is asked for at a time.
const PIECE: u64 = 16 << 20;

/// The type of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file, its size and the digest of its content.
    File(u64, Option<String>),
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// Anything else: its type, and the number of a device.
    Special(&'static str, u64),
}

/// What is compared of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its type and content.
    pub kind: EntryKind,
    /// Permission bits, owner, group.
    pub owner: (u32, u32, u32),
    /// Last change of content.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: BTreeMap<std::ffi::OsString, Vec<u8>>,
}

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Its type, content or target is another.
    Changed,
    /// Its mode, owner, attributes or time is another.
    Metadata,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The path.
    #[serde(serialize_with = "shown::serialize")]
    pub path: PathBuf,
    /// How.
    pub sort: Sort,
    /// Bytes of a file that the first has there.
    pub old_size: Option<u64>,
    /// Bytes of a file that the second has there.
    pub new_size: Option<u64>,
}

/// A blob of a store, to be read in pieces.
struct Remote<'a> {
    store: &'a Store,
    digest: Digest,
    size: u64,
}

impl ReadAt for Remote<'_> {
    fn size(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let piece = usize::try_from(PIECE).unwrap_or(usize::MAX);
        let mut at = offset;
        for piece in buffer.chunks_mut(piece) {
            let end = at + piece.len() as u64;
            piece.copy_from_slice(&self.store.read_range(&self.digest, at..end)?);
            at = end;
        }
        Ok(())
    }
}

fn members(store: &Store, layer: &ImageLayer) -> Result<Vec<Listed>, Trouble> {
    let digest: Digest = layer.descriptor.digest().to_string().parse()?;
    let size = layer.descriptor.size();
    let remote = Remote {
        store,
        digest,
        size,
    };
    if let Some(listed) = listed(layer, remote)? {
        return Ok(listed);
    }
    let mut file = tempfile()?;
    store.get_blob(&digest, size, &mut file)?;
    std::io::Seek::rewind(&mut file).map_err(Error::from)?;
    Ok(read_through(layer, file)?)
}

/// A file without a name.
fn tempfile() -> Result<std::fs::File> {
    use nix::fcntl::{AT_FDCWD, OFlag};
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR;
    let fd = crate::sys::at::open(AT_FDCWD, &std::env::temp_dir(), flags, 0o600)?;
    Ok(fd.into())
}

/// Removes all below a path.
fn remove_below(all: &mut BTreeMap<Vec<u8>, Entry>, path: &[u8]) {
    let mut prefix = path.to_vec();
    prefix.push(b'/');
    let below = all.range::<[u8], _>((Bound::Included(&*prefix), Bound::Unbounded));
    let below = below.map(|(path, _)| path.clone());
    let below: Vec<_> = below.take_while(|path| path.starts_with(&prefix)).collect();
    for path in below {
        all.remove(&path);
    }
}

/// All that an image holds, by path without the first slash.
///
/// # Errors
/// What the store says, and what is wrong with the image.
fn entries(store: &Store, image: &Image) -> Result<BTreeMap<Vec<u8>, Entry>, Trouble> {
    let mut all: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    for layer in &image.layers {
        for (member, digest) in members(store, layer)? {
            let name = member.path.rsplit(|byte| *byte == b'/').next();
            if let Some(deleted) = name.unwrap_or_default().strip_prefix(b".wh.") {
                let mut path = member.path[..member.path.len() - deleted.len() - 4].to_vec();
                path.extend(deleted);
                all.remove(&path);
                remove_below(&mut all, &path);
                continue;
            }
            let kind = match member.what {
                What::File(size) => EntryKind::File(size, digest),
                What::HardLink(target) => match all.get(&target) {
                    Some(target) => target.kind.clone(),
                    None => continue,
                },
                What::Symlink(target) => EntryKind::Symlink(target),
                What::Dir => EntryKind::Dir,
                What::Fifo => EntryKind::Special("fifo", 0),
                What::CharDevice(number) => EntryKind::Special("char", number),
                What::BlockDevice(number) => EntryKind::Special("block", number),
            };
            if kind != EntryKind::Dir {
                remove_below(&mut all, &member.path);
            }
            let entry = Entry {
                kind,
                owner: (member.perm, member.uid, member.gid),
                mtime: member.mtime,
                xattrs: member.xattrs,
            };
            all.insert(member.path, entry);
        }
    }
    // What only leads to the saved paths is nobody's.
    let inside = |path: &Vec<u8>| {
        let path = Path::new("/").join(os(path));
        image.paths.iter().any(|saved| path.starts_with(saved))
    };
    all.retain(|path, _| inside(path));
    Ok(all)
}

fn os(path: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(path)
}

/// How the second image differs from the first, sorted by path.
///
/// # Errors
/// What the stores say, and what is wrong with an image.
pub fn differences(
    (old_store, old): (&Store, &Image),
    (new_store, new): (&Store, &Image),
) -> Result<Vec<Line>, Trouble> {
    let (old, new) = (entries(old_store, old)?, entries(new_store, new)?);
    let mut paths: Vec<&Vec<u8>> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let size = |entry: Option<&Entry>| match entry?.kind {
        EntryKind::File(size, _) => Some(size),
        _ => None,
    };
    let mut lines = Vec::new();
    for path in paths {
        let (before, after) = (old.get(path), new.get(path));
        let sort = match (before, after) {
            (None, _) => Sort::Added,
            (_, None) => Sort::Removed,
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) if a.kind == b.kind => Sort::Metadata,
            _ => Sort::Changed,
        };
        lines.push(Line {
            path: Path::new("/").join(os(path)),
            sort,
            old_size: size(before),
            new_size: size(after),
        });
    }
    Ok(lines)
}
