//! Where two stacks show different things, without looking at what they share.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::layer::Stack;
use crate::tree::Ino;
use crate::tree::union::{Found, Part};

/// A path at which one of the stacks has something of its own.
pub(super) struct Difference<'a> {
    pub path: &'a Path,
    /// What the old stack has there.
    pub old: Option<&'a Found>,
    /// What the new stack has there.
    pub new: Option<&'a Found>,
    /// The number of the directory it is in, in the old stack. `None` in the root.
    pub parent: Option<Ino>,
}

/// A directory still to be looked at.
struct Pending {
    path: PathBuf,
    old: Vec<Part>,
    new: Vec<Part>,
    ino: Option<Ino>,
}

/// Visits, parents first, what differs or may differ. The visitor says whether
/// to go on below a directory; where only one side has one, its whole content
/// is visited then.
///
/// Takes time in proportion to what the layers hold that are not common.
///
/// # Errors
/// What the layers or the visitor report.
pub(super) fn between(
    old: &Stack,
    new: &Stack,
    visit: &mut dyn FnMut(&Difference<'_>) -> Result<bool>,
) -> Result<()> {
    let common = old.common_depth(new);
    let mut pending = vec![Pending {
        path: PathBuf::new(),
        old: old.roots(),
        new: new.roots(),
        ino: None,
    }];
    while let Some(dir) = pending.pop() {
        // Popped in reverse, so that the visits come in the order of names.
        let mut below = Vec::new();
        for name in candidates(old, new, common, &dir)? {
            let a = old.lookup(&dir.old, &name)?;
            let b = new.lookup(&dir.new, &name)?;
            if (a.is_none() && b.is_none()) || alike(common, a.as_ref(), b.as_ref()) {
                continue;
            }
            let path = dir.path.join(&name);
            let enter = visit(&Difference {
                path: &path,
                old: a.as_ref(),
                new: b.as_ref(),
                parent: dir.ino,
            })?;
            let ino = a.as_ref().map(|found| found.attr.ino);
            let parts = |found: Option<Found>| match found {
                Some(found) if found.attr.is_dir() => found.parts,
                _ => Vec::new(),
            };
            let (a, b) = (parts(a), parts(b));
            if enter && !(a.is_empty() && b.is_empty()) {
                below.push(Pending {
                    path,
                    old: a,
                    new: b,
                    ino,
                });
            }
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(())
}

/// True if both are one entry of the common layers.
fn alike(common: usize, old: Option<&Found>, new: Option<&Found>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            old.parts == new.parts && old.parts.iter().all(|part| part.layer < common)
        }
        _ => false,
    }
}

/// The names of a directory that can differ.
fn candidates(
    old: &Stack,
    new: &Stack,
    common: usize,
    dir: &Pending,
) -> Result<BTreeSet<OsString>> {
    let shared = |parts: &[Part]| -> Vec<Part> {
        let lower = parts.iter().filter(|part| part.layer < common);
        lower.cloned().collect()
    };
    let whole = shared(&dir.old) != shared(&dir.new);
    let mut names = BTreeSet::new();
    for (stack, parts) in [(old, &dir.old), (new, &dir.new)] {
        for part in parts {
            if whole || part.layer >= common {
                let listed = stack.layer(part.layer).names(&part.path)?;
                names.extend(listed.into_iter().map(|name| name.name));
            }
        }
    }
    Ok(names)
}
