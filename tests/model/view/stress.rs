//! Threads that write in the stage's own view while others seal it and merge into it: every byte
//! that was acknowledged is there afterwards, and no sealed layer changes.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness_fs::tree::Ino;
use harness_fs::view::{Caller, ROOT, RenameMode, SetAttr, SetXattr, View};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::driver::Driver;

const WRITERS: u64 = 3;
const SWAPS: usize = 40;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const ROOT_USER: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0o022,
};

/// xorshift: the same sequence on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let seed = self.below(251) as u8;
        (0..length)
            .map(|i| seed.wrapping_add((i % 253) as u8))
            .collect()
    }
}

/// One file as its writer knows it.
struct File {
    name: OsString,
    content: Vec<u8>,
    /// Kept open for writing.
    handle: Option<u64>,
}

struct Writer {
    view: Arc<View>,
    random: Random,
    parent: Ino,
    name: OsString,
    dir: Ino,
    files: Vec<File>,
    dirs: usize,
}

impl Writer {
    fn new(view: &Arc<View>, parent: Ino, number: u64) -> Writer {
        let name = OsString::from(format!("w{number}"));
        let dir = view.mkdir(parent, &name, 0o755, &ROOT_USER).unwrap().ino;
        Writer {
            view: view.clone(),
            random: Random(0x9e37_79b9_7f4a_7c15 ^ number),
            parent,
            name,
            dir,
            files: Vec::new(),
            dirs: 0,
        }
    }

    /// As the kernel does it: a number that went stale is looked up again.
    fn with_ino<T>(
        &self,
        name: &OsStr,
        act: impl Fn(Ino) -> harness_fs::error::Result<T>,
    ) -> harness_fs::error::Result<T> {
        let mut tries = 0;
        loop {
            let ino = self.view.lookup(self.dir, name)?.ino;
            match act(ino) {
                Err(error) if error.errno() == Errno::ESTALE && tries == 0 => tries += 1,
                other => return other,
            }
        }
    }

    fn open(&self, name: &OsStr, flags: OFlag) -> u64 {
        let opened = self.with_ino(name, |ino| self.view.open(ino, flags, None));
        opened
            .unwrap_or_else(|e| panic!("open {name:?}: {e:?}"))
            .handle
    }

    fn step(&mut self) {
        let Some(at) = (!self.files.is_empty()).then(|| self.random.below(self.files.len())) else {
            return self.create();
        };
        match self.random.below(12) {
            0 => self.create(),
            1 => self.remove(at),
            2 => self.rename(at),
            3 | 4 => self.write(at),
            5 => self.truncate(at),
            6 | 7 => self.copy(at),
            8 => self.change(at),
            9 => self.keep(at),
            10 => self.check_one(at),
            _ => self.make_dir(),
        }
    }

    fn create(&mut self) {
        let free = |name: &&&str| self.files.iter().all(|file| file.name != ***name);
        let Some(name) = NAMES.iter().find(free) else {
            return;
        };
        let name = OsString::from(name);
        let (_, handle) = self
            .view
            .create(self.dir, &name, 0o644, true, &ROOT_USER)
            .unwrap();
        self.files.push(File {
            name,
            content: Vec::new(),
            handle: Some(handle),
        });
        self.write(self.files.len() - 1);
    }

    fn remove(&mut self, at: usize) {
        let file = self.files.swap_remove(at);
        self.view.unlink(self.dir, &file.name).unwrap();
        if let Some(handle) = file.handle {
            self.read(handle, &file.content);
            self.view.release(handle);
        }
    }

    fn rename(&mut self, at: usize) {
        let to = OsString::from(NAMES[self.random.below(NAMES.len())]);
        let from = self.files[at].name.clone();
        if from == to {
            return;
        }
        let mode = RenameMode::Replace;
        self.view
            .rename(self.dir, &from, self.dir, &to, mode)
            .unwrap();
        self.files[at].name.clone_from(&to);
        let replaced =
            (0..self.files.len()).find(|other| *other != at && self.files[*other].name == to);
        if let Some(other) = replaced
            && let Some(handle) = self.files.swap_remove(other).handle
        {
            self.view.release(handle);
        }
    }

    fn write(&mut self, at: usize) {
        let length = [1, 100, 5000, 300_000][self.random.below(4)];
        let data = self.random.bytes(length);
        let handle = self.files[at].handle;
        let offset = self.random.below(self.files[at].content.len() + 1);
        let handle_now = handle.unwrap_or_else(|| self.open(&self.files[at].name, OFlag::O_RDWR));
        let done = self.view.write(handle_now, offset as u64, &data, None);
        assert_eq!(done.unwrap(), data.len());
        if handle.is_none() {
            self.view.release(handle_now);
        }
        let content = &mut self.files[at].content;
        content.resize(content.len().max(offset + length), 0);
        content[offset..offset + length].copy_from_slice(&data);
    }

