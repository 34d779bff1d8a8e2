//! Steps in containers of their own, which run before any step begins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use harness_fs::stage::failpoint;
use nix::sys::signal::Signal;

use crate::container::Container;
use crate::rig::{LIMIT, Rig, alone, start, tool};

/// A stage with a shared directory, a shared file, and the slots `a` and `b`.
struct Slots<'a> {
    rig: &'a Rig,
    dir: PathBuf,
    shared: PathBuf,
    file: PathBuf,
}

impl<'a> Slots<'a> {
    fn mount(rig: &'a Rig) -> Slots<'a> {
        Slots::mount_sharing(rig, "merge")
    }

    /// The shared directory has this mode.
    fn mount_sharing(rig: &'a Rig, mode: &str) -> Slots<'a> {
        let path = rig.path();
        let slots = Slots {
            rig,
            dir: path.join("slots"),
            shared: path.join("shared"),
            file: path.join("config"),
        };
        fs::create_dir(&slots.shared).unwrap();
        fs::write(&slots.file, "base\n").unwrap();
        let sharing = format!("--sharing={}={mode}", slots.shared.display());
        rig.ok(&[slots.arguments(), vec![&*sharing]].concat());
        slots
    }

    fn arguments(&self) -> Vec<&'static str> {
        let slot = |name: &str| format!("{name}={}", self.dir.join(name).display());
        let words = [
            "mount".to_owned(),
            format!("--workspace={}", self.rig.ws().display()),
            format!("--shared-path={}", self.shared.display()),
            format!("--shared-path={}", self.file.display()),
            format!("--slot={}", slot("a")),
            format!("--slot={}", slot("b")),
        ];
        // Few, and for the time of a test.
        words.map(|word| &*word.leak()).into()
    }

    fn place(&self, slot: &str, path: &Path) -> PathBuf {
        self.dir.join(slot).join(path.strip_prefix("/").unwrap())
    }

    /// A container that has every place of a slot bound.
    fn container(&self, slot: &str) -> Container {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let ws = self.place(slot, &self.rig.ws());
        let shared = self.place(slot, &self.shared);
        let file = self.place(slot, &self.file);
        let binds = [
            (&*ws, "/harness"),
            (&*shared, "/root/.m2"),
            (&*file, "/root/.npmrc"),
        ];
        Container::start(self.rig, &format!("container-{number}"), &binds)
    }

    fn begin(&self, step: &str, slot: &str) {
        self.rig.ok(&["step", "begin", step, "--slot", slot]);
    }
}

/// Waits until the container's answer is the one that is expected.
#[track_caller]
fn until(container: &mut Container, script: &str, expected: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let said = container.ask(script);
        if said == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{script}: {said}");
    }
}

#[test]
fn a_container_sees_each_step_that_begins_in_its_slot() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        let (mut a, mut b) = (slots.container("a"), slots.container("b"));
        let all = "ls /harness; ls /root/.m2; cat /root/.npmrc";
        assert_eq!(a.ask(all), "");
        let said = a.ask("touch /harness/lost; echo lost >/root/.npmrc");
        assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
        slots.begin("one", "a");
        assert_eq!(a.ask("cat /harness/readme"), "from the base\n");
        assert_eq!(b.ask(all), "", "another slot");
        assert_eq!(
            a.ask("cd /harness; echo 1 >one; rm log; echo jar >/root/.m2/jar; echo one >/root/.npmrc; cd /"),
            ""
        );
        // What is run in the step from here is in the same view.
        let exec = ["step", "exec", "one", "--", "cat", "one"];
        assert_eq!(rig.ok(&exec).out, "1\n");
        assert!(!rig.ws().join("one").exists());
        slots.begin("two", "b");
        assert_eq!(b.ask("ls /harness"), "link\nlog\nreadme\nsrc\n");
        rig.ok(&["step", "merge", "one"]);
        assert_eq!(fs::read_to_string(&slots.file).unwrap(), "one\n");
        assert_eq!(
            fs::read_to_string(slots.shared.join("jar")).unwrap(),
            "jar\n"
        );
        assert_eq!(a.ask(all), "", "between two steps");
        // The next one in the same container, beside one that is still open.
        slots.begin("three", "a");
        assert_eq!(a.ask(all), "link\none\nreadme\nsrc\njar\none\n");
        assert_eq!(b.ask("ls /root/.m2; cat /root/.npmrc"), "base\n");
        a.ask("echo 3 >/harness/three");
        b.ask("echo 2 >/harness/two");
        rig.ok(&["step", "merge", "two", "three"]);
        assert_eq!(fs::read_to_string(rig.ws().join("two")).unwrap(), "2\n");
        // A failed step, and its retry.
        slots.begin("four", "a");
        a.ask("rm -r /harness/src; echo half >/harness/half");
        rig.ok(&["step", "discard", "four"]);
        assert_eq!(a.ask(all), "");
        slots.begin("four", "a");
        assert_eq!(a.ask("ls /harness"), "link\none\nreadme\nsrc\nthree\ntwo\n");
        rig.ok(&["step", "keep", "four"]);
        assert_eq!(a.ask(all) + &b.ask(all), "");
        slots.begin("five", "a");
        rig.ok(&["unmount"]);
        assert_eq!(a.ask(all) + &b.ask(all), "", "after the stage");
    });
}

