//! From random numbers to operations on what is there.

use std::ffi::{OsStr, OsString};

use harness_fs::tree::Kind;
use harness_fs::view::Parts;

use crate::base::{self, BaseEntry};
use crate::driver::Driver;
use crate::ops::{Op, Spot};
use crate::reference::{Id, ROOT};

const XATTRS: [&str; 5] = [
    "user.a",
    "user.base",
    "trusted.overlay.opaque",
    "trusted.x",
    "trusted.harness.ino",
];

pub fn run(live: bool, parts: Option<Parts>, entries: &[BaseEntry], ops: &[Op]) {
    let mut driver = match parts {
        Some(parts) => Driver::with_parts(live, entries, parts),
        None => Driver::new(live, entries),
    };
    for op in ops {
        apply(&mut driver, *op);
        driver.prune_cursors();
    }
    driver.merge();
    driver.check();
    driver.fill_layers();
    driver.check();
    driver.seal(true);
    driver.check();
}

fn pick(all: &[Id], n: u8) -> Option<Id> {
    (!all.is_empty()).then(|| all[usize::from(n) % all.len()])
}

impl Driver {
    /// Those that a program can get at, by a name or because it holds them.
    fn reachable(&self, wanted: impl Fn(Kind, bool) -> bool) -> Vec<Id> {
        let inodes = self.model.inodes.iter().enumerate().skip(ROOT + 1);
        inodes
            .filter(|(id, inode)| {
                let held = self.lookups.get(id).is_some_and(|count| *count > 0);
                let there = inode.names > 0 || held;
                let open = self.handles.iter().any(|handle| handle.id == *id);
                there && wanted(inode.kind, inode.names > 0 || open)
            })
            .map(|(id, _)| id)
            .collect()
    }

    fn spot(&self, spot: Spot) -> (Id, OsString) {
        let dirs = self.reachable(|kind, _| kind == Kind::Dir);
        let dir = pick(&dirs, spot.dir).expect("mapped paths");
        let there: Vec<&OsString> = self.model.inodes[dir].entries.keys().collect();
        let name: &OsStr = if spot.name < 170 && !there.is_empty() {
            there[usize::from(spot.name) % there.len()]
        } else {
            base::name(spot.name)
        };
        (dir, name.to_os_string())
    }

    fn file(&self, n: u8) -> Option<Id> {
        pick(
            &self.reachable(|kind, alive| kind == Kind::File && alive),
            n,
        )
    }

    fn any(&self, n: u8) -> Option<Id> {
        pick(&self.reachable(|_, alive| alive), n)
    }

    fn handle(&self, n: u8) -> Option<usize> {
        let count = self.handles.len();
        (count > 0).then(|| usize::from(n) % count)
    }
}

fn apply(driver: &mut Driver, op: Op) {
    match op {
        Op::Lookup(spot) => {
            let (dir, name) = driver.spot(spot);
            driver.lookup(dir, &name);
        }
        Op::Create(spot, mode, write) => {
            let (dir, name) = driver.spot(spot);
            driver.create(dir, &name, mode, write);
        }
        Op::Mkdir(spot, mode) => {
            let (dir, name) = driver.spot(spot);
            driver.mkdir(dir, &name, mode);
        }
        Op::Mknod(spot, kind) => {
            let (dir, name) = driver.spot(spot);
            let (kind, rdev) = match kind {
                0 => (Kind::Fifo, 0),
                1 => (Kind::Socket, 0),
                2 => (Kind::CharDevice, nix::libc::makedev(1, 3)),
                _ => (Kind::CharDevice, 0),
            };
            driver.mknod(dir, &name, kind, rdev);
        }
        Op::Symlink(spot) => {
            let (dir, name) = driver.spot(spot);
            driver.symlink(dir, &name, "some/where");
        }
        Op::Link(of, spot) => {
            let (dir, name) = driver.spot(spot);
            if let Some(id) = driver.any(of) {
                driver.link(id, dir, &name);
            }
        }
        Op::Unlink(spot) => {
            let (dir, name) = driver.spot(spot);
            driver.unlink(dir, &name);
        }
        Op::Rmdir(spot) => {
            let (dir, name) = driver.spot(spot);
            driver.rmdir(dir, &name);
        }
        Op::Rename(from, to, mode) => {
            let (from_dir, from_name) = driver.spot(from);
            let (to_dir, to_name) = driver.spot(to);
            driver.rename((from_dir, &from_name), (to_dir, &to_name), mode);
        }
        other => apply_to_files(driver, other),
    }
}

fn apply_to_files(driver: &mut Driver, op: Op) {
    match op {
        Op::Open {
            file,
            write,
            empty,
            unprivileged,
        } => {
            if let Some(id) = driver.file(file) {
                driver.open(id, write, empty && write, unprivileged);
            }
        }
        Op::Write {
            handle,
            offset,
            length,
            unprivileged,
        } => {
            if let Some(at) = driver.handle(handle) {
                driver.write(at, offset, length, unprivileged);
            }
        }
        Op::Read {
            handle,
            offset,
            length,
        } => {
            if let Some(at) = driver.handle(handle) {
                driver.read(at, offset, length);
            }
        }
        Op::Truncate {
            file,
            size,
            unprivileged,
        } => {
            if let Some(id) = driver.file(file) {
                driver.truncate(id, size, unprivileged);
            }
        }
        Op::Release(handle) => {
            if let Some(at) = driver.handle(handle) {
                driver.release(at);
            }
        }
        Op::Getattr(n) => {
            if let Some(id) = pick(&driver.reachable(|_, _| true), n) {
                driver.getattr(id);
            }
        }
        Op::Setattr(n, change) => {
            if let Some(id) = driver.any(n) {
                driver.change(id, change);
            }
        }
        Op::SetXattr(n, name, value, how) => {
            let name = OsStr::new(XATTRS[usize::from(name) % XATTRS.len()]);
            if let Some(id) = driver.any(n) {
                driver.setxattr(id, name, &vec![value; usize::from(value % 8)], how);
            }
        }
        Op::RemoveXattr(n, name) => {
            let name = OsStr::new(XATTRS[usize::from(name) % XATTRS.len()]);
            if let Some(id) = driver.any(n) {
                driver.removexattr(id, name);
            }
        }
        other => apply_rest(driver, other),
    }
}

fn apply_rest(driver: &mut Driver, op: Op) {
    match op {
        Op::List { dir, count, plus } => {
            let (dir, _) = driver.spot(Spot { dir, name: 0 });
            driver.list(dir, count.into(), plus);
        }
        Op::GoOn {
            cursor,
            count,
            plus,
        } => {
            let cursors = driver.cursors.len();
            if cursors > 0 {
                driver.go_on(usize::from(cursor) % cursors, count.into(), plus);
            }
        }
        Op::Forget(n) => {
            let mut all = driver.reachable(|_, _| true);
            all.retain(|id| driver.forgettable(*id));
            if let Some(id) = pick(&all, n) {
                driver.forget(id);
            }
        }
        Op::ForgetAll => loop {
            let mut all = driver.reachable(|_, _| true);
            all.retain(|id| driver.forgettable(*id));
            let Some(id) = all.first() else { break };
            driver.forget(*id);
        },
        Op::Statfs => {
            driver.view.statfs().expect("statfs");
        }
        Op::Remount { released } => driver.remount(released),
        Op::Seal { released } => driver.seal(released),
        Op::LiveSeal => driver.live_seal(),
        Op::Begin => driver.begin(),
        Op::Merge => driver.merge(),
        Op::Snapshot => driver.snapshot(),
        Op::Restore(n) => driver.restore(n),
        _ => driver.check(),
    }
}
