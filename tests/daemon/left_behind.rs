//! What a step's command leaves running, and how it is found.

use std::fs;

use crate::rig::alone;

#[test]
fn who_has_put_the_view_out_of_its_mounts() {
    alone(|rig| {
        rig.mount();
        let fifo = rig.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::copy("/bin/sleep", rig.ws().join("pause")).unwrap();
        let (ws, fifo) = (rig.ws(), fifo.display().to_string());
        let ws = ws.display();
        // One that works in the view, and one that runs a program of it.
        let ways = [
            format!("cd src; umount -l {ws}; echo > {fifo}; exec sleep 1000"),
            format!("exec 3<pause; cd /; umount -l {ws}; echo > {fifo}; exec /proc/self/fd/3 1000"),
        ];
        for (number, way) in ways.iter().enumerate() {
            let script = format!(
                "unshare --mount --propagation private sh -ec '{way}' </dev/null & read x < {fifo}
                 until [ \"$(cat /proc/$!/comm)\" != sh ]; do :; done"
            );
            let ran = rig.step(&number.to_string(), &[], &script);
            assert_eq!(ran.code, 0, "{ran:?}");
            let told = "ended 1 process left by the step: ";
            assert!(ran.err.contains(told), "{ran:?}");
        }
        rig.ok(&["unmount"]);
    });
}

#[test]
fn what_an_exec_that_takes_too_long_has_started() {
    alone(|rig| {
        rig.mount();
        rig.ok(&["step", "begin", "s"]);
        let exec = |options: &[&str], script: &str| {
            let tail = ["--", "sh", "-c", script];
            rig.run(&[&["step", "exec", "s"], options, &tail].concat())
        };
        // Children, orphans, those of sessions of their own, and the stubborn.
        let script = "sleep 1000 & (sleep 1000 &) ; setsid sh -c 'sleep 1000 & exec sleep 1000' &
            sh -c 'trap : TERM; while :; do sleep 1000; done' & sleep 1000";
        let ran = exec(&["--timeout", "300ms", "--grace", "50ms"], script);
        assert_eq!(ran.code, 124, "{ran:?}");
        // In time all may be left, and who has lost its parent is buried.
        let script = "sleep 1000 & orphan=$(sh -c ': & echo $!')
            while [ -e /proc/$orphan ]; do :; done";
        let ran = exec(&["--timeout", "1h"], script);
        assert_eq!(ran.code, 0, "{ran:?}");
        let ran = rig.ok(&["step", "merge", "s"]);
        let told = "ended 1 process left by the step: sleep (pid ";
        assert!(ran.out.contains(told) || ran.err.contains(told), "{ran:?}");
        rig.ok(&["unmount"]);
    });
}