#[test]
fn what_uses_the_view_is_ended_with_the_step_and_the_container_lives_on() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        let mut a = slots.container("a");
        slots.begin("one", "a");
        // By its directory, by an open file, by a mapping; and one that has nothing to do with it.
        let script = r#"
            (cd /harness/src; exec sleep 1001) & (exec 3>>/harness/log; exec sleep 1002) &
            python3 -c 'if 1:
                import mmap, time
                with open("/harness/readme", "r+b") as file: mapped = mmap.mmap(file.fileno(), 0)
                open("/tmp/mapped", "w").close()
                time.sleep(1003)' &
            sleep 1004 &
            until [ -e /tmp/mapped ] && [ "$(cat /proc/[0-9]*/comm 2>/dev/null | grep -c sleep)" = 3 ]; do :; done"#;
        assert_eq!(a.ask(script), "");
        let merged = rig.ok(&["step", "merge", "one", "--grace", "50ms", "--json"]);
        let merged: serde_json::Value = serde_json::from_str(&merged.out).unwrap();
        let survivors = merged["survivors"].as_array().unwrap();
        let mut names: Vec<&str> = survivors
            .iter()
            .map(|survivor| survivor["name"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["python3", "sleep", "sleep"], "{merged}");
        let left = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o '[s]leep 100.'";
        assert_eq!(a.ask(left), "sleep 1004\n");
        slots.begin("two", "a");
        assert_eq!(a.ask("cat /harness/readme"), "from the base\n");
        rig.ok(&["step", "merge", "two"]);
        rig.ok(&["unmount"]);
    });
}

/// What is shared live is the stage's, and goes on after the step; but nothing of the
/// step may be at it any more when others have their turn.
#[test]
fn a_step_is_at_a_live_path_no_longer_than_its_turn() {
    alone(|rig| {
        let slots = Slots::mount_sharing(rig, "locked");
        // Where containers usually have it: where the stage has it.
        let place = slots.place("a", &slots.shared);
        let ws = slots.place("a", &rig.ws());
        let shared = slots.shared.to_str().unwrap();
        let binds = [(&*place, shared), (&*ws, "/harness")];
        let mut a = Container::start(rig, "live", &binds);
        slots.begin("one", "a");
        fs::write(slots.shared.join("from-the-stage"), "live\n").unwrap();
        assert_eq!(a.ask(&format!("cat {shared}/from-the-stage")), "live\n");
        a.ask(&format!("echo 1 >{shared}/one; echo 1 >/harness/one"));
        assert_eq!(fs::read_to_string(slots.shared.join("one")).unwrap(), "1\n");
        let script = format!(
            r#"
            (cd {shared}; exec sleep 1001) & (exec 3>>{shared}/log; exec sleep 1002) & sleep 1004 &
            until [ "$(cat /proc/[0-9]*/comm 2>/dev/null | grep -c sleep)" = 3 ]; do :; done"#
        );
        assert_eq!(a.ask(&script), "");
        // Whoever is there by the stage belongs to no step.
        let outside = std::process::Command::new("sleep")
            .arg("1005")
            .current_dir(&slots.shared)
            .spawn();
        let mut outside = outside.unwrap();
        let sealed = rig.ok(&["step", "seal", "one"]);
        assert!(sealed.out.contains("ended 2 processes"), "{sealed:?}");
        rig.ok(&["step", "run", "next", "--", "cat", &format!("{shared}/one")]);
        assert!(outside.try_wait().unwrap().is_none());
        outside.kill().unwrap();
        outside.wait().unwrap();
        let left = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o '[s]leep 100.'";
        assert_eq!(a.ask(left), "sleep 1004\n");
        assert_eq!(a.ask(&format!("ls {shared} /harness | grep one")), "");
        // Begun once more it is shown in its slot again, and has its turn still.
        slots.begin("two", "a");
        a.ask(&format!("echo 2 >{shared}/two; echo 2 >/harness/two"));
        rig.ok(&["step", "reset", "two"]);
        let all = format!("cat {shared}/two; ls /harness; echo 3 >{shared}/two");
        assert_eq!(a.ask(&all), "2\nlink\nlog\nreadme\nsrc\n");
        let next = rig.start(&["step", "run", "last", "--", "cat", &format!("{shared}/two")]);
        while !rig.ok(&["step", "list"]).out.contains("last  waiting") {}
        rig.ok(&["step", "merge", "one", "two"]);
        assert_eq!(next.end().out, "3\n");
        rig.ok(&["unmount"]);
    });
}

