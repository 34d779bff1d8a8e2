//! Files that are open, and changes of inodes.

use std::ffi::OsStr;

use harness_fs::sys::at::SetTime;
use harness_fs::tree::{Kind, Time};
use harness_fs::view::{SetAttr, SetXattr};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::driver::{Driver, agree};
use crate::ops::Change;
use crate::reference::{Id, Inode, OUTSIDER};

#[derive(Clone, Copy, Debug)]
pub struct Handle {
    pub id: Id,
    pub handle: u64,
    pub write: bool,
}

impl Driver {
    pub fn opened(&mut self, id: Id, handle: u64, write: bool) {
        self.handles.push(Handle { id, handle, write });
    }

    /// Opens a file, also one that is gone but open (by way of `/proc/self/fd`).
    pub fn open(&mut self, id: Id, write: bool, empty: bool, unprivileged: bool) {
        let Some(ino) = self.reach(id) else { return };
        let mut flags = if write {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        if empty {
            flags |= OFlag::O_TRUNC;
        }
        // By path it would be another file.
        if self.replaced.contains(&id) && (write || empty) {
            let got = self.view.open(ino, flags, unprivileged.then_some(OUTSIDER));
            agree(("open", id, write, empty), Err::<(), _>(Errno::ESTALE), got);
            return;
        }
        if empty {
            self.model.inodes[id].truncate(0, unprivileged);
        }
        let got = self.view.open(ino, flags, unprivileged.then_some(OUTSIDER));
        if let Some(((), opened)) = agree(("open", id, write, empty), Ok(()), got) {
            self.opened(id, opened.handle, write);
        }
    }

    pub fn write(&mut self, at: usize, offset: u16, length: u16, unprivileged: bool) {
        let Handle { id, handle, write } = self.handles[at];
        if !write {
            return;
        }
        let data: Vec<u8> = (0..length).map(|i| (i ^ offset) as u8).collect();
        let by = unprivileged.then_some(OUTSIDER);
        let got = self.view.write(handle, offset.into(), &data, by);
        if self.is_refused(id, &got) {
            return;
        }
        self.model.inodes[id].write(offset.into(), &data, unprivileged);
        if let Some((length, done)) = agree(("write", id), Ok(data.len()), got) {
            assert_eq!(done, length);
        }
    }

    pub fn read(&mut self, at: usize, offset: u16, length: u16) {
        let Handle { id, handle, .. } = self.handles[at];
        let content = &self.model.inodes[id].content;
        let from = content.len().min(offset.into());
        let to = content.len().min(usize::from(offset) + usize::from(length));
        let mut buffer = vec![0; length.into()];
        let got = self.view.read(handle, offset.into(), &mut buffer);
        if let Some(((), done)) = agree(("read", id), Ok(()), got) {
            assert_eq!(&buffer[..done], &content[from..to], "content of inode {id}");
        }
    }

    pub fn release(&mut self, at: usize) {
        let Handle { handle, .. } = self.handles.remove(at);
        self.view.release(handle);
    }

    pub fn getattr(&mut self, id: Id) {
        let Some(ino) = self.reach(id) else { return };
        let got = self.view.getattr(ino);
        if let Some(((), attr)) = agree(("getattr", id), Ok(()), got) {
            self.compare(id, &attr);
        }
    }

    fn setattr(&mut self, id: Id, set: &SetAttr, change: impl FnOnce(&mut Inode)) {
        let Some(ino) = self.reach(id) else { return };
        let got = self.view.setattr(ino, set);
        if self.is_refused(id, &got) {
            return;
        }
        change(&mut self.model.inodes[id]);
        if let Some(((), attr)) = agree(("setattr", id, set), Ok(()), got) {
            self.compare(id, &attr);
        }
    }

    pub fn truncate(&mut self, id: Id, size: u16, unprivileged: bool) {
        let set = SetAttr {
            size: Some(size.into()),
            unprivileged: unprivileged.then_some(OUTSIDER),
            ..SetAttr::default()
        };
        self.setattr(id, &set, |inode| inode.truncate(size.into(), unprivileged));
    }

    pub fn change(&mut self, id: Id, change: Change) {
        let kind = self.model.inodes[id].kind;
        match change {
            // The kernel refuses this one.
            Change::Perm(_) if kind == Kind::Symlink => {}
            Change::Perm(perm) => {
                let set = SetAttr {
                    perm: Some(perm),
                    ..SetAttr::default()
                };
                self.setattr(id, &set, |inode| inode.perm = perm);
            }
            Change::Owner(uid, gid) => {
                let set = SetAttr {
                    uid: Some(uid),
                    gid: Some(gid),
                    ..SetAttr::default()
                };
                self.setattr(id, &set, |inode| {
                    (inode.uid, inode.gid) = (uid, gid);
                    // As any local disk (fs/open.c, chown_common).
                    if kind != Kind::Dir {
                        inode.drop_privileges();
                    }
                });
            }
            Change::Times(sec) => {
                let mtime = Time {
                    sec: sec.into(),
                    nsec: 987_654_321,
                };
                let set = SetAttr {
                    mtime: Some(SetTime::To(mtime)),
                    ..SetAttr::default()
                };
                self.setattr(id, &set, |inode| inode.mtime = Some(mtime));
            }
        }
    }

    pub fn setxattr(&mut self, id: Id, name: &OsStr, value: &[u8], how: SetXattr) {
        if !self.has_xattr(id, name) {
            return;
        }
        let Some(ino) = self.reach(id) else { return };
        let got = self.view.setxattr(ino, name, value, how);
        if self.is_refused(id, &got) {
            return;
        }
        let xattrs = &mut self.model.inodes[id].xattrs;
        let expected = match (how, xattrs.contains_key(name)) {
            _ if ours(name) => Err(Errno::EPERM),
            (SetXattr::Create, true) => Err(Errno::EEXIST),
            (SetXattr::Replace, false) => Err(Errno::ENODATA),
            _ => {
                xattrs.insert(name.to_os_string(), value.to_vec());
                Ok(())
            }
        };
        agree(("setxattr", id, name, how), expected, got);
    }

    pub fn removexattr(&mut self, id: Id, name: &OsStr) {
        if !self.has_xattr(id, name) {
            return;
        }
        let Some(ino) = self.reach(id) else { return };
        let got = self.view.removexattr(ino, name);
        if self.is_refused(id, &got) {
            return;
        }
        let removed = self.model.inodes[id].xattrs.remove(name);
        let expected = removed.map(drop).ok_or(Errno::ENODATA);
        agree(("removexattr", id, name), expected, got);
    }

    /// Who has something open that went with the layers that a restore left can read it, and may
    /// be refused to change it.
    fn is_refused<T>(&self, id: Id, got: &harness_fs::error::Result<T>) -> bool {
        let refused = got.as_ref().err().map(|error| error.errno()) == Some(Errno::ESTALE);
        refused && self.frozen.contains(&id)
    }

    /// xattr(7): `user.*` is for files and directories; the kernel refuses the rest. What is only
    /// there to be read has those of its content.
    fn has_xattr(&self, id: Id, name: &OsStr) -> bool {
        let kind = self.model.inodes[id].kind;
        if self.frozen.contains(&id) {
            return false;
        }
        matches!(kind, Kind::File | Kind::Dir) || !name.to_string_lossy().starts_with("user.")
    }
}

/// Names that nobody may use in a view.
fn ours(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("trusted.harness.")
}
