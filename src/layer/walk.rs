//! Walking a whole tree, parents before children, names sorted by bytes.

use std::path::{Path, PathBuf};

use super::Stack;
use crate::error::{Context, Result};
use crate::tree::union::Found;

/// What to do after an entry was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Go on, into the directory if it is one.
    Enter,
    /// Go on beside it.
    Skip,
    /// End the walk.
    Stop,
}

/// Visits everything below `start` in a stack (`start` itself too, unless it is
/// the root), in an order that depends on names only.
///
/// # Errors
/// What the layers or the visitor report.
pub fn walk(
    stack: &Stack,
    start: &Path,
    visit: &mut dyn FnMut(&Path, &Found) -> Result<Visit>,
) -> Result<()> {
    let parts = if start.as_os_str().is_empty() {
        stack.roots()
    } else {
        let Some(found) = stack.find(start)? else {
            return Ok(());
        };
        if visit(start, &found)? != Visit::Enter || !found.attr.is_dir() {
            return Ok(());
        }
        found.parts
    };
    // Kept by hand, not by recursion: a tree may be deeper than our stack.
    let mut open = vec![children(stack, start, &parts)?];
    while let Some(level) = open.last_mut() {
        let Some((path, found)) = level.next() else {
            open.pop();
            continue;
        };
        match visit(&path, &found)? {
            Visit::Stop => return Ok(()),
            Visit::Enter if found.attr.is_dir() => {
                open.push(children(stack, &path, &found.parts)?);
            }
            Visit::Enter | Visit::Skip => {}
        }
    }
    Ok(())
}

fn children(
    stack: &Stack,
    dir: &Path,
    parts: &[crate::tree::union::Part],
) -> Result<std::vec::IntoIter<(PathBuf, Found)>> {
    let mut all = Vec::new();
    for name in stack
        .list(parts)
        .context(|| dir.display().to_string())?
        .into_keys()
    {
        let path = dir.join(&name);
        if let Some(found) = stack
            .lookup(parts, &name)
            .context(|| path.display().to_string())?
        {
            all.push((path, found));
        }
    }
    Ok(all.into_iter())
}
