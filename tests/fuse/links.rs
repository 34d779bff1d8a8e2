//! Hard links: one inode, whatever its names and layers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::mounted::Mounted;

fn fill(base: &Path) {
    fs::create_dir(base.join("dir")).expect("mkdir");
    fs::write(base.join("a"), "content").expect("write");
    fs::hard_link(base.join("a"), base.join("dir/b")).expect("link");
    fs::hard_link(base.join("a"), base.join("dir/c")).expect("link");
    fs::write(base.join("single"), "single").expect("write");
}

fn same(view: &Mounted, one: &str, two: &str) -> bool {
    let ino = |path: &str| fs::metadata(view.path(path)).expect("stat").ino();
    ino(one) == ino(two)
}

#[test]
fn all_names_change_together_across_copy_up_remount_and_seal() {
    let mut view = Mounted::over(fill);
    let ino = fs::metadata(view.path("a")).expect("stat").ino();
    fs::write(view.path("dir/b"), "changed").expect("write");
    let check = |view: &Mounted| {
        for name in ["a", "dir/b", "dir/c"] {
            let meta = fs::metadata(view.path(name)).expect("stat");
            assert_eq!(meta.ino(), ino, "{name}");
            assert_eq!(meta.nlink(), 3, "{name}");
            assert_eq!(
                fs::read_to_string(view.path(name)).expect("read"),
                "changed",
                "{name}"
            );
        }
    };
    check(&view);
    view.remount();
    check(&view);
    view.seal_and_remount();
    check(&view);
}

#[test]
fn nlink_counts_what_the_view_shows() {
    let mut view = Mounted::over(fill);
    fs::remove_file(view.path("dir/c")).expect("unlink");
    let check = |view: &Mounted| {
        assert_eq!(fs::metadata(view.path("a")).expect("stat").nlink(), 2);
        assert_eq!(
            fs::read_to_string(view.path("dir/b")).expect("read"),
            "content"
        );
    };
    check(&view);
    view.remount();
    check(&view);
    view.seal_and_remount();
    check(&view);
    fs::remove_file(view.path("a")).expect("unlink");
    assert_eq!(fs::metadata(view.path("dir/b")).expect("stat").nlink(), 1);
    fs::write(view.path("dir/b"), "last").expect("write");
    view.seal_and_remount();
    assert_eq!(
        fs::read_to_string(view.path("dir/b")).expect("read"),
        "last"
    );
    assert!(!view.path("a").exists());
}

#[test]
fn new_links_to_new_and_lower_files() {
    let mut view = Mounted::over(fill);
    fs::write(view.path("new"), "new").expect("write");
    fs::hard_link(view.path("new"), view.path("new2")).expect("link");
    fs::hard_link(view.path("single"), view.path("dir/single2")).expect("link");
    fs::hard_link(view.path("a"), view.path("d")).expect("link");
    let check = |view: &Mounted| {
        assert!(same(view, "new", "new2"));
        assert!(same(view, "single", "dir/single2"));
        assert!(same(view, "a", "d") && same(view, "dir/b", "d"));
        let nlink = |path: &str| fs::metadata(view.path(path)).expect("stat").nlink();
        assert_eq!((nlink("new"), nlink("single"), nlink("dir/c")), (2, 2, 4));
    };
    check(&view);
    view.remount();
    check(&view);
    view.seal_and_remount();
    check(&view);
    fs::remove_file(view.path("new")).expect("unlink");
    assert_eq!(fs::metadata(view.path("new2")).expect("stat").nlink(), 1);
    fs::rename(view.path("dir/c"), view.path("e")).expect("rename");
    assert!(same(&view, "e", "a"));
    fs::write(view.path("e"), "via e").expect("write");
    view.seal_and_remount();
    for name in ["a", "d", "e", "dir/b"] {
        assert_eq!(
            fs::read_to_string(view.path(name)).expect("read"),
            "via e",
            "{name}"
        );
    }
}

#[test]
fn a_directory_cannot_be_linked_and_renaming_onto_itself_does_nothing() {
    let view = Mounted::over(fill);
    let refused = fs::hard_link(view.path("dir"), view.path("x")).expect_err("link");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    fs::rename(view.path("a"), view.path("dir/b")).expect("rename");
    assert!(view.path("a").exists() && view.path("dir/b").exists());
}
