//! The tree that a case begins with, on disk and in memory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use harness_fs::tree::{Kind, Time};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use proptest::prelude::*;

use crate::reference::{Id, Inode, ROOT, Reference};

/// Few names, so that operations meet.
pub const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"\xff\xfe"];

pub fn name(n: u8) -> &'static OsStr {
    OsStr::from_bytes(NAMES[usize::from(n) % NAMES.len()])
}

/// Two of them: what crosses from one to the other is refused.
pub const MAPPED: usize = 2;

#[derive(Clone, Copy, Debug)]
pub enum What {
    Dir { perm: u32 },
    File { perm: u32, uid: u32, size: u16 },
    Link { of: u8 },
    Symlink,
    Fifo,
}

/// One entry: in one of the directories that are there, under one of the names.
#[derive(Clone, Copy, Debug)]
pub struct BaseEntry {
    pub dir: u8,
    pub name: u8,
    pub what: What,
    pub xattr: bool,
}

pub fn entry() -> impl Strategy<Value = BaseEntry> {
    let what = prop_oneof![
        4 => prop_oneof![Just(0o755), Just(0o700), Just(0o2775)].prop_map(|perm| What::Dir { perm }),
        4 => (
            prop_oneof![Just(0o644), Just(0o600), Just(0o4755), Just(0o2755)],
            prop_oneof![Just(0_u32), Just(1000)],
            prop_oneof![Just(0_u16), 1..100_u16, Just(9000)],
        )
            .prop_map(|(perm, uid, size)| What::File { perm, uid, size }),
        3 => any::<u8>().prop_map(|of| What::Link { of }),
        1 => Just(What::Symlink),
        1 => Just(What::Fifo),
    ];
    (any::<u8>(), 0..NAMES.len() as u8, what, any::<bool>()).prop_map(|(dir, name, what, xattr)| {
        BaseEntry {
            dir,
            name,
            what,
            xattr,
        }
    })
}

/// Makes the entries below `at/<index>`; those whose name is taken are left out.
pub fn build(at: &Path, entries: &[BaseEntry]) -> Reference {
    let mut model = Reference::new();
    let mut paths: Vec<PathBuf> = vec![at.to_path_buf()];
    for index in 0..MAPPED {
        let name = OsString::from(index.to_string());
        let path = at.join(&name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        model
            .add(ROOT, &name, Inode::new(Kind::Dir, 0o755))
            .unwrap();
        paths.push(path);
    }
    for entry in entries {
        add(&mut model, &mut paths, entry);
    }
    for (id, path) in paths.iter().enumerate().skip(1) {
        let time = Time {
            sec: 1_000_000 + id as i64,
            nsec: 123_456_789,
        };
        let spec = TimeSpec::new(time.sec, i64::from(time.nsec));
        utimensat(
            AT_FDCWD,
            path,
            &spec,
            &spec,
            UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
        model.inodes[id].mtime = Some(time);
    }
    model
}

fn add(model: &mut Reference, paths: &mut Vec<PathBuf>, entry: &BaseEntry) {
    let pick = |n: u8, kind: Kind, model: &Reference| -> Option<Id> {
        let all: Vec<Id> = (1..model.inodes.len())
            .filter(|id| model.inodes[*id].kind == kind)
            .collect();
        (!all.is_empty()).then(|| all[usize::from(n) % all.len()])
    };
    let dir = pick(entry.dir, Kind::Dir, model).expect("mapped paths");
    let name = name(entry.name);
    if model.lookup(dir, name).is_ok() {
        return;
    }
    let path = paths[dir].join(name);
    let inode = match entry.what {
        What::Dir { perm } => {
            std::fs::create_dir(&path).unwrap();
            Inode::new(Kind::Dir, perm)
        }
        What::File { perm, uid, size } => {
            let mut inode = Inode::new(Kind::File, perm);
            inode.uid = uid;
            inode.gid = uid;
            inode.content = (0..size).map(|i| (i % 251) as u8 + 1).collect();
            std::fs::write(&path, &inode.content).unwrap();
            inode
        }
        What::Symlink => {
            let mut inode = Inode::new(Kind::Symlink, 0o777);
            inode.target = "to/nowhere".into();
            symlink(&inode.target, &path).unwrap();
            inode
        }
        What::Fifo => {
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o640)).unwrap();
            Inode::new(Kind::Fifo, 0o640)
        }
        What::Link { of } => {
            let Some(of) = pick(of, Kind::File, model) else {
                return;
            };
            if model.link(of, dir, name).is_ok() {
                std::fs::hard_link(&paths[of], &path).unwrap();
            }
            return;
        }
    };
    dress(&path, model, dir, name, inode, entry.xattr);
    paths.push(path);
}

/// Gives an entry the owner and mode it has in memory, where setgid may have changed them.
fn dress(path: &Path, model: &mut Reference, dir: Id, name: &OsStr, inode: Inode, xattr: bool) {
    let id = model.add(dir, name, inode).unwrap();
    let inode = &mut model.inodes[id];
    if inode.kind == Kind::Symlink {
        lchown(path, Some(inode.uid), Some(inode.gid)).unwrap();
        return;
    }
    chown(path, Some(inode.uid), Some(inode.gid)).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(inode.perm)).unwrap();
    if xattr && matches!(inode.kind, Kind::File | Kind::Dir) {
        inode.xattrs.insert("user.base".into(), b"below".to_vec());
        let here = std::fs::File::open(path.parent().unwrap()).unwrap();
        harness_fs::sys::xattr::set(&here, Path::new(name), "user.base", b"below", 0).unwrap();
    }
}

/// Everything of a tree on disk that a view may not change.
pub fn listing(at: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    let mut open = vec![at.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let content = match meta.is_file() {
            true => std::fs::read(&path).unwrap(),
            false => Vec::new(),
        };
        if meta.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        lines.push(format!(
            "{path:?} {:o} {}:{} {}.{} {} {content:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.nlink(),
        ));
    }
    lines.sort();
    lines
}
