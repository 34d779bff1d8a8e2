//! What hides what: a directory, a file, a symlink, a special file, an opaque directory and a whiteout over each of them,
//! at the top and below others, and over each other again in a second layer. The same is done in a plain directory,
//! which says what must be there: to the kernel that saw it being done, to one that sees it for the first time, and to the
//! kernel's own overlayfs (Documentation/filesystems/overlayfs.rst).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::mounted::Mounted;

/// A view and a plain directory that began alike, and in which the same is done.
struct Twins {
    view: Mounted,
    plain: tempfile::TempDir,
}

impl Twins {
    fn over(fill: impl Fn(&Path)) -> Twins {
        let plain = tempfile::tempdir_in("/var/tmp").expect("temporary directory");
        fill(plain.path());
        let view = Mounted::over(fill);
        Twins { view, plain }
    }

    fn both(&self, act: impl Fn(&Path)) {
        act(self.plain.path());
        act(&self.view.root());
    }

    #[track_caller]
    fn agree(&self, when: &str) {
        let (wanted, seen) = (shape(self.plain.path()), shape(&self.view.root()));
        same(&wanted, &seen, when);
    }

    /// Also to who sees it for the first time, and when it is sealed.
    #[track_caller]
    fn agree_for_good(&mut self, when: &str) {
        self.agree(when);
        self.view.remount();
        self.agree(&format!("{when}, mounted again"));
        self.view.seal_and_remount();
        self.agree(&format!("{when}, sealed"));
        let overlay = Overlay::of(&self.view);
        let (wanted, seen) = (shape(self.plain.path()), shape(&overlay.at));
        same(&wanted, &seen, &format!("{when}, to overlayfs"));
    }
}

/// The kernel's overlayfs over the layers of a view.
struct Overlay {
    at: PathBuf,
}

impl Overlay {
    fn of(view: &Mounted) -> Overlay {
        let at = view.base().with_file_name("overlay");
        fs::create_dir_all(&at).expect("mkdir");
        let mut lower = view.sealed_layers();
        lower.push(view.base());
        let lower: Vec<_> = lower.iter().map(|at| at.display().to_string()).collect();
        let options = format!(
            "lowerdir={},redirect_dir=follow,metacopy=on",
            lower.join(":")
        );
        let flags = MsFlags::MS_RDONLY;
        mount(Some("test"), &at, Some("overlay"), flags, Some(&*options)).expect("overlayfs");
        Overlay { at }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        umount2(&self.at, MntFlags::MNT_DETACH).expect("umount");
    }
}

/// A line for each entry: what it is, and what is in it.
fn shape(root: &Path) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).expect("readdir") {
            let entry = entry.expect("entry");
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).expect("lstat");
            let listed = entry.file_type().expect("type");
            assert_eq!(listed, meta.file_type(), "{}", path.display());
            let what = if meta.is_dir() {
                open.push(path.clone());
                "dir".to_owned()
            } else if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("readlink").display())
            } else if meta.is_file() {
                fs::read_to_string(&path).expect("read")
            } else if meta.file_type().is_fifo() {
                "fifo".to_owned()
            } else {
                format!("device {:x}", meta.rdev())
            };
            let name = path.strip_prefix(root).expect("below").display();
            lines.insert(format!("{name} {:o} {what}", meta.mode() & 0o7777));
        }
    }
    lines
}

#[track_caller]
fn same(wanted: &BTreeSet<String>, seen: &BTreeSet<String>, when: &str) {
    let missing: Vec<_> = wanted.difference(seen).collect();
    let excess: Vec<_> = seen.difference(wanted).collect();
    assert!(
        missing.is_empty() && excess.is_empty(),
        "{when}: missing {missing:?}, in excess {excess:?}"
    );
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).expect("rm -rf"),
        Ok(_) => fs::remove_file(path).expect("unlink"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT)),
    }
}

/// What a place can be, with how it becomes that.
const KINDS: [&str; 7] = ["none", "dir", "empty", "file", "link", "fifo", "tree"];
const CHANGES: [&str; 9] = [
    "kept", "whiteout", "file", "link", "fifo", "merged", "opaque", "emptied", "nested",
];

