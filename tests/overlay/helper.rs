//! As mount(8) runs it, and by mount(8) itself.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::rig::{Ran, Rig, is_in_order, ran, until};

/// Runs this program under the name that mount(8) has for it.
fn helper(rig: &Rig, arguments: &[&str]) -> Ran {
    let link = rig.at("mount.fuse.harness-fs");
    if !link.is_symlink() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_harness-fs"), &link).unwrap();
    }
    let mut command = Command::new(link);
    ran(command
        .args(arguments)
        .current_dir(rig.at(""))
        .output()
        .unwrap())
}

#[test]
fn it_takes_what_mount_gives_it() {
    let rig = Rig::over(|lower| fs::write(lower.join("file"), "").unwrap());
    let options = rig.options(&["lower"]) + ",rw,relatime,nodev,x-systemd.automount,_netdev";
    let ran = helper(
        &rig,
        &[
            "a disk",
            "mnt",
            "-v",
            "-n",
            "-o",
            &options,
            "-t",
            "fuse.harness-fs",
        ],
    );
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.starts_with("a disk mounted on "), "{ran:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(mounts.contains(r"fuse.harness-fs a\040disk "), "{mounts}");
    assert!(rig.at("mnt/file").exists());
    let ran = helper(
        &rig,
        &["a disk", "mnt", "-o", "remount,ro,user_id=0,group_id=0"],
    );
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    fs::write(rig.at("mnt/new"), "").unwrap_err();
    super::rig::umount(&rig.at("mnt"));
    until("in order", || is_in_order(&rig.at("up"), &rig.at("work")));
}

#[test]
fn its_exit_codes_are_those_of_mount() {
    let rig = Rig::over(|_| {});
    helper(&rig, &["x"]).refused(1, "two names and not 1");
    helper(&rig, &["x", "mnt", "-q"]).refused(1, "'-q' is not known");
    helper(&rig, &["x", "mnt", "-o"]).refused(1, "-o needs a value");
    helper(&rig, &["x", "mnt", "-o", "lowerdir=lower,frob"]).refused(1, "'frob' is not known");
    helper(&rig, &["x", "mnt", "-o", "lowerdir=none"]).refused(32, "lowerdir none");
    helper(&rig, &["x", "none", "-o", "lowerdir=lower"]).refused(32, "none: No such file");
    let ran = helper(&rig, &["--help"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("SPEC DIR [-sfnv]"), "{ran:?}");
    // Only looked at.
    let ran = helper(&rig, &["x", "mnt", "-sf", "-o", "lowerdir=lower,frob"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    helper(&rig, &["x", "mnt", "-f", "-o", "lowerdir=lower:lower"])
        .refused(32, "are one directory");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(rig.at("mnt").to_str().unwrap()));
}

/// A process that waits in mounts of its own until it is dropped.
struct Elsewhere(Child);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_mounts_where_another_process_has_its_mounts() {
    let rig = Rig::over(|_| {});
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command
        .args(["echo; exec sleep infinity"])
        .stdout(Stdio::piped());
    let mut elsewhere = Elsewhere(command.spawn().unwrap());
    let begun = elsewhere.0.stdout.take().unwrap().read(&mut [0]).unwrap();
    assert_eq!(begun, 1);
    let process = elsewhere.0.id().to_string();
    let options = rig.options(&["lower"]);
    let ran = helper(&rig, &["x", "mnt", "-N", &process, "-o", &options]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let is_in = |process: &str| {
        let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
        mounts.contains(rig.at("mnt").to_str().unwrap())
    };
    assert!(is_in(&process) && !is_in("self"));
    let mut umount = Command::new("nsenter");
    umount.args(["--mount", "--target", &process, "umount"]);
    assert!(umount.arg(rig.at("mnt")).status().unwrap().success());
    until("in order", || is_in_order(&rig.at("up"), &rig.at("work")));
}

#[test]
fn mount_finds_it_and_so_does_fstab() {
    let rig = Rig::over(|lower| fs::write(lower.join("file"), "lower").unwrap());
    fs::create_dir(rig.at("sbin")).unwrap();
    let link = rig.at("sbin/mount.fuse.harness-fs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_harness-fs"), link).unwrap();
    // In mounts of its own: /sbin is everybody's.
    let script = r#"
        set -eux
        mount -t overlay -o lowerdir="$1/sbin:/usr/sbin" sbin /usr/sbin
        cd "$1"
        mount -t fuse.harness-fs -o lowerdir=lower,upperdir=up,workdir=work,nosuid,x-mine disk mnt
        [ "$(findmnt -no SOURCE,FSTYPE,FSROOT mnt | tr -s ' ')" = 'disk fuse.harness-fs /' ]
        echo upper >mnt/file
        mount -o remount,ro mnt
        if touch mnt/new; then exit 97; fi
        findmnt -no OPTIONS mnt | grep -q '^ro,nosuid'
        mount -o remount,rw mnt
        touch mnt/new
        umount mnt
        echo "disk $1/mnt fuse.harness-fs lowerdir=$1/lower,upperdir=$1/up,workdir=$1/work,noauto,user,nofail,_netdev 0 0" >fstab
        mount -T fstab mnt
        [ "$(cat mnt/file)" = upper ]
        umount mnt
        code=0
        mount -t fuse.harness-fs -o lowerdir=none disk mnt || code=$?
        [ $code = 32 ]
    "#;
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-c",
        script,
        "-",
    ]);
    let output = command.arg(rig.at("")).output().unwrap();
    let ran = ran(output);
    until("in order", || is_in_order(&rig.at("up"), &rig.at("work")));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.contains("lowerdir none: No such file or directory"),
        "{}",
        ran.err
    );
    assert!(rig.at("up/new").exists());
    assert!(!Path::new("/sbin/mount.fuse.harness-fs").exists());
}
