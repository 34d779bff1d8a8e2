//! Extended attributes, under the names that a view shows.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};

use super::View;
use super::node::Here;
use super::privileges::Unprivileged;
use crate::error::Result;
use crate::layer::copy_up::Extent;
use crate::sys::{at, xattr};
use crate::tree::{Attr, Ino, marker};

/// The ACL that decides on access (acl(5)), and the one that is handed down.
pub const ACCESS_ACL: &str = "system.posix_acl_access";
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// When setxattr(2) may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    /// In any case.
    Any,
    /// `XATTR_CREATE`: only if it is new.
    Create,
    /// `XATTR_REPLACE`: only if it is there.
    Replace,
}

impl SetXattr {
    fn flags(self) -> i32 {
        match self {
            SetXattr::Any => 0,
            SetXattr::Create => libc::XATTR_CREATE,
            SetXattr::Replace => libc::XATTR_REPLACE,
        }
    }
}

/// Refuses names outside of the name spaces that disks have (xattr(7)), as they
/// do: one that is not there is another thing.
fn known(name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let known = spaces.iter().any(|space| bytes.starts_with(space));
    match known || name == ACCESS_ACL || name == DEFAULT_ACL {
        true => Ok(()),
        false => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// The attributes of what lies at a path, or of an open file if that is empty.
fn stat(at: BorrowedFd<'_>, path: &Path) -> Result<Attr> {
    Ok(match path.as_os_str().is_empty() {
        true => at::fstat(at)?.attr,
        false => at::stat(at, path)?.attr,
    })
}

fn chmod(at: BorrowedFd<'_>, path: &Path, perm: u32) -> Result<()> {
    match path.as_os_str().is_empty() {
        true => Ok(fchmod(at, Mode::from_bits_truncate(perm))?),
        false => at::chmod(at, path, perm),
    }
}

/// The name inside a layer, or `ENODATA`/`EPERM` where users cannot have it.
fn inside(name: &OsStr, refused: Errno) -> Result<OsString> {
    match std::str::from_utf8(name.as_bytes()) {
        Ok(text) => match marker::xattr_to_layer(text) {
            Some(inside) => Ok(OsString::from(inside.as_ref())),
            None => Err(refused.into()),
        },
        Err(_) => Ok(name.to_os_string()),
    }
}

/// The names inside a layer as a view shows them.
fn shown(names: Vec<OsString>) -> Vec<OsString> {
    let shown = |name: OsString| match name.to_str() {
        Some(text) => marker::xattr_from_layer(text).map(|shown| OsString::from(shown.as_ref())),
        None => Some(name),
    };
    names.into_iter().filter_map(shown).collect()
}

impl View {
    /// The value of an attribute.
    ///
    /// # Errors
    /// `ENODATA` if there is none, or as getxattr(2).
    pub fn getxattr(&self, ino: Ino, name: &OsStr) -> Result<Vec<u8>> {
        known(name)?;
        let state = self.layers()?;
        let node = self.node(ino)?;
        self.refresh(&state, &node)?;
        let here = node.inner.read().here.clone();
        let value = match here {
            Here::Gone(_) if node.gone() == Errno::ESTALE => return Err(Errno::ESTALE.into()),
            Here::Below(lower) => lower.xattr(name)?,
            Here::Dir(dir) if !dir.upper => match dir.below.first() {
                Some(part) => state.stack.layer(part.layer).xattr(&part.path, name)?,
                None => None,
            },
            Here::Detached { content, .. } => {
                xattr::get(content.file(), Path::new(""), inside(name, Errno::ENODATA)?)?
            }
            _ => node.in_place(|| match node.upper_path() {
                Some(path) => xattr::get(&*state.open, &path, inside(name, Errno::ENODATA)?),
                None => Ok(None),
            })?,
        };
        value.ok_or_else(|| Errno::ENODATA.into())
    }

    /// The names of all attributes.
    ///
    /// # Errors
    /// As listxattr(2).
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<OsString>> {
        let state = self.layers()?;
        let node = self.node(ino)?;
        self.refresh(&state, &node)?;
        let here = node.inner.read().here.clone();
        match here {
            Here::Gone(_) if node.gone() == Errno::ESTALE => Err(Errno::ESTALE.into()),
            Here::Below(lower) => lower.xattrs(),
            Here::Dir(dir) if !dir.upper => match dir.below.first() {
                Some(part) => state.stack.layer(part.layer).xattrs(&part.path),
                None => Ok(Vec::new()),
            },
            Here::Detached { content, .. } => {
                Ok(shown(xattr::list(content.file(), Path::new(""))?))
            }
            _ => node.in_place(|| match node.upper_path() {
                Some(path) => Ok(shown(xattr::list(&*state.open, &path)?)),
                None => Ok(Vec::new()),
            }),
        }
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// As setxattr(2).
    pub fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], how: SetXattr) -> Result<()> {
        let name = inside(name, Errno::EPERM)?;
        let flags = how.flags();
        self.change_xattr(ino, |at, path| xattr::set(at, path, &name, value, flags))
    }

    /// Sets the ACL for somebody unprivileged, whom it may cost setgid.
    ///
    /// # Errors
    /// As setxattr(2).
    pub fn set_access_acl(
        &self,
        ino: Ino,
        value: &[u8],
        how: SetXattr,
        who: Unprivileged,
    ) -> Result<()> {
        self.change_xattr(ino, |at, path| {
            // Before the ACL lets others run it with the group's rights.
            let attr = stat(at, path)?;
            let kept = who.without_setgid(&attr);
            if kept != attr.perm {
                chmod(at, path, kept)?;
            }
            xattr::set(at, path, ACCESS_ACL, value, how.flags()).inspect_err(|_| {
                if kept != attr.perm {
                    let _ = chmod(at, path, attr.perm);
                }
            })
        })
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// As removexattr(2), `ENODATA` if there is none.
    pub fn removexattr(&self, ino: Ino, name: &OsStr) -> Result<()> {
        // Asked first, so that a failure copies nothing up.
        match self.getxattr(ino, name) {
            // An ACL that is not there is removed (fs/ext4/acl.c, ext4_set_acl).
            Err(error)
                if error.errno() == Errno::ENODATA
                    && (name == ACCESS_ACL || name == DEFAULT_ACL) =>
            {
                return Ok(());
            }
            there => there?,
        };
        let name = inside(name, Errno::EPERM)?;
        self.change_xattr(ino, |at, path| xattr::remove(at, path, &name))
    }

    fn change_xattr(
        &self,
        ino: Ino,
        change: impl Fn(BorrowedFd<'_>, &Path) -> Result<()>,
    ) -> Result<()> {
        let node = self.node(ino)?;
        loop {
            self.copy_up(&node, Extent::Metadata)?;
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            let here = node.inner.read().here.clone();
            match here {
                Here::Gone(_) => return Err(node.gone().into()),
                Here::Detached { sealed: true, .. } => return Err(Errno::ESTALE.into()),
                Here::Detached { content, .. } => {
                    return change(content.file().as_fd(), Path::new(""));
                }
                _ => {}
            }
            let changed = node.in_place(|| {
                let path = self.ready_path(&node, Extent::Metadata)?;
                Some(change(state.open.as_fd(), &path))
            });
            if let Some(changed) = changed {
                changed?;
                if node.is_dir() {
                    node.inner.write().set_inherit(None);
                }
                return Ok(());
            }
        }
    }
}
