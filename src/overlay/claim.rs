//! Directories are used by one mount at a time, and one that did not come to its end is noticed.
//!
//! While it is mounted, the upper directory carries the mark [`marker::IN_USE`], and in the work
//! directory a file says whose it is. flock(2) on the directories themselves keeps others out; the
//! kernel lets go of it however the process ends. So a mark that nobody holds is of a mount that
//! was killed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize};

use super::{Config, Upper};
use crate::error::{Context, Error, Result};
use crate::layer::Scratch;
use crate::sys::connection::Abort;
use crate::sys::{at, mountinfo, xattr};
use crate::tree::marker::IN_USE;
use crate::tree::shown::shown;

/// How long a mount before may take to put its upper directory in order.
const ORDER: Duration = Duration::from_secs(60);
/// How long one may take to notice that it is not mounted any more, if something has its number.
const NOTICE: Duration = Duration::from_secs(5);
/// In what is ours in the work directory: whose it is.
const OWNER: &str = "harness-fs/owner";

/// Directories that nobody else uses.
#[derive(Debug)]
pub struct Claim {
    locks: Vec<Flock<File>>,
    upper: Option<OwnedFd>,
    work: PathBuf,
}

/// The mark on an upper directory.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    #[serde(with = "crate::tree::shown")]
    work: PathBuf,
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
enum State {
    Starting,
    Mounted {
        #[serde(with = "crate::tree::shown")]
        at: PathBuf,
        /// The number of its FUSE connection.
        connection: u64,
    },
    Ending,
}

/// What the work directory is used with.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    #[serde(with = "crate::tree::shown")]
    upper: PathBuf,
    #[serde(with = "crate::tree::shown::all")]
    lower: Vec<PathBuf>,
}

impl Owner {
    fn of(config: &Config, upper: &Upper) -> Owner {
        Owner {
            upper: upper.dir.clone(),
            lower: config.lower.clone(),
        }
    }
}

/// What has to be done before an upper directory can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// A mount did not come to its end.
    Unsettled,
}

impl Claim {
    /// Locks the directories of a mount; `lower` are the lower ones, opened.
    ///
    /// # Errors
    /// `EBUSY` when another one uses them.
    pub fn lock(config: &Config, lower: &[OwnedFd], scratch: Option<&Scratch>) -> Result<Claim> {
        let mut claim = Claim {
            locks: Vec::new(),
            upper: None,
            work: PathBuf::new(),
        };
        for (dir, root) in config.lower.iter().zip(lower) {
            // Several may read it.
            claim.take(
                at::open_dir(root, Path::new(""))?.into(),
                FlockArg::LockSharedNonblock,
                "lowerdir",
                dir,
            )?;
        }
        if let (Some(upper), Some(scratch)) = (&config.upper, scratch) {
            let exclusive = FlockArg::LockExclusiveNonblock;
            claim.take(scratch.upper()?.into(), exclusive, "upperdir", &upper.dir)?;
            claim.take(scratch.work()?.into(), exclusive, "workdir", &upper.work)?;
            claim.upper = Some(scratch.upper()?);
            claim.work.clone_from(&upper.work);
        }
        Ok(claim)
    }

