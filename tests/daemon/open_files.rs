//! What programs hold open or mapped in the stage view when layers are sealed
//! below them, and when the stage ends.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::rig::{alone, start};

/// A program that maps a file and writes into the mapping, on demand.
struct Mapper {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

const MAPPER: &str = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 3 * 4096)
mapped = mmap.mmap(fd, 3 * 4096)
os.close(fd)
for line in sys.stdin:
    mapped[4096:4112] = line.strip().encode().ljust(16, b'\\0')
    print('done', flush=True)
";

impl Mapper {
    fn new(path: &std::path::Path) -> Mapper {
        let mut child = Command::new("python3")
            .args(["-c", MAPPER])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Mapper {
            to: child.stdin.take().unwrap(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn write(&mut self, text: &str) {
        writeln!(self.to, "{text}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n");
    }

    fn end(mut self) {
        drop(self.to);
        self.child.wait().unwrap();
    }
}

/// The word in the second page.
fn word(bytes: &[u8]) -> String {
    let word = bytes[4096..].iter().take_while(|byte| **byte != 0);
    String::from_utf8(word.copied().collect()).unwrap()
}

fn word_in(dir: &std::path::Path) -> String {
    word(&fs::read(dir.join("mapped")).unwrap())
}

#[test]
fn what_is_mapped_is_in_every_layer_that_is_sealed() {
    alone(|rig| {
        rig.mount();
        let ws = rig.ws();
        let mut mapper = Mapper::new(&ws.join("mapped"));
        mapper.write("first");
        let seen = rig.step("look", &[], "dd if=mapped bs=4096 skip=1 count=1 2>&-");
        assert!(seen.out.starts_with("first\0"), "{seen:?}");
        // Sealed below the mapping by now, and nothing else is written.
        mapper.write("second");
        rig.ok(&["snapshot", "create", "second"]);
        mapper.write("third");
        let out = rig.path().join("out");
        rig.ok(&["apply", out.to_str().unwrap()]);
        assert_eq!(word_in(&out), "third");
        mapper.write("fourth");
        rig.ok(&["snapshot", "restore", "second"]);
        assert_eq!(word_in(&ws), "second");
        mapper.end();
        assert_eq!(word_in(&ws), "second");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn what_is_mapped_at_the_end_is_kept() {
    alone(|rig| {
        rig.mount();
        let ws = rig.ws();
        let mut mapper = Mapper::new(&ws.join("mapped"));
        mapper.write("first");
        rig.ok(&["snapshot", "create", "s"]);
        mapper.write("last");
        let told = rig.ok(&["unmount", "--keep-state"]);
        let pid = format!("python3 (pid {})", mapper.child.id());
        assert!(told.out.contains(&pid), "{told:?}");
        mapper.end();
        rig.ok(&["mount", "--resume"]);
        assert_eq!(word_in(&ws), "last");
        rig.ok(&["unmount"]);
    });
}

/// A descriptor that was given to somebody who does not belong to the step, as
/// a connection master or a log collector is.
#[test]
fn who_is_no_part_of_the_step_cannot_write_its_layer() {
    alone(|rig| {
        rig.mount();
        let fifo = |name: &str| {
            let path = rig.path().join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            path
        };
        let (go, gone) = (fifo("go"), fifo("gone"));
        let outside = format!(
            "read line < {}; echo too late >&3; echo $? > {}",
            go.display(),
            gone.display()
        );
        let script = format!(
            "echo in time > one; ln one two; exec 3>>one
            nsenter --mount --target 1 sh -c '{outside}' </dev/null >/dev/null 2>&1 &
            until [ \"$(readlink /proc/$!/ns/mnt)\" = \"$(readlink /proc/1/ns/mnt)\" ]; do :; done"
        );
        let ran = rig.step("s", &[], &script);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(
            ran.err.contains(" is still open for writing in sh (pid "),
            "{ran:?}"
        );
        fs::write(&go, "\n").unwrap();
        // That it failed would be as good; it is a file without a name.
        assert_eq!(fs::read_to_string(&gone).unwrap(), "0\n");
        let seen = rig.step("look", &[], "cat one two; stat -c %h one");
        assert_eq!(seen.out, "in time\nin time\n2\n", "{seen:?}");
        assert_eq!(
            fs::read_to_string(rig.ws().join("one")).unwrap(),
            "in time\n"
        );
        rig.ok(&["unmount"]);
    });
}

/// Nobody has seen the end of that step: only the files tell who writes them.
#[test]
fn who_is_no_part_of_the_step_cannot_write_the_layer_that_a_dead_daemon_left() {
    alone(|rig| {
        rig.mount();
        rig.ok(&["step", "begin", "s"]);
        let fifo = |name: &str| {
            let path = rig.path().join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            path
        };
        let (go, gone) = (fifo("go"), fifo("gone"));
        let outside = format!(
            "read line < {}; echo too late >&3 && echo too late >&4; echo $? > {}",
            go.display(),
            gone.display()
        );
        // One that is new, and one of the base that has a second name.
        let script = format!(
            "mkdir dir; echo in time > dir/one; ln dir/one two; echo quiet > quiet
            exec 3>>dir/one 4>>readme; echo in time >&4
            nsenter --mount --target 1 sh -c '{outside}' </dev/null >/dev/null 2>&1 &
            until [ \"$(readlink /proc/$!/ns/mnt)\" = \"$(readlink /proc/1/ns/mnt)\" ]; do :; done"
        );
        rig.ok(&["step", "exec", "s", "--", "sh", "-ec", &script]);
        rig.daemon().kill_server();
        let ran = rig.ok(&["mount", "--resume"]);
        for name in ["dir/one", "readme"] {
            let told = format!(
                "{} is still open for writing in sh (pid ",
                rig.ws().join(name).display()
            );
            let or_two = told.replace("dir/one", "two");
            let or_two = or_two.replace("readme", "src/deep/same");
            assert!(
                ran.err.contains(&told) || ran.err.contains(&or_two),
                "{ran:?}"
            );
        }
        assert_eq!(ran.err.matches("open for writing").count(), 2, "{ran:?}");
        fs::write(&go, "\n").unwrap();
        // That it failed would be as good; these are files without a name.
        assert_eq!(fs::read_to_string(&gone).unwrap(), "0\n");
        rig.ok(&["step", "merge", "s"]);
        let script = "cat dir/one two quiet readme src/deep/same; stat -c %h two readme";
        let seen = rig.step("look", &[], script);
        let readme = "from the base\nin time\n";
        let expected = format!("in time\nin time\nquiet\n{readme}{readme}2\n2\n");
        assert_eq!(seen.out, expected, "{seen:?}");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn many_files_are_open_at_once() {
    alone(|rig| {
        let ws = rig.ws();
        for number in 0..400 {
            fs::write(ws.join(number.to_string()), number.to_string()).unwrap();
        }
        let mut mount = Command::new("sh");
        let own = rig.command(&["mount", "--workspace", ws.to_str().unwrap()]);
        mount
            .args(["-c", "ulimit -Sn 128; exec \"$@\"", "sh"])
            .arg(own.get_program())
            .args(own.get_args())
            .env("HARNESS_FS_STATE_DIR", rig.state());
        let mounted = start(mount).end();
        assert_eq!(mounted.code, 0, "{mounted:?}");
        let opens = "
files = [open(str(number)) for number in range(400)]
assert all(file.read() == str(number) for number, file in enumerate(files))
";
        let script = format!("ulimit -Sn 1000; exec python3 -c '{opens}'");
        let ran = rig.step("opens", &[], &script);
        assert_eq!(ran.code, 0, "{ran:?}");
        rig.ok(&["unmount"]);
        for number in 0..400 {
            fs::remove_file(ws.join(number.to_string())).unwrap();
        }
    });
}

const CHANGER: &str = "
import os, sys, threading
over = threading.Event()
failed = []
def change():
    turn = 0
    while not over.is_set():
        turn += 1
        for number in range(8):
            try:
                os.chmod(f'file{number}', 0o644 + (turn & 1))
            except OSError as error:
                failed.append(str(error))
thread = threading.Thread(target=change)
thread.start()
print('ready', flush=True)
sys.stdin.read()
over.set()
thread.join()
print(failed[:3] or 'all well', flush=True)
";

#[test]
fn who_changes_files_by_path_finds_what_merges_put_there() {
    alone(|rig| {
        let ws = rig.ws();
        for number in 0..8 {
            fs::write(ws.join(format!("file{number}")), "base").unwrap();
        }
        rig.mount();
        let mut child = Command::new("python3")
            .args(["-c", CHANGER])
            .current_dir(&ws)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut from = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        for number in 0..8 {
            let name = format!("s{number}");
            let script = format!("echo merged {number} >new; mv new file{number}");
            // Its mode is changed on both sides now and then.
            let ran = rig.step(&name, &[], &script);
            if ran.code != 0 {
                rig.ok(&["step", "merge", &name, "--on-conflict", "last"]);
            }
            let merged = fs::read_to_string(ws.join(format!("file{number}"))).unwrap();
            assert_eq!(merged, format!("merged {number}\n"));
        }
        drop(child.stdin.take());
        line.clear();
        from.read_line(&mut line).unwrap();
        assert_eq!(line, "all well\n");
        child.wait().unwrap();
        for number in 0..8 {
            let merged = fs::read_to_string(ws.join(format!("file{number}"))).unwrap();
            assert_eq!(merged, format!("merged {number}\n"));
        }
        rig.ok(&["unmount"]);
        for number in 0..8 {
            fs::remove_file(ws.join(format!("file{number}"))).unwrap();
        }
    });
}
