//! Files that are open while a merge or a restore gives the stage's view another stack: sequences
//! that once lost something.

use std::ffi::OsStr;

use harness_fs::layer::copy_up::Extent;
use harness_fs::tree::Kind;
use harness_fs::view::{Caller, RenameMode, SetXattr};
use nix::errno::Errno;

use crate::driver::Driver;
use crate::ops::Change;
use crate::regressions::over;

const USER: Caller = Caller {
    uid: 1000,
    gid: 1000,
    umask: 0,
};

#[test]
fn a_change_by_who_has_the_old_file_open_does_not_cover_the_new_one() {
    let mut driver = over(true, |view| {
        view.file_at("0/below");
        view.file_at("0/linked");
        view.link_at("0/linked", "0/other");
    });
    driver.file_at("0/head");
    let names = ["0/below", "0/linked", "0/head"];
    let old = names.map(|path| driver.open_at(path, false));
    driver.begin();
    for path in names {
        driver.file_at("0/new");
        driver.mv("0/new", path);
    }
    driver.merge();
    for id in old {
        driver.change(id, Change::Perm(0o600));
        driver.change(id, Change::Times(7));
        driver.setxattr(id, OsStr::new("user.x"), b"x", SetXattr::Any);
    }
    driver.check();
    driver.live_seal();
    driver.end();
}

#[test]
fn a_change_of_an_open_file_does_not_bring_back_what_a_merge_removed() {
    let mut driver = over(true, |view| view.file_at("0/a"));
    let id = driver.open_at("0/a", true);
    driver.begin();
    driver.remove("0/a");
    driver.merge();
    driver.change(id, Change::Perm(0o600));
    driver.write(0, 3, 70, false);
    driver.check();
    driver.live_seal();
    driver.write(0, 30, 70, false);
    driver.end();
}

#[test]
fn a_file_that_a_step_wrote_and_removed_under_all_its_names_has_none() {
    let mut driver = over(true, |view| {
        view.file_at("0/a");
        view.link_at("0/a", "0/b");
    });
    let id = driver.open_at("0/a", false);
    driver.begin();
    driver.open_at("0/a", true);
    driver.write(0, 3, 7, false);
    driver.remove("0/a");
    driver.remove("0/b");
    driver.merge();
    driver.check();
    driver.change(id, Change::Perm(0o600));
    driver.live_seal();
    driver.end();
}

#[test]
fn who_has_a_file_open_goes_on_with_it_under_its_new_name() {
    for directory in [false, true] {
        let mut driver = over(true, |view| {
            view.dir("0/d");
            view.file_at("0/d/a");
        });
        driver.open_at("0/d/a", true);
        driver.begin();
        if directory {
            driver.mv("0/d", "0/e");
        } else {
            driver.mv("0/d/a", "0/b");
        }
        driver.merge();
        driver.write(0, 3, 70, false);
        driver.check();
        driver.live_seal();
        driver.write(0, 30, 70, false);
        driver.end();
    }
}

#[test]
fn a_removed_file_that_comes_back_is_written() {
    for born in [false, true] {
        let mut driver = over(true, |view| view.file_at("0/below"));
        driver.file_at("0/head");
        driver.snapshot();
        let path = if born { "0/head" } else { "0/below" };
        driver.open_at(path, false);
        driver.remove(path);
        driver.restore(0);
        driver.open_at(path, true);
        driver.write(1, 3, 70, false);
        driver.check();
        driver.live_seal();
        driver.check();
        driver.release(1);
        driver.release(0);
        driver.end();
    }
}

#[test]
fn a_write_to_a_removed_file_that_comes_back_is_not_what_comes_back() {
    let mut driver = over(true, |view| view.file_at("0/a"));
    driver.snapshot();
    driver.open_at("0/a", true);
    driver.remove("0/a");
    driver.write(0, 0, 70, false);
    driver.restore(0);
    driver.check();
    driver.write(0, 5, 70, false);
    driver.end();
}

#[test]
fn a_file_that_was_removed_two_seals_ago_can_be_opened_again() {
    let mut driver = Driver::new(true, &[]);
    driver.file_at("0/a");
    let id = driver.open_at("0/a", false);
    driver.live_seal();
    driver.remove("0/a");
    driver.live_seal();
    driver.live_seal();
    driver.open(id, true, false, false);
    driver.write(1, 3, 7, false);
    driver.end();
}

#[test]
fn a_path_that_was_replaced_has_to_be_looked_up_again() {
    let mut driver = over(true, |view| {
        for name in ["0/a", "0/b", "0/c"] {
            view.file_at(name);
        }
    });
    let old = ["0/a", "0/b", "0/c"].map(|path| {
        let id = driver.id(path);
        driver.reach(id).unwrap()
    });
    driver.open_at("0/b", false);
    let below = driver.stack.clone();
    driver.begin();
    for path in ["0/a", "0/b", "0/c"] {
        driver.file_at("0/new");
        driver.mv("0/new", path);
    }
    // What the kernel asks with numbers that it knew before the merge.
    let view = driver.stage_view();
    driver.merge();
    assert!(driver.stack.layers().len() > below.layers().len());
    let errno = |answer: harness_fs::error::Result<()>| answer.err().map(|error| error.errno());
    let write = nix::fcntl::OFlag::O_WRONLY;
    for ino in old {
        let opened = view.open(ino, write, None).map(drop);
        assert_eq!(errno(opened), Some(Errno::ESTALE));
    }
    let set = harness_fs::view::SetAttr {
        perm: Some(0o600),
        ..Default::default()
    };
    // Nobody has it open.
    assert_eq!(
        errno(view.setattr(old[2], &set).map(drop)),
        Some(Errno::ESTALE)
    );
    let x = OsStr::new("user.x");
    let set = view.setxattr(old[2], x, b"x", SetXattr::Any);
    assert_eq!(errno(set), Some(Errno::ESTALE));
    driver.end();
}

