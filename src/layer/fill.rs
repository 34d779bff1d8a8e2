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
use crate::tree::{Ino, Kind, marker};

/// How much is taken over between two questions whether to go on, in bytes.
const STEP: u64 = 8 << 20;

/// What a file may do whoever runs it (capabilities(7)).
pub(super) const CAPABILITY: &str = "security.capability";

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
    let capability = put_by(&file)?;
    let partial = Partial::new(file, Some(on_disk), map.clone(), below.clone());
    let filled = partial
        .settle_end()
        .and_then(|()| take_all(&partial, go_on));
    if let Some(capability) = &capability {
        xattr::fset(partial.file(), CAPABILITY, capability)?;
    }
    let (atime, mtime) = (SetTime::To(before.atime), SetTime::To(before.mtime));
    at::futimens(partial.file(), atime, mtime)?;
    if matches!(filled, Ok(true)) {
        // The map must not be gone before the data are there, nor before what was put
        // by is back.
        match &capability {
            Some(_) => nix::unistd::fsync(partial.file())?,
            None => nix::unistd::fdatasync(partial.file())?,
        }
        match at::unlink(dir, &on_map) {
            Err(error) if error.errno() != Errno::ENOENT => return Err(error),
            _ => {}
        }
    }
    // After an error an open layer may be written on, and lose its capability for good.
    if capability.is_some() && !matches!(filled, Ok(false)) {
        drop_put_by(partial.file())?;
    }
    filled
}

/// The capability of a file. A write takes it (fs/inode.c, `file_remove_privs`), so
/// it is put by first, for who reads the file meanwhile and for the next daemon if
/// this one dies.
fn put_by(file: &OwnedFd) -> Result<Option<Vec<u8>>> {
    let here = Path::new("");
    if let Some(capability) = xattr::get(file, here, CAPABILITY)? {
        xattr::fset(file, marker::CAPABILITY, &capability)?;
        return Ok(Some(capability));
    }
    // In this order: whoever is completing the file too has put it by before taking it.
    xattr::get(file, here, marker::CAPABILITY)
}

fn drop_put_by(file: &OwnedFd) -> Result<()> {
    match xattr::remove(file, Path::new(""), marker::CAPABILITY) {
        Err(error) if error.errno() != Errno::ENODATA => Err(error),
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::{BLOCK, Base, Inos, Layer, Origin, SealedLayer, seal_unswept, set_ino};
    use super::*;

    const INO: Ino = 77;
    const SIZE: u64 = 3 * STEP;

    /// Over a base, a layer with a file of `SIZE` bytes that has none of its own yet, and
    /// `capability`.
    fn partial(dir: &Path, capability: &[u8]) -> (Stack, OwnedFd) {
        let (base, layers) = (dir.join("base"), dir.join("layers"));
        for dir in [&base, &layers] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(base.join("big"), vec![b'x'; SIZE as usize]).unwrap();
        let stack = Stack::new(vec![Arc::new(
            Base::take(&[base], Arc::new(Inos::new(1))).unwrap(),
        )]);
        let open = OpenLayer::open(&dir.join("open")).unwrap();
        let big = dir.join("open").join(TREE).join("0/big");
        std::fs::create_dir_all(big.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&big).unwrap();
        file.set_len(SIZE).unwrap();
        set_ino(&open, Path::new("tree/0/big"), INO, false).unwrap();
        xattr::fset(&file, CAPABILITY, capability).unwrap();
        let origin = Origin {
            layer: "base".into(),
            path: "0/big".into(),
        };
        let map = BlockMap::new(origin, SIZE, BLOCK, &[]);
        let temporary = open.temporary();
        let flags = OFlag::O_CREAT | OFlag::O_RDWR;
        map.write(at::open(&open, &temporary, flags, 0o600).unwrap())
            .unwrap();
        open.set_map(INO, Some(&(temporary, Arc::new(map))))
            .unwrap();
        seal_unswept(&open, &stack, &layers, "1", "head", 0).unwrap();
        (stack, at::open_dir(nix::fcntl::AT_FDCWD, &layers).unwrap())
    }

    /// Writing to a file takes its capability, and completing one writes to it.
    #[test]
    fn a_file_that_is_being_completed_keeps_its_capability() {
        let dir = tempfile::tempdir().unwrap();
        // As setcap(8) writes it: revision 2, CAP_NET_BIND_SERVICE, effective.
        let mut capability = [0; 20];
        capability[..8].copy_from_slice(&[1, 0, 0, 2, 0, 4, 0, 0]);
        let (stack, layers) = partial(dir.path(), &capability);
        let path = Path::new("0/big");
        let again = || {
            let layer = SealedLayer::open(&layers, "1").unwrap();
            layer.writable_at(dir.path().join("layers/1"))
        };
        let below = || {
            let found = stack.find(path).unwrap().unwrap();
            Arc::new(stack.backing(&found).unwrap())
        };
        let has = |layer: &SealedLayer| {
            let value = layer.xattr(path, OsStr::new(CAPABILITY)).unwrap();
            assert_eq!(value.as_deref(), Some(&capability[..]));
            assert_eq!(layer.xattrs(path).unwrap(), [CAPABILITY]);
        };
        let layer = again();
        has(&layer);
        let mut steps = 0;
        let mut dies = || {
            has(&layer);
            steps += 1;
            assert!(steps < 2, "the daemon is killed");
            true
        };
        let died = catch_unwind(AssertUnwindSafe(|| layer.fill(path, &below(), &mut dies)));
        assert!(died.is_err());
        assert_eq!(steps, 2);
        let layer = again();
        has(&layer);
        assert!(!layer.fill(path, &below(), &mut || false).unwrap());
        has(&layer);
        assert!(layer.fill(path, &below(), &mut || true).unwrap());
        has(&again());
        let file = layer.open(path).unwrap();
        let mut names = xattr::list(&file, Path::new("")).unwrap();
        names.sort();
        assert_eq!(names, [CAPABILITY, marker::INO]);
    }
}
