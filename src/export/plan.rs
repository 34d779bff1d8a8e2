//! What has to change in a directory so that it equals a tree.
//!
//! The directory may be the very base that the tree lies on (`unmount --apply
//! /harness`), so nothing of it may change before all that is needed of it has
//! been read: planning writes every new or changed entry, complete, into a
//! staging directory inside of it. From then on only renames and removals are
//! left, and a full disk has done no harm.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use serde::{Deserialize, Serialize};

use super::raw::{self, RawPath};
use super::wanting::Wanted;
use crate::error::{Context, Error, Result};
use crate::layer::{Stack, Visit, walk};
use crate::stage::failpoint;
use crate::sys::at::{self, SetTime, Stat};
use crate::sys::inode::Time;
use crate::sys::{copy, xattr};
use crate::tree::union::Found;
use crate::tree::{Ino, Kind};

/// A directory of the tree.
#[derive(Debug, Serialize, Deserialize)]
pub struct Dir {
    /// Where, relative to the target.
    pub path: RawPath,
    /// Its permission bits.
    pub perm: u32,
    /// Its owner and group.
    pub owner: (u32, u32),
    /// When it was last read.
    pub atime: Time,
    /// When it was last changed.
    pub mtime: Time,
    /// Its extended attributes.
    #[serde(with = "raw::xattrs")]
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// The steps that are left when all is staged.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// All directories, parents first.
    pub dirs: Vec<Dir>,
    /// Where the staged entries go, by their number in the staging directory.
    pub place: Vec<(RawPath, u64)>,
    /// What the tree does not have.
    pub remove: Vec<RawPath>,
    /// Entries that are as they should be.
    pub unchanged: u64,
    /// Attributes and devices that the disk did not take, and which.
    pub not_kept: Vec<(RawPath, String)>,
}

/// An entry's name in the staging directory.
pub fn staged_name(number: u64) -> String {
    format!("{STAGED}{number}")
}

/// How the names of staged entries begin.
pub const STAGED: &str = "staged-";

/// A name of the tree that is not a directory, and what the target has there.
struct Name {
    path: PathBuf,
    found: Found,
    there: Option<Stat>,
}

/// Plans and stages.
pub struct Planning<'a> {
    stack: &'a Stack,
    target: &'a OwnedFd,
    staging: &'a Path,
    plan: Plan,
    staged: u64,
    groups: BTreeMap<Ino, Vec<Name>>,
    /// Which directories on the way down are real ones in the target too.
    real: Vec<(PathBuf, bool)>,
    wanted: Wanted<'a>,
}

/// Sets extended attributes; returns those that the disk refuses.
pub fn set_xattrs(
    dir: &OwnedFd,
    path: &Path,
    wanted: &BTreeMap<OsString, Vec<u8>>,
) -> Result<Vec<OsString>> {
    let mut refused = Vec::new();
    for (name, value) in wanted {
        match xattr::set(dir, path, name, value, 0) {
            Err(error) if matches!(error.errno(), Errno::EOPNOTSUPP | Errno::EPERM) => {
                refused.push(name.clone());
            }
            other => other.context(|| format!("attribute {name:?}"))?,
        }
    }
    Ok(refused)
}

/// The extended attributes of what is there; SELinux labels are the disk's own.
pub fn xattrs_of(dir: &OwnedFd, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for name in xattr::list(dir, path)? {
        if name != "security.selinux"
            && let Some(value) = xattr::get(dir, path, &name)?
        {
            all.insert(name, value);
        }
    }
    Ok(all)
}

fn is_null(found: &Found) -> bool {
    found.attr.kind == Kind::CharDevice && found.attr.rdev == 0
}

fn same_content(one: OwnedFd, other: OwnedFd, wanted: Wanted<'_>) -> Result<bool> {
    let (one, other) = (File::from(one), File::from(other));
    let mut buffers = (vec![0; 128 << 10], vec![0; 128 << 10]);
    let fill = |file: &File, buffer: &mut [u8], at: u64| -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], at + filled as u64)? {
                0 => break,
                got => filled += got,
            }
        }
        Ok(filled)
    };
    let mut at = 0;
    loop {
        wanted()?;
        let got = fill(&one, &mut buffers.0, at)?;
        let others = fill(&other, &mut buffers.1, at)?;
        if buffers.0[..got] != buffers.1[..others] {
            return Ok(false);
        }
        if got == 0 {
            return Ok(true);
        }
        at += got as u64;
    }
}