    fn truncate(&mut self, at: usize) {
        let size = self.random.below(self.files[at].content.len() + 100);
        let set = SetAttr {
            size: Some(size as u64),
            ..SetAttr::default()
        };
        let done = self.with_ino(&self.files[at].name, |ino| self.view.setattr(ino, &set));
        assert_eq!(done.unwrap().size, size as u64);
        self.files[at].content.resize(size, 0);
    }

    /// Over another file, as `cp` does it.
    fn copy(&mut self, at: usize) {
        let to = self.random.below(self.files.len());
        if to == at {
            return;
        }
        let source = self.open(&self.files[at].name, OFlag::O_RDONLY);
        let flags = OFlag::O_WRONLY | OFlag::O_TRUNC;
        let target = self.open(&self.files[to].name, flags);
        let size = self.files[at].content.len() as u64;
        let mut done = 0;
        while done < size {
            let copied = self
                .view
                .copy_range(source, done, target, done, size - done);
            let copied = copied.unwrap();
            assert!(copied > 0, "nothing copied at {done} of {size}");
            done += copied;
        }
        self.view.fallocate(target, 0, 0, size + 100).unwrap();
        self.view.release(source);
        self.view.release(target);
        let mut content = self.files[at].content.clone();
        content.resize(size as usize + 100, 0);
        self.files[to].content = content;
        self.check_one(to);
    }

    fn change(&mut self, at: usize) {
        let perm = [0o600, 0o644, 0o755][self.random.below(3)];
        let set = SetAttr {
            perm: Some(perm),
            ..SetAttr::default()
        };
        let name = &self.files[at].name;
        let done = self.with_ino(name, |ino| self.view.setattr(ino, &set));
        assert_eq!(done.unwrap().perm, perm);
        let user = OsStr::new("user.x");
        let set = |ino| self.view.setxattr(ino, user, b"x", SetXattr::Any);
        self.with_ino(name, set).unwrap();
    }

    fn keep(&mut self, at: usize) {
        match self.files[at].handle.take() {
            Some(handle) => self.view.release(handle),
            None => self.files[at].handle = Some(self.open(&self.files[at].name, OFlag::O_RDWR)),
        }
    }

    fn make_dir(&mut self) {
        let name = OsString::from(format!("dir{}", self.dirs));
        self.dirs += 1;
        let dir = self.view.mkdir(self.dir, &name, 0o755, &ROOT_USER).unwrap();
        for inner in ["x", "y"] {
            let inner = OsStr::new(inner);
            let (_, handle) = self
                .view
                .create(dir.ino, inner, 0o644, true, &ROOT_USER)
                .unwrap();
            self.view.write(handle, 0, b"inner", None).unwrap();
            self.view.release(handle);
        }
    }

    fn read(&self, handle: u64, content: &[u8]) {
        let mut buffer = vec![0; content.len() + 1];
        let read = self.view.read(handle, 0, &mut buffer).unwrap();
        assert_eq!(read, content.len(), "length in {:?}", self.name);
        let differs = (0..read).find(|i| buffer[*i] != content[*i]);
        assert_eq!(differs, None, "first wrong byte in {:?}", self.name);
    }

    fn check_one(&self, at: usize) {
        let file = &self.files[at];
        let handle = self.open(&file.name, OFlag::O_RDONLY);
        self.read(handle, &file.content);
        self.view.release(handle);
    }

    fn check(&self) {
        self.view.lookup(self.parent, &self.name).unwrap();
        for at in 0..self.files.len() {
            self.check_one(at);
        }
        for number in 0..self.dirs {
            let name = OsString::from(format!("dir{number}"));
            let dir = self.view.lookup(self.dir, &name).unwrap().ino;
            for inner in ["x", "y"] {
                let ino = self.view.lookup(dir, OsStr::new(inner)).unwrap().ino;
                let handle = self.view.open(ino, OFlag::O_RDONLY, None).unwrap().handle;
                self.read(handle, b"inner");
                self.view.release(handle);
            }
        }
    }
}

/// One who copies a large file over another, again and again.
struct Copier {
    view: Arc<View>,
    handles: [u64; 2],
    parent: Ino,
    from: Vec<u8>,
}

const LARGE: usize = 12 << 20;

impl Copier {
    fn new(view: &Arc<View>, parent: Ino) -> Copier {
        let from = Random(77).bytes(LARGE);
        let create = |name: &str| {
            let made = view.create(parent, OsStr::new(name), 0o644, true, &ROOT_USER);
            made.unwrap().1
        };
        let handles = ["from", "to"].map(create);
        assert_eq!(view.write(handles[0], 0, &from, None).unwrap(), LARGE);
        Copier {
            view: view.clone(),
            handles,
            parent,
            from,
        }
    }

