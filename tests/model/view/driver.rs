//! A view and the filesystem in memory side by side, and what the kernel does between a program
//! and a view: it looks a name up before it uses it, remembers the answer, and forgets it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness_fs::layer::{
    Base, Inos, OpenLayer, SealedLayer, Stack, seal, seal_unswept, sweep_or_leave,
};
use harness_fs::tree::{Attr, Ino, Kind};
use harness_fs::view::{Caller, Parts, RenameMode, View};
use nix::errno::Errno;

use crate::base::{self, BaseEntry, MAPPED};
use crate::files::Handle;
use crate::reference::{Id, Inode, ROOT, Reference, Result, UMASK};
use crate::swaps::{Snapshot, Stage};

/// A listing that somebody is in the middle of.
#[derive(Debug)]
pub struct Cursor {
    pub dir: Id,
    pub cookie: u64,
    pub seen: BTreeSet<OsString>,
    /// The names that were there all the time.
    pub must: BTreeSet<OsString>,
}

pub struct Driver {
    pub directory: tempfile::TempDir,
    /// What the base and the sealed layers hold, which nothing may change.
    before: Vec<String>,
    pub sealed: Vec<String>,
    pub stack: Stack,
    layers: u32,
    pub runs: u64,
    pub live: bool,
    pub parts: Parts,
    /// While a step runs: then all else is the step's.
    pub stage: Option<Stage>,
    pub snapshots: Vec<Snapshot>,
    /// What a merge or a restore took all names of.
    pub replaced: BTreeSet<Id>,
    /// Those of them that may lie in layers that a restore left: there to be read.
    pub frozen: BTreeSet<Id>,
    pub view: Arc<View>,
    pub model: Reference,
    /// The number that each inode was ever seen with.
    pub known: BTreeMap<Id, Ino>,
    taken: BTreeMap<Ino, Id>,
    /// What the kernel remembers: how often it was told of an inode, and names.
    pub lookups: BTreeMap<Id, u64>,
    pub dentries: BTreeSet<(Id, OsString)>,
    pub handles: Vec<Handle>,
    pub cursors: Vec<Cursor>,
}

/// Who makes what has these permissions: files for all are made by a user.
fn caller(mode: u32) -> Caller {
    let id = if mode == 0o666 { 1000 } else { 0 };
    Caller {
        uid: id,
        gid: id,
        umask: UMASK,
    }
}

pub fn born(kind: Kind, mode: u32) -> Inode {
    let mut inode = Inode::new(kind, mode & !UMASK);
    inode.uid = caller(mode).uid;
    inode.gid = caller(mode).gid;
    inode
}

/// Both have to answer alike; what they answered if they succeeded.
pub fn agree<T, U>(
    what: impl Debug,
    expected: Result<T>,
    got: harness_fs::error::Result<U>,
) -> Option<(T, U)> {
    match (expected, got) {
        (Ok(expected), Ok(got)) => Some((expected, got)),
        (Err(expected), Err(got)) if expected == got.errno() => None,
        (expected, got) => panic!(
            "{what:?}: expected {:?}, got {:?}",
            expected.map(drop),
            got.map(drop)
        ),
    }
}

pub fn new_view(at: &Path, stack: &Stack, run: u64, live: bool, parts: Parts) -> Arc<View> {
    let open = OpenLayer::open(at).expect("open layer");
    let inos = Arc::new(Inos::new(run));
    View::with_parts(stack.clone(), open, inos, live, parts).expect("view")
}

impl Driver {
    pub fn new(live: bool, entries: &[BaseEntry]) -> Driver {
        let parts = if live { Parts::LIVE } else { Parts::STEP };
        Driver::with_parts(live, entries, parts)
    }

