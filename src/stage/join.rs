//! Making a join layer: only the paths where stacking would not show the merged tree.
//!
//! Files are cloned (reflink where the disk can, copied inside the kernel where
//! not), never hard-linked to sealed files: a link changes `st_nlink` and ctime
//! of the file in every stack that holds it, and ties the join layer to an
//! inode that a process may still have mapped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::cached::CachedStack;
use super::compare::Sides;
use super::diff::as_seen;
use super::failpoint;
use super::renamed::Renamed;
use crate::error::{Context, Error, Result};
use crate::layer::copy_up::{self, Extent, Spot, keeping_times};
use crate::layer::{Inos, LinkState, OpenLayer, Stack, TREE, set_ino};
use crate::merge::{Action, JoinPlan, Side};
use crate::sys::at::{self, SetTime};
use crate::sys::{copy, xattr};
use crate::tree::marker::Marks;
use crate::tree::shown::shown;
use crate::tree::union::{Entry, Found};
use crate::tree::{Ino, Kind, marker};

/// A join layer being made.
pub(super) struct Join<'a> {
    open: OpenLayer,
    /// The merged stack without the join layer.
    below: &'a CachedStack,
    inos: &'a Inos,
    /// The mapped paths, for messages.
    mapped: &'a [PathBuf],
    sides: &'a Sides,
    placed_here: Placed,
    /// From which view each number in this layer came: the two sides may have
    /// one number at different paths, and both are kept.
    placed: HashMap<Ino, Side>,
    /// Numbers in place of those that came from the other view already.
    replaced: HashMap<(Side, Ino), Ino>,
}

/// A file that belongs at a path of the join layer, and is put there when it is known which other
/// names it has.
#[derive(Clone, Debug)]
pub(super) struct Deferred {
    /// Its number.
    pub ino: Ino,
    /// Whose view has it.
    pub side: Side,
    /// Where, in that view.
    pub path: PathBuf,
}

/// What a plan has put where.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// Files that are still to come, by the path they belong at.
    pub deferred: BTreeMap<PathBuf, Deferred>,
    /// Directories.
    pub dirs: Vec<(Ino, PathBuf)>,
    /// Files that no side's layers hold, and of whose names some have become a file of their own.
    pub split: BTreeSet<Ino>,
}

impl Placed {
    /// Whether the path is below a file that is still to come: what the layers show there now,
    /// below a directory, is then gone.
    pub fn hides(&self, path: &Path) -> bool {
        let mut above = path.ancestors().skip(1);
        !self.deferred.is_empty() && above.any(|above| self.deferred.contains_key(above))
    }
}

/// Which inode numbers copies get.
enum Numbers<'a> {
    /// Those of the originals, which are this side's.
    Of(Side),
    /// New ones; the same for names of one file.
    Fresh(&'a mut HashMap<Ino, Ino>),
}

fn in_tree(path: &Path) -> PathBuf {
    Path::new(TREE).join(path)
}

fn gone(path: &Path) -> Error {
    let text = format!("{}: gone while it was merged", path.display());
    Error::new(Errno::EIO, text)
}

