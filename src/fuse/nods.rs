//! Tells those who watch a view of what was not done through it.
//!
//! The kernel reports to inotify(7) what system calls do, and nothing of what a
//! filesystem says by itself: not of entries and content that it was told to forget
//! (fs/fuse/dir.c, `fuse_reverse_inval_entry`). So this thread makes the call that
//! would have done it, through the view's own mount, and the adapter nods to the
//! requests that come of it and does nothing: it *is* done. What everybody sees
//! is the same before and after.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use parking_lot::{Mutex, MutexGuard};

use crate::error::Result;
use crate::stage::{Event, Happening};
use crate::sys::at::{self, SetTime};
use crate::tree::{Attr, Ino, Kind, Time};
use crate::view;

/// How often one is tried: others may look a name up just before.
const ATTEMPTS: usize = 3;
/// Numbers for what is not there any more and has to be removed: never given to a file.
static NEXT_GHOST: AtomicU64 = AtomicU64::new(u64::MAX);

/// What is being told at the moment, and by which thread.
#[derive(Debug, Default)]
pub(super) struct Nods {
    /// Its number, as requests have it; 0 for none.
    thread: AtomicU32,
    told: Mutex<Option<(Event, Kind)>>,
    /// For the one who tells.
    turn: Mutex<()>,
}

impl Nods {
    /// What is being told by the thread that a request comes from.
    pub fn to(&self, thread: u32) -> Option<(Event, Kind)> {
        match self.thread.load(Ordering::Acquire) {
            0 => None,
            teller if teller == thread => *self.told.lock(),
            _ => None,
        }
    }

    /// From here on the requests of this thread are nodded to.
    pub fn tell(&self) -> Teller<'_> {
        let turn = self.turn.lock();
        let thread = nix::unistd::gettid().as_raw();
        self.thread.store(thread.cast_unsigned(), Ordering::Release);
        Teller {
            nods: self,
            _turn: turn,
        }
    }
}

/// Something to remove that is not there.
pub(super) fn ghost(kind: Kind) -> Attr {
    Attr {
        ino: NEXT_GHOST.fetch_sub(1, Ordering::Relaxed),
        kind,
        nlink: 1,
        ..view::missing()
    }
}

/// The thread that tells.
pub(super) struct Teller<'a> {
    nods: &'a Nods,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        self.nods.thread.store(0, Ordering::Release);
        *self.nods.told.lock() = None;
    }
}

impl Teller<'_> {
    /// Tells one thing, through the mount at `root`. `forget` makes the kernel
    /// forget a name in a directory.
    ///
    /// # Errors
    /// As the system calls.
    pub fn happening(
        &self,
        root: &Path,
        happening: &Happening,
        forget: impl Fn(Ino, &Path),
    ) -> Result<()> {
        let (parent, name) = happening.place();
        *self.nods.told.lock() = None;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = at::open(nix::fcntl::AT_FDCWD, root, flags, 0)?;
        let dir = open(&root, parent, flags)?;
        let (event, kind) = (happening.event, happening.kind);
        *self.nods.told.lock() = Some((event, kind));
        let mut attempt = 1;
        loop {
            let done = match event {
                Event::Removed | Event::Unnamed if kind == Kind::Dir => at::rmdir(&dir, name),
                Event::Removed | Event::Unnamed => at::unlink(&dir, name),
                Event::Made => make(&dir, name, kind),
                Event::Changed => Ok(()),
                Event::Attributes => touch(&dir, name, kind),
            };
            match done {
                // What the kernel has cached meanwhile is right, and in the way.
                Err(error)
                    if attempt < ATTEMPTS
                        && matches!(error.errno(), Errno::EEXIST | Errno::ENOENT) =>
                {
                    attempt += 1;
                    forget(at::fstat(&dir)?.ino, name);
                }
                done => {
                    done?;
                    break;
                }
            }
        }
        if kind == Kind::File && matches!(event, Event::Made | Event::Changed) {
            *self.nods.told.lock() = Some((Event::Changed, kind));
            write(&dir, name)?;
        }
        Ok(())
    }
}

/// Opens something of the view, and nothing else: what has taken its place since
/// may be a symbolic link or a mount, and lead anywhere.
fn open(dir: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let within = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(within);
    Ok(openat2(dir, path, how)?)
}

fn make(dir: &OwnedFd, name: &Path, kind: Kind) -> Result<()> {
    match kind {
        Kind::Dir => at::mkdir(dir, name, 0o700),
        Kind::Symlink => at::symlink("nowhere".as_ref(), dir, name),
        kind => at::mknod(dir, name, kind, 0o600, 0),
    }
}

/// Opens, changes and closes a file, as who writes it does.
fn write(dir: &OwnedFd, name: &Path) -> Result<()> {
    let file = match open(dir, name, OFlag::O_WRONLY | OFlag::O_NONBLOCK) {
        // A program that runs, say (`ETXTBSY`).
        Err(_) => open(dir, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?,
        opened => opened?,
    };
    // Alone it counts as a change of the content (fsnotify_change, include/linux/fsnotify.h).
    at::futimens(&file, SetTime::Keep, SetTime::To(Time::default()))
}

/// Changes attributes. Of what is opened with consequences it is not told.
fn touch(dir: &OwnedFd, name: &Path, kind: Kind) -> Result<()> {
    if !matches!(kind, Kind::File | Kind::Dir) {
        return Ok(());
    }
    let any = SetTime::To(Time::default());
    let file = open(dir, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    at::futimens(&file, any, any)
}