    pub fn with_parts(live: bool, entries: &[BaseEntry], parts: Parts) -> Driver {
        // As the daemon: modes are the view's business.
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let directory = tempfile::Builder::new()
            .prefix("hfs-model-")
            .tempdir_in("/var/tmp")
            .expect("temporary directory");
        let at = directory.path();
        let base = at.join("base");
        std::fs::create_dir(&base).unwrap();
        std::fs::create_dir(at.join("layers")).unwrap();
        let model = base::build(&base, entries);
        let before = base::listing(&base);
        let mapped: Vec<PathBuf> = (0..MAPPED).map(|i| base.join(i.to_string())).collect();
        let taken = Base::take(&mapped, Arc::new(Inos::new(1))).expect("base");
        let stack = Stack::new(vec![Arc::new(taken)]);
        let view = new_view(&at.join("open"), &stack, 1, live, parts);
        Driver {
            before,
            sealed: base::listing(&at.join("layers")),
            stack,
            layers: 0,
            runs: 1,
            live,
            parts,
            stage: None,
            snapshots: Vec::new(),
            replaced: BTreeSet::new(),
            frozen: BTreeSet::new(),
            view,
            model,
            known: BTreeMap::new(),
            taken: BTreeMap::new(),
            lookups: BTreeMap::new(),
            dentries: BTreeSet::new(),
            handles: Vec::new(),
            cursors: Vec::new(),
            directory,
        }
    }

    /// The number of an inode; the same for ever, and nobody else's.
    pub fn number(&mut self, id: Id, ino: Ino) {
        let known = *self.known.entry(id).or_insert(ino);
        assert_eq!(ino, known, "inode {id} has got another number");
        let owner = *self.taken.entry(ino).or_insert(id);
        assert_eq!(owner, id, "number {ino} is used twice");
    }

    /// Compares what a view tells of an inode.
    pub fn compare(&mut self, id: Id, attr: &Attr) {
        self.number(id, attr.ino);
        // Only the content is certain.
        if self.frozen.contains(&id) {
            return;
        }
        let inode = &self.model.inodes[id];
        assert_eq!(attr.kind, inode.kind, "type of inode {id}");
        assert_eq!(
            (attr.uid, attr.gid),
            (inode.uid, inode.gid),
            "owner of inode {id}"
        );
        if inode.kind != Kind::Symlink {
            assert_eq!(attr.perm, inode.perm, "mode {:o} of inode {id}", attr.perm);
        }
        match inode.kind {
            Kind::Dir if inode.names > 0 => assert!(attr.nlink > 0, "nlink of inode {id}"),
            _ => assert_eq!(attr.nlink, inode.names, "nlink of inode {id}"),
        }
        match inode.kind {
            Kind::File => assert_eq!(attr.size, inode.content.len() as u64, "size of {id}"),
            Kind::Symlink => assert_eq!(attr.size, inode.target.len() as u64, "size of {id}"),
            Kind::CharDevice => assert_eq!(attr.rdev, inode.rdev, "device of {id}"),
            _ => {}
        }
        if let Some(mtime) = inode.mtime
            && inode.names > 0
        {
            assert_eq!(attr.mtime, mtime, "mtime of inode {id}");
        }
    }

    /// The kernel is told of a name.
    pub fn told(&mut self, dir: Id, name: &OsStr, id: Id, attr: &Attr) {
        *self.lookups.entry(id).or_default() += 1;
        self.dentries.insert((dir, name.to_os_string()));
        self.compare(id, attr);
    }

    fn look(&mut self, dir: Id, name: &OsStr) -> Option<Ino> {
        let at = self.reach(dir)?;
        let what = ("lookup", dir, name);
        let (id, attr) = agree(
            what,
            self.model.lookup(dir, name),
            self.view.lookup(at, name),
        )?;
        self.told(dir, name, id, &attr);
        Some(attr.ino)
    }

    /// The number of an inode, by way of one of its names; `None` if nobody can reach it.
    pub fn reach(&mut self, id: Id) -> Option<Ino> {
        if id == ROOT {
            return Some(harness_fs::view::ROOT);
        }
        if self.model.gone(id) {
            let held = self.lookups.get(&id).is_some_and(|count| *count > 0);
            return held.then(|| self.known[&id]);
        }
        let (dir, name) = self.model.name_of(id)?;
        let name = name.to_os_string();
        if self.dentries.contains(&(dir, name.clone())) {
            return Some(self.known[&id]);
        }
        self.look(dir, &name)
    }

    pub fn lookup(&mut self, dir: Id, name: &OsStr) {
        self.look(dir, name);
    }

    pub fn create(&mut self, dir: Id, name: &OsStr, mode: u32, write: bool) {
        let Some(at) = self.reach(dir) else { return };
        let got = self.view.create(at, name, mode, write, &caller(mode));
        let expected = self.model.add(dir, name, born(Kind::File, mode));
        if let Some((id, (attr, handle))) = agree(("create", dir, name), expected, got) {
            self.told(dir, name, id, &attr);
            self.opened(id, handle, write);
        }
    }

