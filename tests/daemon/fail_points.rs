//! kill -9 at every fail-point of every operation: of the daemon, and of the
//! command line while the daemon is there. Afterwards the stage shows exactly
//! the old tree or exactly the new one.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use harness_fs::stage::failpoint;
use harness_fs::sys::process::Process;
use nix::sys::signal::Signal;

use crate::rig::{LIMIT, Ran, Rig, alone, ended, mounts, start, tool, tree};

type Tree = BTreeMap<String, String>;

/// More often than this no operation passes a point.
const TIMES: u32 = 8;

/// A stage to begin from, over and over.
struct Saved<'a> {
    rig: &'a Rig,
    /// The tree that it shows, with what [`Saved::resume`] writes.
    old: Tree,
}

impl<'a> Saved<'a> {
    /// Two steps that conflict, a snapshot, something in the head, and a group of
    /// which the second member has ended.
    fn new(rig: &'a Rig) -> Saved<'a> {
        rig.mount();
        fs::write(rig.ws().join("first"), "1").unwrap();
        rig.ok(&["snapshot", "create", "snap"]);
        fs::write(rig.ws().join("second"), "2").unwrap();
        rig.ok(&["cache", "save", "--key", "k", "--path", "ws/src"]);
        fs::remove_dir_all(rig.ws().join("src/deep")).unwrap();
        for step in ["a", "b"] {
            rig.ok(&["step", "begin", step]);
        }
        for step in ["a", "b"] {
            let script = format!(
                "echo of {step} > log; echo {step} > {step}; mkdir -p d; echo {step} > d/{step}"
            );
            rig.ok(&["step", "exec", step, "--", "sh", "-ec", &script]);
        }
        rig.ok(&["group", "declare", "g", "late", "early"]);
        let script = "echo early > early; mkdir d; echo early > d/early; chmod 600 log";
        let early = rig.step("early", &["--group", "g", "--on-conflict", "last"], script);
        assert_eq!(early.code, 0, "{early:?}");
        rig.ok(&["unmount", "--keep-state"]);
        tool(
            "cp",
            &[
                "-a",
                rig.state().to_str().unwrap(),
                Self::template(rig).to_str().unwrap(),
            ],
        );
        let mut saved = Saved {
            rig,
            old: Tree::new(),
        };
        saved.again();
        assert_eq!(saved.resume(None).code, 0);
        saved.old = tree(&rig.ws());
        saved
    }

    fn template(rig: &Rig) -> PathBuf {
        rig.path().join("template")
    }

    /// Ends what there is and puts the saved state back.
    fn again(&self) {
        self.end();
        let state = self.rig.state();
        tool(
            "cp",
            &[
                "-a",
                Self::template(self.rig).to_str().unwrap(),
                state.to_str().unwrap(),
            ],
        );
    }

    fn end(&self) {
        let state = self.rig.state();
        // A fail-point may still wait for its operation.
        for (pid, _) in self.rig.processes() {
            if let Ok(process) = Process::open(pid) {
                process.signal(Signal::SIGKILL).unwrap();
                assert!(ended(&process, LIMIT));
            }
        }
        if state.exists() {
            self.rig.ok(&["unmount"]);
        }
        assert!(
            !state.exists(),
            "left: {:?}",
            fs::read_dir(&state).map(Vec::from_iter)
        );
    }

    /// Brings it back, with a fail-point, and writes something more.
    fn resume(&self, fail_point: Option<&str>) -> Ran {
        let mut command = self.rig.command(&["mount", "--resume"]);
        if let Some(point) = fail_point {
            command.env(failpoint::VARIABLE, point);
        }
        let ran = start(command).end();
        if ran.code == 0 {
            // Acknowledged, so part of the old tree and of the new.
            fs::write(self.rig.ws().join("third"), "3").unwrap();
        }
        ran
    }

    fn new_tree(&self, operation: &Operation) -> Tree {
        self.again();
        assert_eq!(self.resume(None).code, 0);
        self.rig.ok(operation.arguments);
        if operation.ends {
            return self.old.clone();
        }
        tree(&self.rig.ws())
    }
}

/// Those of an apply are looked at in `in_place.rs`.
fn points() -> impl Iterator<Item = &'static &'static str> {
    let all = failpoint::ALL.iter();
    all.filter(|point| !point.starts_with("apply-"))
}

struct Operation {
    arguments: &'static [&'static str],
    /// The stage is not mounted any more after it.
    ends: bool,
}

