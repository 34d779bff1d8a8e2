//! Regressions of others, named after their issues, that we never want to have.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

use crate::mounted::{Mounted, names};

/// fuse-overlayfs 2.0.0: with a reader holding a lower file open, a writer wrote
/// into the lower layer.
#[test]
fn fuse_overlayfs_2_writes_into_the_lower_layer() {
    let view = Mounted::over(|base| fs::write(base.join("g"), "GGGG").expect("write"));
    let mut reader = File::open(view.path("g")).expect("open");
    let mut buffer = [0; 2];
    reader.read_exact(&mut buffer).expect("read");
    let mut writer = OpenOptions::new()
        .write(true)
        .open(view.path("g"))
        .expect("open");
    writer.write_all(b"WWWW").expect("write");
    drop(writer);
    assert_eq!(fs::read_to_string(view.path("g")).expect("read"), "WWWW");
    assert_eq!(
        fs::read_to_string(view.base().join("g")).expect("read"),
        "GGGG"
    );
}

/// fuse-overlayfs #478, #425, #324: what an opaque directory hid came back
/// after a remount.
#[test]
fn fuse_overlayfs_478_opaque_after_remount() {
    let mut view = Mounted::over(|base| {
        fs::create_dir_all(base.join("dir/sub")).expect("mkdir");
        fs::write(base.join("dir/x"), "").expect("write");
        fs::write(base.join("dir/sub/y"), "").expect("write");
    });
    fs::remove_dir_all(view.path("dir")).expect("rm -rf");
    fs::create_dir_all(view.path("dir/sub")).expect("mkdir");
    view.remount();
    assert_eq!(names(&view.path("dir")), ["sub"]);
    assert!(names(&view.path("dir/sub")).is_empty());
}

/// fuse-overlayfs 2.0.0: `st_ino` changed with copy-up and remount.
#[test]
fn fuse_overlayfs_2_changes_inode_numbers() {
    let mut view = Mounted::over(|base| fs::write(base.join("f"), "x").expect("write"));
    let ino = |view: &Mounted| fs::metadata(view.path("f")).expect("stat").ino();
    let first = ino(&view);
    OpenOptions::new()
        .append(true)
        .open(view.path("f"))
        .and_then(|mut file| file.write_all(b"y"))
        .expect("append");
    assert_eq!(ino(&view), first);
    view.remount();
    assert_eq!(ino(&view), first);
    view.seal_and_remount();
    assert_eq!(ino(&view), first);
    fs::rename(view.path("f"), view.path("g")).expect("rename");
    assert_eq!(fs::metadata(view.path("g")).expect("stat").ino(), first);
}

/// node reads `st_ino` into a double; npm's tar takes equal numbers of files
/// with several names for hard links.
#[test]
fn inode_numbers_fit_a_double() {
    let view = Mounted::over(|base| fs::write(base.join("f"), "x").expect("write"));
    fs::write(view.path("new"), "x").expect("write");
    for name in ["f", "new", "."] {
        assert!(fs::metadata(view.path(name)).expect("stat").ino() < 1 << 53);
    }
}
