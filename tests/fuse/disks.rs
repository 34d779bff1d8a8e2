//! What reaches the disk below a view: what was synced is there when the power fails, and copies share their blocks where
//! the disk can do that. Each disk is a file of its own (losetup(8)).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::mount::{MntFlags, umount2};

use crate::mounted::Mounted;

/// A filesystem in a file, mounted.
pub struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn new(make: &[&str]) -> Disk {
        let disk = Disk::unmade();
        let image = File::create(disk.image()).expect("image");
        image.set_len(512 << 20).expect("truncate");
        let (program, arguments) = make.split_first().expect("program");
        run(Command::new(program).args(arguments).arg(disk.image()));
        disk.mount();
        disk
    }

    fn unmade() -> Disk {
        let directory = tempfile::tempdir_in("/var/tmp").expect("temporary directory");
        fs::create_dir(directory.path().join("mnt")).expect("mkdir");
        Disk { directory }
    }

    fn mount(&self) {
        let mut command = Command::new("mount");
        run(command
            .args(["-o", "loop"])
            .arg(self.image())
            .arg(self.at()));
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    pub fn at(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// The disk as it would be if the power failed now: what the filesystem has
    /// not written yet is lost, and its journal is replayed.
    fn after_power_loss(&self) -> Disk {
        let copy = Disk::unmade();
        let mut command = Command::new("cp");
        run(command
            .arg("--sparse=always")
            .args([self.image(), copy.image()]));
        copy.mount();
        copy
    }

    /// Bytes that are not taken.
    fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.at()).expect("statvfs");
        stat.blocks_free() * stat.fragment_size()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.at(), MntFlags::MNT_DETACH).expect("umount");
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("start");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

pub fn ext4() -> Disk {
    Disk::new(&["mkfs.ext4", "-q", "-F"])
}

fn xfs() -> Disk {
    Disk::new(&["mkfs.xfs", "-q", "-m", "reflink=1"])
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags);
    options.open(path).expect("open")
}

type Way = (&'static str, fn(&Path));

/// Ways to have content on the disk when the last call of them returns.
const WAYS: [Way; 7] = [
    ("fsync", |path| {
        let mut file = open(path, 0);
        file.write_all(b"synced").expect("write");
        file.sync_all().expect("fsync");
    }),
    ("fdatasync", |path| {
        let mut file = open(path, 0);
        file.write_all(b"synced").expect("write");
        file.sync_data().expect("fdatasync");
    }),
    ("another-handle", |path| {
        let reader = open(path, 0);
        open(path, 0).write_all(b"synced").expect("write");
        reader.sync_all().expect("fsync");
    }),
    ("o-sync", |path| {
        open(path, libc::O_SYNC)
            .write_all(b"synced")
            .expect("write");
    }),
    ("o-dsync", |path| {
        open(path, libc::O_DSYNC)
            .write_all(b"synced")
            .expect("write");
    }),
    ("mapping", |path| {
        let script = "import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 6)
m = mmap.mmap(f, 6)
m[:] = b'synced'
m.flush()
os.fsync(f)";
        run(Command::new("/usr/bin/python3")
            .args(["-c", script])
            .arg(path));
    }),
    ("renamed", |path| {
        let other = path.with_extension("new");
        let mut file = open(&other, 0);
        file.write_all(b"synced").expect("write");
        file.sync_all().expect("fsync");
        fs::rename(&other, path).expect("rename");
        let directory = File::open(path.parent().expect("parent")).expect("open");
        directory.sync_all().expect("fsync");
    }),
];

#[test]
fn what_was_synced_is_there_after_a_power_loss() {
    for passthrough in [true, false] {
        let disk = ext4();
        let view = Mounted::within(&disk.at(), passthrough, |base| {
            fs::create_dir(base.join("lower")).expect("mkdir");
            for (name, _) in WAYS {
                fs::write(base.join("lower").join(name), "before").expect("write");
            }
        });
        nix::unistd::sync();
        fs::create_dir(view.path("new")).expect("mkdir");
        for directory in ["lower", "new"] {
            for (name, way) in WAYS {
                way(&view.path(directory).join(name));
                let left = disk.after_power_loss();
                let layer = left
                    .at()
                    .join(view.open_layer().strip_prefix(disk.at()).expect("below"));
                let path = layer.join("tree/0").join(directory).join(name);
                let found = fs::read_to_string(&path);
                let when = format!("{directory}/{name}, passthrough {passthrough}");
                assert_eq!(found.expect(&when), "synced", "{when}");
            }
        }
    }
}

/// The kernel asks a FUSE server to sync only where that can answer SYNCFS,
/// which the library that we use cannot. sync(2) is of every disk.
#[test]
fn syncfs_is_not_passed_on_and_sync_is() {
    let disk = ext4();
    let view = Mounted::within(&disk.at(), true, |_| {});
    fs::write(view.path("new"), "written").expect("write");
    let before = view.requests();
    nix::unistd::syncfs(File::open(view.root()).expect("open")).expect("syncfs");
    let asked = |name: &str, of: &std::collections::BTreeMap<String, u64>| {
        of.get(name).copied().unwrap_or_default()
    };
    let after = view.requests();
    for name in ["fsync", "fsyncdir", "syncfs"] {
        assert_eq!(asked(name, &after), asked(name, &before), "{name}");
    }
    nix::unistd::sync();
    let left = disk.after_power_loss();
    let layer = left
        .at()
        .join(view.open_layer().strip_prefix(disk.at()).expect("below"));
    let found = fs::read_to_string(layer.join("tree/0/new")).expect("read");
    assert_eq!(found, "written");
}

fn large() -> Vec<u8> {
    let mut state = 1_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_le_bytes()
    });
    bytes.take(8 << 20).flatten().collect()
}