const MERGE: Operation = Operation {
    arguments: &["step", "merge", "a", "b", "--on-conflict", "keep-both"],
    ends: false,
};
const STEP: Operation = Operation {
    arguments: &[
        "step",
        "run",
        "c",
        "--",
        "sh",
        "-ec",
        "echo c > c; rm readme; mv d e 2>/dev/null || mv src e",
    ],
    ends: false,
};
const GROUP: Operation = Operation {
    arguments: &[
        "step",
        "run",
        "--group",
        "g",
        "late",
        "--",
        "sh",
        "-ec",
        "echo late > late; mkdir d; echo late > d/late; echo late >> log; rm readme",
    ],
    ends: false,
};
const SNAPSHOT: Operation = Operation {
    arguments: &["snapshot", "create", "two"],
    ends: false,
};
const RESTORE: Operation = Operation {
    arguments: &["snapshot", "restore", "snap"],
    ends: false,
};
const CACHE: Operation = Operation {
    arguments: &["cache", "restore", "--key", "k"],
    ends: false,
};
const KEEP: Operation = Operation {
    arguments: &["unmount", "--keep-state"],
    ends: true,
};
const REMOVE: Operation = Operation {
    arguments: &["unmount"],
    ends: true,
};

fn every_point(rig: &Rig, operation: &Operation, expected: &[&str]) {
    let saved = Saved::new(rig);
    let new = saved.new_tree(operation);
    let mut passed = Vec::new();
    for point in points() {
        for time in 1..=TIMES {
            let at = format!("{point}:{time}");
            saved.again();
            let resumed = saved.resume(Some(&at));
            let died_early = resumed.code != 0;
            if !died_early {
                let ran = rig.run(operation.arguments);
                if ran.code == 0 {
                    break;
                }
                let gone = if operation.arguments.starts_with(&["step", "run"]) {
                    125
                } else {
                    5
                };
                assert_eq!(ran.code, gone, "{at}: {ran:?}\n{}", rig.log());
                let told = match *point {
                    "unmount-in-remove" => "while it removed the stage",
                    _ => "was killed by SIGKILL",
                };
                assert!(ran.err.contains(told), "{at}: {ran:?}");
                passed.push(*point);
            } else {
                assert!(
                    resumed.err.contains("before its stage was ready"),
                    "{at}: {resumed:?}"
                );
            }
            assert_eq!(mounts(), Vec::<String>::new(), "{at}");
            if !rig.state().join("stage.json").exists() {
                assert_eq!(operation.arguments, REMOVE.arguments, "{at}");
                a_new_stage_works(rig, &at);
                continue;
            }
            let status = rig.run(&["status"]);
            status.refused(5, "was killed by SIGKILL");
            rig.ok(&["mount", "--resume"]);
            if died_early {
                fs::write(rig.ws().join("third"), "3").unwrap();
            }
            let found = tree(&rig.ws());
            assert!(found == saved.old || found == new, "{at}: {found:#?}");
            goes_on(&saved, operation, &found, &new, &at);
        }
    }
    saved.end();
    passed.dedup();
    for point in expected {
        assert!(passed.contains(point), "never at {point}: {passed:?}");
    }
}

/// What was cut off can be done again, or is done; and the next start shows
/// what this one does.
fn goes_on(saved: &Saved<'_>, operation: &Operation, found: &Tree, new: &Tree, at: &str) {
    let rig = saved.rig;
    if operation.ends {
        assert_eq!(*found, saved.old, "{at}");
    } else if found == new && operation.arguments == SNAPSHOT.arguments {
        let again = rig.run(operation.arguments);
        assert!([0, 2].contains(&again.code), "{at}: {again:?}");
        rig.ok(&["snapshot", "restore", "two"]);
    } else if operation.arguments == GROUP.arguments {
        group_goes_on(saved, found == new, new, at);
    } else if found == new {
        let again = rig.run(operation.arguments);
        if operation.arguments == MERGE.arguments {
            again.refused(3, "was merged");
        }
    } else {
        if operation.arguments == STEP.arguments {
            // Kept with what it had written, or gone.
            let left = rig.run(&["step", "discard", "c"]);
            assert!([0, 3].contains(&left.code), "{at}: {left:?}");
        }
        rig.ok(operation.arguments);
        assert_eq!(tree(&rig.ws()), *new, "{at}, again");
    }
    rig.ok(&["unmount", "--keep-state"]);
    rig.ok(&["mount", "--resume"]);
    rig.ok(&["unmount"]);
    assert!(!rig.state().exists(), "{at}");
}