    pub fn mkdir(&mut self, dir: Id, name: &OsStr, mode: u32) {
        let Some(at) = self.reach(dir) else { return };
        let got = self.view.mkdir(at, name, mode, &caller(mode));
        self.made("mkdir", dir, name, born(Kind::Dir, mode), got);
    }

    pub fn mknod(&mut self, dir: Id, name: &OsStr, kind: Kind, rdev: u64) {
        let Some(at) = self.reach(dir) else { return };
        let mut inode = born(kind, 0o666);
        inode.rdev = rdev;
        let mode = kind.mode_bits() | 0o666;
        let got = self.view.mknod(at, name, mode, rdev, &caller(0o666));
        self.made("mknod", dir, name, inode, got);
    }

    pub fn symlink(&mut self, dir: Id, name: &OsStr, target: &str) {
        let Some(at) = self.reach(dir) else { return };
        let mut inode = born(Kind::Symlink, 0o777);
        inode.target = target.into();
        let got = self.view.symlink(at, name, OsStr::new(target), &caller(0));
        self.made("symlink", dir, name, inode, got);
    }

    fn made(
        &mut self,
        what: &str,
        dir: Id,
        name: &OsStr,
        inode: Inode,
        got: harness_fs::error::Result<Attr>,
    ) {
        let expected = self.model.add(dir, name, inode);
        if let Some((id, attr)) = agree((what, dir, name), expected, got) {
            self.told(dir, name, id, &attr);
        }
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &OsStr) {
        let Some(at) = self.reach(dir) else { return };
        let Some(ino) = self.reach(id) else { return };
        let expected = match self.model.link(id, dir, name) {
            Err(Errno::ENOENT) if self.replaced.contains(&id) => Err(Errno::ESTALE),
            other => other,
        };
        // Two mounts: the kernel knows that, also of a file that the view has
        // lost all names of.
        let known = |(at, name): &(Id, OsString)| self.model.lookup(*at, name) == Ok(id);
        if expected == Err(Errno::EXDEV) && !self.dentries.iter().any(known) {
            return;
        }
        let got = self.view.link(ino, at, name);
        if let Some(((), attr)) = agree(("link", id, dir, name), expected, got) {
            self.told(dir, name, id, &attr);
        }
    }

    pub fn unlink(&mut self, dir: Id, name: &OsStr) {
        let Some(at) = self.reach(dir) else { return };
        let expected = self.model.unlink(dir, name);
        if agree(("unlink", dir, name), expected, self.view.unlink(at, name)).is_some() {
            self.dentries.remove(&(dir, name.to_os_string()));
        }
    }

    pub fn rmdir(&mut self, dir: Id, name: &OsStr) {
        let Some(at) = self.reach(dir) else { return };
        let expected = self.model.rmdir(dir, name);
        if agree(("rmdir", dir, name), expected, self.view.rmdir(at, name)).is_some() {
            self.dentries.remove(&(dir, name.to_os_string()));
        }
    }

    pub fn rename(&mut self, from: (Id, &OsStr), to: (Id, &OsStr), mode: RenameMode) {
        // The kernel sees to this one (namei.c, lock_rename and vfs_rename).
        if mode != RenameMode::Exchange
            && let Ok(target) = self.model.lookup(to.0, to.1)
            && self.model.lookup(from.0, from.1) != Ok(target)
            && self.model.is_below(from.0, target)
        {
            return;
        }
        // It also looks both names up first.
        for (dir, name) in [from, to] {
            if let Ok(id) = self.model.lookup(dir, name) {
                self.reach(id);
                if !self.dentries.contains(&(dir, name.to_os_string())) {
                    self.look(dir, name);
                }
            }
        }
        let (Some(from_at), Some(to_at)) = (self.reach(from.0), self.reach(to.0)) else {
            return;
        };
        let expected = self.model.rename(from, to, mode);
        let got = self.view.rename(from_at, from.1, to_at, to.1, mode);
        if let Some((true, ())) = agree(("rename", from, to, mode), expected, got) {
            if mode != RenameMode::Exchange {
                self.dentries.remove(&(from.0, from.1.to_os_string()));
            }
            self.dentries.insert((to.0, to.1.to_os_string()));
        }
    }