fn make(kind: &str, at: &Path) {
    match kind {
        "none" => {}
        "dir" => {
            fs::create_dir(at).expect("mkdir");
            fs::write(at.join("old"), "old").expect("write");
        }
        "empty" => fs::create_dir(at).expect("mkdir"),
        "file" => fs::write(at, "old file").expect("write"),
        "link" => symlink("../elsewhere", at).expect("symlink"),
        "fifo" => mknod(at, SFlag::S_IFIFO, Mode::from_bits_truncate(0o644), 0).expect("mkfifo"),
        "tree" => {
            fs::create_dir_all(at.join("sub/deep")).expect("mkdir");
            fs::write(at.join("sub/deep/old"), "old").expect("write");
            symlink("sub", at.join("to-sub")).expect("symlink");
        }
        other => panic!("{other}"),
    }
}

fn change(change: &str, at: &Path, text: &str) {
    match change {
        "kept" => return,
        // Whatever directory there is stays, and gets an entry.
        "merged" if at.is_dir() && !at.is_symlink() => {
            fs::write(at.join("new"), text).expect("write");
            return;
        }
        "emptied" if at.is_dir() && !at.is_symlink() => {
            for entry in fs::read_dir(at).expect("readdir") {
                remove(&entry.expect("entry").path());
            }
            return;
        }
        // The same once more, further down.
        "nested" if at.join("sub").is_dir() => {
            let sub = at.join("sub");
            remove(&sub.join("deep"));
            fs::write(sub.join("deep"), text).expect("write");
            remove(&at.join("to-sub"));
            fs::create_dir(at.join("to-sub")).expect("mkdir");
            return;
        }
        _ => remove(at),
    }
    match change {
        "whiteout" => {}
        "file" => fs::write(at, text).expect("write"),
        "link" => symlink(text, at).expect("symlink"),
        "fifo" => make("fifo", at),
        "merged" | "opaque" => {
            fs::create_dir(at).expect("mkdir");
            fs::write(at.join("new"), text).expect("write");
        }
        "emptied" => fs::create_dir(at).expect("mkdir"),
        "nested" => {
            fs::create_dir_all(at.join("sub/deep")).expect("mkdir");
            fs::write(at.join("sub/deep/new"), text).expect("write");
        }
        other => panic!("{other}"),
    }
}

/// Every kind, changed in every way, and that in every way again.
fn each(at: &Path, mut act: impl FnMut(&str, &str, &str, &Path)) {
    for below in ["", "nest/sub"] {
        for kind in KINDS {
            for first in CHANGES {
                for second in CHANGES {
                    let name = format!("{kind}-{first}-{second}");
                    act(kind, first, second, &at.join(below).join(name));
                }
            }
        }
    }
}

#[test]
fn each_marker_over_each_kind_is_as_in_a_plain_directory() {
    let mut twins = Twins::over(|base| {
        fs::create_dir_all(base.join("nest/sub")).expect("mkdir");
        each(base, |kind, _, _, at| make(kind, at));
    });
    twins.agree("nothing done");
    twins.both(|root| each(root, |_, first, _, at| change(first, at, "first")));
    twins.agree_for_good("changed");
    twins.both(|root| each(root, |_, _, second, at| change(second, at, "second")));
    twins.agree_for_good("changed again");
}

/// Directories by where they come from.
const DIRECTORIES: [&str; 8] = [
    "lower",
    "merged",
    "upper",
    "opaque",
    "moved",
    "emptied",
    "empty",
    "copied-up",
];

fn directories_below(base: &Path) {
    for name in [
        "lower",
        "merged",
        "opaque",
        "before",
        "emptied",
        "copied-up",
    ] {
        fs::create_dir_all(base.join(name).join("sub")).expect("mkdir");
        fs::write(base.join(name).join("old"), name).expect("write");
        fs::write(base.join(name).join("sub/old"), name).expect("write");
    }
    fs::create_dir(base.join("empty")).expect("mkdir");
}