#[test]
fn a_removed_directory_takes_changes_from_who_is_in_it() {
    let mut driver = over(true, |view| view.dir("0/d"));
    driver.dir("0/e");
    for path in ["0/d", "0/e"] {
        let id = driver.id(path);
        driver.reach(id).unwrap();
        let (dir, name) = driver.dir_and_name(path);
        driver.rmdir(dir, &name);
        driver.change(id, Change::Perm(0o700));
        driver.change(id, Change::Owner(500, 500));
        driver.getattr(id);
    }
    driver.end();
}

#[test]
fn a_large_copy_up_is_told_before_it_is_made() {
    const SIZE: usize = 200_000;
    let mut driver = over(true, |view| {
        for name in ["0/one", "0/two", "0/small"] {
            view.file_at(name);
        }
        view.link_at("0/two", "0/too");
        for name in ["0/one", "0/two"] {
            let id = view.open_at(name, true);
            let handle = view.handles[0].handle;
            let data = vec![7; SIZE];
            view.view.write(handle, 0, &data, None).unwrap();
            view.model.inodes[id].write(0, &data, false);
            view.release(0);
        }
    });
    let [one, two, small] = ["0/one", "0/two", "0/small"].map(|path| {
        let id = driver.id(path);
        driver.reach(id).unwrap()
    });
    let view = driver.view.clone();
    // A copy of metadata points at the content, if there is one name only.
    for (ino, whole, metadata) in [(one, true, false), (two, true, true), (small, false, false)] {
        assert_eq!(view.copies_much(ino, Extent::Whole), whole);
        assert_eq!(view.copies_much(ino, Extent::Metadata), metadata);
        assert!(!view.copies_much(ino, Extent::Empty));
    }
    let dir = driver.id("0");
    let dir = driver.reach(dir).unwrap();
    let rename = |from: &str, to: &str, mode| {
        let (from, to) = (OsStr::new(from), OsStr::new(to));
        view.rename_now((dir, from), (dir, to), mode).unwrap()
    };
    assert!(!rename("two", "moved", RenameMode::Replace));
    assert!(!rename("one", "two", RenameMode::Exchange));
    driver.check();
    driver.mv("0/two", "0/moved");
    assert!(!view.copies_much(two, Extent::Whole));
    // Sealed under who has it open: to be copied anew.
    driver.open_at("0/moved", true);
    driver.live_seal();
    assert!(view.copies_much(two, Extent::Whole));
    driver.end();
}

/// acl(5): rwx for the owner, r-x as mask.
const ACL: [u8; 44] = {
    const fn entry(acl: &mut [u8; 44], at: usize, tag: u8, perm: u8, id: u32) {
        acl[at] = tag;
        acl[at + 2] = perm;
        let id = id.to_le_bytes();
        let mut i = 0;
        while i < 4 {
            acl[at + 4 + i] = id[i];
            i += 1;
        }
    }
    let mut acl = [0; 44];
    acl[0] = 2;
    entry(&mut acl, 4, 0x01, 7, u32::MAX);
    entry(&mut acl, 12, 0x02, 7, 1234);
    entry(&mut acl, 20, 0x04, 7, u32::MAX);
    entry(&mut acl, 28, 0x10, 5, u32::MAX);
    entry(&mut acl, 36, 0x20, 0, u32::MAX);
    acl
};

#[test]
fn setuid_does_not_widen_what_a_default_acl_allows() {
    let mut driver = Driver::new(false, &[]);
    driver.dir("0/d");
    let view = driver.view.clone();
    let dir = driver.id("0/d");
    let dir = driver.reach(dir).unwrap();
    let acl = OsStr::new("system.posix_acl_default");
    view.setxattr(dir, acl, &ACL, SetXattr::Any).unwrap();
    let create = |name: &str, mode: u32| {
        let made = view.create(dir, OsStr::new(name), mode, true, &USER);
        let (attr, handle) = made.unwrap();
        view.release(handle);
        attr.perm
    };
    let node = |name: &str, mode: u32| {
        let mode = Kind::Fifo.mode_bits() | mode;
        let made = view.mknod(dir, OsStr::new(name), mode, 0, &USER);
        made.unwrap().perm
    };
    assert_eq!(create("plain", 0o777), 0o750);
    assert_eq!(create("setuid", 0o6777), 0o6750);
    assert_eq!(node("fifo", 0o777), 0o750);
    assert_eq!(node("setuid-fifo", 0o6777), 0o6750);
    let made = view.mkdir(dir, OsStr::new("sticky"), 0o1777, &USER);
    assert_eq!(made.unwrap().perm, 0o1750);
}
