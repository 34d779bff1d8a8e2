//! fuser's requests as calls of a view, one to one.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::OFlag;

use super::content::Write;
use super::convert::{FOREVER, decode_device, errno, file_attr, kind, set_time};
use super::following::give_way;
use super::modes::{Access, Modes};
use super::nods::ghost;
use super::serving::{Serving, by, caller, done, open_flags, reply_bytes, unprivileged};
use super::stats::{Op, Stats};
use super::workers::Workers;
use crate::layer::copy_up::Extent;
use crate::stage::Event;
use crate::view::{ACCESS_ACL, RenameMode, SetAttr, SetXattr, View, Whence};

/// What INIT agreed on with the kernel.
#[derive(Debug, Default)]
pub(super) struct Negotiated {
    text: OnceLock<String>,
}

impl Negotiated {
    pub fn describe(&self) -> String {
        self.text.get().cloned().unwrap_or_else(|| "fuse".into())
    }
}

/// Serves one view to the kernel.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) inner: Arc<Serving>,
    pub(super) workers: Workers,
    negotiated: Arc<Negotiated>,
    want_passthrough: bool,
    stack_depth: u32,
}

impl Adapter {
    pub fn new(
        view: Arc<View>,
        stats: Arc<Stats>,
        workers: Workers,
        modes: Arc<Modes>,
        negotiated: Arc<Negotiated>,
        want_passthrough: bool,
        stack_depth: u32,
    ) -> Adapter {
        Adapter {
            inner: Arc::new(Serving {
                view,
                stats,
                modes,
                nods: Arc::default(),
                notifier: Arc::default(),
                passthrough: OnceLock::new(),
            }),
            workers,
            negotiated,
            want_passthrough,
            stack_depth,
        }
    }

    /// Where the notifier has to be put once the session exists.
    pub fn notifier_slot(&self) -> Arc<OnceLock<Notifier>> {
        self.inner.notifier.clone()
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let offered = config.capabilities();
        let mut wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES;
        wanted &= offered;
        let mut passes = false;
        if self.want_passthrough
            && offered.contains(InitFlags::FUSE_PASSTHROUGH)
            && config.set_max_stack_depth(self.stack_depth).is_ok()
        {
            wanted |= InitFlags::FUSE_PASSTHROUGH;
            passes = true;
        }
        let _ = config.add_capabilities(wanted);
        let _ = config.set_max_readahead(1 << 20);
        let _ = config.set_max_background(64);
        let _ = self.inner.passthrough.set(passes);
        let abi = config.kernel_abi();
        let mode = if passes {
            format!("passthrough, stack depth {}", self.stack_depth)
        } else {
            "no passthrough".into()
        };
        let _ = self
            .negotiated
            .text
            .set(format!("fuse {}.{}, {mode}", abi.0, abi.1));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.here(request, Op::Lookup, |inner| {
            match inner.nods.to(request.pid()) {
                // The kernel makes only what is not there, and removes only what is.
                Some((Event::Made, _)) => return reply.error(fuser::Errno::ENOENT),
                Some((Event::Removed | Event::Unnamed, kind)) => {
                    let attr = file_attr(&ghost(kind));
                    return reply.entry(&Duration::ZERO, &attr, Generation(0));
                }
                _ => {}
            }
            let result = inner.view.lookup(parent.0, name);
            match &result {
                Err(error) if error.errno() == nix::errno::Errno::ENOENT => {
                    // A missing name is cached too: node id 0 says so
                    // (include/uapi/linux/fuse.h, struct fuse_entry_out).
                    let attr = crate::view::missing();
                    give_way();
                    reply.entry(&FOREVER, &file_attr(&attr), Generation(0));
                }
                _ => inner.reply_entry(result, reply),
            }
        });
    }

