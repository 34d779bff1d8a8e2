//! How a daemon ends: killed, told to, or with its container. Nothing hangs,
//! the next command says what happened, and nothing acknowledged is lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness_fs::sys::process::Process;
use nix::sys::signal::Signal;

use crate::rig::{self, LIMIT, Rig, alone, ended, mounts, tool, tree};

/// A stage with merged work, work in the stage view, and an open step.
fn busy_stage(rig: &Rig) {
    rig.mount();
    assert_eq!(
        rig.step("build", &[], "echo built > app; rm -r src/deep")
            .code,
        0
    );
    rig.ok(&["step", "begin", "open"]);
    let script =
        "echo of the step > in-step; echo more >> log; rm readme; mkdir -p a/b; mv src/main.c a/b/";
    rig.ok(&["step", "exec", "open", "--", "sh", "-ec", script]);
    fs::write(rig.ws().join("live"), "x".repeat(300_000)).unwrap();
    fs::create_dir(rig.ws().join("dir")).unwrap();
    fs::write(rig.ws().join("dir/below"), "below").unwrap();
    fs::remove_file(rig.ws().join("link")).unwrap();
}

/// After a death: everything that was acknowledged is there again.
fn resumes(rig: &Rig, before: &std::collections::BTreeMap<String, String>) {
    rig.ok(&["mount", "--resume"]);
    assert_eq!(tree(&rig.ws()), *before);
    rig.ok(&["step", "merge", "open"]);
    let ws = rig.ws();
    assert_eq!(
        fs::read_to_string(ws.join("in-step")).unwrap(),
        "of the step\n"
    );
    assert_eq!(fs::read_to_string(ws.join("log")).unwrap(), "line\nmore\n");
    assert_eq!(
        fs::read_to_string(ws.join("a/b/main.c")).unwrap(),
        "int main;\n"
    );
    assert!(!ws.join("readme").exists() && !ws.join("src/main.c").exists());
    assert_eq!(rig.step("next", &[], "echo next >> app").code, 0);
    assert_eq!(fs::read_to_string(ws.join("app")).unwrap(), "built\nnext\n");
    rig.ok(&["unmount"]);
    assert!(!rig.state().exists());
}

fn is_told(rig: &Rig, reason: &str) {
    rig.run(&["status"]).refused(5, reason);
    rig.run(&["snapshot", "list"])
        .refused(5, "`harness-fs mount --resume` continues");
    rig.run(&["step", "run", "x", "--", "true"])
        .refused(125, reason);
    let ws = rig.ws();
    rig.run(&["mount", "--workspace", ws.to_str().unwrap()])
        .refused(1, "`harness-fs mount --resume` continues it");
}

#[test]
fn the_server_is_killed() {
    alone(|rig| {
        busy_stage(rig);
        let before = tree(&rig.ws());
        rig.daemon().kill_server();
        assert_eq!(mounts(), Vec::<String>::new());
        assert!(rig.ws().join("readme").exists(), "the base shows again");
        is_told(rig, "was killed by SIGKILL");
        resumes(rig, &before);
    });
}

#[test]
fn the_supervisor_is_killed() {
    alone(|rig| {
        busy_stage(rig);
        let before = tree(&rig.ws());
        let daemon = rig.daemon();
        daemon.supervisor.signal(Signal::SIGKILL).unwrap();
        daemon.wait();
        assert_eq!(mounts(), Vec::<String>::new());
        is_told(rig, "supervisor was killed");
        resumes(rig, &before);
    });
}

#[test]
fn both_are_killed() {
    alone(|rig| {
        busy_stage(rig);
        let before = tree(&rig.ws());
        let daemon = rig.daemon();
        // A stopped supervisor cannot clean up before it is killed itself.
        daemon.supervisor.signal(Signal::SIGSTOP).unwrap();
        daemon.server.signal(Signal::SIGKILL).unwrap();
        daemon.supervisor.signal(Signal::SIGKILL).unwrap();
        daemon.wait();
        assert!(!mounts().is_empty(), "nobody could clean up");
        let mut look = Command::new("ls");
        look.arg(rig.ws());
        let look = rig::start(look).end();
        assert!(look.err.contains("not connected"), "{look:?}");
        rig.run(&["status"]).refused(5, "has ended without a word");
        resumes(rig, &before);
    });
}

