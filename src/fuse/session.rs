//! A view's FUSE session: its mount, its thread, its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use fuser::{INodeNo, Notifier, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::filesystem::{Adapter, Negotiated};
use super::modes::Modes;
use super::nods::Nods;
use super::stats::Stats;
use super::workers::Workers;
use crate::error::{Context, Error, Result};
use crate::stage::{Happening, Invalidation, Options, Session, Sessions, watches};
use crate::sys::connection::Abort;
use crate::sys::mountinfo;
use crate::tree::Ino;
use crate::view::View;

/// `OVERLAYFS_SUPER_MAGIC` (linux/magic.h).
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
/// Threads for requests that may take long.
const WORKERS: usize = 4;
/// How long requests may take to be answered after the unmount.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it takes the kernel to end a session that nobody uses, with the
/// releases of files that have just been closed.
const SETTLE: Duration = Duration::from_millis(200);

/// What failed where the kernel gives no more threads, and what to do.
const NO_THREAD: &str =
    "start the threads that serve a view (see the pids limit of the cgroup, and `ulimit -u`)";

/// How to serve a view.
#[derive(Clone, Debug)]
pub struct FuseOptions {
    /// What `mount` shows as the source.
    pub source: String,
    /// Let the kernel read and write files of the open layer by itself.
    pub passthrough: bool,
}

/// A mounted view.
#[derive(Debug)]
pub struct FuseSession {
    at: PathBuf,
    view: Arc<View>,
    connection: u64,
    abort: Arc<Aborting>,
    notifier: Notifier,
    stats: Arc<Stats>,
    modes: Arc<Modes>,
    nods: Arc<Nods>,
    negotiated: Arc<Negotiated>,
    ended: Receiver<()>,
}

/// The end of a connection that does not end by itself.
#[derive(Debug)]
struct Aborting {
    at: PathBuf,
    connection: u64,
    abort: Option<Abort>,
    /// It was not left to end by itself.
    done: AtomicBool,
}

impl Aborting {
    /// Whoever waits for an answer gets an error.
    fn abort(&self) {
        self.done.store(true, Ordering::Release);
        let aborted = match &self.abort {
            Some(abort) => abort.abort(),
            // umount2(2): of FUSE it ends the connection, with what is in flight.
            None => nix::mount::umount2(&self.at, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH)
                .map_err(Error::from),
        };
        if let Err(error) = aborted {
            log::warn!("abort of connection {}: {error}", self.connection);
        }
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

/// Mounts a view at an existing directory and serves it on a thread of its own.
///
/// # Errors
/// `ENOENT` without `/dev/fuse`, `EPERM` without the right to mount, `EAGAIN`
/// where no more threads can be had, or as mount(2).
pub fn mount(view: Arc<View>, at: &Path, options: &FuseOptions) -> Result<FuseSession> {
    mount_with(view, at, options, MsFlags::empty())
}

/// [`mount`] with the flags of mount(2).
///
/// # Errors
/// As there.
pub fn mount_with(
    view: Arc<View>,
    at: &Path,
    options: &FuseOptions,
    flags: MsFlags,
) -> Result<FuseSession> {
    let device: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context(|| "/dev/fuse")?
        .into();
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    nix::mount::mount(
        Some(options.source.as_str()),
        at,
        Some("fuse.harness-fs"),
        flags,
        Some(data.as_str()),
    )
    .context(|| format!("mount {}", at.display()))?;
    serve(view, at, options, device).inspect_err(|_| {
        let _ = nix::mount::umount2(at, MntFlags::MNT_DETACH);
    })
}

fn serve(
    view: Arc<View>,
    at: &Path,
    options: &FuseOptions,
    device: OwnedFd,
) -> Result<FuseSession> {
    let connection = connection_of(at)?;
    let abort = Arc::new(Aborting {
        at: at.to_path_buf(),
        connection,
        // Where it may not be looked at, the session ends without.
        abort: Abort::of(&connection.to_string())
            .inspect_err(|error| log::warn!("{error}"))
            .ok(),
        done: AtomicBool::new(false),
    });
    let stats = Arc::new(Stats::new(WORKERS));
    let workers = Workers::start(WORKERS, &stats).context(|| NO_THREAD)?;
    let on_overlay = nix::sys::statfs::statfs(&view.open_layer_path())
        .is_ok_and(|stat| stat.filesystem_type().0.cast_unsigned() == OVERLAYFS_MAGIC);
    let negotiated = Arc::new(Negotiated::default());
    let modes = Arc::new(Modes::default());
    let adapter = Adapter::new(
        view.clone(),
        stats.clone(),
        workers,
        modes.clone(),
        negotiated.clone(),
        options.passthrough && !view.is_live(),
        if on_overlay { 2 } else { 1 },
    );
    let notifier_slot = adapter.notifier_slot();
    let nods = adapter.inner.nods.clone();
    let mut config = fuser::Config::default();
    config.acl = SessionACL::All;
    let session = fuser::Session::from_fd(adapter, device, SessionACL::All, config)?;
    let notifier = session.notifier();
    read_ahead_further(connection);
    let _ = notifier_slot.set(notifier.clone());
    let (end, ended) = bounded(1);
    let aborting = abort.clone();
    std::thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            if let Err(error) = session.run()
                && !aborting.is_done()
            {
                log::error!("nobody serves {} any more: {error}", aborting.at.display());
                // Others hold the device open, so the kernel would go on waiting.
                aborting.abort();
            }
            let _ = end.send(());
        })
        .context(|| NO_THREAD)?;
    // The thread that serves is started after INIT has been answered. Without it
    // this is the first request to fail.
    std::fs::symlink_metadata(at).map_err(|_| Error::from(Errno::EAGAIN).context(NO_THREAD))?;
    Ok(FuseSession {
        at: at.to_path_buf(),
        view,
        connection,
        abort,
        notifier,
        stats,
        modes,
        nods,
        negotiated,
        ended,
    })
}

