//! Listings, and the comparison of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use harness_fs::tree::{Attr, Ino, Kind};
use nix::fcntl::OFlag;

use crate::driver::{Cursor, Driver, agree};
use crate::reference::{Id, ROOT};

/// An entry that was handed out.
struct Got {
    name: OsString,
    kind: Kind,
    ino: Ino,
    attr: Option<Attr>,
}

impl Driver {
    pub fn list(&mut self, dir: Id, count: usize, plus: bool) {
        if self.model.gone(dir) {
            return;
        }
        let entries = &self.model.inodes[dir].entries;
        self.cursors.push(Cursor {
            dir,
            cookie: 0,
            seen: BTreeSet::new(),
            must: entries.keys().cloned().collect(),
        });
        self.go_on(self.cursors.len() - 1, count, plus);
    }

    /// Lists `count` more names; ends the listing when there are no more.
    pub fn go_on(&mut self, cursor: usize, count: usize, plus: bool) {
        let Cursor { dir, cookie, .. } = self.cursors[cursor];
        let at = self.reach(dir).expect("listed");
        let mut got = Vec::new();
        let mut next = cookie;
        let answer = self.view.readdir(at, cookie, plus, &mut |entry| {
            if got.len() == count {
                return false;
            }
            next = entry.cookie;
            got.push(Got {
                name: entry.name.to_os_string(),
                kind: entry.kind,
                ino: entry.ino,
                attr: entry.attr.copied(),
            });
            true
        });
        agree(("readdir", dir), Ok(()), answer);
        let done = got.len() < count;
        self.cursors[cursor].cookie = next;
        for entry in got {
            self.listed(cursor, dir, entry);
        }
        if done {
            let Cursor { seen, must, .. } = self.cursors.remove(cursor);
            let missing: Vec<_> = must.difference(&seen).collect();
            assert!(
                missing.is_empty(),
                "directory {dir} did not list {missing:?}"
            );
        }
    }

    fn listed(&mut self, cursor: usize, dir: Id, entry: Got) {
        let Got {
            name,
            kind,
            ino,
            attr,
        } = entry;
        let parent = self.model.inodes[dir].parent;
        if name == "." || name == ".." {
            let id = if name == "." { dir } else { parent };
            if id != ROOT {
                self.number(id, ino);
            }
            return;
        }
        let id = self.model.lookup(dir, &name);
        let id = id.unwrap_or_else(|_| panic!("directory {dir} lists {name:?}"));
        assert_eq!(kind, self.model.inodes[id].kind, "d_type of {name:?}");
        self.number(id, ino);
        if let Some(attr) = attr {
            self.told(dir, &name, id, &attr);
        }
        let new = self.cursors[cursor].seen.insert(name.clone());
        assert!(new, "directory {dir} lists {name:?} twice");
    }

    /// Compares everything that can be reached, and leaves the kernel's memory as it was.
    pub fn check(&mut self) {
        let lookups = self.lookups.clone();
        let handles: Vec<usize> = (0..self.handles.len()).collect();
        for at in handles {
            let length = self.model.inodes[self.handles[at].id].content.len() as u16;
            self.read(at, 0, length + 1);
            self.getattr(self.handles[at].id);
            self.check_xattrs(self.handles[at].id);
        }
        self.check_dir(ROOT);
        self.check_busy();
        let statfs = self.view.statfs().expect("statfs");
        assert!(statfs.blocks > 0);
        // Children first, as the kernel does it.
        let mut told: Vec<(Id, u64)> = self
            .lookups
            .iter()
            .map(|(id, count)| (*id, count - lookups.get(id).unwrap_or(&0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        told.sort_by_key(|(id, _)| std::cmp::Reverse(self.depth(*id)));
        for (id, count) in told {
            self.forget_some(id, count);
        }
        self.check_disk();
    }

    fn depth(&self, id: Id) -> usize {
        let mut depth = 0;
        let mut at = match self.model.inodes[id].is_dir() {
            true => id,
            false => return usize::MAX,
        };
        while at != ROOT {
            at = self.model.inodes[at].parent;
            depth += 1;
        }
        depth
    }

    fn check_dir(&mut self, dir: Id) {
        let cursors = self.cursors.len();
        self.list(dir, 3, dir.is_multiple_of(2));
        while self.cursors.len() > cursors {
            self.go_on(cursors, 3, dir.is_multiple_of(2));
        }
        let entries: BTreeMap<OsString, Id> = self.model.inodes[dir].entries.clone();
        for (name, id) in entries {
            self.lookup(dir, &name);
            self.check_inode(id);
            if self.model.inodes[id].is_dir() {
                self.check_dir(id);
            }
        }
        self.lookup(dir, OsStr::new("not there"));
    }

    fn check_inode(&mut self, id: Id) {
        self.getattr(id);
        self.check_xattrs(id);
        let ino = self.reach(id).expect("looked up");
        match self.model.inodes[id].kind {
            Kind::File => {
                let opened = self.view.open(ino, OFlag::O_RDONLY, None).expect("open");
                let content = &self.model.inodes[id].content;
                let mut buffer = vec![0; content.len() + 1];
                let read = self.view.read(opened.handle, 0, &mut buffer).expect("read");
                assert_eq!(&buffer[..read], content, "content of inode {id}");
                self.view.release(opened.handle);
            }
            Kind::Symlink => {
                let target = self.view.readlink(ino).expect("readlink");
                assert_eq!(target, self.model.inodes[id].target, "target of inode {id}");
            }
            _ => {}
        }
    }

    fn check_xattrs(&mut self, id: Id) {
        if self.frozen.contains(&id) {
            return;
        }
        let ino = self.reach(id).expect("looked up");
        let mut got = BTreeMap::new();
        for name in self.view.listxattr(ino).expect("listxattr") {
            let value = self.view.getxattr(ino, &name).expect("getxattr");
            got.insert(name, value);
        }
        assert_eq!(got, self.model.inodes[id].xattrs, "xattrs of inode {id}");
    }

    /// The view knows what is open for writing, by a name that it has.
    fn check_busy(&mut self) {
        let model = &self.model;
        let writers: BTreeSet<Id> = self
            .handles
            .iter()
            .filter(|handle| handle.write && !model.gone(handle.id))
            .map(|handle| handle.id)
            .collect();
        let mut busy = BTreeSet::new();
        for path in self.view.busy() {
            let id = path
                .iter()
                .try_fold(ROOT, |at, name| model.lookup(at, name));
            let id = id.unwrap_or_else(|_| panic!("{path:?} is busy but not there"));
            assert!(busy.insert(id), "{path:?} is busy twice");
        }
        assert_eq!(busy, writers, "busy files");
    }
}
