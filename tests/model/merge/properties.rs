//! The properties.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use harness_fs::merge::{
    Change, Class, Conflict, Delta, Inputs, Outcome, Policies, Policy, Selection, Side, classify,
    part,
};
use proptest::prelude::*;

use crate::layers::{Model, covered, delta, joined, stacked};
use crate::trees::{Node, Op, Seen, Tree, base, ops};

fn policies(policy: Option<Policy>) -> Policies {
    let policies = Policies::new(vec!["/w".into()]);
    match policy {
        Some(policy) => policies.override_with(policy),
        None => policies,
    }
}

pub fn merge(
    model: &mut Model<'_>,
    stage: &Delta,
    step: &Delta,
    policy: Option<Policy>,
) -> Outcome {
    let inputs = Inputs {
        stage,
        step,
        step_name: "step",
        busy: &BTreeSet::new(),
        policies: &policies(policy),
    };
    classify(&inputs, model).unwrap()
}

/// What two trees merge to, if nothing is in conflict.
fn clean(base: &Tree, stage: &Tree, step: &Tree) -> Option<Tree> {
    let (stage_delta, step_delta) = (delta(base, stage, "stage"), delta(base, step, "step"));
    let mut model = Model { base, stage, step };
    let plan = merge(&mut model, &stage_delta, &step_delta, Some(Policy::Fail)).plan?;
    Some(joined(&stacked(stage, &step_delta, step), &plan, &model))
}

/// Path by path: what one side changed against the base holds. `None` where both did.
fn three_way(base: &Seen, stage: &Seen, step: &Seen, path: &Path) -> Option<SeenNode> {
    let (base, stage, step) = (base.get(path), stage.get(path), step.get(path));
    if step == base || stage == step {
        Some(stage.cloned())
    } else if stage == base {
        Some(step.cloned())
    } else {
        None
    }
}

type SeenNode = Option<(Option<String>, u8)>;

/// Whether a conflict decides the path.
fn decides(conflict: &Conflict, path: &Path) -> bool {
    let units = conflict.related.iter().map(|related| tree_path(related));
    units
        .chain([conflict.tree_path.clone()])
        .any(|unit| match conflict.class {
            Class::DirectoryMetadata => path == unit,
            _ => path.starts_with(unit),
        })
}

fn tree_path(absolute: &Path) -> PathBuf {
    Path::new("0").join(absolute.strip_prefix("/w").unwrap())
}