    fn take(&mut self, mut file: File, how: FlockArg, name: &str, dir: &Path) -> Result<()> {
        let begun = Instant::now();
        loop {
            let errno = match Flock::lock(file, how) {
                Ok(lock) => {
                    self.locks.push(lock);
                    return Ok(());
                }
                Err((back, errno)) => {
                    file = back;
                    errno
                }
            };
            if errno != Errno::EWOULDBLOCK {
                // Some network filesystems have no such lock for what cannot be written.
                if how == FlockArg::LockSharedNonblock {
                    return Ok(());
                }
                let text = format!("lock {name} {}: {}", shown(dir), errno.desc());
                return Err(Error::new(errno, text));
            }
            if begun.elapsed() > patience(&file)? {
                let text = format!(
                    "{name} {} is in use by another mount of harness-fs: unmount that first",
                    shown(dir)
                );
                return Err(Error::new(Errno::EBUSY, text));
            }
            // flock(2) has no timeout.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Looks at what is left of a mount before, and sweeps what is left of one that never was.
    ///
    /// # Errors
    /// One sentence, where the directories were last used in another way.
    pub fn look(&self, config: &Config, upper: &Upper, scratch: &Scratch) -> Result<Left> {
        let own = Owner::of(config, upper);
        let root = scratch.upper()?;
        let mark = xattr::get(&root, Path::new(""), IN_USE)?;
        if scratch.is_left()? {
            match owner(&scratch.work()?)? {
                Some(owner) if owner.upper != own.upper => {
                    let text = format!(
                        "workdir {} holds what is left of a mount with upperdir {} that did not end well: mount that \
                         once more, or remove {}/harness-fs",
                        shown(&upper.work),
                        shown(&owner.upper),
                        shown(&upper.work)
                    );
                    return Err(Error::new(Errno::EBUSY, text));
                }
                Some(owner) if mark.is_some() => check_left(&owner, &own, upper, scratch)?,
                // Nothing had been done in it, or all was done.
                _ => scratch.sweep()?,
            }
        } else if let Some(mark) = &mark {
            elsewhere(mark, &own, upper)?;
        }
        Ok(match mark {
            Some(_) => Left::Unsettled,
            None => Left::Nothing,
        })
    }

    /// Marks the directories as this mount's.
    ///
    /// # Errors
    /// As openat(2), write(2) and lsetxattr(2).
    pub fn begin(&self, config: &Config, upper: &Upper, scratch: &Scratch) -> Result<()> {
        let work = scratch.work()?;
        at::mkdir_if_missing(&work, Path::new("harness-fs"), 0o755).context(|| "workdir")?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let mut file = File::from(at::open(&work, Path::new(OWNER), flags, 0o600)?);
        file.write_all(&serde_json::to_vec(&Owner::of(config, upper))?)?;
        // It has to be there when the mark is.
        file.sync_all()?;
        self.mark(State::Starting)
    }

    fn mark(&self, state: State) -> Result<()> {
        let Some(upper) = &self.upper else {
            return Ok(());
        };
        let work = self.work.clone();
        let mark = serde_json::to_vec(&Mark { work, state })?;
        xattr::set(upper, Path::new(""), IN_USE, &mark, 0).map_err(|error| {
            let text = match error.errno() {
                Errno::EOPNOTSUPP => {
                    "the filesystem of upperdir has no trusted.* attributes, which an overlay needs"
                        .to_owned()
                }
                _ => format!("upperdir: {error}"),
            };
            Error::new(error.errno(), text)
        })
    }

    /// It is mounted. Whoever wants the directories now is told so.
    pub fn mounted(&self, at: &Path, connection: u64) {
        let at = at.to_path_buf();
        if let Err(error) = self.mark(State::Mounted { at, connection }) {
            log::warn!("{error}");
        }
    }

    /// It is not mounted any more. Whoever wants the directories now waits a little.
    pub fn ending(&self) {
        if let Err(error) = self.mark(State::Ending) {
            log::warn!("{error}");
        }
    }

    /// All is in order; nothing tells any more that it was mounted.
    ///
    /// # Errors
    /// As lremovexattr(2).
    pub fn end(&self) -> Result<()> {
        match &self.upper {
            Some(upper) => xattr::remove(upper, Path::new(""), IN_USE),
            None => Ok(()),
        }
    }
}

/// The mark on a directory, if there is one that makes sense.
fn mark_on(dir: impl AsFd) -> Result<Option<Mark>> {
    let mark = xattr::get(dir, Path::new(""), IN_USE)?;
    Ok(mark.and_then(|mark| serde_json::from_slice(&mark).ok()))
}

/// How long to wait for a directory that somebody has locked.
fn patience(dir: &File) -> Result<Duration> {
    let Some(Mark { state, .. }) = mark_on(dir)? else {
        // It starts, or ends, or is somebody's lower directory.
        return Ok(NOTICE);
    };
    let State::Mounted { at, connection } = state else {
        return Ok(ORDER);
    };
    let number = connection.to_string();
    let there = |mount: &mountinfo::Mount| {
        mount.at == at && mountinfo::is_ours(&mount.kind) && mount.minor() == Some(&number)
    };
    if mountinfo::own()?.iter().any(there) {
        return Ok(Duration::ZERO);
    }
    // In another mount namespace, perhaps; or the number is another's by now.
    Ok(match Abort::of(&number) {
        Ok(_) => NOTICE,
        Err(_) => ORDER,
    })
}

fn owner(work: &OwnedFd) -> Result<Option<Owner>> {
    let mut text = Vec::new();
    match at::open(work, Path::new(OWNER), OFlag::O_RDONLY, 0) {
        Err(error) if error.errno() == Errno::ENOENT => return Ok(None),
        file => File::from(file?).read_to_end(&mut text)?,
    };
    Ok(serde_json::from_slice(&text).ok())
}

/// Sees that what is left can be put in order: it refers to what lies below.
fn check_left(left: &Owner, own: &Owner, upper: &Upper, scratch: &Scratch) -> Result<()> {
    let lower = |owner: &Owner| {
        let all: Vec<_> = owner.lower.iter().map(|dir| shown(dir)).collect();
        all.join(":")
    };
    if left.lower != own.lower {
        let text = format!(
            "upperdir {} is left of a mount that did not end well: mount it once more as it was, with lowerdir={}",
            shown(&upper.dir),
            lower(left)
        );
        return Err(Error::new(Errno::EBUSY, text));
    }
    let work = scratch.work()?;
    let since = at::stat(&work, Path::new(OWNER))?.attr.mtime;
    let kernels = at::stat_if_there(&work, Path::new("work"))?;
    if kernels.is_some_and(|kernels| {
        (kernels.attr.ctime.sec, kernels.attr.ctime.nsec) > (since.sec, since.nsec)
    }) {
        let text = format!(
            "upperdir {} is left of a mount that did not end well, and the kernel's overlay has used it since: remove \
             {}/harness-fs, with what was changed of files with several names, to use it nevertheless",
            shown(&upper.dir),
            shown(&upper.work)
        );
        return Err(Error::new(Errno::EBUSY, text));
    }
    Ok(())
}

/// Sees whether another work directory still holds what belongs to this upper directory.
fn elsewhere(mark: &[u8], own: &Owner, upper: &Upper) -> Result<()> {
    let Ok(Mark { work, .. }) = serde_json::from_slice(mark) else {
        return Ok(());
    };
    let there = at::open_dir(nix::fcntl::AT_FDCWD, &work).and_then(|there| owner(&there));
    match there {
        Ok(Some(owner)) if owner.upper == own.upper => {
            let text = format!(
                "upperdir {} is left of a mount that did not end well: mount it once more with workdir={}",
                shown(&upper.dir),
                shown(&work)
            );
            Err(Error::new(Errno::EBUSY, text))
        }
        _ => Ok(()),
    }
}
