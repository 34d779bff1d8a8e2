//! Unpacking one OCI layer into a layer of the stage.
//!
//! The archive is not trusted. A member is placed only below a directory that
//! this archive itself has made in the new layer, so nothing is ever written
//! through a symbolic link or outside of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::content::{OPAQUE, WHITEOUT};
use super::paths::{Id, Paths};
use super::tar::{Member, What};
use super::untar::TarReader;
use crate::error::{Context, Error, Result};
use crate::layer::copy_up::make_node;
use crate::layer::{Inos, OpenLayer, TREE, set_ino};
use crate::sys::at::{self, SetTime};
use crate::sys::xattr;
use crate::tree::union::Entry;
use crate::tree::{Ino, Kind, Time, marker};

/// What every new entry of a directory gets, unless that is taken from it again.
const INHERITED: &str = "system.posix_acl_default";

/// A directory that the archive has made.
struct Dir {
    ino: Ino,
    /// It is set when everything is in it.
    mtime: Time,
    /// It has a default ACL (acl(5)).
    passes_on: bool,
}

/// Which mapped path of the image is which of the stage, longest first.
pub type Mapping = Vec<(PathBuf, usize)>;

/// One layer being unpacked.
pub struct Unpacking<'a> {
    open: &'a OpenLayer,
    mapping: &'a Mapping,
    inos: &'a Inos,
    paths: &'a mut Paths,
    /// By path without `tree/`, as all here.
    dirs: HashMap<Id, Dir>,
    /// Names of inodes with several.
    names: HashMap<Id, Ino>,
}

fn refuse(why: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Errno::EINVAL, why)
}

/// A place in the new layer.
enum Place {
    /// Inside a mapped path, relative to the layer's root.
    At(PathBuf),
    /// A directory above a mapped path.
    Above,
}

