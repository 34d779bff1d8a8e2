//! Hard links: names of inodes, in one directory.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness_fs::merge::{
    Action, Change, Compare, Delta, Effect, Inputs, Outcome, Policies, Policy, Present, Sameness,
    Side, classify,
};
use harness_fs::tree::Kind;
use proptest::prelude::*;

const NAMES: [&str; 5] = ["0/a", "0/b", "0/c", "0/d", "0/e"];

/// Content and mode.
type File = (u8, u8);

/// What a tree shows: names that are one file, and that file.
type Shown = BTreeSet<(BTreeSet<PathBuf>, File)>;

#[derive(Clone, Debug, Default)]
struct Tree {
    names: BTreeMap<PathBuf, u64>,
    files: BTreeMap<u64, File>,
    /// What the layer holds: what was made, changed, linked or renamed in it.
    held: BTreeSet<u64>,
    next: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Link(usize, usize),
    Rename(usize, usize),
    Write(usize, u8),
    Replace(usize, u8),
    Chmod(usize, u8),
    Touch(usize),
    Remove(usize),
}

fn name(index: usize) -> PathBuf {
    NAMES[index].into()
}

impl Op {
    fn names(&self) -> Vec<PathBuf> {
        match self {
            Op::Link(from, to) | Op::Rename(from, to) => vec![name(*from), name(*to)],
            Op::Write(at, _) | Op::Replace(at, _) | Op::Chmod(at, _) => vec![name(*at)],
            Op::Touch(at) | Op::Remove(at) => vec![name(*at)],
        }
    }
}

impl Tree {
    /// A view of this tree; `numbers` is where the numbers of its new inodes begin.
    fn view(&self, numbers: u64) -> Tree {
        Tree {
            held: BTreeSet::new(),
            next: numbers,
            ..self.clone()
        }
    }

    fn run(mut self, ops: &[Op]) -> Tree {
        ops.iter().for_each(|op| self.step(op));
        self
    }

    fn make(&mut self, at: PathBuf, content: u8) {
        self.next += 1;
        self.names.insert(at, self.next);
        self.files.insert(self.next, (content, 0));
        self.held.insert(self.next);
    }

    fn step(&mut self, op: &Op) {
        let paths = op.names();
        let Some(ino) = self.names.get(&paths[0]).copied() else {
            if let Op::Write(_, content) | Op::Replace(_, content) = op {
                self.make(paths[0].clone(), *content);
            }
            return;
        };
        match op {
            Op::Link(..) if self.names.contains_key(&paths[1]) => return,
            // rename(2): two names of one file stay as they are.
            Op::Rename(..) if self.names.get(&paths[1]) == Some(&ino) => return,
            Op::Link(..) => drop(self.names.insert(paths[1].clone(), ino)),
            Op::Rename(..) => {
                self.names.remove(&paths[0]);
                self.names.insert(paths[1].clone(), ino);
            }
            Op::Write(_, content) => self.files.get_mut(&ino).unwrap().0 = *content,
            Op::Chmod(_, mode) => self.files.get_mut(&ino).unwrap().1 = *mode,
            Op::Replace(_, content) => return self.make(paths[0].clone(), *content),
            Op::Touch(_) => {}
            Op::Remove(_) => {
                self.names.remove(&paths[0]);
                return;
            }
        }
        self.held.insert(ino);
    }

    fn file(&self, at: &Path) -> Option<File> {
        Some(self.files[self.names.get(at)?])
    }

    /// The layer that made this of `base`. It holds an inode under all its names.
    fn delta(&self, base: &Tree, writer: &str) -> Delta {
        let mut delta = Delta::new();
        let writer = Arc::from(writer);
        let was = |at: &PathBuf| base.names.contains_key(at).then_some(Kind::File);
        for (at, ino) in &self.names {
            if self.held.contains(ino) {
                let mut present = Present::new(Kind::File, was(at));
                present.link = Some(*ino);
                delta.insert(at.clone(), present, &writer);
            }
        }
        for at in base.names.keys() {
            if !self.names.contains_key(at) {
                delta.insert(at.clone(), Change::Deleted { was: was(at) }, &writer);
            }
        }
        if !delta.is_empty() {
            let root = Present::new(Kind::Dir, Some(Kind::Dir));
            delta.insert("0", root, &writer);
        }
        delta
    }

    fn shown(&self) -> Shown {
        shown(
            self.names
                .iter()
                .map(|(at, ino)| (at, *ino, self.files[ino])),
        )
    }
}

