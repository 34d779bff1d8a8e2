//! Requests that cannot be carried out: the documented code, one sentence,
//! and nothing half done.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::rig::{self, Ran, Rig, alone, mounts, tool, tree};

/// What is done to a file to damage it.
type Harm = fn(&Path);

fn mount(rig: &Rig, more: &[&str]) -> Ran {
    let ws = rig.ws();
    rig.run(&[&["mount", "--workspace", ws.to_str().unwrap()], more].concat())
}

#[test]
fn what_is_mounted_already() {
    alone(|rig| {
        rig.mount();
        mount(rig, &[]).refused(1, "is mounted already");
        rig.run(&["mount", "--resume"])
            .refused(1, "is mounted already");
        let other = rig.path().join("other");
        let other = other.to_str().unwrap();
        mount(rig, &["--state-dir", other]).refused(1, "is already mounted by the stage '");
        assert!(!Path::new(other).exists());
        assert_eq!(rig.step("still", &[], "echo works > works").code, 0);
        rig.ok(&["unmount"]);
    });
}

#[test]
fn steps_and_snapshots_that_are_not_there() {
    alone(|rig| {
        rig.mount();
        assert_eq!(rig.step("done", &[], "echo > done").code, 0);
        rig.ok(&["step", "begin", "two"]);
        rig.ok(&["step", "discard", "two"]);
        let before = tree(&rig.ws());
        let table: [(&[&str], i32, &str); 19] = [
            (&["step", "merge", "done"], 3, "step 'done' was merged"),
            (&["step", "merge", "two"], 3, "step 'two' was discarded"),
            (&["step", "merge", "none"], 3, "there is no step 'none'"),
            (
                &["step", "merge", "none", "none"],
                3,
                "there is no step 'none'",
            ),
            (&["step", "discard", "done"], 3, "was merged"),
            (&["step", "discard", "none"], 3, "there is no step 'none'"),
            (
                &["step", "exec", "none", "--", "true"],
                125,
                "there is no step 'none'",
            ),
            (&["step", "begin", "a/b"], 2, "a/b"),
            (&["step", "begin", ".."], 2, ".."),
            (&["step", "begin", ""], 2, "name"),
            (&["step", "begin", "stage"], 2, "stage"),
            (&["step", "run", "a/b", "--", "true"], 125, "a/b"),
            (
                &["step", "run", "--group", "none", "a", "--", "true"],
                125,
                "none",
            ),
            (&["snapshot", "create", "a/b"], 2, "a/b"),
            (&["snapshot", "rm", "none"], 3, "none"),
            (&["snapshot", "restore", "none"], 3, "none"),
            (&["export", "none", "--to", "out"], 3, "none"),
            (&["diff", "none"], 3, "none"),
            (&["group", "declare", "g", "a", "a"], 2, "a"),
        ];
        for (arguments, code, part) in table {
            let ran = rig.run(arguments);
            assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
            ran.refused(code, part);
        }
        rig.ok(&["step", "begin", "open"]);
        rig.run(&["step", "begin", "open"])
            .refused(2, "step 'open' is open");
        rig.run(&["step", "merge", "open", "open"])
            .refused(2, "named twice");
        // All or nothing, also for names.
        rig.ok(&["step", "exec", "open", "--", "sh", "-c", "echo > made"]);
        rig.run(&["step", "merge", "open", "none"])
            .refused(3, "there is no step 'none'");
        assert_eq!(tree(&rig.ws()), before);
        assert!(!rig.path().join("out").exists());
        rig.ok(&["step", "merge", "open"]);
        assert!(rig.ws().join("made").exists());
        rig.ok(&["unmount"]);
    });
}

