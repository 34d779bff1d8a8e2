//! Random steps in which files become directories and directories files, while they are linked.

use harness_fs::merge::Policy;
use harness_fs::stage::{Failure, Overrides};

use crate::random::{Dice, pick};
use crate::rig::{Rig, names};

/// Places where files and directories take each other's.
const PLACES: &[&str] = &[
    "0/README",
    "0/log",
    "0/docs",
    "0/docs/a",
    "0/docs/a/deep",
    "0/docs/b",
    "0/e",
    "0/e/c",
    "0/e/c/deep",
    "0/src",
    "0/src/b",
    "0/x",
];

pub fn shape(dice: &mut Dice, writer: &str) -> String {
    let (a, b) = (pick(dice, PLACES), pick(dice, PLACES));
    match dice.roll(16) {
        0..=2 => format!("ln {a} {b}"),
        3 => format!("ln -f {a} {b}"),
        4..=6 => format!("exchange {a} {b}"),
        7..=9 => format!("mv {a} {b}"),
        10 => format!("mkdir {a}"),
        11 => format!("rm -r {a}"),
        12 => format!("rm {a}"),
        13 => format!("chmod 7{}0 {a}", dice.roll(3) * 2),
        14 => format!("write {a} {writer}{}", dice.roll(2)),
        _ => format!("replace {a} {writer}{}", dice.roll(2)),
    }
}

/// Runs three steps; says whether they merged without a conflict.
fn one_round_of_shapes(seed: u64) -> bool {
    let mut dice = Dice(seed);
    let mut commands = |writer: &str| -> Vec<String> {
        let count = 1 + dice.roll(6);
        (0..count).map(|_| shape(&mut dice, writer)).collect()
    };
    let all = ["a", "b", "c"].map(|step| (step, commands(step)));
    let before = commands("before");
    let rig = Rig::new();
    rig.step("before", |_| {
        rig.run("before", "mkdir 0/e; mkdir 0/e/c; ln 0/docs/b 0/e/c/deep");
        println!(
            "seed {seed}: before {:?}",
            rig.try_to_run("before", &before)
        );
    });
    rig.stage.merge(&names(&["before"]), None).unwrap();
    for (step, commands) in &all {
        rig.begin(step);
        let done = rig.try_to_run(step, commands);
        println!("seed {seed}: {step} {done:?}");
    }
    let mut clean = true;
    for (step, _) in &all {
        let policies = [
            None,
            Some(Policy::First),
            Some(Policy::Last),
            Some(Policy::KeepBoth),
        ];
        let overrides = Overrides {
            on_conflict: policies[dice.roll(4)],
            keep_both_as: seed
                .is_multiple_of(2)
                .then(|| "{step}-{stem}{ext}".parse().unwrap()),
            ..Overrides::default()
        };
        println!("seed {seed}: {step} {overrides:?}");
        match rig.stage.merge(&names(&[step]), overrides) {
            Ok(report) => clean &= report.conflicts.is_empty(),
            Err(Failure::Conflict(_)) => clean = false,
            Err(failure) => panic!("{step}: {failure}"),
        }
        // Reading the tree checks that each number is one file, with as many names as it says.
        rig.tree();
    }
    let merged = rig.tree();
    let rig = rig.die_and_resume();
    assert_eq!(rig.tree(), merged);
    clean
}

#[test]
fn random_shapes_merge_to_a_sound_tree() {
    let rounds: u64 = std::env::var("HARNESS_FS_ROUNDS").map_or(60, |n| n.parse().unwrap());
    let clean = (1..=rounds)
        .filter(|seed| one_round_of_shapes(*seed))
        .count() as u64;
    assert!(clean < rounds, "{clean} of {rounds}");
}
