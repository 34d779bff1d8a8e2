//! open, read, write, release, fsync, fallocate, lseek, copy_file_range.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag};
use nix::sys::stat::Mode;

use super::node::{Content, Here, Node};
use super::privileges::Unprivileged;
use super::refresh::last_attributes;
use super::{Handle, Layers, View};
use crate::error::Result;
use crate::layer::copy_up::Extent;
use crate::layer::{Backing, OpenLayer};
use crate::sys::at;
use crate::tree::{Attr, Ino, Kind};

/// An open file.
#[derive(Debug)]
pub struct Opened {
    /// The handle, to be released.
    pub handle: u64,
    /// Its content is whole, in the open layer, and free of setuid, setgid and
    /// capabilities: the kernel may read and write it by itself.
    pub passthrough: bool,
}

/// Where lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

impl View {
    pub(super) fn new_handle(&self, node: Arc<Node>, writable: bool) -> u64 {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.insert(handle, Handle { node, writable });
        handle
    }

    /// Opens a regular file; `flags` as in open(2), `O_TRUNC` included.
    ///
    /// # Errors
    /// As open(2); `ENOSPC` if a copy-up finds no room.
    pub fn open(
        &self,
        ino: Ino,
        flags: OFlag,
        unprivileged: Option<Unprivileged>,
    ) -> Result<Opened> {
        let node = self.node(ino)?;
        match node.kind {
            Kind::File => {}
            Kind::Dir => return Err(Errno::EISDIR.into()),
            Kind::Symlink => return Err(Errno::ELOOP.into()),
            _ => return Err(Errno::ENXIO.into()),
        }
        let access = flags & OFlag::O_ACCMODE;
        let writable = access == OFlag::O_WRONLY || access == OFlag::O_RDWR;
        let empties = flags.contains(OFlag::O_TRUNC);
        let extent = match (writable, empties) {
            (_, true) => Some(Extent::Empty),
            (true, false) => Some(Extent::Whole),
            (false, false) => None,
        };
        loop {
            if let Some(extent) = extent {
                self.refuse_taken(&node)?;
                self.copy_up(&node, extent)?;
            }
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            // Nobody removes the name between a look at the inode and the
            // counting of the handle.
            let opened = node.in_place(|| -> Result<Option<bool>> {
                {
                    let inner = node.inner.read();
                    if matches!(inner.here, Here::Gone(_)) || extent.is_some() && inner.taken {
                        return Err(Errno::ESTALE.into());
                    }
                }
                if empties {
                    if !self.writable_now(&node) {
                        return Ok(None);
                    }
                    let content = self.content(&state, &node, true)?;
                    if let Some(who) = unprivileged {
                        drop_privileges(content.file(), who)?;
                    }
                    content.truncate(0)?;
                    node.marks.rewritten();
                } else if access != OFlag::O_WRONLY {
                    self.saw_content(&node);
                }
                let passthrough = self.may_pass(&state, &node)?;
                let mut inner = node.inner.write();
                inner.opens += 1;
                Ok(Some(passthrough))
            })?;
            // The stack was replaced meanwhile: once more.
            let Some(passthrough) = opened else { continue };
            let handle = self.new_handle(node, writable);
            return Ok(Opened {
                handle,
                passthrough,
            });
        }
    }

    /// Who asks by path to write a file may mean what a merge has put in its
    /// place just now: `ESTALE` has the kernel look the name up again.
    fn refuse_taken(&self, node: &Arc<Node>) -> Result<()> {
        if self.live {
            let state = self.layers()?;
            self.refresh(&state, node)?;
            if node.inner.read().taken {
                return Err(Errno::ESTALE.into());
            }
        }
        Ok(())
    }

    fn may_pass(&self, state: &Layers, node: &Node) -> Result<bool> {
        let whole = matches!(
            node.inner.read().here,
            Here::Upper {
                content: Content::Whole,
                ..
            }
        );
        if self.live || !whole || self.is_partial(state, node) {
            return Ok(false);
        }
        let Some(path) = node.upper_path() else {
            return Ok(false);
        };
        // The write that has to clear these would not reach us.
        let stat = at::stat(&*state.open, &path)?;
        if stat.attr.perm & 0o6000 != 0 {
            return Ok(false);
        }
        let capability = crate::sys::xattr::get(&*state.open, &path, "security.capability")?;
        Ok(capability.is_none())
    }

