//! Which blocks of a partial file are its own, and where the others lie.
//!
//! `maps/<ino>` beside a layer's tree: a header, then a bit for each block,
//! twice. The first bits say what was written, the second what is known to be on
//! the disk: where the machine has died, a bit may have got there before the
//! block, so another boot of it goes by the second ones.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Context, Error, Result};
use crate::sys::ordered::{Mutex, MutexGuard, Rank};
use crate::sys::{at, boot};
use crate::tree::{Attr, Ino, Time};

/// The directory of maps in that of a layer.
pub const MAPS: &str = "maps";

/// What a partial file takes over at a time, in bytes, unless it is told otherwise.
pub const BLOCK: u64 = 64 << 10;

const MAGIC: &[u8; 8] = b"hfsmap1\n";
const BOOT: usize = 40;
/// Magic, boot, length and size of a block, three times, the lengths of layer and path.
const HEADER: usize = TIMES + 3 * 16 + 8;
/// Where the times are.
const TIMES: usize = 8 + BOOT + 16;
/// A path and a layer's id are shorter than this together, in bytes.
const NAMES_MAX: usize = 64 << 10;

/// Where the content of a partial file lies that is not its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The id of a layer below.
    pub layer: String,
    /// The path in that layer.
    pub path: PathBuf,
}

/// Which blocks of a file are its own. Bits are only ever set.
#[derive(Debug)]
pub struct BlockMap {
    origin: Origin,
    /// How much of the file's content lay below, in bytes.
    length: u64,
    /// The size of a block, in bytes.
    block: u64,
    own: Box<[AtomicU64]>,
    /// What stat(2) said of the file when it was sealed: access, modification,
    /// change. All zero before.
    times: [Time; 3],
    /// Held while a block becomes the file's own.
    taking: Mutex<()>,
}

impl BlockMap {
    /// The map of a file of `length` bytes, in blocks of `block` bytes, of which
    /// nothing is its own but `holes`: ranges in ascending order where there is
    /// nothing to read below.
    pub fn new(origin: Origin, length: u64, block: u64, holes: &[(u64, u64)]) -> BlockMap {
        let words = length.div_ceil(block).div_ceil(64);
        let map = BlockMap {
            origin,
            length,
            block,
            own: (0..words).map(|_| AtomicU64::new(0)).collect(),
            times: Default::default(),
            taking: Mutex::new(Rank::Blocks, ()),
        };
        for (start, end) in holes {
            map.remember(map.within(*start, *end));
        }
        map
    }

    /// The name of an inode's map, relative to the layer's directory.
    pub fn path_of(ino: Ino) -> PathBuf {
        PathBuf::from(format!("{MAPS}/{ino}"))
    }

