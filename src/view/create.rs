//! create, mkdir, mknod, symlink.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::lookup::{Resolved, check_new_name};
use super::lower::DirHere;
use super::node::{Content, Here, Inherit, Node, OpenFile, UpperAt};
use super::{Layers, View};
use crate::error::Result;
use crate::layer::copy_up::make_node_as;
use crate::layer::{Backing, OpenLayer, set_ino};
use crate::sys::{at, xattr};
use crate::tree::listing::Listed;
use crate::tree::marker::{INO, OPAQUE};
use crate::tree::union::Entry;
use crate::tree::{Attr, Ino, Kind};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its user, for the owner of new entries.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its file mode creation mask.
    pub umask: u32,
}

/// A free name: where it is, and whether a whiteout lies there.
pub(super) struct Slot {
    pub path: PathBuf,
    pub whiteout: bool,
}

impl View {
    /// Sees that a name is free in a directory that is in the open layer. The
    /// directory's names are locked for writing.
    pub(super) fn free_slot(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        dir: &DirHere,
        name: &OsStr,
    ) -> Result<Slot> {
        if parent.ino == self.top {
            // The root holds the mapped paths and nothing else.
            return Err(Errno::EPERM.into());
        }
        let name = check_new_name(name)?;
        let whiteout = match state.open.entry(&parent.path().join(&name))? {
            Some(Entry::Present(..)) => return Err(Errno::EEXIST.into()),
            Some(Entry::Whiteout) => true,
            None if self.below_has(state, dir, &name)? => return Err(Errno::EEXIST.into()),
            None => false,
        };
        Ok(Slot {
            path: parent.upper_child(&name),
            whiteout,
        })
    }

    /// Makes an entry with `make`: in place where the name is free on disk, in
    /// `work/` and then over the whiteout where one lies there.
    fn make<T>(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        slot: &Slot,
        is_dir: bool,
        make: impl Fn(&Path) -> Result<T>,
    ) -> Result<T> {
        let open = &*state.open;
        if !slot.whiteout {
            return make(&slot.path).inspect_err(|error| {
                if error.errno() != Errno::EEXIST {
                    let _ = at::remove_all(open, &slot.path);
                }
            });
        }
        let inherit = self.inheritance(state, parent)?;
        let nursery = open.temporary();
        at::mkdir(open, &nursery, 0o755)?;
        let temporary = nursery.join("new");
        let made = (|| {
            // The entry must inherit as if it were born in its place.
            if inherit.gid.is_some() || inherit.acl {
                let place = parent.upper_path().ok_or(Errno::ENOENT)?;
                at::chown(open, &nursery, None, inherit.gid)?;
                at::chmod(
                    open,
                    &nursery,
                    if inherit.gid.is_some() { 0o2755 } else { 0o755 },
                )?;
                if let Some(acl) = xattr::get(open, &place, "system.posix_acl_default")? {
                    xattr::set(open, &nursery, "system.posix_acl_default", &acl, 0)?;
                }
            }
            let value = make(&temporary)?;
            open.put(&temporary, &slot.path, is_dir, true)?;
            Ok(value)
        })();
        let _ = at::remove_all(open, &nursery);
        made
    }

    /// The owner that a new entry needs beyond what the disk gave it.
    fn own(&self, state: &Layers, path: &Path, caller: &Caller, inherit: &Inherit) -> Result<bool> {
        let gid = inherit.gid.is_none().then_some(caller.gid);
        if caller.uid == 0 && gid.unwrap_or(0) == 0 {
            return Ok(false);
        }
        at::chown(&*state.open, path, Some(caller.uid), gid)?;
        Ok(true)
    }

    /// Puts a new entry into the table and into its parent's listing.
    fn enter(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
        attr: Attr,
        here: Here,
    ) -> Arc<Node> {
        let node = self.adopt(state, parent, name, Resolved { attr, here });
        node.count_lookup();
        self.made_name(parent, name);
        if let Some(listing) = parent.inner.write().listing_mut() {
            listing.insert(Listed {
                name: name.to_os_string(),
                kind: attr.kind,
                ino: attr.ino,
            });
        }
        node
    }

    fn permissions(mode: u32, caller: &Caller, inherit: &Inherit) -> u32 {
        let perm = mode & 0o7777;
        // acl(5): a default ACL takes the place of the umask.
        if inherit.acl {
            perm
        } else {
            perm & !caller.umask
        }
    }

