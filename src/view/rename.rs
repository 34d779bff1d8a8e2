//! rename, with NOREPLACE, EXCHANGE and WHITEOUT, of anything within a mapped path.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use super::link::mapped;
use super::lookup::check_new_name;
use super::name::Place;
use super::node::Node;
use super::{Layers, View};
use crate::error::Result;
use crate::layer::OpenLayer;
use crate::layer::copy_up::{Extent, make_node_as};
use crate::sys::at;
use crate::tree::listing::Listed;
use crate::tree::marker::Marks;
use crate::tree::union::{Entry, redirect_text};
use crate::tree::{Attr, Ino, Kind, marker};

/// What renameat2(2) is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace what the new name stands for.
    Replace,
    /// Fail if the new name is taken.
    NoReplace,
    /// Change places.
    Exchange,
    /// Leave a 0:0 character device under the old name (`RENAME_WHITEOUT`), of
    /// this owner; fail if the new name is taken and may not be.
    Whiteout {
        /// Its user.
        uid: u32,
        /// Its group, where the directory does not say.
        gid: u32,
        /// `RENAME_NOREPLACE`.
        no_replace: bool,
    },
}

impl RenameMode {
    fn replaces(self) -> bool {
        !matches!(
            self,
            RenameMode::NoReplace
                | RenameMode::Whiteout {
                    no_replace: true,
                    ..
                }
        )
    }
}

struct Request<'a> {
    from_parent: Ino,
    from: &'a OsStr,
    to_parent: Ino,
    to: &'a OsStr,
    mode: RenameMode,
}

/// One end of a rename.
struct End<'a> {
    parent: &'a Arc<Node>,
    name: &'a OsStr,
    /// The stack shows something under this name.
    hides: bool,
}

impl End<'_> {
    fn path(&self) -> PathBuf {
        self.parent.upper_child(self.name)
    }
}

impl View {
    /// Moves an entry.
    ///
    /// # Errors
    /// As renameat2(2); `EXDEV` across mapped paths, `EBUSY` for the root of one.
    pub fn rename(
        &self,
        from_parent: Ino,
        from: &OsStr,
        to_parent: Ino,
        to: &OsStr,
        mode: RenameMode,
    ) -> Result<()> {
        self.rename_if((from_parent, from), (to_parent, to), mode, |_| true)
            .map(drop)
    }

    /// Like [`View::rename`], but only if nothing has to be copied that takes
    /// long: else false, and nothing is done.
    ///
    /// # Errors
    /// As [`View::rename`].
    pub fn rename_now(
        &self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        mode: RenameMode,
    ) -> Result<bool> {
        self.rename_if(from, to, mode, |node| {
            !self.node_copies_much(node, Extent::Metadata)
        })
    }

    /// Renames if all that has to be copied up `may` be.
    fn rename_if(
        &self,
        (from_parent, from): (Ino, &OsStr),
        (to_parent, to): (Ino, &OsStr),
        mode: RenameMode,
        may: impl Fn(&Arc<Node>) -> bool,
    ) -> Result<bool> {
        check_new_name(to)?;
        if from_parent == self.top || to_parent == self.top {
            return Err(Errno::EBUSY.into());
        }
        loop {
            // Whatever has to be copied is copied before anything is locked.
            let (source, target, is_dir) = {
                let state = self.layers()?;
                let source = self.peek(&state, from_parent, from)?.ok_or(Errno::ENOENT)?;
                let target = self.peek(&state, to_parent, to)?;
                let is_dir = source.is_dir() || target.as_ref().is_some_and(|node| node.is_dir());
                (source, target, is_dir)
            };
            if !may(&source) || mode == RenameMode::Exchange && !target.iter().all(&may) {
                return Ok(false);
            }
            self.copy_up(&source, Extent::Metadata)?;
            if mode == RenameMode::Exchange {
                let target = target.as_ref().ok_or(Errno::ENOENT)?;
                self.copy_up(target, Extent::Metadata)?;
            }
            let request = Request {
                from_parent,
                from,
                to_parent,
                to,
                mode,
            };
            let done = if is_dir || from_parent != to_parent {
                // The paths of all below change, or two directories do: nobody
                // else may be on the way.
                let state = self.state.write();
                self.rename_locked(&state, &request, &source)?
            } else {
                let state = self.layers()?;
                let parent = self.node(from_parent)?;
                let _names = parent.names().write();
                self.rename_locked(&state, &request, &source)?
            };
            if done {
                return Ok(true);
            }
        }
    }

    fn peek(&self, state: &Layers, parent: Ino, name: &OsStr) -> Result<Option<Arc<Node>>> {
        let parent = self.node(parent)?;
        let _names = parent.names().read();
        Ok(self.child(state, &parent, name)?.map(|(node, _)| node))
    }