    /// Whether some of the content of a file of the open layer still lies below.
    fn is_partial(&self, state: &Layers, node: &Node) -> bool {
        match state.open.map(node.ino) {
            None => false,
            Some(map) if map.is_whole() => {
                state.open.forget_map(node.ino);
                false
            }
            Some(_) => true,
        }
    }

    /// The file in the open layer behind a handle, for the kernel to use.
    ///
    /// # Errors
    /// `EBADF`, or as openat(2).
    pub fn backing(&self, handle: u64) -> Result<Arc<Backing>> {
        let node = self.handle(handle)?;
        let state = self.layers()?;
        self.kept_content(&state, &node, true)
    }

    /// Lets go of the descriptor behind a handle; it is opened again when a
    /// request needs it. For files that the kernel serves by itself.
    pub fn forget_file(&self, handle: u64) {
        if let Ok(node) = self.handle(handle) {
            node.inner.write().set_file(None);
        }
    }

    /// Closes a handle.
    pub fn release(&self, handle: u64) {
        // First: a swap sees to all whose handles it knows.
        let state = self.state.read();
        let Some((_, Handle { node, .. })) = self.handles.remove(&handle) else {
            return;
        };
        let orphan = {
            let mut inner = node.inner.write();
            inner.opens = inner.opens.saturating_sub(1);
            if inner.opens == 0 {
                inner.set_file(None);
            }
            inner.opens == 0 && inner.unlinked
        };
        if orphan {
            self.end_orphan(&state, &node);
        }
        drop(state);
        let ino = node.ino;
        drop(node);
        self.evict(ino);
    }

    /// The last handle of an unlinked file is closed: its content ends.
    fn end_orphan(&self, state: &Layers, node: &Arc<Node>) {
        // Whoever holds it by other means (`O_PATH`) still asks for attributes.
        let last = self.attributes(state, node);
        let mut inner = node.inner.write();
        if inner.opens > 0 {
            return;
        }
        let last = last.unwrap_or_else(|_| last_attributes(node, &inner.here));
        let orphan = inner.is_orphan();
        inner.here = Here::Gone(Box::new(Attr { nlink: 0, ..last }));
        drop(inner);
        if orphan {
            remove_orphan(state, node.ino);
        }
    }

    /// Reads from `offset` into `buffer`; short only at the end of the file.
    ///
    /// # Errors
    /// `EBADF`, or as pread(2).
    pub fn read(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let node = self.handle(handle)?;
        let file = {
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            self.kept_content(&state, &node, false)?
        };
        file.read_at(offset, buffer)
    }

    /// Like [`View::read`], but only from memory: `None` where the disk would
    /// have to be waited for.
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn read_now(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
        let node = self.handle(handle)?;
        let file = {
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            self.kept_content(&state, &node, false)?
        };
        match file.read_now(offset, buffer)? {
            Some(count) if count == buffer.len() => Ok(Some(count)),
            Some(count) => {
                let size = at::fstat(file.file())?.attr.size;
                Ok((offset + count as u64 >= size).then_some(count))
            }
            None => Ok(None),
        }
    }

    /// Writes at `offset`. In a live view the file may have been sealed under
    /// the handle; then it is copied up first.
    ///
    /// # Errors
    /// `EBADF`, or as pwrite(2).
    pub fn write(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        unprivileged: Option<Unprivileged>,
    ) -> Result<usize> {
        self.changing(handle, |_, file| put(file, offset, data, unprivileged))
    }

    /// Writes at the end, and tells where that was. A merge may have changed
    /// the length of a file of a live view since the kernel last asked, and the
    /// kernel puts an append where it believes the end to be.
    ///
    /// # Errors
    /// As [`View::write`].
    pub fn append(
        &self,
        handle: u64,
        data: &[u8],
        unprivileged: Option<Unprivileged>,
    ) -> Result<(u64, usize)> {
        self.changing(handle, |_, file| {
            let end = at::fstat(file.file())?.attr.size;
            Ok((end, put(file, end, data, unprivileged)?))
        })
    }

