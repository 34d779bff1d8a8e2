//! Unpacking one OCI layer into a layer of the stage.
//!
//! The archive is not trusted. A member is placed only below a directory that
//! this archive itself has made in the new layer, so nothing is ever written
//! through a symbolic link or outside of it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::LeftOut;
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

/// How a directory is held on to.
const DIR: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);

/// A directory that the archive has made.
struct Dir {
    ino: Ino,
    /// It is set when everything is in it.
    mtime: Time,
    /// It has a default ACL (acl(5)).
    passes_on: bool,
}

/// The directory that the last member went to. The next one often goes there
/// too, or below, and looking a long path up anew for each takes its time.
struct Here {
    path: PathBuf,
    id: Id,
    dir: OwnedFd,
}

impl Here {
    fn root(open: &OpenLayer) -> Result<Here> {
        Ok(Here {
            path: PathBuf::new(),
            id: Paths::NONE,
            dir: at::open(open, Path::new(TREE), DIR, 0)?,
        })
    }

    /// What of a path, the directory itself or one below it, follows here.
    fn rest<'b>(&self, path: &'b Path) -> Option<&'b Path> {
        if self.path.as_os_str().is_empty() {
            return Some(path);
        }
        // By bytes: both are in their shortest form, and may be long.
        let all = path.as_os_str().as_bytes();
        let rest = all.strip_prefix(self.path.as_os_str().as_bytes())?;
        let rest = match rest {
            [] => rest,
            [b'/', rest @ ..] => rest,
            _ => return None,
        };
        Some(Path::new(OsStr::from_bytes(rest)))
    }
}

/// Which path of the image is which of the stage, as the layers have it: the index
/// of a mapped path, and what follows. None lies in another.
pub type Mapping = Vec<(PathBuf, PathBuf)>;