    fn step(&mut self) {
        let to = self.view.lookup(self.parent, OsStr::new("to")).unwrap().ino;
        let set = SetAttr {
            size: Some(0),
            ..SetAttr::default()
        };
        self.view.setattr(to, &set).unwrap();
        let [from, to] = self.handles;
        let length = LARGE as u64;
        let mut done = 0;
        while done < length {
            let copied = self.view.copy_range(from, done, to, done, length - done);
            let copied = copied.unwrap();
            assert!(copied > 0, "nothing copied at {done}");
            done += copied;
        }
        let mut buffer = vec![0; LARGE + 1];
        let read = self.view.read(to, 0, &mut buffer).unwrap();
        assert_eq!(read, LARGE, "what was copied is shorter");
        assert!(buffer[..LARGE] == self.from, "what was copied differs");
    }
}

/// What a late write to a sealed layer would change.
fn look(at: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = vec![at.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let (size, mode) = (meta.size(), meta.mode());
        let modified = meta.modified().unwrap();
        lines.push(format!("{path:?} {mode:o} {size} {modified:?}"));
    }
    lines.sort();
    lines
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Whoever fails ends it for all.
fn while_not(over: &AtomicBool, mut act: impl FnMut()) {
    let _end = End(over);
    while !over.load(Ordering::Acquire) {
        act();
    }
}

#[test]
fn what_is_acknowledged_while_the_view_is_sealed_is_kept() {
    let mut driver = Driver::new(true, &[]);
    let view = driver.view.clone();
    let workspace = view.lookup(ROOT, OsStr::new("0")).unwrap().ino;
    let shared = OsStr::new("m");
    view.mkdir(workspace, shared, 0o755, &ROOT_USER).unwrap();
    let mut writers: Vec<Writer> = (1..=WRITERS)
        .map(|number| Writer::new(&view, workspace, number))
        .collect();
    let mut copier = Copier::new(&view, workspace);
    let over = AtomicBool::new(false);
    let mut sealed = Vec::new();
    std::thread::scope(|scope| {
        // Ends the threads, also when a seal fails.
        let _end = End(&over);
        for writer in &mut writers {
            scope.spawn(|| while_not(&over, || writer.step()));
        }
        scope.spawn(|| while_not(&over, || copier.step()));
        for swap in 0..SWAPS {
            if over.load(Ordering::Acquire) {
                break;
            }
            // Every third time as a merge does it: a layer of a step lies on top.
            let path = if swap % 3 == 2 {
                let content = format!("merged {swap}");
                driver.merge_file("0", &["m"], "f", content.as_bytes())
            } else {
                driver.push_head()
            };
            let before = look(&path);
            sealed.push((path, before));
        }
    });
    writers.iter().for_each(Writer::check);
    driver.push_head();
    writers.iter().for_each(Writer::check);
    for (path, before) in sealed {
        assert_eq!(look(&path), before, "a sealed layer has changed");
    }
}

/// Steps that merge one after the other find a head that nobody has changed, while somebody is
/// copying a file there.
#[test]
fn a_head_that_nobody_has_changed_is_in_no_writers_way() {
    const SIZE: usize = 3 << 20;
    let mut driver = Driver::new(true, &[]);
    let view = driver.view.clone();
    let workspace = view.lookup(ROOT, OsStr::new("0")).unwrap().ino;
    let mut files: Vec<Vec<u8>> = (1..=2).map(|seed| Random(seed).bytes(SIZE)).collect();
    let name = |at: usize| OsString::from(format!("large{at}"));
    for (at, content) in files.iter().enumerate() {
        let made = view.create(workspace, &name(at), 0o644, true, &ROOT_USER);
        let handle = made.unwrap().1;
        assert_eq!(view.write(handle, 0, content, None).unwrap(), SIZE);
        view.release(handle);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = End(&over);
        for (at, content) in files.iter_mut().enumerate() {
            let (view, over) = (&view, &over);
            scope.spawn(move || {
                let mut random = Random(at as u64 + 7);
                while_not(over, || {
                    let ino = view.lookup(workspace, &name(at)).unwrap().ino;
                    let opened = view.open(ino, OFlag::O_RDWR, None).unwrap();
                    let (data, offset) = (random.bytes(100), random.below(SIZE - 100));
                    let done = view.write(opened.handle, offset as u64, &data, None);
                    assert_eq!(done.unwrap(), data.len());
                    view.release(opened.handle);
                    content[offset..offset + data.len()].copy_from_slice(&data);
                });
            });
        }
        for _ in 0..2000 {
            if over.load(Ordering::Acquire) {
                break;
            }
            driver.seal_or_keep();
        }
    });
    for (at, content) in files.iter().enumerate() {
        let ino = view.lookup(workspace, &name(at)).unwrap().ino;
        let handle = view.open(ino, OFlag::O_RDONLY, None).unwrap().handle;
        let mut read = vec![0; SIZE + 1];
        assert_eq!(view.read(handle, 0, &mut read).unwrap(), SIZE);
        assert!(read[..SIZE] == **content, "file {at} differs");
        view.release(handle);
    }
}
