//! Reads and writes that the kernel does not do by itself.

use std::cell::RefCell;

use fuser::{INodeNo, ReplyData, ReplyWrite, Request};

use super::convert::errno;
use super::filesystem::Adapter;
use super::following;
use super::serving::Serving;
use super::stats::Op;
use crate::layer::copy_up::Extent;
use crate::view::Unprivileged;

/// Bytes in one request that are worth a CPU of their own.
const BULK: usize = 64 << 10;

thread_local! {
    /// Kept from read to read: the pages of a fresh one cost as much as copying
    /// into them.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `with` on a buffer of `size` bytes that hold anything.
fn with_buffer<R>(size: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        with(&mut buffer[..size])
    })
}

/// One write request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub handle: u64,
    pub offset: u64,
    /// The writer, if it is one whose writes clear setuid and setgid.
    pub kill_privileges: Option<Unprivileged>,
    pub append: bool,
}

impl Adapter {
    /// Answers from memory on this thread, and where the disk has to be waited
    /// for on a worker.
    pub(super) fn serve_read(
        &self,
        request: &Request,
        handle: u64,
        offset: u64,
        size: usize,
        reply: ReplyData,
    ) {
        if size > BULK {
            following::bulk();
        }
        let mut slow = None;
        self.here(request, Op::Read, |inner| {
            with_buffer(size, |buffer| {
                match inner.view.read_now(handle, offset, buffer) {
                    Ok(Some(count)) => {
                        following::give_way();
                        reply.data(&buffer[..count]);
                    }
                    Ok(None) => slow = Some(reply),
                    Err(error) => reply.error(errno(&error)),
                }
            });
        });
        let Some(reply) = slow else { return };
        let inner = self.inner.clone();
        self.give(move || {
            with_buffer(size, |buffer| {
                match inner.view.read(handle, offset, buffer) {
                    Ok(count) => reply.data(&buffer[..count]),
                    Err(error) => reply.error(errno(&error)),
                }
            });
        });
    }

    pub(super) fn serve_write(
        &self,
        request: &Request,
        ino: INodeNo,
        write: Write,
        data: &[u8],
        reply: ReplyWrite,
    ) {
        if data.len() > BULK {
            following::bulk();
        }
        // The kernel's idea of a file's end may be older than a merge. That a
        // write is none (`RWF_NOAPPEND`, preadv2(2)), the request does not say.
        let append = write.append && self.inner.view.is_live();
        // True if it went elsewhere than the kernel thinks.
        let serve = move |inner: &Serving, data: &[u8], reply: ReplyWrite| {
            let kill = write.kill_privileges;
            let written = if append {
                inner.view.append(write.handle, data, kill)
            } else {
                let done = inner.view.write(write.handle, write.offset, data, kill);
                done.map(|count| (write.offset, count))
            };
            match written {
                Ok((at, count)) => {
                    following::give_way();
                    reply.written(u32::try_from(count).unwrap_or(u32::MAX));
                    at != write.offset
                }
                Err(error) => {
                    reply.error(errno(&error));
                    false
                }
            }
        };
        // Sealed under the handle: the write copies the file up first.
        if self.inner.view.copies_much(ino.0, Extent::Whole) {
            let data = data.to_vec();
            self.maybe_slow(request, Op::Write, true, move |inner| {
                if serve(inner, &data, reply) {
                    inner.forget_pages(ino);
                }
            });
            return;
        }
        let mut moved = false;
        self.here(request, Op::Write, |inner| {
            moved = serve(inner, data, reply)
        });
        if moved {
            // Not from this thread: the kernel may want something of it first.
            let inner = self.inner.clone();
            self.give(move || inner.forget_pages(ino));
        }
    }
}
