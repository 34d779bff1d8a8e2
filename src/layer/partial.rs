//! A file of a layer some of whose blocks still lie below.
//!
//! Made where a large file would have to be copied before it is written: it has
//! its full size and the room for it from the start, and takes a block over when
//! that is first written. Data come first, then the block's bit.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

use super::Backing;
use super::block_map::BlockMap;
use crate::error::{Context, Error, Result};
use crate::sys::{at, copy};

/// A partial file that is open.
#[derive(Debug)]
pub struct Partial {
    file: OwnedFd,
    /// The map on disk; `None` for who only reads.
    on_disk: Option<OwnedFd>,
    map: Arc<BlockMap>,
    below: Arc<Backing>,
    /// Nobody writes what is below any more, so once is enough.
    below_is_synced: AtomicBool,
}

impl Partial {
    /// `file` with its `map`; what is not its own is read from `below`. To write
    /// takes the map `on_disk`.
    pub fn new(
        file: OwnedFd,
        on_disk: Option<OwnedFd>,
        map: Arc<BlockMap>,
        below: Arc<Backing>,
    ) -> Partial {
        Partial {
            file,
            on_disk,
            map,
            below,
            below_is_synced: AtomicBool::new(false),
        }
    }

    /// The file of the layer, which has the right attributes.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// What it has what is not its own from.
    pub fn below(&self) -> &Backing {
        &self.below
    }

    /// Its map.
    pub fn map(&self) -> &BlockMap {
        &self.map
    }

