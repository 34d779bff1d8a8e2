//! flock and fcntl locks, which the kernel keeps by itself.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::mounted::Mounted;

fn both_ways(test: impl Fn(Mounted)) {
    for passthrough in [true, false] {
        test(Mounted::with(passthrough, |base| {
            fs::write(base.join("f"), "lower content\n").expect("write");
        }));
    }
}

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).expect("open")
}

fn range(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).expect("lock type"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("whence"),
        l_start: start,
        l_len: len,
        // Must be 0 for locks of an open file description (fcntl(2)).
        l_pid: 0,
    }
}

/// A lock of this process.
fn posix(file: &File, lock: libc::flock) -> nix::Result<i32> {
    fcntl(file, FcntlArg::F_SETLK(&lock))
}

/// A lock of this open file description.
fn ofd(file: &File, lock: libc::flock) -> nix::Result<i32> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock))
}

/// The same, waiting for it. A child that another test has just made holds a
/// copy of each descriptor until it executes its program, so that the last
/// close of one seen here need not be the last at all.
fn ofd_in_time(file: &File, lock: libc::flock) -> nix::Result<i32> {
    fcntl(file, FcntlArg::F_OFD_SETLKW(&lock))
}

/// Whether a process of its own gets a lock on a range.
fn another_process_gets(path: &Path, start: i64, len: i64) -> bool {
    const TRY: &str = "
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB, int(sys.argv[3]), int(sys.argv[2]))
except BlockingIOError:
    sys.exit(7)
";
    let mut command = Command::new("python3");
    command.args(["-c", TRY]).arg(path);
    command.args([start.to_string(), len.to_string()]);
    let code = command.status().expect("python3").code();
    assert!(matches!(code, Some(0 | 7)), "{code:?}");
    code == Some(0)
}

#[test]
fn flock_locks_the_whole_file() {
    both_ways(|view| {
        let one = File::create(view.path("lock")).expect("create");
        let two = File::open(view.path("lock")).expect("open");
        one.lock().expect("flock");
        assert!(two.try_lock().is_err());
        one.unlock().expect("unlock");
        two.try_lock().expect("flock");
    });
}

#[test]
fn posix_locks_are_of_a_range_and_a_process() {
    both_ways(|view| {
        for name in ["f", "new"] {
            let path = view.path(name);
            let file = open(&path);
            posix(&file, range(libc::F_WRLCK, 0, 10)).expect("lock");
            assert!(!another_process_gets(&path, 5, 1));
            assert!(another_process_gets(&path, 10, 10));
            // Who has it is told.
            let mut asked = range(libc::F_RDLCK, 9, 100);
            let other = open(&path);
            fcntl(&other, FcntlArg::F_OFD_GETLK(&mut asked)).expect("ask");
            let pid = i32::try_from(std::process::id()).expect("pid");
            assert_eq!((asked.l_pid, asked.l_start, asked.l_len), (pid, 0, 10));
            posix(&file, range(libc::F_UNLCK, 0, 0)).expect("unlock");
            assert!(another_process_gets(&path, 0, 10));
            // Any close of the file by the process lets go of its locks.
            posix(&file, range(libc::F_WRLCK, 0, 10)).expect("lock");
            drop(other);
            assert!(another_process_gets(&path, 0, 10));
        }
    });
}

#[test]
fn ofd_locks_are_of_a_range_and_a_description() {
    both_ways(|view| {
        for name in ["f", "new"] {
            let path = view.path(name);
            let (one, two) = (open(&path), open(&path));
            let again = one.try_clone().expect("dup");
            ofd(&one, range(libc::F_RDLCK, 0, 10)).expect("lock");
            ofd(&two, range(libc::F_RDLCK, 0, 10)).expect("readers share");
            let denied = Err(Errno::EAGAIN);
            assert_eq!(ofd(&two, range(libc::F_WRLCK, 0, 10)), denied);
            ofd(&two, range(libc::F_WRLCK, 10, 10)).expect("another range");
            assert!(!another_process_gets(&path, 0, 1));
            // A close lets go of them only with the last descriptor.
            drop(one);
            assert_eq!(ofd(&two, range(libc::F_WRLCK, 0, 10)), denied);
            drop(again);
            ofd_in_time(&two, range(libc::F_WRLCK, 0, 10)).expect("upgrade");
        }
    });
}

/// A lock is of the inode, which stays the same when its content moves up.
#[test]
fn a_lock_survives_the_copy_up() {
    both_ways(|view| {
        let path = view.path("f");
        let reader = File::open(&path).expect("open");
        ofd(&reader, range(libc::F_RDLCK, 0, 10)).expect("lock");
        let mut writer = OpenOptions::new().append(true).open(&path).expect("open");
        writer.write_all(b"more").expect("write");
        let denied = Err(Errno::EAGAIN);
        assert_eq!(ofd(&writer, range(libc::F_WRLCK, 0, 10)), denied);
        assert!(!another_process_gets(&path, 0, 10));
        drop(reader);
        ofd_in_time(&writer, range(libc::F_WRLCK, 0, 10)).expect("lock");
    });
}