    /// Where what is not its own lies.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// How much of the file's content lay below, in bytes. What is behind that is
    /// its own.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The size of a block, in bytes.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// Has nobody else make blocks the file's own.
    pub fn take(&self) -> MutexGuard<'_, ()> {
        self.taking.lock()
    }

    fn blocks(&self) -> u64 {
        self.length.div_ceil(self.block)
    }

    /// True if a block is the file's own.
    pub fn is_own(&self, block: u64) -> bool {
        let word = usize::try_from(block / 64).ok();
        match word.and_then(|word| self.own.get(word)) {
            Some(word) if block < self.blocks() => {
                word.load(Ordering::Acquire) & (1 << (block % 64)) != 0
            }
            _ => true,
        }
    }

    /// True if all is its own.
    pub fn is_whole(&self) -> bool {
        self.next_below(0).is_none()
    }

    /// The first block from `block` on that is not its own.
    pub fn next_below(&self, block: u64) -> Option<u64> {
        let mut at = block;
        while at < self.blocks() {
            let word = self.own[usize::try_from(at / 64).ok()?].load(Ordering::Acquire);
            let unset = !word & (u64::MAX << (at % 64));
            if unset != 0 {
                let found = at / 64 * 64 + u64::from(unset.trailing_zeros());
                return (found < self.blocks()).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// Whether the byte at `offset` is its own, and where that ends to be so;
    /// looked for up to `end`.
    pub fn run(&self, offset: u64, end: u64) -> (bool, u64) {
        if offset >= self.length {
            return (true, end);
        }
        let first = offset / self.block;
        if self.is_own(first) {
            let next = self
                .next_below(first)
                .map_or(end, |below| end.min(below * self.block));
            return (true, next);
        }
        let mut block = first + 1;
        while block * self.block < end.min(self.length) && !self.is_own(block) {
            block += 1;
        }
        (false, end.min(block * self.block).min(self.length))
    }

    fn remember(&self, blocks: std::ops::Range<u64>) {
        for block in blocks {
            if let Some(word) = usize::try_from(block / 64)
                .ok()
                .and_then(|word| self.own.get(word))
            {
                word.fetch_or(1 << (block % 64), Ordering::AcqRel);
            }
        }
    }

    /// Blocks that lie wholly in this range of the file, so far as anything of
    /// them was below.
    pub fn within(&self, start: u64, end: u64) -> std::ops::Range<u64> {
        let first = start.div_ceil(self.block);
        let last = if end >= self.length {
            self.blocks()
        } else {
            end / self.block
        };
        first..last.max(first)
    }

    /// Makes blocks the file's own: in its map, which `file` is, and then here.
    /// For who has taken them, and written the blocks.
    ///
    /// # Errors
    /// As pwrite(2); then nothing has changed.
    pub fn own(&self, file: impl AsFd, blocks: std::ops::Range<u64>) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let (first, last) = (blocks.start / 64, (blocks.end - 1) / 64);
        let mut bytes = Vec::new();
        for word in first..=last {
            let known = usize::try_from(word).ok().and_then(|at| self.own.get(at));
            let mut value = known.ok_or(Errno::EINVAL)?.load(Ordering::Acquire);
            for block in blocks.start.max(word * 64)..blocks.end.min((word + 1) * 64) {
                value |= 1 << (block % 64);
            }
            bytes.extend(value.to_le_bytes());
        }
        write_at(file, self.bits_at() + first * 8, &bytes)?;
        self.remember(blocks);
        Ok(())
    }

    /// Notes that all blocks that are its own are on the disk.
    ///
    /// # Errors
    /// As pwrite(2) and fdatasync(2).
    pub fn own_on_disk(&self, file: impl AsFd) -> Result<()> {
        let file = file.as_fd();
        self.settle(file)?;
        Ok(nix::unistd::fdatasync(file)?)
    }

    fn settle(&self, file: impl AsFd) -> Result<()> {
        let second = self.bits_at() + self.own.len() as u64 * 8;
        write_at(file, second, &self.bits())
    }

    /// Notes in the map, in the directory of a layer, that all blocks that are its
    /// own are on the disk before anybody asks: for who brings everything there
    /// (syncfs(2)) before the layer counts. With what stat(2) says of the file if
    /// the layer is being sealed.
    ///
    /// # Errors
    /// As openat(2) and pwrite(2).
    pub fn settle_in(&self, dir: impl AsFd, ino: Ino, sealed: Option<&Attr>) -> Result<()> {
        let file = at::open(dir, &Self::path_of(ino), OFlag::O_RDWR, 0)?;
        if let Some(attr) = sealed {
            let times = [attr.atime, attr.mtime, attr.ctime];
            write_at(&file, TIMES as u64, &times_bytes(&times))?;
            // For a truncation that was cut off: see Partial::settle_end.
            if attr.size < self.length {
                self.own(&file, self.within(attr.size, self.length))?;
            }
        }
        self.settle(&file)
    }

    /// The times that the file was sealed with, in the place of those that it has.
    pub fn dress(&self, attr: &mut Attr) {
        if self.times != <[Time; 3]>::default() {
            [attr.atime, attr.mtime, attr.ctime] = self.times;
        }
    }

    fn bits(&self) -> Vec<u8> {
        let words = self.own.iter();
        words
            .flat_map(|word| word.load(Ordering::Acquire).to_le_bytes())
            .collect()
    }

    fn names_len(&self) -> usize {
        self.origin.layer.len() + self.origin.path.as_os_str().len()
    }

    fn bits_at(&self) -> u64 {
        (HEADER + self.names_len()).next_multiple_of(8) as u64
    }

    /// Writes it to an empty file, with the room that it will ever need.
    ///
    /// # Errors
    /// As write(2); `ENAMETOOLONG` for a path that no layer has.
    pub fn write(&self, file: impl AsFd) -> Result<()> {
        if self.names_len() > NAMES_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        let mut boot = boot::id()?.into_bytes();
        boot.resize(BOOT, 0);
        bytes.extend(boot);
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.block.to_le_bytes());
        bytes.extend(times_bytes(&self.times));
        let path = self.origin.path.as_os_str().as_bytes();
        for length in [self.origin.layer.len(), path.len()] {
            bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes.extend(self.origin.layer.as_bytes());
        bytes.extend(path);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let bits = self.bits();
        bytes.extend(&bits);
        // Holes below are so on any disk.
        bytes.extend(&bits);
        write_at(file, 0, &bytes)
    }

    /// Reads the map of a layer that is sealed, or was left by a daemon that ended.
    /// From another boot of the machine it has what is known to be on the disk.
    ///
    /// # Errors
    /// As openat(2); `EIO` for one that is damaged.
    pub fn read(dir: impl AsFd, ino: Ino, sealed: bool) -> Result<BlockMap> {
        let path = Self::path_of(ino);
        let read = || -> Result<BlockMap> {
            let flags = match sealed {
                true => OFlag::O_RDONLY,
                false => OFlag::O_RDWR,
            };
            let file = std::fs::File::from(at::open(dir, &path, flags, 0)?);
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut &file, &mut bytes)?;
            let this_boot = boot::id()?;
            let mut holds = true;
            let map = Self::parse(&bytes, |boot| {
                holds = boot == this_boot.as_bytes();
                holds
            });
            let map = map.ok_or_else(|| Error::new(Errno::EIO, "damaged block map"))?;
            if !holds && !sealed {
                // From now on what it is told holds again.
                map.write(&file)?;
            }
            Ok(map)
        };
        read().context(|| path.display().to_string())
    }

    fn parse(bytes: &[u8], holds: impl FnOnce(&[u8]) -> bool) -> Option<BlockMap> {
        let number = |at: usize| {
            let field = bytes.get(at..at + 8)?;
            Some(u64::from_le_bytes(field.try_into().ok()?))
        };
        if bytes.get(..8)? != MAGIC {
            return None;
        }
        let boot = bytes.get(8..8 + BOOT)?;
        let boot = boot.split(|byte| *byte == 0).next()?;
        let (length, block) = (number(8 + BOOT)?, number(16 + BOOT)?);
        if length > i64::MAX.cast_unsigned() || block == 0 {
            return None;
        }
        let mut times = [Time::default(); 3];
        for (index, time) in times.iter_mut().enumerate() {
            time.sec = number(TIMES + index * 16)?.cast_signed();
            time.nsec = u32::try_from(number(TIMES + index * 16 + 8)?).ok()?;
        }
        let lengths = number(HEADER - 8)?;
        let layer = usize::try_from(lengths & u64::from(u32::MAX)).ok()?;
        let path = usize::try_from(lengths >> 32).ok()?;
        if layer > NAMES_MAX || path > NAMES_MAX {
            return None;
        }
        let names = bytes.get(HEADER..HEADER + layer + path)?;
        let origin = Origin {
            layer: std::str::from_utf8(&names[..layer]).ok()?.to_owned(),
            path: PathBuf::from(OsStr::from_bytes(&names[layer..])),
        };
        let words = usize::try_from(length.div_ceil(block).div_ceil(64)).ok()?;
        let first = (HEADER + layer + path).next_multiple_of(8);
        let size = words.checked_mul(8)?;
        let start = match holds(boot) {
            true => first,
            false => first.checked_add(size)?,
        };
        let bits = bytes.get(start..start.checked_add(size)?)?;
        let own = bits
            .chunks_exact(8)
            .map(|word| AtomicU64::new(u64::from_le_bytes(word.try_into().unwrap_or_default())))
            .collect();
        Some(BlockMap {
            origin,
            length,
            block,
            own,
            times,
            taking: Mutex::new(Rank::Blocks, ()),
        })
    }
}

