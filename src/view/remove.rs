//! unlink and rmdir.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::lower::DirHere;
use super::node::{Here, Node, UpperAt};
use super::{Layers, View};
use crate::error::Result;
use crate::layer::{LinkState, OpenLayer};
use crate::sys::at;
use crate::tree::marker::OPAQUE;
use crate::tree::{Attr, Ino, Kind};

/// A name that is about to be removed.
pub(super) struct Leaving {
    /// It is one of several, and counted.
    counted: bool,
    names_left: u32,
    /// A link in `orphans/` keeps the content.
    orphan: bool,
    /// What is left of an inode that is not open.
    last: Attr,
}

impl Leaving {
    /// The name stays after all.
    fn call_off(&self, open: &OpenLayer, ino: Ino) {
        let orphan = match self.orphan {
            true => at::unlink(open, &OpenLayer::orphan_path(ino)),
            false => Ok(()),
        };
        let count = |links: Option<LinkState>| {
            links.filter(|_| self.counted).map(|links| LinkState {
                nlink: links.nlink + 1,
                ..links
            })
        };
        let counted = open.change_link_state(ino, count).map(drop);
        if let Err(error) = orphan.and(counted) {
            log::warn!("inode {ino}, whose name stays: {error}");
        }
    }
}

/// Sets the ctime of a file that has lost one of its names, as unlink(2) asks: a name
/// that only a layer below has is hidden, which does not touch the file. Another change
/// of the mode meanwhile would be taken back: the kernel locks the inode for both.
fn touch(open: &OpenLayer, node: &Node) -> Result<()> {
    let path = node.upper_path().ok_or(Errno::ENOENT)?;
    match node.kind {
        // It has no mode to set, and no setuid that chown(2) would take away.
        Kind::Symlink => at::chown(open, &path, None, None),
        _ => at::chmod(open, &path, at::stat(open, &path)?.attr.perm),
    }
}

