//! What the daemon takes for itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::mount::MsFlags;

use crate::rig::{LIMIT, Rig, alone, tree};

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

/// Files in the tree that is walked.
const FILES: u64 = 40_000;
/// For an inode that the kernel remembers.
const PER_INODE: u64 = 300;
/// Beside the inodes: what was read and sent meanwhile.
const AROUND: u64 = 1 << 20;

#[test]
fn an_inode_that_the_kernel_remembers_takes_little_and_what_it_forgets_is_freed() {
    alone(|rig| {
        let many = rig.ws().join("many");
        for number in 0..FILES {
            let dir = many.join(format!("directory-{}", number / 1000));
            if number % 1000 == 0 {
                fs::create_dir_all(&dir).unwrap();
            }
            File::create(dir.join(format!("a file, number {number}"))).unwrap();
        }
        rig.mount();
        rig.ok(&["step", "begin", "one"]);
        for view in ["stage", "one"] {
            let (mount, _) = seen(rig, view);
            let before = taken(rig);
            let walked = tree(&mount.join("0/many")).len() as u64;
            assert!(walked > FILES);
            let kept = taken(rig).saturating_sub(before);
            assert!(
                kept < walked * PER_INODE + AROUND,
                "{view}: {kept} bytes for {walked} inodes"
            );
            forget(&mount);
            let deadline = Instant::now() + LIMIT;
            loop {
                let (_, inodes) = seen(rig, view);
                let kept = taken(rig).saturating_sub(before);
                // A fraction is kept for the next ones, and a step notes what was seen in it.
                if inodes < 10 && kept < walked * PER_INODE / 3 + AROUND {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{view}: {kept} bytes for {inodes} inodes"
                );
            }
        }
        rig.ok(&["step", "discard", "one"]);
        rig.ok(&["unmount"]);
        fs::remove_dir_all(many).unwrap();
    });
}

/// Where a view is mounted, and how many of its inodes the kernel remembers.
fn seen(rig: &Rig, view: &str) -> (PathBuf, u64) {
    let status = rig.ok(&["status", "--json"]).out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let views = status["views"].as_array().unwrap();
    let view = views.iter().find(|one| one["name"] == view).unwrap();
    let mount = view["mount"].as_str().unwrap().into();
    (mount, view["inodes"].as_u64().unwrap())
}

/// Memory that the daemon has for itself, in bytes.
fn taken(rig: &Rig) -> u64 {
    let all = format!("/proc/{}/smaps_rollup", rig.daemon().server.pid);
    let all = fs::read_to_string(all).unwrap();
    let own = all
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"));
    let kib = own.unwrap().trim().split(' ').next().unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// Has the kernel forget what nobody uses of one mount (fs/super.c, reconfigure_super).
fn forget(mount: &Path) {
    let none: Option<&str> = None;
    nix::mount::mount(none, mount, none, MsFlags::MS_REMOUNT, none).unwrap();
}
