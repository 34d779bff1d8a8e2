//! What changed: in the stage, by a step, up to a snapshot, between two moments.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::changes::between;
use super::content::Seen;
use super::merge::{JOIN, MERGED};
use super::snapshots::missing;
use super::state::{Phase, SnapshotState, State, StepState};
use super::{Failure, Stage};
use crate::error::Result;
use crate::layer::{Stack, read_open};
use crate::tree::{Kind, shown};

/// In what way a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was not there.
    Added,
    /// Its type, content, link target or device number is another.
    Modified,
    /// Only its mode, owner or extended attributes are others.
    Metadata,
    /// It is no longer there.
    Deleted,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiffLine {
    /// In what way.
    pub change: Change,
    /// The path as a user sees it.
    #[serde(serialize_with = "shown::serialize")]
    pub path: PathBuf,
    /// What is there now; for a deleted path, what was there.
    pub kind: Kind,
    /// Its size in bytes, of a regular file or symbolic link.
    pub size: u64,
}

impl Stage {
    /// What changed, sorted by path: in the stage since it was made (`None`), by
    /// a step since it began, by its merge if it was merged, up to a snapshot since
    /// the stage was made, or from A to B (`A..B`), each a snapshot, a layer, the
    /// base, or empty for now. Times alone, and a copy with equal content, are
    /// no change.
    ///
    /// A name that is both is refused; `step:NAME` and `snapshot:NAME` say which.
    ///
    /// For `None` and for now the head is sealed. A step that is still open is read as it
    /// is, without what it has only for itself; a change of a file with several names may show at one of them only.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for a name that is neither step nor snapshot, nor
    /// layer, [`Failure::Usage`] for one that can mean several, else what the layers report.
    pub fn diff(&self, of: Option<&str>) -> Result<Vec<DiffLine>, Failure> {
        let lines = match self.diff_unless_it_ends(of, of_now(of))? {
            None => self.diff_unless_it_ends(of, true)?,
            found => found,
        };
        let mut lines = lines.unwrap_or_default();
        lines.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(lines)
    }

    /// What changed, in any order; `None` if `of` was an open step and may have
    /// ended meanwhile. Its layer is moved or removed then, and so what was read
    /// of it may be anything. `locked` begins once what is under way has ended,
    /// and keeps a step open that is.
    fn diff_unless_it_ends(
        &self,
        of: Option<&str>,
        locked: bool,
    ) -> Result<Option<Vec<DiffLine>>, Failure> {
        let life = locked.then(|| self.life.lock());
        if of_now(of) {
            self.seal_dirty_head()?;
        }
        let (state, _lease) = self.lease(|state| state.layers().cloned().collect());
        if let Some(of) = of
            && let Some([old, new]) = self.range(&state, of)?
        {
            // All of it is leased.
            drop(life);
            let (old, new) = (self.stack_of(&old)?, self.stack_of(&new)?);
            return Ok(Some(lines(&old, &new, &state.options.mapped)?));
        }
        let open = match of.map(|of| named(&state, of)).transpose()? {
            Some((name, Some(step), _)) if step.state == Phase::Open => Some((name, step)),
            _ => None,
        };
        // Everything else is leased.
        let life = life.filter(|_| open.is_some());
        let stacks = self.before_and_after(&state, of);
        let mut lines = stacks.and_then(|(old, new)| Ok(lines(&old, &new, &state.options.mapped)?));
        if let (Some((_, step)), Ok(lines)) = (open, &mut lines) {
            let dropped = state.unmerged(step);
            lines.retain(|line| !dropped.iter().any(|path| line.path.starts_with(path)));
        }
        if let Some((name, step)) = open
            && life.is_none()
            && (lines.is_err() || !self.is_open(name, step))
        {
            return Ok(None);
        }
        lines.map(Some)
    }

    fn before_and_after(&self, state: &State, of: Option<&str>) -> Result<(Stack, Stack), Failure> {
        let first = self.stack_of(&state.stack[..state.imported.min(state.stack.len())])?;
        let Some(of) = of else {
            return Ok((first, self.stack_of(&state.stack)?));
        };
        match named(state, of)? {
            (name, Some(step), _) => {
                let base = self.stack_of(&step.base_stack)?;
                let layer = match (&step.layer, step.state) {
                    (Some(id), _) => Some(self.layer(id)? as _),
                    (None, Phase::Open) => {
                        Some(read_open(&self.running(name)?.view.open_layer_path())?)
                    }
                    (None, _) => None,
                };
                let view = layer.map_or(base.clone(), |layer| base.with(layer));
                Ok((base, view))
            }
            (_, None, Some(snapshot)) => Ok((first, self.stack_of(&snapshot.stack)?)),
            (name, None, None) => self.around_merged(state, name),
        }
    }

    /// Whether a step is open that was, and not another one of its name.
    fn is_open(&self, name: &str, was: &StepState) -> bool {
        let state = self.state.lock();
        let same = |step: &StepState| step.first_ino == was.first_ino;
        let now = state.steps.get(name).filter(|step| same(step));
        now.is_some_and(|step| step.state == Phase::Open)
    }

