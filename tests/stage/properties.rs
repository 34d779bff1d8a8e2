//! What is true of every merge: of what it changes, and of what leaves the stage after it.

use std::path::{Path, PathBuf};

use harness_fs::export::{Destination, ExportOptions, export, import};
use harness_fs::layer::Inos;
use harness_fs::merge::{Conflict, Deed, Policy};
use harness_fs::stage::{Beginning, DiffLine, Options, Overrides, Stage, Start};

use crate::random::Dice;
use crate::rig::{Fakes, Rig, Tree, mapped, names};
use crate::shapes::shape;

fn rounds(usual: u64) -> u64 {
    std::env::var("HARNESS_FS_ROUNDS").map_or(usual, |n| n.parse().unwrap())
}

/// Begins a step that does something at random, and seals it.
fn random_step(rig: &Rig, dice: &mut Dice, step: &str) {
    let count = 1 + dice.roll(6);
    let commands: Vec<String> = (0..count).map(|_| shape(dice, step)).collect();
    let done = rig.try_to_run(step, &commands);
    println!("  {step} {done:?}");
    rig.stage.seal_step(step).unwrap();
}

fn diff(rig: &Rig, of: Option<&str>) -> Vec<DiffLine> {
    rig.stage.diff(of).unwrap()
}

/// Merged onto what it began on, a step changes what it has changed.
#[test]
fn a_merge_of_one_is_the_step_and_so_is_its_diff() {
    for seed in 1..=rounds(12) {
        println!("seed {seed}");
        let rig = Rig::new();
        rig.begin("a");
        random_step(&rig, &mut Dice(seed), "a");
        let of_step = diff(&rig, Some("a"));
        let report = rig.stage.merge(&names(&["a"]), None).unwrap();
        assert!(report.conflicts.is_empty() && report.join_layers.is_empty());
        assert_eq!(diff(&rig, None), of_step);
        assert_eq!(diff(&rig, Some("a")), of_step);
    }
}

/// Merged onto what others have changed without a conflict, too; but for what they did alike.
#[test]
fn a_clean_merge_changes_what_the_step_has_changed() {
    let mut clean = 0;
    let rounds = rounds(30);
    for seed in 1..=rounds {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let rig = Rig::new();
        rig.begin("a");
        rig.begin("b");
        random_step(&rig, &mut dice, "a");
        random_step(&rig, &mut dice, "b");
        rig.stage.merge(&names(&["b"]), None).unwrap();
        let (of_step, before) = (diff(&rig, Some("a")), rig.tree());
        match rig.stage.merge(&names(&["a"]), None) {
            Ok(report) if report.conflicts.is_empty() => clean += 1,
            _ => continue,
        }
        let (of_merge, after) = (diff(&rig, Some("a")), rig.tree());
        let in_tree = |line: &DiffLine| in_tree(&rig, &line.path);
        let changed = |line: &&DiffLine| {
            before.0.get(&in_tree(line)).map(|line| without_links(line))
                != after.0.get(&in_tree(line)).map(|line| without_links(line))
        };
        let key = |line: &DiffLine| (line.path.clone(), format!("{:?}", line.change), line.kind);
        let expected: Vec<_> = of_step.iter().filter(changed).map(key).collect();
        let is: Vec<_> = of_merge.iter().map(key).collect();
        assert_eq!(is, expected);
    }
    assert!(clean > rounds / 10 && clean < rounds, "{clean} of {rounds}");
}

/// Steps that follow each other are merged as one step that does the same, whether their layers
/// are pushed as they are or not.
#[test]
fn steps_that_follow_each_other_are_as_one() {
    let (mut as_they_are, mut folded) = (0, 0);
    let rounds = rounds(16);
    for seed in 1..=rounds {
        let mut dice = Dice(seed);
        let mut program = |most: usize| -> Vec<String> {
            let count = 1 + dice.roll(most);
            (0..count).map(|_| shape(&mut dice, "a")).collect()
        };
        let (first, second, beside) = (program(3), program(3), program(2));
        println!("seed {seed}: {first:?}, {second:?}, beside {beside:?}");
        for policy in [Policy::Last, Policy::First] {
            let begin = || {
                let rig = Rig::new();
                rig.begin("first");
                rig.begin("beside");
                rig.try_to_run("beside", &beside);
                rig.try_to_run("first", &first);
                rig
            };
            let one = begin();
            one.try_to_run("first", &second);
            let merged = one
                .stage
                .merge(&names(&["beside", "first"]), policy_of(policy));
            let of_one = merged.unwrap().conflicts;
            let two = begin();
            two.stage.seal_step("first").unwrap();
            let after = Beginning {
                start: Start::After("first".to_owned()),
                ..Beginning::default()
            };
            two.stage.begin_with("second", &after).unwrap();
            two.try_to_run("second", &second);
            let steps = names(&["beside", "first", "second"]);
            let report = two.stage.merge(&steps, policy_of(policy)).unwrap();
            // In one layer that was made of several a directory that has taken the place of
            // something is no renamed one any more.
            let renamed = |conflict: &Conflict| conflict.step.did == Deed::Renamed;
            if !of_one.iter().any(renamed) {
                assert_eq!(two.tree(), one.tree());
            }
            let pushed = |step: &str| report.layers.iter().any(|id| id.ends_with(step));
            match (pushed("-first"), pushed("-second")) {
                (true, true) => as_they_are += 1,
                (false, true) => folded += 1,
                _ => {}
            }
        }
    }
    assert!(
        as_they_are > rounds / 10 && folded > rounds / 10,
        "{as_they_are}, {folded}"
    );
}

