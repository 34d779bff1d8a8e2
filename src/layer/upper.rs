//! The open layer of an overlay: the user's own upper directory, in the kernel's format, and a
//! place in the work directory for what only an open layer needs.
//!
//! That place holds `tree`, a symbolic link to where the upper directory lies, so the paths of an
//! open layer lead into it, under the upper directory's own name: `tree/upper/…`. Both are reached
//! through one clone of the mount that holds them, because rename(2) does not go from mount to
//! mount; and whatever is mounted over them later, the overlay itself perhaps, is not in it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};

use super::open::{LinkState, Manner, OpenLayer, TREE};
use super::seal::write_links;
use super::{DiskNumbers, DiskTree, Inos, Stack};
use crate::error::{Context, Error, Result};
use crate::sys::{at, mount, xattr};
use crate::tree::{Ino, Kind, marker};

/// What is ours in a work directory.
const OWN: &str = "harness-fs";

/// An upper and a work directory.
#[derive(Debug)]
pub struct Scratch {
    /// What both lie in.
    root: OwnedFd,
    upper: PathBuf,
    work: PathBuf,
}

impl Scratch {
    /// Takes hold of two directories, by their absolute paths without symbolic links. Neither lies
    /// in the other.
    ///
    /// # Errors
    /// `EXDEV` where they do not lie on one mount, or as open_tree(2).
    pub fn new(upper: &Path, work: &Path) -> Result<Scratch> {
        let common: PathBuf = upper
            .components()
            .zip(work.components())
            .take_while(|(one, other)| one == other)
            .map(|(one, _)| one)
            .collect();
        let root =
            mount::clone_mount(AT_FDCWD, &common).context(|| common.display().to_string())?;
        mount::make_private(&root)?;
        let below = |path: &Path| path.strip_prefix(&common).map(Path::to_path_buf);
        let (Ok(upper_below), Ok(work_below)) = (below(upper), below(work)) else {
            return Err(Errno::EINVAL.into());
        };
        for (path, below) in [(upper, &upper_below), (work, &work_below)] {
            let seen = at::stat(AT_FDCWD, path)?;
            let there = at::stat_if_there(&root, below)?;
            if there.is_none_or(|there| (there.dev, there.ino) != (seen.dev, seen.ino)) {
                let text = format!(
                    "upperdir {} and workdir {} do not lie on one mount, and files are moved from one to the other",
                    upper.display(),
                    work.display()
                );
                return Err(Error::new(Errno::EXDEV, text));
            }
        }
        Ok(Scratch {
            root,
            upper: upper_below,
            work: work_below,
        })
    }

    /// The upper directory's name, which its paths begin with.
    pub fn name(&self) -> &OsStr {
        self.upper.file_name().unwrap_or_default()
    }

    /// Opens the upper directory.
    ///
    /// # Errors
    /// As openat(2).
    pub fn upper(&self) -> Result<OwnedFd> {
        at::open_dir(&self.root, &self.upper)
    }

    /// Opens the work directory.
    ///
    /// # Errors
    /// As openat(2).
    pub fn work(&self) -> Result<OwnedFd> {
        at::open_dir(&self.root, &self.work)
    }

