//! mkdir, rmdir, readdir, and renames of directories.

use std::fs;
use std::path::Path;

use crate::mounted::{Mounted, names};

fn fill(base: &Path) {
    fs::create_dir_all(base.join("dir/sub/deep")).expect("mkdir");
    fs::write(base.join("dir/a"), "a").expect("write");
    fs::write(base.join("dir/sub/b"), "b").expect("write");
    fs::write(base.join("dir/sub/deep/c"), "c").expect("write");
    fs::create_dir(base.join("empty")).expect("mkdir");
}

#[test]
fn a_lower_directory_moves_with_all_below() {
    let mut view = Mounted::over(fill);
    fs::rename(view.path("dir"), view.path("moved")).expect("rename");
    assert!(!view.path("dir").exists());
    assert_eq!(
        fs::read_to_string(view.path("moved/sub/deep/c")).expect("read"),
        "c"
    );
    fs::write(view.path("moved/sub/b"), "B").expect("write");
    fs::rename(view.path("moved/sub"), view.path("sub")).expect("rename");
    fs::create_dir(view.path("dir")).expect("mkdir");
    fs::write(view.path("dir/new"), "new").expect("write");
    let check = |view: &Mounted| {
        assert_eq!(names(&view.root()), ["dir", "empty", "moved", "sub"]);
        assert_eq!(names(&view.path("dir")), ["new"]);
        assert_eq!(names(&view.path("moved")), ["a"]);
        assert_eq!(names(&view.path("sub")), ["b", "deep"]);
        assert_eq!(fs::read_to_string(view.path("sub/b")).expect("read"), "B");
        assert_eq!(
            fs::read_to_string(view.path("sub/deep/c")).expect("read"),
            "c"
        );
    };
    check(&view);
    view.remount();
    check(&view);
    view.seal_and_remount();
    check(&view);
    fs::rename(view.path("sub"), view.path("moved/again")).expect("rename");
    view.seal_and_remount();
    assert_eq!(
        fs::read_to_string(view.path("moved/again/deep/c")).expect("read"),
        "c"
    );
    assert_eq!(
        fs::read_to_string(view.path("moved/again/b")).expect("read"),
        "B"
    );
}

#[test]
fn removing_and_making_again_hides_what_was_below() {
    let mut view = Mounted::over(fill);
    fs::remove_dir_all(view.path("dir")).expect("rm -rf");
    assert!(!view.path("dir").exists());
    fs::create_dir_all(view.path("dir/sub")).expect("mkdir");
    let check = |view: &Mounted| {
        assert_eq!(names(&view.path("dir")), ["sub"]);
        assert_eq!(names(&view.path("dir/sub")), Vec::<String>::new());
    };
    check(&view);
    view.remount();
    check(&view);
    view.seal_and_remount();
    check(&view);
}

#[test]
fn rmdir_wants_an_empty_directory() {
    let view = Mounted::over(fill);
    let errno = |path: &str| {
        fs::remove_dir(view.path(path))
            .err()
            .and_then(|e| e.raw_os_error())
    };
    assert_eq!(errno("dir"), Some(libc::ENOTEMPTY));
    assert_eq!(errno("dir/a"), Some(libc::ENOTDIR));
    assert_eq!(errno("gone"), Some(libc::ENOENT));
    assert_eq!(errno("empty"), None);
    fs::remove_file(view.path("dir/sub/deep/c")).expect("unlink");
    assert_eq!(errno("dir/sub/deep"), None);
}

#[test]
fn rename_over_and_exchange() {
    let mut view = Mounted::over(fill);
    let errno = |from: &str, to: &str| {
        fs::rename(view.path(from), view.path(to))
            .err()
            .and_then(|e| e.raw_os_error())
    };
    assert_eq!(errno("empty", "dir"), Some(libc::ENOTEMPTY));
    assert_eq!(errno("dir", "dir/sub/x"), Some(libc::EINVAL));
    assert_eq!(errno("dir/a", "empty"), Some(libc::EISDIR));
    assert_eq!(errno("empty", "dir/a"), Some(libc::ENOTDIR));
    assert_eq!(errno("dir/sub", "empty"), None);
    assert_eq!(names(&view.path("empty")), ["b", "deep"]);
    let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    let here = nix::fcntl::AT_FDCWD;
    nix::fcntl::renameat2(here, &view.path("dir"), here, &view.path("empty"), flags)
        .expect("exchange");
    let check = |view: &Mounted| {
        assert_eq!(names(&view.path("dir")), ["b", "deep"]);
        assert_eq!(names(&view.path("empty")), ["a"]);
    };
    check(&view);
    view.seal_and_remount();
    check(&view);
    let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
    let taken = nix::fcntl::renameat2(here, &view.path("dir"), here, &view.path("empty"), flags);
    assert_eq!(taken, Err(nix::errno::Errno::EEXIST));
}

