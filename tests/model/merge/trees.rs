//! Trees in memory, and operations on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness_fs::tree::Kind;
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// `from` is the directory of the base whose names show through.
    Dir {
        mode: u8,
        from: Option<PathBuf>,
        copied: bool,
    },
    /// `from` is the file of the base that this one is, under whatever name.
    File {
        data: String,
        mode: u8,
        from: Option<PathBuf>,
        copied: bool,
    },
}

impl Node {
    pub fn kind(&self) -> Kind {
        match self {
            Node::Dir { .. } => Kind::Dir,
            Node::File { .. } => Kind::File,
        }
    }

    pub fn mode(&self) -> u8 {
        let (Node::Dir { mode, .. } | Node::File { mode, .. }) = self;
        *mode
    }

    pub fn set_mode(&mut self, new: u8) {
        let (Node::Dir { mode, .. } | Node::File { mode, .. }) = self;
        *mode = new;
    }

    fn set_copied(&mut self) {
        let (Node::Dir { copied, .. } | Node::File { copied, .. }) = self;
        *copied = true;
    }

    pub fn data(&self) -> Option<&str> {
        match self {
            Node::Dir { .. } => None,
            Node::File { data, .. } => Some(data),
        }
    }
}

pub type Seen = BTreeMap<PathBuf, (Option<String>, u8)>;

#[derive(Clone, Debug, Default)]
pub struct Tree(pub BTreeMap<PathBuf, Node>);

#[derive(Clone, Debug)]
pub enum Op {
    Write(PathBuf, u8),
    Append(PathBuf, u8),
    Chmod(PathBuf, u8),
    Touch(PathBuf),
    Mkdir(PathBuf),
    Remove(PathBuf),
    /// `rm -rf` and `mkdir`.
    Recreate(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Op {
    /// The names that the operation has to do with.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Op::Write(path, _)
            | Op::Append(path, _)
            | Op::Chmod(path, _)
            | Op::Touch(path)
            | Op::Mkdir(path)
            | Op::Remove(path)
            | Op::Recreate(path) => vec![path],
            Op::Rename(from, to) => vec![from, to],
        }
    }
}

impl Tree {
    pub fn new() -> Tree {
        Tree(BTreeMap::from([(
            PathBuf::from("0"),
            Node::Dir {
                mode: 0,
                from: Some("0".into()),
                copied: false,
            },
        )]))
    }

    /// The tree as the base of another one: everything is where it comes from.
    pub fn sealed(&self) -> Tree {
        let mut tree = self.clone();
        for (path, node) in &mut tree.0 {
            let (Node::Dir { from, copied, .. } | Node::File { from, copied, .. }) = node;
            *from = Some(path.clone());
            *copied = false;
        }
        tree
    }

    pub fn get(&self, path: &Path) -> Option<&Node> {
        self.0.get(path)
    }

    pub fn is_dir(&self, path: &Path) -> bool {
        self.get(path).is_some_and(|node| node.kind() == Kind::Dir)
    }

    pub fn seen(&self) -> Seen {
        let seen = |node: &Node| (node.data().map(str::to_owned), node.mode());
        self.0
            .iter()
            .map(|(path, node)| (path.clone(), seen(node)))
            .collect()
    }

    pub fn children(&self, path: &Path) -> Vec<PathBuf> {
        self.0
            .keys()
            .filter(|child| child.parent() == Some(path))
            .cloned()
            .collect()
    }

    pub fn subtree(&self, path: &Path) -> Vec<(PathBuf, Node)> {
        let below = self.0.iter().filter(|(other, _)| other.starts_with(path));
        below
            .map(|(path, node)| (path.clone(), node.clone()))
            .collect()
    }

    pub fn remove(&mut self, path: &Path) {
        self.0.retain(|other, _| !other.starts_with(path));
    }

    /// Puts what another tree has at `from` in the place of whatever is at `to`.
    pub fn copy(&mut self, source: &Tree, from: &Path, to: &Path) {
        let nodes = source.subtree(from);
        self.remove(to);
        for (path, node) in nodes {
            let rest = path.strip_prefix(from).unwrap();
            let target = if rest == Path::new("") {
                to.to_path_buf()
            } else {
                to.join(rest)
            };
            self.0.insert(target, node);
        }
    }

