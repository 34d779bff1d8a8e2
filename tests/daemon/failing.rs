//! The disk of the state directory fails: whatever is asked gets its error and an
//! answer, nothing is lost that it still has, and the stage can be ended.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::{disk, half_done};
use crate::rig::{Ran, Rig, alone, mounts, tool, tree};

/// Every call on the filesystem at `at` answers `EIO` from now on: `EXT4_IOC_SHUTDOWN`
/// (fs/ext4/ioctl.c) and `XFS_IOC_GOINGDOWN` (xfs_fsops.c) are one number.
fn shut_down(at: &Path) {
    let script = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
    tool("python3", &["-c", script, at.to_str().unwrap()]);
}

/// What a shell says that has to end with `EIO`s and nothing else.
#[track_caller]
fn each_fails(dir: &Path, commands: &[&str]) {
    for command in commands {
        let mut shell = Command::new("timeout");
        let output = shell.args(["60", "sh", "-c", command]).current_dir(dir);
        let output = output.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{command} succeeded");
        assert!(told.contains("Input/output error"), "{command}: {told}");
    }
}

const WRITES: [&str; 9] = [
    "echo new >new",
    "echo more >>readme",
    "echo more >>in-head",
    "rm log",
    "mkdir d",
    "mv log log-2",
    "mv src src-2",
    "ln log log-2",
    "chmod 600 log",
];

/// One sentence that names the disk's error, and no panic.
fn tells(ran: &Ran, rig: &Rig) -> bool {
    let path = rig.path();
    let one = [1, 125].contains(&ran.code) && ran.err.lines().count() == 1;
    one && ran.err.contains("I/O error") && ran.err.contains(path.to_str().unwrap())
}