impl View {
    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        let state = self.layers()?;
        let parent = self.node(parent)?;
        let _names = parent.names().write();
        let (node, attr) = self.child(&state, &parent, name)?.ok_or(Errno::ENOENT)?;
        if node.is_dir() {
            return Err(Errno::EISDIR.into());
        }
        if parent.ino == self.top {
            return Err(Errno::EBUSY.into());
        }
        // What is removed either lies in the open layer or needs a whiteout there.
        let dir = self.ensure_upper(&state, &parent)?;
        let hides = self.below_has(&state, &dir, name)?;
        self.drop_name(&state, &parent, name, &node, &attr, hides)?;
        drop(_names);
        drop(state);
        let ino = node.ino;
        drop(node);
        self.evict(ino);
        Ok(())
    }

    /// Takes a file's name away, on disk and in the table; `hides` when the
    /// stack has something under that name, so that a whiteout must stay. The
    /// parent's names are locked for writing.
    fn drop_name(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
        node: &Arc<Node>,
        attr: &Attr,
        hides: bool,
    ) -> Result<()> {
        let open = &*state.open;
        let path = parent.upper_child(name);
        let leaving = self.before_name_goes(state, parent, name, node, attr)?;
        let done = if hides {
            open.whiteout_file(&path)
        } else {
            at::unlink(open, &path)
        };
        self.after_name_went(state, parent, name, node, &leaving, done)?;
        if let Some(listing) = parent.inner.write().listing_mut() {
            listing.remove(name);
        }
        Ok(())
    }

    /// Prepares the removal of a file's name so that it can still be called
    /// off: counts it, and keeps the content of an open file within reach.
    pub(super) fn before_name_goes(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
        node: &Arc<Node>,
        attr: &Attr,
    ) -> Result<Leaving> {
        let open = &*state.open;
        let links = open.change_link_state(node.ino, |known| {
            let several = (attr.nlink > 1).then_some(LinkState {
                nlink: attr.nlink,
                origin: attr.nlink,
                here: false,
            });
            let nlink = |links: LinkState| links.nlink.saturating_sub(1);
            known.or(several).map(|links| LinkState {
                nlink: nlink(links),
                ..links
            })
        })?;
        let mut leaving = Leaving {
            counted: links.is_some(),
            names_left: links.map_or(0, |links| links.nlink),
            orphan: false,
            last: Attr { nlink: 0, ..*attr },
        };
        let (here, opens) = {
            let inner = node.inner.read();
            (inner.here.clone(), inner.opens)
        };
        let source = match here {
            Here::Upper { at, .. } if leaving.names_left == 0 && opens > 0 => match at {
                UpperAt::Name => parent.upper_child(name),
                UpperAt::Index => OpenLayer::index_path(node.ino),
                UpperAt::Orphan => return Ok(leaving),
            },
            _ => return Ok(leaving),
        };
        at::link(open, &source, open, &OpenLayer::orphan_path(node.ino))
            .inspect_err(|_| leaving.call_off(open, node.ino))?;
        leaving.orphan = true;
        Ok(leaving)
    }

    /// Ends what [`View::before_name_goes`] began, as the removal itself did.
    pub(super) fn after_name_went(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
        node: &Arc<Node>,
        leaving: &Leaving,
        removal: Result<()>,
    ) -> Result<()> {
        let open = &*state.open;
        if let Err(error) = removal {
            leaving.call_off(open, node.ino);
            return Err(error);
        }
        let indexed = {
            let mut inner = node.inner.write();
            inner.remove_place(parent, name);
            if leaving.names_left > 0 {
                let copied = matches!(inner.here, Here::Upper { .. });
                drop(inner);
                if copied && let Err(error) = touch(open, node) {
                    log::warn!("ctime of inode {}: {error}", node.ino);
                }
                return Ok(());
            }
            inner.unlinked = true;
            let indexed = matches!(
                inner.here,
                Here::Upper {
                    at: UpperAt::Index,
                    ..
                }
            );
            if inner.opens == 0 {
                inner.here = Here::Gone(Box::new(leaving.last));
                inner.set_file(None);
            } else if leaving.orphan
                && let Here::Upper { at, .. } = &mut inner.here
            {
                *at = UpperAt::Orphan;
            }
            indexed
        };
        if indexed && let Err(error) = at::unlink(open, &OpenLayer::index_path(node.ino)) {
            // Only its blocks are lost, until the layer is sealed.
            log::warn!("index of inode {}: {error}", node.ino);
        }
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2); `EBUSY` for the root of a mapped path.
    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<()> {
        let state = self.layers()?;
        let parent = self.node(parent)?;
        let _names = parent.names().write();
        let (node, attr) = self.child(&state, &parent, name)?.ok_or(Errno::ENOENT)?;
        if !node.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        if parent.ino == self.top {
            return Err(Errno::EBUSY.into());
        }
        let _own_names = node.names().write();
        if !self.is_empty(&state, &node)? {
            return Err(Errno::ENOTEMPTY.into());
        }
        let dir = self.ensure_upper(&state, &parent)?;
        let hides = self.below_has(&state, &dir, name)?;
        let path = parent.upper_child(name);
        let upper = node.dir().is_some_and(|dir| dir.upper);
        match (upper, hides) {
            (true, true) => state.open.whiteout_dir(&path)?,
            (true, false) => {
                self.clear_dir(&state, &node, &path)?;
                at::rmdir(&*state.open, &path)?;
            }
            (false, _) => state.open.whiteout_file(&path)?,
        }
        node.remove_dir(attr);
        if let Some(listing) = parent.inner.write().listing_mut() {
            listing.remove(name);
        }
        drop(_own_names);
        drop(_names);
        drop(state);
        let ino = node.ino;
        drop(node);
        self.evict(ino);
        Ok(())
    }
    /// Empties a directory on disk of which nothing shows, so that it can be
    /// removed or renamed over; opaque first, so that nothing reappears.
    pub(super) fn clear_dir(&self, state: &Layers, node: &Node, path: &Path) -> Result<()> {
        let open = &*state.open;
        if node.dir().is_some_and(|dir| !dir.below.is_empty()) {
            open.mark(path, node.ino, OPAQUE, OsStr::new("y"))?;
            if let Here::Dir(dir) = &mut node.inner.write().here {
                let opaque = DirHere::new(Vec::new(), &dir.origin, dir.attr, dir.upper);
                *dir = Arc::new(opaque);
            }
        }
        open.clear_dir(path)
    }
}
