//! A tree that we wrote is the same to the kernel's overlayfs, and the other way round: the forms of
//! the format one by one. `exchange.rs` does it with whatever comes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use harness_fs::sys::at;
use harness_fs::tree::Kind;
use nix::fcntl::{AT_FDCWD, RenameFlags};

use super::rig::{Mounted, Rig};
use super::tree::{alike, seen, set_attribute};

/// What is below in these tests: three layers that hide parts of one another.
fn fill(rig: &Rig) {
    let low = rig.at("low");
    for dir in [
        "dir/sub",
        "gone/sub",
        "again/old",
        "move/in/it",
        "kept",
        "far/deep/er",
    ] {
        fs::create_dir_all(low.join(dir)).unwrap();
        fs::write(low.join(dir).join("file"), dir).unwrap();
    }
    for name in [
        "file",
        "chmod",
        "exchange-a",
        "exchange-b",
        "over",
        "one",
        "cover",
    ] {
        fs::write(low.join(name), name.repeat(1000)).unwrap();
    }
    fs::hard_link(low.join("one"), low.join("kept/two")).unwrap();
    symlink("file", low.join("link")).unwrap();
    fs::write(rig.at("mid/file"), "of the middle").unwrap();
    fs::create_dir(rig.at("mid/dir")).unwrap();
    fs::write(rig.at("mid/dir/more"), "").unwrap();
    // Deleted in the middle, and what an overlay above might hide again.
    at::mknod(AT_FDCWD, &rig.at("mid/cover"), Kind::CharDevice, 0, 0).unwrap();
}

fn set(path: &Path, name: &str, value: &[u8]) {
    set_attribute(path, name, value).unwrap();
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) {
    at::rename(AT_FDCWD, from, AT_FDCWD, to, flags).unwrap();
}

