//! Where a request is served: on the thread that reads requests, or, if it may
//! take long, on a worker.

use std::ffi::OsStr;

use fuser::{INodeNo, ReplyEmpty, Request};

use super::convert::errno;
use super::filesystem::Adapter;
use super::following;
use super::serving::{Serving, done};
use super::stats::Op;
use super::workers::run;
use crate::view::RenameMode;

impl Adapter {
    /// Serves a request on this thread. A panic answers it with `EIO`.
    pub(super) fn here(&self, request: &Request, op: Op, job: impl FnOnce(&Serving)) {
        let inner = &*self.inner;
        inner.stats.count(op);
        inner.stats.begin(0);
        following::request(request.pid());
        run(|| job(inner));
        following::answered();
        inner.stats.end(0);
    }

    /// Serves a request here, or on a worker if it may take long.
    pub(super) fn maybe_slow(
        &self,
        request: &Request,
        op: Op,
        slow: bool,
        job: impl FnOnce(&Serving) + Send + 'static,
    ) {
        if slow {
            self.inner.stats.count(op);
            let inner = self.inner.clone();
            self.give(move || job(&inner));
        } else {
            self.here(request, op, job);
        }
    }

    /// Gives a job to a worker; it is done here if they all have too much to do.
    pub(super) fn give(&self, job: impl FnOnce() + Send + 'static) {
        self.workers.give(job);
        following::answered();
    }

    /// Serves a request whose answer depends on what was stored through mappings:
    /// has the kernel tell that first, from byte `from` of the file on. It does not do
    /// so by itself before it asks for holes or sets times (fs/fuse/file.c,
    /// fuse_lseek; fs/fuse/dir.c, fuse_do_setattr). On a thread of its own, since it
    /// waits for write requests, which the workers may have to serve.
    pub(super) fn after_stores(
        &self,
        request: &Request,
        op: Op,
        (ino, from): (INodeNo, i64),
        job: impl FnOnce(&Serving) + Send + 'static,
    ) {
        if from < 0 || !self.inner.modes.may_hold_stores(ino.0) {
            return self.here(request, op, job);
        }
        self.inner.stats.count(op);
        let inner = self.inner.clone();
        let collected = std::thread::Builder::new()
            .name("collect".into())
            .spawn(move || {
                run(|| {
                    inner.collect_pages(ino, from);
                    job(&inner);
                });
            });
        if let Err(error) = collected {
            // Its reply is dropped with the job, which answers EIO.
            log::error!("inode {}: no thread: {error}", ino.0);
        }
        following::answered();
    }

    /// Only the view knows what the names stand for, and so what has to be
    /// copied up.
    pub(super) fn serve_rename(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        (to_parent, to_name): (INodeNo, &OsStr),
        mode: RenameMode,
        reply: ReplyEmpty,
    ) {
        let mut slow = None;
        self.here(request, Op::Rename, |inner| {
            let (from, to) = ((parent.0, name), (to_parent.0, to_name));
            match inner.view.rename_now(from, to, mode) {
                Ok(true) => {
                    following::give_way();
                    reply.ok();
                }
                Ok(false) => slow = Some(reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
        let Some(reply) = slow else { return };
        let inner = self.inner.clone();
        let (name, to_name) = (name.to_os_string(), to_name.to_os_string());
        self.give(move || {
            let view = &inner.view;
            let renamed = view.rename(parent.0, &name, to_parent.0, &to_name, mode);
            done(renamed, reply);
        });
    }
}
