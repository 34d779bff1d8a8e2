//! Hard links.

use std::ffi::OsStr;
use std::path::Path;

use nix::errno::Errno;

use super::View;
use super::name::Place;
use super::node::{Content, Here, UpperAt};
use crate::error::Result;
use crate::layer::copy_up::Extent;
use crate::layer::{LinkState, OpenLayer};
use crate::sys::at;
use crate::tree::listing::Listed;
use crate::tree::{Attr, Ino};

impl View {
    /// Gives an inode another name.
    ///
    /// # Errors
    /// As link(2); `EXDEV` across mapped paths.
    pub fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> Result<Attr> {
        let node = self.node(ino)?;
        if node.is_dir() {
            return Err(Errno::EPERM.into());
        }
        loop {
            let unlinked = {
                let state = self.layers()?;
                self.refresh(&state, &node)?;
                node.inner.read().unlinked
            };
            if unlinked {
                return Err(node.gone().into());
            }
            self.copy_up(&node, Extent::Whole)?;
            let state = self.layers()?;
            self.refresh(&state, &node)?;
            let parent = self.node(parent)?;
            // What has no known name may have others in the same mapped path.
            if node.place().is_some() && mapped(&node.path()) != mapped(&parent.path().join(name)) {
                return Err(Errno::EXDEV.into());
            }
            let dir = self.ensure_upper(&state, &parent)?;
            let _names = parent.names().write();
            let here = node.inner.read().here.clone();
            let at = match here {
                Here::Upper {
                    at,
                    content: Content::Whole,
                } if at != UpperAt::Orphan => at,
                Here::Upper {
                    at: UpperAt::Orphan,
                    ..
                }
                | Here::Detached { .. }
                | Here::Gone(_) => return Err(node.gone().into()),
                // The stack was replaced meanwhile.
                _ => continue,
            };
            let slot = self.free_slot(&state, &parent, &dir, name)?;
            let open = &*state.open;
            let index = OpenLayer::index_path(node.ino);
            if at != UpperAt::Index {
                let path = node.upper_path().ok_or(Errno::ENOENT)?;
                let origin = self.names_below(&state, &node, ino)?;
                match at::link(open, &path, open, &index) {
                    // From an attempt that failed half-way: the same file.
                    Err(error) if error.errno() == Errno::EEXIST => {}
                    other => other?,
                }
                let links = LinkState {
                    nlink: 1,
                    origin,
                    here: true,
                };
                open.set_link_state(ino, links)?;
                if let Here::Upper { at, .. } = &mut node.inner.write().here {
                    *at = UpperAt::Index;
                }
            }
            let count = |change: fn(u32, u32) -> u32| {
                open.change_link_state(ino, |links| {
                    links.map(|links| LinkState {
                        nlink: change(links.nlink, 1),
                        ..links
                    })
                })
            };
            count(u32::saturating_add)?;
            let named = if slot.whiteout {
                open.link_over(&index, &slot.path)
            } else {
                at::link(open, &index, open, &slot.path)
            };
            if let Err(error) = named {
                let _ = count(u32::saturating_sub);
                return Err(error);
            }
            let place = Place {
                parent: parent.clone(),
                name: name.into(),
            };
            node.inner.write().add_place(node.kind, place);
            self.made_name(&parent, name);
            if let Some(listing) = parent.inner.write().listing_mut() {
                listing.insert(Listed {
                    name: name.to_os_string(),
                    kind: node.kind,
                    ino: node.ino,
                });
            }
            node.count_lookup();
            return self.attributes(&state, &node);
        }
    }

    /// How many names the stack has for an inode that is in the open layer: 0
    /// if it was born there, else 1 (one with more would be in `index/`).
    fn names_below(
        &self,
        state: &super::Layers,
        node: &super::node::Node,
        ino: Ino,
    ) -> Result<u32> {
        let Some(place) = node.place() else {
            return Ok(0);
        };
        let dir = self.directory(state, &place.parent)?;
        let below = self.resolve_below(state, &dir, &place.name)?;
        Ok(u32::from(below.is_some_and(|below| below.attr.ino == ino)))
    }
}

/// The mapped path that a path of the view lies in.
pub(super) fn mapped(path: &Path) -> Option<&OsStr> {
    path.iter().next()
}