fn directories_above(root: &Path) {
    let file = |name: &str| fs::write(root.join(name), name).expect("write");
    file("merged/new");
    file("merged/sub/new");
    fs::create_dir_all(root.join("upper/sub")).expect("mkdir");
    file("upper/new");
    fs::remove_dir_all(root.join("opaque")).expect("rm -rf");
    fs::create_dir(root.join("opaque")).expect("mkdir");
    file("opaque/new");
    fs::rename(root.join("before"), root.join("moved")).expect("rename");
    fs::remove_dir_all(root.join("emptied/sub")).expect("rm -rf");
    fs::remove_file(root.join("emptied/old")).expect("unlink");
    let perm = fs::Permissions::from_mode(0o700);
    fs::set_permissions(root.join("copied-up"), perm).expect("chmod");
}

/// Each directory onto each place, in a tree of its own: over nothing, over
/// directories that are empty and not, and in exchange; answers are the same.
#[test]
fn every_directory_can_be_renamed_onto_what_a_plain_one_can() {
    const ONTO: [&str; 4] = ["nothing", "a-file", "a-lower-empty", "an-upper-empty"];
    let targets: Vec<&str> = ONTO.into_iter().chain(DIRECTORIES).collect();
    let cases = || {
        let flags = [RenameFlags::empty(), RenameFlags::RENAME_EXCHANGE];
        let mut cases = Vec::new();
        for from in DIRECTORIES {
            for to in &targets {
                for flags in flags {
                    cases.push((from, *to, flags));
                }
            }
        }
        cases
    };
    let tree = |root: &Path, index: usize| root.join(format!("case-{index}"));
    let mut twins = Twins::over(|base| {
        for index in 0..cases().len() {
            fs::create_dir_all(tree(base, index).join("a-lower-empty")).expect("mkdir");
            directories_below(&tree(base, index));
            fs::write(tree(base, index).join("a-file"), "file").expect("write");
        }
    });
    twins.both(|root| {
        for index in 0..cases().len() {
            directories_above(&tree(root, index));
            fs::create_dir(tree(root, index).join("an-upper-empty")).expect("mkdir");
        }
    });
    let rename = |root: &Path| {
        let mut answers = Vec::new();
        for (index, (from, to, flags)) in cases().into_iter().enumerate() {
            let (from, to) = (tree(root, index).join(from), tree(root, index).join(to));
            answers.push(renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags));
        }
        answers
    };
    let (wanted, seen) = (rename(twins.plain.path()), rename(&twins.view.root()));
    for (index, case) in cases().iter().enumerate() {
        assert_eq!(seen[index], wanted[index], "{case:?}");
    }
    twins.agree_for_good("renamed");
    // Once more with what is sealed now, and there and back.
    twins.both(|root| {
        for index in 0..cases().len() {
            let at = tree(root, index);
            for name in DIRECTORIES {
                let Ok(meta) = fs::symlink_metadata(at.join(name)) else {
                    continue;
                };
                if meta.is_dir() {
                    let away = at.join(format!("{name}-away"));
                    fs::rename(at.join(name), &away).expect("rename");
                    fs::write(away.join("late"), "late").expect("write");
                }
            }
        }
    });
    twins.agree_for_good("renamed again");
}

/// A directory that goes and comes back has nothing of what it had, however
/// often, in whichever layer, and wherever it was moved from.
#[test]
fn a_tree_that_is_removed_and_made_again_starts_anew() {
    let mut twins = Twins::over(|base| {
        fs::create_dir_all(base.join("a/b/c/d")).expect("mkdir");
        fs::create_dir_all(base.join("other/b/c")).expect("mkdir");
        for name in ["a/1", "a/b/2", "a/b/c/3", "a/b/c/d/4", "other/b/c/5"] {
            fs::write(base.join(name), name).expect("write");
        }
    });
    for round in 0..4 {
        let text = format!("round {round}");
        twins.both(|root| {
            fs::remove_dir_all(root.join("a")).expect("rm -rf");
            fs::create_dir_all(root.join("a/b/c")).expect("mkdir");
            fs::write(root.join("a/b/c/3"), &text).expect("write");
        });
        twins.agree_for_good(&text);
        twins.both(|root| {
            fs::remove_dir_all(root.join("a/b")).expect("rm -rf");
            fs::rename(root.join("other"), root.join("a/b")).expect("rename");
            fs::create_dir_all(root.join("other/b/c")).expect("mkdir");
            fs::write(root.join("other/b/c").join(&text), &text).expect("write");
        });
        twins.agree_for_good(&format!("{text}, renamed over"));
    }
}