#[test]
fn state_that_cannot_be_resumed() {
    alone(|rig| {
        rig.mount();
        assert_eq!(rig.step("s", &[], "echo made > made").code, 0);
        rig.ok(&["unmount", "--keep-state"]);
        let file = rig.state().join("stage.json");
        let good = fs::read_to_string(&file).unwrap();
        let newer = good.replace("\"format\": 1", "\"format\": 7");
        assert_ne!(good, newer);
        let boot = harness_fs::stage::boot_id().unwrap();
        let synced = "\"durable\": true,\n  \"run\"";
        let unsynced = good.replace(synced, &synced.replace("true", "false"));
        assert_ne!(good, unsynced);
        let restarted = unsynced.replace(&boot, "another");
        let ws = rig.ws();
        let mount = ["mount", "--workspace", ws.to_str().unwrap()];
        let if_kept = [&mount[..], &["--resume-if-kept"]].concat();
        let commands: [(&[&str], i32); 4] = [
            (&["mount", "--resume"], 1),
            (&if_kept, 1),
            (&mount, 1),
            (&["status"], 3),
        ];
        for (text, part) in [
            (newer.as_str(), "stage.json is of format 7"),
            (&good[..good.len() / 2], "stage.json is damaged"),
            ("", "stage.json is damaged"),
            ("garbage", "stage.json is damaged"),
            ("{}", "no format version"),
            ("{\"format\": 1}", "stage.json is damaged"),
            (&restarted, "the machine was restarted"),
        ] {
            fs::write(&file, text).unwrap();
            for (command, code) in commands {
                let ran = rig.run(command);
                ran.refused(code, part);
                ran.refused(code, "the stage cannot be resumed because");
                ran.refused(code, "; `harness-fs unmount` discards it");
                assert!(!ran.err.contains("--resume"), "{ran:?}");
            }
            assert_eq!(fs::read_to_string(&file).unwrap(), text, "not touched");
            assert_eq!(mounts(), Vec::<String>::new());
            rig.all_gone();
        }
        fs::write(&file, good).unwrap();
        rig.ok(&["mount", "--resume"]);
        assert_eq!(fs::read_to_string(rig.ws().join("made")).unwrap(), "made\n");
        rig.daemon().kill_server();
        for text in [&restarted, "garbage"] {
            fs::write(&file, text).unwrap();
            let ran = rig.run(&["status"]);
            ran.refused(
                5,
                "was killed by SIGKILL: the stage cannot be resumed because",
            );
            ran.refused(5, "; `harness-fs unmount` discards it");
        }
        let ran = rig.ok(&["unmount"]);
        assert!(!ran.err.contains("discards it"), "{ran:?}");
        assert!(!rig.state().exists());
    });
}

#[test]
fn a_state_directory_that_is_somebody_elses() {
    alone(|rig| {
        fs::create_dir_all(rig.state().join("objects/of/mine")).unwrap();
        fs::write(rig.state().join("objects/thesis"), "years of work").unwrap();
        let before = tree(&rig.state());
        mount(rig, &[]).refused(1, "holds something else");
        assert_eq!(tree(&rig.state()), before);
        assert_eq!(mounts(), Vec::<String>::new());
    });
}

/// Once the other was unmounted, nothing found such a stage any more, and its
/// daemon and mounts stayed for good.
#[test]
fn a_state_directory_that_is_part_of_another_stage() {
    alone(|rig| {
        rig.mount();
        let other = rig.path().join("other");
        let covered = rig.ws().join("src");
        tool("mount", &["-t", "tmpfs", "none", covered.to_str().unwrap()]);
        let mount = |state: &Path, code: i32, part: &str| {
            let state = ["--state-dir", state.to_str().unwrap()];
            let paths = ["mount", "--workspace", other.to_str().unwrap()];
            rig.run(&[&paths[..], &state].concat()).refused(code, part);
        };
        let in_stage = format!("{}, which belongs to the stage", rig.ws().display());
        mount(&rig.ws().join("new/state"), 2, &in_stage);
        mount(&covered.join("state"), 2, &in_stage);
        let in_state = format!("that of another stage, {}", rig.state().display());
        mount(&rig.state().join("new/state"), 2, &in_state);
        mount(&rig.state().join("views/stage/mnt/0/x"), 2, "belongs to");
        tool("umount", &[covered.to_str().unwrap()]);
        assert!(!rig.ws().join("new").exists() && !other.exists());
        assert!(!rig.state().join("new").exists());
        rig.ok(&["unmount", "--keep-state"]);
        mount(&rig.state().join("new/state"), 2, &in_state);
        assert!(!rig.state().join("new").exists());
        rig.ok(&["unmount"]);
    });
}