/// A group is merged as a whole, whatever of it is left to do.
fn group_goes_on(saved: &Saved<'_>, merged: bool, new: &Tree, at: &str) {
    let rig = saved.rig;
    if merged {
        rig.run(&["group", "close", "g"])
            .refused(3, "there is no group");
        return;
    }
    let steps: serde_json::Value =
        serde_json::from_str(&rig.ok(&["step", "list", "--json"]).out).unwrap();
    let mut steps = steps.as_array().unwrap().iter();
    let late = steps.find(|step| step["name"] == "late");
    match late.map(|step| step["state"].as_str().unwrap()) {
        None => rig.ok(GROUP.arguments),
        Some("sealed") => rig.ok(&["group", "close", "g"]),
        // What it wrote is whole, and the others are merged with it.
        Some(_) => rig.ok(&["step", "merge", "late"]),
    };
    assert_eq!(tree(&rig.ws()), *new, "{at}, again");
}

/// The state was being removed: that is brought to its end.
fn a_new_stage_works(rig: &Rig, at: &str) {
    assert!(!rig.state().exists(), "{at}");
    rig.run(&["status"]).refused(3, "there is no stage");
    rig.run(&["mount", "--resume"]).refused(3, "no stage");
    rig.mount();
    let ran = rig.step("a", &[], "echo new > a; rm readme");
    assert_eq!(ran.code, 0, "{at}: {ran:?}");
    assert!(!rig.ws().join("first").exists());
    rig.ok(&["unmount"]);
    assert!(!rig.state().exists(), "{at}");
}

/// The daemon stops at a point; there its client is killed; it goes on.
fn client_killed_at_every_point(rig: &Rig, operation: &Operation) {
    let saved = Saved::new(rig);
    let new = saved.new_tree(operation);
    let mut stopped = 0;
    for point in points() {
        for time in 1..=TIMES {
            let at = format!("{point}:{time}:stop");
            saved.again();
            // Resuming passes commits of its own.
            let resume = rig.start_with(&["mount", "--resume"], failpoint::VARIABLE, &at);
            if let Some(server) = wait_for_stop_or_end(rig, &resume.process()) {
                server.signal(Signal::SIGCONT).unwrap();
                assert_eq!(resume.end().code, 0, "{at}");
                continue;
            }
            assert_eq!(resume.end().code, 0, "{at}");
            fs::write(rig.ws().join("third"), "3").unwrap();
            let daemon = rig.daemon();
            let mut client = rig.start(operation.arguments);
            let Some(server) = wait_for_stop_or_end(rig, &client.process()) else {
                let ran = client.end();
                assert_eq!(ran.code, 0, "{at}: {ran:?}");
                break;
            };
            // The client may wait in the kernel for an answer that the stopped
            // daemon has begun; then it dies once that goes on.
            client.process().signal(Signal::SIGKILL).unwrap();
            stopped += 1;
            server.signal(Signal::SIGCONT).unwrap();
            client.kill();
            if operation.ends {
                daemon.wait();
                assert_eq!(mounts(), Vec::<String>::new(), "{at}");
                if operation.arguments == REMOVE.arguments {
                    assert!(!rig.state().exists(), "{at}");
                    continue;
                }
                rig.ok(&["mount", "--resume"]);
            } else {
                settle(rig, &at);
            }
            let found = tree(&rig.ws());
            assert!(found == saved.old || found == new, "{at}: {found:#?}");
            if operation.arguments != STEP.arguments {
                assert_eq!(found, new, "{at}: the daemon was asked and is alive");
            }
            let later = rig.step("later", &["--on-conflict", "last"], "echo later > later");
            assert_eq!(later.code, 0, "{at}: {later:?}\n{}", rig.log());
        }
    }
    saved.end();
    assert!(stopped >= 2, "only {stopped} points");
}

/// Waits until the daemon has put away what its client had begun.
fn settle(rig: &Rig, at: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        // Takes its turn behind whatever changes the stage.
        let ran = rig.run(&["step", "discard", "c"]);
        let steps = rig.ok(&["step", "list"]).out;
        if ran.code == 3 && !steps.contains("late") {
            return;
        }
        assert!(Instant::now() < deadline, "{at}: {ran:?}");
    }
}

/// The server, if it has stopped; `None` when the client has ended instead.
pub fn wait_for_stop_or_end(rig: &Rig, client: &Process) -> Option<Process> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let over = ended(client, std::time::Duration::from_millis(1));
        let stopped = rig.processes().into_iter().find(|(_, state)| *state == 'T');
        if let Some((pid, _)) = stopped {
            return Some(Process::open(pid).unwrap());
        }
        if over {
            return None;
        }
        assert!(
            Instant::now() < deadline,
            "neither stopped nor ended: {}",
            rig.log()
        );
    }
}

