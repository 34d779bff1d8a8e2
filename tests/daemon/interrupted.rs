//! A command line that is told to end, or killed, when its command has ended
//! and the step comes to its end.

use std::fs;

use nix::sys::signal::Signal;

use crate::rig::{Rig, Started, alone, tool};

/// A command that succeeds and leaves a process behind which never ends by
/// itself; returns when the daemon has told that one to.
fn in_its_grace(rig: &Rig, step: &str, options: &[&str]) -> Started {
    let fifo = |name: &str| rig.path().join(format!("{step}-{name}"));
    let [ready, told, never] = ["ready", "told", "never"].map(fifo);
    let fifos = [&ready, &told, &never].map(|fifo| fifo.to_str().unwrap());
    tool("mkfifo", &fifos);
    let [ready, told, never] = fifos;
    // Before its trap is set it would end when told to.
    let script = format!(
        "echo x > half-{step}
         (trap 'echo > {told}' TERM; echo > {ready}
          while :; do read -r _ <> {never} || :; done) >/dev/null 2>&1 &
         read -r _ < {ready} || :"
    );
    let options = [&["step", "run", step, "--grace", "1h"], options].concat();
    let started = rig.start(&[&options[..], &["--", "sh", "-ec", &script]].concat());
    fs::read_to_string(told).unwrap();
    started
}

#[track_caller]
fn wait_until_put_away(rig: &Rig) {
    while rig.ok(&["step", "list"]).out.contains("open") {}
}

#[test]
fn a_signal_gives_the_step_up_and_it_is_told() {
    alone(|rig| {
        rig.mount();
        let result = rig.path().join("result");
        let options = ["--result", result.to_str().unwrap()];
        let signals = [
            (Signal::SIGINT, 2),
            (Signal::SIGTERM, 15),
            (Signal::SIGHUP, 1),
        ];
        for (signal, number) in signals {
            let name = format!("with-{number}");
            let step = in_its_grace(rig, &name, &options);
            step.process().signal(signal).unwrap();
            let ran = step.end();
            assert_eq!(ran.code, 128 + number, "{ran:?}");
            assert!(ran.err.contains("is given up"), "{ran:?}");
            assert!(ran.err.contains("its changes are discarded"), "{ran:?}");
            assert!(!rig.ws().join(format!("half-{name}")).exists());
            let told = fs::read_to_string(&result).unwrap();
            let told: serde_json::Value = serde_json::from_str(&told).unwrap();
            assert_eq!(told["outcome"], "discarded");
            assert_eq!(told["interrupted_by"], number);
            assert_eq!(told["survivors"][0]["killed"], true);
        }
        let step = in_its_grace(rig, "kept", &["--on-failure", "keep"]);
        step.process().signal(Signal::SIGINT).unwrap();
        assert_eq!(step.end().code, 130);
        assert!(!rig.ws().join("half-kept").exists());
        rig.ok(&["step", "merge", "kept"]);
        assert!(rig.ws().join("half-kept").exists());
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_command_line_that_is_killed_then_merges_nothing() {
    alone(|rig| {
        rig.mount();
        for (name, options) in [("a", &[][..]), ("b", &["--on-failure", "merge"])] {
            let mut step = in_its_grace(rig, name, options);
            step.kill();
            wait_until_put_away(rig);
            assert!(!rig.ws().join(format!("half-{name}")).exists());
        }
        rig.ok(&["group", "declare", "g", "one", "two"]);
        let mut one = in_its_grace(rig, "one", &["--group", "g"]);
        one.kill();
        wait_until_put_away(rig);
        let two = rig.step("two", &["--group", "g"], "echo 2 > two");
        assert_eq!(two.code, 0, "{two:?}");
        assert!(rig.ws().join("two").exists());
        assert!(!rig.ws().join("half-one").exists());
        rig.ok(&["unmount"]);
    });
}

/// It was SIGTERM for all of them.
#[test]
fn the_log_says_which_signal_ended_the_stage() {
    alone(|rig| {
        rig.mount();
        for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
            let daemon = rig.daemon();
            daemon.supervisor.signal(signal).unwrap();
            daemon.wait();
            let said = format!("{}: ending, the state is kept", signal.as_str());
            assert!(rig.log().contains(&said), "{said}: {}", rig.log());
            rig.ok(&["mount", "--resume"]);
        }
        rig.ok(&["unmount"]);
    });
}