    /// Whether the work directory holds what a mount has left that did not come to its end.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn is_left(&self) -> Result<bool> {
        Ok(at::stat_if_there(&self.root, &self.own())?.is_some())
    }

    fn own(&self) -> PathBuf {
        self.work.join(OWN)
    }

    /// The open layer, with what a mount has left that did not come to its end.
    ///
    /// # Errors
    /// As mkdir(2), symlink(2) and mknod(2).
    pub fn open(&self, manner: Manner, inos: Arc<Inos>) -> Result<OpenLayer> {
        let own = self.own();
        at::mkdir_if_missing(&self.root, &own, 0o755)?;
        let dir = at::open_dir(&self.root, &own)?;
        let parent = self.upper.parent().unwrap_or(Path::new(""));
        let up = own.components().map(|_| Path::new(".."));
        let target: PathBuf = up.chain([parent]).collect();
        at::remove_all(&dir, Path::new(TREE))?;
        at::symlink(target.as_os_str(), &dir, Path::new(TREE))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let manner = Manner {
            foreign: true,
            ..manner
        };
        OpenLayer::around(&path, dir, manner, self.name().into(), |_, whiteouts| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            let root = match parent.as_os_str().is_empty() {
                true => at::dup(&self.root)?,
                false => at::open(&self.root, parent, flags, 0)?,
            };
            let device = at::stat(&self.root, &self.upper)?.dev;
            let numbers = Arc::new(DiskNumbers::of_upper(inos, device));
            Ok(DiskTree::of_upper(root, whiteouts, numbers))
        })
    }

    /// Removes what only an open layer needs.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn sweep(&self) -> Result<()> {
        at::remove_all(&self.root, &self.own())
    }
}

impl OpenLayer {
    /// An open layer in `dir`, a directory of nobody else, that is not to be written. `room` is
    /// what is asked how much room there is.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn unwritten(dir: OwnedFd, room: OwnedFd) -> Result<OpenLayer> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let manner = Manner {
            read_only: true,
            ..Manner::default()
        };
        let (start, tree) = (PathBuf::new(), OpenLayer::plain_tree);
        let layer = OpenLayer::around(&path, dir, manner, start, tree)?;
        Ok(layer.with_room(room))
    }

    /// Counts the names of a file of the tree to which somebody else has given several, so that it
    /// is found whichever of them are gone. Returns whether that can be.
    ///
    /// # Errors
    /// As fstatat(2) and linkat(2).
    pub fn adopt(&self, path: &Path, ino: Ino) -> Result<bool> {
        let from = Path::new(TREE).join(path);
        let mut failed = Ok(());
        let counted = self.change_link_state(ino, |known| {
            if known.is_some() {
                return known;
            }
            let count = || -> Result<u32> {
                let nlink = at::stat(self, &from)?.attr.nlink;
                match at::link(self, &from, self, &OpenLayer::index_path(ino)) {
                    // From an attempt that was not written down.
                    Err(error) if error.errno() == Errno::EEXIST => Ok(nlink - 1),
                    linked => linked.map(|()| nlink),
                }
            };
            let nlink = count().map_err(|error| failed = Err(error)).ok()?;
            Some(LinkState {
                nlink,
                origin: 0,
                here: true,
            })
        })?;
        match failed {
            // link(2): the disk gives it no further name.
            Err(error) if error.errno() == Errno::EMLINK => Ok(false),
            failed => failed.map(|()| counted.is_some()),
        }
    }
}

/// Leaves an upper directory as the kernel's overlayfs would: every name of a file that was
/// copied up leads to it, and nothing on an entry is ours. `stack` is what lies below. Nobody
/// writes any more; it can be repeated.
///
/// # Errors
/// What the disk reports.
pub fn settle(open: &OpenLayer, stack: &Stack) -> Result<()> {
    write_links(open, stack).context(|| "hard links")?;
    let root = Path::new(TREE).join(open.start());
    let mut dirs = vec![root.clone()];
    forget_number(open, &root)?;
    while let Some(dir) = dirs.pop() {
        for entry in at::list(open, &dir)? {
            let path = dir.join(&entry.name);
            forget_number(open, &path)?;
            let kind = match entry.kind {
                Some(kind) => kind,
                None => at::stat(open, &path)?.attr.kind,
            };
            if kind == Kind::Dir {
                dirs.push(path);
            }
        }
    }
    Ok(())
}

fn forget_number(open: impl AsFd, path: &Path) -> Result<()> {
    if xattr::get(&open, path, marker::INO)?.is_some() {
        xattr::remove(&open, path, marker::INO).context(|| path.display().to_string())?;
    }
    Ok(())
}
