//! What a step saw that another changed: found, told, and with `strict` a conflict.

use harness_fs::merge::{Class, Policy, Read};
use harness_fs::stage::{Failure, MergeReport, Overrides};

use crate::random::{Dice, pick};
use crate::rig::{Rig, Tree, names};

/// `a` and `b` at once; both merged, in this order.
fn both(a: &str, b: &str, overrides: Overrides) -> (Rig, Result<MergeReport, Failure>) {
    let rig = Rig::new();
    rig.begin("a");
    rig.begin("b");
    rig.run("a", a);
    rig.run("b", b);
    let merged = rig.stage.merge(&names(&["a", "b"]), overrides);
    (rig, merged)
}

fn strict() -> Overrides {
    Overrides {
        strict: Some(true),
        ..Overrides::default()
    }
}

/// The lines that are told of the races of a merge.
fn told(a: &str, b: &str) -> Vec<String> {
    let (rig, merged) = both(a, b, Some(Policy::Last).into());
    let races = merged.unwrap().races;
    assert_eq!(rig.stage.races().unwrap(), races);
    let root = format!("{}/ws", rig.dir.display());
    let line = |race: &harness_fs::merge::Race| race.to_string().replace(&root, "");
    races.iter().map(line).collect()
}

/// What is told of what two steps did.
const CASES: &[(&str, &str, &[&str])] = &[
    // Content.
    (
        "write 0/log 2",
        "cat 0/log 0/copy",
        &["b read /log, which a changed"],
    ),
    (
        "rm 0/log",
        "cat 0/log 0/copy",
        &["b read /log, which a removed"],
    ),
    (
        "rm 0/log; mkdir 0/log",
        "cat 0/log 0/copy",
        &["b read /log, which a replaced"],
    ),
    (
        "replace 0/log 2",
        "cat 0/log 0/copy",
        &["b read /log, which a changed"],
    ),
    ("touch 0/log", "cat 0/log 0/copy", &[]),
    ("write 0/docs/b 2", "cat 0/log 0/copy", &[]),
    (
        "write 0/README 2",
        "cat 0/README2 0/copy",
        &["b read /README2, which a changed"],
    ),
    (
        "write 0/log 2",
        "ln 0/log 0/b; cat 0/b 0/copy",
        &["b read /log, which a changed"],
    ),
    // What the step itself wrote it may read.
    ("write 0/log 2", "write 0/log 3", &[]),
    ("write 0/log 2", "write 0/log 3; cat 0/log 0/copy", &[]),
    ("write 0/log 2", "replace 0/log 3; cat 0/log 0/copy", &[]),
    (
        "write 0/log 2",
        "cat 0/log 0/copy; write 0/log 3",
        &["b read /log, which a changed"],
    ),
    (
        "write 0/log 2",
        "touch 0/log; cat 0/log 0/copy",
        &["b read /log, which a changed"],
    ),
    ("write 0/new 2", "write 0/own 3; cat 0/own 0/copy", &[]),
    // Names.
    (
        "write 0/new 2",
        "test -e 0/new && rm 0/log",
        &["b found no /new, which a added"],
    ),
    (
        "mkdir 0/new",
        "test -e 0/new && rm 0/log",
        &["b found no /new, which a added"],
    ),
    (
        "ln 0/README 0/new",
        "test -e 0/new && rm 0/log",
        &["b found no /new, which a added"],
    ),
    ("write 0/new 2", "write 0/new 2", &[]),
    ("write 0/new 2", "write 0/new 3", &[]),
    (
        "mkdir 0/out; write 0/out/a 1",
        "mkdir 0/out; write 0/out/b 1",
        &[],
    ),
    (
        "mkdir 0/out; write 0/out/a 1",
        "test -e 0/out && rm 0/log; test -e 0/x && rm 0/log; mkdir 0/out",
        &[],
    ),
    (
        "rm 0/log",
        "test -e 0/log && write 0/x 1",
        &["b looked up /log, which a removed"],
    ),
    (
        "rm 0/log; ln -s x 0/log",
        "test -e 0/log && write 0/x 1",
        &["b looked up /log, which a replaced"],
    ),
    ("rm 0/log", "rm 0/log", &[]),
    ("rm -r 0/docs", "rm -r 0/docs", &[]),
    ("rm 0/docs/b", "rm -r 0/docs", &[]),
    // Attributes.
    (
        "chmod 700 0/log",
        "stat 0/log 0/x",
        &["b looked at the attributes of /log, which a changed"],
    ),
    (
        "write 0/log 2",
        "stat 0/log 0/x",
        &["b looked at the attributes of /log, which a changed"],
    ),
    ("touch 0/log", "stat 0/log 0/x", &[]),
    ("chmod 700 0/docs", "cat 0/docs/b 0/x", &[]),
    ("write 0/docs/b 2", "stat 0/docs 0/x", &[]),
    // Listings.
    (
        "write 0/src/new 2",
        "ls 0/src 0/x",
        &["b listed /src, where a added new"],
    ),
    (
        "rm 0/src/util.c",
        "ls 0/src 0/x",
        &["b listed /src, where a removed util.c"],
    ),
    (
        "mv 0/src/util.c 0/src/u.c",
        "ls 0/src 0/x",
        &["b listed /src, where a changed u.c, util.c"],
    ),
    (
        "rm 0/src/util.c; mkdir 0/src/util.c",
        "ls 0/src 0/x",
        &["b listed /src, where a replaced util.c"],
    ),
    (
        "write 0/src/main.c 2; chmod 700 0/src/util.c",
        "ls 0/src 0/x",
        &[],
    ),
    ("write 0/docs/a/new 2", "ls 0/docs 0/x", &[]),
    ("write 0/docs/a/new 2", "ls 0 0/x", &[]),
    (
        "rm -r 0/docs/a",
        "ls 0/docs/a 0/x",
        &["b listed /docs/a, which a removed"],
    ),
    (
        "write 0/src/new 2",
        "ls 0/src 0/x; test -e 0/src/new && rm 0/log",
        &["b found no /src/new, which a added"],
    ),
    (
        "write 0/src/1 1; write 0/src/2 1; write 0/src/3 1; write 0/src/4 1; write 0/src/5 1",
        "ls 0/src 0/x",
        &["b listed /src, where a added 1, 2, 3, …"],
    ),
    // Directories that are gone or are another are told as one.
    (
        "rm -r 0/docs",
        "cat 0/docs/b 0/x",
        &["b read 2 paths in /docs, which a removed"],
    ),
    (
        "mv 0/docs 0/manual",
        "cat 0/docs/b 0/x",
        &["b read 2 paths in /docs, which a removed"],
    ),
    (
        "rm -r 0/docs; mkdir 0/docs; write 0/docs/c 1",
        "ls 0/docs 0/x",
        &["b listed /docs, where a changed a, b, c"],
    ),
    // Under whatever name the step knows them.
    (
        "write 0/docs/b 2",
        "mv 0/docs 0/manual; cat 0/manual/b 0/x",
        &["b read /docs/b, which a changed"],
    ),
    (
        "write 0/docs/b 2",
        "rm -r 0/docs; mkdir 0/docs; write 0/docs/b 3; cat 0/docs/b 0/x",
        &[],
    ),
];