impl<'a> Join<'a> {
    pub fn new(
        open: OpenLayer,
        below: &'a CachedStack,
        sides: &'a Sides,
        (inos, mapped): (&'a Inos, &'a [PathBuf]),
    ) -> Join<'a> {
        Join {
            open,
            mapped,
            below,
            inos,
            sides,
            placed_here: Placed::default(),
            placed: HashMap::new(),
            replaced: HashMap::new(),
        }
    }

    /// What was being done when something failed.
    pub fn merging(&self, path: &Path) -> String {
        format!("merging {}", shown(&as_seen(self.mapped, path)))
    }

    /// The layer, to read or to seal.
    pub fn open(&self) -> &OpenLayer {
        &self.open
    }

    /// The merged stack without the join layer.
    pub fn below(&self) -> &'a CachedStack {
        self.below
    }

    /// What is merged.
    pub fn sides(&self) -> &'a Sides {
        self.sides
    }

    /// An inode number that nothing has.
    pub fn new_number(&self) -> Ino {
        self.inos.allocate()
    }

    /// What the plan has put where, to be seen to by the caller.
    pub fn take_placed(&mut self) -> Placed {
        std::mem::take(&mut self.placed_here)
    }

    /// Carries out the actions of a plan.
    ///
    /// # Errors
    /// What the layers or the disk report; the layer is then to be dropped.
    pub fn carry_out(&mut self, plan: &JoinPlan, renamed: &Renamed<'_>) -> Result<()> {
        let sides = self.sides;
        for action in plan.actions() {
            let done = match action {
                Action::Take { side, path, to } => {
                    let fresh = path != to || renamed.shown_twice(*side, path);
                    self.take(sides, *side, path, to, fresh)
                }
                Action::Remove { path } => self.remove(path),
                Action::Directory { side, path } => self.directory(sides.view(*side), path),
                Action::Metadata { side, path } => self.metadata(sides.view(*side), path),
                Action::Concatenate { path } => self.concatenate(sides, path),
            };
            done.context(|| self.merging(action.target()))?;
            failpoint::hit("merge-in-join");
        }
        Ok(())
    }

    /// Makes one file, with this number, of all these names. `below` if its content shows at that
    /// path below the join layer, and need not be copied.
    ///
    /// # Errors
    /// What the layers or the disk report; the layer is then to be dropped.
    pub fn link_all(
        &mut self,
        (view, origin, found): (&Stack, &Path, &Found),
        below: bool,
        number: Ino,
        names: &[&Path],
    ) -> Result<()> {
        for name in names {
            self.make_room(name)?;
        }
        let mut found = found.clone();
        found.attr.ino = number;
        // overlayfs.rst: a redirect counts from the root of the mapped path that it is in.
        let mapped = origin.iter().next();
        let extent = if below && names.iter().all(|name| name.iter().next() == mapped) {
            Extent::Metadata
        } else {
            Extent::Whole
        };
        let prepared = copy_up::prepare(&self.open, view, &found, origin, extent)?;
        if let [name] = names {
            return copy_up::place(&self.open, &found, &prepared, Spot::Name(&in_tree(name)));
        }
        copy_up::place(&self.open, &found, &prepared, Spot::Index)?;
        let state = LinkState {
            nlink: u32::try_from(names.len()).unwrap_or(u32::MAX),
            // As if it was born here: there are no further names to be found below.
            origin: 0,
            here: true,
        };
        self.open.set_link_state(number, state)?;
        names.iter().try_for_each(|name| self.link(number, name))
    }

    /// Gives an inode that is in `index/` a further name.
    fn link(&self, ino: Ino, name: &Path) -> Result<()> {
        let (index, target) = (OpenLayer::index_path(ino), in_tree(name));
        let link = || at::link(&self.open, &index, &self.open, &target);
        match target.parent() {
            Some(parent) => keeping_times(&self.open, parent, link),
            None => link(),
        }
    }

    fn take(
        &mut self,
        sides: &Sides,
        side: Side,
        path: &Path,
        to: &Path,
        fresh: bool,
    ) -> Result<()> {
        let view = sides.view(side);
        let found = view.find(path)?.ok_or_else(|| gone(path))?;
        let mut known = HashMap::new();
        let numbers = if fresh {
            Numbers::Fresh(&mut known)
        } else {
            Numbers::Of(side)
        };
        self.put(view, path, found, to, numbers)
    }

    /// Puts a copy of an entry of `view`, with all below it, at `to`.
    fn put(
        &mut self,
        view: &Stack,
        path: &Path,
        found: Found,
        to: &Path,
        mut numbers: Numbers<'_>,
    ) -> Result<()> {
        self.make_room(to)?;
        let mut hides = self.below.find(to)?.is_some_and(|old| old.attr.is_dir());
        let mut pending = vec![(found, path.to_path_buf(), to.to_path_buf())];
        while let Some((mut found, path, to)) = pending.pop() {
            let origin = found.attr.ino;
            if let Numbers::Of(side) = &numbers
                && !found.attr.is_dir()
                && self.sides.holds(origin)
            {
                let (ino, side) = (origin, *side);
                let deferred = Deferred { ino, side, path };
                self.placed_here.deferred.insert(to, deferred);
                continue;
            }
            match &mut numbers {
                Numbers::Fresh(known) => {
                    let fresh = known.entry(origin).or_insert_with(|| self.inos.allocate());
                    found.attr.ino = *fresh;
                }
                Numbers::Of(side) if *self.placed.entry(origin).or_insert(*side) != *side => {
                    let replaced = self.replaced.entry((*side, origin));
                    found.attr.ino = *replaced.or_insert_with(|| self.inos.allocate());
                }
                Numbers::Of(_) => {}
            }
            if !found.attr.is_dir() {
                let born_here = found.attr.ino != origin;
                if born_here && found.attr.nlink > 1 && !self.sides.holds(origin) {
                    self.placed_here.split.insert(origin);
                }
                self.put_file(view, &found, &path, &to, born_here)?;
                continue;
            }
            copy_up::directory(&self.open, view, &found, &in_tree(&to))?;
            self.placed_here.dirs.push((found.attr.ino, to.clone()));
            for name in view.list(&found.parts)?.into_keys() {
                if let Some(child) = view.lookup(&found.parts, &name)? {
                    pending.push((child, path.join(&name), to.join(&name)));
                }
            }
            if std::mem::take(&mut hides) {
                let target = in_tree(&to);
                self.open
                    .mark(&target, found.attr.ino, marker::OPAQUE, "y".as_ref())?;
            }
        }
        Ok(())
    }

    fn put_file(
        &self,
        view: &Stack,
        found: &Found,
        path: &Path,
        to: &Path,
        born_here: bool,
    ) -> Result<()> {
        let (ino, target) = (found.attr.ino, in_tree(to));
        let known = self.open.link_state(ino);
        if found.attr.nlink > 1 && known.is_some_and(|state| state.here) {
            // A further name of a file that is here already.
            return self.link(ino, to);
        }
        copy_up::entry(&self.open, view, found, path, &target, Extent::Whole)?;
        if born_here && found.attr.nlink > 1 {
            let state = LinkState {
                nlink: found.attr.nlink,
                origin: 0,
                here: true,
            };
            self.open.set_link_state(ino, state)?;
        }
        Ok(())
    }

    /// Clears a path of the join layer and makes the directories above it.
    fn make_room(&mut self, to: &Path) -> Result<()> {
        let parent = to.parent().unwrap_or(Path::new(""));
        copy_up::copy_dir(&self.open, self.below, parent)?;
        let deferred = &mut self.placed_here.deferred;
        let later = deferred.range::<Path, _>((Bound::Included(to), Bound::Unbounded));
        let inner = later.take_while(|(path, _)| path.starts_with(to));
        for path in inner.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            deferred.remove(&path);
        }
        at::remove_all(&self.open, &in_tree(to))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.make_room(path)?;
        if self.below.find(path)?.is_none() {
            return Ok(());
        }
        let target = in_tree(path);
        let parent = target.parent().unwrap_or(Path::new(TREE));
        keeping_times(&self.open, parent, || self.open.whiteout_file(&target))
    }

    /// Has an empty directory there that is as in `view`, or what is there already
    /// with its metadata.
    fn directory(&mut self, view: &CachedStack, path: &Path) -> Result<()> {
        if self.below.find(path)?.is_some_and(|old| old.attr.is_dir()) {
            return self.metadata(view, path);
        }
        let found = view.find(path)?.ok_or_else(|| gone(path))?;
        self.make_room(path)?;
        copy_up::directory(&self.open, view, &found, &in_tree(path))?;
        self.placed_here
            .dirs
            .push((found.attr.ino, path.to_path_buf()));
        Ok(())
    }

    /// Gives a directory the mode, owner, attributes and times it has in `view`.
    fn metadata(&self, view: &CachedStack, path: &Path) -> Result<()> {
        let wanted = view.find(path)?.ok_or_else(|| gone(path))?;
        copy_up::copy_dir(&self.open, self.below, path)?;
        let (open, target, attr) = (&self.open, in_tree(path), &wanted.attr);
        at::chown(open, &target, Some(attr.uid), Some(attr.gid))?;
        at::chmod(open, &target, attr.perm)?;
        let mut wanted_xattrs = BTreeMap::new();
        for (name, value) in view.xattrs(&wanted)? {
            if let Some(inside) = inside(&name) {
                wanted_xattrs.insert(inside, value);
            }
        }
        for shown in open.tree().xattrs(path)? {
            if let Some(name) = inside(&shown)
                && !wanted_xattrs.contains_key(&name)
            {
                xattr::remove(open, &target, &name)?;
            }
        }
        for (name, value) in wanted_xattrs {
            xattr::set(open, &target, &name, &value, 0)?;
        }
        let (atime, mtime) = (SetTime::To(attr.atime), SetTime::To(attr.mtime));
        at::utimens(open, &target, atime, mtime)
    }

    /// The base's content, what the stage appended, what the step appended.
    fn concatenate(&mut self, sides: &Sides, path: &Path) -> Result<()> {
        let stage = sides.stage.find(path)?.ok_or_else(|| gone(path))?;
        let step = sides.step.find(path)?.ok_or_else(|| gone(path))?;
        let base = sides.base.find(path)?;
        let shared = base
            .filter(|base| base.attr.kind == Kind::File)
            .map_or(0, |base| base.attr.size);
        let attr = step.attr;
        self.make_room(path)?;
        self.put_file(&sides.step, &step, path, path, false)?;
        let file = at::open(&self.open, &in_tree(path), OFlag::O_RDWR, 0)?;
        nix::unistd::ftruncate(&file, 0)?;
        let (first, second) = (sides.stage.open(&stage)?, sides.step.open(&step)?);
        let length = stage.attr.size;
        copy::range(first.as_fd(), 0, file.as_fd(), 0, length)?;
        let rest = attr.size.saturating_sub(shared);
        copy::range(second.as_fd(), shared, file.as_fd(), length, rest)?;
        // ftruncate(2) and write(2) clear these bits.
        at::chmod(&self.open, &in_tree(path), attr.perm)?;
        at::futimens(&file, SetTime::To(attr.atime), SetTime::To(attr.mtime))
    }

    /// Gives the directory at `path` of the merged tree a number of its own.
    ///
    /// # Errors
    /// What the layers or the disk report.
    pub fn renumber_dir(&self, merged: &Stack, path: &Path) -> Result<()> {
        copy_up::copy_dir(&self.open, merged, path)?;
        let marked = match self.open.entry(path)? {
            Some(Entry::Present(_, marks)) => marks != Marks::default(),
            _ => false,
        };
        set_ino(&self.open, &in_tree(path), self.inos.allocate(), marked)
    }
}

/// What an attribute is called inside the layer.
fn inside(name: &std::ffi::OsStr) -> Option<std::ffi::OsString> {
    match name.to_str() {
        Some(text) => marker::xattr_to_layer(text).map(|inside| inside.into_owned().into()),
        None => Some(name.to_owned()),
    }
}
