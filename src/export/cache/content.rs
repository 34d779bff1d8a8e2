//! What a cache's next layer holds: how the saved paths differ from what the
//! layers before it show of them.
//!
//! Both are stacks of the stage, and one is the lower part of the other. So a
//! directory that no layer above that part has anything in is the same in both,
//! and is not looked into: the cost is that of the changes, not of the tree.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::chunked::Archive;
use super::super::content::{LayerContent, WHITEOUT};
use super::super::wanting::Wanted;
use super::Place;
use crate::error::{Context, Result};
use crate::layer::{Stack, Visit, walk};
use crate::tree::union::{Found, Part};
use crate::tree::{Ino, Kind};

/// What is compared at a time of two files.
const PIECE: usize = 128 << 10;

/// A member, or several, of the layer.
enum Item {
    /// One entry as it is now.
    Entry(PathBuf, Found),
    /// One entry and all below it.
    Tree(PathBuf, Found),
    /// A name of a directory that is there no more.
    Gone(PathBuf, OsString),
}

/// Whether anything of these paths differs in the two stacks, `was` being the lower
/// part of `now`.
///
/// # Errors
/// What the layers report.
pub fn differs(now: &Stack, was: &Stack, paths: &[Place]) -> Result<bool> {
    for place in paths {
        let parts = |stack: &Stack| -> Result<Option<Vec<Part>>> {
            Ok(stack.find(&place.inner)?.map(|found| found.parts))
        };
        if parts(now)? != parts(was)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A directory that both stacks have, while it is compared.
struct Level {
    path: PathBuf,
    found: Found,
    /// It is among the items.
    told: bool,
    names: std::vec::IntoIter<OsString>,
    now: Vec<Part>,
    was: Vec<Part>,
}

/// The members of one layer.
pub struct Changes<'a> {
    now: &'a Stack,
    was: Option<&'a Stack>,
    paths: &'a [Place],
    content: LayerContent<'a>,
    wanted: Wanted<'a>,
    items: Vec<Item>,
    /// Files that are written under all their names, whatever was done to those.
    further: HashSet<Ino>,
}

impl<'a> Changes<'a> {
    /// Of `now` against `was`, if there is any.
    pub fn new(
        now: &'a Stack,
        was: Option<&'a Stack>,
        paths: &'a [Place],
        content: LayerContent<'a>,
        wanted: Wanted<'a>,
    ) -> Changes<'a> {
        Changes {
            now,
            was,
            paths,
            content,
            wanted,
            items: Vec::new(),
            further: HashSet::new(),
        }
    }

    /// Finds all members. Returns whether there are any.
    ///
    /// # Errors
    /// What the layers report, naming the path, or what `wanted` says.
    pub fn find(&mut self) -> Result<bool> {
        self.compare()?;
        self.further = self.split_links()?;
        if !self.further.is_empty() {
            self.items.clear();
            self.compare()?;
        }
        Ok(!self.items.is_empty())
    }

    /// Writes them.
    ///
    /// # Errors
    /// As [`Changes::find`], and what the archive reports.
    pub fn write(mut self, tar: &mut Archive<'_>) -> Result<()> {
        for item in std::mem::take(&mut self.items) {
            (self.wanted)()?;
            match item {
                Item::Entry(path, found) => {
                    self.lead_to(tar, &path)?;
                    self.content.entry(tar, &path, &found)?;
                }
                Item::Tree(path, found) => {
                    self.lead_to(tar, &path)?;
                    self.content.united(tar, &path, &found)?;
                }
                Item::Gone(dir, name) => {
                    let name = [WHITEOUT, name.as_bytes()].concat();
                    self.content.marker(tar, &dir, &name)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the directories above a saved path.
    fn lead_to(&mut self, tar: &mut Archive<'_>, path: &Path) -> Result<()> {
        if self.paths.iter().any(|place| place.inner == path) {
            let member = self.content.member_path(path);
            self.content.parents(tar, &member)?;
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<()> {
        for place in self.paths {
            let now = self.now.find(&place.inner)?;
            let was = match self.was {
                Some(was) => was.find(&place.inner)?,
                None => None,
            };
            self.compare_place(&place.inner, now, was)
                .context(|| place.shown.display().to_string())?;
        }
        Ok(())
    }

    fn compare_place(&mut self, path: &Path, now: Option<Found>, was: Option<Found>) -> Result<()> {
        // By hand, as a tree may be deeper than our stack.
        let mut open: Vec<Level> = Vec::new();
        self.entry(&mut open, path.to_path_buf(), now, was)?;
        while let Some(level) = open.last_mut() {
            let Some(name) = level.names.next() else {
                open.pop();
                continue;
            };
            let path = level.path.join(&name);
            let now = self.now.lookup(&level.now, &name)?;
            let was = match self.was {
                Some(was) => was.lookup(&level.was, &name)?,
                None => None,
            };
            self.entry(&mut open, path, now, was)?;
        }
        Ok(())
    }

    /// One name, as it is and as it was.
    fn entry(
        &mut self,
        open: &mut Vec<Level>,
        path: PathBuf,
        now: Option<Found>,
        was: Option<Found>,
    ) -> Result<()> {
        if let (Some(now), Some(was)) = (&now, &was)
            && !now.attr.is_dir()
            && self.same_place(now, was)
        {
            return Ok(());
        }
        let now = match now {
            Some(now) if self.leaves(&path, &now)? => now,
            _ => {
                // What is withheld now may not show as it was before.
                if let (Some(was), Some(dir), Some(name)) = (&was, path.parent(), path.file_name())
                    && was.attr.kind != Kind::Socket
                    && !name.as_bytes().starts_with(WHITEOUT)
                    && !open.is_empty()
                {
                    self.tell_above(open);
                    self.items
                        .push(Item::Gone(dir.to_path_buf(), name.to_owned()));
                }
                return Ok(());
            }
        };
        match was {
            Some(was) if now.attr.is_dir() && was.attr.is_dir() => {
                if self.further.is_empty() && now.parts == was.parts {
                    return Ok(());
                }
                (self.wanted)()?;
                let same = self.same_attributes(&now, &was)?;
                let level = self.level(path, now, was)?;
                open.push(level);
                if !same {
                    self.tell_above(open);
                }
            }
            Some(was) if !now.attr.is_dir() && self.same(&now, &was)? => {}
            _ => {
                self.tell_above(open);
                self.items.push(match now.attr.is_dir() {
                    true => Item::Tree(path, now),
                    false => Item::Entry(path, now),
                });
            }
        }
        Ok(())
    }

    /// Lists a directory that both have.
    fn level(&mut self, path: PathBuf, now: Found, was: Found) -> Result<Level> {
        let (old, new) = match self.was {
            Some(stack) => (stack.list(&was.parts)?, self.now.list(&now.parts)?),
            None => (BTreeMap::new(), self.now.list(&now.parts)?),
        };
        let depth = self.was.map_or(0, |was| was.layers().len());
        let below = now.parts.iter().filter(|part| part.layer < depth);
        // Then a name that no layer above has anything to do with is as it was.
        let aligned = self.further.is_empty() && below.eq(was.parts.iter());
        // Deletions before entries, as layer.md asks.
        let gone = old.keys().filter(|name| !new.contains_key(*name)).cloned();
        let mut names: Vec<OsString> = gone.collect();
        let there = new.iter().filter(|(_, (layer, name))| {
            !aligned || *layer >= depth || name.kind == Some(Kind::Dir)
        });
        names.extend(there.map(|(name, _)| name.clone()));
        Ok(Level {
            path,
            now: now.parts.clone(),
            was: was.parts,
            found: now,
            told: false,
            names: names.into_iter(),
        })
    }

    /// A member is preceded by the directories that it is in.
    fn tell_above(&mut self, open: &mut [Level]) {
        for level in open.iter_mut().filter(|level| !level.told) {
            level.told = true;
            let item = Item::Entry(level.path.clone(), level.found.clone());
            self.items.push(item);
        }
    }

    /// Whether an entry may be in the image; what may not is told.
    fn leaves(&mut self, path: &Path, found: &Found) -> Result<bool> {
        let name = path.file_name().unwrap_or_default();
        if name.as_bytes().starts_with(WHITEOUT) {
            let why = "image layers cannot hold names that begin with .wh.";
            self.content.leave_out(path, why);
            return Ok(false);
        }
        if found.attr.kind == Kind::Socket {
            self.content
                .leave_out(path, "image layers cannot hold sockets");
            return Ok(false);
        }
        match self.content.withheld(path, found)? {
            Some(why) => {
                self.content.hold_back(path, why);
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// Whether an entry that is no directory is the very one that was there.
    fn same_place(&self, now: &Found, was: &Found) -> bool {
        now.parts == was.parts && !self.further.contains(&now.attr.ino)
    }

    /// Whether an entry that is no directory now is as it was.
    fn same(&self, now: &Found, was: &Found) -> Result<bool> {
        let split = self.further.contains(&now.attr.ino);
        if split || was.attr.is_dir() || !self.same_attributes(now, was)? {
            return Ok(false);
        }
        let links = (now.attr.nlink, was.attr.nlink);
        if links != (1, 1) && (links.0 != links.1 || now.attr.ino != was.attr.ino) {
            // What is one file with it may be other names than before.
            return Ok(false);
        }
        let Some(old) = self.was else {
            return Ok(false);
        };
        match now.attr.kind {
            Kind::File => {
                let (mut one, mut two) = (self.now.open(now)?.into(), old.open(was)?.into());
                Ok(same_content(&mut one, &mut two)?)
            }
            Kind::Symlink => Ok(self.now.readlink(now)? == old.readlink(was)?),
            _ => Ok(true),
        }
    }

    fn same_attributes(&self, now: &Found, was: &Found) -> Result<bool> {
        let (a, b) = (&now.attr, &was.attr);
        let size = a.kind != Kind::File || a.size == b.size;
        // A name more or less is written by `split_links`.
        let same = (a.kind, a.perm, a.uid, a.gid, a.mtime, a.rdev)
            == (b.kind, b.perm, b.uid, b.gid, b.mtime, b.rdev);
        let old = self.was.unwrap_or(self.now);
        Ok(size && same && self.now.xattrs(now)? == old.xattrs(was)?)
    }

    /// Files of which some names are written and others are not: here they would
    /// fall apart.
    fn split_links(&self) -> Result<HashSet<Ino>> {
        if self.was.is_none() {
            return Ok(HashSet::new());
        }
        let mut missing: HashMap<Ino, i64> = HashMap::new();
        let mut count = |found: &Found| {
            let attr = &found.attr;
            if !attr.is_dir() && attr.nlink > 1 && attr.ino != 0 {
                *missing.entry(attr.ino).or_insert(i64::from(attr.nlink)) -= 1;
            }
        };
        for item in &self.items {
            match item {
                Item::Entry(_, found) => count(found),
                Item::Tree(path, _) => walk(self.now, path, &mut |_, found| {
                    count(found);
                    Ok(Visit::Enter)
                })?,
                Item::Gone(..) => {}
            }
        }
        let missing = missing.into_iter().filter(|(_, names)| *names > 0);
        Ok(missing.map(|(ino, _)| ino).collect())
    }
}

/// Whether two files hold the same.
fn same_content(one: &mut std::fs::File, two: &mut std::fs::File) -> std::io::Result<bool> {
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let length = fill(one, &mut a)?;
        if length != fill(two, &mut b)? || a[..length] != b[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full, or the file ends.
fn fill(file: &mut std::fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
