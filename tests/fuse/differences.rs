//! What a view answers in another way than a local disk, row by row of "What is different" in docs/semantics.md, where no
//! other test says it. Each is exactly so: a program that asks sees this answer, and it falls back on something that works.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::mounted::Mounted;

fn view() -> Mounted {
    Mounted::over(|base| {
        fs::create_dir_all(base.join("dir/sub")).expect("mkdir");
        fs::write(base.join("lower"), "content").expect("write");
    })
}

/// What a script of Python prints that runs in the view, with these helpers.
#[track_caller]
fn python(view: &Mounted, script: &str) -> String {
    python_with(view, script, "")
}

/// The same with something to read.
#[track_caller]
fn python_with(view: &Mounted, script: &str, input: &str) -> String {
    const HELPERS: &str = r#"
import ctypes, errno, fcntl, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    result = function(*arguments)
    if result < 0: raise OSError(ctypes.get_errno(), "")
    return result
def answer(function, *arguments):
    try: return function(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
"#;
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", &format!("{HELPERS}{script}")]);
    python
        .current_dir(view.root())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut python = python.stdin(Stdio::piped()).spawn().expect("python");
    let mut stdin = python.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("write");
    drop(stdin);
    let output = python.wait_with_output().expect("python");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn files_without_a_name_are_not_supported() {
    let view = view();
    let script = "print(*[answer(os.open, at, os.O_TMPFILE | os.O_RDWR) for at in ['.', 'dir']])";
    assert_eq!(python(&view, script), "ENOTSUP ENOTSUP");
    // What programs make of that: a file with a name, which they remove.
    let script = "import tempfile
with tempfile.TemporaryFile(dir='dir') as file: file.write(b'x'); print(os.listdir('dir'))";
    assert_eq!(python(&view, script), "['sub']");
}

#[test]
fn files_have_no_flags_and_no_map_of_extents() {
    let view = view();
    fs::write(view.path("new"), "content").expect("write");
    // FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_SETFLAGS, FS_IOC_ENABLE_VERITY, FS_IOC_FIEMAP (linux/fs.h).
    let script = "for name in ['lower', 'new']:
    file = os.open(name, os.O_RDWR)
    for number, size in [(0x80086601, 8), (0x801c581f, 28), (0x40086602, 8), (0x40806685, 128), (0xc020660b, 32)]:
        print(answer(lambda: fcntl.ioctl(file, number, bytes(size))), end=' ')";
    let answers = ["ENOTTY", "ENOTTY", "ENOTTY", "ENOTTY", "ENOTSUP"];
    assert_eq!(python(&view, script), [answers, answers].concat().join(" "));
}

#[test]
fn a_file_cannot_be_swapped_to() {
    let view = view();
    let script = "
with open('swap', 'wb') as file: file.write(bytes(1 << 20))
os.chmod('swap', 0o600)
os.system('mkswap swap >/dev/null')
print(answer(lambda: call(libc.swapon, b'swap', 0)))";
    assert_eq!(python(&view, script), "EINVAL");
}

#[test]
fn the_number_of_links_of_a_directory_that_several_layers_have_is_1() {
    let mut view = view();
    let links = |view: &Mounted, path: &str| fs::metadata(view.path(path)).expect("stat").nlink();
    assert_eq!(links(&view, "dir"), 3);
    // 1 says to find(1) and others that nobody has counted.
    fs::create_dir(view.path("dir/more")).expect("mkdir");
    assert_eq!(links(&view, "dir"), 1);
    view.seal_and_remount();
    assert_eq!((links(&view, "dir"), links(&view, "dir/more")), (1, 2));
}

#[test]
fn it_is_a_fuse_filesystem_with_the_room_of_the_state() {
    let view = view();
    let (seen, state) = (
        nix::sys::statfs::statfs(&view.root()).expect("statfs"),
        nix::sys::statfs::statfs(&view.open_layer()).expect("statfs"),
    );
    assert_eq!(
        seen.filesystem_type(),
        nix::sys::statfs::FUSE_SUPER_MAGIC,
        "what tail(1) takes for a remote one"
    );
    assert_eq!(seen.blocks(), state.blocks());
    assert_eq!(seen.block_size(), state.block_size());
}

#[test]
fn there_is_no_birth_time() {
    let view = view();
    fs::write(view.path("new"), "").expect("write");
    for name in ["lower", "new", "dir"] {
        let created = fs::metadata(view.path(name)).expect("stat").created();
        assert!(created.is_err(), "{name}: {created:?}");
    }
}

#[test]
fn glibc_knows_no_number_of_links_of_fuse() {
    let view = view();
    let script = "
print(os.pathconf('lower', 'PC_LINK_MAX'))
for number in range(200): os.link('lower', f'name-{number}')
print(os.stat('lower').st_nlink)";
    assert_eq!(python(&view, script), "127\n201");
}

#[test]
fn a_change_of_owner_to_nobody_by_root_keeps_setuid() {
    let view = view();
    let script = "
os.chmod('lower', 0o6755)
os.chown('lower', -1, -1)
print(f\"{os.stat('lower').st_mode:o}\")
os.chown('lower', 0, -1)
print(f\"{os.stat('lower').st_mode:o}\")";
    assert_eq!(python(&view, script), "106755\n100755");
}

#[test]
fn attributes_of_a_file_have_the_room_of_the_disk_less_our_number() {
    let disk = crate::disks::ext4();
    let view = Mounted::within(&disk.at(), true, |base| {
        fs::write(base.join("lower"), "content").expect("write");
    });
    let most = |at: &Path| {
        File::create(at.join("file")).expect("create");
        let script = "
import os, sys
size = 8000
while True:
    try: os.setxattr('file', 'user.x', b'x' * size); break
    except OSError: size -= 1
print(size)";
        let mut python = Command::new("/usr/bin/python3");
        let output = python.args(["-c", script]).current_dir(at).output();
        let output = output.expect("python");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().parse::<i64>().expect("number")
    };
    let (plain, seen) = (most(&disk.at()), most(&view.root()));
    assert!((0..=48).contains(&(plain - seen)), "{plain} {seen}");
}