    /// Makes and opens a regular file. Returns its attributes and a handle.
    ///
    /// # Errors
    /// As open(2) with `O_CREAT | O_EXCL`.
    pub fn create(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        writable: bool,
        caller: &Caller,
    ) -> Result<(Attr, u64)> {
        let state = self.layers()?;
        let parent = self.node(parent)?;
        let dir = self.ensure_upper(&state, &parent)?;
        let _names = parent.names().write();
        let slot = self.free_slot(&state, &parent, &dir, name)?;
        let inherit = self.inheritance(&state, &parent)?;
        let perm = Self::permissions(mode, caller, &inherit);
        let ino = self.inos.allocate();
        let open = &*state.open;
        let (file, mut attr) = self.make(&state, &parent, &slot, false, |path| {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
            let file = at::open(open, path, flags, perm)?;
            number_file(&file, ino)?;
            if self.own(&state, path, caller, &inherit)? {
                restore_bits(open, path, perm & 0o6000)?;
            }
            let attr = at::fstat(&file)?.attr;
            Ok((file, attr))
        })?;
        attr.ino = ino;
        let here = Here::Upper {
            at: UpperAt::Name,
            content: Content::Whole,
        };
        let node = self.enter(&state, &parent, name, attr, here);
        {
            let mut inner = node.inner.write();
            inner.opens += 1;
            inner.set_file(OpenFile::keep(Arc::new(Backing::Whole(file)), true));
        }
        Ok((attr, self.new_handle(node, writable)))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn mkdir(&self, parent: Ino, name: &OsStr, mode: u32, caller: &Caller) -> Result<Attr> {
        let state = self.layers()?;
        let parent = self.node(parent)?;
        let dir = self.ensure_upper(&state, &parent)?;
        let _names = parent.names().write();
        let slot = self.free_slot(&state, &parent, &dir, name)?;
        let inherit = self.inheritance(&state, &parent)?;
        let perm = Self::permissions(mode, caller, &inherit) & 0o1777;
        let ino = self.inos.allocate();
        let open = &*state.open;
        let mut attr = self.make(&state, &parent, &slot, true, |path| {
            at::mkdir(open, path, perm)?;
            self.own(&state, path, caller, &inherit)?;
            // mkdir(2) does not take the sticky bit on every disk.
            restore_bits(open, path, perm & 0o1000)?;
            if slot.whiteout {
                open.mark(path, ino, OPAQUE, OsStr::new("y"))?;
            } else {
                set_ino(open, path, ino, false)?;
            }
            Ok(at::stat(open, path)?.attr)
        })?;
        attr.ino = ino;
        let here = Here::Dir(Arc::new(DirHere::only_upper()));
        self.enter(&state, &parent, name, attr, here);
        Ok(attr)
    }

    /// Makes a FIFO, a socket, a device node, or an empty regular file.
    ///
    /// # Errors
    /// As mknod(2).
    pub fn mknod(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        rdev: u64,
        caller: &Caller,
    ) -> Result<Attr> {
        let kind = Kind::from_mode(mode);
        self.make_leaf(parent, name, caller, |state, path, ino, inherit| {
            let open = &*state.open;
            let perm = Self::permissions(mode, caller, inherit);
            // With its mode from the start: a default ACL is masked by it (acl(5)).
            make_node_as(open, path, kind, perm, rdev, ino)?;
            if self.own(state, path, caller, inherit)? {
                restore_bits(open, path, perm & 0o6000)?;
            }
            Ok(Attr {
                kind,
                rdev,
                ..at::stat(open, path)?.attr
            })
        })
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As symlink(2).
    pub fn symlink(
        &self,
        parent: Ino,
        name: &OsStr,
        target: &OsStr,
        caller: &Caller,
    ) -> Result<Attr> {
        self.make_leaf(parent, name, caller, |state, path, ino, inherit| {
            let open = &*state.open;
            at::symlink(target, open, path)?;
            set_ino(open, path, ino, false)?;
            self.own(state, path, caller, inherit)?;
            Ok(at::stat(open, path)?.attr)
        })
    }

    fn make_leaf(
        &self,
        parent: Ino,
        name: &OsStr,
        _caller: &Caller,
        make: impl Fn(&Layers, &Path, Ino, &Inherit) -> Result<Attr>,
    ) -> Result<Attr> {
        let state = self.layers()?;
        let parent = self.node(parent)?;
        let dir = self.ensure_upper(&state, &parent)?;
        let _names = parent.names().write();
        let slot = self.free_slot(&state, &parent, &dir, name)?;
        let inherit = self.inheritance(&state, &parent)?;
        let ino = self.inos.allocate();
        let mut attr = self.make(&state, &parent, &slot, false, |path| {
            make(&state, path, ino, &inherit)
        })?;
        attr.ino = ino;
        let here = Here::Upper {
            at: UpperAt::Name,
            content: Content::Whole,
        };
        self.enter(&state, &parent, name, attr, here);
        Ok(attr)
    }
}

/// Gives a new entry bits that it should have from the start, and leaves the
/// rest of the mode as the directory's default ACL made it.
fn restore_bits(open: &OpenLayer, path: &Path, bits: u32) -> Result<()> {
    if bits == 0 {
        return Ok(());
    }
    let made = at::stat(open, path)?.attr.perm;
    at::chmod(open, path, made | bits)
}

fn number_file(file: &OwnedFd, ino: Ino) -> Result<()> {
    xattr::fset(file, INO, ino.to_string().as_bytes())
}
