//! One layer of a stack as an OCI layer: which members, in which order.
//!
//! The rules are those of the image specification's `layer.md`: a deletion is
//! an empty file `.wh.<name>`, an opaque directory holds `.wh..wh..opq`, and
//! both come before their siblings. What the image format does not know, a
//! redirect and a copy of metadata only, is written out in full. A user's own
//! 0:0 character device is written as that: it survives our import, but other
//! tools unpack it into what the kernel takes for a deletion.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::LeftOut;
use super::chunked::Archive;
use super::guard::Guard;
use super::sparse::SparseReader;
use super::tar::{Member, What};
use crate::error::{Context, Error, Result};
use crate::layer::{Stack, Visit, walk};
use crate::tree::union::{self, Entry, Found, Part};
use crate::tree::{Ino, Kind};

/// Begins the names of markers.
pub const WHITEOUT: &[u8] = b".wh.";
/// The marker of an opaque directory.
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// What was found worth telling.
#[derive(Debug, Default)]
pub struct Findings {
    /// Kept in by the guard.
    pub secrets: BTreeSet<LeftOut>,
    /// What the format cannot hold.
    pub left_out: BTreeSet<LeftOut>,
}

/// Where a directory's members come from.
#[derive(Clone, Debug)]
enum Source {
    /// The layer's own entries.
    Own {
        /// Nothing of lower layers shows here.
        covered: bool,
    },
    /// All that the layers up to this one show: a redirect, written out.
    United(Vec<Part>),
    /// Only further names of hard-linked files.
    Further,
}

/// One layer on its way into an archive.
pub struct LayerContent<'a> {
    /// All layers.
    whole: &'a Stack,
    /// The layers up to this one.
    stack: Stack,
    index: usize,
    /// The lowest layer that is exported.
    first: usize,
    mapped: &'a [PathBuf],
    guard: &'a Guard,
    findings: &'a mut Findings,
    /// Names, by directory, that are written besides the layer's own.
    further: BTreeMap<PathBuf, BTreeSet<OsString>>,
    /// The first name that was written of each inode with several.
    links: HashMap<Ino, Vec<u8>>,
    parents: BTreeSet<Vec<u8>>,
}

struct Listed {
    whiteouts: Vec<OsString>,
    entries: std::vec::IntoIter<(PathBuf, Found, Source, bool)>,
}

