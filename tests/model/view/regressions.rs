//! Sequences that once went wrong, the shortest of their kind.

use std::ffi::{OsStr, OsString};

use harness_fs::layer::seal;
use harness_fs::tree::Kind;
use harness_fs::view::{RenameMode, SetXattr};
use nix::errno::Errno;

use crate::driver::Driver;
use crate::ops::Change;
use crate::reference::{Id, ROOT};

impl Driver {
    pub fn id(&self, path: &str) -> Id {
        let names = path.split('/').map(OsStr::new);
        names.fold(ROOT, |at, name| self.model.lookup(at, name).unwrap())
    }

    pub fn dir_and_name(&self, path: &str) -> (Id, OsString) {
        let (dir, name) = path.rsplit_once('/').unwrap();
        (self.id(dir), name.into())
    }

    pub fn dir(&mut self, path: &str) {
        let (dir, name) = self.dir_and_name(path);
        self.mkdir(dir, &name, 0o755);
    }

    /// A file with some content, closed.
    pub fn file_at(&mut self, path: &str) {
        let (dir, name) = self.dir_and_name(path);
        self.create(dir, &name, 0o644, true);
        self.write(self.handles.len() - 1, 0, 40, false);
        self.release(self.handles.len() - 1);
    }

    pub fn link_at(&mut self, of: &str, path: &str) {
        let (dir, name) = self.dir_and_name(path);
        self.link(self.id(of), dir, &name);
    }

    pub fn remove(&mut self, path: &str) {
        let (dir, name) = self.dir_and_name(path);
        self.unlink(dir, &name);
    }

    pub fn mv(&mut self, from: &str, to: &str) {
        let (from, to) = (self.dir_and_name(from), self.dir_and_name(to));
        self.rename((from.0, &from.1), (to.0, &to.1), RenameMode::Replace);
    }

    pub fn open_at(&mut self, path: &str, write: bool) -> Id {
        let id = self.id(path);
        self.open(id, write, false, false);
        id
    }

    pub fn end(mut self) {
        self.check();
        self.remount(true);
        self.check();
        self.seal(true);
        self.check();
    }
}

/// A view of a sealed layer that `fill` wrote.
pub fn over(live: bool, fill: impl FnOnce(&mut Driver)) -> Driver {
    let mut driver = Driver::new(live, &[]);
    fill(&mut driver);
    driver.seal(true);
    driver
}

#[test]
fn a_hard_link_below_a_renamed_directory_is_sealed() {
    let mut driver = over(false, |view| {
        view.dir("0/d");
        view.dir("0/d/sub");
        view.file_at("0/d/sub/b");
        view.link_at("0/d/sub/b", "0/a");
    });
    driver.mv("0/d", "0/m");
    driver.open_at("0/a", true);
    driver.write(0, 5, 10, false);
    driver.end();
}

#[test]
fn another_directory_that_has_the_old_name_gets_no_links() {
    let mut driver = over(false, |view| {
        view.dir("0/d");
        view.dir("0/d/sub");
        view.file_at("0/d/sub/b");
        view.dir("0/e");
        view.dir("0/e/sub");
        view.link_at("0/d/sub/b", "0/a");
        view.file_at("0/e/sub/other");
        let id = view.id("0/e/sub");
        view.change(id, Change::Perm(0o700));
    });
    driver.mv("0/d", "0/m");
    driver.mv("0/e", "0/d");
    driver.mv("0/m", "0/e");
    driver.open_at("0/a", true);
    driver.write(0, 5, 10, false);
    driver.end();
}

#[test]
fn what_is_unlinked_is_not_busy() {
    let mut driver = Driver::new(false, &[]);
    driver.file_at("0/a");
    driver.open_at("0/a", true);
    driver.remove("0/a");
    driver.end();
}

#[test]
fn a_change_of_an_unlinked_lower_file_does_not_bring_its_name_back() {
    for links in [false, true] {
        let mut driver = over(false, |view| {
            view.file_at("0/a");
            if links {
                view.link_at("0/a", "0/b");
            }
        });
        let id = driver.open_at("0/a", false);
        driver.remove("0/a");
        if links {
            driver.remove("0/b");
        }
        driver.change(id, Change::Perm(0o600));
        driver.check();
        driver.open(id, true, false, false);
        driver.write(1, 3, 7, false);
        driver.check();
        driver.release(1);
        driver.release(0);
        driver.end();
    }
}