    /// The stage before and after the merge of a step; the same twice if it has
    /// nothing of the step.
    fn around_merged(&self, state: &State, name: &str) -> Result<(Stack, Stack), Failure> {
        match state.gone.get(name).map(String::as_str) {
            Some(MERGED) => {}
            Some(what) => {
                let text = format!("step '{name}' was {what}; there is nothing left of it");
                return Err(Failure::NotFound(text));
            }
            None => {
                let text = format!("there is no step and no snapshot '{name}'");
                return Err(Failure::NotFound(text));
            }
        }
        let by = |id: &String| -> Result<String> { Ok(self.layer(id)?.manifest().step.clone()) };
        for (depth, id) in state.stack.iter().enumerate().skip(state.imported).rev() {
            if by(id)? == name {
                let joined = match state.stack.get(depth + 1) {
                    Some(next) => by(next)? == JOIN,
                    None => false,
                };
                let after = depth + 1 + usize::from(joined);
                let before = self.stack_of(&state.stack[..depth])?;
                return Ok((before, self.stack_of(&state.stack[..after])?));
            }
        }
        // It changed nothing, or a snapshot without it was restored.
        let stack = self.stack_of(&state.stack)?;
        Ok((stack.clone(), stack))
    }
}

/// Whether the tree as it is now may be meant.
fn of_now(of: Option<&str>) -> bool {
    of.is_none_or(|of| of.starts_with("..") || of.ends_with(".."))
}

type Named<'a> = (&'a str, Option<&'a StepState>, Option<&'a SnapshotState>);

/// The step or the snapshot that is meant; neither for a step that is gone.
fn named<'a>(state: &'a State, of: &'a str) -> Result<Named<'a>, Failure> {
    let step = state.steps.get(of);
    let was_step = state.gone.get(of).is_some_and(|gone| gone == MERGED);
    let snapshot = state.snapshots.get(of);
    if snapshot.is_some() && (step.is_some() || was_step) {
        return Err(Failure::Usage(format!(
            "'{of}' is the name of a step and of a snapshot: say `diff step:{of}` or `diff snapshot:{of}`"
        )));
    }
    if step.is_some() || snapshot.is_some() || was_step {
        return Ok((of, step, snapshot));
    }
    Ok(match of.split_once(':') {
        Some(("step", name)) => (name, state.steps.get(name), None),
        Some(("snapshot", name)) => {
            let snapshot = state.snapshots.get(name).ok_or_else(|| missing(name))?;
            (name, None, Some(snapshot))
        }
        _ => (of, None, None),
    })
}

/// What differs between two stacks.
pub(super) fn lines(old: &Stack, new: &Stack, mapped: &[PathBuf]) -> Result<Vec<DiffLine>> {
    let mut lines = Vec::new();
    between(old, new, &mut |difference| {
        let shown = difference.new.or(difference.old);
        let change = match (difference.old, difference.new) {
            (Some(a), Some(b)) => {
                let (a, b) = (Seen::new(old, a), Seen::new(new, b));
                if !b.same_content(a)? {
                    Some(Change::Modified)
                } else if !b.same_metadata(a)? {
                    Some(Change::Metadata)
                } else {
                    None
                }
            }
            (None, Some(_)) => Some(Change::Added),
            (Some(_), None) => Some(Change::Deleted),
            (None, None) => None,
        };
        if let (Some(change), Some(found)) = (change, shown) {
            let sized = matches!(found.attr.kind, Kind::File | Kind::Symlink);
            lines.push(DiffLine {
                change,
                path: as_seen(mapped, difference.path),
                kind: found.attr.kind,
                size: if sized { found.attr.size } else { 0 },
            });
        }
        Ok(true)
    })?;
    Ok(lines)
}

/// A path of a layer as a user sees it.
pub(super) fn as_seen(mapped: &[PathBuf], path: &Path) -> PathBuf {
    let mut components = path.components();
    let index = components
        .next()
        .and_then(|first| first.as_os_str().to_str()?.parse::<usize>().ok());
    let rest = components.as_path();
    match index.and_then(|index| mapped.get(index)) {
        Some(root) if rest.as_os_str().is_empty() => root.clone(),
        Some(root) => root.join(rest),
        None => path.to_path_buf(),
    }
}

/// The reverse of [`as_seen`]; `None` for a path that is in none of the mapped ones.
pub(super) fn as_layered(mapped: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let mut roots = mapped.iter().enumerate();
    roots.find_map(|(index, root)| {
        let rest = path.strip_prefix(root).ok()?;
        let mut layered = PathBuf::from(index.to_string());
        layered.extend(rest.components());
        Some(layered)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_users_and_as_layers_have_them() {
        let mapped = ["/harness", "/root/.m2"].map(PathBuf::from);
        for (seen, layered) in [
            ("/harness", "0"),
            ("/harness/a/b", "0/a/b"),
            ("/root/.m2/x", "1/x"),
        ] {
            let there = as_layered(&mapped, Path::new(seen)).unwrap();
            assert_eq!(there, Path::new(layered));
            assert_eq!(as_seen(&mapped, &there), Path::new(seen));
        }
        for outside in ["/", "/harness2", "/root", "harness/a"] {
            assert_eq!(as_layered(&mapped, Path::new(outside)), None, "{outside}");
        }
    }
}