/// All kinds of changes.
fn change(on: &Mounted) {
    let path = |name: &str| on.path(name);
    fs::remove_file(path("over")).unwrap();
    fs::create_dir(path("over")).unwrap();
    fs::write(path("over/new"), "a directory over a file").unwrap();
    fs::remove_dir_all(path("gone")).unwrap();
    fs::remove_dir_all(path("again")).unwrap();
    fs::create_dir_all(path("again/new")).unwrap();
    fs::remove_dir_all(path("dir/sub")).unwrap();
    fs::write(path("dir/sub"), "a file over a directory").unwrap();
    // Within a directory, then into another: what the kernel writes is relative, then absolute.
    rename(&path("move/in"), &path("move/within"), RenameFlags::empty());
    fs::write(path("move/within/it/added"), "added").unwrap();
    rename(
        &path("move/within/it"),
        &path("move/within/that"),
        RenameFlags::empty(),
    );
    rename(&path("move"), &path("moved"), RenameFlags::empty());
    rename(&path("far/deep"), &path("kept/deep"), RenameFlags::empty());
    fs::remove_dir_all(path("kept/deep/er")).unwrap();
    fs::set_permissions(path("chmod"), fs::Permissions::from_mode(0o4711)).unwrap();
    set(&path("chmod"), "user.note", b"a note");
    rename(&path("chmod"), &path("moved/chmod"), RenameFlags::empty());
    rename(
        &path("exchange-a"),
        &path("exchange-b"),
        RenameFlags::RENAME_EXCHANGE,
    );
    fs::write(path("born"), "born").unwrap();
    fs::hard_link(path("born"), path("kept/born")).unwrap();
    fs::hard_link(path("born"), path("moved/within/born")).unwrap();
    fs::remove_file(path("born")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    fs::remove_file(path("link")).unwrap();
    at::mknod(AT_FDCWD, &path("fifo"), Kind::Fifo, 0o640, 0).unwrap();
    let null = nix::sys::stat::makedev(1, 3);
    at::mknod(AT_FDCWD, &path("null"), Kind::CharDevice, 0o666, null).unwrap();
    // A user's own, as another overlay would write it.
    set(&path("kept"), "trusted.overlay.opaque", b"y");
    set(&path("kept/born"), "trusted.overlay.redirect", b"/nowhere");
    fs::write(path(".wh.file"), "only a name").unwrap();
}

fn rig() -> Rig {
    let rig = Rig::with(&["low", "mid", "up", "work", "mnt"]);
    fill(&rig);
    rig
}

#[test]
fn what_we_wrote_the_kernel_reads() {
    for ours in ["", ",metacopy=on"] {
        let rig = rig();
        let options = rig.options(&["mid", "low"]);
        let mounted = rig.mount_with(&(options.clone() + ours));
        change(&mounted);
        fs::write(mounted.path("one"), "through one name").unwrap();
        let before = seen(&mounted.path(""));
        assert!(before[Path::new("kept")].contains("trusted.overlay.opaque=\"y\""));
        mounted.end();
        let theirs = rig.by_kernel(&format!("{options},redirect_dir=on{ours}"));
        alike(&before, &seen(&theirs.path("")), "the kernel's");
        // It is a tree that the kernel goes on with.
        fs::write(theirs.path("moved/within/that/added"), "more").unwrap();
        theirs.end();
        let mounted = rig.mount_with(&options);
        assert_eq!(
            fs::read_to_string(mounted.path("moved/within/that/added")).unwrap(),
            "more"
        );
        mounted.end();
    }
}

#[test]
fn what_the_kernel_wrote_we_read() {
    for theirs in ["", ",metacopy=on", ",metacopy=on,index=off"] {
        let rig = rig();
        let options = rig.options(&["mid", "low"]);
        let kernel = rig.by_kernel(&format!("{options},redirect_dir=on{theirs}"));
        change(&kernel);
        if theirs.contains("metacopy") {
            // A name for a copy of metadata, which then has two.
            fs::hard_link(kernel.path("moved/chmod"), kernel.path("dir/chmod")).unwrap();
        }
        let before = seen(&kernel.path(""));
        kernel.end();
        let mounted = rig.mount_with(&options);
        alike(&before, &seen(&mounted.path("")), "ours");
        fs::write(mounted.path("moved/chmod"), "changed").unwrap();
        if theirs.contains("metacopy") {
            assert_eq!(
                fs::read_to_string(mounted.path("dir/chmod")).unwrap(),
                "changed"
            );
        }
        let before = seen(&mounted.path(""));
        mounted.end();
        let mode = format!("{options},redirect_dir=on,metacopy=on");
        let kernel = rig.by_kernel(&mode);
        alike(&before, &seen(&kernel.path("")), "the kernel's again");
        kernel.end();
    }
}

/// The kernel gives a copy of metadata no redirect as long as it has its name, and one without a
/// directory while it is in its own.
#[test]
fn copies_of_metadata_that_the_kernel_made_can_be_moved() {
    let rig = rig();
    let options = rig.options(&["mid", "low"]) + ",redirect_dir=on,metacopy=on";
    let kernel = rig.by_kernel(&options);
    let mode = fs::Permissions::from_mode(0o640);
    for name in ["chmod", "exchange-a", "exchange-b", "kept/file"] {
        fs::set_permissions(kernel.path(name), mode.clone()).unwrap();
    }
    fs::rename(kernel.path("kept/file"), kernel.path("kept/renamed")).unwrap();
    let content = |on: &Mounted, name: &str| fs::read_to_string(on.path(name)).unwrap();
    let (a, b) = (
        content(&kernel, "exchange-a"),
        content(&kernel, "exchange-b"),
    );
    kernel.end();
    let mounted = rig.mount_with(&options);
    fs::rename(mounted.path("chmod"), mounted.path("far/chmod")).unwrap();
    fs::rename(mounted.path("kept/renamed"), mounted.path("far/kept")).unwrap();
    rename(
        &mounted.path("exchange-a"),
        &mounted.path("exchange-b"),
        RenameFlags::RENAME_EXCHANGE,
    );
    let before = seen(&mounted.path(""));
    mounted.end();
    // Attributes have a block at the most, the content would have two.
    assert!(fs::metadata(rig.at("up/far/chmod")).unwrap().blocks() <= 8);
    let mounted = rig.mount_with(&options);
    assert_eq!(content(&mounted, "far/chmod"), "chmod".repeat(1000));
    assert_eq!(content(&mounted, "far/kept"), "kept");
    assert_eq!(content(&mounted, "exchange-a"), b);
    assert_eq!(content(&mounted, "exchange-b"), a);
    mounted.end();
    let kernel = rig.by_kernel(&options);
    alike(&before, &seen(&kernel.path("")), "the kernel's");
    kernel.end();
}

/// What was an upper directory is a lower one next, with all of its markers.
#[test]
fn an_upper_directory_is_as_good_as_a_lower_one() {
    for kernel_first in [false, true] {
        let rig = rig();
        let options = rig.options(&["mid", "low"]);
        let on = ",redirect_dir=on,metacopy=on";
        let mounted = match kernel_first {
            true => rig.by_kernel(&(options.clone() + on)),
            false => rig.mount_with(&(options.clone() + on)),
        };
        change(&mounted);
        mounted.end();
        fs::rename(rig.at("up"), rig.at("next")).unwrap();
        for name in ["up", "work"] {
            let _ = fs::remove_dir_all(rig.at(name));
            fs::create_dir(rig.at(name)).unwrap();
        }
        let options = rig.options(&["next", "mid", "low"]);
        let kernel = rig.by_kernel(&(options.clone() + on));
        let before = seen(&kernel.path(""));
        kernel.end();
        let mounted = rig.mount_with(&(options.clone() + on));
        alike(&before, &seen(&mounted.path("")), "ours");
        rename(
            &mounted.path("moved/within"),
            &mounted.path("out"),
            RenameFlags::empty(),
        );
        fs::set_permissions(
            mounted.path("moved/chmod"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        let before = seen(&mounted.path(""));
        mounted.end();
        let kernel = rig.by_kernel(&(options + on));
        alike(&before, &seen(&kernel.path("")), "the kernel's");
        kernel.end();
    }
}

/// overlayfs.rst, "whiteouts and opaque directories": empty files that are whiteouts.
#[test]
fn marked_files_are_whiteouts_where_their_directory_says_so() {
    let rig = rig();
    fs::write(rig.at("mid/exchange-a"), "").unwrap();
    set(&rig.at("mid/exchange-a"), "trusted.overlay.whiteout", b"y");
    set(&rig.at("mid"), "trusted.overlay.opaque", b"x");
    fs::create_dir(rig.at("mid/kept")).unwrap();
    set(&rig.at("mid/kept"), "trusted.overlay.opaque", b"x");
    fs::write(rig.at("mid/kept/file"), "").unwrap();
    set(&rig.at("mid/kept/file"), "trusted.overlay.whiteout", b"");
    fs::write(rig.at("mid/kept/full"), "not empty").unwrap();
    set(&rig.at("mid/kept/full"), "trusted.overlay.whiteout", b"");
    let options = rig.options(&["mid", "low"]);
    let kernel = rig.by_kernel(&options);
    let before = seen(&kernel.path(""));
    assert!(!before.contains_key(Path::new("exchange-a")));
    assert!(!before.contains_key(Path::new("kept/file")));
    kernel.end();
    let mounted = rig.mount_with(&options);
    alike(&before, &seen(&mounted.path("")), "ours");
    mounted.end();
}

/// What only the kernel can go on with.
#[test]
fn what_the_kernel_alone_knows_is_refused() {
    for (option, part) in [
        (
            "index=on",
            "holds an index of the kernel's overlay (index=on)",
        ),
        ("volatile", "is left of a volatile mount of the kernel's"),
    ] {
        let rig = rig();
        let options = rig.options(&["mid", "low"]);
        let kernel = rig.by_kernel(&format!("{options},{option}"));
        fs::write(kernel.path("one"), "written through one of two names").unwrap();
        kernel.end();
        rig.overlay(&options).refused(1, part);
        fs::remove_dir_all(rig.at("work")).unwrap();
        fs::create_dir(rig.at("work")).unwrap();
        rig.mount_with(&options).end();
    }
}

/// A part of another overlay's upper directory: what its root says of itself was about other layers.
#[test]
fn a_root_hides_nothing() {
    for (upper, lower) in [("part", "low"), ("up", "part:low")] {
        let rig = rig();
        fs::create_dir(rig.at("part")).unwrap();
        fs::write(rig.at("part/own"), "").unwrap();
        set(&rig.at("part"), "trusted.overlay.opaque", b"y");
        set(&rig.at("part"), "trusted.overlay.redirect", b"/nowhere");
        let lower: Vec<&str> = lower.split(':').collect();
        let options = rig.options_of(&lower, upper, "work");
        let kernel = rig.by_kernel(&options);
        let before = seen(&kernel.path(""));
        assert!(before.contains_key(Path::new("file")) && before.contains_key(Path::new("own")));
        kernel.end();
        let mounted = rig.mount_with(&options);
        alike(&before, &seen(&mounted.path("")), "ours");
        fs::write(mounted.path("more"), "").unwrap();
        mounted.end();
    }
}

/// The kernel's overlay refuses to make such (`EPERM`); we keep it as a marked file, which it shows as an empty one.
#[test]
fn a_users_own_device_of_number_0_is_no_whiteout() {
    let rig = rig();
    let options = rig.options(&["mid", "low"]);
    let mounted = rig.mount_with(&options);
    at::mknod(AT_FDCWD, &mounted.path("zero"), Kind::CharDevice, 0o600, 0).unwrap();
    let before = seen(&mounted.path(""));
    mounted.end();
    let mounted = rig.mount_with(&options);
    alike(&before, &seen(&mounted.path("")), "mounted again");
    mounted.end();
    let kernel = rig.by_kernel(&options);
    assert_eq!(fs::metadata(kernel.path("zero")).unwrap().size(), 0);
    kernel.end();
}