    /// True if the kernel may forget an inode: nobody holds it or an entry of it.
    pub fn forgettable(&self, id: Id) -> bool {
        self.lookups.get(&id).is_some_and(|count| *count > 0)
            && !self.handles.iter().any(|handle| handle.id == id)
            && !self.cursors.iter().any(|cursor| cursor.dir == id)
            && !self.dentries.iter().any(|(dir, _)| *dir == id)
    }

    pub fn forget(&mut self, id: Id) {
        self.forget_some(id, self.lookups[&id]);
    }

    /// Forgets so many of the times that the kernel was told of an inode.
    pub fn forget_some(&mut self, id: Id, count: u64) {
        let lookups = self.lookups.get_mut(&id).expect("told");
        *lookups -= count;
        if *lookups == 0 {
            self.forget_names(id);
        }
        self.view.forget(self.known[&id], count);
    }

    fn forget_names(&mut self, id: Id) {
        let model = &self.model;
        self.dentries
            .retain(|(dir, name)| model.lookup(*dir, name) != Ok(id));
    }

    /// What was listed goes on being right.
    pub fn prune_cursors(&mut self) {
        let model = &self.model;
        self.cursors.retain(|cursor| !model.gone(cursor.dir));
        for cursor in &mut self.cursors {
            let entries = &model.inodes[cursor.dir].entries;
            cursor.must.retain(|name| entries.contains_key(name));
        }
    }

    /// Ends the view; with it all that was open ends.
    pub fn close(&mut self, released: bool) -> Arc<OpenLayer> {
        for handle in std::mem::take(&mut self.handles) {
            if released {
                self.view.release(handle.handle);
            }
        }
        self.cursors.clear();
        self.lookups.clear();
        self.dentries.clear();
        let open = self.view.close().expect("close");
        assert_eq!(
            self.view.getattr(1).err().map(|e| e.errno()),
            Some(Errno::ENODEV)
        );
        open
    }

    pub fn remount(&mut self, released: bool) {
        if self.stage.is_some() {
            return;
        }
        drop(self.close(released));
        self.runs += 1;
        self.view = new_view(
            &self.directory.path().join("open"),
            &self.stack,
            self.runs,
            self.live,
            self.parts,
        );
    }

    pub fn layer_id(&mut self) -> String {
        self.layers += 1;
        format!("{:06}-test", self.layers)
    }

    pub fn seal(&mut self, released: bool) {
        if self.stage.is_some() {
            return;
        }
        let open = self.close(released);
        let id = self.layer_id();
        let layers = self.directory.path().join("layers");
        seal(&open, &self.stack, &layers, &id, "test", 0).expect("seal");
        let sealed = SealedLayer::open(File::open(&layers).unwrap(), &id).expect("sealed layer");
        self.stack = self.stack.with(Arc::new(sealed));
        self.sealed = base::listing(&layers);
        self.runs += 1;
        self.view = new_view(
            &self.directory.path().join("open"),
            &self.stack,
            self.runs,
            self.live,
            self.parts,
        );
    }

    /// Seals while handles stay open; only the stage's own view can.
    pub fn live_seal(&mut self) {
        if !self.live || self.stage.is_some() {
            return;
        }
        self.push_head();
        self.sealed = base::listing(&self.directory.path().join("layers"));
    }

    /// Seals the open layer of a live view, as its head, and gives it what `next` makes of the
    /// stack with it. Returns where the sealed layer lies.
    pub fn swap(&mut self, next: impl FnOnce(Stack) -> Stack) -> PathBuf {
        let id = self.layer_id();
        let layers = self.directory.path().join("layers");
        let at = self.directory.path().join("open");
        self.view
            .replace(|stack, open| {
                // As the head: partial files stay what they are.
                seal_unswept(open, stack, &layers, &id, "head", 0)?;
                sweep_or_leave(open, &layers.join(&id));
                let sealed = SealedLayer::open(File::open(&layers)?, &id)?;
                let sealed = sealed.writable_at(layers.join(&id));
                let fresh = Arc::new(OpenLayer::open(&at)?);
                Ok((next(stack.with(Arc::new(sealed))), fresh))
            })
            .expect("replace");
        self.stack = self.view.stack();
        layers.join(id)
    }

