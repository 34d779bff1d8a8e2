//! What the daemon takes for itself.

use std::fs;

use crate::rig::alone;

/// Every thread that serves a view has a buffer of 16 MiB, of which a few pages
/// are ever touched.
#[test]
fn views_that_were_opened_and_closed_leave_no_buffers_in_memory() {
    alone(|rig| {
        rig.mount();
        let names: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
        for _ in 0..2 {
            for name in &names {
                rig.ok(&["step", "begin", name]);
            }
            for name in &names {
                rig.ok(&["step", "discard", name]);
            }
        }
        let status = format!("/proc/{}/status", rig.daemon().server.pid);
        let status = fs::read_to_string(status).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.unwrap().trim().split(' ').next().unwrap();
        let kib: u64 = kib.parse().unwrap();
        assert!(kib < 64 << 10, "{kib} KiB");
        rig.ok(&["unmount"]);
    });
}