/// Names of one number and one content are one file; a further content has a number of its own.
fn shown<'a>(names: impl Iterator<Item = (&'a PathBuf, u64, File)>) -> Shown {
    let mut files: BTreeMap<(u64, File), BTreeSet<PathBuf>> = BTreeMap::new();
    for (at, ino, file) in names {
        files.entry((ino, file)).or_default().insert(at.clone());
    }
    let groups = files.into_iter();
    groups.map(|((_, file), names)| (names, file)).collect()
}

struct Model<'a> {
    base: &'a Tree,
    stage: &'a Tree,
    step: &'a Tree,
}

fn effect(before: Option<File>, now: Option<File>) -> Effect {
    match (before, now) {
        (Some(before), Some(now)) if before == now => Effect::Nothing,
        (Some(before), Some(now)) if before.0 == now.0 => Effect::Metadata,
        _ => Effect::Content,
    }
}

impl Model<'_> {
    fn view(&self, side: Side) -> &Tree {
        match side {
            Side::Stage => self.stage,
            Side::Step => self.step,
        }
    }

    fn merge(&mut self, policy: Policy) -> (Outcome, Delta, Delta) {
        let stage = self.stage.delta(self.base, "stage");
        let step = self.step.delta(self.base, "step");
        let inputs = Inputs {
            stage: &stage,
            step: &step,
            step_name: "step",
            busy: &BTreeSet::new(),
            policies: &Policies::new(vec!["/w".into()]).override_with(policy),
        };
        let outcome = classify(&inputs, self).unwrap();
        (outcome, stage, step)
    }

    /// The merged names: each inode's number, and whose version of it is shown.
    fn merged(&self, outcome: &Outcome, step: &Delta) -> BTreeMap<PathBuf, (u64, Side)> {
        let plan = outcome.plan.as_ref().unwrap();
        let mut names = BTreeMap::new();
        let take = |side: Side, at: &Path| (self.view(side).names[at], side);
        for at in self.stage.names.keys() {
            names.insert(at.clone(), take(Side::Stage, at));
        }
        for (at, entry) in step.iter().skip(1) {
            match entry.change.present() {
                Some(_) => names.insert(at.clone(), take(Side::Step, at)),
                None => names.remove(at),
            };
        }
        let mut fresh = 1 << 32;
        for action in plan.actions() {
            match action {
                Action::Take { side, path, to } => {
                    let (mut ino, side) = take(*side, path);
                    if path != to {
                        fresh += 1;
                        ino = fresh;
                    }
                    names.insert(to.clone(), (ino, side));
                }
                Action::Remove { path } => {
                    assert!(names.remove(path).is_some(), "{action:?} of nothing");
                }
                other => panic!("{other:?}"),
            }
        }
        for links in plan.links() {
            let of = |at: &PathBuf| names.get(at).filter(|(ino, _)| *ino == links.inode);
            if links
                .names
                .iter()
                .filter_map(of)
                .any(|(_, side)| *side == links.side)
            {
                for at in &links.names {
                    if let Some((ino, side)) = names.get_mut(at)
                        && *ino == links.inode
                    {
                        *side = links.side;
                    }
                }
            }
        }
        names
    }

    fn shown(&self, names: &BTreeMap<PathBuf, (u64, Side)>) -> Shown {
        let file = |ino: &u64, side: &Side| self.view(*side).files.get(ino).copied();
        let known = names
            .iter()
            .filter_map(|(at, (ino, side))| Some((at, *ino, file(ino, side)?)));
        shown(known)
    }
}

impl Compare for Model<'_> {
    type Error = Infallible;

    fn effect(&mut self, side: Side, path: &Path) -> Result<Effect, Infallible> {
        if path == Path::new("0") {
            return Ok(Effect::Nothing);
        }
        Ok(effect(self.base.file(path), self.view(side).file(path)))
    }

    fn same(&mut self, path: &Path) -> Result<Sameness, Infallible> {
        self.same_inode(path, path)
    }

    fn inode(&mut self, side: Side, inode: u64, name: &Path) -> Result<Effect, Infallible> {
        let now = self.view(side).file(name);
        Ok(effect(self.base.files.get(&inode).copied(), now))
    }

    fn same_inode(&mut self, stage: &Path, step: &Path) -> Result<Sameness, Infallible> {
        Ok(match effect(self.stage.file(stage), self.step.file(step)) {
            Effect::Nothing => Sameness::Identical,
            Effect::Metadata => Sameness::SameContent,
            Effect::Content => Sameness::Different,
        })
    }

    fn appended(&mut self, _: &Path) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn exists(&mut self, side: Side, path: &Path) -> Result<bool, Infallible> {
        Ok(self.view(side).names.contains_key(path))
    }
}

