//! That it is the filesystem of the views: what the peers' overlays do wrong, through this mount.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::errno::Errno;

use super::rig::Rig;
use super::tree::{alike, seen};

/// fuse-overlayfs 2.0.0 writes into the lower directory here.
#[test]
fn a_reader_does_not_lead_a_writer_to_the_lower_file() {
    for passthrough in ["on", "off"] {
        let rig = Rig::over(|lower| fs::write(lower.join("file"), "lower").unwrap());
        let below = seen(&rig.at("lower"));
        let options = rig.options(&["lower"]) + &format!(",passthrough={passthrough}");
        let mounted = rig.mount_with(&options);
        let mut reader = fs::File::open(mounted.path("file")).unwrap();
        let mut writer = fs::File::options()
            .write(true)
            .open(mounted.path("file"))
            .unwrap();
        writer.write_all(b"upper").unwrap();
        let mut text = String::new();
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "upper");
        drop((reader, writer));
        alike(&seen(&rig.at("lower")), &below, "the lower directory");
        mounted.end();
        assert_eq!(fs::read_to_string(rig.at("up/file")).unwrap(), "upper");
        alike(&seen(&rig.at("lower")), &below, "the lower directory");
    }
}

#[test]
fn a_change_of_metadata_copies_content_unless_it_is_allowed_to_leave_it() {
    for (metacopy, blocks) in [("off", true), ("on", false)] {
        let rig = Rig::over(|lower| fs::write(lower.join("file"), [7; 9000]).unwrap());
        let mounted = rig.mount_with(&format!("{},metacopy={metacopy}", rig.options(&["lower"])));
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(mounted.path("file"), mode).unwrap();
        fs::rename(mounted.path("file"), mounted.path("other")).unwrap();
        assert_eq!(fs::read(mounted.path("other")).unwrap(), [7; 9000]);
        mounted.end();
        let upper = fs::metadata(rig.at("up/other")).unwrap();
        assert_eq!((upper.mode() & 0o777, upper.size()), (0o600, 9000));
        assert_eq!(upper.blocks() > 0, blocks, "metacopy={metacopy}");
        let mounted = rig.mount();
        assert_eq!(fs::read(mounted.path("other")).unwrap(), [7; 9000]);
        mounted.end();
    }
}

#[test]
fn without_redirects_lower_directories_stay_where_they_are() {
    let rig = Rig::over(|lower| fs::create_dir_all(lower.join("dir/in")).unwrap());
    let mounted = rig.mount_with(&(rig.options(&["lower"]) + ",redirect_dir=off"));
    let (dir, other) = (mounted.path("dir"), mounted.path("other"));
    let refused = fs::rename(&dir, &other).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::EXDEV as i32));
    fs::create_dir(mounted.path("new")).unwrap();
    fs::rename(mounted.path("new"), &other).unwrap();
    assert!(dir.join("in").is_dir());
    mounted.end();
}

/// The kernel's default (index=off) parts names that were one file below.
#[test]
fn names_of_one_file_stay_that_whoever_gave_them() {
    let rig = Rig::over(|lower| {
        fs::write(lower.join("a"), "lower").unwrap();
        fs::hard_link(lower.join("a"), lower.join("b")).unwrap();
    });
    fs::write(rig.at("up/c"), "upper").unwrap();
    fs::hard_link(rig.at("up/c"), rig.at("up/d")).unwrap();
    fs::hard_link(rig.at("up/c"), rig.at("up/e")).unwrap();
    let mounted = rig.mount();
    let read = |name: &str| fs::read_to_string(mounted.path(name)).unwrap();
    fs::write(mounted.path("b"), "one").unwrap();
    assert_eq!(read("a"), "one");
    let mut open = fs::File::options()
        .append(true)
        .open(mounted.path("c"))
        .unwrap();
    fs::remove_file(mounted.path("c")).unwrap();
    open.write_all(b", and more").unwrap();
    assert_eq!(
        (read("d"), read("e")),
        ("upper, and more".into(), "upper, and more".into())
    );
    assert_eq!(fs::metadata(mounted.path("d")).unwrap().nlink(), 2);
    fs::remove_file(mounted.path("d")).unwrap();
    fs::remove_file(mounted.path("e")).unwrap();
    open.write_all(b"!").unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    assert_eq!(open.metadata().unwrap().size(), 16);
    drop(open);
    mounted.end();
    assert_eq!(fs::read_dir(rig.at("up")).unwrap().count(), 2);
}

#[test]
fn it_can_be_mounted_over_what_it_is_made_of() {
    for at in ["lower", "up", "work", ""] {
        let rig = Rig::over(|lower| fs::write(lower.join("file"), "lower").unwrap());
        let options = rig.options(&["lower"]);
        let mut command = super::rig::program();
        command.args(["overlay", "-o", &options]).arg(rig.at(at));
        let ran = super::rig::ran(command.output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        let file = rig.at(at).join("file");
        fs::write(&file, "upper").unwrap();
        fs::create_dir(rig.at(at).join("new")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "upper");
        super::rig::umount(&rig.at(at));
        super::rig::until("in order", || {
            super::rig::is_in_order(&rig.at("up"), &rig.at("work"))
        });
        assert_eq!(fs::read_to_string(rig.at("up/file")).unwrap(), "upper");
        assert_eq!(fs::read_to_string(rig.at("lower/file")).unwrap(), "lower");
    }
}

#[test]
fn the_kernels_overlay_can_lie_on_it() {
    let rig = Rig::over(|lower| fs::write(lower.join("file"), "lower").unwrap());
    for name in ["above", "above-up", "above-work"] {
        fs::create_dir(rig.at(name)).unwrap();
    }
    let mounted = rig.mount();
    fs::write(mounted.path("new"), "ours").unwrap();
    let above = rig.by_kernel_at("above", &rig.options_of(&["mnt"], "above-up", "above-work"));
    fs::write(above.path("new"), "above").unwrap();
    assert_eq!(fs::read_to_string(above.path("file")).unwrap(), "lower");
    above.end();
    assert_eq!(fs::read_to_string(mounted.path("new")).unwrap(), "ours");
    mounted.end();
}

/// Its disk takes no device 0:0, so whiteouts are marked files.
#[test]
fn it_can_lie_on_the_kernels_overlay() {
    let rig = Rig::over(|lower| fs::write(lower.join("gone"), "lower").unwrap());
    fs::create_dir(rig.at("below")).unwrap();
    let below = rig.by_kernel_at("below", &rig.options(&["lower"]));
    fs::create_dir(below.path("up")).unwrap();
    fs::create_dir(below.path("work")).unwrap();
    let options = rig.options_of(&["lower"], "below/up", "below/work");
    let mounted = rig.mount_with(&options);
    fs::remove_file(mounted.path("gone")).unwrap();
    fs::write(mounted.path("new"), "new").unwrap();
    let before = seen(&mounted.path(""));
    mounted.end();
    assert!(below.path("up/gone").metadata().unwrap().is_file());
    let mounted = rig.mount_with(&options);
    assert!(!mounted.path("gone").exists());
    alike(&before, &seen(&mounted.path("")), "mounted again");
    mounted.end();
    below.end();
}