/// It is put away as any other: its container lives on, and others have their turn.
#[test]
fn a_group_with_a_member_in_a_slot_is_aborted() {
    alone(|rig| {
        let slots = Slots::mount_sharing(rig, "locked");
        let mut a = slots.container("a");
        rig.ok(&[
            "group",
            "declare",
            "g",
            "one",
            "two",
            "--if-one-fails",
            "abort",
        ]);
        slots.begin("one", "a");
        a.ask("(cd /harness; exec sleep 1001) & echo 1 >/harness/one");
        rig.ok(&["group", "abort", "g"]);
        assert_eq!(a.ask("ls /harness; echo lives"), "lives\n");
        rig.ok(&["step", "run", "next", "--", "true"]);
        slots.begin("three", "a");
        assert_eq!(a.ask("ls /harness"), "link\nlog\nreadme\nsrc\n");
        rig.ok(&["unmount"]);
    });
}

/// Its step is what it was, and can be put away or begun again.
#[test]
fn a_container_that_is_killed_in_the_middle() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        let mut a = slots.container("a");
        slots.begin("one", "a");
        a.ask("echo 1 >/harness/one; (while :; do echo x >>/harness/log; done) &");
        a.kill();
        let mut again = slots.container("b");
        assert_eq!(rig.ok(&["step", "list"]).out.lines().count(), 1);
        rig.ok(&["step", "merge", "one"]);
        assert_eq!(fs::read_to_string(rig.ws().join("one")).unwrap(), "1\n");
        slots.begin("two", "b");
        again.ask("echo 2 >/harness/two");
        again.kill();
        rig.ok(&["step", "discard", "two"]);
        assert!(!rig.ws().join("two").exists());
        let mut again = slots.container("a");
        slots.begin("two", "a");
        assert_eq!(again.ask("cat /harness/one"), "1\n");
        rig.ok(&["unmount"]);
    });
}

/// Nothing hangs, and the same containers see what comes after `mount --resume`.
#[test]
fn the_daemon_is_killed_while_containers_see_views() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        let mut a = slots.container("a");
        slots.begin("one", "a");
        // The kernel goes on serving the file to who has it open: that would be in no step.
        a.ask("echo 1 >/harness/one; exec 3>>/harness/one; sleep 1000 & pid=$!; exec 3>&-");
        rig.daemon().kill_server();
        until(&mut a, "ls /harness; cat /root/.npmrc", "");
        assert_eq!(a.ask("wait $pid 2>/dev/null; echo $?"), "143\n");
        rig.ok(&["mount", "--resume"]);
        rig.ok(&["step", "merge", "one"]);
        slots.begin("two", "a");
        assert_eq!(a.ask("cat /harness/one"), "1\n");
        rig.ok(&["unmount"]);
        assert_eq!(a.ask("ls /harness"), "");
    });
}

/// The supervisor first: it would clean up after the server, as that ends in order
/// when it loses its supervisor.
fn kill_all(rig: &Rig) {
    let daemon = rig.daemon();
    for (process, signal) in [
        (&daemon.supervisor, Signal::SIGSTOP),
        (&daemon.server, Signal::SIGKILL),
        (&daemon.supervisor, Signal::SIGKILL),
    ] {
        process.signal(signal).unwrap();
    }
    daemon.wait();
}