    /// As the stage's view is swapped: an open layer in which nothing was changed stays.
    pub fn seal_or_keep(&mut self) {
        let id = self.layer_id();
        let layers = self.directory.path().join("layers");
        let at = self.directory.path().join("open");
        self.view
            .replace(|stack, open| {
                if open.is_clean()? {
                    open.forget_orphans()?;
                    return Ok((stack.clone(), open.clone()));
                }
                seal_unswept(open, stack, &layers, &id, "head", 0)?;
                sweep_or_leave(open, &layers.join(&id));
                let sealed = SealedLayer::open(File::open(&layers)?, &id)?;
                let sealed = sealed.writable_at(layers.join(&id));
                let fresh = Arc::new(OpenLayer::open(&at)?);
                Ok((stack.with(Arc::new(sealed)), fresh))
            })
            .expect("replace");
        self.stack = self.view.stack();
    }

    /// [`Driver::live_seal`] without a look at what is sealed.
    pub fn push_head(&mut self) -> PathBuf {
        self.swap(|stack| stack)
    }

    /// Puts a layer on the stack in which a step made, or wrote over, one file of a directory that
    /// nobody else touches.
    pub fn merge_file(&mut self, root: &str, dirs: &[&str], name: &str, content: &[u8]) -> PathBuf {
        let at = self.directory.path().join("step");
        self.runs += 1;
        let inos = Arc::new(Inos::new(self.runs));
        let open = OpenLayer::open(&at).expect("open layer");
        self.push_head();
        let below = self.stack.clone();
        let step = View::new(below.clone(), open, inos, false).expect("view");
        let mut dir = step
            .lookup(harness_fs::view::ROOT, OsStr::new(root))
            .unwrap()
            .ino;
        for next in dirs {
            dir = step.lookup(dir, OsStr::new(next)).unwrap().ino;
        }
        let name = OsStr::new(name);
        if step.lookup(dir, name).is_ok() {
            step.unlink(dir, name).unwrap();
        }
        let (_, handle) = step.create(dir, name, 0o644, true, &caller(0)).unwrap();
        step.write(handle, 0, content, None).unwrap();
        step.release(handle);
        let open = step.close().expect("close");
        let id = self.layer_id();
        let layers = self.directory.path().join("layers");
        seal(&open, &below, &layers, &id, "step", 0).expect("seal");
        let sealed = SealedLayer::open(File::open(&layers).unwrap(), &id).expect("sealed layer");
        self.swap(|stack| stack.with(Arc::new(sealed)))
    }

    /// Gives partial files of sealed layers all of their content.
    pub fn fill_layers(&mut self) {
        for at in 0..self.stack.layers().len() {
            let layer = self.stack.layer(at).clone();
            for path in layer.partial_files().expect("partial files") {
                let Some(map) = layer.block_map(&path).expect("map") else {
                    continue;
                };
                let below = Arc::new(self.stack.backing_of(map.origin(), at).expect("below"));
                let mut steps = 0;
                let mut twice = || {
                    steps += 1;
                    steps < 2
                };
                layer.fill(&path, &below, &mut twice).expect("fill");
                assert!(layer.fill(&path, &below, &mut || true).expect("fill"));
                assert!(layer.block_map(&path).expect("map").is_none());
            }
        }
        self.sealed = base::listing(&self.directory.path().join("layers"));
    }

    /// Nothing may be left in `work/`; the base is as it was.
    pub fn check_disk(&self) {
        let at = self.directory.path();
        assert_eq!(
            base::listing(&at.join("base")),
            self.before,
            "the base has changed"
        );
        let sealed = base::listing(&at.join("layers"));
        assert_eq!(sealed, self.sealed, "a sealed layer has changed");
        let names = |dir: &str| -> Vec<OsString> {
            let view = if self.stage.is_some() { "step" } else { "open" };
            let entries = std::fs::read_dir(at.join(view).join(dir)).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(names("work"), ["whiteout"], "left in work/");
        let held = self.handles.iter().map(|handle| handle.id);
        let orphans: BTreeSet<Id> = held.filter(|id| self.model.gone(*id)).collect();
        assert!(names("orphans").len() <= orphans.len(), "left in orphans/");
    }
}
