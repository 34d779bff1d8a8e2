//! The base and the sealed layers never change: every file below is recorded,
//! content and attributes, before and after whatever can be done above.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use harness_fs::sys::xattr;

use crate::rig::{Rig, alone, tool};

/// What is said of each file.
type Record = BTreeMap<PathBuf, String>;

const WAYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/beneath.py");

/// All that a tree is, itself included.
fn record(root: &Path) -> Record {
    let mut found = Record::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mut line = format!(
            "{:o} {}:{} inode {}:{} nlink {} size {} blocks {} device {} mtime {}.{:09} ctime {}.{:09}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.dev(),
            meta.ino(),
            meta.nlink(),
            meta.size(),
            meta.blocks(),
            meta.rdev(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        if kind.is_file() {
            // Of files only: to list a directory changes its own.
            write!(line, " atime {}.{:09}", meta.atime(), meta.atime_nsec()).unwrap();
            write!(line, " content {:x}", digest(&path)).unwrap();
        } else if kind.is_symlink() {
            write!(line, " to {:?}", fs::read_link(&path).unwrap()).unwrap();
        } else if kind.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            left.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let parent = File::open(path.parent().unwrap()).unwrap();
        let name = Path::new(path.file_name().unwrap());
        let mut names = xattr::list(&parent, name).unwrap();
        names.sort();
        for name_of in names {
            let value = xattr::get(&parent, name, &name_of).unwrap();
            let value = value.unwrap_or_default();
            write!(
                line,
                " {}={}",
                name_of.as_bytes().escape_ascii(),
                value.escape_ascii()
            )
            .unwrap();
        }
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
    }
    found
}

fn digest(path: &Path) -> u64 {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOATIME);
    let mut bytes = Vec::new();
    options.open(path).unwrap().read_to_end(&mut bytes).unwrap();
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    hasher.finish()
}

/// What is different, for people.
fn differences(old: &Record, new: &Record) -> String {
    let mut told = String::new();
    for (path, line) in old {
        match new.get(path) {
            Some(other) if other == line => {}
            other => writeln!(
                told,
                "{}\n  was {line}\n  is  {}",
                path.display(),
                other.map_or("gone", String::as_str)
            )
            .unwrap(),
        }
    }
    for path in new.keys().filter(|path| !old.contains_key(*path)) {
        writeln!(told, "{} is new", path.display()).unwrap();
    }
    told
}

/// The base, and every layer that was sealed, as they were.
struct Beneath<'a> {
    rig: &'a Rig,
    /// The base, where nothing is mounted over it.
    base: PathBuf,
    known: BTreeMap<PathBuf, Record>,
}

