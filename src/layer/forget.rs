//! Part of an open layer that is not to be sealed.

use std::collections::HashSet;
use std::path::Path;

use nix::fcntl::RenameFlags;

use super::open::{OpenLayer, TREE};
use super::{Stack, Visit, walk};
use crate::error::{Context, Result};
use crate::sys::at;
use crate::tree::Ino;
use crate::tree::union::Entry;

/// Drops what an open layer has of one mapped path, `root`: its tree, and what is
/// recorded of inodes with several names there, which would be sealed as a change
/// of what lies below. `below` is the stack it was written on. Nobody may write the
/// layer any more.
///
/// Names of one inode never lie in two mapped paths: rename and link between them
/// fail (`EXDEV`).
///
/// # Errors
/// What the disk reports, naming the layer; it can be repeated.
pub fn forget_root(open: &OpenLayer, below: &Stack, root: &Path) -> Result<()> {
    let forget = || -> Result<()> {
        let tree = Path::new(TREE).join(root);
        if at::stat_if_there(open, &tree)?.is_none() {
            return Ok(());
        }
        let linked: HashSet<Ino> = open.link_states().into_keys().collect();
        if !linked.is_empty() {
            // The tree goes last: while it is there, this is done again.
            let mut here = names_in(open, root, &linked)?;
            walk(below, root, &mut |_, found| {
                if linked.contains(&found.attr.ino) {
                    here.insert(found.attr.ino);
                }
                Ok(match here.len() == linked.len() {
                    true => Visit::Stop,
                    false => Visit::Enter,
                })
            })?;
            open.forget_link_states(&here)?;
        }
        let gone = open.temporary();
        at::rename(open, &tree, open, &gone, RenameFlags::empty())?;
        at::remove_all(open, &gone)
    };
    forget().context(|| open.path().display().to_string())
}

/// Those of `linked` that have a name in the layer's own tree below `root`.
fn names_in(open: &OpenLayer, root: &Path, linked: &HashSet<Ino>) -> Result<HashSet<Ino>> {
    let mut found = HashSet::new();
    let mut next = vec![root.to_path_buf()];
    while let Some(path) = next.pop() {
        let Some(Entry::Present(attr, _)) = open.entry(&path)? else {
            continue;
        };
        if attr.is_dir() {
            let names = open.tree().names(&path)?;
            next.extend(names.into_iter().map(|name| path.join(name.name)));
        } else if linked.contains(&attr.ino) {
            found.insert(attr.ino);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{LinkState, set_ino};
    use super::*;

    fn open(dir: &Path) -> OpenLayer {
        OpenLayer::open(dir).unwrap()
    }

    #[test]
    fn one_root_goes_and_the_other_stays_whenever_it_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let layer = open(dir.path());
        let (none, other) = (Stack::default(), Path::new("1"));
        for (root, ino) in [("0", 70), ("1", 71)] {
            let path = Path::new(TREE).join(root).join("sub");
            fs::create_dir_all(dir.path().join(&path)).unwrap();
            fs::write(dir.path().join(&path).join("file"), root).unwrap();
            set_ino(&layer, &path.join("file"), ino, false).unwrap();
            let state = LinkState {
                nlink: 2,
                origin: 0,
                here: true,
            };
            layer.set_link_state(ino, state).unwrap();
        }
        let left = |layer: &OpenLayer| layer.link_states().into_keys().collect::<Vec<_>>();
        let whole = |root: &str| dir.path().join(TREE).join(root).exists();
        // The daemon ends when what is recorded is gone, and the tree is not.
        layer.forget_link_states(&HashSet::from([71])).unwrap();
        let layer = open(dir.path());
        assert_eq!(left(&layer), [70]);
        assert!(whole("1"));
        forget_root(&layer, &none, other).unwrap();
        assert!(whole("0") && !whole("1"));
        // What is recorded later is read again with the rest.
        let removed = |state: Option<LinkState>| state.map(|state| LinkState { nlink: 1, ..state });
        layer.change_link_state(70, removed).unwrap();
        let layer = open(dir.path());
        assert_eq!(layer.link_state(70).map(|state| state.nlink), Some(1));
        forget_root(&layer, &none, other).unwrap();
        assert_eq!(left(&layer), [70]);
        forget_root(&layer, &none, Path::new("0")).unwrap();
        assert!(layer.is_clean().unwrap());
        assert!(open(dir.path()).is_clean().unwrap());
    }
}