#[test]
fn after_a_death_unmount_takes_all_away() {
    alone(|rig| {
        busy_stage(rig);
        let daemon = rig.daemon();
        daemon.supervisor.signal(Signal::SIGSTOP).unwrap();
        daemon.server.signal(Signal::SIGKILL).unwrap();
        daemon.supervisor.signal(Signal::SIGKILL).unwrap();
        daemon.wait();
        let ran = rig.ok(&["unmount"]);
        assert!(ran.err.contains("has ended without a word"), "{ran:?}");
        assert!(!rig.state().exists());
    });
}

/// Who was in the directory before it became a stage never came into the stage.
#[test]
fn unmount_names_who_is_still_in_the_stage() {
    alone(|rig| {
        let shell = || {
            let mut shell = Command::new("sh")
                .args(["-c", "cd src; echo; read line"])
                .current_dir(rig.ws())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut out = BufReader::new(shell.stdout.take().unwrap());
            out.read_line(&mut String::new()).unwrap();
            shell
        };
        let before = shell();
        let ran = rig.mount();
        assert!(
            ran.err.contains(&format!("(pid {})", before.id())),
            "{ran:?}"
        );
        let inside = shell();
        let ran = rig.ok(&["unmount"]);
        let told = format!(
            "sh (pid {}) is still in {} of the stage; in a shell, `cd .` leaves it",
            inside.id(),
            rig.ws().join("src").display()
        );
        assert!(
            ran.out.contains(&told) || ran.err.contains(&told),
            "{ran:?}"
        );
        let all = format!("{}{}", ran.out, ran.err);
        assert!(!all.contains(&format!("(pid {})", before.id())), "{ran:?}");
        for mut shell in [before, inside] {
            drop(shell.stdin.take());
            shell.wait().unwrap();
        }
    });
}