/// Where the disk has reflinks a copy within the view takes no room, of a lower
/// file too, and so does its first write.
#[test]
fn copies_share_their_blocks_where_the_disk_can() {
    for passthrough in [true, false] {
        let disk = xfs();
        let content = large();
        let size = content.len() as u64;
        let view = Mounted::within(&disk.at(), passthrough, |base| {
            fs::write(base.join("lower"), &content).expect("write");
        });
        fs::write(view.path("new"), &content).expect("write");
        nix::unistd::sync();
        for name in ["lower", "new"] {
            let before = disk.free();
            let source = File::open(view.path(name)).expect("open");
            let target = File::create(view.path("copy")).expect("create");
            let mut copied = 0;
            while copied < content.len() {
                let more = copy_file_range(&source, None, &target, None, content.len() - copied);
                copied += more.expect("copy_file_range");
            }
            target.sync_all().expect("fsync");
            let taken = before.saturating_sub(disk.free());
            assert!(taken < size / 8, "{name}: {taken}, {passthrough}");
            assert!(
                fs::read(view.path("copy")).expect("read") == content,
                "{name}"
            );
            fs::remove_file(view.path("copy")).expect("unlink");
        }
        // (After the removals the disk gives back blocks when it likes: so only what is taken.)
        nix::unistd::sync();
        let before = disk.free();
        let mut file = open(&view.path("lower"), 0);
        file.write_all(b"changed").expect("write");
        file.sync_all().expect("fsync");
        let taken = before.saturating_sub(disk.free());
        assert!(taken < size / 8, "first write: {taken}, {passthrough}");
    }
}

/// The kernel has no reflink ioctls for FUSE, whatever the disk: exactly the
/// error that makes `cp --reflink=auto` and others copy (ioctl_ficlone(2)).
#[test]
fn reflink_ioctls_answer_what_makes_programs_copy() {
    for disk in [ext4(), xfs()] {
        let view = Mounted::within(&disk.at(), true, |base| {
            fs::write(base.join("lower"), "content").expect("write");
        });
        fs::write(view.path("new"), "content").expect("write");
        for name in ["lower", "new"] {
            let source = File::open(view.path(name)).expect("open");
            let target = File::create(view.path("copy")).expect("create");
            assert_eq!(clone(&target, &source), Err(Errno::EOPNOTSUPP), "{name}");
            let at = view.root();
            let copy = |how: &str| {
                let mut command = Command::new("cp");
                command.args([how, name, "copy"]).current_dir(&at);
                command.output().expect("cp").status.success()
            };
            assert!(!copy("--reflink=always"), "{name}");
            assert!(copy("--reflink=auto"), "{name}");
            assert_eq!(
                fs::read_to_string(view.path("copy")).expect("read"),
                "content"
            );
        }
    }
}

fn clone(target: &File, source: &File) -> Result<(), Errno> {
    let script = "import fcntl, sys
try: fcntl.ioctl(int(sys.argv[1]), 0x40049409, int(sys.argv[2]))
except OSError as error: sys.exit(error.errno)";
    for file in [target, source] {
        let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
        nix::fcntl::fcntl(file, flags).expect("inherit");
    }
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]);
    python.args([target, source].map(|file| file.as_raw_fd().to_string()));
    match python.status().expect("python").code() {
        Some(0) => Ok(()),
        code => Err(Errno::from_raw(code.expect("exit code"))),
    }
}
