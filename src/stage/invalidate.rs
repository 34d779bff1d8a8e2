//! What the kernel has to forget when the stage view gets another stack.

use std::collections::BTreeSet;

use super::changes::between;
use super::names::STAGE_VIEW;
use super::watches::happenings;
use super::{Happening, Invalidation, Stage};
use crate::error::Result;
use crate::layer::Stack;
use crate::tree::Ino;

/// Everything that may be cached of `old` and is not so in `new`.
///
/// A surviving directory is only told to forget its listing: forgetting its
/// name would unmount what a user mounted below. Mapped roots keep their node
/// for life. A missing name may be cached too, so an added one is forgotten.
///
/// Below a directory that is not `known` the kernel has nothing cached, so what
/// differs there is not even looked at.
///
/// # Errors
/// What the layers report.
pub(super) fn invalidations(
    old: &Stack,
    new: &Stack,
    known: impl Fn(Ino) -> bool,
) -> Result<Vec<Invalidation>> {
    let mut all = BTreeSet::new();
    between(old, new, &mut |difference| {
        let (a, b) = (difference.old, difference.new);
        let is_root = difference.parent.is_none();
        let stays = match (a, b) {
            (Some(a), Some(b)) => {
                is_root || (a.attr.ino == b.attr.ino && a.attr.kind == b.attr.kind)
            }
            _ => is_root,
        };
        if let Some(a) = a {
            all.insert(Invalidation::Inode(a.attr.ino));
        }
        if let (false, Some(parent), Some(name)) =
            (stays, difference.parent, difference.path.file_name())
        {
            all.insert(Invalidation::Inode(parent));
            all.insert(Invalidation::Entry {
                parent,
                name: name.to_owned(),
            });
        }
        let is_known = |ino| difference.parent.is_none() || known(ino);
        Ok(stays && a.is_some_and(|a| a.attr.is_dir() && is_known(a.attr.ino)))
    })?;
    let common = old.common_depth(new);
    for stack in [old, new] {
        for layer in &stack.layers()[common..] {
            let renumbered = layer.link_changes().keys();
            all.extend(renumbered.map(|ino| Invalidation::Inode(*ino)));
        }
    }
    Ok(all.into_iter().collect())
}

impl Stage {
    /// Tells the kernel what changed in the stage view. Called after the commit
    /// and the swap, no lock of the view held. The tree is right already, so the
    /// operation has not failed where this does; it can leave something stale in
    /// the kernel. Returns what the user should know then.
    pub(super) fn tell_kernel(&self, old: &Stack, new: &Stack) -> Option<String> {
        let error = self.tell(old, new).err()?;
        let note = format!(
            "the kernel could not be told of all that changed ({error}): the mapped paths may go on \
             to show what was there before, until `unmount --keep-state` and `mount --resume`"
        );
        log::error!("{note}");
        Some(note)
    }

    fn tell(&self, old: &Stack, new: &Stack) -> Result<()> {
        let running = self.running.lock().get(STAGE_VIEW).cloned();
        let Some(session) = running.and_then(|running| running.session.clone()) else {
            return Ok(());
        };
        let all = invalidations(old, new, |ino| self.stage_view.knows(ino))?;
        if all.is_empty() {
            return Ok(());
        }
        let watched = session.watched();
        let (mut first, mut later) = (Vec::new(), Vec::new());
        if !watched.is_empty() {
            let known = |ino| self.stage_view.knows(ino);
            (first, later) = happenings(old, new, known, &watched)?
                .into_iter()
                .partition(Happening::comes_first);
        }
        session.announce(&first);
        let told = session.invalidate(all);
        session.announce(&later);
        told
    }
}
