//! Random steps, merged: the tree is sound, and where there was no conflict it
//! is the one that running the steps one after another gives.

use std::path::Path;

use harness_fs::merge::{Conflict, Policy};
use harness_fs::stage::Overrides;

use crate::blame::assert_blamed;
use crate::rig::{Hand, Rig, Tree, names};

/// Numbers that are the same in every run (Knuth's MMIX generator).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(&'static str, String),
    Remove(&'static str),
    RemakeDir(&'static str),
    Chmod(&'static str, u32),
    Touch(&'static str),
    RenameFile(&'static str, &'static str),
    RenameDir(&'static str, &'static str),
}

// Not README, which has two names: counting them takes a real view.
const FILES: &[&str] = &[
    "0/src/main.c",
    "0/src/util.c",
    "0/docs/a/deep",
    "0/docs/b",
    "0/log",
    "1/repo/jar",
];
const NEW_FILES: &[&str] = &["0/new", "0/src/new", "0/docs/a/new", "0/lib/x", "1/repo/y"];
const DIRS: &[&str] = &["0/src", "0/docs", "0/docs/a", "1/repo"];
const NEW_DIRS: &[&str] = &["0/moved", "0/lib2"];

pub fn pick(dice: &mut Dice, from: &[&'static str]) -> &'static str {
    from[dice.roll(from.len())]
}

fn op(dice: &mut Dice, writer: &str) -> Op {
    let text = format!("{writer}{}", dice.roll(3));
    match dice.roll(12) {
        0..=2 => Op::Write(pick(dice, FILES), text),
        3 | 4 => Op::Write(pick(dice, NEW_FILES), text),
        5 => Op::Remove(pick(dice, FILES)),
        6 => Op::Remove(pick(dice, DIRS)),
        7 => Op::RemakeDir(pick(dice, DIRS)),
        8 => Op::Chmod(pick(dice, DIRS), 0o700 + dice.roll(3) as u32),
        9 => Op::Touch(pick(dice, FILES)),
        10 => Op::RenameFile(pick(dice, FILES), pick(dice, NEW_FILES)),
        _ => Op::RenameDir(pick(dice, DIRS), pick(dice, NEW_DIRS)),
    }
}

/// Does what is possible; a step touches a path, and what is below or above
/// it, once, so that every operation starts from what the base shows there.
fn act(hand: &Hand<'_>, ops: &[Op]) -> Vec<Op> {
    let mut touched: Vec<&str> = Vec::new();
    let mut done = Vec::new();
    for op in ops {
        let paths: Vec<&'static str> = match op {
            Op::Write(path, _)
            | Op::Remove(path)
            | Op::RemakeDir(path)
            | Op::Chmod(path, _)
            | Op::Touch(path) => vec![path],
            Op::RenameFile(from, to) | Op::RenameDir(from, to) => vec![from, to],
        };
        let near = |path: &str| {
            let above = |a: &str, b: &str| std::path::Path::new(a).starts_with(b);
            touched.iter().any(|t| above(t, path) || above(path, t))
        };
        if paths.iter().any(|path| near(path)) || !possible(hand, op) {
            continue;
        }
        touched.extend(paths);
        match op {
            Op::Write(path, text) => hand.write(path, text),
            Op::Remove(path) => hand.remove(path),
            Op::RemakeDir(path) => hand.remake_dir(path),
            Op::Chmod(path, mode) => hand.chmod(path, *mode),
            Op::Touch(path) => hand.copy_up(path),
            Op::RenameFile(from, to) => hand.rename_file(from, to),
            Op::RenameDir(from, to) => hand.rename_dir(from, to),
        };
        done.push(op.clone());
    }
    done
}

fn possible(hand: &Hand<'_>, op: &Op) -> bool {
    match op {
        Op::Write(path, _) => !hand.has_dir(path),
        Op::Remove(path) | Op::Touch(path) => hand.has(path),
        Op::RemakeDir(path) | Op::Chmod(path, _) => hand.has_dir(path),
        Op::RenameFile(from, to) => hand.has(from) && !hand.has(to),
        Op::RenameDir(from, to) => hand.has_dir(from) && !hand.has(to) && from[..1] == to[..1],
    }
}

fn one_round(seed: u64) -> bool {
    let mut dice = Dice(seed);
    let mut ops = |writer| -> Vec<Op> {
        let count = 1 + dice.roll(4);
        (0..count).map(|_| op(&mut dice, writer)).collect()
    };
    let (a, b) = (ops("a"), ops("b"));
    let told = format!("seed {seed}: a {a:?}, b {b:?}");
    let rig = Rig::new();
    rig.begin("a");
    rig.begin("b");
    let a = act(&rig.in_view("a"), &a);
    let b = act(&rig.in_view("b"), &b);
    println!("{told}\n  done: a {a:?}, b {b:?}");
    let steps = names(&["a", "b"]);
    let clean = match rig.stage.merge(&steps, None) {
        Ok(report) => report.conflicts.is_empty(),
        Err(_) => {
            let all = [Policy::First, Policy::Last, Policy::KeepBoth];
            let policy = all[seed as usize % 3];
            rig.stage.merge(&steps, Some(policy)).unwrap();
            false
        }
    };
    let merged = rig.tree();
    let rig = rig.die_and_resume();
    assert_eq!(rig.tree(), merged, "{told}");
    assert_blamed(&rig, FILES);
    if clean {
        let rig = Rig::new();
        for (step, ops) in [("a", &a), ("b", &b)] {
            rig.begin(step);
            let hand = rig.in_view(step);
            for op in ops {
                // What both did alike is done already.
                if possible(&hand, op) {
                    act(&hand, std::slice::from_ref(op));
                } else if matches!(op, Op::RenameFile(..) | Op::RenameDir(..)) {
                    // To the merge a renamed file is one removed and one made,
                    // and the other step removed it as well.
                    return clean;
                }
            }
            rig.stage.merge(&names(&[step]), None).unwrap();
        }
        assert_eq!(merged, rig.tree(), "{told}");
    }
    clean
}

#[test]
fn random_steps_merge_to_a_sound_tree() {
    let rounds: u64 = std::env::var("HARNESS_FS_ROUNDS").map_or(60, |n| n.parse().unwrap());
    let clean = (1..=rounds).filter(|seed| one_round(*seed)).count() as u64;
    assert!(clean > rounds / 10 && clean < rounds, "{clean} of {rounds}");
}

/// Begins steps that each do something, the last on a later state than the others.
fn begun(all: &[Vec<Op>], steps: &[String]) -> Rig {
    let rig = Rig::new();
    let (last, first) = steps.split_last().unwrap();
    first.iter().for_each(|step| rig.begin(step));
    rig.head().write("0/docs/b", "head").write("0/between", "x");
    rig.begin(last);
    for (step, ops) in steps.iter().zip(all) {
        act(&rig.in_view(step), ops);
    }
    rig
}

/// Merging all at once gives and reports what merging one after another does, though what was
/// read for one is used for the next.
#[test]
fn at_once_is_as_one_after_another() {
    let rounds: u64 = std::env::var("HARNESS_FS_ROUNDS").map_or(9, |n| n.parse().unwrap());
    let steps = names(&["a", "b", "c", "d"]);
    let mut conflicts = 0;
    for seed in 1..=rounds {
        let mut dice = Dice(seed);
        let all: Vec<Vec<Op>> = steps
            .iter()
            .map(|step| (0..4).map(|_| op(&mut dice, step)).collect())
            .collect();
        let policies = [Policy::First, Policy::Last, Policy::KeepBoth];
        let policy = Some(policies[seed as usize % 3]);
        println!("seed {seed}: {all:?}, {policy:?}");
        let rig = begun(&all, &steps);
        let at_once = rig.stage.merge(&steps, policy).unwrap().conflicts;
        let (told, tree) = (shown(&rig, &at_once), rig.tree());
        let rig = begun(&all, &steps);
        let mut one_by_one = Vec::new();
        for step in &steps {
            let merged = rig.stage.merge(std::slice::from_ref(step), policy);
            one_by_one.extend(merged.unwrap().conflicts);
        }
        assert_eq!(rig.tree(), tree);
        assert_eq!(shown(&rig, &one_by_one), told);
        conflicts += at_once.len();
    }
    assert!(conflicts > 0);
}

fn shown(rig: &Rig, conflicts: &[Conflict]) -> String {
    let text = serde_json::to_string_pretty(conflicts).unwrap();
    text.replace(rig.dir.to_str().unwrap(), "")
}

/// Names that may be one file: `README` and `README2` are, in the base.
const LINKABLE: &[&str] = &[
    "0/README",
    "0/README2",
    "0/log",
    "0/docs/b",
    "0/docs/a/deep",
    "0/l1",
    "0/l2",
    "0/docs/l3",
];

fn command(dice: &mut Dice, writer: &str) -> String {
    let (a, b) = (pick(dice, LINKABLE), pick(dice, LINKABLE));
    match dice.roll(16) {
        0..=5 => format!("ln {a} {b}"),
        6 => format!("ln -f {a} {b}"),
        7 | 8 => format!("write {a} {writer}{}", dice.roll(2)),
        9 => format!("replace {a} {writer}{}", dice.roll(2)),
        10 => format!("chmod 6{}0 {a}", dice.roll(3) * 2),
        11 => format!("touch {a}"),
        12 => format!("mv {a} {b}"),
        13 => format!("rm -r {}", pick(dice, &["0/docs", "0/docs/a"])),
        14 => "mv 0/docs 0/manual".to_owned(),
        _ => format!("rm {a}"),
    }
}

/// Runs two steps that link, unlink and write; says whether they merged without a conflict.
fn one_round_of_links(seed: u64) -> bool {
    let mut dice = Dice(seed);
    let mut commands = |writer| -> Vec<String> {
        let count = 1 + dice.roll(4);
        (0..count).map(|_| command(&mut dice, writer)).collect()
    };
    let (a, b) = (commands("a"), commands("b"));
    let policy = [
        None,
        Some(Policy::First),
        Some(Policy::Last),
        Some(Policy::KeepBoth),
    ];
    let overrides = Overrides {
        on_conflict: policy[seed as usize % 4],
        // Before or behind the path, where everything is in order of names.
        keep_both_as: (seed % 8 < 4).then(|| "{step}-{stem}{ext}".parse().unwrap()),
        ..Overrides::default()
    };
    let both = names(&["a", "b"]);
    let rig = Rig::new();
    // A step before, so that what the two start from has names in a layer too.
    rig.step("before", |_| {
        rig.run("before", "ln 0/docs/b 0/l2; chmod 600 0/docs/a/deep")
    });
    rig.stage.merge(&names(&["before"]), None).unwrap();
    rig.begin("a");
    rig.begin("b");
    let (a, b) = (rig.try_to_run("a", &a), rig.try_to_run("b", &b));
    println!("seed {seed}: a {a:?}, b {b:?}, {overrides:?}");
    let clean = match rig.stage.merge(&both, overrides) {
        Ok(report) => report.conflicts.is_empty(),
        Err(_) => {
            rig.stage.merge(&both, Some(Policy::Last)).unwrap();
            false
        }
    };
    // Reading the tree checks that each number is one file, with as many names as it says.
    let merged = rig.tree();
    let rig = rig.die_and_resume();
    assert_eq!(rig.tree(), merged);
    // A step on top counts from what the merge left.
    rig.step("after", |_| {
        rig.try_to_run(
            "after",
            &["rm 0/l1", "ln 0/log 0/l1", "rm 0/README", "ln 0/l2 0/x"],
        );
    });
    rig.stage.merge(&names(&["after"]), None).unwrap();
    assert_blamed(&rig, LINKABLE);
    if clean {
        assert_sequential(&merged, &a, &b);
    }
    clean
}

/// The paths of which a command changes what file they stand for.
fn renames(command: &str) -> Vec<&str> {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words[..] {
        ["chmod" | "touch", ..] => Vec::new(),
        ["ln", .., to] => vec![to],
        // Only if it was not there; what is changed in place is no matter.
        ["write", path, _] | ["replace", path, _] => vec![path],
        ["mv", from, to] => vec![from, to],
        _ => vec![words[words.len() - 1]],
    }
}

/// A clean merge is what running the steps one after another gives, unless the second looked at
/// a name that the first had given to another file.
fn assert_sequential(merged: &Tree, a: &[&str], b: &[&str]) {
    let changed: Vec<&str> = a.iter().flat_map(|command| renames(command)).collect();
    let mut looked_at = b.iter().flat_map(|command| command.split(' ').skip(1));
    let near = |a: &str, b: &str| Path::new(a).starts_with(b) || Path::new(b).starts_with(a);
    if looked_at.any(|path| changed.iter().any(|changed| near(changed, path))) {
        return;
    }
    let rig = Rig::new();
    let before = ["ln 0/docs/b 0/l2", "chmod 600 0/docs/a/deep"];
    for (step, commands) in [("before", &before[..]), ("a", a), ("b", b)] {
        rig.step(step, |_| {
            commands.iter().for_each(|command| rig.run(step, command))
        });
        rig.stage.merge(&names(&[step]), None).unwrap();
    }
    assert_eq!(rig.tree(), *merged);
}

#[test]
fn random_links_merge_to_a_sound_tree() {
    let rounds: u64 = std::env::var("HARNESS_FS_ROUNDS").map_or(60, |n| n.parse().unwrap());
    let clean = (1..=rounds)
        .filter(|seed| one_round_of_links(*seed))
        .count() as u64;
    assert!(clean > rounds / 10 && clean < rounds, "{clean} of {rounds}");
}