impl<'a> Planning<'a> {
    /// Plans for the directory `target`, in which the directory `staging` is
    /// empty, and no part of the tree. `wanted` is asked all the time.
    pub fn new(
        stack: &'a Stack,
        target: &'a OwnedFd,
        staging: &'a Path,
        wanted: Wanted<'a>,
    ) -> Planning<'a> {
        Planning {
            stack,
            target,
            staging,
            plan: Plan::default(),
            staged: 0,
            groups: BTreeMap::new(),
            real: Vec::new(),
            wanted,
        }
    }

    /// Plans the mapped path `root`: its content, if it is a directory; or the
    /// one file `name` that it is.
    ///
    /// # Errors
    /// What the layers or the target's disk report, naming the path.
    pub fn run(mut self, root: &Path, name: Option<&OsStr>) -> Result<Plan> {
        // Where the target is the stack's base, the tree now shows it too.
        let staging = root.join(self.staging);
        walk(self.stack, root, &mut |path, found| {
            (self.wanted)()?;
            if path == staging {
                return Ok(Visit::Skip);
            }
            let inner = match name {
                Some(name) => PathBuf::from(name),
                None => path.strip_prefix(root).unwrap_or(path).to_path_buf(),
            };
            let context = path.components().skip(1).collect::<PathBuf>();
            let visited = if found.attr.is_dir() {
                self.dir(inner, found)
            } else {
                self.name(inner, found)
            };
            visited.context(|| context.display().to_string())?;
            Ok(Visit::Enter)
        })?;
        for (_, names) in std::mem::take(&mut self.groups) {
            (self.wanted)()?;
            let first = names[0].path.display().to_string();
            self.group(names).context(|| first)?;
        }
        Ok(self.plan)
    }

    /// Whether the directory that holds `path` is one in the target too.
    fn parent_is_real(&mut self, path: &Path) -> bool {
        let Some(parent) = path.parent() else {
            return true;
        };
        while let Some((dir, real)) = self.real.last() {
            if dir == parent {
                return *real;
            }
            self.real.pop();
        }
        // The one file of a mapped path lies in the target itself.
        true
    }

    fn there(&mut self, path: &Path) -> Result<Option<Stat>> {
        if !self.parent_is_real(path) {
            return Ok(None);
        }
        at::stat_if_there(self.target, path)
    }

    fn dir(&mut self, path: PathBuf, found: &Found) -> Result<()> {
        let there = self.there(&path)?;
        let real = there.is_some_and(|there| there.attr.is_dir());
        if real {
            let names = self.stack.list(&found.parts)?;
            for entry in at::list(self.target, &path)? {
                let inner = path.join(&entry.name);
                if inner != self.staging && !names.contains_key(&entry.name) {
                    self.plan.remove.push(inner.into());
                }
            }
        }
        self.real.push((path.clone(), real));
        let attr = &found.attr;
        self.plan.dirs.push(Dir {
            path: path.into(),
            perm: attr.perm,
            owner: (attr.uid, attr.gid),
            atime: attr.atime,
            mtime: attr.mtime,
            xattrs: self.xattrs(found)?,
        });
        Ok(())
    }

    fn name(&mut self, path: PathBuf, found: &Found) -> Result<()> {
        let there = self.there(&path)?;
        let found = found.clone();
        let (linked, ino) = (found.attr.nlink > 1, found.attr.ino);
        let name = Name { path, found, there };
        if linked && ino != 0 {
            self.groups.entry(ino).or_default().push(name);
            return Ok(());
        }
        self.group(vec![name])
    }

    /// All names of one inode: left alone, or made anew.
    fn group(&mut self, names: Vec<Name>) -> Result<()> {
        if self.unchanged(&names)? {
            self.plan.unchanged += names.len() as u64;
            return Ok(());
        }
        let number = self.next();
        let first = self.staged(number);
        match self.stage(&names[0], &first) {
            // An overlayfs lets nobody make what it takes for a whiteout.
            Err(error) if error.errno() == Errno::EPERM && is_null(&names[0].found) => {
                for name in names {
                    let path = RawPath::from(name.path);
                    if name.there.is_some() {
                        self.plan.remove.push(path.clone());
                    }
                    let why = "a 0:0 device, which this disk cannot hold".to_owned();
                    self.plan.not_kept.push((path, why));
                }
                return Ok(());
            }
            other => other?,
        }
        failpoint::hit("apply-in-stage");
        for (index, name) in names.into_iter().enumerate() {
            let mut number = number;
            if index > 0 {
                number = self.next();
                let further = self.staged(number);
                at::link(self.target, &first, self.target, &further)?;
            }
            self.plan.place.push((name.path.into(), number));
        }
        Ok(())
    }

    fn next(&mut self) -> u64 {
        self.staged += 1;
        self.staged
    }

    fn staged(&self, number: u64) -> PathBuf {
        self.staging.join(staged_name(number))
    }

    fn xattrs(&self, found: &Found) -> Result<BTreeMap<OsString, Vec<u8>>> {
        let mut all = self.stack.xattrs(found)?;
        all.remove(OsStr::new("security.selinux"));
        Ok(all)
    }

    fn unchanged(&self, names: &[Name]) -> Result<bool> {
        let mut inodes = HashMap::new();
        for name in names {
            let Some(there) = &name.there else {
                return Ok(false);
            };
            let (is, wanted) = (&there.attr, &name.found.attr);
            let metadata = is.kind == wanted.kind
                && (is.perm == wanted.perm || is.kind == Kind::Symlink)
                && (is.uid, is.gid, is.mtime) == (wanted.uid, wanted.gid, wanted.mtime)
                && (is.kind != Kind::File || is.size == wanted.size)
                && is.rdev == wanted.rdev;
            if !metadata || xattrs_of(self.target, &name.path)? != self.xattrs(&name.found)? {
                return Ok(false);
            }
            inodes.insert((there.dev, there.ino), is.nlink);
        }
        let name = &names[0];
        let Some(there) = &name.there else {
            return Ok(false);
        };
        if inodes.len() > 1 {
            return Ok(false);
        }
        // A file of the base in its own place has all the names it should have,
        // some of them maybe outside of the tree.
        let links = there.attr.nlink as usize == names.len();
        match name.found.attr.kind {
            Kind::File => {
                let source = self.stack.open(&name.found)?;
                let stat = at::fstat(&source)?;
                if (stat.dev, stat.ino) == (there.dev, there.ino) {
                    return Ok(true);
                }
                // Builds that pin all times leave files of equal size and time
                // with other content: only a look inside tells.
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let there = at::open(self.target, &name.path, flags, 0)?;
                Ok(links && same_content(source, there, self.wanted)?)
            }
            Kind::Symlink => {
                let target = at::readlink(self.target, &name.path)?;
                Ok(links && target == self.stack.readlink(&name.found)?)
            }
            _ => Ok(links),
        }
    }

    /// Makes a complete copy in the staging directory.
    fn stage(&mut self, name: &Name, to: &Path) -> Result<()> {
        let (stack, target, found) = (self.stack, self.target, &name.found);
        let attr = &found.attr;
        match attr.kind {
            Kind::File => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
                let file = at::open(target, to, flags, 0o600)?;
                let source = stack.open(found)?;
                copy::file_while(&source, &file, attr.size, self.wanted)?;
                let size = at::fstat(&file)?.attr.size;
                if size < attr.size && !found.marks.metacopy {
                    let what = "it became shorter while it was read";
                    return Err(Error::new(Errno::EIO, what));
                }
                if size != attr.size {
                    nix::unistd::ftruncate(&file, attr.size.cast_signed())?;
                }
            }
            Kind::Symlink => at::symlink(&stack.readlink(found)?, target, to)?,
            kind => at::mknod(target, to, kind, 0o600, attr.rdev)?,
        }
        at::chown(target, to, Some(attr.uid), Some(attr.gid))?;
        if attr.kind != Kind::Symlink {
            at::chmod(target, to, attr.perm)?;
        }
        for refused in set_xattrs(target, to, &self.xattrs(found)?)? {
            let why = format!("its extended attribute {}", refused.to_string_lossy());
            self.plan.not_kept.push((name.path.clone().into(), why));
        }
        let (atime, mtime) = (SetTime::To(attr.atime), SetTime::To(attr.mtime));
        at::utimens(target, to, atime, mtime)
    }
}
