//! State directories on disks that are full or have a quota: the view and the
//! commands answer with the disk's own error, nothing is half there, and with room
//! all goes on.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{Rig, alone, tool, tree};

const FULL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/full.py");

/// Makes a filesystem in a file and mounts it at `at`. The loop device goes with
/// the test's mount namespace.
pub fn disk(rig: &Rig, make: &[&str], size: u64, at: &Path) {
    let image = rig.path().join("image");
    File::create(&image).unwrap().set_len(size).unwrap();
    let image = image.to_str().unwrap();
    tool(make[0], &[&make[1..], &[image]].concat());
    fs::create_dir_all(at).unwrap();
    tool("mount", &["-o", "loop", image, at.to_str().unwrap()]);
}

/// A disk that has 24 MB or lets no more be taken, with the state directory on it.
fn small_disk(rig: &Rig, make: fn(&Rig) -> PathBuf) -> PathBuf {
    let small = make(rig);
    let stage = small.join("stage");
    fs::create_dir(&stage).unwrap();
    fs::create_dir(rig.state()).unwrap();
    let state = rig.state();
    let (stage, state) = (stage.to_str().unwrap(), state.to_str().unwrap());
    tool("mount", &["--bind", stage, state]);
    small
}

fn ext4(rig: &Rig) -> PathBuf {
    let at = rig.path().join("small");
    let blocks = ["mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096"];
    let make = [&blocks[..], &["-N", "2000"]].concat();
    disk(rig, &make, 24 << 20, &at);
    at
}

fn btrfs_with_a_quota(rig: &Rig) -> PathBuf {
    let all = rig.path().join("btrfs");
    disk(rig, &["mkfs.btrfs", "-q"], 256 << 20, &all);
    let all = all.to_str().unwrap();
    let subvolume = format!("{all}/small");
    tool("btrfs", &["-q", "quota", "enable", all]);
    tool("btrfs", &["-q", "subvolume", "create", &subvolume]);
    tool("btrfs", &["-q", "qgroup", "limit", "24M", &subvolume]);
    PathBuf::from(subvolume)
}

fn full_base(rig: &Rig) {
    let mut python = Command::new("python3");
    let status = python.args([FULL, "base"]).current_dir(rig.ws()).status();
    assert!(status.unwrap().success());
}

/// Leaves the base as the rig made it.
fn clean_base(rig: &Rig) {
    for entry in fs::read_dir(rig.ws()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("dir") {
            fs::remove_dir_all(path).unwrap();
        } else if name == "big" {
            fs::remove_file(path).unwrap();
        }
    }
}

/// What lies in the `work` of a view's open layer, but for the one whiteout.
pub fn half_done(layer: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(layer.join("work")).unwrap();
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| !name.ends_with("whiteout"));
    names
}