fn policy_of(policy: Policy) -> Overrides {
    Some(policy).into()
}

fn in_tree(rig: &Rig, path: &Path) -> String {
    let mapped = mapped(&rig.dir);
    let (index, rest) = (0..)
        .zip(&mapped)
        .find_map(|(index, root)| Some((index, path.strip_prefix(root).ok()?)))
        .unwrap();
    Path::new(&format!("{index}"))
        .join(rest)
        .to_str()
        .unwrap()
        .to_owned()
}

/// A line of a tree without what other names the file has: those are no change of it.
fn without_links(line: &str) -> String {
    let (attr, file) = line.split_once(" nlink ").unwrap_or((line, ""));
    let text = file.split_once('"').map_or("", |(_, text)| text);
    format!("{attr} {text}")
}

/// Without a conflict the order does not matter, of names of one file neither.
#[test]
fn clean_merges_give_one_tree_in_any_order() {
    let mut clean = 0;
    let rounds = rounds(12);
    for seed in 1..=rounds {
        println!("seed {seed}");
        let trees = ["abc", "bca", "cba"].map(|order| {
            let rig = Rig::new();
            let steps = names(&["a", "b", "c"]);
            steps.iter().for_each(|step| rig.begin(step));
            let mut dice = Dice(seed);
            for step in &steps {
                random_step(&rig, &mut dice, step);
            }
            let clean = order.chars().all(|step| {
                let merged = rig.stage.merge(&[step.to_string()], None);
                merged.is_ok_and(|report| report.conflicts.is_empty())
            });
            clean.then(|| rig.tree())
        });
        assert_eq!(trees[0], trees[1]);
        assert_eq!(trees[0], trees[2]);
        clean += u64::from(trees[0].is_some());
    }
    assert!(clean > rounds / 10 && clean < rounds, "{clean} of {rounds}");
}

/// What a merge shows is what an image of it has, wherever that is unpacked.
#[test]
fn a_merged_tree_comes_back_from_its_image() {
    for seed in 1..=rounds(6) {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let rig = Rig::new();
        let steps = names(&["a", "b", "c"]);
        steps.iter().for_each(|step| rig.begin(step));
        for step in &steps {
            random_step(&rig, &mut dice, step);
        }
        let policies = [Policy::First, Policy::Last, Policy::KeepBoth];
        let policy = policies[dice.roll(3)];
        rig.stage.merge(&steps, Some(policy)).unwrap();
        let merged = rig.tree();
        assert_eq!(unpacked(&rig, &rig.dir.join("layout")), merged, "{policy}");
    }
}

/// The layer of a step has no content of a file that it did not change, and a sibling's takes it
/// away: the step's could not be exported.
#[test]
fn what_a_sibling_removed_is_in_no_layer_of_an_image() {
    for removes in [
        "rm 0/log",
        "rm -r 0/docs",
        "rm 0/docs/b; mkdir 0/docs/b",
        "rm 0/README",
        "rm 0/README2",
        "replace 0/README of-a",
    ] {
        let rig = Rig::new();
        rig.begin("a");
        rig.begin("b");
        rig.run("a", removes);
        rig.run(
            "b",
            "touch 0/log; touch 0/docs/b; touch 0/README; write 0/new new",
        );
        let report = rig.stage.merge(&names(&["a", "b"]), None).unwrap();
        assert!(report.conflicts.is_empty(), "{removes}");
        let merged = rig.tree();
        assert_eq!(unpacked(&rig, &rig.dir.join("layout")), merged, "{removes}");
    }
}

/// Exports the stage, and mounts the image where there was nothing.
fn unpacked(rig: &Rig, layout: &Path) -> Tree {
    rig.stage.snapshot_create("now").unwrap();
    let (stack, _) = rig.stage.stack_of_snapshot("now").unwrap();
    let mapped: Vec<PathBuf> = mapped(&rig.dir);
    let options = ExportOptions {
        name: "now".to_owned(),
        ..ExportOptions::default()
    };
    let own_base = rig.stage.own_base();
    export(&stack, own_base, &mapped, layout, options, &|| Ok(())).unwrap();

    let state = rig.dir.join("other");
    let inos = Inos::new(1);
    let target = Destination {
        layers: &state.join("layers"),
        mapped: &mapped,
        inos: &inos,
        wanted: &|| Ok(()),
    };
    let mut count = 0;
    let mut id = |name: &str| {
        count += 1;
        format!("{count:06}-{name}")
    };
    std::fs::create_dir(&state).unwrap();
    let imported = import(layout, target, &mut id).unwrap();
    assert!(imported.has_base);
    let options = Options {
        name: "other".to_owned(),
        mapped,
        ..Options::default()
    };
    let sessions = std::sync::Arc::new(Fakes::default());
    let other = Stage::create(&state, options, imported.layers, false, sessions).unwrap();
    other.open_stage_view().unwrap();
    Tree::of(&other.current_stack().unwrap())
}