    /// Renames what is copied up already. False when it has to be copied up
    /// again because the layers were replaced meanwhile.
    fn rename_locked(
        &self,
        state: &Layers,
        request: &Request<'_>,
        prepared: &Arc<Node>,
    ) -> Result<bool> {
        let from_parent = self.node(request.from_parent)?;
        let to_parent = self.node(request.to_parent)?;
        let (source, _) = self
            .child(state, &from_parent, request.from)?
            .ok_or(Errno::ENOENT)?;
        if !Arc::ptr_eq(&source, prepared) || self.ready_path(&source, Extent::Metadata).is_none() {
            return Ok(false);
        }
        let target = self.child(state, &to_parent, request.to)?;
        if let Some((target, _)) = &target {
            if !request.mode.replaces() {
                return Err(Errno::EEXIST.into());
            }
            // rename(2): two names of one inode stay as they are.
            if Arc::ptr_eq(target, &source) {
                return Ok(true);
            }
        }
        if mapped(&from_parent.path()) != mapped(&to_parent.path()) {
            return Err(Errno::EXDEV.into());
        }
        if source.is_dir() && is_below(&to_parent, &source) {
            return Err(Errno::EINVAL.into());
        }
        let from = self.end(state, &from_parent, request.from)?;
        let to = self.end(state, &to_parent, request.to)?;
        if request.mode == RenameMode::Exchange {
            let (target, _) = target.ok_or(Errno::ENOENT)?;
            if self.ready_path(&target, Extent::Metadata).is_none() {
                return Ok(false);
            }
            if target.is_dir() && is_below(&from_parent, &target) {
                return Err(Errno::EINVAL.into());
            }
            self.exchange(state, &from, &to, &source, &target)?;
        } else {
            self.check_target(state, &source, target.as_ref().map(|(target, _)| target))?;
            self.make_movable(state, &from, &to, &source)?;
            if let RenameMode::Whiteout { uid, gid, .. } = request.mode {
                self.move_leaving_device(state, &from, &to, &source, target, (uid, gid))?;
            } else {
                self.move_over(state, &from, &to, &source, target)?;
            }
        }
        Ok(true)
    }

    /// Moves the source, and puts a device of number 0:0 in its place: what an
    /// overlayfs above this one takes for a whiteout.
    fn move_leaving_device(
        &self,
        state: &Layers,
        from: &End<'_>,
        to: &End<'_>,
        source: &Arc<Node>,
        target: Option<(Arc<Node>, Attr)>,
        (uid, gid): (u32, u32),
    ) -> Result<()> {
        let open = &*state.open;
        let kind = Kind::CharDevice;
        let ino = self.inos.allocate();
        // Made first: a full disk says so before anything is moved.
        let device = open.temporary();
        let inherited = self.inheritance(state, from.parent)?.gid;
        let moved = make_node_as(open, &device, kind, 0, 0, ino)
            .and_then(|()| at::chown(open, &device, Some(uid), inherited.or(Some(gid))))
            .and_then(|()| self.move_over(state, from, to, source, target));
        if let Err(error) = moved {
            let _ = at::unlink(open, &device);
            return Err(error);
        }
        let old = from.parent.path().join(from.name);
        let covered = open.entry(&old)? == Some(Entry::Whiteout);
        open.put(&device, &from.path(), false, covered)?;
        if let Some(listing) = from.parent.inner.write().listing_mut() {
            listing.insert(Listed {
                name: from.name.to_os_string(),
                kind,
                ino,
            });
        }
        Ok(())
    }

    fn end<'a>(&self, state: &Layers, parent: &'a Arc<Node>, name: &'a OsStr) -> Result<End<'a>> {
        let dir = self.ensure_upper(state, parent)?;
        let hides = self.below_has(state, &dir, name)?;
        Ok(End {
            parent,
            name,
            hides,
        })
    }

    /// Makes an entry fit to lie under another name: a directory says where it
    /// continues below, or that it does not; a file has its name in the tree.
    fn make_movable(
        &self,
        state: &Layers,
        from: &End<'_>,
        to: &End<'_>,
        node: &Node,
    ) -> Result<()> {
        let open = &*state.open;
        let path = from.path();
        match node.dir() {
            // As overlayfs answers when a redirect does not fit.
            Some(dir)
                if !dir.below.is_empty()
                    && (!open.manner().redirects
                        || dir.origin.as_os_str().len() > marker::REDIRECT_MAX) =>
            {
                Err(Errno::EXDEV.into())
            }
            Some(dir) if !dir.below.is_empty() => open.mark(
                &path,
                node.ino,
                marker::REDIRECT,
                &redirect_text(&dir.origin),
            ),
            Some(_) if to.hides => open.mark(&path, node.ino, marker::OPAQUE, OsStr::new("y")),
            Some(_) => Ok(()),
            None => {
                let relative = from.parent.path().join(from.name);
                match open.entry(&relative)? {
                    // Copied up through another of its names.
                    None => at::link(open, &OpenLayer::index_path(node.ino), open, &path),
                    Some(Entry::Present(_, marks))
                        if marks.metacopy && marks.redirect.is_none() =>
                    {
                        self.name_content(state, from, node, &marks)
                    }
                    Some(_) => Ok(()),
                }
            }
        }
    }

