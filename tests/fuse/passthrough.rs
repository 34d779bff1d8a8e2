//! That the kernel reads and writes files of the open layer by itself where it
//! can, and that it does not where it was told not to.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::mounted::Mounted;

/// Whether this kernel has `CONFIG_FUSE_PASSTHROUGH`, which came with Linux 6.9
/// and is on unless somebody turned it off.
fn offered() -> bool {
    let name = nix::sys::utsname::uname().expect("uname");
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    (number(), number()) >= (Some(6), Some(9))
}

fn count(view: &Mounted, opcode: &str) -> u64 {
    view.requests().get(opcode).copied().unwrap_or(0)
}

/// Writes and reads a file, through one descriptor and through fresh ones.
fn use_file(path: &Path) {
    let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("create");
    file.write_all(&data).expect("write");
    file.seek(SeekFrom::Start(0)).expect("seek");
    let mut read = Vec::new();
    file.read_to_end(&mut read).expect("read");
    assert_eq!(read, data);
    drop(file);
    let mut file = OpenOptions::new().append(true).open(path).expect("open");
    file.write_all(b"more").expect("append");
    drop(file);
    assert!(fs::read(path).expect("read").ends_with(b"more"));
}

#[test]
fn reads_and_writes_of_a_new_file_do_not_reach_us() {
    if !offered() {
        return;
    }
    let view = Mounted::over(|_| {});
    let transport = view.transport();
    assert!(
        transport.contains(", passthrough, stack depth "),
        "this kernel is new enough, but not served so: {transport}"
    );
    use_file(&view.path("new"));
    let requests = view.requests();
    assert_eq!(
        (count(&view, "write"), count(&view, "read")),
        (0, 0),
        "{requests:?}"
    );
    assert!(count(&view, "create") > 0, "{requests:?}");
}

#[test]
fn reads_and_writes_reach_us_when_it_is_off() {
    let view = Mounted::with(false, |_| {});
    let transport = view.transport();
    assert!(transport.ends_with(", no passthrough"), "{transport}");
    use_file(&view.path("new"));
    assert!(count(&view, "write") > 0, "{:?}", view.requests());
}

/// A file of a lower layer becomes one of the open layer with its first write,
/// and is then served as such.
#[test]
fn a_file_that_was_copied_up_is_served_by_the_kernel_from_then_on() {
    if !offered() {
        return;
    }
    let view = Mounted::over(|base| fs::write(base.join("f"), "lower").expect("write"));
    let path = view.path("f");
    assert_eq!(fs::read(&path).expect("read"), b"lower");
    assert!(count(&view, "read") > 0, "{:?}", view.requests());
    let before = count(&view, "read");
    fs::write(&path, "upper").expect("write");
    let mut text = String::new();
    let mut file = File::open(&path).expect("open");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "upper");
    assert_eq!(
        (count(&view, "write"), count(&view, "read")),
        (0, before),
        "{:?}",
        view.requests()
    );
}

/// dd(1) with oflag=direct takes O_DIRECT off its descriptor to write what is
/// left over at the end. The kernel would keep it on the file behind.
#[test]
fn direct_io_can_be_turned_off_again() {
    for passthrough in [true, false] {
        let view = Mounted::with(passthrough, |base| {
            fs::write(base.join("lower"), vec![1; 8192]).expect("write");
        });
        for name in ["lower", "new"] {
            let script = format!(
                "head -c 10000 /dev/urandom >in
                dd if=in of={name} bs=4096 oflag=direct conv=notrunc status=none
                cmp in {name}"
            );
            let mut shell = std::process::Command::new("sh");
            let status = shell.args(["-ec", &script]).current_dir(view.root());
            assert!(status.status().expect("sh").success(), "{name}");
        }
    }
}

/// What is written past us changes size and times of a file whose attributes the kernel
/// was told just before.
#[test]
fn attributes_are_never_stale() {
    let script = "
import mmap, os, sys
name = sys.argv[1]
fd = os.open(name, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
def changes(what, size, change):
    os.utime(name, (1, 2))
    old = os.stat(name)
    assert old.st_mtime == 2, what
    change()
    new = os.stat(name)
    assert (new.st_size, new.st_mtime > 2, new.st_ctime_ns >= old.st_ctime_ns) == (size, True, True), (what, new)
    assert os.fstat(fd) == new, what
def mapped():
    area[0:1] = b'm'
    area.flush()
area = mmap.mmap(fd, 8192)
changes('write', 9000, lambda: os.pwrite(fd, b'x', 8999))
changes('write inside', 9000, lambda: os.pwrite(fd, b'x', 3))
changes('mapping', 9000, mapped)
changes('mapping again', 9000, mapped)
changes('truncate', 8500, lambda: os.ftruncate(fd, 8500))
second = os.open(name, os.O_WRONLY | os.O_APPEND)
changes('append', 8504, lambda: os.write(second, b'more'))
os.close(second)
changes('mapping of one of two', 8504, mapped)
changes('allocate', 10000, lambda: os.posix_fallocate(fd, 0, 10000))
os.utime(name, (1, 2))
area[1:2] = b'n'
area.close()
os.close(fd)
os.sync()
assert os.stat(name).st_mtime > 2, 'closed'
";
    for passthrough in [true, false] {
        let view = Mounted::with(passthrough, |base| {
            fs::write(base.join("lower"), vec![1; 4096]).expect("write");
        });
        for name in ["lower", "new"] {
            let mut python = std::process::Command::new("python3");
            let python = python.args(["-c", script, name]).current_dir(view.root());
            let output = python.output().expect("python3");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}, {passthrough}: {said}");
        }
    }
}