#[test]
fn a_file_that_was_sealed_and_unlinked_under_its_writer_is_written() {
    for links in [false, true] {
        let mut driver = Driver::new(true, &[]);
        driver.file_at("0/a");
        driver.open_at("0/a", true);
        if links {
            driver.link_at("0/a", "0/b");
        }
        driver.live_seal();
        driver.remove("0/a");
        if links {
            driver.remove("0/b");
        }
        driver.write(0, 3, 7, false);
        driver.check();
        driver.live_seal();
        driver.write(0, 9, 70, false);
        driver.check();
        driver.release(0);
        driver.end();
    }
}

#[test]
fn an_unlinked_file_keeps_what_is_set_on_it_through_a_seal() {
    let mut driver = over(true, |view| view.file_at("0/below"));
    driver.file_at("0/new");
    let new = driver.open_at("0/new", true);
    // Of this one only the metadata is copied up when it is unlinked.
    let below = driver.id("0/below");
    driver.change(below, Change::Perm(0o640));
    driver.open_at("0/below", false);
    driver.remove("0/new");
    driver.remove("0/below");
    driver.live_seal();
    driver.check();
    driver.change(new, Change::Perm(0o4755));
    driver.write(0, 3, 7, true);
    driver.check();
    for id in [new, below] {
        driver.change(id, Change::Perm(0o4755));
        driver.change(id, Change::Owner(500, 500));
        driver.change(id, Change::Times(77));
        driver.setxattr(id, OsStr::new("user.x"), b"x", SetXattr::Any);
        driver.setxattr(
            id,
            OsStr::new("trusted.overlay.opaque"),
            b"y",
            SetXattr::Create,
        );
        driver.removexattr(id, OsStr::new("user.x"));
        driver.truncate(id, 17, true);
        driver.check();
    }
    driver.end();
}

#[test]
fn a_name_that_nobody_has_looked_up_keeps_its_file_through_a_seal() {
    for names in [1, 2] {
        let mut driver = over(true, |view| {
            view.dir("0/d");
            view.file_at("0/a");
            view.link_at("0/a", "0/d/b");
            if names == 2 {
                view.link_at("0/a", "0/d/c");
            }
        });
        driver.open_at("0/a", true);
        driver.write(0, 3, 7, false);
        driver.remove("0/a");
        driver.live_seal();
        driver.write(0, 9, 7, false);
        driver.end();
    }
}

#[test]
fn a_linked_file_is_known_by_its_new_name() {
    let mut driver = Driver::new(true, &[]);
    driver.file_at("0/a");
    driver.open_at("0/a", true);
    driver.link_at("0/a", "0/b");
    driver.remove("0/a");
    driver.check();
    driver.link_at("0/b", "0/c");
    driver.end();
}

#[test]
fn a_null_device_is_listed_as_what_it_is() {
    let mut driver = Driver::new(false, &[]);
    let dir = driver.id("0");
    driver.mknod(dir, OsStr::new("null"), Kind::CharDevice, 0);
    driver.end();
}

#[test]
fn all_directories_of_a_hard_link_are_forgotten() {
    let mut driver = over(false, |view| {
        view.dir("0/d");
        view.dir("0/e");
        view.file_at("0/d/a");
        view.link_at("0/d/a", "0/e/b");
    });
    let (file, d, e) = (driver.id("0/d/a"), driver.id("0/d"), driver.id("0/e"));
    for dir in [d, e] {
        for name in ["a", "b"] {
            driver.lookup(dir, OsStr::new(name));
        }
    }
    let numbers = [d, e].map(|dir| driver.reach(dir).unwrap());
    // The kernel may tell of directories first when it drops all at once.
    driver.forget(file);
    driver.forget(d);
    driver.forget(e);
    for ino in numbers {
        let errno = driver.view.getattr(ino).err().map(|error| error.errno());
        assert_eq!(errno, Some(Errno::ESTALE));
    }
}

#[test]
fn a_seal_that_fails_changes_nothing() {
    let mut driver = over(true, |view| {
        view.dir("0/d");
        view.dir("0/d/sub");
        view.file_at("0/d/sub/b");
        view.link_at("0/d/sub/b", "0/a");
    });
    driver.mv("0/d", "0/m");
    driver.open_at("0/a", true);
    driver.write(0, 5, 10, false);
    driver.file_at("0/new");
    driver.open_at("0/new", true);
    driver.remove("0/new");
    let nowhere = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::create_dir(nowhere.path().join("x")).unwrap();
    let failed = driver.view.replace(|stack, open| {
        seal(open, stack, nowhere.path(), "x", "head", 0)?;
        Ok((stack.clone(), open.clone()))
    });
    assert_eq!(failed.err().map(|error| error.errno()), Some(Errno::EEXIST));
    driver.check();
    driver.write(0, 30, 30, false);
    driver.write(1, 30, 30, true);
    driver.file_at("0/m/sub/c");
    driver.check();
    driver.live_seal();
    driver.end();
}