#[test]
fn merge() {
    alone(|rig| {
        let points = [
            "seal-head-before-journal",
            "seal-head-before-seal",
            "seal-head-after-seal",
            "seal-head-after-open",
            "merge-before-join",
            "merge-in-join",
            "merge-before-commit",
            "merge-after-commit",
            "merge-before-invalidate",
            "commit-before-rename",
            "commit-after-rename",
        ];
        every_point(rig, &MERGE, &points);
    });
}

#[test]
fn step() {
    alone(|rig| {
        let points = [
            "seal-step-before-seal",
            "seal-step-after-seal",
            "seal-step-after-commit",
            "merge-before-commit",
            "merge-after-commit",
        ];
        every_point(rig, &STEP, &points);
    });
}

#[test]
fn group() {
    alone(|rig| {
        let points = [
            "seal-step-before-seal",
            "seal-step-after-seal",
            "seal-step-after-commit",
            "merge-before-join",
            "merge-before-commit",
            "merge-after-commit",
            "merge-before-invalidate",
            "commit-before-rename",
            "commit-after-rename",
        ];
        every_point(rig, &GROUP, &points);
    });
}

#[test]
fn snapshot() {
    alone(|rig| {
        every_point(
            rig,
            &SNAPSHOT,
            &["snapshot-before-commit", "snapshot-after-commit"],
        )
    });
}

#[test]
fn cache() {
    alone(|rig| {
        let points = [
            "seal-head-after-open",
            "cache-before-place",
            "cache-before-commit",
            "cache-after-commit",
            "commit-before-rename",
            "commit-after-rename",
        ];
        every_point(rig, &CACHE, &points);
    });
}

#[test]
fn cache_without_its_client() {
    alone(|rig| client_killed_at_every_point(rig, &CACHE));
}

#[test]
fn restore() {
    alone(|rig| {
        let points = [
            "restore-before-commit",
            "restore-after-commit",
            "restore-before-sweep",
        ];
        every_point(rig, &RESTORE, &points);
    });
}

#[test]
fn unmount_that_keeps_the_state() {
    alone(|rig| {
        every_point(
            rig,
            &KEEP,
            &["unmount-before-commit", "unmount-after-commit"],
        )
    });
}

#[test]
fn unmount() {
    alone(|rig| {
        every_point(
            rig,
            &REMOVE,
            &["unmount-before-remove", "unmount-in-remove"],
        )
    });
}

/// Nobody is left who could bring a removal to its end.
#[test]
fn a_removal_without_a_supervisor() {
    alone(|rig| {
        let at = "unmount-in-remove:1:stop";
        let ws = rig.ws();
        let mount = rig.start_with(
            &["mount", "--workspace", ws.to_str().unwrap()],
            failpoint::VARIABLE,
            at,
        );
        assert_eq!(mount.end().code, 0);
        fs::write(ws.join("secret"), "s3cr3t").unwrap();
        rig.ok(&["snapshot", "create", "s"]);
        let daemon = rig.daemon();
        let client = rig.start(&["unmount"]);
        assert!(wait_for_stop_or_end(rig, &client.process()).is_some());
        daemon.supervisor.signal(Signal::SIGKILL).unwrap();
        daemon.server.signal(Signal::SIGKILL).unwrap();
        daemon.wait();
        assert_eq!(client.end().code, 5);
        assert!(rig.state().join("layers").exists());
        rig.ok(&["unmount"]);
        assert!(!rig.state().exists());
    });
}

#[test]
fn merge_without_its_client() {
    alone(|rig| client_killed_at_every_point(rig, &MERGE));
}

#[test]
fn step_without_its_client() {
    alone(|rig| client_killed_at_every_point(rig, &STEP));
}

#[test]
fn snapshot_without_its_client() {
    alone(|rig| client_killed_at_every_point(rig, &SNAPSHOT));
}

#[test]
fn restore_without_its_client() {
    alone(|rig| client_killed_at_every_point(rig, &RESTORE));
}

#[test]
fn unmount_without_its_client() {
    alone(|rig| {
        client_killed_at_every_point(rig, &KEEP);
    });
}

#[test]
fn removal_without_its_client() {
    alone(|rig| client_killed_at_every_point(rig, &REMOVE));
}
