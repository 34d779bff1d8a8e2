//! How a mount ends, well or not, and what the next one finds.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use nix::mount::{MntFlags, MsFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::rig::{Rig, is_in_order, is_marked, program, server_of, shown, until};
use super::tree::{alike, seen};

fn two_names(lower: &Path) {
    fs::create_dir_all(lower.join("dir/deep")).unwrap();
    fs::write(lower.join("one"), "both").unwrap();
    fs::hard_link(lower.join("one"), lower.join("dir/deep/two")).unwrap();
    fs::write(lower.join("single"), "single").unwrap();
}

/// Ends a server as a crash does, and takes its dead mount away.
fn crash(rig: &Rig) {
    kill_server(rig);
    nix::mount::umount2(&rig.at("mnt"), MntFlags::MNT_DETACH).unwrap();
}

fn kill_server(rig: &Rig) {
    let server = Pid::from_raw(server_of(&rig.at("up")));
    kill(server, Signal::SIGKILL).unwrap();
    // Also where nobody reaps what has lost its parent.
    until("dead", || {
        let stat = fs::read_to_string(format!("/proc/{server}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn umount_leaves_nothing_of_ours() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount();
    fs::write(mounted.path("one"), "new").unwrap();
    fs::rename(mounted.path("dir"), mounted.path("moved")).unwrap();
    fs::write(mounted.path("born"), "born").unwrap();
    let mut open = fs::File::create(mounted.path("gone")).unwrap();
    open.write_all(b"unlinked while it is open").unwrap();
    fs::remove_file(mounted.path("gone")).unwrap();
    drop(open);
    let before = seen(&mounted.path(""));
    mounted.end();
    let up = rig.at("up");
    // Both names lead to what was written, and to one file.
    let id = |name: &str| fs::metadata(up.join(name)).unwrap().ino();
    assert_eq!(id("one"), id("moved/deep/two"));
    assert_eq!(fs::metadata(up.join("one")).unwrap().nlink(), 2);
    let lines: Vec<String> = seen(&up).into_values().collect();
    assert!(!lines.concat().contains("trusted.harness"), "{lines:#?}");
    assert!(!up.join("gone").exists());
    assert_eq!(fs::read_dir(rig.at("work")).unwrap().count(), 0);
    let mounted = rig.mount();
    alike(&seen(&mounted.path("")), &before, "mounted again");
    mounted.end();
}

#[test]
fn a_file_keeps_its_number_from_mount_to_unmount_and_then_its_own() {
    let rig = Rig::over(two_names);
    let number = |at: &Path| fs::metadata(at).unwrap().ino();
    let mounted = rig.mount();
    let lower = number(&mounted.path("single"));
    fs::write(mounted.path("single"), "copied up").unwrap();
    assert_eq!(number(&mounted.path("single")), lower);
    mounted.end();
    let mounted = rig.mount();
    let upper = number(&mounted.path("single"));
    fs::rename(mounted.path("single"), mounted.path("dir/other")).unwrap();
    assert_eq!(number(&mounted.path("dir/other")), upper);
    mounted.end();
    let mounted = rig.mount();
    assert_eq!(number(&mounted.path("dir/other")), upper);
    mounted.end();
}

#[test]
fn no_lower_file_that_comes_later_is_taken_for_one_that_was_copied_up() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount();
    fs::write(mounted.path("single"), "copied up").unwrap();
    let written = fs::metadata(mounted.path("single")).unwrap().ino();
    mounted.end();
    // The lower directory changes between mounts: the same inode has another name.
    fs::rename(rig.at("lower/single"), rig.at("lower/other")).unwrap();
    let mounted = rig.mount();
    assert_eq!(fs::metadata(mounted.path("other")).unwrap().ino(), written);
    assert_ne!(fs::metadata(mounted.path("single")).unwrap().ino(), written);
    assert_eq!(fs::read_to_string(mounted.path("other")).unwrap(), "single");
    fs::write(mounted.path("other"), "two").unwrap();
    assert_eq!(
        fs::read_to_string(mounted.path("single")).unwrap(),
        "copied up"
    );
    mounted.end();
}

#[test]
fn what_is_left_of_a_killed_server_is_whole_and_put_in_order() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount();
    fs::write(mounted.path("one"), "written through one name").unwrap();
    fs::write(mounted.path("born"), "born").unwrap();
    fs::create_dir(mounted.path("new")).unwrap();
    fs::rename(mounted.path("dir"), mounted.path("new/dir")).unwrap();
    fs::remove_file(mounted.path("single")).unwrap();
    let mut open = fs::File::create(mounted.path("open")).unwrap();
    open.write_all(b"open").unwrap();
    fs::remove_file(mounted.path("open")).unwrap();
    let before = seen(&mounted.path(""));
    crash(&rig);
    drop(open);
    assert!(is_marked(&rig.at("up")));
    // With other lower directories the names would not be found.
    fs::create_dir(rig.at("other")).unwrap();
    let ran = rig.overlay(&rig.options(&["other"]));
    ran.refused(1, "mount it once more as it was, with lowerdir=");
    fs::create_dir(rig.at("work2")).unwrap();
    let elsewhere = rig.options(&["lower"]).replace("workdir", "x-was") + ",workdir=work2";
    rig.overlay(&elsewhere)
        .refused(1, "mount it once more with workdir=");
    fs::create_dir(rig.at("up2")).unwrap();
    let elsewhere = rig.options(&["lower"]).replace("upperdir", "x-was") + ",upperdir=up2";
    rig.overlay(&elsewhere).refused(1, "did not end well");
    let mounted = rig.mount();
    alike(&seen(&mounted.path("")), &before, "after the crash");
    fs::write(mounted.path("new/dir/deep/two"), "through the other").unwrap();
    assert_eq!(
        fs::read_to_string(mounted.path("one")).unwrap(),
        "through the other"
    );
    mounted.end();
    assert_eq!(
        fs::read_to_string(rig.at("up/one")).unwrap(),
        "through the other"
    );
}

#[test]
fn a_mount_whose_server_was_killed_is_told_of() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount();
    kill_server(&rig);
    let options = rig.options(&["lower"]);
    let dead = "what is mounted there has died: unmount it first";
    rig.overlay(&options).refused(1, dead);
    rig.overlay("remount,ro").refused(1, dead);
    let (lower, none) = (shown(&rig.at("mnt")), Rig::with(&["mnt"]));
    none.overlay(&format!("lowerdir={lower}")).refused(1, dead);
    super::rig::umount(&rig.at("mnt"));
    rig.mount().end();
    drop(mounted);
}

#[test]
fn an_end_that_is_cut_off_is_ended_by_the_next_mount() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount();
    fs::write(mounted.path("one"), "new").unwrap();
    crash(&rig);
    // As if the scratch had gone, and the mark had not.
    fs::remove_dir_all(rig.at("work/harness-fs")).unwrap();
    rig.mount().end();
    // As if the scratch had been made, and the mark had not.
    fs::create_dir_all(rig.at("work/harness-fs/work")).unwrap();
    rig.mount().end();
    assert!(is_in_order(&rig.at("up"), &rig.at("work")));
    drop(mounted);
}