impl<'a> Unpacking<'a> {
    /// Into `open`, which is empty.
    pub fn new(
        open: &'a OpenLayer,
        mapping: &'a Mapping,
        inos: &'a Inos,
        paths: &'a mut Paths,
    ) -> Unpacking<'a> {
        Unpacking {
            open,
            mapping,
            inos,
            paths,
            dirs: HashMap::new(),
            names: HashMap::new(),
        }
    }

    /// Unpacks all members. Returns the names of hard-linked files.
    ///
    /// # Errors
    /// `EINVAL` with one sentence for what an archive must not hold, or what
    /// the disk reports.
    pub fn run(mut self, tar: &mut TarReader<impl Read>) -> Result<HashMap<Id, Ino>> {
        while let Some(member) = tar.next_member()? {
            self.member(tar, &member).context(|| member.shown())?;
        }
        for (id, dir) in &self.dirs {
            let path = self.paths.path(*id);
            let time = SetTime::To(dir.mtime);
            at::utimens(self.open, &Path::new(TREE).join(&path), time, time)
                .context(|| path.display().to_string())?;
        }
        Ok(self.names)
    }

    fn dir(&self, path: &Path) -> Option<&Dir> {
        self.dirs.get(&self.paths.find(path)?)
    }

    /// Where a name of the archive belongs.
    fn place(&self, name: &[u8]) -> Result<Place> {
        if name.first() == Some(&b'/') {
            return Err(refuse("an absolute name"));
        }
        if name.contains(&0) {
            return Err(refuse("a name with a NUL in it"));
        }
        let mut path = PathBuf::from("/");
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(refuse("a name that leads upwards")),
                component => path.push(OsStr::from_bytes(component)),
            }
        }
        for (root, index) in self.mapping {
            if let Ok(inner) = path.strip_prefix(root) {
                let mut place = PathBuf::from(index.to_string());
                place.extend(inner);
                return Ok(Place::At(place));
            }
            if root.starts_with(&path) {
                return Ok(Place::Above);
            }
        }
        Err(refuse("it lies outside of the mapped paths"))
    }

    fn member(&mut self, tar: &mut TarReader<impl Read>, member: &Member) -> Result<()> {
        for name in member.xattrs.keys() {
            if name.as_bytes().starts_with(b"trusted.") {
                let why = format!("the attribute {name:?}, which an archive must not set");
                return Err(refuse(why));
            }
        }
        let path = match self.place(&member.path)? {
            Place::At(path) => path,
            Place::Above if member.what == What::Dir => return Ok(()),
            Place::Above => return Err(refuse("it lies above the mapped paths")),
        };
        let name = path.file_name().unwrap_or_default().as_bytes();
        let parent = path.parent().unwrap_or(Path::new(""));
        let is_root = parent.as_os_str().is_empty();
        let dir = self.dir(parent);
        if !is_root && dir.is_none() {
            let why = "it comes before its directory, or lies in what is none";
            return Err(refuse(why));
        }
        let inherits = dir.is_some_and(|dir| dir.passes_on);
        if let Some(deleted) = name.strip_prefix(WHITEOUT) {
            if is_root {
                return Err(refuse("a mapped path cannot be deleted"));
            }
            return self.marker(member, parent, name, deleted);
        }
        let root = matches!(member.what, What::Dir | What::File(_) | What::HardLink(_));
        if is_root && !root {
            return Err(refuse("a mapped path is a directory or a file"));
        }
        self.make(tar, member, &path, inherits)
    }

    /// A whiteout or the mark of an opaque directory.
    fn marker(&self, member: &Member, dir: &Path, name: &[u8], deleted: &[u8]) -> Result<()> {
        if member.what != What::File(0) {
            return Err(refuse("a marker that is not an empty file"));
        }
        if name == OPAQUE {
            if dir.components().count() < 2 {
                return Err(refuse("a mapped path cannot be opaque"));
            }
            let Some(Dir { ino, .. }) = self.dir(dir) else {
                return Err(refuse("a marker outside of all directories"));
            };
            let path = Path::new(TREE).join(dir);
            let value = OsStr::new("y");
            return self.open.mark(&path, *ino, marker::OPAQUE, value);
        }
        let empty = deleted.is_empty() || deleted == b"." || deleted == b"..";
        if empty || deleted.starts_with(WHITEOUT) {
            return Err(refuse("a marker that is not known"));
        }
        let path = Path::new(TREE).join(dir).join(OsStr::from_bytes(deleted));
        if at::stat_if_there(self.open, &path)?.is_some() {
            return Err(refuse("the archive has this name twice"));
        }
        self.open.whiteout_file(&path)
    }

    /// Makes one entry. All calls fail on a name that is there.
    fn make(
        &mut self,
        tar: &mut TarReader<impl Read>,
        member: &Member,
        place: &Path,
        inherits: bool,
    ) -> Result<()> {
        let path = Path::new(TREE).join(place);
        let twice = |error: Error| match error.errno() {
            Errno::EEXIST => refuse("the archive has this name twice"),
            _ => error,
        };
        if let What::HardLink(target) = &member.what {
            let Place::At(target) = self.place(target)? else {
                return Err(refuse("a hard link to a directory"));
            };
            return self.link(&target, place).map_err(twice);
        }
        let ino = self.inos.allocate();
        let number = |marked| set_ino(self.open, &path, ino, marked);
        match &member.what {
            What::File(size) => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
                let file = at::open(self.open, &path, flags, 0o600).map_err(twice)?;
                write_content(tar, file.into(), *size)?;
                number(false)?;
            }
            What::Symlink(target) => {
                let target = OsStr::from_bytes(target);
                at::symlink(target, self.open, &path).map_err(twice)?;
                number(false)?;
            }
            What::Dir => {
                at::mkdir(self.open, &path, 0o700).map_err(twice)?;
                number(false)?;
                let dir = Dir {
                    ino,
                    mtime: member.mtime,
                    passes_on: member.xattrs.contains_key(OsStr::new(INHERITED)),
                };
                self.dirs.insert(self.paths.number(place), dir);
            }
            What::Fifo => make_node(self.open, &path, Kind::Fifo, 0, ino).map_err(twice)?,
            What::CharDevice(rdev) => {
                // A user's own 0:0 becomes a marked file, which O_EXCL guards;
                // xattrs that are set on it later leave the mark alone.
                make_node(self.open, &path, Kind::CharDevice, *rdev, ino).map_err(twice)?;
            }
            What::BlockDevice(rdev) => {
                make_node(self.open, &path, Kind::BlockDevice, *rdev, ino).map_err(twice)?;
            }
            What::HardLink(_) => {}
        }
        if inherits && !matches!(member.what, What::Symlink(_)) {
            self.disinherit(&path)?;
        }
        self.dress(member, &path)
    }

    /// Takes away the ACLs that an entry got because of where it was made.
    fn disinherit(&self, path: &Path) -> Result<()> {
        for name in [INHERITED, "system.posix_acl_access"] {
            match xattr::remove(self.open, path, name) {
                Err(error) if matches!(error.errno(), Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                other => other.context(|| format!("attribute {name}"))?,
            }
        }
        Ok(())
    }

    fn link(&mut self, target: &Path, place: &Path) -> Result<()> {
        let bad = |why: &'static str| Err(refuse(why));
        let parent = target.parent().unwrap_or(Path::new(""));
        if !parent.as_os_str().is_empty() && self.dir(parent).is_none() {
            return bad("a hard link to what is not in the archive before it");
        }
        let ino = match self.open.entry(target)? {
            Some(Entry::Present(attr, _)) if !attr.is_dir() => attr.ino,
            Some(Entry::Present(..)) => return bad("a hard link to a directory"),
            _ => return bad("a hard link to what is not in the archive before it"),
        };
        let (from, to) = (Path::new(TREE).join(target), Path::new(TREE).join(place));
        at::link(self.open, &from, self.open, &to)?;
        for name in [target, place] {
            self.names.insert(self.paths.number(name), ino);
        }
        Ok(())
    }

    /// Owner, mode, attributes, time; in this order, since a change of owner
    /// clears the set-id bits and the capabilities.
    fn dress(&self, member: &Member, path: &Path) -> Result<()> {
        at::chown(self.open, path, Some(member.uid), Some(member.gid))?;
        if !matches!(member.what, What::Symlink(_)) {
            at::chmod(self.open, path, member.perm)?;
        }
        for (name, value) in &member.xattrs {
            self.attribute(member, path, name, value)?;
        }
        let time = SetTime::To(member.mtime);
        at::utimens(self.open, path, time, time)
    }

    fn attribute(&self, member: &Member, path: &Path, name: &OsString, value: &[u8]) -> Result<()> {
        if name == "security.selinux" {
            return Ok(());
        }
        match xattr::set(self.open, path, name, value, 0) {
            Err(error) if error.errno() == Errno::EOPNOTSUPP => {
                log::warn!("{}: {name:?} cannot be kept on this disk", member.shown());
                Ok(())
            }
            other => other.context(|| format!("attribute {name:?}")),
        }
    }
}

/// Writes a file's content; long runs of zeros become holes, as they were
/// before the archive, which has none, wrote them out.
fn write_content(tar: &mut impl Read, file: std::fs::File, size: u64) -> Result<()> {
    let mut buffer = vec![0_u8; 64 << 10];
    let mut at = 0;
    while at < size {
        let want = usize::try_from((size - at).min(buffer.len() as u64)).unwrap_or(0);
        let mut filled = 0;
        while filled < want {
            let got = tar.read(&mut buffer[filled..want])?;
            if got == 0 {
                return Err(refuse("the archive ends in the middle of it"));
            }
            filled += got;
        }
        if want < buffer.len() || buffer.iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&file, &buffer[..want], at)?;
        }
        at += want as u64;
    }
    file.set_len(size)?;
    Ok(())
}
