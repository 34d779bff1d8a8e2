//! Deltas derived from trees, and what stacks of layers show.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness_fs::merge::{
    Action, Change, Compare, Content, Delta, Effect, JoinPlan, Present, Sameness, Side,
};
use harness_fs::tree::Kind;

use crate::trees::{Node, Tree};

/// What a layer would hold that made `tree` out of `base`.
pub fn delta(base: &Tree, tree: &Tree, writer: &str) -> Delta {
    let mut delta = Delta::new();
    let root = Path::new("0");
    derive(base, tree, root, Some(root), &Arc::from(writer), &mut delta);
    if !delta.is_empty() || base.get(root).unwrap().mode() != tree.get(root).unwrap().mode() {
        delta.insert(
            root,
            Present::new(Kind::Dir, Some(Kind::Dir)),
            &Arc::from(writer),
        );
    }
    delta
}

fn derive(
    base: &Tree,
    tree: &Tree,
    directory: &Path,
    lower: Option<&Path>,
    writer: &Arc<str>,
    delta: &mut Delta,
) {
    let covers = |child: &Path| lower.map(|lower| lower.join(child.file_name().unwrap()));
    for child in tree.children(directory) {
        let covered = covers(&child);
        let below = covered.as_deref().and_then(|covered| base.get(covered));
        let mut present = Present::new(tree.get(&child).unwrap().kind(), below.map(Node::kind));
        match tree.get(&child).unwrap() {
            Node::Dir { mode, from, copied } => {
                let before = delta.len();
                derive(base, tree, &child, from.as_deref(), writer, delta);
                let merged = from.is_some() && *from == covered;
                if merged {
                    let same = below.is_some_and(|below| below.mode() == *mode);
                    if same && !copied && delta.len() == before {
                        continue;
                    }
                } else {
                    present.redirect_from = from.clone();
                    // Whether a directory over nothing is marked opaque is up to the layer.
                    present.opaque =
                        from.is_none() && (present.was == Some(Kind::Dir) || child.ends_with("b"));
                }
            }
            Node::File {
                data,
                mode,
                from,
                copied,
            } => {
                let same_file = from.is_some() && *from == covered;
                if same_file && below.is_some_and(|below| below.data() == Some(data)) {
                    if !copied && below.is_some_and(|below| below.mode() == *mode) {
                        continue;
                    }
                    present.content = if *copied {
                        Content::Own
                    } else {
                        Content::Below
                    };
                }
            }
        }
        delta.insert(child, present, writer);
    }
    for gone in lower.map(|lower| base.children(lower)).unwrap_or_default() {
        let child = directory.join(gone.file_name().unwrap());
        if tree.get(&child).is_none() {
            let was = base.get(&gone).map(Node::kind);
            delta.insert(child, Change::Deleted { was }, writer);
        }
    }
}

/// What a layer shows on top of a tree. `upper` has the content of the layer's entries.
pub fn stacked(lower: &Tree, delta: &Delta, upper: &Tree) -> Tree {
    let mut shown = lower.clone();
    for (path, entry) in delta.iter() {
        let present = match &entry.change {
            Change::Deleted { .. } => {
                shown.remove(path);
                continue;
            }
            Change::Present(present) => present,
        };
        let mut node = upper.get(path).unwrap().clone();
        if let Node::File { data, .. } = &mut node {
            if present.content != Content::Own {
                let below = shown.get(path).and_then(Node::data);
                *data = below
                    .unwrap_or("a metadata-only entry over nothing")
                    .to_owned();
            }
            shown.remove(path);
        } else if let Some(from) = &present.redirect_from {
            shown.remove(path);
            if lower.is_dir(from) {
                shown.copy(lower, from, path);
            }
        } else if present.opaque || !shown.is_dir(path) {
            shown.remove(path);
        }
        shown.0.insert(path.clone(), node);
    }
    shown
}

