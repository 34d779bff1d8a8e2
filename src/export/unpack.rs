//! Unpacking one OCI layer into a layer of the stage.
//!
//! The archive is not trusted. A member is placed only below a directory that
//! this archive itself has made in the new layer, so nothing is ever written
//! through a symbolic link or outside of it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::content::{OPAQUE, WHITEOUT};
use super::tar::{Member, What};
use super::untar::TarReader;
use crate::error::{Context, Error, Result};
use crate::layer::copy_up::make_node;
use crate::layer::{Inos, OpenLayer, TREE, set_ino};
use crate::sys::at::{self, SetTime};
use crate::sys::xattr;
use crate::tree::union::Entry;
use crate::tree::{Ino, Kind, marker};

/// How deep directories may lie: removing a tree holds one open on each level,
/// and an import that fails removes what it made.
const MAX_DEPTH: usize = 500;

/// A directory whose attributes are set when everything is in it.
struct Dir {
    ino: Ino,
    member: Member,
}

/// Which mapped path of the image is which of the stage, longest first.
pub type Mapping = Vec<(PathBuf, usize)>;

/// One layer being unpacked.
pub struct Unpacking<'a> {
    open: &'a OpenLayer,
    mapping: &'a Mapping,
    inos: &'a Inos,
    dirs: HashMap<PathBuf, Dir>,
    /// Names of inodes with several, by path without `tree/`.
    names: HashMap<PathBuf, Ino>,
}

fn refuse(member: &Member, why: &str) -> Error {
    Error::new(Errno::EINVAL, format!("{}: {why}", member.shown()))
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
    pub fn new(open: &'a OpenLayer, mapping: &'a Mapping, inos: &'a Inos) -> Unpacking<'a> {
        Unpacking {
            open,
            mapping,
            inos,
            dirs: HashMap::new(),
            names: HashMap::new(),
        }
    }

    /// Unpacks all members. Returns the names of hard-linked files.
    ///
    /// # Errors
    /// `EINVAL` with one sentence for what an archive must not hold, or what
    /// the disk reports.
    pub fn run(mut self, tar: &mut TarReader<impl Read>) -> Result<HashMap<PathBuf, Ino>> {
        while let Some(member) = tar.next_member()? {
            self.member(tar, &member)?;
        }
        for (path, dir) in &self.dirs {
            let path = Path::new(TREE).join(path);
            self.dress(&dir.member, &path)
                .context(|| dir.member.shown())?;
        }
        Ok(self.names)
    }

    /// Where a name of the archive belongs.
    fn place(&self, member: &Member, name: &[u8]) -> Result<Place> {
        if name.first() == Some(&b'/') {
            return Err(refuse(member, "an absolute name"));
        }
        if name.contains(&0) {
            return Err(refuse(member, "a name with a NUL in it"));
        }
        let mut path = PathBuf::from("/");
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(refuse(member, "a name that leads upwards")),
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
        Err(refuse(member, "it lies outside of the mapped paths"))
    }

    fn member(&mut self, tar: &mut TarReader<impl Read>, member: &Member) -> Result<()> {
        for name in member.xattrs.keys() {
            if name.as_bytes().starts_with(b"trusted.") {
                let why = format!("the attribute {name:?}, which an archive must not set");
                return Err(refuse(member, &why));
            }
        }
        let path = match self.place(member, &member.path)? {
            Place::At(path) => path,
            Place::Above if member.what == What::Dir => return Ok(()),
            Place::Above => return Err(refuse(member, "it lies above the mapped paths")),
        };
        let name = path.file_name().unwrap_or_default().as_bytes();
        let parent = path.parent().unwrap_or(Path::new(""));
        let is_root = parent.as_os_str().is_empty();
        if !is_root && !self.dirs.contains_key(parent) {
            let why = "it comes before its directory, or lies in what is none";
            return Err(refuse(member, why));
        }
        if path.components().count() > MAX_DEPTH {
            return Err(refuse(member, "it lies too deep"));
        }
        if let Some(deleted) = name.strip_prefix(WHITEOUT) {
            if is_root {
                return Err(refuse(member, "a mapped path cannot be deleted"));
            }
            return self.marker(member, parent, name, deleted);
        }
        let root = matches!(member.what, What::Dir | What::File(_) | What::HardLink(_));
        if is_root && !root {
            return Err(refuse(member, "a mapped path is a directory or a file"));
        }
        self.make(tar, member, &path).context(|| member.shown())
    }

    /// A whiteout or the mark of an opaque directory.
    fn marker(&self, member: &Member, dir: &Path, name: &[u8], deleted: &[u8]) -> Result<()> {
        if member.what != What::File(0) {
            return Err(refuse(member, "a marker that is not an empty file"));
        }
        if name == OPAQUE {
            if dir.components().count() < 2 {
                return Err(refuse(member, "a mapped path cannot be opaque"));
            }
            let ino = self.dirs[dir].ino;
            let path = Path::new(TREE).join(dir);
            let value = OsStr::new("y");
            return self.open.mark(&path, ino, marker::OPAQUE, value);
        }
        let empty = deleted.is_empty() || deleted == b"." || deleted == b"..";
        if empty || deleted.starts_with(WHITEOUT) {
            return Err(refuse(member, "a marker that is not known"));
        }
        let path = Path::new(TREE).join(dir).join(OsStr::from_bytes(deleted));
        if at::stat_if_there(self.open, &path)?.is_some() {
            return Err(refuse(member, "the archive has this name twice"));
        }
        self.open.whiteout_file(&path).context(|| member.shown())
    }

    /// Makes one entry. All calls fail on a name that is there.
    fn make(
        &mut self,
        tar: &mut TarReader<impl Read>,
        member: &Member,
        place: &Path,
    ) -> Result<()> {
        let path = Path::new(TREE).join(place);
        let twice = |error: Error| match error.errno() {
            Errno::EEXIST => Error::new(Errno::EINVAL, "the archive has this name twice"),
            _ => error,
        };
        if let What::HardLink(target) = &member.what {
            let Place::At(target) = self.place(member, target)? else {
                return Err(Error::new(Errno::EINVAL, "a hard link to a directory"));
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
                let member = member.clone();
                self.dirs.insert(place.to_path_buf(), Dir { ino, member });
                return Ok(());
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
        self.dress(member, &path)
    }

    fn link(&mut self, target: &Path, place: &Path) -> Result<()> {
        let bad = |why| Err(Error::new(Errno::EINVAL, why));
        let parent = target.parent().unwrap_or(Path::new(""));
        if !parent.as_os_str().is_empty() && !self.dirs.contains_key(parent) {
            return bad("a hard link to what is not in the archive before it");
        }
        let ino = match self.open.entry(target)? {
            Some(Entry::Present(attr, _)) if !attr.is_dir() => attr.ino,
            Some(Entry::Present(..)) => return bad("a hard link to a directory"),
            _ => return bad("a hard link to what is not in the archive before it"),
        };
        let (from, to) = (Path::new(TREE).join(target), Path::new(TREE).join(place));
        at::link(self.open, &from, self.open, &to)?;
        self.names.insert(target.to_path_buf(), ino);
        self.names.insert(place.to_path_buf(), ino);
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
                let what = "the archive ends in the middle of it";
                return Err(Error::new(Errno::EINVAL, what));
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