#[test]
fn a_crash_that_the_kernel_came_after_is_told_of() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount();
    fs::write(mounted.path("one"), "new").unwrap();
    crash(&rig);
    let options = rig.options(&["lower"]);
    rig.by_kernel(&options).end();
    rig.overlay(&options)
        .refused(1, "the kernel's overlay has used it since");
    fs::remove_dir_all(rig.at("work/harness-fs")).unwrap();
    rig.mount().end();
    drop(mounted);
}

#[test]
fn one_mount_at_a_time() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount();
    fs::create_dir_all(rig.at("m2")).unwrap();
    fs::create_dir_all(rig.at("up2")).unwrap();
    fs::create_dir_all(rig.at("work2")).unwrap();
    let try_one = |options: &str| {
        let mut command = program();
        command.args(["overlay", "-o", options]).arg(rig.at("m2"));
        super::rig::ran(command.current_dir(rig.at("")).output().unwrap())
    };
    let refused = |options: &str, part: &str| try_one(options).refused(1, part);
    refused(
        "lowerdir=lower,upperdir=up,workdir=work2",
        "is in use by another mount of harness-fs",
    );
    refused(
        "lowerdir=lower,upperdir=up2,workdir=work",
        "in use by another mount of harness-fs",
    );
    refused("lowerdir=up,upperdir=up2,workdir=work2", "lowerdir ");
    // Several may read one lower directory, but nobody may write it then.
    refused("lowerdir=up2,upperdir=lower,workdir=work2", "upperdir ");
    assert_eq!(try_one("lowerdir=lower,upperdir=up2,workdir=work2").code, 0);
    super::rig::umount(&rig.at("m2"));
    until("in order", || is_in_order(&rig.at("up2"), &rig.at("work2")));
    fs::write(mounted.path("single"), "unharmed").unwrap();
    mounted.end();
    // The kernel's are seen in the list of mounts.
    let kernel = rig.by_kernel(&rig.options(&["lower"]));
    refused(&rig.options(&["lower"]), "in use by the kernel's overlay");
    kernel.end();
}

