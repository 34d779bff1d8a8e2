//! Giving partial files all of their content.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::block_map::BlockMap;
use super::disk::DiskTree;
use super::open::{OpenLayer, TREE};
use super::{Backing, Partial, Stack};
use crate::error::{Context, Result};
use crate::sys::at::{self, SetTime};
use crate::sys::{copy, xattr};
use crate::tree::union::Entry;
use crate::tree::{Ino, Kind};

/// How much is taken over between two questions whether to go on, in bytes.
const STEP: u64 = 8 << 20;

const CAPABILITY: &str = "security.capability";

/// One name of each file of a tree that has a map, for as many as have one.
///
/// # Errors
/// What the disk reports.
pub(super) fn partial_paths(
    tree: &DiskTree,
    maps: &HashMap<Ino, Arc<BlockMap>>,
) -> Result<Vec<(Ino, PathBuf)>> {
    let mut found: HashMap<Ino, PathBuf> = HashMap::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        if found.len() == maps.len() {
            break;
        }
        for name in tree.names(&dir)? {
            let path = dir.join(&name.name);
            match name.kind {
                Some(Kind::Dir) => dirs.push(path),
                Some(Kind::File) => {
                    if let Some(Entry::Present(attr, _)) = tree.entry(&path)?
                        && maps.contains_key(&attr.ino)
                    {
                        found.insert(attr.ino, path);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Takes over what the file at `path` still has below, for as long as `go_on`
/// says, and removes its map at the end. Nothing else of the file changes. Returns
/// false if it was not to go on.
///
/// # Errors
/// What the disk reports; it can be repeated.
pub(super) fn fill(
    dir: &OwnedFd,
    path: &Path,
    ino: Ino,
    map: &Arc<BlockMap>,
    below: &Arc<Backing>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<bool> {
    let on_map = BlockMap::path_of(ino);
    let on_disk = match at::open(dir, &on_map, OFlag::O_RDWR, 0) {
        // Somebody else has done it.
        Err(error) if error.errno() == Errno::ENOENT => return Ok(true),
        opened => opened?,
    };
    let file = at::open(dir, path, OFlag::O_RDWR | OFlag::O_NOFOLLOW, 0)?;
    let mut before = at::fstat(&file)?.attr;
    map.dress(&mut before);
    // A write takes it from the file (fs/inode.c, file_remove_privs).
    let capability = xattr::get(&file, Path::new(""), CAPABILITY)?;
    let partial = Partial::new(file, Some(on_disk), map.clone(), below.clone());
    let filled = take_all(&partial, go_on);
    if let Some(capability) = &capability {
        xattr::fset(partial.file(), CAPABILITY, capability)?;
    }
    let (atime, mtime) = (SetTime::To(before.atime), SetTime::To(before.mtime));
    at::futimens(partial.file(), atime, mtime)?;
    let filled = filled?;
    if filled {
        // The map must not be gone before the data are there.
        nix::unistd::fdatasync(partial.file())?;
        match at::unlink(dir, &on_map) {
            Err(error) if error.errno() != Errno::ENOENT => return Err(error),
            _ => {}
        }
    }
    Ok(filled)
}

fn take_all(partial: &Partial, go_on: &mut dyn FnMut() -> bool) -> Result<bool> {
    let mut block = 0;
    while let Some(next) = partial.take_some(block, STEP)? {
        // At once, or others would wait while all of it goes to the disk at the end.
        let end = next * partial.map().block();
        let start = end.saturating_sub(STEP + partial.map().block());
        copy::write_out(partial.file(), start, end - start)?;
        block = next;
        if !go_on() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives all partial files of an open layer, which nobody writes meanwhile, all of
/// their content.
///
/// # Errors
/// What the disk reports; it can be repeated.
pub fn fill_open(open: &OpenLayer, stack: &Stack) -> Result<()> {
    let maps = open.maps();
    if maps.is_empty() {
        return Ok(());
    }
    let mut paths: HashMap<Ino, PathBuf> = partial_paths(open.tree(), &maps)?
        .into_iter()
        .map(|(ino, path)| (ino, Path::new(TREE).join(path)))
        .collect();
    for ino in maps.keys() {
        let index = OpenLayer::index_path(*ino);
        if !paths.contains_key(ino) && at::stat_if_there(open, &index)?.is_some() {
            paths.insert(*ino, index);
        }
    }
    for (ino, map) in maps {
        if let Some(path) = paths.get(&ino) {
            let below = Arc::new(stack.backing_of(map.origin(), stack.layers().len())?);
            fill(open.dir(), path, ino, &map, &below, &mut || true)
                .context(|| path.display().to_string())?;
        }
        open.forget_map(ino);
    }
    Ok(())
}