    fn forget(&self, request: &Request, ino: INodeNo, count: u64) {
        let mut many = false;
        self.here(request, Op::Forget, |inner| {
            many = inner.view.forget(ino.0, count);
        });
        if many {
            let inner = self.inner.clone();
            self.give(move || inner.view.give_back());
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.here(request, Op::Getattr, |inner| {
            inner.reply_attr(inner.view.getattr(ino.0), reply)
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if self.inner.nods.to(request.pid()).is_some() {
            return self.here(request, Op::Setattr, |inner| {
                inner.reply_attr(inner.view.getattr(ino.0), reply);
            });
        }
        let set = SetAttr {
            perm: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: set_time(atime),
            mtime: set_time(mtime),
            unprivileged: unprivileged(request),
        };
        let extent = match size {
            None => Extent::Metadata,
            Some(0) => Extent::Empty,
            Some(_) => Extent::Whole,
        };
        if mtime.is_some() && size.is_none() && self.inner.modes.may_hold_stores(ino.0) {
            // What was stored before must not be written back after, and set it anew.
            return self.after_stores(request, Op::Setattr, (ino, 0), move |inner| {
                inner.reply_attr(inner.view.setattr(ino.0, &set), reply);
            });
        }
        let slow = self.inner.view.copies_much(ino.0, extent);
        self.maybe_slow(request, Op::Setattr, slow, move |inner| {
            inner.reply_attr(inner.view.setattr(ino.0, &set), reply);
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.here(request, Op::Readlink, |inner| {
            match inner.view.readlink(ino.0) {
                Ok(target) => {
                    give_way();
                    reply.data(target.as_encoded_bytes());
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.here(request, Op::Mknod, |inner| {
            if inner.nods.to(request.pid()).is_some() {
                return inner.nod_entry(parent.0, name, reply);
            }
            let caller = caller(request, umask);
            let made = inner
                .view
                .mknod(parent.0, name, mode, decode_device(rdev), &caller);
            inner.reply_entry(made, reply);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.here(request, Op::Mkdir, |inner| {
            if inner.nods.to(request.pid()).is_some() {
                return inner.nod_entry(parent.0, name, reply);
            }
            let made = inner
                .view
                .mkdir(parent.0, name, mode, &caller(request, umask));
            inner.reply_entry(made, reply);
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.here(request, Op::Unlink, |inner| {
            if inner.nods.to(request.pid()).is_some() {
                return done(Ok(()), reply);
            }
            done(inner.view.unlink(parent.0, name), reply)
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.here(request, Op::Rmdir, |inner| {
            if inner.nods.to(request.pid()).is_some() {
                return done(Ok(()), reply);
            }
            done(inner.view.rmdir(parent.0, name), reply)
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.here(request, Op::Symlink, |inner| {
            if inner.nods.to(request.pid()).is_some() {
                return inner.nod_entry(parent.0, name, reply);
            }
            let caller = caller(request, 0);
            let made = inner
                .view
                .symlink(parent.0, name, target.as_os_str(), &caller);
            inner.reply_entry(made, reply);
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else if flags - RenameFlags::RENAME_NOREPLACE == RenameFlags::RENAME_WHITEOUT {
            RenameMode::Whiteout {
                uid: request.uid(),
                gid: request.gid(),
                no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
            }
        } else {
            return reply.error(fuser::Errno::EINVAL);
        };
        self.serve_rename(request, (parent, name), (to_parent, to_name), mode, reply);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let slow = self.inner.view.copies_much(ino.0, Extent::Whole);
        let name = name.to_os_string();
        self.maybe_slow(request, Op::Link, slow, move |inner| {
            inner.reply_entry(inner.view.link(ino.0, parent.0, &name), reply);
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = Access::of(flags);
        let nod = self.inner.nods.to(request.pid()).is_some();
        let flags = match nod {
            // Nothing is going to be written.
            true => OFlag::O_RDONLY,
            false => open_flags(flags),
        };
        let unprivileged = unprivileged(request);
        let empties = flags.contains(OFlag::O_TRUNC);
        let extent = match empties {
            true => Some(Extent::Empty),
            false => (access.writes && !nod).then_some(Extent::Whole),
        };
        let slow = extent.is_some_and(|extent| self.inner.view.copies_much(ino.0, extent));
        self.maybe_slow(request, Op::Open, slow, move |inner| {
            // Who opens for reading only is kept from emptying a program that
            // runs when we have done it (fs/namei.c, do_open): too late.
            if empties && !access.writes && inner.modes.runs(ino.0) {
                return reply.error(fuser::Errno::ETXTBSY);
            }
            match inner.view.open(ino.0, flags, unprivileged) {
                Ok(opened) => {
                    let backing =
                        inner.choose(ino.0, opened.handle, access, opened.passthrough, |file| {
                            reply.open_backing(file)
                        });
                    let handle = FileHandle(opened.handle);
                    give_way();
                    match backing {
                        Some(backing) => {
                            reply.opened_passthrough(handle, FopenFlags::empty(), &backing);
                        }
                        None => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
                    }
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.here(request, Op::Create, |inner| {
            let access = Access::of(OpenFlags(flags));
            let caller = caller(request, umask);
            let created = inner
                .view
                .create(parent.0, name, mode, access.writes, &caller);
            match created {
                Ok((attr, handle)) => {
                    let passthrough = attr.perm & 0o6000 == 0;
                    let backing = inner.choose(attr.ino, handle, access, passthrough, |file| {
                        reply.open_backing(file)
                    });
                    let (handle, attr) = (FileHandle(handle), file_attr(&attr));
                    let (none, keep) = (FopenFlags::empty(), FopenFlags::FOPEN_KEEP_CACHE);
                    give_way();
                    match backing {
                        Some(backing) => reply.created_passthrough(
                            &FOREVER,
                            &attr,
                            Generation(0),
                            handle,
                            none,
                            &backing,
                        ),
                        None => reply.created(&FOREVER, &attr, Generation(0), handle, keep),
                    }
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve_read(request, fh.0, offset, size as usize, reply);
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let how = Write {
            handle: fh.0,
            offset,
            kill_privileges: write_flags
                .contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID)
                .then(|| by(request)),
            append: open_flags(flags).contains(OFlag::O_APPEND),
        };
        self.serve_write(request, ino, how, data, reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Nothing is held back until close(2), so the kernel need not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.here(request, Op::Release, |inner| {
            reply.ok();
            let past = inner.modes.leave(ino.0, Access::of(flags));
            inner.view.release(fh.0);
            if past && let Some(notifier) = inner.notifier.get() {
                // Attributes only (a negative offset): what was written through
                // a mapping went past the kernel's FUSE inode.
                let _ = notifier.inval_inode(ino, -1, 0);
            }
        });
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.maybe_slow(request, Op::Fsync, true, move |inner| {
            done(inner.view.fsync(fh.0, datasync), reply);
        });
    }

    fn opendir(&self, request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel does not ask again (FUSE_NO_OPENDIR_SUPPORT) and keeps
        // listings itself.
        self.here(request, Op::Opendir, |_| reply.error(fuser::Errno::ENOSYS));
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.here(request, Op::Readdir, move |inner| {
            let result = inner.view.readdir(ino.0, offset, false, &mut |entry| {
                !reply.add(
                    INodeNo(entry.ino),
                    entry.cookie,
                    kind(entry.kind),
                    entry.name,
                )
            });
            match result {
                Ok(()) => {
                    give_way();
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.here(request, Op::Readdirplus, move |inner| {
            let result = inner.view.readdir(ino.0, offset, true, &mut |entry| {
                // `.` and `..` carry no attributes: node id 0, not a lookup.
                let empty = crate::view::missing();
                let attr = entry.attr.unwrap_or(&empty);
                let mut attr = file_attr(attr);
                attr.kind = kind(entry.kind);
                let node = if entry.attr.is_some() { entry.ino } else { 0 };
                let ttl = inner.ttl(entry.ino);
                attr.ino = INodeNo(entry.ino);
                !reply.add(
                    INodeNo(node),
                    entry.cookie,
                    entry.name,
                    &ttl,
                    &attr,
                    Generation(0),
                )
            });
            match result {
                Ok(()) => {
                    give_way();
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.maybe_slow(request, Op::Fsyncdir, true, move |inner| {
            done(inner.view.fsyncdir(ino.0), reply)
        });
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.here(request, Op::Statfs, |inner| match inner.view.statfs() {
            Ok(stat) => reply.statfs(
                stat.blocks,
                stat.blocks_free,
                stat.blocks_available,
                stat.files,
                stat.files_free,
                stat.block_size,
                255,
                stat.block_size,
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let how = if flags & libc::XATTR_CREATE != 0 {
            SetXattr::Create
        } else if flags & libc::XATTR_REPLACE != 0 {
            SetXattr::Replace
        } else {
            SetXattr::Any
        };
        let slow = self.inner.view.copies_much(ino.0, Extent::Metadata);
        let by = unprivileged(request).filter(|_| name == ACCESS_ACL);
        let (name, value) = (name.to_os_string(), value.to_vec());
        self.maybe_slow(request, Op::Setxattr, slow, move |inner| {
            let set = match by {
                Some(by) => inner.view.set_access_acl(ino.0, &value, how, by),
                None => inner.view.setxattr(ino.0, &name, &value, how),
            };
            done(set, reply);
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.here(request, Op::Getxattr, |inner| {
            reply_bytes(inner.view.getxattr(ino.0, name), size, reply);
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        // xattr(7): `trusted.*` is not even listed for others. The kernel checks
        // that for reading and writing only.
        let all = request.uid() == 0;
        self.here(request, Op::Listxattr, |inner| {
            let names = inner.view.listxattr(ino.0).map(|names| {
                let mut bytes = Vec::new();
                let shown = |name: &std::ffi::OsString| {
                    all || !name.as_encoded_bytes().starts_with(b"trusted.")
                };
                for name in names.into_iter().filter(shown) {
                    bytes.extend_from_slice(name.as_encoded_bytes());
                    bytes.push(0);
                }
                bytes
            });
            reply_bytes(names, size, reply);
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let slow = self.inner.view.copies_much(ino.0, Extent::Metadata);
        let name = name.to_os_string();
        self.maybe_slow(request, Op::Removexattr, slow, move |inner| {
            done(inner.view.removexattr(ino.0, &name), reply)
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.maybe_slow(request, Op::Fallocate, true, move |inner| {
            done(inner.view.fallocate(fh.0, mode, offset, length), reply);
        });
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = match whence {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        // A page that was stored to is data, on ext4 as well.
        self.after_stores(request, Op::Lseek, (ino, offset), move |inner| match inner
            .view
            .seek(fh.0, offset, whence)
        {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The answer has 32 bits.
        let length = length.min(1 << 30);
        self.maybe_slow(request, Op::CopyFileRange, true, move |inner| {
            let view = &inner.view;
            match view.copy_range(fh_in.0, offset_in, fh_out.0, offset_out, length) {
                Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn ioctl(
        &self,
        request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        self.here(request, Op::Ioctl, |_| reply.error(fuser::Errno::ENOTTY));
    }
}