/// What an image may not bring that is not the user's own.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Devices, set-id bits and capabilities are welcome all the same.
    pub trusting: bool,
    /// What was left out, or taken from an entry, and why.
    pub told: BTreeSet<LeftOut>,
    /// Entries that were left out, as the layer would have them.
    pub skipped: HashSet<PathBuf>,
}

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
    here: Option<Here>,
    /// Directories that only lead to where the image belongs.
    above: HashSet<Id>,
    /// Of what is not trusted.
    refusals: Option<&'a mut Refusals>,
    /// Paths of the image that are passed over.
    ignored: &'a [PathBuf],
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
    /// It is passed over.
    Ignored,
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
            here: None,
            above: HashSet::new(),
            refusals: None,
            ignored: &[],
        }
    }

    /// The same, from an image that is not trusted: `refusals` gets what it may not bring.
    #[must_use]
    pub fn wary(mut self, refusals: Option<&'a mut Refusals>) -> Unpacking<'a> {
        self.refusals = refusals;
        self
    }

    /// The same, but passes over all at and below these paths of the image.
    #[must_use]
    pub fn without(mut self, ignored: &'a [PathBuf]) -> Unpacking<'a> {
        self.ignored = ignored;
        self
    }

    /// Makes the directories that lead to the places of the image. Their attributes
    /// and numbers are the caller's to set.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn lead_there(&mut self) -> Result<()> {
        for (_, inner) in self.mapping {
            let mut above: Vec<&Path> = inner.ancestors().skip(1).collect();
            above.retain(|path| !path.as_os_str().is_empty());
            for path in above.into_iter().rev() {
                let id = self.paths.number(path);
                if self.above.insert(id) {
                    at::mkdir_if_missing(self.open, &Path::new(TREE).join(path), 0o755)?;
                    let dir = Dir {
                        ino: 0,
                        mtime: Time::default(),
                        passes_on: false,
                    };
                    self.dirs.insert(id, dir);
                }
            }
        }
        Ok(())
    }

    /// Unpacks all members. Returns the names of hard-linked files.
    ///
    /// # Errors
    /// `EINVAL` with one sentence for what an archive must not hold, or what
    /// the disk reports.
    pub fn run(mut self, tar: &mut TarReader<impl Read>) -> Result<HashMap<Id, Ino>> {
        while let Some(mut member) = tar.next_member()? {
            let shown = member.shown();
            self.member(tar, &mut member).context(|| shown)?;
        }
        self.set_times()?;
        Ok(self.names)
    }

    /// Goes to a directory that the archive has made, or to the layer's root;
    /// `None` if it has made no such directory.
    fn enter(&mut self, path: &Path) -> Result<Option<Id>> {
        let last = self.here.take();
        let last = last.and_then(|here| here.rest(path).map(|rest| (rest, here)));
        let (rest, here) = match last {
            Some(last) => last,
            None => (path, Here::root(self.open)?),
        };
        let mut id = here.id;
        for name in rest {
            match self.paths.find_in(id, name) {
                Some(inner) if self.dirs.contains_key(&inner) => id = inner,
                _ => return Ok(None),
            }
        }
        let dir = match rest.as_os_str().is_empty() {
            true => here.dir,
            false => at::open(&here.dir, rest, DIR, 0)?,
        };
        let path = path.to_path_buf();
        self.here = Some(Here { path, id, dir });
        Ok(Some(id))
    }

    /// Gives the directories their times, from the innermost outwards. Each is one
    /// step from the one before: looking all of a long path up takes its time.
    fn set_times(&self) -> Result<()> {
        let mut inner: HashMap<Id, Vec<Id>> = HashMap::new();
        for id in self.dirs.keys() {
            if let Some((dir, _)) = self.paths.entry(*id) {
                inner.entry(dir).or_default().push(*id);
            }
        }
        let name = |id| {
            let entry = self.paths.entry(id);
            Path::new(entry.map_or(OsStr::new(""), |(_, name)| name))
        };
        let mut here = Here::root(self.open)?.dir;
        let mut open = vec![(Paths::NONE, inner.remove(&Paths::NONE).unwrap_or_default())];
        while let Some((id, left)) = open.last_mut() {
            if let Some(next) = left.pop() {
                here = at::open(&here, name(next), DIR, 0)?;
                open.push((next, inner.remove(&next).unwrap_or_default()));
                continue;
            }
            if let Some(dir) = self.dirs.get(id) {
                here = at::open(&here, Path::new(".."), DIR, 0)?;
                let time = match self.above.contains(id) {
                    true => SetTime::Keep,
                    false => SetTime::To(dir.mtime),
                };
                at::utimens(&here, name(*id), time, time)
                    .context(|| self.paths.path(*id).display().to_string())?;
            }
            open.pop();
        }
        Ok(())
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
        let mut above = false;
        for (root, place) in self.mapping {
            if let Ok(inner) = path.strip_prefix(root) {
                let mut place = place.clone();
                place.extend(inner);
                return Ok(Place::At(place));
            }
            above |= root.starts_with(&path);
        }
        let ignored = |root: &PathBuf| path.starts_with(root) || root.starts_with(&path);
        match above {
            true => Ok(Place::Above),
            false if self.ignored.iter().any(ignored) => Ok(Place::Ignored),
            false => Err(refuse("it lies outside of the mapped paths")),
        }
    }

    fn member(&mut self, tar: &mut TarReader<impl Read>, member: &mut Member) -> Result<()> {
        if self.refusals.is_none() {
            for name in member.xattrs.keys() {
                if name.as_bytes().starts_with(b"trusted.") {
                    let why = format!("the attribute {name:?}, which an archive must not set");
                    return Err(refuse(why));
                }
            }
        }
        let path = match self.place(&member.path)? {
            Place::At(path) => path,
            Place::Ignored => return Ok(()),
            Place::Above if member.what == What::Dir => return Ok(()),
            Place::Above => return Err(refuse("it lies above the mapped paths")),
        };
        if self.is_refused(member, &path)? {
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default().as_bytes();
        let parent = path.parent().unwrap_or(Path::new(""));
        let is_mapped = parent.as_os_str().is_empty();
        let is_root = is_mapped || self.mapping.iter().any(|(_, root)| *root == path);
        let Some(dir) = self.enter(parent)? else {
            let why = "it comes before its directory, or lies in what is none";
            return Err(refuse(why));
        };
        let inherits = self.dirs.get(&dir).is_some_and(|dir| dir.passes_on);
        if let Some(deleted) = name.strip_prefix(WHITEOUT) {
            if is_root {
                return Err(refuse("a mapped path cannot be deleted"));
            }
            return self.marker(member, parent, name, deleted);
        }
        let root = matches!(member.what, What::Dir | What::File(_) | What::HardLink(_));
        if is_mapped && !root {
            return Err(refuse("a mapped path is a directory or a file"));
        }
        self.make(tar, member, &path, inherits)
    }

    /// Takes from a member what it may not bring; true if nothing is left of it.
    fn is_refused(&mut self, member: &mut Member, place: &Path) -> Result<bool> {
        let target = match &member.what {
            What::HardLink(target) => match self.place(target)? {
                Place::At(target) => Some(target),
                _ => None,
            },
            _ => None,
        };
        let Some(refusals) = &mut self.refusals else {
            return Ok(false);
        };
        let path = PathBuf::from("/").join(OsStr::from_bytes(&member.path));
        let mut tell = |why: String| {
            let path = path.clone();
            refusals.told.insert(LeftOut { path, why });
        };
        let trusting = refusals.trusting;
        let is_device =
            !trusting && matches!(member.what, What::CharDevice(_) | What::BlockDevice(_));
        if is_device || target.is_some_and(|target| refusals.skipped.contains(&target)) {
            tell("a device".to_owned());
            refusals.skipped.insert(place.to_path_buf());
            return Ok(true);
        }
        let names: Vec<OsString> = member.xattrs.keys().cloned().collect();
        for name in names {
            let capability = name == "security.capability" && !trusting;
            if capability || name.as_bytes().starts_with(b"trusted.") {
                tell(format!("its extended attribute {}", name.to_string_lossy()));
                member.xattrs.remove(&name);
            }
        }
        if !trusting && matches!(member.what, What::File(_) | What::HardLink(_)) {
            let mut bits = 0;
            if member.uid == 0 {
                bits |= member.perm & 0o4000;
            }
            // Without the bit to run it, setgid marks mandatory locks (inode(7)).
            if member.gid == 0 {
                bits |= member.perm & 0o2000;
            }
            if bits != 0 {
                let what = match bits {
                    0o4000 => "setuid",
                    0o2000 => "setgid",
                    _ => "setuid and setgid",
                };
                tell(format!("that it is {what}, root's"));
                member.perm &= !bits;
            }
        }
        Ok(false)
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
            let here = self.here.as_ref().map(|here| here.id);
            let Some(Dir { ino, .. }) = here.and_then(|id| self.dirs.get(&id)) else {
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
        let Some(here) = &self.here else {
            return Err(refuse("it lies in no directory"));
        };
        let (dir, name) = (&here.dir, place.file_name().unwrap_or_default());
        let path = Path::new(name);
        let ino = self.inos.allocate();
        let number = |marked| set_ino(dir, path, ino, marked);
        match &member.what {
            What::File(size) => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
                let file = at::open(dir, path, flags, 0o600).map_err(twice)?;
                write_content(tar, file.into(), *size)?;
                number(false)?;
            }
            What::Symlink(target) => {
                let target = OsStr::from_bytes(target);
                at::symlink(target, dir, path).map_err(twice)?;
                number(false)?;
            }
            What::Dir => {
                at::mkdir(dir, path, 0o700).map_err(twice)?;
                number(false)?;
                let dir = Dir {
                    ino,
                    mtime: member.mtime,
                    passes_on: member.xattrs.contains_key(OsStr::new(INHERITED)),
                };
                self.dirs.insert(self.paths.number_in(here.id, name), dir);
            }
            What::Fifo => self.node(place, Kind::Fifo, 0, ino).map_err(twice)?,
            What::CharDevice(rdev) => {
                // A user's own 0:0 becomes a marked file, which O_EXCL guards;
                // xattrs that are set on it later leave the mark alone.
                self.node(place, Kind::CharDevice, *rdev, ino)
                    .map_err(twice)?;
            }
            What::BlockDevice(rdev) => {
                self.node(place, Kind::BlockDevice, *rdev, ino)
                    .map_err(twice)?;
            }
            What::HardLink(_) => {}
        }
        if inherits && !matches!(member.what, What::Symlink(_)) {
            disinherit(dir, path)?;
        }
        dress(member, dir, path)
    }

    fn node(&self, place: &Path, kind: Kind, rdev: u64, ino: Ino) -> Result<()> {
        make_node(self.open, &Path::new(TREE).join(place), kind, rdev, ino)
    }

    fn link(&mut self, target: &Path, place: &Path) -> Result<()> {
        let bad = |why: &'static str| Err(refuse(why));
        let parent = target.parent().unwrap_or(Path::new(""));
        let dir = self.paths.find(parent);
        let made = dir.is_some_and(|dir| self.dirs.contains_key(&dir));
        if !parent.as_os_str().is_empty() && !made {
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
}

/// Takes away the ACLs that an entry got because of where it was made.
fn disinherit(dir: &OwnedFd, path: &Path) -> Result<()> {
    for name in [INHERITED, "system.posix_acl_access"] {
        match xattr::remove(dir, path, name) {
            Err(error) if matches!(error.errno(), Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            other => other.context(|| format!("attribute {name}"))?,
        }
    }
    Ok(())
}

/// Owner, mode, attributes, time; in this order, since a change of owner
/// clears the set-id bits and the capabilities.
fn dress(member: &Member, dir: &OwnedFd, path: &Path) -> Result<()> {
    at::chown(dir, path, Some(member.uid), Some(member.gid))?;
    if !matches!(member.what, What::Symlink(_)) {
        at::chmod(dir, path, member.perm)?;
    }
    for (name, value) in &member.xattrs {
        attribute(member, dir, path, name, value)?;
    }
    let time = SetTime::To(member.mtime);
    at::utimens(dir, path, time, time)
}

fn attribute(
    member: &Member,
    dir: &OwnedFd,
    path: &Path,
    name: &OsString,
    value: &[u8],
) -> Result<()> {
    if name == "security.selinux" {
        return Ok(());
    }
    match xattr::set(dir, path, name, value, 0) {
        Err(error) if error.errno() == Errno::EOPNOTSUPP => {
            log::warn!("{}: {name:?} cannot be kept on this disk", member.shown());
            Ok(())
        }
        other => other.context(|| format!("attribute {name:?}")),
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