/// All maps in the directory of a layer.
///
/// # Errors
/// As openat(2) and getdents64(2), and as [`BlockMap::read`].
pub fn read_all(dir: &OwnedFd, sealed: bool) -> Result<HashMap<Ino, Arc<BlockMap>>> {
    let entries = match at::list(dir, Path::new(MAPS)) {
        Err(error) if error.errno() == Errno::ENOENT => return Ok(HashMap::new()),
        entries => entries?,
    };
    let inodes = entries
        .iter()
        .filter_map(|entry| entry.name.to_str()?.parse().ok());
    inodes
        .map(|ino| Ok((ino, Arc::new(BlockMap::read(dir, ino, sealed)?))))
        .collect()
}

fn times_bytes(times: &[Time; 3]) -> Vec<u8> {
    let numbers = times
        .iter()
        .flat_map(|time| [time.sec.cast_unsigned(), u64::from(time.nsec)]);
    numbers.flat_map(u64::to_le_bytes).collect()
}

fn write_at(file: impl AsFd, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let at = (offset + done as u64).cast_signed();
        match nix::sys::uio::pwrite(file.as_fd(), &bytes[done..], at) {
            Ok(0) => return Err(Errno::EIO.into()),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            layer: "base".into(),
            path: PathBuf::from(OsStr::from_bytes(b"0/odd\xff name")),
        }
    }

    fn scratch() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = at::open_dir(nix::fcntl::AT_FDCWD, dir.path()).unwrap();
        std::fs::create_dir(dir.path().join(MAPS)).unwrap();
        (dir, fd)
    }

    fn make(dir: &OwnedFd, map: &BlockMap) -> OwnedFd {
        let flags = OFlag::O_CREAT | OFlag::O_RDWR;
        let file = at::open(dir, &BlockMap::path_of(7), flags, 0o600).unwrap();
        map.write(&file).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (_dir, fd) = scratch();
        let length = 70 * BLOCK + 5;
        let map = BlockMap::new(
            origin(),
            length,
            BLOCK,
            &[(BLOCK - 1, 3 * BLOCK), (70 * BLOCK, length)],
        );
        let file = make(&fd, &map);
        map.own(&file, 63..65).unwrap();
        let again = BlockMap::read(&fd, 7, false).unwrap();
        assert_eq!(again.origin(), map.origin());
        assert_eq!(again.length(), length);
        let own: Vec<u64> = (0..72).filter(|block| again.is_own(*block)).collect();
        // The last is no block of the file, so nothing of it is below.
        assert_eq!(own, [1, 2, 63, 64, 70, 71]);
        assert_eq!(again.run(0, length), (false, BLOCK));
        assert_eq!(again.run(2 * BLOCK + 1, length), (true, 3 * BLOCK));
        assert_eq!(again.run(69 * BLOCK, u64::MAX), (false, 70 * BLOCK));
        assert_eq!(again.run(70 * BLOCK + 4, u64::MAX), (true, u64::MAX));
        let below = BlockMap::new(origin(), 5, BLOCK, &[]);
        assert_eq!(below.run(4, 9), (false, 5));
        assert_eq!(below.run(5, 9), (true, 9));
        assert_eq!(again.next_below(63), Some(65));
        map.own(&file, 0..71).unwrap();
        assert!(map.is_whole() && BlockMap::read(&fd, 7, false).unwrap().is_whole());
    }

    #[test]
    fn after_the_machine_died_only_what_was_synced_is_its_own() {
        let (dir, fd) = scratch();
        let map = BlockMap::new(origin(), 4 * BLOCK, BLOCK, &[]);
        let file = make(&fd, &map);
        map.own(&file, 0..1).unwrap();
        map.own_on_disk(&file).unwrap();
        map.own(&file, 2..3).unwrap();
        let path = dir.path().join(BlockMap::path_of(7));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8..8 + BOOT].fill(b'x');
        std::fs::write(&path, bytes).unwrap();
        let own = |sealed| {
            let map = BlockMap::read(&fd, 7, sealed).unwrap();
            (0..4)
                .filter(|block| map.is_own(*block))
                .collect::<Vec<_>>()
        };
        assert_eq!(own(true), [0]);
        assert_eq!(own(false), [0]);
        // And so it is from then on, and what is written now holds.
        assert_eq!(own(true), [0]);
        let map = BlockMap::read(&fd, 7, false).unwrap();
        map.own(&file, 3..4).unwrap();
        assert_eq!(own(false), [0, 3]);
    }

    #[test]
    fn a_damaged_map_is_an_error() {
        let (dir, fd) = scratch();
        make(&fd, &BlockMap::new(origin(), 4 * BLOCK, BLOCK, &[]));
        let path = dir.path().join(BlockMap::path_of(7));
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 60, HEADER, whole.len() - 9] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = BlockMap::read(&fd, 7, true).unwrap_err();
            assert_eq!(error.errno(), Errno::EIO, "{length} bytes");
        }
        let mut long = whole.clone();
        long[8 + BOOT..16 + BOOT].fill(0xff);
        std::fs::write(&path, long).unwrap();
        assert_eq!(
            BlockMap::read(&fd, 7, true).unwrap_err().errno(),
            Errno::EIO
        );
    }
}