/// Contents that only this side writes, so that what differs is never equal by chance.
fn ops(first: u8) -> impl Strategy<Value = Vec<Op>> {
    let (at, byte) = (0..NAMES.len(), first..first + 3);
    let op = prop_oneof![
        4 => (at.clone(), at.clone()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => (at.clone(), at.clone()).prop_map(|(from, to)| Op::Rename(from, to)),
        2 => (at.clone(), byte.clone()).prop_map(|(at, byte)| Op::Write(at, byte)),
        1 => (at.clone(), byte.clone()).prop_map(|(at, byte)| Op::Replace(at, byte)),
        1 => (at.clone(), byte).prop_map(|(at, mode)| Op::Chmod(at, mode)),
        1 => at.clone().prop_map(Op::Touch),
        1 => at.prop_map(Op::Remove),
    ];
    prop::collection::vec(op, 0..=4)
}

/// Three names, of up to three files.
fn base() -> impl Strategy<Value = Tree> {
    prop::collection::vec(1..=3_u64, 3).prop_map(|inos| {
        let names = inos.iter().enumerate().map(|(at, ino)| (name(at), *ino));
        Tree {
            names: names.collect(),
            files: inos
                .iter()
                .map(|ino| (*ino, (100 + *ino as u8, 100)))
                .collect(),
            ..Tree::default()
        }
    })
}

/// The names that stand for another file than before, or for none.
fn given_away(before: &Tree, after: &Tree) -> BTreeSet<PathBuf> {
    let names = before.names.keys().chain(after.names.keys());
    let differs = |at: &&PathBuf| before.names.get(*at) != after.names.get(*at);
    names.filter(differs).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Without a conflict an inode is one file under all its names, and the names are those that
    /// running the steps one after another gives, unless the step looked at a name that the stage
    /// had given to another file.
    #[test]
    fn links_merge_as_sequential_runs(base in base(), earlier in ops(0), later in ops(10)) {
        let stage = base.view(1000).run(&earlier);
        let step = base.view(2000).run(&later);
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let (outcome, _, step_delta) = model.merge(Policy::Fail);
        if outcome.plan.is_none() {
            return Ok(());
        }
        let shown = model.shown(&model.merged(&outcome, &step_delta));
        let moved = given_away(&base, &stage);
        // A change of a file that the step then removed is in no layer.
        let lost = base.files.iter().any(|(ino, file)| {
            step.files[ino] != *file && !step.names.values().any(|own| own == ino)
        });
        if !lost && later.iter().flat_map(Op::names).all(|at| !moved.contains(&at)) {
            prop_assert_eq!(shown, stage.view(2000).run(&later).shown(), "{:?}", outcome);
        }
    }

    /// Links alone never conflict: the names unite, whoever has them.
    #[test]
    fn further_names_unite(base in base(), earlier in ops(0), later in ops(10)) {
        let links = |ops: Vec<Op>| -> Vec<Op> {
            let link = |op: &Op| matches!(op, Op::Link(..) | Op::Touch(_));
            ops.into_iter().filter(link).collect()
        };
        let stage = base.view(1000).run(&links(earlier));
        let step = base.view(2000).run(&links(later));
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let (outcome, _, step_delta) = model.merge(Policy::Fail);
        let alike = |(at, ino): (&PathBuf, &u64)| step.names.get(at).is_none_or(|own| own == ino);
        if stage.names.iter().all(alike) {
            prop_assert!(outcome.conflicts.is_empty(), "{:?}", outcome);
            let mut all = stage.clone();
            all.names.extend(step.names.clone());
            prop_assert_eq!(model.shown(&model.merged(&outcome, &step_delta)), all.shown());
        }
    }

    /// Whoever wins, a name that one side made and the other had nothing to do with is there.
    #[test]
    fn no_name_is_lost(base in base(), earlier in ops(0), later in ops(10), first: bool) {
        let stage = base.view(1000).run(&earlier);
        let step = base.view(2000).run(&later);
        let policy = if first { Policy::First } else { Policy::Last };
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let (outcome, stage_delta, step_delta) = model.merge(policy);
        let merged = model.merged(&outcome, &step_delta);
        for (own, other) in [(&stage, &step_delta), (&step, &stage_delta)] {
            for (at, ino) in &own.names {
                if !base.names.contains_key(at) && other.get(at).is_none() {
                    prop_assert_eq!(merged.get(at).map(|name| name.0), Some(*ino), "{:?}", outcome);
                }
            }
        }
    }
}
