//! From a name to an inode.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dashmap::Entry;
use nix::errno::Errno;

use super::io::remove_orphan;
use super::lower::{DirHere, Lower};
use super::name::Place;
use super::node::{Content, Here, Node, UpperAt};
use super::{Layers, View};
use crate::error::{Error, Result};
use crate::layer::copy_up;
use crate::tree::marker::Marks;
use crate::tree::reads::Sight;
use crate::tree::union::{self, Found};
use crate::tree::{Attr, Ino, Kind};

/// `NAME_MAX` (limits.h).
const NAME_MAX: usize = 255;

/// What a name stands for.
pub(super) type Child = (Arc<Node>, Attr);

/// What says what a name stands for, or that it stands for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The open layer.
    Own,
    /// The stack below.
    Stack,
}

/// What a name stands for, before it has a node.
pub(super) struct Resolved {
    pub attr: Attr,
    pub here: Here,
}

impl View {
    /// Looks a name up and counts the answer as one the kernel has to forget.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, or what the disk reports.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Attr> {
        let state = self.layers()?;
        let parent = self.node(parent)?;
        let _names = parent.names().read();
        let (child, from) = self.child_from(&state, &parent, name)?;
        if from == From::Stack {
            let sight = match child {
                Some(_) => Sight::FOUND,
                None => Sight::MISSING,
            };
            self.saw_name(&parent, name, sight);
        }
        let (node, attr) = child.ok_or(Errno::ENOENT)?;
        node.count_lookup();
        Ok(attr)
    }

    /// The node of a name, and its attributes. The parent's names are locked.
    pub(super) fn child(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
    ) -> Result<Option<Child>> {
        Ok(self.child_from(state, parent, name)?.0)
    }

    /// [`View::child`], and what says so.
    pub(super) fn child_from(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
    ) -> Result<(Option<Child>, From)> {
        let (resolved, from) = self.resolve_from(state, parent, name)?;
        let Some(resolved) = resolved else {
            return Ok((None, from));
        };
        self.refresh_known(state, parent, name, resolved.attr.ino)?;
        let below = matches!(resolved.here, Here::Below(_)).then_some(resolved.attr);
        let node = self.adopt(state, parent, name, resolved);
        let attr = self.attributes_from(state, &node, below)?;
        Ok((Some((node, attr)), from))
    }

    /// Looks an inode's other names up again, if there are such and the stack
    /// has changed since they were seen; [`View::adopt`] forgets the stale ones.
    fn refresh_known(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
        ino: Ino,
    ) -> Result<()> {
        let Ok(node) = self.node(ino) else {
            return Ok(());
        };
        let others = {
            let inner = node.inner.read();
            let same = |place: &Place| place.is(parent, name);
            inner.generation != state.generation && !inner.places().iter().all(same)
        };
        match others {
            true => self.refresh(state, &node),
            false => Ok(()),
        }
    }

    /// Puts what a name resolved to into the inode table.
    pub(super) fn adopt(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
        resolved: Resolved,
    ) -> Arc<Node> {
        let Resolved { attr, here } = resolved;
        let place = Place {
            parent: parent.clone(),
            name: name.into(),
        };
        let ino = if parent.ino == self.top {
            // A mapped path's root keeps its node for life, or the bind mounts
            // that show it go stale; its name is its number.
            self.mapped_root(name).map_or(attr.ino, |node| node.ino)
        } else {
            attr.ino
        };
        let node = match self.nodes.entry(ino) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(free) => {
                let whole = matches!(
                    here,
                    Here::Upper {
                        content: Content::Whole,
                        ..
                    }
                );
                let node = Node::new(ino, attr.kind, Some(place), state.generation, here);
                if whole {
                    node.marks.rewritten();
                }
                return free.insert(Arc::new(node)).clone();
            }
        };
        let mut inner = node.inner.write();
        // What was removed has a name again when a merge or a restore brought
        // it back: then it is what the name shows.
        let back = inner.unlinked || matches!(inner.here, Here::Gone(_) | Here::Detached { .. });
        if inner.generation != state.generation || back {
            let before = inner.places();
            let orphan = inner.is_orphan();
            inner.seat(state.generation, here, vec![place]);
            drop(inner);
            if orphan {
                remove_orphan(state, ino);
            }
            self.evict_parents(before);
        } else {
            inner.add_place(node.kind, place);
            drop(inner);
        }
        node
    }

    fn mapped_root(&self, name: &OsStr) -> Option<Arc<Node>> {
        self.nodes.iter().find_map(|node| {
            let inner = node.inner.read();
            let place = inner.place.as_ref()?;
            (place.parent.ino == self.top && *place.name == *name).then(|| node.value().clone())
        })
    }

    /// What a name stands for in a directory. The parent's names are locked.
    pub(super) fn resolve(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
    ) -> Result<Option<Resolved>> {
        Ok(self.resolve_from(state, parent, name)?.0)
    }

    /// [`View::resolve`], and what says so.
    fn resolve_from(
        &self,
        state: &Layers,
        parent: &Arc<Node>,
        name: &OsStr,
    ) -> Result<(Option<Resolved>, From)> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let dir = self.directory(state, parent)?;
        if dir.upper {
            let path = parent.path().join(name);
            match state.open.entry(&path)? {
                Some(union::Entry::Whiteout) => return Ok((None, From::Own)),
                Some(union::Entry::Present(attr, marks)) => {
                    let here = self.in_upper(state, &dir, &path, name, attr, &marks)?;
                    return Ok((Some(here), From::Own));
                }
                None => {}
            }
        }
        Ok((self.resolve_below(state, &dir, name)?, From::Stack))
    }

    /// What a name stands for in the stack, as if the open layer had nothing.
    pub(super) fn resolve_below(
        &self,
        state: &Layers,
        dir: &DirHere,
        name: &OsStr,
    ) -> Result<Option<Resolved>> {
        if dir.below.is_empty() {
            return Ok(None);
        }
        let Some(mut found) = state.stack.lookup(&dir.below, name)? else {
            return Ok(None);
        };
        self.number(&mut found);
        let attr = found.attr;
        let here = if attr.is_dir() {
            let origin = dir.origin.join(name);
            Here::Dir(Arc::new(DirHere::new(
                found.parts,
                &origin,
                Some(attr),
                false,
            )))
        } else if state
            .open
            .link_state(attr.ino)
            .is_some_and(|link| link.here)
        {
            // Copied up already, through another name.
            Here::Upper {
                at: UpperAt::Index,
                // What is in `index/` was copied whole.
                content: Content::Whole,
            }
        } else {
            let ground = dir.ground(&state.stack, found.parts[0].layer);
            Here::Below(match ground {
                Some(ground) => Lower::on(ground, name, &found.marks, &found.parts),
                None => Lower::at(&state.stack, &found.parts, &found.marks),
            })
        };
        Ok(Some(Resolved { attr, here }))
    }

    fn in_upper(
        &self,
        state: &Layers,
        dir: &DirHere,
        path: &Path,
        name: &OsStr,
        mut attr: Attr,
        marks: &Marks,
    ) -> Result<Resolved> {
        if attr.ino == 0 {
            // Made just before a crash: it gets its number now.
            attr.ino = self.inos.allocate();
            let marked = marks != &Marks::default();
            crate::layer::set_ino(state.open.tree().root(), path, attr.ino, marked)?;
        }
        if !attr.is_dir() {
            let known = state.open.link_state(attr.ino);
            let mut content = self.content_place(state, dir, name, marks)?;
            let uncounted = known.is_none() && attr.nlink > 1 && state.open.manner().foreign;
            let indexed = if uncounted {
                if let Content::Below { stack, part } = &content {
                    // The kernel links copies of metadata as well; we complete such by another
                    // file, which would have one of the names.
                    let from = stack.layer(part.layer).open(&part.path)?;
                    copy_up::fill(&state.open, &from, path, attr.size)?;
                    content = Content::Whole;
                }
                state.open.adopt(path, attr.ino)?
            } else {
                known.is_some_and(|link| link.here)
            };
            let at = if indexed {
                UpperAt::Index
            } else {
                UpperAt::Name
            };
            return Ok(Resolved {
                attr,
                here: Here::Upper { at, content },
            });
        }
        let below = if marks.opaque {
            None
        } else {
            self.goes_on(state, dir, name, marks)?
        };
        let here = match below.filter(|(found, _)| found.attr.is_dir()) {
            Some((found, origin)) => DirHere::new(found.parts, &origin, Some(found.attr), true),
            None => DirHere::only_upper(),
        };
        Ok(Resolved {
            attr,
            here: Here::Dir(Arc::new(here)),
        })
    }

    /// What an entry of the open layer with these markers goes on as in the stack, and where that
    /// shows it.
    pub(super) fn goes_on(
        &self,
        state: &Layers,
        dir: &DirHere,
        name: &OsStr,
        marks: &Marks,
    ) -> Result<Option<(Found, PathBuf)>> {
        if let Some(redirect) = &marks.redirect {
            let found = state.stack.find(redirect)?;
            return Ok(found.map(|found| (found, redirect.clone())));
        }
        if dir.below.is_empty() {
            return Ok(None);
        }
        let name = marks.renamed.as_deref().unwrap_or(name);
        let found = state.stack.lookup(&dir.below, name)?;
        Ok(found.map(|found| (found, dir.origin.join(name))))
    }

    /// Where the content of a file of the open layer with these markers lies.
    fn content_place(
        &self,
        state: &Layers,
        dir: &DirHere,
        name: &OsStr,
        marks: &Marks,
    ) -> Result<Content> {
        if !marks.metacopy {
            return Ok(Content::Whole);
        }
        let (found, _) = self.goes_on(state, dir, name, marks)?.ok_or_else(|| {
            let what = format!("{}: the content below is gone", Path::new(name).display());
            Error::new(Errno::EIO, what)
        })?;
        if found.attr.kind != Kind::File {
            let what = format!(
                "{}: the content below is no file",
                Path::new(name).display()
            );
            return Err(Error::new(Errno::EIO, what));
        }
        let part = Arc::new(state.stack.content(&found)?);
        let stack = state.stack.clone();
        Ok(Content::Below { stack, part })
    }

    /// Gives a number to an entry of a layer that carries none.
    pub(super) fn number(&self, found: &mut Found) {
        if found.attr.ino == 0 {
            let part = &found.parts[0];
            let key = (part.layer, part.path.to_path_buf());
            found.attr.ino = *self
                .unnumbered
                .entry(key)
                .or_insert_with(|| self.inos.allocate());
        }
    }

    /// True when the stack shows something under this name of a directory.
    pub(super) fn below_has(&self, state: &Layers, dir: &DirHere, name: &OsStr) -> Result<bool> {
        Ok(!dir.below.is_empty() && state.stack.lookup(&dir.below, name)?.is_some())
    }
}

/// Attributes where nothing is known but the type.
pub(super) fn empty_attr(kind: Kind) -> Attr {
    Attr {
        ino: 0,
        kind,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        blksize: 4096,
        atime: Default::default(),
        mtime: Default::default(),
        ctime: Default::default(),
    }
}

/// A name as the caller gave it, refused where no entry may be called so.
pub(super) fn check_new_name(name: &OsStr) -> Result<OsString> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(Errno::EINVAL.into());
    }
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG.into());
    }
    Ok(name.to_os_string())
}
