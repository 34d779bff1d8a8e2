//! A daemon that does not answer, or that is still ending.

use nix::sys::signal::Signal;

use crate::rig::alone;

#[test]
fn a_daemon_that_is_stopped_is_named_and_status_gives_up() {
    alone(|rig| {
        rig.mount();
        let daemon = rig.daemon();
        daemon.server.signal(Signal::SIGSTOP).unwrap();
        let ran = rig.run(&["status"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let pid = daemon.server.pid;
        let waiting = format!("(pid {pid}) does not answer; waiting");
        assert!(ran.err.contains(&waiting), "{ran:?}");
        assert!(ran.err.contains(&format!("`kill -CONT {pid}`")), "{ran:?}");
        daemon.server.signal(Signal::SIGCONT).unwrap();
        rig.ok(&["unmount"]);
    });
}

/// `status` said that `mount --resume` brings it back, and that said that
/// another daemon is there.
#[test]
fn a_daemon_that_is_ending_is_waited_for() {
    alone(|rig| {
        for then in [&["mount", "--resume"][..], &["unmount"]] {
            rig.mount();
            rig.daemon().supervisor.signal(Signal::SIGKILL).unwrap();
            while rig.run(&["status"]).code == 0 {}
            rig.ok(then);
            if then[0] == "mount" {
                rig.ok(&["unmount"]);
            }
        }
    });
}