/// What waits for the filesystem or for the daemon gets an error at once.
#[test]
fn nobody_waits_for_a_dead_daemon() {
    alone(|rig| {
        rig.mount();
        let daemon = rig.daemon();
        // It answers nothing any more: both will wait.
        daemon.server.signal(Signal::SIGSTOP).unwrap();
        let mut look = Command::new("cat");
        look.arg(rig.ws().join("src/deep/none"));
        let look = rig::start(look);
        let ask = rig.start(&["snapshot", "list"]);
        let step = rig.start(&["step", "run", "s", "--", "true"]);
        assert!(!ended(&look.process(), Duration::from_millis(200)));
        daemon.kill_server();
        assert_eq!(look.end().code, 1);
        ask.end().refused(5, "was killed by SIGKILL");
        step.end().refused(125, "was killed by SIGKILL");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_running_step_ends_with_its_daemon() {
    alone(|rig| {
        rig.mount();
        let before = tree(&rig.ws());
        let fifo = rig.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!(
            "echo half > half; echo > {}; while echo x >> half; do :; done",
            fifo.display()
        );
        let step = rig.start(&["step", "run", "s", "--", "sh", "-c", &script]);
        // Opened once the step has opened it.
        fs::read_to_string(&fifo).unwrap();
        rig.daemon().kill_server();
        let ran = step.end();
        assert_eq!(ran.code, 125, "{ran:?}");
        assert!(ran.err.contains("was killed by SIGKILL"), "{ran:?}");
        rig.ok(&["mount", "--resume"]);
        assert_eq!(tree(&rig.ws()), before);
        rig.ok(&["step", "discard", "s"]);
        rig.ok(&["unmount"]);
    });
}

/// What the kernel serves by itself could be written on, long after the layer
/// is sealed.
#[test]
fn nobody_of_a_step_outlives_its_daemon() {
    alone(|rig| {
        rig.mount();
        let fifo = rig.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!(
            "trap '' TERM; exec 3>>written; echo > {}; while :; do echo x >&3; done",
            fifo.display()
        );
        let step = rig.start(&["step", "run", "s", "--", "sh", "-c", &script]);
        fs::read_to_string(&fifo).unwrap();
        rig.daemon().kill_server();
        assert_eq!(step.end().code, 125);
        rig.ok(&["mount", "--resume"]);
        rig.ok(&["step", "merge", "s"]);
        let seen = fs::read(rig.ws().join("written")).unwrap();
        let sealed = fs::read_dir(rig.state().join("layers")).unwrap();
        let mut sealed = sealed.map(|layer| layer.unwrap().path().join("tree/0/written"));
        let sealed = sealed.find(|path| path.exists()).unwrap();
        assert!(
            fs::read(sealed).unwrap() == seen,
            "the sealed layer is written"
        );
        rig.ok(&["unmount"]);
    });
}

#[test]
fn sigterm_unmounts_within_ten_seconds() {
    alone(|rig| {
        busy_stage(rig);
        let before = tree(&rig.ws());
        // Somebody in the step who does not want to end, and a file held open.
        let fifo = rig.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!(
            "trap '' TERM; echo > {}; while :; do sleep 1; done",
            fifo.display()
        );
        let exec = ["step", "exec", "open", "--", "sh", "-c", &script];
        let second = ["step", "run", "second", "--", "sh", "-c", &script];
        let third = ["step", "run", "third", "--", "sh", "-c", &script];
        // One after the other: each is there when it has written its line.
        let stubborn = [&exec[..], &second, &third].map(|arguments| {
            let started = rig.start(arguments);
            fs::read_to_string(&fifo).unwrap();
            started
        });
        let held = fs::File::open(rig.ws().join("live")).unwrap();
        let daemon = rig.daemon();
        let asked = Instant::now();
        daemon.supervisor.signal(Signal::SIGTERM).unwrap();
        daemon.wait();
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?}",
            asked.elapsed()
        );
        assert_eq!(mounts(), Vec::<String>::new(), "{}", rig.log());
        for stubborn in stubborn {
            // Killed; and a `step run` may have come to its end with the stage.
            assert!([137, 125].contains(&stubborn.end().code));
        }
        drop(held);
        rig.run(&["status"]).refused(3, "its state is kept");
        let told = rig.ok(&["mount", "--resume"]);
        assert!(
            !told.err.contains("interrupted"),
            "sealed in time: {told:?}"
        );
        assert_eq!(tree(&rig.ws()), before);
        rig.ok(&["step", "merge", "open"]);
        // To the server itself, it is the same.
        let daemon = rig.daemon();
        daemon.server.signal(Signal::SIGTERM).unwrap();
        daemon.wait();
        rig.run(&["status"]).refused(3, "its state is kept");
        rig.ok(&["unmount"]);
    });
}

/// `mount --foreground` as the first process of a container.
#[test]
fn in_the_foreground_as_the_first_process() {
    alone(|rig| {
        let ws = rig.ws();
        let mut command = Command::new("unshare");
        let own = rig.command(&["mount", "--foreground", "--workspace", ws.to_str().unwrap()]);
        command.args(["--pid", "--fork", "--mount-proc"]);
        command.arg(own.get_program()).args(own.get_args());
        command.env("HARNESS_FS_STATE_DIR", rig.state());
        // So that its mounts are seen here.
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert!(line.starts_with("mounted "), "{line}");
        let unshare = child.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let first: i32 = fs::read_to_string(children)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let first = Process::open(first).unwrap();
        // In the namespaces of the daemon, as in a container.
        let inside = |script: &str| {
            let mut enter = Command::new("nsenter");
            enter.args(["--mount", "--pid", "--target", &first.pid.to_string()]);
            enter.args(["--", "sh", "-ec", script]);
            enter.env("HARNESS_FS_STATE_DIR", rig.state());
            rig::start(enter).end()
        };
        let program = env!("CARGO_BIN_EXE_harness-fs");
        let script = format!(
            "{program} step run one -- sh -ec 'echo made > made; (sleep 1000 >/dev/null 2>&1 &)'; grep made {}/made",
            ws.display()
        );
        let ran = inside(&script);
        assert_eq!(ran.code, 0, "{ran:?}");
        let asked = Instant::now();
        first.signal(Signal::SIGTERM).unwrap();
        assert!(ended(&first, LIMIT));
        assert!(asked.elapsed() < Duration::from_secs(10));
        assert_eq!(child.wait().unwrap().code(), Some(0));
        rig.ok(&["mount", "--resume"]);
        assert_eq!(fs::read_to_string(ws.join("made")).unwrap(), "made\n");
        rig.ok(&["unmount"]);
    });
}

/// A container that served a mount was killed, and its state is gone with it.
#[test]
fn what_a_killed_container_left_is_taken_away() {
    alone(|rig| {
        rig.mount();
        // What the kernel knows of it is no sign of life.
        fs::metadata(rig.ws()).unwrap();
        let daemon = rig.daemon();
        daemon.supervisor.signal(Signal::SIGSTOP).unwrap();
        daemon.server.signal(Signal::SIGKILL).unwrap();
        daemon.supervisor.signal(Signal::SIGKILL).unwrap();
        daemon.wait();
        tool(
            "umount",
            &["-l", rig.state().join("views/stage/mnt").to_str().unwrap()],
        );
        fs::remove_dir_all(rig.state()).unwrap();
        assert_eq!(mounts().len(), 1, "{:?}", mounts());
        let elsewhere = rig.path().join("other-state");
        let elsewhere = elsewhere.to_str().unwrap();
        let ws = rig.ws();
        rig.ok(&[
            "--state-dir",
            elsewhere,
            "mount",
            "--workspace",
            ws.to_str().unwrap(),
        ]);
        assert_eq!(
            fs::read_to_string(ws.join("readme")).unwrap(),
            "from the base\n"
        );
        rig.ok(&["--state-dir", elsewhere, "unmount"]);
        assert!(fs::symlink_metadata(&ws).is_ok());
    });
}

/// kill -9 of the command line at moments all over the life of a step: the
/// stage is as before the step, or as after it.
#[test]
fn the_command_line_is_killed_at_any_moment() {
    alone(|rig| {
        rig.mount();
        let old = tree(&rig.ws());
        let script =
            "mkdir -p new/deep; echo 1 > new/deep/a; rm -r src; echo more >> log; echo 2 > new/b";
        let took = Instant::now();
        assert_eq!(rig.step("s", &[], script).code, 0);
        let took = took.elapsed();
        let new = tree(&rig.ws());
        rig.ok(&["unmount"]);
        let mut seen = [0, 0];
        for part in 0..24_u32 {
            rig.mount();
            let mut step = rig.start(&[
                "step", "run", "s", "--grace", "1s", "--", "sh", "-ec", script,
            ]);
            ended(&step.process(), took * part / 16);
            step.kill();
            // Until the daemon has put it away.
            let deadline = Instant::now() + LIMIT;
            loop {
                let ran = rig.run(&["step", "discard", "s"]);
                match ran.code {
                    3 => break,
                    _ => assert!(Instant::now() < deadline, "{ran:?}"),
                }
            }
            let found = tree(&rig.ws());
            assert!(found == old || found == new, "{part}: {found:#?}");
            seen[usize::from(found == new)] += 1;
            assert_eq!(
                rig.step("s", &["--on-conflict", "last"], "echo again > again")
                    .code,
                0
            );
            rig.ok(&["unmount"]);
        }
        println!(
            "killed before the merge: {}, after it: {}",
            seen[0], seen[1]
        );
        assert!(seen[0] > 0, "never before its end");
    });
}

/// Some were kept, and which was a matter of luck.
#[test]
fn an_unmount_that_keeps_the_state_discards_the_steps_that_it_cuts_off() {
    alone(|rig| {
        rig.mount();
        let fifo = rig.path().join("ready");
        tool("mkfifo", &[fifo.to_str().unwrap()]);
        let script = format!("echo x > half; echo > {}; exec sleep 1000", fifo.display());
        let begin = |step: &str, on_failure: &str| {
            let run = ["step", "run", "--on-failure", on_failure, step];
            let started = rig.start(&[&run[..], &["--", "sh", "-ec", &script]].concat());
            fs::read_to_string(&fifo).unwrap();
            started
        };
        let steps: Vec<String> = (0..8).map(|index| format!("s{index}")).collect();
        let cut: Vec<_> = steps.iter().map(|step| begin(step, "discard")).collect();
        let not_merged = begin("m", "merge");
        let kept = begin("k", "keep");
        let stopped = begin("t", "discard");
        // It cannot tell how its command has ended.
        stopped.process().signal(Signal::SIGSTOP).unwrap();
        rig.ok(&["step", "begin", "open"]);
        let daemon = rig.daemon();
        daemon.server.signal(Signal::SIGTERM).unwrap();
        for started in cut.into_iter().chain([not_merged]) {
            let ran = started.end();
            assert_eq!(ran.code, 143, "{ran:?}");
            assert!(
                ran.err.contains("unmounted); its changes are discarded"),
                "{ran:?}"
            );
        }
        let ran = kept.end();
        assert_eq!(ran.code, 143, "{ran:?}");
        assert!(ran.err.contains("changes are kept"), "{ran:?}");
        daemon.wait();
        stopped.process().signal(Signal::SIGCONT).unwrap();
        assert_eq!(stopped.end().code, 125);
        rig.all_gone();
        rig.ok(&["mount", "--resume"]);
        assert!(!rig.ws().join("half").exists());
        let list = rig.ok(&["step", "list"]).out;
        let left: Vec<&str> = list.lines().map(|line| &line[..1]).collect();
        assert_eq!(left, ["k", "o"], "{list}");
        rig.ok(&["unmount"]);
    });
}