    /// Reads from `offset`; short only at the end of the file.
    ///
    /// # Errors
    /// As pread(2); `EIO` if less lies below than there should be.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let end = offset.saturating_add(buffer.len() as u64);
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let (own, until) = self.map.run(at, end);
            let room = usize::try_from(until - at).unwrap_or(usize::MAX);
            let part = &mut buffer[done..][..room];
            let got = if own {
                copy::read_at(&self.file, at, part)?
            } else {
                let got = self.below.read_at(at, part)?;
                if got < room {
                    return Err(Error::new(Errno::EIO, "the content below is too short"));
                }
                got
            };
            done += got;
            if got < room {
                break;
            }
        }
        Ok(done)
    }

    /// [`Partial::read_at`] from memory alone: `None` where the disk would have to
    /// be waited for, or several files be read.
    ///
    /// # Errors
    /// As preadv2(2).
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
        let end = offset.saturating_add(buffer.len() as u64);
        match self.map.run(offset, end) {
            (true, until) if until == end => copy::read_nowait(&self.file, offset, buffer),
            (false, until) if until == end => self.below.read_now(offset, buffer),
            _ => Ok(None),
        }
    }

    fn on_disk(&self) -> Result<&OwnedFd> {
        self.on_disk.as_ref().ok_or_else(|| Errno::EBADF.into())
    }

    /// Takes a block over as it is below.
    fn take_over(&self, block: u64) -> Result<()> {
        if self.map.is_own(block) {
            return Ok(());
        }
        let start = block * self.map.block();
        let length = self.map.block().min(self.map.length() - start);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        if self.below.read_at(start, &mut bytes)? < bytes.len() {
            return Err(Error::new(Errno::EIO, "the content below is too short"));
        }
        copy::write_at(&self.file, start, &bytes)?;
        self.map.own(self.on_disk()?, block..block + 1)
    }

    /// Takes over what a change of the range touches and does not replace: the
    /// blocks that it begins and ends in, and the last one if the file grows.
    /// For who has taken the blocks.
    fn take_edges(&self, start: u64, end: u64) -> Result<()> {
        let length = self.map.length();
        if !start.is_multiple_of(self.map.block()) {
            self.take_over(start / self.map.block())?;
        }
        if end < length {
            if !end.is_multiple_of(self.map.block()) {
                self.take_over(end / self.map.block())?;
            }
        } else if end > length
            && start > (length.saturating_sub(1)) / self.map.block() * self.map.block()
        {
            // Its end lies below, and what comes behind that would not show.
            self.take_over(length.saturating_sub(1) / self.map.block())?;
        }
        Ok(())
    }

    /// Writes all of `data`, or as much as there is room for.
    ///
    /// # Errors
    /// As pwrite(2), if nothing was written.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize> {
        let end = offset + data.len() as u64;
        if data.is_empty() || self.map.run(offset, end) == (true, end) && !self.grows(end) {
            return copy::write_at(&self.file, offset, data);
        }
        let _taken = self.map.take();
        self.take_edges(offset, end)?;
        let done = copy::write_at(&self.file, offset, data)?;
        self.map.own(
            self.on_disk()?,
            self.map.within(offset, offset + done as u64),
        )?;
        // Of a block that was cut short nothing shows.
        match self.map.run(offset, offset + done as u64) {
            (true, until) if until > offset => Ok(usize::try_from(until - offset).unwrap_or(done)),
            _ => Err(Errno::ENOSPC.into()),
        }
    }

    /// True if what reaches up to `end` makes the file longer than what is below.
    fn grows(&self, end: u64) -> bool {
        end > self.map.length()
            && !self
                .map
                .is_own(self.map.length().saturating_sub(1) / self.map.block())
    }

    /// Sets the length.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn truncate(&self, size: u64) -> Result<()> {
        let _taken = self.map.take();
        let length = self.map.length();
        if size < length {
            if !size.is_multiple_of(self.map.block()) {
                self.take_over(size / self.map.block())?;
            }
            nix::unistd::ftruncate(&self.file, size.cast_signed())?;
            // What is behind the new end must never show again. Not before that is the
            // end, or it would be lost if the file stayed as long as it was.
            return self.map.own(self.on_disk()?, self.map.within(size, length));
        } else if size > length {
            self.take_over(length.saturating_sub(1) / self.map.block())?;
        }
        Ok(nix::unistd::ftruncate(&self.file, size.cast_signed())?)
    }

    /// Ends a truncation in the midst of which a daemon died: nothing behind the end of
    /// the file lies below any more. For who opens it to write.
    ///
    /// # Errors
    /// As pread(2) and pwrite(2).
    pub fn settle_end(&self) -> Result<()> {
        let length = self.map.length();
        let cut = || -> Result<Option<u64>> {
            let size = at::fstat(&self.file)?.attr.size;
            let settled = size >= length || self.map.run(size, length) == (true, length);
            Ok((!settled).then_some(size))
        };
        if cut()?.is_none() {
            return Ok(());
        }
        // Unless somebody is truncating it just now.
        let _taken = self.map.take();
        let Some(size) = cut()? else {
            return Ok(());
        };
        // Another boot of the machine may have forgotten that the last block was taken.
        let block = self.map.block();
        let last = size / block;
        if !self.map.is_own(last) {
            self.copy_from_below(last * block, size)?;
        }
        self.map.own(self.on_disk()?, last..length.div_ceil(block))
    }

    /// Allocates, punches or zeroes a range.
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn allocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> Result<()> {
        let end = offset.saturating_add(length);
        let clears = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_ZERO_RANGE;
        let run = || {
            let (offset, length) = (offset.cast_signed(), length.cast_signed());
            Ok(nix::fcntl::fallocate(&self.file, mode, offset, length)?)
        };
        let _taken = self.map.take();
        if !mode.intersects(clears) {
            if self.grows(end) {
                self.take_over(self.map.length().saturating_sub(1) / self.map.block())?;
            }
            return run();
        }
        self.take_edges(offset, end)?;
        run()?;
        self.map.own(self.on_disk()?, self.map.within(offset, end))
    }

    /// The next data or hole from `offset` on, by whole blocks.
    ///
    /// # Errors
    /// As lseek(2): `ENXIO` behind the end, or where only a hole is left.
    pub fn seek(&self, offset: u64, for_data: bool) -> Result<u64> {
        let size = at::fstat(&self.file)?.attr.size;
        if offset >= size {
            return Err(Errno::ENXIO.into());
        }
        match (self.data(offset, size)?, for_data) {
            ((start, _), true) if start >= size => Err(Errno::ENXIO.into()),
            ((start, _), true) => Ok(start),
            ((start, _), false) if start > offset => Ok(offset),
            ((_, end), false) => Ok(end),
        }
    }

    /// As [`copy::data`]. Looks no further than to `limit`, here and below.
    ///
    /// # Errors
    /// As lseek(2).
    pub fn data(&self, at: u64, limit: u64) -> Result<(u64, u64)> {
        let mut found = None;
        let mut at = at;
        while at < limit {
            let (own, until) = self.map.run(at, limit);
            let (start, end) = if own {
                copy::data(&self.file, at, until)?
            } else {
                self.below.data(at, until)?
            };
            match found {
                None if start < until => found = Some(start),
                Some(found) if start > at => return Ok((found, at)),
                _ => {}
            }
            if let Some(found) = found
                && end < until
            {
                return Ok((found, end));
            }
            at = until;
        }
        Ok((found.unwrap_or(limit), limit))
    }

    /// Brings it to the disk, the data before the map, and what lies below too, which
    /// was sealed perhaps a moment after it had been written.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self, data_only: bool) -> Result<()> {
        if !self.below_is_synced.load(Ordering::Acquire) {
            self.below.sync(true)?;
            self.below_is_synced.store(true, Ordering::Release);
        }
        // A block that becomes its own meanwhile is not on the disk.
        let _taken = self.map.take();
        if data_only {
            nix::unistd::fdatasync(&self.file)?;
        } else {
            nix::unistd::fsync(&self.file)?;
        }
        match &self.on_disk {
            Some(map) => self.map.own_on_disk(map),
            None => Ok(()),
        }
    }

    /// Takes over the next blocks from `block` on, of about `bytes` together.
    /// Returns where to go on; `None` when all is its own.
    ///
    /// # Errors
    /// As copy_file_range(2).
    pub fn take_some(&self, block: u64, bytes: u64) -> Result<Option<u64>> {
        let _taken = self.map.take();
        let Some(first) = self.map.next_below(block) else {
            return Ok(None);
        };
        let start = first * self.map.block();
        let (_, end) = self.map.run(
            start,
            self.map.length().min(start + bytes.max(self.map.block())),
        );
        let end = match end {
            end if end < self.map.length() => end / self.map.block() * self.map.block(),
            end => end,
        };
        self.copy_from_below(start, end)
            .context(|| "content from below")?;
        self.map.own(self.on_disk()?, self.map.within(start, end))?;
        Ok(Some(end.div_ceil(self.map.block())))
    }

    fn copy_from_below(&self, start: u64, end: u64) -> Result<()> {
        let copied = match &*self.below {
            Backing::Whole(below) => {
                copy::range(below.as_fd(), start, self.file.as_fd(), start, end - start)?
            }
            Backing::Partial(below) => copy::through(
                |at, buffer| below.read_at(at, buffer),
                start,
                &self.file,
                start,
                end - start,
            )?,
        };
        if copied < end - start {
            return Err(Error::new(Errno::EIO, "the content below is too short"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Origin;
    use super::*;
    use nix::fcntl::OFlag;
    use std::path::Path;

    const BLOCK: u64 = 4096;
    const LENGTH: usize = 5 * 4096 + 100;

    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, Vec<u8>),
        Truncate(u64),
        /// The daemon dies between the two files that a truncation changes; if the machine
        /// does too, the last block may be forgotten.
        Dies(u64),
        Punch(u64, u64),
        Zero(u64, u64),
        Extend(u64, u64),
        Take(u64),
        Again,
    }

    fn change() -> impl Strategy<Value = Change> {
        let place = 0..7 * BLOCK;
        // Ends of blocks are where things go wrong.
        let place = prop_oneof![place, (0..7_u64).prop_map(|block| block * BLOCK)];
        let length = prop_oneof![1..3 * BLOCK, (1..3_u64).prop_map(|count| count * BLOCK)];
        prop_oneof![
            (place.clone(), length.clone(), any::<u8>()).prop_map(|(at, length, byte)| {
                Change::Write(at, vec![byte; usize::try_from(length).unwrap()])
            }),
            place.clone().prop_map(Change::Truncate),
            place.clone().prop_map(Change::Dies),
            (place.clone(), length.clone()).prop_map(|(at, length)| Change::Punch(at, length)),
            (place.clone(), length.clone()).prop_map(|(at, length)| Change::Zero(at, length)),
            (place, length).prop_map(|(at, length)| Change::Extend(at, length)),
            (0..6_u64).prop_map(Change::Take),
            Just(Change::Again),
        ]
    }

    fn file(dir: &OwnedFd, name: &str) -> OwnedFd {
        let flags = OFlag::O_CREAT | OFlag::O_RDWR;
        at::open(dir, Path::new(name), flags, 0o600).unwrap()
    }

    /// Below: data, a hole of a block and a half, and data up to the odd end.
    fn below(dir: &OwnedFd) -> (OwnedFd, Vec<u8>) {
        let mut content: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8 | 1).collect();
        content[4096..4096 + 6144].fill(0);
        let below = file(dir, "below");
        copy::write_at(&below, 0, &content[..4096]).unwrap();
        copy::write_at(&below, 4096 + 6144, &content[4096 + 6144..]).unwrap();
        (below, content)
    }

    fn resize(content: &mut Vec<u8>, size: u64) {
        content.resize(usize::try_from(size).unwrap(), 0);
    }

    fn clear(content: &mut [u8], at: u64, length: u64) {
        let end = content.len().min(usize::try_from(at + length).unwrap());
        let at = end.min(usize::try_from(at).unwrap());
        content[at..end].fill(0);
    }

    fn compare(partial: &Partial, content: &[u8]) {
        let mut got = vec![1; content.len() + 10];
        let count = partial.read_at(0, &mut got).unwrap();
        assert_eq!(count, content.len());
        if let Some(at) = (0..count).find(|at| got[*at] != content[*at]) {
            panic!("byte {at} is {} and not {}", got[at], content[at]);
        }
        // Whatever is said to be a hole is one.
        let size = content.len() as u64;
        let mut at = 0;
        while at < size {
            let data = partial.seek(at, true).unwrap_or(size);
            clear_check(content, at, data);
            at = match data {
                data if data < size => partial.seek(data, false).unwrap(),
                end => end,
            };
        }
    }

    fn clear_check(content: &[u8], from: u64, to: u64) {
        let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
        assert!(content[range].iter().all(|byte| *byte == 0), "{from}..{to}");
    }

    /// A partial file of `LENGTH` bytes, over `below`, in blocks of `BLOCK` bytes.
    fn begin(dir: &OwnedFd, at: &Path) -> (Arc<BlockMap>, Arc<Backing>, Vec<u8>) {
        std::fs::create_dir(at.join("maps")).unwrap();
        let (lower, content) = below(dir);
        nix::unistd::ftruncate(file(dir, "upper"), LENGTH as i64).unwrap();
        let origin = Origin {
            layer: "base".into(),
            path: "below".into(),
        };
        let map = BlockMap::new(origin, LENGTH as u64, BLOCK, &[(4096, 4096 + 6144)]);
        map.write(file(dir, "maps/7")).unwrap();
        (Arc::new(map), Arc::new(Backing::Whole(lower)), content)
    }

    #[test]
    fn a_truncation_that_fails_takes_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = at::open_dir(nix::fcntl::AT_FDCWD, scratch.path()).unwrap();
        let (map, lower, content) = begin(&dir, scratch.path());
        let upper = at::open(&dir, Path::new("upper"), OFlag::O_RDONLY, 0).unwrap();
        let partial = Partial::new(upper, Some(file(&dir, "maps/7")), map, lower);
        partial.truncate(3 * BLOCK).unwrap_err();
        compare(&partial, &content);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 200,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn it_is_a_file(changes in prop::collection::vec(change(), 1..24)) {
            let scratch = tempfile::tempdir().unwrap();
            let dir = at::open_dir(nix::fcntl::AT_FDCWD, scratch.path()).unwrap();
            let (map, lower, mut content) = begin(&dir, scratch.path());
            let open = |map: Arc<BlockMap>| {
                Partial::new(file(&dir, "upper"), Some(file(&dir, "maps/7")), map, lower.clone())
            };
            let mut partial = open(map);
            for change in changes {
                match &change {
                    Change::Write(at, data) => {
                        prop_assert_eq!(partial.write_at(*at, data).unwrap(), data.len());
                        let (at, end) = (*at, *at + data.len() as u64);
                        if end > content.len() as u64 {
                            resize(&mut content, end);
                        }
                        content[usize::try_from(at).unwrap()..usize::try_from(end).unwrap()]
                            .copy_from_slice(data);
                    }
                    Change::Truncate(size) => {
                        partial.truncate(*size).unwrap();
                        resize(&mut content, *size);
                    }
                    Change::Dies(size) => {
                        let size = (*size).min(content.len() as u64);
                        if !size.is_multiple_of(BLOCK) && size.is_multiple_of(2) {
                            partial.take_over(size / BLOCK).unwrap();
                        }
                        nix::unistd::ftruncate(&partial.file, size.cast_signed()).unwrap();
                        resize(&mut content, size);
                        partial = open(Arc::new(BlockMap::read(&dir, 7, false).unwrap()));
                        partial.settle_end().unwrap();
                    }
                    Change::Punch(at, length) => {
                        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE
                            | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                        partial.allocate(mode, *at, *length).unwrap();
                        clear(&mut content, *at, *length);
                    }
                    Change::Zero(at, length) => {
                        let mode = FallocateFlags::FALLOC_FL_ZERO_RANGE;
                        match partial.allocate(mode, *at, *length) {
                            // tmpfs
                            Err(error) if error.errno() == Errno::EOPNOTSUPP => {}
                            done => {
                                done.unwrap();
                                let end = content.len().max(usize::try_from(at + length).unwrap());
                                content.resize(end, 0);
                                clear(&mut content, *at, *length);
                            }
                        }
                    }
                    Change::Extend(at, length) => {
                        partial.allocate(FallocateFlags::empty(), *at, *length).unwrap();
                        let end = content.len().max(usize::try_from(at + length).unwrap());
                        content.resize(end, 0);
                    }
                    Change::Take(block) => {
                        partial.take_some(*block, BLOCK).unwrap();
                    }
                    Change::Again => {
                        let map = BlockMap::read(&dir, 7, false).unwrap();
                        partial = open(Arc::new(map));
                    }
                }
                compare(&partial, &content);
            }
            while partial.take_some(0, 2 * BLOCK).unwrap().is_some() {
                compare(&partial, &content);
            }
            let mut own = vec![0; content.len()];
            copy::read_at(partial.file(), 0, &mut own).unwrap();
            prop_assert!(own == content && partial.map().is_whole());
        }
    }
}
