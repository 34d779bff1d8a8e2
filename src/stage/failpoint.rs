//! Named places where a test makes the process die as by `kill -9`.
//!
//! `HARNESS_FS_FAILPOINT=merge-before-commit` ends the process when it gets
//! there. Always compiled in, so that what is tested is what is shipped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, raise};

/// The variable that names the place.
pub const VARIABLE: &str = "HARNESS_FS_FAILPOINT";

/// Every place there is, in the order an operation passes them.
pub const ALL: &[&str] = &[
    // Sealing the head: in begin, merge, snapshot, restore.
    "seal-head-before-journal",
    "seal-head-before-seal",
    "seal-head-after-seal",
    "seal-head-after-open",
    // Sealing a step's layer.
    "seal-step-before-seal",
    "seal-step-after-seal",
    "seal-step-after-commit",
    // Merging.
    "merge-before-join",
    "merge-in-join",
    "merge-before-commit",
    "merge-after-commit",
    "merge-before-invalidate",
    // Any commit: before and after the rename that makes it.
    "commit-before-rename",
    "commit-after-rename",
    // Snapshots.
    "snapshot-before-commit",
    "snapshot-after-commit",
    "restore-before-commit",
    "restore-after-commit",
    "restore-before-sweep",
    // Restoring a cache.
    "cache-before-place",
    "cache-before-commit",
    "cache-after-commit",
    // Writing a tree into a directory.
    "apply-before-stage",
    "apply-in-stage",
    "apply-before-plan",
    "apply-after-plan",
    "apply-in-place",
    "apply-before-remove",
    "apply-in-remove",
    "apply-before-dress",
    "apply-in-dress",
    // Ending the stage.
    "unmount-before-commit",
    "unmount-after-commit",
    "unmount-before-remove",
    "unmount-in-remove",
];

/// A place, the how manieth time there, and what happens then.
struct Chosen {
    name: String,
    time: u64,
    signal: Signal,
}

/// Dies here if the environment says so: `name`, or `name:3` for the third time
/// that it gets here, or `name:3:stop` to stop (as by `kill -STOP`) and not die.
pub fn hit(name: &'static str) {
    static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    debug_assert!(ALL.contains(&name), "{name} is not in the table");
    let chosen = CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| parse(&text)));
    let Some(chosen) = chosen else { return };
    if chosen.name == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == chosen.time {
        // To this thread, so that it goes no further: of a signal to the process
        // it would hear from the thread that takes it, a moment later.
        let _ = raise(chosen.signal);
    }
}

fn parse(text: &str) -> Chosen {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default().to_owned();
    let time = parts.next().and_then(|time| time.parse().ok()).unwrap_or(1);
    let signal = match parts.next() {
        Some("stop") => Signal::SIGSTOP,
        _ => Signal::SIGKILL,
    };
    Chosen { name, time, signal }
}
