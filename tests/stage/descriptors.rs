//! No descriptor is left (`EMFILE`), at each place of an operation where one is
//! needed: whatever the operation says, nothing of what was written is lost.

use std::process::{Command, Stdio};

use harness_fs::merge::Policy;
use harness_fs::stage::{Failure, Phase};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::rig::{Rig, Tree, names};

const OPERATION: &str = "HARNESS_FS_TEST_OPERATION_WITHOUT_DESCRIPTORS";

const OPERATIONS: [&str; 5] = ["seal", "merge", "snapshot", "restore", "discard"];

/// Files with one name and with two, written in the head and in two steps, one
/// of which conflicts.
fn prepared() -> Rig {
    let rig = Rig::new();
    rig.stage.snapshot_create("snap").unwrap();
    for step in ["s", "other"] {
        rig.begin(step);
    }
    rig.write_through("stage", "0/README", "by stage\n");
    rig.write_through("stage", "0/docs/b", "by stage\n");
    rig.write_through("s", "0/docs/b", "by step\n");
    rig.write_through("s", "0/log", "by step\n");
    rig.write_through("other", "0/README2", "by other\n");
    rig
}

fn operate(rig: &Rig, operation: &str) -> Result<(), Failure> {
    match operation {
        "seal" => {
            rig.stage.seal_step("s")?;
            rig.stage.seal_step("other").map(drop)
        }
        "merge" => {
            let steps = names(&["s"]);
            rig.stage.merge(&steps, Some(Policy::KeepBoth)).map(drop)
        }
        "snapshot" => rig.stage.snapshot_create("new").map(drop),
        "restore" => rig.stage.snapshot_restore("snap").map(drop),
        "discard" => rig.stage.discard("other"),
        other => panic!("{other}"),
    }
}

/// What the operation comes to: the tree, and what is left of the steps. Where
/// it has not come about it is done now.
fn outcome(rig: &Rig, operation: &str) -> Vec<Tree> {
    // Whoever writes in the stage goes on with that.
    rig.write_through("stage", "0/README", "later\n");
    let has = |name: &str| rig.stage.steps().iter().any(|step| step.name == name);
    let again = match operation {
        "merge" => has("s"),
        "discard" => has("other"),
        "snapshot" => !rig
            .stage
            .snapshot_list()
            .iter()
            .any(|one| one.name == "new"),
        "restore" => true,
        _ => rig
            .stage
            .steps()
            .iter()
            .any(|step| step.state == Phase::Open),
    };
    if again {
        operate(rig, operation).unwrap();
    }
    let mut trees = vec![rig.tree()];
    for step in ["s", "other"] {
        if has(step) && operation != "restore" {
            let steps = names(&[step]);
            rig.stage.merge(&steps, Some(Policy::KeepBoth)).unwrap();
            trees.push(rig.tree());
        }
    }
    trees
}

/// Runs with no more than `spare` descriptors beside those that are open.
fn with_spare<T>(spare: u64, run: impl FnOnce() -> T) -> T {
    use std::os::fd::AsRawFd;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // open(2): the lowest number that is free.
    let lowest = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    let limit = u64::try_from(lowest).unwrap() + spare;
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    let result = run();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}

/// What is left of a state that could not be removed is no stage.
fn remove() {
    let rig = prepared();
    // unlink(2) takes no descriptor, what removes a directory does.
    let report = with_spare(0, || rig.stage.end(false)).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    let state = rig.dir.join("state");
    assert!(
        report.problems[0].contains(state.to_str().unwrap()),
        "{report:?}"
    );
    assert!(state.join("layers").exists() && !state.join("stage.json").exists());
}

/// Run by [`nothing_is_lost`] in a process of its own, which the limit is of;
/// nothing to do otherwise.
#[test]
fn child() {
    let Ok(operation) = std::env::var(OPERATION) else {
        return;
    };
    if operation == "remove" {
        return remove();
    }
    let rig = prepared();
    operate(&rig, &operation).unwrap();
    let expected = outcome(&rig, &operation);
    drop(rig);
    for spare in 0.. {
        let mut failed = false;
        for dies in [false, true] {
            let mut rig = prepared();
            failed = with_spare(spare, || operate(&rig, &operation)).is_err();
            if dies {
                rig = rig.die_and_resume();
            }
            let at = format!("{operation}, {spare} descriptors, dies: {dies}");
            println!("{at}, failed: {failed}");
            assert_eq!(outcome(&rig, &operation), expected, "{at}");
        }
        if !failed {
            assert!(spare > 0, "{operation}");
            return;
        }
    }
}

#[test]
fn nothing_is_lost() {
    for operation in OPERATIONS.into_iter().chain(["remove"]) {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "descriptors::child", "--nocapture"])
            .env(OPERATION, operation)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{operation}: {status}");
    }
}