    /// Runs an operation as a program would; says whether it succeeded.
    pub fn run(&mut self, op: &Op) -> bool {
        let parent_there =
            |tree: &Tree, path: &Path| path.parent().is_some_and(|above| tree.is_dir(above));
        match op {
            Op::Write(path, byte) | Op::Append(path, byte) => {
                if self.is_dir(path) || !parent_there(self, path) {
                    return false;
                }
                let text = byte.to_string();
                let append = matches!(op, Op::Append(..));
                let new = Node::File {
                    data: String::new(),
                    mode: 0,
                    from: None,
                    copied: false,
                };
                let node = self.0.entry(path.clone()).or_insert(new);
                if let Node::File { data, .. } = node {
                    *data = if append {
                        format!("{data}{text}")
                    } else {
                        text
                    };
                }
                node.set_copied();
            }
            Op::Chmod(path, mode) => match self.0.get_mut(path) {
                Some(node) => node.set_mode(*mode),
                None => return false,
            },
            Op::Touch(path) => match self.0.get_mut(path) {
                Some(node) => node.set_copied(),
                None => return false,
            },
            Op::Mkdir(path) => {
                if self.get(path).is_some() || !parent_there(self, path) {
                    return false;
                }
                self.0.insert(
                    path.clone(),
                    Node::Dir {
                        mode: 0,
                        from: None,
                        copied: false,
                    },
                );
            }
            Op::Remove(path) => {
                if self.get(path).is_none() {
                    return false;
                }
                self.remove(path);
            }
            Op::Recreate(path) => {
                if !parent_there(self, path) {
                    return false;
                }
                self.remove(path);
                return self.run(&Op::Mkdir(path.clone()));
            }
            Op::Rename(from, to) => {
                let Some(node) = self.get(from) else {
                    return false;
                };
                let fits = match self.get(to) {
                    None => parent_there(self, to),
                    Some(there) => {
                        there.kind() == node.kind() && self.children(to).is_empty() && from != to
                    }
                };
                if !fits || to.starts_with(from) {
                    return false;
                }
                let before = self.clone();
                self.remove(from);
                self.copy(&before, from, to);
            }
        }
        true
    }

    pub fn after(&self, ops: &[Op]) -> Tree {
        let mut tree = self.clone();
        for op in ops {
            tree.run(op);
        }
        tree
    }
}

/// Few names and a low tree, so that the two sides meet.
fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(0..2usize, 1..=3).prop_map(|names| {
        let mut path = PathBuf::from("0");
        path.extend(names.into_iter().map(|name| ["a", "b"][name]));
        path
    })
}

pub fn ops(longest: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (path(), 0..3u8).prop_map(|(path, byte)| Op::Write(path, byte)),
        1 => (path(), 0..3u8).prop_map(|(path, byte)| Op::Append(path, byte)),
        1 => (path(), 0..2u8).prop_map(|(path, mode)| Op::Chmod(path, mode)),
        1 => path().prop_map(Op::Touch),
        1 => path().prop_map(Op::Mkdir),
        1 => path().prop_map(Op::Remove),
        2 => path().prop_map(Op::Recreate),
        2 => (path(), path()).prop_map(|(from, to)| Op::Rename(from, to)),
    ];
    prop::collection::vec(op, 0..=longest)
}

/// A base: directories and files at all heights, as operations would leave them.
pub fn base() -> impl Strategy<Value = Tree> {
    prop::collection::vec((path(), any::<bool>(), 0..3u8), 0..6).prop_map(|entries| {
        let mut tree = Tree::new();
        for (path, file, byte) in entries {
            for above in path
                .ancestors()
                .skip(1)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                tree.run(&Op::Mkdir(above.to_path_buf()));
            }
            tree.run(&if file {
                Op::Write(path, byte)
            } else {
                Op::Mkdir(path)
            });
        }
        tree.sealed()
    })
}