/// Lets the kernel read ahead as much as one request can carry, in KiB. FUSE's
/// own limit at INIT is the device's default of 128 KiB; this is the knob of
/// Documentation/ABI/testing/sysfs-class-bdi, which some containers cannot reach.
fn read_ahead_further(connection: u64) {
    let knob = format!("/sys/class/bdi/0:{connection}/read_ahead_kb");
    if let Err(error) = std::fs::write(&knob, "1024") {
        log::debug!("{knob}: {error}");
    }
}

/// The number of the FUSE connection behind a mount: the minor number of its
/// device (fusectl, Documentation/filesystems/fuse.rst). Read from mountinfo,
/// because a stat would ask the very session that is not served yet.
fn connection_of(at: &Path) -> Result<u64> {
    let at =
        std::fs::canonicalize(at.parent().unwrap_or(at))?.join(at.file_name().unwrap_or_default());
    let mounts = mountinfo::own()?;
    let ours = mounts.iter().rev().find(|mount| mount.at == at);
    ours.and_then(|mount| mount.minor()?.parse().ok())
        .ok_or_else(|| {
            Error::new(
                Errno::ENOENT,
                format!("{} is not in mountinfo", at.display()),
            )
        })
}

/// Tells the kernel what to forget; that it knows nothing of it is no error.
fn tell(notifier: &Notifier, change: &Invalidation) -> Result<()> {
    let told = match change {
        Invalidation::Entry { parent, name } => notifier.inval_entry(INodeNo(*parent), name),
        Invalidation::Inode(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
    };
    match told {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            Err(Error::from(error).context(format_args!("{change:?}")))
        }
        _ => Ok(()),
    }
}

/// Has dirty pages written back: the kernel does so, and waits for it, before it
/// drops pages (fuse_reverse_inval_inode and fuse_launder_folio, fs/fuse/).
fn collect(notifier: &Notifier, inodes: Vec<Ino>) -> Result<()> {
    inodes
        .into_iter()
        .try_for_each(|ino| tell(notifier, &Invalidation::Inode(ino)))
}

/// Mounts the views of a stage.
#[derive(Debug)]
pub struct FuseSessions {
    options: FuseOptions,
}