impl<'a> Beneath<'a> {
    /// Fills the workspace, and keeps a way to it from before it is mounted.
    fn new(rig: &'a Rig) -> Beneath<'a> {
        ways(&rig.ws(), "base");
        let base = rig.path().join("below");
        fs::create_dir(&base).unwrap();
        let (from, to) = (rig.ws(), base.to_str().unwrap());
        tool("mount", &["--bind", from.to_str().unwrap(), to]);
        let known = [(base.clone(), record(&base))].into();
        Beneath { rig, base, known }
    }

    /// Compares what there was, and takes up what is sealed since.
    #[track_caller]
    fn check(&mut self, after: &str) {
        self.compare(after, false);
    }

    /// The same after something that may have removed layers.
    #[track_caller]
    fn check_what_is_left(&mut self, after: &str) {
        self.compare(after, true);
    }

    #[track_caller]
    fn compare(&mut self, after: &str, may_go: bool) {
        self.known.retain(|tree, old| {
            if may_go && !tree.exists() {
                return false;
            }
            let told = differences(old, &record(tree));
            assert!(told.is_empty(), "{after}: {}\n{told}", tree.display());
            true
        });
        for entry in fs::read_dir(self.rig.state().join("layers")).unwrap() {
            let layer = entry.unwrap().path();
            self.known
                .entry(layer.clone())
                .or_insert_with(|| record(&layer));
        }
    }

    /// How many layers there are.
    fn layers(&self) -> usize {
        self.known.len() - 1
    }

    /// Lets go of the base. Its files are as they were, but for the test's own.
    fn end(self) {
        tool("umount", &[self.base.to_str().unwrap()]);
        for entry in fs::read_dir(self.rig.ws()).unwrap() {
            let entry = entry.unwrap();
            let own = ["src", "readme", "log", "link"];
            if !own.iter().any(|name| entry.file_name() == *name) {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }
}

/// Runs a part of `beneath.py` in a directory.
#[track_caller]
fn ways(dir: &Path, part: &str) {
    let output = Command::new("python3")
        .args([WAYS, part])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// That a difference is seen at all.
#[test]
fn a_change_of_any_attribute_is_noticed() {
    let of_any = [
        "chmod u-r NAME",
        "chown 3 NAME",
        "chgrp 3 NAME",
        "touch -d '2001-01-01 01:01:01.000000001' NAME",
        "setfattr -n user.x -v y NAME",
        "setfattr -n trusted.overlay.opaque -v y NAME",
        "mv NAME other; mv other NAME",
    ];
    let of_files = [
        "printf X >NAME",
        "printf X | dd of=NAME conv=notrunc status=none; touch -d 2001-01-01 NAME",
        "truncate -s +1 NAME",
        "ln NAME further; rm further",
        "touch -a -d 2001-01-01 NAME",
        "cp --preserve=all NAME other; mv other NAME",
        "rm NAME",
    ];
    let of_directories = ["rmdir NAME", ": >NAME/new", "mkdir NAME/new"];
    let changes = [
        ("file", &of_any[..]),
        ("dir", &of_any),
        ("file", &of_files),
        ("dir", &of_directories),
    ];
    let changes = changes
        .iter()
        .flat_map(|(name, of)| of.iter().map(|change| change.replace("NAME", name)));
    let plain = tempfile::tempdir_in("/var/tmp").unwrap();
    for change in changes {
        let root = plain.path().join("tree");
        fs::create_dir_all(root.join("dir")).unwrap();
        fs::write(root.join("file"), "content").unwrap();
        let before = record(&root);
        assert_eq!(differences(&before, &record(&root)), "");
        let mut shell = Command::new("sh");
        let status = shell.args(["-ec", &change]).current_dir(&root).status();
        assert!(status.unwrap().success(), "{change}");
        assert_ne!(differences(&before, &record(&root)), "", "{change}");
        fs::remove_dir_all(&root).unwrap();
    }
}

/// Every way to change a file, in a step that is discarded, in the stage view,
/// and in a step that is merged.
fn changed_in_every_way(rig: &Rig, options: &[&str]) {
    let mut beneath = Beneath::new(rig);
    let ws = rig.ws();
    rig.ok(&[&["mount", "--workspace", ws.to_str().unwrap()], options].concat());
    rig.ok(&["step", "run", "layer", "--", "python3", WAYS, "layer"]);
    beneath.check("the layer is merged");
    assert!(beneath.layers() > 0);
    let change = ["--", "python3", WAYS, "change"];
    rig.ok(&[&["step", "begin", "kept"][..]].concat());
    rig.ok(&[&["step", "exec", "kept"], &change[..]].concat());
    beneath.check("changed in an open step");
    rig.ok(&["step", "discard", "kept"]);
    beneath.check("discarded");
    rig.ok(&["snapshot", "create", "before"]);
    ways(&ws, "change");
    beneath.check("changed in the stage view");
    rig.ok(&["snapshot", "create", "after"]);
    beneath.check("sealed");
    rig.ok(&["snapshot", "restore", "before"]);
    beneath.check("restored");
    let ran = rig.run(&[&["step", "run", "merged"], &change[..]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    beneath.check("merged");
    rig.ok(&["snapshot", "create", "last"]);
    let out = rig.path().join("out");
    rig.ok(&["export", "last", "--to", out.to_str().unwrap()]);
    beneath.check("exported");
    rig.ok(&["unmount", "--keep-state"]);
    beneath.check("unmounted");
    rig.ok(&["mount", "--resume"]);
    beneath.check("resumed");
    rig.ok(&["unmount"]);
    beneath.end();
}

#[test]
fn whatever_is_changed_above() {
    alone(|rig| changed_in_every_way(rig, &[]));
}

#[test]
fn whatever_is_changed_above_without_passthrough() {
    alone(|rig| changed_in_every_way(rig, &["--no-passthrough"]));
}

/// Holds files of the stage view open in every way, and writes through them
/// whenever it is asked to.
struct Holder {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

const HOLDER: &str = "
import errno, mmap, os, sys
held = []
for way in ['append', 'empty', 'write']:
    for name in ['base', 'sealed', 'metadata', 'linked', 'sealed-linked']:
        path = f'{way}/{name}'
        reader = os.open(path, os.O_RDONLY)
        seen = mmap.mmap(reader, 4096, prot=mmap.PROT_READ)
        seen[:1]
        if len(held) % 2:
            writer = os.open(path, os.O_RDWR)
            mapped = mmap.mmap(writer, 8192)
            held.append((path, reader, seen, writer, mapped))
        else:
            held.append((path, reader, seen, None, None))
print('holds', len(held), flush=True)
for number, line in enumerate(sys.stdin):
    failed = set()
    def attempt(call):
        try: call()
        # What a restore has left, or a merge has taken.
        except OSError as error: failed.add(errno.errorcode[error.errno])
    for path, reader, seen, writer, mapped in held:
        attempt(lambda: os.fchmod(reader, 0o700 + number % 8))
        attempt(lambda: os.utime(reader, (number, number)))
        attempt(lambda: os.setxattr(reader, 'user.held', b'%d' % number))
        if writer is not None:
            attempt(lambda: os.pwrite(writer, b'%8d' % number, 16))
            mapped[4096:4104] = b'%8d' % number
            attempt(mapped.flush)
            assert mapped[16:24] == b'%8d' % number or failed, path
    print('poked', *sorted(failed), flush=True)
";

impl Holder {
    fn new(ws: &Path) -> Holder {
        let mut child = Command::new("python3")
            .args(["-c", HOLDER])
            .current_dir(ws)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Holder { child, to, from };
        let holds = holder.line();
        assert!(holds.starts_with("holds "), "{holds}");
        holder
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Writes through all that is held; says which errors there were.
    fn poke(&mut self) -> String {
        writeln!(self.to).unwrap();
        let answer = self.line();
        let failed = answer.strip_prefix("poked").unwrap();
        failed.trim().to_owned()
    }

    fn end(mut self) {
        drop(self.to);
        assert!(self.child.wait().unwrap().success());
    }
}

/// Handles and mappings that are older than what was sealed below them.
#[test]
fn whoever_holds_files_open_while_layers_are_sealed() {
    alone(|rig| {
        let mut beneath = Beneath::new(rig);
        let ws = rig.ws();
        rig.mount();
        rig.ok(&["step", "run", "layer", "--", "python3", WAYS, "layer"]);
        rig.ok(&["snapshot", "create", "first"]);
        beneath.check("the layer is merged");
        let mut holder = Holder::new(&ws);
        beneath.check("held");
        let out = rig.path().join("out").display().to_string();
        let tree = rig.path().join("tree").display().to_string();
        let operations: [&[&str]; 9] = [
            &["snapshot", "create", "second"],
            &["step", "run", "touch", "--", "touch", "write/dir/base"],
            &["step", "begin", "open"],
            &[
                "step",
                "exec",
                "open",
                "--",
                "python3",
                "-c",
                "open('new', 'w').write('x')",
            ],
            &["step", "merge", "open"],
            &["diff"],
            &["export", "second", "--to", &out],
            &["apply", &tree],
            &["snapshot", "create", "third"],
        ];
        for operation in operations {
            assert_eq!(holder.poke(), "", "before {operation:?}");
            beneath.check("poked");
            rig.ok(operation);
            beneath.check(&format!("{operation:?}"));
            assert_eq!(holder.poke(), "", "after {operation:?}");
            beneath.check("poked again");
        }
        for (number, operation) in [
            &["rollback", "touch"][..],
            &["snapshot", "restore", "third"],
            &["snapshot", "restore", "first"],
        ]
        .into_iter()
        .enumerate()
        {
            rig.ok(operation);
            beneath.check_what_is_left(&format!("{operation:?}"));
            // What only a layer that was left has cannot be written any more.
            let failed = holder.poke();
            assert!(["", "ESTALE"].contains(&failed.as_str()), "{failed}");
            beneath.check_what_is_left("poked");
            rig.ok(&["snapshot", "create", &format!("after-{number}")]);
        }
        rig.ok(&["unmount", "--keep-state"]);
        holder.end();
        beneath.check_what_is_left("unmounted");
        rig.ok(&["mount", "--resume"]);
        beneath.check("resumed");
        rig.ok(&["unmount"]);
        beneath.end();
    });
}