impl<'a> LayerContent<'a> {
    /// The layer `index` of `stack`, of which the layers from `first` up are
    /// exported.
    pub fn new(
        stack: &'a Stack,
        index: usize,
        first: usize,
        mapped: &'a [PathBuf],
        guard: &'a Guard,
        findings: &'a mut Findings,
    ) -> LayerContent<'a> {
        LayerContent {
            whole: stack,
            stack: stack.below(index + 1),
            index,
            first,
            mapped,
            guard,
            findings,
            further: BTreeMap::new(),
            links: HashMap::new(),
            parents: BTreeSet::new(),
        }
    }

    /// Writes all members.
    ///
    /// # Errors
    /// What the layers and the archive report, naming the path.
    pub fn write(mut self, tar: &mut Archive<'_>) -> Result<()> {
        self.find_further_names()?;
        let mut order: Vec<usize> = (0..self.mapped.len()).collect();
        order.sort_by_key(|index| self.mapped[*index].as_os_str().as_bytes());
        let own = Source::Own { covered: false };
        let roots = self.list(Path::new(""), &own)?;
        let mut roots: HashMap<PathBuf, _> = roots
            .entries
            .map(|(path, found, source, opaque)| (path, (found, source, opaque)))
            .collect();
        for index in order {
            let path = PathBuf::from(index.to_string());
            if let Some((found, source, opaque)) = roots.remove(&path) {
                self.tree(tar, path, found, source, opaque)?;
            }
        }
        Ok(())
    }

    /// Writes an entry and all that shows below it.
    ///
    /// # Errors
    /// As [`LayerContent::write`].
    pub(super) fn united(
        &mut self,
        tar: &mut Archive<'_>,
        path: &Path,
        found: &Found,
    ) -> Result<()> {
        let source = Source::United(found.parts.clone());
        self.tree(tar, path.to_path_buf(), found.clone(), source, false)
    }

    /// Writes an entry and all below it.
    fn tree(
        &mut self,
        tar: &mut Archive<'_>,
        path: PathBuf,
        found: Found,
        source: Source,
        opaque: bool,
    ) -> Result<()> {
        // Kept by hand, not by recursion: a tree may be deeper than our stack.
        let mut open = vec![vec![(path, found, source, opaque)].into_iter()];
        while let Some(level) = open.last_mut() {
            let Some((path, found, source, opaque)) = level.next() else {
                open.pop();
                continue;
            };
            if !self.entry(tar, &path, &found)? || !found.attr.is_dir() {
                continue;
            }
            let listed = self
                .list(&path, &source)
                .context(|| self.shown(&path).display().to_string())?;
            if opaque {
                self.marker(tar, &path, OPAQUE)?;
            }
            for name in &listed.whiteouts {
                self.marker(tar, &path, &[WHITEOUT, name.as_bytes()].concat())?;
            }
            open.push(listed.entries);
        }
        Ok(())
    }

    /// A path as users see it.
    pub(super) fn shown(&self, path: &Path) -> PathBuf {
        let mut components = path.components();
        let index = components.next();
        let root = index
            .and_then(|index| index.as_os_str().to_str()?.parse::<usize>().ok())
            .and_then(|index| self.mapped.get(index));
        match root {
            Some(root) if components.as_path().as_os_str().is_empty() => root.clone(),
            Some(root) => root.join(components.as_path()),
            None => path.to_path_buf(),
        }
    }

    /// A path as the archive has it: as users see it, less the first slash.
    pub(super) fn member_path(&self, path: &Path) -> Vec<u8> {
        let shown = self.shown(path).into_os_string().into_vec();
        shown
            .strip_prefix(b"/")
            .map_or(shown.clone(), <[u8]>::to_vec)
    }

    pub(super) fn marker(&self, tar: &mut Archive<'_>, dir: &Path, name: &[u8]) -> Result<()> {
        let path = [&self.member_path(dir), b"/".as_slice(), name].concat();
        tar.append(Member::plain(path, What::File(0), 0), None)
    }

    pub(super) fn leave_out(&mut self, path: &Path, why: &str) {
        let path = self.shown(path);
        let why = why.to_owned();
        self.findings.left_out.insert(LeftOut { path, why });
    }

    /// Tells that the guard keeps a file in.
    pub(super) fn hold_back(&mut self, path: &Path, why: String) {
        let path = self.shown(path);
        self.findings.secrets.insert(LeftOut { path, why });
    }

    /// An entry as the layer itself has it.
    fn own(&self, path: &Path) -> Result<Option<Entry>> {
        self.stack.layer(self.index).entry(path)
    }

    /// What a directory of the archive holds.
    fn list(&mut self, dir: &Path, source: &Source) -> Result<Listed> {
        let mut whiteouts = Vec::new();
        let mut entries = Vec::new();
        let mut names = self.further.get(dir).cloned().unwrap_or_default();
        match source {
            Source::Own { .. } => {
                // The root of a layer may be missing: it changes nothing there.
                let listed = self.stack.layer(self.index).names(dir)?;
                names.extend(listed.into_iter().map(|name| name.name));
            }
            Source::United(parts) => names.extend(self.stack.list(parts)?.into_keys()),
            Source::Further => {}
        }
        for name in names {
            let path = dir.join(&name);
            let Some((found, source, opaque)) = self.look(&path, &name, source)? else {
                if name.as_bytes().starts_with(WHITEOUT) {
                    self.leave_out(&path, "the deletion of a name that begins with .wh.");
                } else {
                    whiteouts.push(name);
                }
                continue;
            };
            if self.is_lost(&path, &found)? {
                continue;
            }
            if name.as_bytes().starts_with(WHITEOUT) {
                self.leave_out(&path, "image layers cannot hold names that begin with .wh.");
            } else if found.attr.kind == Kind::Socket {
                self.leave_out(&path, "image layers cannot hold sockets");
                if self.reappears(&path, &source)? {
                    whiteouts.push(name);
                }
            } else if let Some(why) = self.withheld(&path, &found)? {
                let shown = self.shown(&path);
                let why = why.to_owned();
                self.findings.secrets.insert(LeftOut { path: shown, why });
                if self.reappears(&path, &source)? {
                    whiteouts.push(name);
                }
            } else {
                if found.attr.kind == Kind::CharDevice && found.attr.rdev == 0 {
                    let why =
                        "by other tools than mount --from: they take a device 0:0 for a deletion";
                    self.leave_out(&path, why);
                }
                entries.push((path, found, source, opaque));
            }
        }
        Ok(Listed {
            whiteouts,
            entries: entries.into_iter(),
        })
    }

    /// One name of a directory, where its own members come from, and whether it
    /// is opaque; `None` for a deletion.
    fn look(
        &self,
        path: &Path,
        name: &OsStr,
        parent: &Source,
    ) -> Result<Option<(Found, Source, bool)>> {
        let gone = || Error::new(Errno::EIO, format!("{}: gone while read", path.display()));
        if let Source::United(parts) = parent {
            let found = self.stack.lookup(parts, name)?.ok_or_else(gone)?;
            let source = Source::United(found.parts.clone());
            return Ok(Some((found, source, false)));
        }
        let (attr, marks) = match self.own(path)? {
            Some(Entry::Whiteout) => return Ok(None),
            Some(Entry::Present(attr, marks)) => (attr, marks),
            None => {
                let found = self.stack.find(path)?.ok_or_else(gone)?;
                return Ok(Some((found, Source::Further, false)));
            }
        };
        if attr.is_dir() && marks.redirect.is_some() {
            let found = self.stack.find(path)?.ok_or_else(gone)?;
            let source = Source::United(found.parts.clone());
            return Ok(Some((found, source, true)));
        }
        let opaque = marks.opaque;
        let above = matches!(parent, Source::Own { covered: true });
        let part = Part {
            layer: self.index,
            path: path.into(),
        };
        let parts = vec![part];
        let covered = above || opaque;
        let found = Found { attr, marks, parts };
        Ok(Some((found, Source::Own { covered }, opaque)))
    }

    /// Whether a copy of metadata only has no content any more: another step removed the file, and
    /// their merge has decided further up what is there.
    fn is_lost(&self, path: &Path, found: &Found) -> Result<bool> {
        if !found.marks.metacopy || union::content(&self.stack, found)?.is_some() {
            return Ok(false);
        }
        let shown = self.whole.find(path)?;
        Ok(shown.is_none_or(|shown| shown.parts[0].layer > self.index))
    }

    pub(super) fn withheld(&self, path: &Path, found: &Found) -> Result<Option<String>> {
        self.guard.withholds(&self.stack, &self.shown(path), found)
    }

    /// Whether leaving a file out would show an older one of a lower layer.
    fn reappears(&self, path: &Path, source: &Source) -> Result<bool> {
        let covered = !matches!(source, Source::Own { covered: false });
        // A mapped path itself carries no whiteout.
        if covered || path.components().count() < 2 {
            return Ok(false);
        }
        match self.stack.below(self.index).find(path)? {
            Some(old) if old.parts[0].layer >= self.first => {
                Ok(old.attr.kind != Kind::Socket && self.withheld(path, &old)?.is_none())
            }
            _ => Ok(false),
        }
    }

    /// Writes the directories above a mapped path, once each.
    pub(super) fn parents(&mut self, tar: &mut Archive<'_>, path: &[u8]) -> Result<()> {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if self.parents.insert(path[..at].to_vec()) {
                tar.append(Member::plain(path[..at].to_vec(), What::Dir, 0o755), None)?;
            }
        }
        Ok(())
    }

    /// Writes one entry; false if it cannot be.
    pub(super) fn entry(
        &mut self,
        tar: &mut Archive<'_>,
        path: &Path,
        found: &Found,
    ) -> Result<bool> {
        let member_path = self.member_path(path);
        if path.components().count() == 1 {
            self.parents(tar, &member_path)?;
        }
        let attr = &found.attr;
        let linked = attr.kind != Kind::Dir && attr.nlink > 1 && attr.ino != 0;
        let what = match attr.kind {
            _ if linked && self.links.contains_key(&attr.ino) => {
                What::HardLink(self.links[&attr.ino].clone())
            }
            Kind::File => What::File(attr.size),
            Kind::Dir => What::Dir,
            Kind::Symlink => What::Symlink(self.stack.readlink(found)?.into_vec()),
            Kind::Fifo => What::Fifo,
            Kind::CharDevice => What::CharDevice(attr.rdev),
            Kind::BlockDevice => What::BlockDevice(attr.rdev),
            Kind::Socket => return Ok(false),
        };
        let again = matches!(what, What::HardLink(_));
        let member = Member {
            what,
            perm: attr.perm,
            uid: attr.uid,
            gid: attr.gid,
            mtime: attr.mtime,
            // A further name too: podman applies its header to the file, and a
            // change of owner takes the capability away.
            xattrs: self.xattrs(path, found)?,
            path: member_path,
        };
        if linked && !again {
            self.links.insert(attr.ino, member.path.clone());
        }
        if !matches!(member.what, What::File(_)) {
            tar.append(member, None)?;
            return Ok(true);
        }
        let content = self.stack.open(found);
        let content = content.context(|| self.shown(path).display().to_string())?;
        let mut content = SparseReader::new(content.into())?;
        if found.marks.metacopy {
            // What is missing below reads as zeros, as after a truncate.
            tar.append(member, Some(&mut content.chain(std::io::repeat(0))))?;
        } else {
            tar.append(member, Some(&mut content))?;
        }
        Ok(true)
    }

    /// The extended attributes that mean something on another machine.
    fn xattrs(&mut self, path: &Path, found: &Found) -> Result<BTreeMap<OsString, Vec<u8>>> {
        let mut all = self
            .stack
            .xattrs(found)
            .context(|| self.shown(path).display().to_string())?;
        let names: Vec<OsString> = all.keys().cloned().collect();
        for name in names {
            let text = name.as_bytes();
            // The kernel and podman read these two prefixes as markers.
            let marker = text.starts_with(b"trusted.") || text.starts_with(b"user.overlay.");
            if marker || text == b"system.nfs4_acl" || text.contains(&b'=') {
                let why = format!("its extended attribute {}", name.to_string_lossy());
                self.leave_out(path, &why);
                all.remove(&name);
            } else if text == b"security.selinux" {
                // The label belongs to the machine's policy.
                all.remove(&name);
            }
        }
        Ok(all)
    }

    /// A hard link that a renamed directory brought into this layer has names
    /// elsewhere that stayed below. Written out here as one file it would fall
    /// apart from them, so they are written too.
    fn find_further_names(&mut self) -> Result<()> {
        if self.index == 0 {
            return Ok(());
        }
        let mut missing: HashMap<Ino, i64> = HashMap::new();
        let mut renamed = Vec::new();
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            for name in self.stack.layer(self.index).names(&dir)? {
                if name.kind != Some(Kind::Dir) {
                    continue;
                }
                let path = dir.join(&name.name);
                match self.own(&path)? {
                    Some(Entry::Present(_, marks)) if marks.redirect.is_some() => {
                        renamed.push(path);
                    }
                    _ => dirs.push(path),
                }
            }
        }
        for dir in &renamed {
            walk(&self.stack, dir, &mut |_, found| {
                let attr = &found.attr;
                if !attr.is_dir() && attr.nlink > 1 && found.parts[0].layer < self.index {
                    *missing.entry(attr.ino).or_insert(i64::from(attr.nlink)) -= 1;
                }
                Ok(Visit::Enter)
            })?;
        }
        missing.retain(|_, names| *names > 0);
        if missing.is_empty() {
            return Ok(());
        }
        let further = &mut self.further;
        walk(&self.stack, Path::new(""), &mut |path, found| {
            if renamed.iter().any(|dir| dir == path) {
                return Ok(Visit::Skip);
            }
            if !found.attr.is_dir() && missing.contains_key(&found.attr.ino) {
                let mut path = path;
                while let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
                    further
                        .entry(dir.to_path_buf())
                        .or_default()
                        .insert(name.to_owned());
                    path = dir;
                }
            }
            Ok(Visit::Enter)
        })
    }
}