/// Carries out a plan above what the stack shows.
pub fn joined(stacked: &Tree, plan: &JoinPlan, model: &Model<'_>) -> Tree {
    let mut shown = stacked.clone();
    for action in plan.actions() {
        let parent = action.target().parent().unwrap();
        assert!(
            parent == Path::new("") || shown.is_dir(parent),
            "{action:?} has no directory"
        );
        match action {
            Action::Take { side, path, to } => {
                assert!(
                    model.view(*side).get(path).is_some(),
                    "{action:?} of nothing"
                );
                shown.copy(model.view(*side), path, to);
            }
            Action::Remove { path } => {
                assert!(shown.get(path).is_some(), "{action:?} of nothing");
                shown.remove(path);
            }
            Action::Directory { side, path } => {
                let mut node = model.view(*side).get(path).unwrap().clone();
                assert_eq!(node.kind(), Kind::Dir, "{action:?} of a file");
                if let Node::Dir { from, .. } = &mut node {
                    *from = None;
                }
                if !shown.is_dir(path) {
                    shown.remove(path);
                    shown.0.insert(path.clone(), node.clone());
                }
                shown.0.get_mut(path).unwrap().set_mode(node.mode());
            }
            Action::Metadata { side, path } => {
                let mode = model.view(*side).get(path).unwrap().mode();
                shown.0.get_mut(path).unwrap().set_mode(mode);
            }
            Action::Concatenate { path } => {
                let tail = |tree: &Tree| tree.get(path).unwrap().data().unwrap().to_owned();
                let base = model
                    .base
                    .get(path)
                    .and_then(Node::data)
                    .unwrap_or_default();
                let text = tail(model.stage) + &tail(model.step)[base.len()..];
                if let Some(Node::File { data, .. }) = shown.0.get_mut(path) {
                    *data = text;
                }
            }
        }
    }
    shown
}

/// Answers from three trees.
pub struct Model<'a> {
    pub base: &'a Tree,
    pub stage: &'a Tree,
    pub step: &'a Tree,
}

impl Model<'_> {
    pub fn view(&self, side: Side) -> &Tree {
        match side {
            Side::Stage => self.stage,
            Side::Step => self.step,
        }
    }

    /// Where the base has what a side's entry covers.
    pub fn covered(&self, side: Side, path: &Path) -> Option<PathBuf> {
        covered(self.view(side), path)
    }
}

pub fn covered(tree: &Tree, path: &Path) -> Option<PathBuf> {
    match tree.get(path.parent()?) {
        Some(Node::Dir {
            from: Some(from), ..
        }) => Some(from.join(path.file_name()?)),
        // A mapped path covers itself.
        None => Some(path.to_path_buf()),
        _ => None,
    }
}

impl Compare for Model<'_> {
    type Error = Infallible;

    fn effect(&mut self, side: Side, path: &Path) -> Result<Effect, Infallible> {
        let below = self.base.get(&self.covered(side, path).unwrap()).unwrap();
        let node = self.view(side).get(path).unwrap();
        assert_eq!(
            below.kind(),
            node.kind(),
            "the kind is known from the delta"
        );
        Ok(if below.data() != node.data() {
            Effect::Content
        } else if below.mode() != node.mode() {
            Effect::Metadata
        } else {
            Effect::Nothing
        })
    }

    fn same(&mut self, path: &Path) -> Result<Sameness, Infallible> {
        self.same_inode(path, path)
    }

    /// The trees of this model have no hard links, which `links` has: one name, one inode.
    fn inode(&mut self, side: Side, _: u64, name: &Path) -> Result<Effect, Infallible> {
        self.effect(side, name)
    }

    fn same_inode(&mut self, stage: &Path, step: &Path) -> Result<Sameness, Infallible> {
        let (stage, step) = (self.stage.get(stage).unwrap(), self.step.get(step).unwrap());
        assert_eq!(
            stage.kind(),
            step.kind(),
            "the kind is known from the delta"
        );
        Ok(if stage.data() != step.data() {
            Sameness::Different
        } else if stage.mode() != step.mode() {
            Sameness::SameContent
        } else {
            Sameness::Identical
        })
    }

    fn appended(&mut self, path: &Path) -> Result<bool, Infallible> {
        let base = self.base.get(path).and_then(Node::data).unwrap_or_default();
        let grew = |tree: &Tree| tree.get(path).unwrap().data().unwrap().starts_with(base);
        Ok(grew(self.stage) && grew(self.step))
    }

    fn exists(&mut self, side: Side, path: &Path) -> Result<bool, Infallible> {
        Ok(self.view(side).get(path).is_some())
    }
}