#[test]
fn layouts_that_are_damaged() {
    alone(|rig| {
        rig.mount();
        assert_eq!(
            rig.step("s", &[], "head -c 100000 /dev/urandom > random; rm readme")
                .code,
            0
        );
        rig.ok(&["snapshot", "create", "s"]);
        rig.ok(&["export", "s", "--to", "good"]);
        rig.ok(&["unmount"]);
        let good = rig.path().join("good");
        let bad = rig.path().join("bad");
        let blobs: Vec<_> = fs::read_dir(good.join("blobs/sha256")).unwrap().collect();
        let names = blobs.into_iter().map(|blob| blob.unwrap().file_name());
        let mut files: Vec<_> = names
            .map(|name| Path::new("blobs/sha256").join(name))
            .collect();
        files.push("index.json".into());
        files.push("oci-layout".into());
        let harms: [(&str, Harm); 3] = [
            ("shortened", |path| {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }),
            ("one byte changed", |path| {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .unwrap();
                let middle = file.metadata().unwrap().len() / 2;
                let mut byte = [0];
                file.read_exact_at(&mut byte, middle).unwrap();
                file.write_all_at(&[byte[0] ^ 4], middle).unwrap();
            }),
            ("missing", |path| fs::remove_file(path).unwrap()),
        ];
        for file in &files {
            for (harm, apply) in &harms {
                let _ = fs::remove_dir_all(&bad);
                tool("cp", &["-r", good.to_str().unwrap(), bad.to_str().unwrap()]);
                apply(&bad.join(file));
                let ran = mount(rig, &["--from", "bad"]);
                assert_eq!(ran.code, 1, "{} {harm}: {ran:?}", file.display());
                ran.refused(1, "--from");
                assert_eq!(mounts(), Vec::<String>::new());
                assert!(!rig.state().exists(), "{} {harm}", file.display());
            }
        }
        mount(rig, &["--from", "no-such"]).refused(1, "no-such");
        assert!(!rig.state().exists());
        assert_eq!(mount(rig, &["--from", "good"]).code, 0);
        assert!(!rig.ws().join("readme").exists());
        rig.ok(&["unmount"]);
    });
}

#[test]
fn mounts_below_a_mapped_path() {
    alone(|rig| {
        let at = rig.ws().join("src/deep");
        let at = at.to_str().unwrap();
        tool("mount", &["-t", "tmpfs", "none", at]);
        let ran = mount(rig, &[]);
        ran.refused(1, at);
        assert!(ran.err.contains("mounted below it"), "{ran:?}");
        assert!(!rig.state().exists());
        tool("umount", &[at]);
        rig.mount();
        rig.ok(&["unmount"]);
    });
}

#[test]
fn processes_inside_a_mapped_path() {
    alone(|rig| {
        let open = OpenOptions::new()
            .append(true)
            .open(rig.ws().join("log"))
            .unwrap();
        let own = format!(
            "(pid {}): {}",
            std::process::id(),
            rig.ws().join("log").display()
        );
        let ran = mount(rig, &[]);
        ran.refused(1, &own);
        assert!(ran.err.contains("open for writing"), "{ran:?}");
        assert!(!rig.state().exists());
        drop(open);
        let _reader = File::open(rig.ws().join("log")).unwrap();
        std::env::set_current_dir(rig.ws()).unwrap();
        let ran = rig.mount();
        assert!(ran.err.contains("`cd .` enters the stage"), "{ran:?}");
        std::env::set_current_dir("/").unwrap();
        rig.ok(&["unmount"]);
    });
}

/// Such as services with a private /tmp: they have copies of all mounts.
#[test]
fn processes_in_mount_namespaces_of_their_own() {
    alone(|rig| {
        let fifo = |name: &str| {
            let path = rig.path().join(name);
            mkfifo(&path, Mode::S_IRWXU).unwrap();
            path
        };
        let (ready, end) = (fifo("ready"), fifo("end"));
        let alias = rig.path().join("alias");
        fs::create_dir(&alias).unwrap();
        let (ws, alias) = (rig.ws(), alias.display());
        let ws = ws.display();
        let beside = |script: &str| {
            let script = format!(
                "{script}; echo > {}; read x < {}",
                ready.display(),
                end.display()
            );
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]);
            let started = rig::start(command);
            fs::read_to_string(&ready).unwrap();
            let pid = started.process().pid;
            let end = end.clone();
            (pid, move || {
                fs::write(&end, "\n").unwrap();
                assert_eq!(started.end().code, 0);
            })
        };
        let here = format!("exec 3>>{ws}/log");
        let elsewhere = format!("mount --bind {ws}/src {alias}; exec 3>>{alias}/main.c");
        for (script, path) in [(here, "log"), (elsewhere, "src/main.c")] {
            let (pid, over) = beside(&script);
            let told = format!("sh (pid {pid}): {ws}/{path}");
            mount(rig, &[]).refused(1, &told);
            over();
        }
        // What has the same name there is another file.
        let (_, over) = beside(&format!("mount -t tmpfs none {ws}; exec 3>>{ws}/log"));
        rig.mount();
        over();
        rig.ok(&["unmount"]);
    });
}