/// As with the container of the stage: nobody is left to clean up.
#[test]
fn all_of_the_stage_is_killed_while_containers_see_views() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        let mut a = slots.container("a");
        slots.begin("one", "a");
        a.ask("echo 1 >/harness/one");
        kill_all(rig);
        let said = a.ask("ls /harness");
        assert!(said.contains("endpoint is not connected"), "{said}");
        rig.ok(&["mount", "--resume"]);
        assert_eq!(a.ask("ls /harness"), "");
        slots.begin("two", "a");
        assert_eq!(a.ask("cat /harness/readme"), "from the base\n");
        // Without a stage to go on with, they are taken away as well.
        kill_all(rig);
        rig.ok(&["unmount"]);
        assert_eq!(a.ask("ls /harness"), "");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("harness-fs-slot:"), "{mounts}");
    });
}

/// It has the view itself bound and is a part of the step, unless it has bound
/// the slot as a whole.
#[test]
fn a_container_that_is_started_while_a_step_is_in_its_slot() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        slots.begin("one", "a");
        let mut late = slots.container("a");
        let mut whole = Container::start(rig, "whole", &[(&slots.dir.join("a"), "/slot")]);
        let readme = format!("cat /slot{}/readme", rig.ws().display());
        assert_eq!(late.ask("cat /harness/readme"), "from the base\n");
        assert_eq!(whole.ask(&readme), "from the base\n");
        let merged = rig.ok(&["step", "merge", "one", "--grace", "50ms"]);
        // With the one that started it.
        let told = "ended 2 processes left by the step: ";
        assert!(merged.out.contains(told), "{merged:?}");
        slots.begin("two", "a");
        assert_eq!(whole.ask(&readme), "from the base\n");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn no_other_step_sees_a_slot() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        slots.begin("one", "a");
        let fifo = rig.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // One that is running while others begin in slots and end.
        let script = format!(
            "echo > {0}; cat {0} >/dev/null; ! grep -e slots -e slot: /proc/self/mountinfo; ls {1}",
            fifo.display(),
            slots.dir.join("a").display()
        );
        let running = rig.start(&["step", "run", "other", "--", "sh", "-euc", &script]);
        fs::read_to_string(&fifo).unwrap();
        slots.begin("two", "b");
        rig.ok(&["step", "merge", "one"]);
        slots.begin("three", "a");
        fs::write(&fifo, "go\n").unwrap();
        let ran = running.end();
        assert_eq!((ran.code, &*ran.out), (0, ""), "{ran:?}");
        rig.ok(&["unmount"]);
    });
}

