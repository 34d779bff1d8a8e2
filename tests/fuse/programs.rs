//! Programs that run from a view.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;

use crate::mounted::Mounted;

/// Starts a program that waits for the end of its input.
fn start(program: &Path) -> Child {
    let started = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    started.expect("spawn")
}

/// open(2) with these flags and nothing else.
fn open(path: &Path, access: i32, flags: i32) -> Option<Errno> {
    let mut options = OpenOptions::new();
    options
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY)
        .custom_flags(flags);
    let opened = options.open(path).err();
    opened.map(|error| Errno::from_raw(error.raw_os_error().expect("errno")))
}

/// Not written by this process: what another test starts at that moment has a copy of the
/// descriptor until its exec, and the program is busy.
fn new_program(path: &Path) {
    let mut install = Command::new("install");
    let status = install.args(["-m755", "/bin/cat"]).arg(path).status();
    assert!(status.expect("install").success());
}

/// For a file that is opened for reading only the kernel looks whether it runs
/// after it has asked us to empty it (fs/namei.c, handle_truncate).
#[test]
fn a_running_program_is_neither_written_nor_emptied() {
    for passthrough in [true, false] {
        let view = Mounted::with(passthrough, |base| new_program(&base.join("lower")));
        new_program(&view.path("new"));
        for name in ["lower", "new"] {
            let path = view.path(name);
            let content = fs::read(&path).expect("read");
            let mut child = start(&path);
            for (access, flags) in [
                (libc::O_WRONLY, 0),
                (libc::O_RDWR, 0),
                (libc::O_WRONLY, libc::O_TRUNC),
                (libc::O_RDONLY, libc::O_TRUNC),
            ] {
                let refused = open(&path, access, flags);
                assert_eq!(refused, Some(Errno::ETXTBSY), "{name} {access} {flags}");
                assert!(fs::read(&path).expect("read") == content, "{name} {flags}");
            }
            drop(child.stdin.take());
            assert!(
                child.wait().expect("wait").success(),
                "{name} was disturbed"
            );
            assert_eq!(open(&path, libc::O_RDONLY, libc::O_TRUNC), None);
            assert_eq!(fs::metadata(&path).expect("stat").len(), 0, "{name}");
        }
    }
}
