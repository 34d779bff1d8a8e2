//! Directories of a test, and what is mounted of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

/// Directories that nobody else uses, on a disk that the kernel's overlayfs takes.
pub struct Rig {
    dir: tempfile::TempDir,
}

/// What the program did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Rig {
    /// With these directories.
    pub fn with(names: &[&str]) -> Rig {
        let dir = tempfile::Builder::new()
            .prefix("hfs-overlay-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let rig = Rig { dir };
        for name in names {
            fs::create_dir_all(rig.at(name)).unwrap();
        }
        rig
    }

    /// One lower directory that `fill` fills, and all else that a mount takes.
    pub fn over(fill: impl FnOnce(&Path)) -> Rig {
        let rig = Rig::with(&["lower", "up", "work", "mnt"]);
        fill(&rig.at("lower"));
        rig
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `-o` needs for these lower directories and the usual upper one.
    pub fn options(&self, lower: &[&str]) -> String {
        self.options_of(lower, "up", "work")
    }

    pub fn options_of(&self, lower: &[&str], upper: &str, work: &str) -> String {
        let lower: Vec<String> = lower.iter().map(|name| shown(&self.at(name))).collect();
        format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            shown(&self.at(upper)),
            shown(&self.at(work))
        )
    }

    /// Mounts the usual directories.
    pub fn mount(&self) -> Mounted {
        self.mount_with(&self.options(&["lower"]))
    }

    #[track_caller]
    pub fn mount_with(&self, options: &str) -> Mounted {
        let ran = self.overlay(options);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{options}");
        let value = |name: &str| {
            let mut all = options.split(',');
            all.find_map(|option| option.strip_prefix(name))
                .map(|dir| self.at(dir))
        };
        Mounted {
            at: self.at("mnt"),
            upper: value("upperdir=").zip(value("workdir=")),
        }
    }

    /// Runs `harness-fs overlay -o OPTIONS MNT`.
    pub fn overlay(&self, options: &str) -> Ran {
        ran(program()
            .args(["overlay", "-o", options])
            .arg(self.at("mnt"))
            .current_dir(self.dir.path())
            .output()
            .unwrap())
    }

    /// The same, by the kernel.
    #[track_caller]
    pub fn by_kernel(&self, options: &str) -> Mounted {
        self.by_kernel_at("mnt", options)
    }

    #[track_caller]
    pub fn by_kernel_at(&self, at: &str, options: &str) -> Mounted {
        let (at, kind) = (self.at(at), Some("overlay"));
        let mounted = nix::mount::mount(kind, &at, kind, MsFlags::empty(), Some(options));
        mounted.unwrap_or_else(|errno| panic!("{errno}: {options}"));
        Mounted { at, upper: None }
    }
}

pub fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_harness-fs"))
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ran {
    /// One sentence on standard error that has `part` in it, and this code.
    #[track_caller]
    pub fn refused(&self, code: i32, part: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.contains(part), "no \"{part}\" in {self:?}");
        assert_eq!(self.out, "", "{self:?}");
    }
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Unmounts as umount(8) does. Between its fork and its exec a child that another test starts has
/// all of our descriptors, also what was closed here since: that can be busy for a moment.
#[track_caller]
pub fn umount(at: &Path) {
    until("unmounted", || match nix::mount::umount(at) {
        Err(Errno::EBUSY) => false,
        done => {
            done.unwrap();
            true
        }
    });
}

/// Something mounted; unmounted when dropped, also when the test fails.
pub struct Mounted {
    at: PathBuf,
    upper: Option<(PathBuf, PathBuf)>,
}

impl Mounted {
    pub fn path(&self, path: &str) -> PathBuf {
        match path {
            "" => self.at.clone(),
            path => self.at.join(path),
        }
    }

    /// Unmounts it, and waits until the upper directory is in order.
    #[track_caller]
    pub fn end(mut self) {
        umount(&self.at);
        if let Some((upper, work)) = self.upper.take() {
            until("in order", || is_in_order(&upper, &work));
        }
        std::mem::forget(self);
    }
}

/// Whether a mount that used the directories has come to its end.
pub fn is_in_order(upper: &Path, work: &Path) -> bool {
    !is_marked(upper) && !work.join("harness-fs").exists()
}

pub fn is_marked(upper: &Path) -> bool {
    super::tree::attribute(upper, harness_fs::tree::marker::IN_USE).is_some()
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.at, MntFlags::MNT_DETACH);
        if let Some((upper, work)) = self.upper.take()
            && !std::thread::panicking()
        {
            until("in order", || is_in_order(&upper, &work));
        }
    }
}

/// The process that serves a mount: the kernel's list of locks says who holds its upper directory.
pub fn server_of(upper: &Path) -> i32 {
    use std::os::unix::fs::MetadataExt;
    let inode = fs::metadata(upper).unwrap().ino();
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let line = locks
        .lines()
        .find(|line| line.contains("FLOCK") && line.contains(&format!(":{inode} ")));
    let pid = line.and_then(|line| line.split_whitespace().nth(4));
    pid.unwrap_or_else(|| panic!("nobody serves {}", upper.display()))
        .parse()
        .unwrap()
}