#[test]
fn a_large_directory_is_listed_while_it_is_emptied() {
    let view = Mounted::over(|base| {
        for i in 0..2000 {
            fs::write(base.join(format!("lower{i}")), "").expect("write");
        }
    });
    for i in 0..2000 {
        fs::write(view.path(&format!("upper{i}")), "").expect("write");
    }
    assert_eq!(names(&view.root()).len(), 4000);
    let mut removed = 0;
    for entry in fs::read_dir(view.root()).expect("readdir") {
        fs::remove_file(entry.expect("entry").path()).expect("unlink");
        removed += 1;
    }
    assert_eq!(removed, 4000);
    assert_eq!(names(&view.root()).len(), 0);
}

#[test]
fn a_second_walk_does_not_wake_the_daemon() {
    let view = Mounted::over(fill);
    let walk = || {
        crate::mounted::listing(&view.root());
        let _ = fs::metadata(view.path("missing"));
        let _ = fs::metadata(view.path("dir/missing"));
    };
    walk();
    walk();
    let asked = |view: &Mounted| {
        view.requests()
            .into_iter()
            .filter(|(op, _)| !matches!(op.as_str(), "open" | "release" | "read" | "forget"))
            .map(|(_, count)| count)
            .sum::<u64>()
    };
    let before = asked(&view);
    walk();
    assert_eq!(asked(&view), before, "{:?}", view.requests());
}

/// What an overlayfs does to its upper directory.
#[test]
fn a_rename_can_leave_a_device_behind() {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut view = Mounted::over(|base| {
        fs::create_dir_all(base.join("d/dir/sub")).expect("mkdir");
        fs::create_dir(base.join("d/empty")).expect("mkdir");
        for name in ["d/file", "d/other", "d/third"] {
            fs::write(base.join(name), name).expect("write");
        }
    });
    fs::write(view.path("d/new"), "d/new").expect("write");
    let whiteout = RenameFlags::RENAME_WHITEOUT;
    let rename = |view: &Mounted, from: &str, to: &str, flags| {
        let (from, to) = (view.path(from), view.path(to));
        renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags)
    };
    let listed = names(&view.path("d"));
    rename(&view, "d/file", "d/moved", whiteout).expect("lower file");
    rename(&view, "d/new", "d/other", whiteout).expect("over a file");
    rename(&view, "d/dir", "d/empty", whiteout).expect("over a directory");
    let both = whiteout | RenameFlags::RENAME_NOREPLACE;
    let refused = rename(&view, "d/third", "d/other", both);
    assert_eq!(refused, Err(nix::errno::Errno::EEXIST));
    for sealed in [false, true] {
        if sealed {
            view.seal_and_remount();
        }
        for name in ["d/file", "d/new", "d/dir"] {
            let left = fs::symlink_metadata(view.path(name)).expect("stat");
            assert!(left.file_type().is_char_device(), "{name}");
            assert_eq!((left.rdev(), left.nlink()), (0, 1), "{name}");
        }
        let read = |name: &str| fs::read_to_string(view.path(name)).expect("read");
        assert_eq!(read("d/moved"), "d/file");
        assert_eq!(read("d/other"), "d/new");
        assert_eq!(read("d/third"), "d/third");
        assert_eq!(names(&view.path("d/empty")), ["sub"]);
        assert_eq!(names(&view.path("d")).len(), listed.len() + 1);
    }
    fs::remove_file(view.path("d/file")).expect("a device can be removed");
    assert!(!view.path("d/file").exists());
}
