//! Stacks built by hand, and dumps to compare trees by.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness_fs::export::{Destination, Imported, import};
use harness_fs::layer::copy_up::{self, Extent, directory, keeping_times};
use harness_fs::layer::{
    Base, Inos, OpenLayer, SealedLayer, Stack, TREE, Visit, seal, set_ino, walk,
};
use harness_fs::sys::at::{self, SetTime};
use harness_fs::sys::xattr;
use harness_fs::tree::{Kind, Time, marker};
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

/// A stage's directories in a temporary one.
pub struct Fixture {
    pub tmp: tempfile::TempDir,
    pub mapped: Vec<PathBuf>,
    pub inos: Arc<Inos>,
    pub stack: Stack,
}

/// An entry as far as two trees have to agree on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub kind: Kind,
    pub perm: u32,
    pub owner: (u32, u32),
    pub mtime: Time,
    pub rdev: u64,
    pub nlink: u32,
    /// The first path of the same inode.
    pub same_as: PathBuf,
    pub content: String,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

pub type Dump = BTreeMap<PathBuf, Line>;

pub fn dump(stack: &Stack) -> Dump {
    dump_below(stack, Path::new(""))
}

pub fn dump_below(stack: &Stack, start: &Path) -> Dump {
    let mut all = Dump::new();
    let mut inodes: HashMap<u64, PathBuf> = HashMap::new();
    walk(stack, start, &mut |path, found| {
        let attr = &found.attr;
        let mut path = path.to_path_buf();
        if start != Path::new("") {
            path = path.components().skip(1).collect();
        }
        let content = match attr.kind {
            Kind::File => {
                let mut hash = Sha256::new();
                let file = std::fs::File::from(stack.open(found)?);
                std::io::copy(&mut &file, &mut hash_writer(&mut hash))?;
                assert_eq!(file.metadata()?.len(), attr.size, "{}", path.display());
                format!("{:x?}", hash.finalize())
            }
            Kind::Symlink => format!("{:?}", stack.readlink(found)?),
            _ => String::new(),
        };
        let first = inodes.entry(attr.ino).or_insert_with(|| path.clone());
        let mut xattrs = stack.xattrs(found)?;
        xattrs.remove(OsStr::new("security.selinux"));
        let line = Line {
            kind: attr.kind,
            perm: attr.perm,
            owner: (attr.uid, attr.gid),
            mtime: attr.mtime,
            rdev: attr.rdev,
            nlink: if attr.is_dir() { 0 } else { attr.nlink },
            same_as: first.clone(),
            content,
            xattrs,
        };
        all.insert(path, line);
        Ok(Visit::Enter)
    })
    .expect("walk");
    all
}

struct HashWriter<'a>(&'a mut Sha256);

fn hash_writer(hash: &mut Sha256) -> HashWriter<'_> {
    HashWriter(hash)
}

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.update(buffer);
        Ok(buffer.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Compares two dumps and names the first difference.
pub fn assert_same(is: &Dump, wanted: &Dump) {
    for (path, line) in wanted {
        assert_eq!(is.get(path), Some(line), "{}", path.display());
    }
    let more: Vec<_> = is
        .keys()
        .filter(|path| !wanted.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "too much: {more:?}");
}

pub fn time(path: &Path, sec: i64, nsec: u32) {
    let time = SetTime::To(Time { sec, nsec });
    at::utimens(nix::fcntl::AT_FDCWD, path, time, time).expect("utimens");
}

pub fn write(path: &Path, content: &str) {
    std::fs::write(path, content).expect("write");
    time(path, 1_600_000_000, 123_456_789);
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let parent = path.parent().expect("parent");
    let dir = at::open_dir(nix::fcntl::AT_FDCWD, parent).expect("parent");
    let file = Path::new(path.file_name().expect("name"));
    xattr::set(&dir, file, name, value, 0).expect("xattr");
}

pub fn mkdir(path: &Path) {
    std::fs::create_dir_all(path).expect("mkdir");
}

/// Hand-made changes of an open layer.
pub struct Changes<'a> {
    pub open: &'a OpenLayer,
    pub stack: &'a Stack,
    pub inos: &'a Inos,
}

