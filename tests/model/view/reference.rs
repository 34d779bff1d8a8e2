//! The filesystem in memory that a view is compared with.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use harness_fs::tree::{Kind, Time};
use harness_fs::view::{RenameMode, Unprivileged};
use nix::errno::Errno;

/// An index into [`Reference::inodes`]; 0 is the root, which holds the mapped paths.
pub type Id = usize;
pub type Result<T> = std::result::Result<T, Errno>;

pub const ROOT: Id = 0;
/// The caller's umask in all operations.
pub const UMASK: u32 = 0o022;
/// Who writes without privileges: in this one group.
pub const OUTSIDER: Unprivileged = Unprivileged { gid: 500, pid: 0 };

#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: Kind,
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
    /// How many names lead here.
    pub names: u32,
    pub content: Vec<u8>,
    pub target: OsString,
    pub rdev: u64,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    pub entries: BTreeMap<OsString, Id>,
    /// A directory's parent.
    pub parent: Id,
    /// The time of its last change, where a test can know it.
    pub mtime: Option<Time>,
}

impl Inode {
    pub fn new(kind: Kind, perm: u32) -> Inode {
        Inode {
            kind,
            perm,
            uid: 0,
            gid: 0,
            names: 0,
            content: Vec::new(),
            target: OsString::new(),
            rdev: 0,
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            parent: ROOT,
            mtime: None,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// What a write by somebody without privileges, or a chown, takes away (inode(7)).
    pub fn drop_privileges(&mut self) {
        self.perm &= !0o4000;
        if self.perm & 0o010 != 0 {
            self.perm &= !0o2000;
        }
    }

    pub fn write(&mut self, offset: usize, data: &[u8], unprivileged: bool) {
        let end = offset + data.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[offset..end].copy_from_slice(data);
        self.changed(unprivileged);
    }

    pub fn truncate(&mut self, size: usize, unprivileged: bool) {
        self.content.resize(size, 0);
        self.changed(unprivileged);
    }

    fn changed(&mut self, unprivileged: bool) {
        self.mtime = None;
        if unprivileged {
            self.drop_privileges();
            // The writer is in no group but its own (fs/attr.c,
            // setattr_should_drop_sgid).
            if self.gid != OUTSIDER.gid {
                self.perm &= !0o2000;
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Reference {
    pub inodes: Vec<Inode>,
}

impl Reference {
    pub fn new() -> Reference {
        let mut root = Inode::new(Kind::Dir, 0o755);
        root.names = 1;
        Reference { inodes: vec![root] }
    }

    pub fn gone(&self, id: Id) -> bool {
        self.inodes[id].names == 0
    }

    /// What a name stands for; `ENOENT` in a removed directory.
    pub fn lookup(&self, dir: Id, name: &OsStr) -> Result<Id> {
        let found = self.inodes[dir].entries.get(name);
        found.copied().ok_or(Errno::ENOENT)
    }

    fn free(&self, dir: Id, name: &OsStr) -> Result<()> {
        if self.gone(dir) {
            return Err(Errno::ENOENT);
        }
        match self.lookup(dir, name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(_) => Ok(()),
        }
    }

    fn enter(&mut self, dir: Id, name: &OsStr, id: Id) {
        self.inodes[dir].entries.insert(name.to_os_string(), id);
        self.inodes[dir].mtime = None;
        self.inodes[id].names += 1;
        if self.inodes[id].is_dir() {
            self.inodes[id].parent = dir;
        }
    }

    fn take(&mut self, dir: Id, name: &OsStr) -> Id {
        let id = self.inodes[dir].entries.remove(name).expect("checked");
        self.inodes[dir].mtime = None;
        self.inodes[id].names -= 1;
        id
    }

    /// Adds an entry of any kind; a group and setgid are inherited (inode(7)).
    pub fn add(&mut self, dir: Id, name: &OsStr, mut inode: Inode) -> Result<Id> {
        self.free(dir, name)?;
        let parent = &self.inodes[dir];
        if parent.perm & 0o2000 != 0 {
            inode.gid = parent.gid;
            if inode.is_dir() {
                inode.perm |= 0o2000;
            }
        }
        self.inodes.push(inode);
        let id = self.inodes.len() - 1;
        self.enter(dir, name, id);
        Ok(id)
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &OsStr) -> Result<()> {
        if self.inodes[id].is_dir() {
            return Err(Errno::EPERM);
        }
        if self.gone(id) {
            return Err(Errno::ENOENT);
        }
        if self.mapped(self.parent_of(id)) != self.mapped(dir) {
            return Err(Errno::EXDEV);
        }
        self.free(dir, name)?;
        self.enter(dir, name, id);
        Ok(())
    }

    pub fn unlink(&mut self, dir: Id, name: &OsStr) -> Result<Id> {
        let id = self.lookup(dir, name)?;
        if self.inodes[id].is_dir() {
            return Err(Errno::EISDIR);
        }
        Ok(self.take(dir, name))
    }

    pub fn rmdir(&mut self, dir: Id, name: &OsStr) -> Result<Id> {
        let id = self.lookup(dir, name)?;
        if !self.inodes[id].is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if !self.inodes[id].entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        Ok(self.take(dir, name))
    }

    /// As renameat2(2). Tells whether anything moved.
    pub fn rename(
        &mut self,
        from: (Id, &OsStr),
        to: (Id, &OsStr),
        mode: RenameMode,
    ) -> Result<bool> {
        let source = self.lookup(from.0, from.1)?;
        if self.gone(to.0) {
            return Err(Errno::ENOENT);
        }
        let target = self.lookup(to.0, to.1).ok();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            _ => {}
        }
        if target == Some(source) {
            return Ok(false);
        }
        if self.mapped(from.0) != self.mapped(to.0) {
            return Err(Errno::EXDEV);
        }
        if self.is_below(to.0, source) {
            return Err(Errno::EINVAL);
        }
        if mode == RenameMode::Exchange {
            let target = target.expect("checked");
            if self.is_below(from.0, target) {
                return Err(Errno::EINVAL);
            }
            self.take(from.0, from.1);
            self.take(to.0, to.1);
            self.enter(from.0, from.1, target);
            self.enter(to.0, to.1, source);
            return Ok(true);
        }
        if let Some(target) = target {
            let (source, target) = (&self.inodes[source], &self.inodes[target]);
            match (source.is_dir(), target.is_dir()) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !target.entries.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
            self.take(to.0, to.1);
        }
        self.take(from.0, from.1);
        self.enter(to.0, to.1, source);
        Ok(true)
    }

    /// A directory that holds a name of this inode, and the name.
    pub fn name_of(&self, id: Id) -> Option<(Id, &OsStr)> {
        let of = |(dir, inode): (Id, &'_ Inode)| {
            let mut names = inode.entries.iter();
            let name = names.find(|(_, child)| **child == id)?.0.clone();
            Some((dir, name))
        };
        let (dir, name) = self.inodes.iter().enumerate().find_map(of)?;
        let (name, _) = self.inodes[dir].entries.get_key_value(&name)?;
        Some((dir, name))
    }

    /// The names that lead to a directory, its own first.
    pub fn path(&self, dir: Id) -> Vec<&OsStr> {
        let mut names = Vec::new();
        let mut at = dir;
        while let Some((parent, name)) = self.name_of(at) {
            names.push(name);
            at = parent;
        }
        names
    }

    fn parent_of(&self, id: Id) -> Id {
        self.name_of(id).map_or(ROOT, |(dir, _)| dir)
    }

    /// The mapped path that a directory lies in.
    pub fn mapped(&self, mut dir: Id) -> Id {
        while self.inodes[dir].parent != ROOT {
            dir = self.inodes[dir].parent;
        }
        dir
    }

    /// True if a directory is `ancestor` or lies below it.
    pub fn is_below(&self, mut dir: Id, ancestor: Id) -> bool {
        loop {
            if dir == ancestor {
                return true;
            }
            if dir == ROOT {
                return false;
            }
            dir = self.inodes[dir].parent;
        }
    }
}