/// The disk of the state directory goes away under a stage at work. Whatever is
/// asked answers, the stage can be ended, and when the disk is back it goes on with
/// what the last commit holds.
fn the_disk_fails(rig: &Rig, make: &[&str], size: u64) {
    let at = rig.path().join("disk");
    disk(rig, make, size, &at);
    fs::create_dir(at.join("stage")).unwrap();
    fs::create_dir(rig.state()).unwrap();
    let state = rig.state();
    tool(
        "mount",
        &[
            "--bind",
            at.join("stage").to_str().unwrap(),
            state.to_str().unwrap(),
        ],
    );
    rig.mount();
    let ws = rig.ws();
    fs::write(ws.join("in-head"), "head").unwrap();
    let open = File::options()
        .append(true)
        .open(ws.join("in-head"))
        .unwrap();
    rig.ok(&["snapshot", "create", "one"]);
    let mut below = File::open(ws.join("src/main.c")).unwrap();
    let committed = tree(&ws);
    rig.ok(&["step", "begin", "s"]);
    rig.ok(&[
        "step",
        "exec",
        "s",
        "--",
        "sh",
        "-c",
        "echo s >s; echo more >>log",
    ]);
    tool("sync", &["-f", at.to_str().unwrap()]);
    shut_down(&at);

    each_fails(&ws, &WRITES);
    let error = open.sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let error = (&open).write(b"more").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    // What lies in the base is on another disk. To find it by its name takes both.
    let mut text = String::new();
    let length = below.read_to_string(&mut text).unwrap();
    assert_eq!(&text[..length], "int main;\n");
    let mut untold = Vec::new();
    for arguments in [
        &["step", "merge", "s"][..],
        &["step", "run", "q", "--", "true"],
        &["step", "begin", "t"],
        &["snapshot", "create", "two"],
        &["snapshot", "restore", "one"],
        &["rollback", "base"],
        &["apply", "elsewhere"],
        &["step", "discard", "s"],
    ] {
        let ran = rig.run(arguments);
        if !tells(&ran, rig) {
            untold.push(format!("{arguments:?}: {ran:?}"));
        }
    }
    assert_eq!(untold, Vec::<String>::new());
    let ran = rig.run(&["step", "exec", "s", "--", "sh", "-c", "echo x >x"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    rig.ok(&["status"]);
    let log = rig.log();
    assert!(!log.contains("panicked"), "{log}");
    let daemon = rig.daemon();
    let ran = rig.run(&["unmount"]);
    assert!(tells(&ran, rig), "{ran:?}");
    assert!(ran.err.contains("nothing is mounted any more"), "{ran:?}");
    daemon.wait();
    assert_eq!(mounts(), Vec::<String>::new());
    assert!(!ws.join("in-head").exists());
    drop((open, below));
    for arguments in [&["unmount"][..], &["mount", "--resume"]] {
        let ran = rig.run(arguments);
        assert!([1, 5].contains(&ran.code), "{ran:?}");
        assert!(ran.err.contains("I/O error"), "{ran:?}");
    }

    // It is repaired, as far as it goes.
    tool("umount", &[state.to_str().unwrap()]);
    tool("umount", &[at.to_str().unwrap()]);
    let image = rig.path().join("image");
    tool(
        "mount",
        &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()],
    );
    tool(
        "mount",
        &[
            "--bind",
            at.join("stage").to_str().unwrap(),
            state.to_str().unwrap(),
        ],
    );
    rig.ok(&["mount", "--resume"]);
    assert_eq!(tree(&ws), committed);
    assert_eq!(rig.step("again", &[], "echo again >again").code, 0);
    rig.ok(&["unmount"]);
}

#[test]
fn an_ext4_fails_under_a_stage() {
    alone(|rig| the_disk_fails(rig, &["mkfs.ext4", "-q", "-F"], 64 << 20));
}

#[test]
fn an_xfs_fails_under_a_stage() {
    alone(|rig| the_disk_fails(rig, &["mkfs.xfs", "-q", "-m", "reflink=1"], 320 << 20));
}

/// A disk that does not tell whether there is a stage has not said that there is none:
/// what lay beside `stage.json` was swept.
#[test]
fn a_stage_that_cannot_be_looked_at_is_not_removed() {
    alone(|rig| {
        rig.mount();
        assert_eq!(rig.step("s", &[], "echo precious >precious").code, 0);
        rig.ok(&["unmount", "--keep-state"]);
        let (file, aside) = (rig.state().join("stage.json"), rig.path().join("aside"));
        fs::rename(&file, &aside).unwrap();
        // stat(2) fails with ELOOP, as it may with EIO.
        std::os::unix::fs::symlink("stage.json", &file).unwrap();
        let ws = rig.ws();
        for arguments in [
            &["mount", "--workspace", ws.to_str().unwrap()][..],
            &["mount", "--resume"],
            &[
                "mount",
                "--resume-if-kept",
                "--workspace",
                ws.to_str().unwrap(),
            ],
            &["unmount"],
        ] {
            let ran = rig.run(arguments);
            assert!(
                ran.code != 0 && ran.err.contains("stage.json"),
                "{arguments:?}: {ran:?}"
            );
        }
        fs::rename(&aside, &file).unwrap();
        rig.ok(&["mount", "--resume"]);
        let precious = fs::read_to_string(ws.join("precious")).unwrap();
        assert_eq!(precious, "precious\n");
        rig.ok(&["unmount"]);
    });
}

/// Nothing that lies in the base can be read, so nothing of it can be copied: what has
/// been written lies elsewhere, and is there when the base is.
#[test]
fn the_disk_of_the_base_fails() {
    alone(|rig| {
        let (ws, image) = (rig.ws(), rig.path().join("image"));
        disk(rig, &["mkfs.xfs", "-q"], 320 << 20, &ws);
        fs::write(ws.join("log"), "line\n").unwrap();
        fs::write(ws.join("long"), vec![b'x'; 1 << 20]).unwrap();
        tool("sync", &["-f", ws.to_str().unwrap()]);
        let base = rig.path().join("base");
        fs::create_dir(&base).unwrap();
        let (ws, base) = (ws.to_str().unwrap(), base.to_str().unwrap());
        tool("mount", &["--bind", ws, base]);
        rig.mount();
        let begin = "echo more >>log; echo new >new";
        assert_eq!(rig.step("s", &[], begin).code, 0);
        rig.ok(&["step", "begin", "open"]);
        rig.ok(&["step", "exec", "open", "--", "touch", "by-open"]);
        let expected = tree(Path::new(ws));
        shut_down(Path::new(base));

        let commands = ["echo more >>long", "truncate -s 5 long", "ln long l"];
        // What the kernel has in its cache it gives out.
        each_fails(Path::new(ws), &commands);
        let view = rig.state().join("views/open/mnt/0");
        each_fails(&view, &["cat long"]);
        each_fails(&view, &commands);
        let new = fs::read_to_string(format!("{ws}/new")).unwrap();
        assert_eq!(new, "new\n");
        for view in ["stage", "open"] {
            let open = rig.state().join("views").join(view).join("open");
            assert_eq!(half_done(&open), Vec::<PathBuf>::new());
        }
        let log = rig.log();
        assert!(!log.contains("panicked"), "{log}");
        rig.ok(&["unmount", "--keep-state"]);
        tool("umount", &[base]);
        tool("umount", &[ws]);
        tool("mount", &["-o", "loop", image.to_str().unwrap(), ws]);
        rig.ok(&["mount", "--resume"]);
        assert_eq!(tree(Path::new(ws)), expected);
        rig.ok(&["step", "merge", "open"]);
        rig.ok(&["unmount"]);
        tool("umount", &[ws]);
    });
}