#[test]
fn the_next_mount_waits_for_the_one_before_to_come_to_its_end() {
    let rig = Rig::over(two_names);
    for round in 0..20 {
        let mounted = rig.mount();
        fs::write(mounted.path("one"), format!("round {round}")).unwrap();
        assert_eq!(
            fs::read_to_string(mounted.path("dir/deep/two")).unwrap(),
            format!("round {round}")
        );
        super::rig::umount(&mounted.path(""));
        // At once, whatever that one still has to do.
        std::mem::forget(mounted);
    }
    rig.mount().end();
}

#[test]
fn a_signal_ends_it_as_umount_does() {
    let rig = Rig::over(two_names);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mounted = rig.mount();
        fs::write(mounted.path("one"), signal.as_str()).unwrap();
        // Even while it is used.
        let mut open = fs::File::open(mounted.path("single")).unwrap();
        kill(Pid::from_raw(server_of(&rig.at("up"))), signal).unwrap();
        until("in order", || is_in_order(&rig.at("up"), &rig.at("work")));
        assert_eq!(fs::read_dir(mounted.path("")).unwrap().count(), 0);
        let _ = open.read(&mut [0; 4]);
        let both = fs::read_to_string(rig.at("up/dir/deep/two")).unwrap();
        assert_eq!(both, signal.as_str());
        drop(mounted);
    }
}

#[test]
fn a_lazy_umount_lets_who_is_in_it_finish() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount();
    let mut open = fs::File::create(mounted.path("late")).unwrap();
    nix::mount::umount2(&mounted.path(""), MntFlags::MNT_DETACH).unwrap();
    open.write_all(b"in time").unwrap();
    assert!(is_marked(&rig.at("up")));
    drop(open);
    until("in order", || is_in_order(&rig.at("up"), &rig.at("work")));
    assert_eq!(fs::read_to_string(rig.at("up/late")).unwrap(), "in time");
    std::mem::forget(mounted);
}

#[test]
fn in_the_foreground_it_ends_with_its_mount() {
    let rig = Rig::over(two_names);
    let mut command = program();
    command.args(["overlay", "-f", "-o", &rig.options(&["lower"])]);
    command.arg(rig.at("mnt")).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    until("mounted", || rig.at("mnt/single").exists());
    assert_eq!(server.try_wait().unwrap(), None);
    fs::write(rig.at("mnt/single"), "new").unwrap();
    super::rig::umount(&rig.at("mnt"));
    assert!(server.wait().unwrap().success());
    assert!(is_in_order(&rig.at("up"), &rig.at("work")));
    let mut command = program();
    command.args(["overlay", "-f", "-o", "lowerdir=/none", "/none"]);
    super::rig::ran(command.output().unwrap()).refused(1, "lowerdir /none");
}

#[test]
fn the_flags_of_what_is_mounted_can_be_changed() {
    let rig = Rig::over(two_names);
    let mounted = rig.mount_with(&(rig.options(&["lower"]) + ",nosuid"));
    let remount = |options: &str| rig.overlay(options);
    let open = fs::File::create(mounted.path("open")).unwrap();
    remount("remount,ro").refused(1, "while a file in it is open for writing");
    drop(open);
    // A release comes a little later than the close.
    until("read-only", || remount("remount,ro").code == 0);
    let refused = fs::write(mounted.path("new"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let options = |rig: &Rig| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = shown(&rig.at("mnt"));
        let line = mounts.lines().find(|line| line.contains(&at)).unwrap();
        line.split(' ').nth(5).unwrap().to_owned()
    };
    assert!(options(&rig).starts_with("ro,nosuid"), "{}", options(&rig));
    assert_eq!(remount("remount,rw,suid,nodev").code, 0);
    assert!(options(&rig).starts_with("rw,nodev"), "{}", options(&rig));
    fs::write(mounted.path("new"), "").unwrap();
    mounted.end();
    // What is not ours is left alone.
    let none = None::<&str>;
    nix::mount::mount(
        Some("x"),
        &rig.at("mnt"),
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .unwrap();
    let ran = remount("remount,ro");
    super::rig::umount(&rig.at("mnt"));
    ran.refused(1, "no overlay of harness-fs is mounted at");
}