proptest! {
    // A failure prints its minimal input; copy that into a test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A layer of all that consecutive layers did shows what they show.
    #[test]
    fn all_of_a_chain_is_the_chain(base in base(), first in ops(5), second in ops(5)) {
        let (one, two) = (base.after(&first), base.after(&first).after(&second));
        let mut both = delta(&base, &one, "first");
        let sealed = one.sealed();
        both.then(delta(&sealed, &sealed.after(&second), "second"));
        let model = Model { base: &base, stage: &base, step: &two };
        let plan = part(&both, &Selection::all());
        prop_assert_eq!(joined(&base, &plan, &model).seen(), two.seen());
    }

    /// Of a step what is selected is as the step left it, and all else as it was.
    #[test]
    fn a_part_is_what_is_selected(base in base(), later in ops(6), which in any::<prop::sample::Index>()) {
        let step = base.after(&later);
        let done = delta(&base, &step, "step");
        let (a, b) = (base.seen(), step.seen());
        let paths: BTreeSet<&PathBuf> = a.keys().chain(b.keys()).collect();
        let paths: Vec<&PathBuf> = paths.into_iter().filter(|path| *path != Path::new("0")).collect();
        prop_assume!(!paths.is_empty());
        let selected = paths[which.index(paths.len())];
        // Whose place is gone or is another one: see docs/merge.md.
        prop_assume!(!done.severs_above(selected));
        let pattern = format!("{}/**", selected.strip_prefix("0").unwrap().display());
        let selection = Selection::of(&[pattern], vec!["/w".into()]).unwrap();
        let model = Model { base: &base, stage: &base, step: &step };
        let result = joined(&base, &part(&done, &selection), &model).seen();
        for path in paths {
            if path.starts_with(selected) {
                prop_assert_eq!(result.get(path), b.get(path), "{:?}", path);
            } else if !selected.starts_with(path) {
                prop_assert_eq!(result.get(path), a.get(path), "{:?}", path);
            }
        }
    }

    /// Without a conflict the merged tree is the three-way merge path by path; and where that
    /// has no answer, or is no tree, there is a conflict.
    #[test]
    fn clean_merges_are_three_way_merges(
        base in base(), first in ops(5), second in ops(2), later in ops(6)
    ) {
        let (layer, stage, step) = (base.after(&first), base.after(&first).after(&second),
            base.after(&later));
        let mut stage_delta = delta(&base, &layer, "first");
        let sealed = layer.sealed();
        stage_delta.then(delta(&sealed, &sealed.after(&second), "second"));
        let step_delta = delta(&base, &step, "step");
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let outcome = merge(&mut model, &stage_delta, &step_delta, Some(Policy::Fail));
        prop_assert_eq!(
            &outcome,
            &merge(&mut model, &stage_delta, &step_delta, Some(Policy::Fail))
        );

        let (a, b, c) = (base.seen(), stage.seen(), step.seen());
        let paths: BTreeSet<&PathBuf> = a.keys().chain(b.keys()).chain(c.keys()).collect();
        let mut expected = Seen::new();
        let mut possible = true;
        for path in paths {
            match three_way(&a, &b, &c, path) {
                Some(Some(node)) => drop(expected.insert(path.clone(), node)),
                Some(None) => {}
                None => possible = false,
            }
        }
        possible &= expected.keys().all(|path| match path.parent() {
            Some(parent) if parent != Path::new("") => {
                expected.get(parent).is_some_and(|node| node.0.is_none())
            }
            _ => true,
        });
        match outcome.plan {
            Some(plan) => {
                prop_assert!(possible, "a conflict went unseen");
                let merged = joined(&stacked(&stage, &step_delta, &step), &plan, &model);
                prop_assert_eq!(merged.seen(), expected);
            }
            None => prop_assert!(!outcome.conflicts.is_empty()),
        }
    }

    /// `first` and `last` give the winner's view of what is in conflict and the three-way merge
    /// of everything else.
    #[test]
    fn the_winner_takes_what_is_in_conflict(
        base in base(), earlier in ops(6), later in ops(6), first in any::<bool>()
    ) {
        let (stage, step) = (base.after(&earlier), base.after(&later));
        let (stage_delta, step_delta) =
            (delta(&base, &stage, "stage"), delta(&base, &step, "step"));
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let (policy, side) =
            if first { (Policy::First, Side::Stage) } else { (Policy::Last, Side::Step) };
        let outcome = merge(&mut model, &stage_delta, &step_delta, Some(policy));
        let plan = outcome.plan.as_ref().unwrap();
        let merged = joined(&stacked(&stage, &step_delta, &step), plan, &model).seen();

        let (a, b, c) = (base.seen(), stage.seen(), step.seen());
        let winner = model.view(side).seen();
        for path in a.keys().chain(b.keys()).chain(c.keys()) {
            let expected = if outcome.conflicts.iter().any(|conflict| decides(conflict, path)) {
                winner.get(path).cloned()
            } else {
                let expected = three_way(&a, &b, &c, path);
                prop_assert!(expected.is_some(), "{path:?} is no conflict: {outcome:?}");
                expected.unwrap()
            };
            prop_assert_eq!(merged.get(path), expected.as_ref(), "{:?}: {:?}", path, outcome);
        }
    }

    /// `keep-both` loses nobody's content where both have a file.
    #[test]
    fn keep_both_keeps_both(base in base(), earlier in ops(6), later in ops(6)) {
        let (stage, step) = (base.after(&earlier), base.after(&later));
        let (stage_delta, step_delta) =
            (delta(&base, &stage, "stage"), delta(&base, &step, "step"));
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let outcome = merge(&mut model, &stage_delta, &step_delta, Some(Policy::KeepBoth));
        let plan = outcome.plan.as_ref().unwrap();
        let merged = joined(&stacked(&stage, &step_delta, &step), plan, &model);
        for conflict in outcome.conflicts.iter().filter(|c| !c.class.is_metadata()) {
            let path = &conflict.tree_path;
            // Where another conflict's other end lies in this one, what that keeps is there
            // besides: a directory moved from here to where the step has removed all.
            let mut others = outcome.conflicts.iter().flat_map(|other| &other.related);
            if others.any(|related| tree_path(related).starts_with(path)) {
                continue;
            }
            if !conflict.related.is_empty() {
                continue;
            }
            match (stage.get(path), step.get(path)) {
                (Some(_), Some(_)) => {
                    let kept = tree_path(&conflict.kept_as[0]);
                    prop_assert_eq!(seen_below(&merged, path), seen_below(&stage, path));
                    prop_assert_eq!(seen_below(&merged, &kept), seen_below(&step, path));
                }
                (Some(_), None) => {
                    prop_assert_eq!(seen_below(&merged, path), seen_below(&stage, path));
                }
                _ => prop_assert_eq!(seen_below(&merged, path), seen_below(&step, path)),
            }
        }
    }

    /// Who merges first does not matter for whether there is a conflict, nor for a clean result.
    #[test]
    fn the_sides_are_equal(base in base(), earlier in ops(6), later in ops(6)) {
        let (stage, step) = (base.after(&earlier), base.after(&later));
        let (stage_delta, step_delta) =
            (delta(&base, &stage, "stage"), delta(&base, &step, "step"));
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let there = merge(&mut model, &stage_delta, &step_delta, Some(Policy::Fail));
        let mut model = Model { base: &base, stage: &step, step: &stage };
        let back = merge(&mut model, &step_delta, &stage_delta, Some(Policy::Fail));
        prop_assert_eq!(there.plan.is_some(), back.plan.is_some(), "{:?} {:?}", there, back);
        let seen = |tree: Option<Tree>| tree.map(|tree| tree.seen());
        prop_assert_eq!(seen(clean(&base, &stage, &step)), seen(clean(&base, &step, &stage)));
    }

    /// A step that looks at nothing that the stage changed merges as if it had run afterwards.
    #[test]
    fn clean_merges_are_sequential_runs(base in base(), earlier in ops(3), later in ops(4)) {
        let (stage, step) = (base.after(&earlier), base.after(&later));
        let (stage_delta, step_delta) =
            (delta(&base, &stage, "stage"), delta(&base, &step, "step"));
        if reads_changes(&base, &stage, &later) {
            return Ok(());
        }
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let outcome = merge(&mut model, &stage_delta, &step_delta, Some(Policy::Fail));
        if let Some(plan) = outcome.plan {
            let merged = joined(&stacked(&stage, &step_delta, &step), &plan, &model);
            prop_assert_eq!(merged.seen(), stage.after(&later).seen());
        }
    }

    /// Three steps merge to one tree, or not at all, whichever two of them are taken first.
    #[test]
    fn merging_is_associative(base in base(), a in ops(5), b in ops(5), c in ops(5)) {
        let (a, b, c) = (base.after(&a), base.after(&b), base.after(&c));
        let left = clean(&base, &a, &b).and_then(|ab| clean(&base, &ab, &c));
        let right = clean(&base, &b, &c).and_then(|bc| clean(&base, &a, &bc));
        prop_assert_eq!(left.map(|tree| tree.seen()), right.map(|tree| tree.seen()));
    }

    /// A merge onto an unchanged stage is the step itself.
    #[test]
    fn a_merge_of_one_is_the_step(base in base(), later in ops(8)) {
        let step = base.after(&later);
        let mut model = Model { base: &base, stage: &base, step: &step };
        let outcome = merge(&mut model, &Delta::new(), &delta(&base, &step, "step"), None);
        prop_assert!(outcome.conflicts.is_empty());
        prop_assert!(outcome.plan.unwrap().is_empty());
    }

    /// Sides that work in different directories do not conflict and need no join layer.
    #[test]
    fn different_directories_do_not_meet(base in base(), earlier in ops(8), later in ops(8)) {
        let within = |ops: Vec<Op>, top: &str| -> Vec<Op> {
            let inside = |op: &Op| op.paths().iter().all(|path| {
                path.starts_with(top) && path.components().count() > 2
            });
            ops.into_iter().filter(inside).collect()
        };
        let stage = base.after(&within(earlier, "0/a"));
        let step = base.after(&within(later, "0/b"));
        let (stage_delta, step_delta) =
            (delta(&base, &stage, "stage"), delta(&base, &step, "step"));
        let mut model = Model { base: &base, stage: &stage, step: &step };
        let outcome = merge(&mut model, &stage_delta, &step_delta, Some(Policy::Fail));
        prop_assert!(outcome.conflicts.is_empty());
        prop_assert!(outcome.plan.unwrap().is_empty());
    }

    /// Two layers composed show what the two stacked show, and know what they cover.
    #[test]
    fn composed_layers_are_one_layer(base in base(), earlier in ops(8), later in ops(8)) {
        let middle = base.after(&earlier);
        let top = middle.after(&later);
        let mut composed = delta(&base, &middle, "one");
        let sealed = middle.sealed();
        composed.then(delta(&sealed, &sealed.after(&later), "two"));
        prop_assert_eq!(stacked(&base, &composed, &top).seen(), top.seen());
        for (path, entry) in composed.iter() {
            let below = covered(&top, path).and_then(|covered| base.get(&covered).cloned());
            prop_assert_eq!(entry.change.was(), below.map(|node| node.kind()), "{:?}", path);
            if entry.change.directory().is_some() {
                let Some(Node::Dir { from, .. }) = top.get(path) else { panic!("no directory") };
                prop_assert_eq!(&composed.origin(path), from, "{:?}", path);
            }
            let over_nothing = entry.change == Change::Deleted { was: None };
            prop_assert!(!over_nothing);
        }
    }

    /// It does not matter which of three layers are composed first.
    #[test]
    fn composition_is_associative(base in base(), a in ops(4), b in ops(4), c in ops(4)) {
        let layer = |below: &Tree, ops: &[Op]| {
            let below = below.sealed();
            let above = below.after(ops);
            (delta(&below, &above, "x"), above)
        };
        let (first, tree) = layer(&base, &a);
        let (second, tree) = layer(&tree, &b);
        let (third, _) = layer(&tree, &c);
        let mut left = first.clone();
        left.then(second.clone());
        left.then(third.clone());
        let mut late = second;
        late.then(third);
        let mut right = first;
        right.then(late);
        let shape = |delta: &Delta| -> Vec<_> {
            let shape = |(path, entry): (&PathBuf, &harness_fs::merge::Entry)| {
                (path.clone(), entry.change.was(), entry.change.kind(),
                    entry.change.severs(), entry.change.redirect_from().cloned())
            };
            delta.iter().map(shape).collect()
        };
        prop_assert_eq!(shape(&left), shape(&right));
    }
}

fn seen_below(tree: &Tree, path: &Path) -> Vec<(PathBuf, (Option<String>, u8))> {
    let rest = |below: &Path| below.strip_prefix(path).unwrap().to_path_buf();
    let seen = |node: &Node| (node.data().map(str::to_owned), node.mode());
    tree.subtree(path)
        .iter()
        .map(|(below, node)| (rest(below), seen(node)))
        .collect()
}

/// Whether a step's operations had to do with a path that the stage changed.
fn reads_changes(base: &Tree, stage: &Tree, ops: &[Op]) -> bool {
    let (before, after) = (base.seen(), stage.seen());
    let changed: BTreeSet<&PathBuf> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    ops.iter().flat_map(Op::paths).any(|path| {
        changed
            .iter()
            .any(|changed| path.starts_with(changed) || changed.starts_with(path))
    })
}