/// A view that is not mounted here was an empty directory.
#[test]
fn a_step_from_another_mount_namespace() {
    alone(|rig| {
        let (ready, go) = (rig.path().join("ready"), rig.path().join("go"));
        for fifo in [&ready, &go] {
            mkfifo(fifo, Mode::S_IRWXU).unwrap();
        }
        // A copy of the mounts that hears of no later one.
        let script = "echo >\"$1\"; read x <\"$2\"; shift 2; exec \"$@\"";
        let step = [
            env!("CARGO_BIN_EXE_harness-fs"),
            "step",
            "run",
            "x",
            "--",
            "true",
        ];
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            script,
            "sh",
        ]);
        command.args([&ready, &go]).args(step);
        command.env("HARNESS_FS_STATE_DIR", rig.state());
        let started = rig::start(command);
        fs::read_to_string(&ready).unwrap();
        rig.mount();
        let pid = rig.daemon().server.pid.to_string();
        fs::write(&go, "\n").unwrap();
        let ran = started.end();
        ran.refused(125, "in another mount namespace");
        ran.refused(125, "`nsenter -t PID -m`");
        // What it says to do.
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m"]).args(step);
        command.env("HARNESS_FS_STATE_DIR", rig.state());
        let ran = rig::start(command).end();
        assert_eq!(ran.code, 0, "{ran:?}");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn only_root_mounts_and_only_the_owner_asks() {
    alone(|rig| {
        // Where the build lies others may not go.
        let program = rig.path().join("harness-fs");
        fs::copy(env!("CARGO_BIN_EXE_harness-fs"), &program).unwrap();
        let ws = rig.ws();
        let as_user = |arguments: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
            command.arg(&program).args(arguments);
            command.env("HARNESS_FS_STATE_DIR", rig.state());
            rig::start(command).end()
        };
        let mount = ["mount", "--workspace", ws.to_str().unwrap()];
        as_user(&mount).refused(1, "needs root");
        rig.mount();
        as_user(&["status"]).refused(1, "belongs to another user");
        as_user(&["snapshot", "create", "x"]).refused(1, "belongs to another user");
        as_user(&["unmount"]).refused(1, "belongs to another user");
        as_user(&mount).refused(1, "needs root");
        as_user(&["mount", "--resume"]).refused(1, "needs root");
        rig.ok(&["unmount", "--keep-state"]);
        as_user(&["mount", "--resume"]).refused(1, "needs root");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_machine_without_fuse() {
    alone(|rig| {
        tool("mount", &["-t", "tmpfs", "none", "/dev"]);
        let mode = Mode::from_bits_truncate(0o666);
        mknod("/dev/null", SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
        mount(rig, &[]).refused(1, "/dev/fuse cannot be opened");
        assert!(!rig.state().exists());
    });
}

#[test]
fn directories_that_cannot_be_written_to() {
    alone(|rig| {
        rig.mount();
        rig.ok(&["snapshot", "create", "s"]);
        let inside = rig.ws().join("out");
        let inside = inside.to_str().unwrap();
        rig.run(&["export", "s", "--to", inside])
            .refused(2, "inside the mapped path");
        rig.run(&["apply", inside])
            .refused(2, "inside the mapped path");
        let file = rig.path().join("file");
        fs::write(&file, "").unwrap();
        let file = file.to_str().unwrap();
        for arguments in [
            &["export", "s", "--to", file][..],
            &["apply", file],
            &["unmount", "--apply", file],
        ] {
            let ran = rig.run(arguments);
            assert!([1, 2].contains(&ran.code), "{arguments:?}: {ran:?}");
            ran.refused(ran.code, file);
        }
        // The stage stays when what comes first fails.
        assert_eq!(rig.step("s", &[], "echo > still").code, 0);
        rig.ok(&["unmount"]);
    });
}