#[test]
fn what_was_seen_and_changed_is_told_and_nothing_else() {
    let mut wrong = String::new();
    for (a, b, expected) in CASES {
        let told = told(a, b);
        if told != *expected {
            wrong += &format!("{a} | {b}\n    {told:?}\n    {expected:?}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Where a step may have seen something, that counts only with `strict`.
const MAYBE: &[(&str, &str)] = &[
    ("write 0/new 2", "write 0/new 2"),
    ("chmod 700 0/docs", "cat 0/docs/b 0/x"),
    ("rm 0/log", "rm 0/log"),
    ("rm 0/docs/b", "rm -r 0/docs"),
];

#[test]
fn with_strict_it_is_a_conflict_and_so_is_what_may_have_been_seen() {
    let cases = CASES.iter().filter(|(a, b, _)| !MAYBE.contains(&(a, b)));
    let cases = cases.map(|(a, b, told)| (*a, *b, !told.is_empty()));
    let maybe = MAYBE.iter().map(|(a, b)| (*a, *b, true));
    for (a, b, expected) in cases.chain(maybe) {
        let (rig, merged) = both(a, b, strict());
        let conflicts = match merged {
            Ok(report) => {
                assert!(!expected, "{a} | {b}");
                assert_eq!(report.races, [], "{a} | {b}");
                report.conflicts
            }
            Err(Failure::Conflict(report)) => report.conflicts,
            Err(failure) => panic!("{failure}"),
        };
        if expected {
            // Of what is in conflict otherwise it is not said again.
            let of_reads = |class| class == Class::ReadWrite;
            assert!(!conflicts.is_empty(), "{a} | {b}");
            let (read_write, others): (Vec<_>, Vec<_>) =
                conflicts.iter().partition(|found| of_reads(found.class));
            for race in read_write {
                let other = others
                    .iter()
                    .find(|other| race.path.starts_with(&other.path));
                assert!(other.is_none(), "{a} | {b}: {race} {other:?}");
            }
        }
        drop(rig);
    }
}

#[test]
fn what_both_made_as_a_directory_is_no_race_even_with_strict() {
    let (_, merged) = both("mkdir 0/out", "test -e 0/out || mkdir 0/out", strict());
    assert_eq!(merged.unwrap().conflicts, []);
    let (_, merged) = both(
        "mkdir 0/out; write 0/out/a 1",
        "mkdir 0/out; write 0/out/b 1",
        strict(),
    );
    assert_eq!(merged.unwrap().conflicts, []);
}

/// Of a listing that several have changed, each is told with its own names.
#[test]
fn who_changed_what_of_a_listing_is_told() {
    let rig = Rig::new();
    let steps = names(&["a", "b", "c"]);
    steps.iter().for_each(|step| rig.begin(step));
    rig.run("a", "write 0/src/x 1; write 0/src/y 1");
    rig.run("b", "rm 0/src/util.c");
    rig.run("c", "ls 0/src 0/list");
    let races = rig.stage.merge(&steps, None).unwrap().races;
    let told = races.iter().map(|race| {
        let text = race.to_string();
        text.rsplit_once(", where ").unwrap().1.to_owned()
    });
    let told: Vec<String> = told.collect();
    assert_eq!(told, ["a added x, y", "b removed util.c"]);
}

/// Where a step has seen a lot of what others changed, it is told in a few lines.
#[test]
fn many_paths_are_told_in_a_few_lines() {
    let rig = Rig::new();
    let all = |command: &dyn Fn(&str) -> String| -> String {
        let dirs = 0..8;
        let files = dirs.flat_map(|dir| (0..6).map(move |file| format!("0/d{dir}/in/f{file}")));
        files
            .map(|path| command(&path))
            .collect::<Vec<_>>()
            .join(";")
    };
    rig.step("before", |_| {
        let dirs: Vec<String> = (0..8)
            .map(|dir| format!("mkdir 0/d{dir}; mkdir 0/d{dir}/in"))
            .collect();
        rig.run("before", &dirs.join("; "));
        rig.run("before", &all(&|path| format!("write {path} old")));
    });
    rig.stage.merge(&names(&["before"]), None).unwrap();
    rig.begin("a");
    rig.begin("b");
    rig.run("a", &all(&|path| format!("write {path} new")));
    rig.run("b", &all(&|path| format!("cat {path} 0/copy")));
    let races = rig.stage.merge(&names(&["a", "b"]), None).unwrap().races;
    assert_eq!(races.len(), 1, "{races:?}");
    assert_eq!((races[0].count, races[0].read), (48, Read::Content));
    assert!(races[0].path.ends_with("ws"));
}

/// What was refused can be merged as it is, later and without running again.
#[test]
fn a_policy_or_a_merge_without_strict_accepts_what_was_read() {
    let (a, b) = ("write 0/log 2", "cat 0/log 0/copy");
    let refused = |rig: &Rig| {
        let steps = rig.stage.steps();
        let reason = steps.iter().find(|step| step.name == "b").unwrap();
        let reason = reason.reason.clone().unwrap();
        assert!(reason.starts_with("read/write conflict about "), "{reason}");
    };
    let again = |overrides: Overrides| {
        let (rig, merged) = both(a, b, strict());
        let Err(Failure::Conflict(report)) = merged else {
            panic!("merged");
        };
        assert_eq!(report.conflicts.len(), 1);
        assert_eq!(report.conflicts[0].class, Class::ReadWrite);
        assert!(report.text.contains("--strict=false"), "{}", report.text);
        assert!(
            report.text.contains("--policy 'log=ignore'"),
            "{}",
            report.text
        );
        refused(&rig);
        let merged = rig.stage.merge(&names(&["a", "b"]), overrides).unwrap();
        assert_eq!(rig.tree().text("0/copy"), "one\n");
        merged
    };
    let lax = again(Overrides {
        strict: Some(false),
        ..Overrides::default()
    });
    assert_eq!(lax.conflicts, []);
    assert_eq!(lax.races.len(), 1);
    let last = again(Overrides {
        on_conflict: Some(Policy::Last),
        ..strict()
    });
    assert_eq!(last.conflicts.len(), 1);
    assert!(last.conflicts[0].resolved);
    let ignored = again(Overrides {
        on_conflict: Some(Policy::Ignore),
        ..strict()
    });
    assert_eq!(ignored.conflicts, []);
}

/// `lint` writes nothing, and says that all is well of what `format` has changed since.
#[test]
fn a_step_that_changed_nothing_has_read_all_the_same() {
    let (_, merged) = both("write 0/log 2", "test -e 0/x && rm 0/log", strict());
    assert_eq!(merged.unwrap().conflicts, []);
    let (rig, merged) = both(
        "write 0/new 2",
        "test -e 0/new && rm 0/log",
        Overrides::default(),
    );
    assert_eq!(merged.unwrap().races.len(), 1);
    drop(rig);
    let (rig, merged) = both("write 0/new 2", "test -e 0/new && rm 0/log", strict());
    assert!(matches!(merged, Err(Failure::Conflict(_))));
    assert_eq!(rig.stage.steps().len(), 2);
    rig.stage.merge(&names(&["a", "b"]), None).unwrap();
}

#[test]
fn a_policy_to_ignore_silences_the_warning() {
    let race = |policy: Policy| {
        let (_, merged) = both("write 0/log 2", "cat 0/log 0/copy", Some(policy).into());
        merged.unwrap().races.len()
    };
    assert_eq!(race(Policy::Ignore), 0);
    assert_eq!(race(Policy::Last), 1);
}

/// In a cache a name stands for a content.
#[test]
fn well_known_caches_are_not_told_of() {
    let a = "mkdir 0/.npm; mkdir 0/.npm/_cacache; write 0/.npm/_cacache/x 1";
    let rig = Rig::new();
    rig.step("before", |_| rig.run("before", a));
    rig.stage.merge(&names(&["before"]), None).unwrap();
    rig.begin("a");
    rig.begin("b");
    rig.run("a", "write 0/.npm/_cacache/x 2; write 0/.npm/_cacache/y 2");
    rig.run(
        "b",
        "cat 0/.npm/_cacache/x 0/copy; ls 0/.npm/_cacache 0/list",
    );
    let report = rig.stage.merge(&names(&["a", "b"]), strict()).unwrap();
    assert_eq!(report.conflicts, []);
}

/// The earlier declared is the earlier, whoever was faster; and what nobody ran beside is no race.
#[test]
fn who_is_later_has_read_what_the_earlier_wrote() {
    let steps = names(&["writes", "reads"]);
    for order in [[0, 1], [1, 0]] {
        let rig = Rig::new();
        steps.iter().for_each(|step| rig.begin(step));
        rig.run("writes", "write 0/log 2");
        rig.run("reads", "cat 0/log 0/copy");
        let order = order.map(|index| steps[index].clone());
        let races = rig.stage.merge(&order, None).unwrap().races;
        let expected = usize::from(order[0] == "writes");
        assert_eq!(races.len(), expected);
        // One that begins now reads what is there.
        rig.step("after", |_| rig.run("after", "cat 0/log 0/copy2"));
        let report = rig.stage.merge(&names(&["after"]), strict()).unwrap();
        assert_eq!(report.conflicts, []);
    }
}

#[test]
fn what_people_write_in_the_stage_is_a_race_too() {
    let rig = Rig::new();
    rig.begin("b");
    rig.run("b", "cat 0/log 0/copy");
    rig.run("stage", "write 0/log 2");
    let races = rig.stage.merge(&names(&["b"]), None).unwrap().races;
    assert_eq!(races.len(), 1);
    assert_eq!((&*races[0].writer, races[0].read), ("stage", Read::Content));
}

#[test]
fn what_a_kept_step_read_outlives_the_daemon() {
    let rig = Rig::new();
    rig.begin("a");
    rig.begin("b");
    rig.run("a", "write 0/log 2");
    rig.run("b", "cat 0/log 0/copy");
    rig.stage.keep("b", "failed").unwrap();
    let rig = rig.die_and_resume();
    rig.stage.merge(&names(&["a"]), None).unwrap();
    let told = rig.stage.races().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].step, "b");
    let merged = rig.stage.merge(&names(&["b"]), None).unwrap();
    assert_eq!(merged.races, told);
    // And what was found.
    let rig = rig.die_and_resume();
    assert_eq!(rig.stage.races().unwrap(), told);
}

/// What an open step had read is gone with the daemon: then nobody knows, and says so.
#[test]
fn what_is_not_known_is_said() {
    let interrupted = || {
        let rig = Rig::new();
        rig.begin("a");
        rig.begin("b");
        rig.run("a", "write 0/log 2");
        rig.run("b", "cat 0/log 0/copy");
        rig.stage.merge(&names(&["a"]), None).unwrap();
        rig.die_and_resume()
    };
    let rig = interrupted();
    let merged = rig.stage.merge(&names(&["b"]), None).unwrap();
    assert_eq!(merged.races, []);
    let notes = merged.notes.join("\n");
    assert!(notes.contains("what step 'b' read is not known"), "{notes}");
    let rig = interrupted();
    let Err(Failure::Conflict(report)) = rig.stage.merge(&names(&["b"]), strict()) else {
        panic!("merged");
    };
    assert!(
        report.text.contains("b may have read it"),
        "{}",
        report.text
    );

    // A file beside the layer that is not ours is as none.
    let rig = Rig::new();
    rig.begin("a");
    rig.begin("b");
    rig.run("a", "write 0/log 2");
    rig.run("b", "cat 0/log 0/copy");
    rig.stage.seal_step("b").unwrap();
    let layer = rig.stage.steps()[1].layer.clone().unwrap();
    let path = rig.dir.join("state/layers").join(layer).join("reads");
    assert!(path.exists());
    let rig = rig.die_and_resume();
    std::fs::write(path, "harness-fs reads 1\nrubbish").unwrap();
    let merged = rig.stage.merge(&names(&["a", "b"]), None).unwrap();
    assert_eq!(merged.races, []);
    assert!(
        merged
            .notes
            .iter()
            .any(|note| note.contains("what step 'b' read"))
    );
}

const PATHS: &[&str] = &[
    "0/src/main.c",
    "0/src/new",
    "0/src",
    "0/docs/b",
    "0/docs/a/deep",
    "0/docs/a",
    "0/docs",
    "0/log",
    "0/log2",
    "0/README",
    "0/README2",
    "0/new",
    "0/moved",
    "1/repo/jar",
    "1/repo/y",
];

/// A command that depends on what it sees, or one that does not.
fn command(dice: &mut Dice, writer: &str) -> String {
    let (a, b) = (pick(dice, PATHS), pick(dice, PATHS));
    let own = format!("0/{writer}{}", dice.roll(3));
    let text = ["x", writer][dice.roll(2)];
    match dice.roll(17) {
        0 | 1 => format!("cat {a} {own}"),
        2 => format!("cat {a} {b}"),
        3 | 4 => format!("ls {a} {own}"),
        5 => format!("stat {a} {own}"),
        6 => format!("test -e {a} || write {own} {text}"),
        7 => format!("test -e {a} || write {a} {text}"),
        8 => format!("test -e {a} && write {own} {text}"),
        9 | 10 => format!("write {a} {text}"),
        11 => format!("replace {a} {text}"),
        12 => format!("chmod 7{}0 {a}", dice.roll(2) * 5),
        // That a directory was missing which both make is no race, so nobody asks for this one.
        13 => "mkdir 0/out".to_owned(),
        14 => format!("mv {a} {b}"),
        15 => format!("rm -r {a}"),
        _ => format!("ln {a} {b}"),
    }
}

/// Steps that each saw a state without the others', merged without a conflict, and `strict`: that is
/// what one after another gives.
#[test]
fn clean_and_no_read_write_is_as_one_after_another() {
    let rounds: u64 = std::env::var("HARNESS_FS_ROUNDS").map_or(60, |n| n.parse().unwrap());
    let (mut clean, mut only_reads) = (0, 0);
    for seed in 1..=rounds {
        let mut dice = Dice(seed);
        let steps = names(&["a", "b", "c"][..2 + dice.roll(2)]);
        let programs: Vec<Vec<String>> = steps
            .iter()
            .map(|step| {
                let count = 1 + dice.roll(3);
                (0..count).map(|_| command(&mut dice, step)).collect()
            })
            .collect();
        println!("seed {seed}: {programs:?}");
        let rig = Rig::new();
        steps.iter().for_each(|step| rig.begin(step));
        for (step, program) in steps.iter().zip(&programs) {
            rig.try_to_run(step, program);
        }
        let merged = match rig.stage.merge(&steps, strict()) {
            Ok(report) if report.conflicts.is_empty() => rig.tree(),
            Ok(_) => continue,
            Err(Failure::Conflict(report)) => {
                let reads = |class| class == Class::ReadWrite;
                only_reads += u64::from(report.conflicts.iter().all(|one| reads(one.class)));
                continue;
            }
            Err(failure) => panic!("{failure}"),
        };
        clean += 1;
        assert_eq!(one_after_another(&steps, &programs), merged);
    }
    assert!(clean > rounds / 10 && clean < rounds, "{clean} of {rounds}");
    assert!(only_reads > 0, "of {rounds}");
}

fn one_after_another(steps: &[String], programs: &[Vec<String>]) -> Tree {
    let rig = Rig::new();
    for (step, program) in steps.iter().zip(programs) {
        rig.step(step, |_| drop(rig.try_to_run(step, program)));
        rig.stage.merge(std::slice::from_ref(step), None).unwrap();
    }
    rig.tree()
}