/// Wherever it is: nothing is shown any more, and the slot can be used again.
#[test]
fn a_command_that_is_cut_off_leaves_no_view_in_a_slot() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        for (point, merges) in [
            // The first commit is that of `mount`.
            ("commit-before-rename:2", false),
            ("commit-after-rename:2", false),
            ("seal-step-after-seal", true),
            ("merge-before-commit", true),
            ("merge-after-commit", true),
        ] {
            rig.ok(&["unmount"]);
            let mut mount = rig.command(&slots.arguments());
            mount.env(failpoint::VARIABLE, point);
            assert_eq!(start(mount).end().code, 0);
            let mut a = slots.container("a");
            let daemon = rig.daemon();
            let begin = ["step", "begin", "one", "--slot", "a"];
            let mut command = &begin[..];
            if merges {
                rig.ok(command);
                a.ask("echo x >>/harness/one");
                command = &["step", "merge", "one"];
            }
            let ran = rig.run(command);
            assert_eq!(ran.code, 5, "{point}: {ran:?}");
            daemon.wait();
            assert_eq!(a.ask("ls /harness"), "", "{point}");
            rig.ok(&["mount", "--resume"]);
            slots.begin("two", "a");
            let shown = a.ask("ls /harness");
            assert!(shown.starts_with("link\nlog\n"), "{point}: {shown}");
            rig.ok(&["step", "discard", "two"]);
        }
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_merge_that_is_refused_leaves_the_step_in_its_slot() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        let mut a = slots.container("a");
        slots.begin("one", "a");
        a.ask("echo 1 >/harness/one");
        let ran = rig.run(&["step", "merge", "one", "no-such"]);
        ran.refused(3, "there is no step 'no-such'");
        assert_eq!(a.ask("cat /harness/one"), "1\n");
        // One that conflicts is put aside, and its slot is free.
        assert_eq!(rig.step("two", &[], "echo 2 > one").code, 0);
        assert_eq!(rig.run(&["step", "merge", "one"]).code, 4);
        assert_eq!(a.ask("ls /harness"), "");
        slots.begin("three", "a");
        assert_eq!(a.ask("cat /harness/one"), "2\n");
        // So is one whose stage could not be ended.
        let ran = rig.run(&["unmount", "--apply", "/proc/no-such"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_eq!(a.ask("cat /harness/one"), "2\n");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn slots_that_cannot_be_are_refused_and_nothing_is_left() {
    alone(|rig| {
        let (ws, state, path) = (rig.ws(), rig.state(), rig.path());
        let full = path.join("full");
        fs::create_dir_all(full.join("x")).unwrap();
        let show = |path: &Path| path.display().to_string();
        let table: [(i32, &[&str], &str); 12] = [
            (2, &["a="], "no directory after '='"),
            (2, &["="], "no directory after '='"),
            (
                2,
                &[&format!("={}", show(&path.join("s")))],
                "slot name '' is empty",
            ),
            (2, &["x/y"], "cannot contain '/'"),
            (2, &["a", "a"], "the slot 'a' is given twice"),
            (2, &["a=/proc/x"], "/proc/x cannot be a slot's directory"),
            (2, &["a=/"], "/ cannot be a slot's directory"),
            (2, &[&format!("a={}/in", show(&ws))], "and the mapped path"),
            (2, &[&format!("a={}", show(&path))], "and the mapped path"),
            (
                2,
                &[&format!("a={}/s", show(&state))],
                "and the state directory",
            ),
            (
                2,
                &[
                    &format!("a={}/s", show(&path)),
                    &format!("b={}/s/b", show(&path)),
                ],
                "and the slot 'a' lie in each other",
            ),
            (1, &[&format!("a={}", show(&full))], "is not empty"),
        ];
        for (code, slots, part) in table {
            let mut arguments = vec!["mount", "--workspace", ws.to_str().unwrap()];
            for slot in slots {
                arguments.extend(["--slot", slot]);
            }
            let ran = rig.run(&arguments);
            assert_eq!(ran.code, code, "{slots:?}: {ran:?}");
            assert!(ran.err.contains(part), "{slots:?}: {ran:?}");
            assert!(!state.exists() && !path.join("s").exists(), "{slots:?}");
        }
        // Another stage's.
        let slots = Slots::mount(rig);
        let (other_ws, other_state) = (path.join("other"), path.join("other-state"));
        let mut other = rig.command(&["mount", "--workspace", other_ws.to_str().unwrap()]);
        other.args(["--slot", &format!("a={}", slots.dir.join("a").display())]);
        other.env("HARNESS_FS_STATE_DIR", &other_state);
        let ran = start(other).end();
        ran.refused(1, "is a slot of the stage");
        assert!(!other_state.exists() && !other_ws.exists());
        // Nor is a slot for every user to look into.
        let mode = slots.dir.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        // And steps.
        slots.begin("one", "a");
        let busy = rig.run(&["step", "begin", "two", "--slot", "a"]);
        busy.refused(2, "step 'one' is in the slot 'a'");
        let none = rig.run(&["step", "begin", "two", "--slot", "c"]);
        none.refused(3, "the stage has no slot 'c': it has a, b");
        let slot = slots.dir.join("b");
        tool("umount", &[slot.to_str().unwrap()]);
        let gone = rig.run(&["step", "begin", "two", "--slot", "b"]);
        gone.refused(
            1,
            "/b was unmounted; `unmount --keep-state` and `mount --resume`",
        );
        assert_eq!(rig.ok(&["step", "list"]).out.lines().count(), 1);
        rig.ok(&["unmount", "--keep-state"]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("harness-fs-slot:"), "{mounts}");
        rig.ok(&["mount", "--resume"]);
        slots.begin("three", "b");
        rig.ok(&["unmount"]);
    });
}

/// Whoever stops a container while its step is merged is not waited for.
#[test]
fn a_stopped_container_holds_nobody_up() {
    alone(|rig| {
        let slots = Slots::mount(rig);
        let mut a = slots.container("a");
        slots.begin("one", "a");
        a.ask(
            "cd /harness; sh -c 'echo $$ >pid; kill -STOP $$' & until [ -s pid ]; do :; done; cd /",
        );
        rig.ok(&["step", "merge", "one", "--grace", "50ms"]);
        a.ask("wait");
        slots.begin("two", "a");
        let pid = a.ask("cat /harness/pid");
        assert!(pid.trim().parse::<i32>().is_ok(), "{pid}");
        rig.ok(&["unmount"]);
    });
}
