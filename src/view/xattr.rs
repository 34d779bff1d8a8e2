//! Extended attributes, under the names that a view shows.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::View;
use super::node::Here;
use crate::error::Result;
use crate::layer::copy_up::Extent;
use crate::sys::xattr;
use crate::tree::Ino;
use crate::tree::marker;

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
        let state = self.layers()?;
        let node = self.node(ino)?;
        self.refresh(&state, &node)?;
        let here = node.inner.read().here.clone();
        let value = match here {
            Here::Gone(_) if node.gone() == Errno::ESTALE => return Err(Errno::ESTALE.into()),
            Here::Below { stack, found } => {
                let part = &found.parts[0];
                stack.layer(part.layer).xattr(&part.path, name)?
            }
            Here::Dir(dir) if !dir.upper => match dir.below.first() {
                Some(part) => state.stack.layer(part.layer).xattr(&part.path, name)?,
                None => None,
            },
            Here::Detached { fd, .. } => {
                xattr::get(&fd, Path::new(""), inside(name, Errno::ENODATA)?)?
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
            Here::Below { stack, found } => {
                let part = &found.parts[0];
                stack.layer(part.layer).xattrs(&part.path)
            }
            Here::Dir(dir) if !dir.upper => match dir.below.first() {
                Some(part) => state.stack.layer(part.layer).xattrs(&part.path),
                None => Ok(Vec::new()),
            },
            Here::Detached { fd, .. } => Ok(shown(xattr::list(&fd, Path::new(""))?)),
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
        let flags = match how {
            SetXattr::Any => 0,
            SetXattr::Create => libc::XATTR_CREATE,
            SetXattr::Replace => libc::XATTR_REPLACE,
        };
        self.change_xattr(ino, |at, path| xattr::set(at, path, &name, value, flags))
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// As removexattr(2), `ENODATA` if there is none.
    pub fn removexattr(&self, ino: Ino, name: &OsStr) -> Result<()> {
        // Asked first, so that a failure copies nothing up.
        self.getxattr(ino, name)?;
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
                Here::Detached { fd, .. } => return change(fd.as_fd(), Path::new("")),
                _ => {}
            }
            let changed = node.in_place(|| {
                let path = self.ready_path(&node, Extent::Metadata)?;
                Some(change(state.open.as_fd(), &path))
            });
            if let Some(changed) = changed {
                changed?;
                if node.is_dir() {
                    node.inner.write().inherit = None;
                }
                return Ok(());
            }
        }
    }
}
