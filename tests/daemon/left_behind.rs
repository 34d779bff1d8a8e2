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