    /// Says where the content of a copy of metadata lies, which its name tells as long as it keeps
    /// that: the kernel makes such.
    fn name_content(&self, state: &Layers, at: &End<'_>, node: &Node, marks: &Marks) -> Result<()> {
        let dir = self.directory(state, at.parent)?;
        let below = self.goes_on(state, &dir, at.name, marks)?;
        let (_, origin) = below.ok_or(Errno::EIO)?;
        if origin.as_os_str().len() > marker::REDIRECT_MAX {
            return Err(Errno::EXDEV.into());
        }
        let text = redirect_text(&origin);
        state
            .open
            .mark(&at.path(), node.ino, marker::REDIRECT, &text)
    }

    /// Sees whether the new name may be replaced (rename(2)).
    fn check_target(
        &self,
        state: &Layers,
        source: &Node,
        target: Option<&Arc<Node>>,
    ) -> Result<()> {
        match target {
            Some(target) if !target.is_dir() && source.is_dir() => Err(Errno::ENOTDIR.into()),
            Some(target) if target.is_dir() && !source.is_dir() => Err(Errno::EISDIR.into()),
            Some(target) if target.is_dir() && !self.is_empty(state, target)? => {
                Err(Errno::ENOTEMPTY.into())
            }
            _ => Ok(()),
        }
    }

    /// Moves the source over what the new name stands for, if anything.
    fn move_over(
        &self,
        state: &Layers,
        from: &End<'_>,
        to: &End<'_>,
        source: &Arc<Node>,
        target: Option<(Arc<Node>, Attr)>,
    ) -> Result<()> {
        match target {
            Some((target, attr)) if !target.is_dir() => {
                let (parent, name) = (to.parent, to.name);
                let leaving = self.before_name_goes(state, parent, name, &target, &attr)?;
                let moved = self.move_source(state, from, to, source);
                self.after_name_went(state, parent, name, &target, &leaving, moved)?;
            }
            Some((target, attr)) => {
                if target.dir().is_some_and(|dir| dir.upper) {
                    self.clear_dir(state, &target, &to.path())?;
                }
                self.move_source(state, from, to, source)?;
                target.remove_dir(attr);
            }
            None => self.move_source(state, from, to, source)?,
        }
        if let Some(listing) = from.parent.inner.write().listing_mut() {
            listing.remove(from.name);
        }
        self.made_name(to.parent, to.name);
        self.settle(source, from, to);
        Ok(())
    }

    /// Moves the source on disk.
    fn move_source(
        &self,
        state: &Layers,
        from: &End<'_>,
        to: &End<'_>,
        source: &Arc<Node>,
    ) -> Result<()> {
        let open = &*state.open;
        let (old, new) = (from.path(), to.path());
        let covered = open.entry(&to.parent.path().join(to.name))? == Some(Entry::Whiteout);
        if source.is_dir() && covered {
            // The whiteout goes where the directory was.
            at::rename(open, &old, open, &new, RenameFlags::RENAME_EXCHANGE)?;
            if !from.hides
                && let Err(error) = at::unlink(open, &old)
            {
                // A whiteout over nothing hides nothing.
                log::warn!("{}: {error}", old.display());
            }
            Ok(())
        } else if from.hides {
            open.rename_leaving_whiteout(&old, &new)
        } else {
            at::rename(open, &old, open, &new, RenameFlags::empty())
        }
    }

    fn exchange(
        &self,
        state: &Layers,
        from: &End<'_>,
        to: &End<'_>,
        source: &Arc<Node>,
        target: &Arc<Node>,
    ) -> Result<()> {
        let open = &*state.open;
        self.make_movable(state, from, to, source)?;
        self.make_movable(state, to, from, target)?;
        at::rename(
            open,
            &from.path(),
            open,
            &to.path(),
            RenameFlags::RENAME_EXCHANGE,
        )?;
        self.settle(source, from, to);
        self.settle(target, to, from);
        Ok(())
    }

    /// Tells the table where an inode lies now.
    fn settle(&self, node: &Arc<Node>, left: &End<'_>, at: &End<'_>) {
        let place = Place {
            parent: at.parent.clone(),
            name: at.name.into(),
        };
        {
            let mut inner = node.inner.write();
            inner.remove_place(left.parent, left.name);
            inner.add_place(node.kind, place);
        }
        if let Some(listing) = at.parent.inner.write().listing_mut() {
            listing.insert(Listed {
                name: at.name.to_os_string(),
                kind: node.kind,
                ino: node.ino,
            });
        }
    }
}

/// True if `node` is `ancestor` or lies below it.
fn is_below(node: &Arc<Node>, ancestor: &Arc<Node>) -> bool {
    let mut at = Some(node.clone());
    while let Some(node) = at {
        if Arc::ptr_eq(&node, ancestor) {
            return true;
        }
        at = node.place().map(|place| place.parent);
    }
    false
}