/// Everything is tried on a full disk: in a step, and in the stage view.
fn everything_on_a_full_disk(rig: &Rig, options: &[&str], errno: i32) {
    full_base(rig);
    let ws = rig.ws();
    rig.ok(&[&["mount", "--workspace", ws.to_str().unwrap()], options].concat());
    let old = tree(&ws);
    let code = errno.to_string();
    let tries = ["python3", FULL, "try", &code];
    rig.ok(&["step", "begin", "s"]);
    let ran = rig.ok(&[&["step", "exec", "s", "--"], &tries[..]].concat());
    assert!(!ran.out.contains("no room for, 0"), "{ran:?}");
    assert_eq!(
        half_done(&rig.state().join("views/s/open")),
        Vec::<PathBuf>::new()
    );
    assert_eq!(tree(&ws), old);
    rig.ok(&["step", "discard", "s"]);
    assert_eq!(tree(&ws), old);
    let ran = rig.run(&[&["step", "run", "s", "--"], &tries[..]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let new = tree(&ws);
    assert!(new.contains_key("dir17/renamed"), "{:?}", new.keys());
    rig.ok(&["rollback", "base"]);
    let mut python = Command::new("python3");
    let output = python.args(&tries[1..]).current_dir(&ws).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        half_done(&rig.state().join("views/stage/open")),
        Vec::<PathBuf>::new()
    );
    assert_eq!(tree(&ws), new);
    rig.ok(&["unmount", "--keep-state"]);
    rig.ok(&["mount", "--resume"]);
    assert_eq!(tree(&ws), new);
    rig.ok(&["unmount"]);
    clean_base(rig);
}

#[test]
fn everything_on_a_full_ext4() {
    alone(|rig| {
        small_disk(rig, ext4);
        everything_on_a_full_disk(rig, &[], libc::ENOSPC);
    });
}

#[test]
fn everything_on_a_full_ext4_without_passthrough() {
    alone(|rig| {
        small_disk(rig, ext4);
        everything_on_a_full_disk(rig, &["--no-passthrough"], libc::ENOSPC);
    });
}

#[test]
fn everything_over_a_quota() {
    alone(|rig| {
        small_disk(rig, btrfs_with_a_quota);
        everything_on_a_full_disk(rig, &[], libc::EDQUOT);
    });
}

/// Tries it with ever more room, until it succeeds: how often it did not. A file can be
/// removed over a quota of Btrfs, and not made shorter.
fn with_little_room(ballast: &Path, attempt: &mut dyn FnMut() -> bool) -> usize {
    fs::create_dir(ballast).unwrap();
    let all = File::open(ballast).unwrap();
    let mut files = Vec::new();
    loop {
        let path = ballast.join(files.len().to_string());
        // Btrfs finds only with the sync that it was too much.
        let full =
            fs::write(&path, vec![1; 256 << 10]).is_err() | nix::unistd::syncfs(&all).is_err();
        if path.exists() {
            files.push(path);
        }
        if full {
            break;
        }
    }
    let mut failed = 0;
    while !attempt() {
        failed += 1;
        assert!(!files.is_empty(), "there was room for anything");
        let left = files.len().saturating_sub(1 << failed);
        for path in files.drain(left..) {
            fs::remove_file(path).unwrap();
        }
        nix::unistd::syncfs(&all).unwrap();
    }
    fs::remove_dir_all(ballast).unwrap();
    nix::unistd::syncfs(&all).unwrap();
    failed
}

/// A merge has to write two files of some megabytes anew, and an export what is in
/// the stage, on a disk that has less room than that.
fn a_merge_and_an_export(rig: &Rig, make: fn(&Rig) -> PathBuf, said: &str) {
    let small = small_disk(rig, make);
    let ws = rig.ws();
    fs::write(ws.join("long"), noise(1 << 20)).unwrap();
    rig.mount();
    let append = "import sys
open('long', 'ab').write(sys.argv[1][-4:].encode() * 300_000)
open(sys.argv[1], 'w').write('new')";
    rig.ok(&["step", "begin", "s"]);
    rig.ok(&["step", "exec", "s", "--", "python3", "-c", append, "by-s"]);
    let mut python = Command::new("python3");
    let in_stage = python.args(["-c", append, "in-stage"]).current_dir(&ws);
    assert!(in_stage.status().unwrap().success());
    let old = tree(&ws);
    let ballast = small.join("ballast");
    let failed = with_little_room(&ballast, &mut || {
        let ran = rig.run(&["step", "merge", "s", "--on-conflict", "append"]);
        if ran.code != 0 {
            assert_eq!(ran.code, 1, "{ran:?}");
            assert!(ran.err.contains(said), "{ran:?}");
            assert_eq!(tree(&ws), old);
        }
        ran.code == 0
    });
    assert!(failed > 0, "there was room for the merge");
    let long = fs::read(ws.join("long")).unwrap();
    assert_eq!(long.len(), (1 << 20) + 2 * 1_200_000);
    assert!(long.ends_with(b"by-s") && ws.join("by-s").exists());
    rig.ok(&["snapshot", "create", "merged"]);
    let merged = tree(&ws);

    let out = small.join("out");
    let out = out.to_str().unwrap();
    let failed = with_little_room(&ballast, &mut || {
        let ran = rig.run(&["export", "merged", "--to", out]);
        if ran.code != 0 {
            assert_eq!(ran.code, 1, "{ran:?}");
            assert!(ran.err.contains(said), "{ran:?}");
            assert!(!Path::new(out).exists(), "something is left");
        }
        ran.code == 0
    });
    assert!(failed > 0, "there was room for the export");
    assert_eq!(tree(&ws), merged);
    let layout = rig.path().join("layout");
    tool("cp", &["-r", out, layout.to_str().unwrap()]);
    rig.ok(&["unmount"]);
    let layout = layout.to_str().unwrap();
    rig.ok(&[
        "mount",
        "--workspace",
        ws.to_str().unwrap(),
        "--from",
        layout,
    ]);
    assert_eq!(tree(&ws), merged);
    rig.ok(&["unmount"]);
    fs::remove_file(ws.join("long")).unwrap();
}

/// What cannot be made smaller.
fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut source = File::open("/dev/urandom").unwrap();
    source.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_merge_and_an_export_on_a_full_ext4() {
    alone(|rig| a_merge_and_an_export(rig, ext4, "No space left"));
}

#[test]
fn a_merge_and_an_export_over_a_quota() {
    alone(|rig| a_merge_and_an_export(rig, btrfs_with_a_quota, "Quota exceeded"));
}