    fn writable_now(&self, node: &Node) -> bool {
        matches!(
            node.inner.read().here,
            Here::Upper {
                content: Content::Whole,
                ..
            } | Here::Detached { .. }
                | Here::Gone(_)
        )
    }

    /// Runs `change` on the content behind a handle. The layers stay what they
    /// are meanwhile: a seal waits, so that nothing is written to what it has
    /// sealed. `change` must not take long.
    fn changing<T>(
        &self,
        handle: u64,
        change: impl FnOnce(&Layers, &Backing) -> Result<T>,
    ) -> Result<T> {
        let node = self.handle(handle)?;
        loop {
            self.copy_up(&node, Extent::Whole)?;
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            if self.writable_now(&node) {
                let file = self.kept_content(&state, &node, true)?;
                return change(&state, &file);
            }
        }
    }

    /// Brings a file to the disk; only its content with `data_only`.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        let node = self.handle(handle)?;
        let (file, copy) = {
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            // A sealed layer may have got what was written here a moment ago.
            let file = self.kept_content(&state, &node, false)?;
            // A copy of metadata alone is a file of its own.
            let copy = node.in_place(|| {
                let below = matches!(
                    node.inner.read().here,
                    Here::Upper {
                        content: Content::Below { .. },
                        ..
                    }
                );
                let path = node.upper_path().filter(|_| below && !data_only);
                let open = |path: PathBuf| at::open(&*state.open, &path, OFlag::O_RDONLY, 0);
                path.map(open).transpose()
            })?;
            (file, copy)
        };
        if let Some(copy) = copy {
            nix::unistd::fsync(&copy)?;
        }
        file.sync(data_only)
    }

    /// Allocates, punches or zeroes a range.
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn fallocate(&self, handle: u64, mode: i32, offset: u64, length: u64) -> Result<()> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        self.changing(handle, |_, file| file.allocate(mode, offset, length))
    }

    /// The next data or hole from `offset` on.
    ///
    /// # Errors
    /// As lseek(2), `ENXIO` behind the end.
    pub fn seek(&self, handle: u64, offset: i64, whence: Whence) -> Result<i64> {
        let node = self.handle(handle)?;
        let file = {
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            self.kept_content(&state, &node, false)?
        };
        file.seek(offset, whence == Whence::Data)
    }

    /// Copies a range from one open file to another inside the host's kernel.
    ///
    /// # Errors
    /// As copy_file_range(2).
    pub fn copy_range(
        &self,
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        length: u64,
    ) -> Result<u64> {
        let source = self.handle(from)?;
        let mut done = 0;
        while done < length {
            let step = (length - done).min(COPY_STEP);
            let copied = self.changing(to, |state, target| {
                self.refresh(state, &source)?;
                let source = self.kept_content(state, &source, false)?;
                source.copy_to(from_offset + done, target, to_offset + done, step)
            });
            match copied {
                Ok(copied) => {
                    done += copied;
                    if copied < step {
                        break;
                    }
                }
                // What is copied already has to be told.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// How much copy_file_range(2) copies while a seal has to wait for it, in bytes.
const COPY_STEP: u64 = 8 << 20;

fn put(
    content: &Backing,
    offset: u64,
    data: &[u8],
    unprivileged: Option<Unprivileged>,
) -> Result<usize> {
    if let Some(who) = unprivileged {
        drop_privileges(content.file(), who)?;
    }
    content.write_at(offset, data)
}

/// Nobody has this unlinked file open any more.
pub(super) fn remove_orphan(state: &Layers, ino: Ino) {
    if let Err(error) = at::unlink(&*state.open, &OpenLayer::orphan_path(ino)) {
        log::warn!("orphan {ino}: {error}");
    }
}

/// What a write by somebody without privileges takes from a file.
fn drop_privileges(file: &OwnedFd, who: Unprivileged) -> Result<()> {
    let attr = at::fstat(file)?.attr;
    let kept = who.without_privileges(&attr);
    if kept != attr.perm {
        nix::sys::stat::fchmod(file, Mode::from_bits_truncate(kept))?;
    }
    Ok(())
}