impl Changes<'_> {
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(TREE).join(path)
    }

    /// Copies the directories above `path` up.
    pub fn parents(&self, path: &str) {
        let mut dirs: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        dirs.pop();
        for dir in dirs.into_iter().rev() {
            if self.open.entry(dir).expect("entry").is_none() {
                let found = self.stack.find(dir).expect("find").expect("there");
                let to = Path::new(TREE).join(dir);
                directory(self.open, self.stack, &found, &to).expect("copy-up");
            }
        }
    }

    pub fn file(&self, path: &str, content: &[u8]) -> u64 {
        self.parents(path);
        let to = self.path(path);
        let _ = at::remove_all(self.open, &to);
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
        let file = std::fs::File::from(at::open(self.open, &to, flags, 0o640).expect("create"));
        file.write_all_at(content, 0).expect("write");
        self.finish(&to)
    }

    pub fn finish(&self, to: &Path) -> u64 {
        let ino = self.inos.allocate();
        set_ino(self.open, to, ino, false).expect("ino");
        let time = SetTime::To(Time {
            sec: 1_700_000_000,
            nsec: u32::try_from(ino % 1_000_000_000).expect("small"),
        });
        at::utimens(self.open, to, time, time).expect("utimens");
        ino
    }

    pub fn dir(&self, path: &str, opaque: bool) {
        self.parents(path);
        let to = self.path(path);
        let _ = at::remove_all(self.open, &to);
        at::mkdir(self.open, &to, 0o751).expect("mkdir");
        let ino = self.finish(&to);
        if opaque {
            self.open
                .mark(&to, ino, marker::OPAQUE, OsStr::new("y"))
                .expect("mark");
        }
    }

    pub fn delete(&self, path: &str) {
        self.parents(path);
        let to = self.path(path);
        at::remove_all(self.open, &to).expect("remove");
        self.open.whiteout_file(&to).expect("whiteout");
    }

    /// Renames a directory of the lower layers.
    pub fn rename_dir(&self, from: &str, to: &str) {
        self.parents(to);
        let found = self
            .stack
            .find(Path::new(from))
            .expect("find")
            .expect("there");
        let target = self.path(to);
        let _ = at::remove_all(self.open, &target);
        directory(self.open, self.stack, &found, &target).expect("copy-up");
        let text = harness_fs::tree::union::redirect_text(Path::new(from));
        self.open
            .mark(&target, found.attr.ino, marker::REDIRECT, &text)
            .expect("mark");
        if self.open.entry(Path::new(from)).expect("entry").is_none() {
            self.delete(from);
        }
    }

    /// chmod of a lower file: only its metadata is copied.
    pub fn chmod_lower(&self, path: &str, perm: u32) {
        self.parents(path);
        let found = self
            .stack
            .find(Path::new(path))
            .expect("find")
            .expect("there");
        let to = self.path(path);
        let from = Path::new(path);
        copy_up::entry(self.open, self.stack, &found, from, &to, Extent::Metadata)
            .expect("copy-up");
        at::chmod(self.open, &to, perm).expect("chmod");
    }

    pub fn link(&self, from: &str, to: &str) {
        self.parents(to);
        let (from, to) = (self.path(from), self.path(to));
        let dir = to.parent().expect("parent").to_path_buf();
        keeping_times(self.open, &dir, || {
            at::link(self.open, &from, self.open, &to)
        })
        .expect("link");
    }
}

impl Fixture {
    /// A stage that maps two directories and one file.
    pub fn new() -> Fixture {
        let tmp = tempfile::tempdir().expect("tempdir");
        let mapped = vec![
            tmp.path().join("harness"),
            tmp.path().join("root/.m2"),
            tmp.path().join("root/.tool.json"),
        ];
        mkdir(&mapped[0]);
        mkdir(&mapped[1]);
        write(&mapped[2], "{}");
        Fixture {
            tmp,
            mapped,
            inos: Arc::new(Inos::new(1)),
            stack: Stack::default(),
        }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.mapped[0].join(path)
    }

    pub fn take_base(&mut self) {
        let base = Base::take(&self.mapped, self.inos.clone()).expect("base");
        self.stack = Stack::new(vec![Arc::new(base)]);
    }

    pub fn layers_dir(&self) -> PathBuf {
        self.tmp.path().join("state/layers")
    }

