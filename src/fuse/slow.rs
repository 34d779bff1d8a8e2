//! Where a request is served: on the thread that reads requests, or, if it may
//! take long, on a worker.

use std::ffi::OsStr;

use fuser::{INodeNo, ReplyEmpty};

use super::convert::errno;
use super::filesystem::Adapter;
use super::serving::{Serving, done};
use super::stats::Op;
use super::workers::run;
use crate::view::RenameMode;

impl Adapter {
    /// Serves a request on this thread. A panic answers it with `EIO`.
    pub(super) fn here(&self, op: Op, job: impl FnOnce(&Serving)) {
        let inner = &*self.inner;
        inner.stats.count(op);
        inner.stats.begin(0);
        run(|| job(inner));
        inner.stats.end(0);
    }

    /// Serves a request here, or on a worker if it may take long.
    pub(super) fn maybe_slow(
        &self,
        op: Op,
        slow: bool,
        job: impl FnOnce(&Serving) + Send + 'static,
    ) {
        if slow {
            self.inner.stats.count(op);
            let inner = self.inner.clone();
            self.workers.give(move || job(&inner));
        } else {
            self.here(op, job);
        }
    }

    /// Only the view knows what the names stand for, and so what has to be
    /// copied up.
    pub(super) fn serve_rename(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (to_parent, to_name): (INodeNo, &OsStr),
        mode: RenameMode,
        reply: ReplyEmpty,
    ) {
        let mut slow = None;
        self.here(Op::Rename, |inner| {
            let (from, to) = ((parent.0, name), (to_parent.0, to_name));
            match inner.view.rename_now(from, to, mode) {
                Ok(true) => reply.ok(),
                Ok(false) => slow = Some(reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
        let Some(reply) = slow else { return };
        let inner = self.inner.clone();
        let (name, to_name) = (name.to_os_string(), to_name.to_os_string());
        self.workers.give(move || {
            let view = &inner.view;
            let renamed = view.rename(parent.0, &name, to_parent.0, &to_name, mode);
            done(renamed, reply);
        });
    }
}