impl FuseSessions {
    /// Serves views as the stage's options say; `source` is what `mount` shows.
    pub fn new(options: &Options, source: String) -> FuseSessions {
        FuseSessions {
            options: FuseOptions {
                source,
                passthrough: options.passthrough,
            },
        }
    }
}

impl Sessions for FuseSessions {
    fn mount(&self, view: Arc<View>, at: &Path, _name: &str) -> Result<Box<dyn Session>> {
        Ok(Box::new(mount(view, at, &self.options)?))
    }
}

impl FuseSession {
    /// The number under `/sys/fs/fuse/connections`.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// [`Session::collect_mapped`], but not for ever: a request that hangs would
    /// hold it up, and only the abort ends such.
    fn collect_in_time(&self) {
        let (end, ended) = bounded(1);
        let (notifier, inodes) = (self.notifier.clone(), self.view.writable());
        let asked = std::thread::Builder::new()
            .name("collect".into())
            .spawn(move || {
                let result = collect(&notifier, inodes);
                let _ = end.send(result);
            });
        let result = asked.map_err(Error::from).and_then(|_| {
            let waited = ended.recv_timeout(PATIENCE);
            waited.unwrap_or_else(|_| Err(Errno::ETIMEDOUT.into()))
        });
        if let Err(error) = result {
            log::warn!("{}: what was mapped is lost: {error}", self.at.display());
        }
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let waited = self.ended.recv_timeout(limit);
        waited != Err(crossbeam_channel::RecvTimeoutError::Timeout)
    }

    /// Waits until nothing is mounted any more and nobody uses it, or it was aborted.
    pub fn wait(&self) {
        let _ = self.ended.recv();
    }

    /// The view it serves.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }
}

impl Session for FuseSession {
    fn unmount(&self) -> Result<()> {
        match nix::mount::umount2(&self.at, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(Error::from(errno).context(self.at.display())),
        }
        if self.ends_within(SETTLE) {
            return Ok(());
        }
        if !self.abort.is_done() {
            // Somebody is still in it. What is in a mapping is as good as
            // written, to who mapped it, and what was asked for already is
            // answered.
            self.collect_in_time();
            let deadline = Instant::now() + PATIENCE;
            while self.stats.oldest().is_some() && Instant::now() < deadline {
                if self.ends_within(SETTLE) {
                    return Ok(());
                }
            }
            log::info!("{}: aborted, somebody still uses it", self.at.display());
            self.abort();
        }
        if !self.ends_within(PATIENCE) {
            log::warn!("{}: does not end", self.at.display());
        }
        Ok(())
    }

    fn held(&self) -> Vec<Ino> {
        // The kernel releases every file before a session ends by itself, even
        // if we were not told of the last ones.
        match self.abort.is_done() {
            true => self.modes.all_written_past_us(),
            false => Vec::new(),
        }
    }

    fn abort(&self) {
        self.abort.abort();
    }

    fn invalidate(&self, changes: Vec<Invalidation>) -> Result<()> {
        // All of them, whatever becomes of one.
        let told = changes.iter().map(|change| tell(&self.notifier, change));
        told.fold(Ok(()), Result::and)
    }

    fn watched(&self) -> BTreeSet<Ino> {
        watches::watched(self.connection)
    }

    fn announce(&self, happenings: &[Happening]) {
        if happenings.is_empty() {
            return;
        }
        let teller = self.nods.tell();
        let forget = |parent: Ino, name: &Path| {
            let _ = self.notifier.inval_entry(INodeNo(parent), name.as_os_str());
        };
        for happening in happenings {
            if let Err(error) = teller.happening(&self.at, happening, forget) {
                log::debug!("{happening:?} is not told: {error}");
            }
        }
    }

    fn collect_mapped(&self) -> Result<()> {
        collect(&self.notifier, self.view.writable())
    }

    fn requests(&self) -> BTreeMap<String, u64> {
        self.stats.requests()
    }

    fn oldest_request(&self) -> Option<Duration> {
        self.stats.oldest()
    }

    fn transport(&self) -> String {
        self.negotiated.describe()
    }
}