    pub fn layer(&mut self, id: &str, change: impl FnOnce(&Changes<'_>)) {
        let layers = self.layers_dir();
        mkdir(&layers);
        let open = OpenLayer::open(&self.tmp.path().join("state/views").join(id)).expect("open");
        change(&Changes {
            open: &open,
            stack: &self.stack,
            inos: &self.inos,
        });
        seal(&open, &self.stack, &layers, id, id, 0).expect("seal");
        self.stack = self.stack.with(open_layer(&layers, id));
    }

    /// Imports a layout and makes the stack that a stage would have.
    pub fn import(&self, layout: &Path, to: &str) -> (Imported, Stack) {
        let layers = self.tmp.path().join(to);
        let mut count = 0;
        let mut ids = |name: &str| {
            count += 1;
            format!("{count:06}-{name}")
        };
        let inos = Arc::new(Inos::new(2));
        let target = Destination {
            layers: &layers,
            mapped: &self.mapped,
            inos: &inos,
            wanted: &|| Ok(()),
        };
        let imported = import(layout, target, &mut ids).expect("import");
        let mut all: Vec<Arc<dyn harness_fs::layer::Layer>> = Vec::new();
        if !imported.has_base {
            all.push(Arc::new(Base::take(&self.mapped, inos).expect("base")));
        }
        for id in &imported.layers {
            all.push(open_layer(&layers, id));
        }
        (imported, Stack::new(all))
    }
}

fn open_layer(layers: &Path, id: &str) -> Arc<SealedLayer> {
    let dir = at::open_dir(nix::fcntl::AT_FDCWD, layers).expect("layers");
    Arc::new(SealedLayer::open(dir, id).expect("sealed"))
}

/// A base and layers with everything that a round trip has to keep.
pub fn rich() -> Fixture {
    let mut fixture = Fixture::new();
    let at = |path: &str| fixture.at(path);
    for dir in ["ren/sub/deep", "opq", "dir_gone", "to_file", "plain"] {
        mkdir(&at(dir));
    }
    for file in [
        "keep",
        "gone",
        "dir_gone/x",
        "opq/old",
        "ren/f1",
        "ren/sub/f2",
        "ren/sub/deep/f3",
        "meta",
        "to_file/x",
        "to_dir",
        "plain/name\nwith newline",
        "plain/\u{fc}n\u{ee}",
        "p",
        "la",
    ] {
        write(&at(file), &format!("content of {file}"));
    }
    write(&at(&format!("plain/{}", "n".repeat(200))), "long");
    std::fs::hard_link(at("p"), at("q")).expect("link");
    std::fs::hard_link(at("p"), at("plain/r")).expect("link");
    std::fs::hard_link(at("la"), at("ren/lb")).expect("link");
    std::os::unix::fs::symlink("../nowhere", at("plain/link")).expect("symlink");
    let odd = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"plain/\xff\xfe");
    write(&fixture.mapped[0].join(odd), "not utf-8");
    write(&fixture.mapped[1].join("settings.xml"), "<settings/>");
    let setuid = at("plain/setuid");
    write(&setuid, "s");
    std::os::unix::fs::chown(&setuid, Some(3_000_000), Some(1234)).expect("chown");
    std::fs::set_permissions(&setuid, PermissionsExt::from_mode(0o6755)).expect("chmod");
    let here = nix::fcntl::AT_FDCWD;
    at::mknod(here, &at("plain/null"), Kind::CharDevice, 0o666, 0x103).expect("mknod");
    at::mknod(here, &at("plain/pipe"), Kind::Fifo, 0o600, 0).expect("mknod");
    set_xattr(&at("keep"), "user.note", b"a\nb\0c");
    set_xattr(&at("plain"), "user.dir", b"d");
    // struct posix_acl_xattr_header, then user::rwx user:1000:rwx group::r-x
    // mask::rwx other::r-x; the numbers hold newlines (user 10).
    let acl: Vec<u8> = [2_u32.to_le_bytes().to_vec()]
        .into_iter()
        .chain(
            [
                (1_u16, 7_u16, u32::MAX),
                (2, 7, 10),
                (4, 5, u32::MAX),
                (16, 7, u32::MAX),
                (32, 5, u32::MAX),
            ]
            .map(|(tag, perm, id)| {
                [
                    &tag.to_le_bytes()[..],
                    &perm.to_le_bytes(),
                    &id.to_le_bytes(),
                ]
                .concat()
            }),
        )
        .flatten()
        .collect();
    set_xattr(&at("plain"), "system.posix_acl_default", &acl);
    let sparse = std::fs::File::create(at("sparse")).expect("create");
    sparse.set_len(3 << 20).expect("size");
    sparse.write_all_at(b"end", (3 << 20) - 3).expect("write");
    time(&at("sparse"), -5, 250_000_000);
    time(&at("plain"), 1_500_000_000, 1);
    time(&fixture.mapped[0], 1_500_000_000, 987_654_321);
    fixture.take_base();

    fixture.layer("000001-one", |layer| {
        layer.delete("0/gone");
        layer.delete("0/dir_gone");
        layer.dir("0/opq", true);
        layer.file("0/opq/new", b"new");
        layer.rename_dir("0/ren", "0/moved");
        layer.chmod_lower("0/meta", 0o4711);
        layer.file("0/h1", b"linked");
        layer.link("0/h1", "0/plain/h2");
        layer.delete("0/q");
        let p = layer
            .stack
            .find(Path::new("0/p"))
            .expect("find")
            .expect("there");
        let state = harness_fs::layer::LinkState {
            nlink: 2,
            origin: 3,
            here: false,
        };
        layer.open.set_link_state(p.attr.ino, state).expect("links");
        let null = layer.path("0/zero");
        let ino = layer.inos.allocate();
        copy_up::make_node(layer.open, &null, Kind::CharDevice, 0, ino).expect("node");
        layer.file("1/later", b"in the second path");
    });
    fixture.layer("000002-empty", |_| {});
    fixture.layer("000003-two", |layer| {
        layer.file("0/moved/f1", b"changed after the rename");
        layer.delete("0/moved/sub/f2");
        layer.delete("0/to_file");
        layer.file("0/to_file", b"now a file");
        layer.dir("0/to_dir", true);
        layer.file("0/to_dir/inner", &vec![7; 300_000]);
        layer.rename_dir("0/moved/sub/deep", "0/shallow");
        layer.file("2", b"{\"changed\":true}");
    });
    fixture
}

/// The owner's view of a file's link count, for checks on plain directories.
pub fn inode(path: &Path) -> (u64, u64) {
    let meta = std::fs::symlink_metadata(path).expect("stat");
    (meta.ino(), meta.nlink())
}
