//! A stage with fake sessions, and hands to write in its views.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness_fs::error::Result;
use harness_fs::layer::copy_up::{self, Extent};
use harness_fs::layer::{OpenLayer, Stack, Visit, set_ino, walk};
use harness_fs::merge::SharingMode;
use harness_fs::stage::{Happening, Invalidation, Options, Session, Sessions, Stage};
use harness_fs::tree::union::Entry;
use harness_fs::tree::{Ino, Kind, marker};
use harness_fs::view::View;
use nix::errno::Errno;
use nix::fcntl::OFlag;

#[derive(Default)]
pub struct Fakes {
    pub views: Mutex<BTreeMap<String, Arc<View>>>,
    pub told: Arc<Mutex<Vec<Invalidation>>>,
    pub events: Arc<Mutex<Vec<String>>>,
    pub interludes: Arc<Mutex<Vec<Interlude>>>,
    /// The kernel takes no word of ours.
    pub deaf: Arc<AtomicBool>,
}

/// What happens in the stage view while it still serves requests, the next time
/// that it is about to stop to have its layers exchanged; the last one first.
pub type Interlude = Box<dyn FnOnce() + Send>;

struct Fake {
    name: String,
    interludes: Arc<Mutex<Vec<Interlude>>>,
    deaf: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<Invalidation>>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl Sessions for Fakes {
    fn mount(&self, view: Arc<View>, at: &Path, name: &str) -> Result<Box<dyn Session>> {
        assert!(at.is_dir(), "{}", at.display());
        self.views.lock().unwrap().insert(name.to_owned(), view);
        Ok(Box::new(Fake {
            name: name.to_owned(),
            interludes: self.interludes.clone(),
            deaf: self.deaf.clone(),
            told: self.told.clone(),
            events: self.events.clone(),
        }))
    }
}

impl Session for Fake {
    fn watched(&self) -> BTreeSet<Ino> {
        BTreeSet::new()
    }

    fn announce(&self, _happenings: &[Happening]) {}

    fn unmount(&self) -> Result<()> {
        self.events
            .lock()
            .unwrap()
            .push(format!("unmount {}", self.name));
        Ok(())
    }
    fn abort(&self) {
        self.events
            .lock()
            .unwrap()
            .push(format!("abort {}", self.name));
    }
    fn invalidate(&self, changes: Vec<Invalidation>) -> Result<()> {
        assert_eq!(self.name, "stage");
        if self.deaf.load(Ordering::Relaxed) {
            return Err(Errno::EIO.into());
        }
        self.told.lock().unwrap().extend(changes);
        Ok(())
    }
    fn held(&self) -> Vec<harness_fs::tree::Ino> {
        Vec::new()
    }
    fn collect_mapped(&self) -> Result<()> {
        let next = self.interludes.lock().unwrap().pop();
        next.into_iter().for_each(|act| act());
        Ok(())
    }
    fn requests(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("LOOKUP".to_owned(), 2)])
    }
    fn oldest_request(&self) -> Option<Duration> {
        None
    }
    fn transport(&self) -> String {
        "fake".to_owned()
    }
}

pub struct Rig {
    pub dir: PathBuf,
    pub fakes: Arc<Fakes>,
    pub stage: Stage,
    _held: Option<tempfile::TempDir>,
}

/// What the workspace holds before the stage.
pub const BASE: &[(&str, &str)] = &[
    ("README", "read me\n"),
    ("src/main.c", "int main;\n"),
    ("src/util.c", "util\n"),
    ("docs/a/deep", "deep\n"),
    ("docs/b", "b\n"),
    ("log", "one\n"),
];

pub fn mapped(dir: &Path) -> Vec<PathBuf> {
    vec![dir.join("ws"), dir.join("m2")]
}

/// Makes the mapped paths of a stage.
pub fn fill_base(dir: &Path) {
    for (path, content) in BASE {
        let path = dir.join("ws").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::hard_link(dir.join("ws/README"), dir.join("ws/README2")).unwrap();
    fs::create_dir_all(dir.join("m2/repo")).unwrap();
    fs::write(dir.join("m2/repo/jar"), "jar\n").unwrap();
}

impl Rig {
    pub fn new() -> Rig {
        let held = tempfile::tempdir().unwrap();
        let mut rig = Rig::create(held.path());
        rig._held = Some(held);
        rig
    }

    pub fn create(dir: &Path) -> Rig {
        Rig::create_sharing(dir, SharingMode::Merge)
    }

    /// A stage whose shared path has a mode.
    pub fn sharing(mode: SharingMode) -> Rig {
        let held = tempfile::tempdir().unwrap();
        let mut rig = Rig::create_sharing(held.path(), mode);
        rig._held = Some(held);
        rig
    }

    fn create_sharing(dir: &Path, mode: SharingMode) -> Rig {
        fill_base(dir);
        let options = Options {
            name: "test".to_owned(),
            mapped: mapped(dir),
            sharing: [(dir.join("m2"), mode)].into(),
            ..Options::default()
        };
        let fakes = Arc::new(Fakes::default());
        let state = dir.join("state");
        let stage = Stage::create(&state, options, Vec::new(), true, fakes.clone()).unwrap();
        stage.open_stage_view().unwrap();
        Rig {
            dir: dir.to_path_buf(),
            fakes,
            stage,
            _held: None,
        }
    }

    pub fn resume(dir: &Path) -> Rig {
        let fakes = Arc::new(Fakes::default());
        let stage = Stage::resume(&dir.join("state"), fakes.clone()).unwrap();
        stage.open_stage_view().unwrap();
        Rig {
            dir: dir.to_path_buf(),
            fakes,
            stage,
            _held: None,
        }
    }

    /// Has the stage view looked at, as the kernel does: what lies below a
    /// directory that nobody looked at cannot be cached.
    pub fn look_at(&self, path: &str) {
        let view = self.fakes.views.lock().unwrap()["stage"].clone();
        let mut ino = harness_fs::view::ROOT;
        for name in Path::new(path) {
            ino = view.lookup(ino, name).unwrap().ino;
        }
    }

    /// Writes over the start of a file as the kernel has it written, so that the
    /// layer gets all that an open one has.
    pub fn write_through(&self, view: &str, path: &str, content: &str) {
        let view = self.fakes.views.lock().unwrap()[view].clone();
        let mut ino = harness_fs::view::ROOT;
        for name in Path::new(path) {
            ino = view.lookup(ino, name).unwrap().ino;
        }
        let opened = view.open(ino, OFlag::O_WRONLY, None).unwrap();
        let written = view.write(opened.handle, 0, content.as_bytes(), None);
        assert_eq!(written.unwrap(), content.len());
        view.release(opened.handle);
    }

    /// What a dead daemon leaves, and another finds.
    pub fn die_and_resume(self) -> Rig {
        let Rig {
            dir, stage, _held, ..
        } = self;
        drop(stage);
        let mut rig = Rig::resume(&dir);
        rig._held = _held;
        rig
    }

    pub fn begin(&self, step: &str) {
        self.stage.begin(step).unwrap();
    }

    pub fn in_view(&self, name: &str) -> Hand<'_> {
        let view = self.fakes.views.lock().unwrap()[name].clone();
        let open = OpenLayer::open(&view.open_layer_path()).unwrap();
        Hand {
            stage: &self.stage,
            stack: view.stack(),
            open,
        }
    }

    pub fn head(&self) -> Hand<'_> {
        self.in_view("stage")
    }

    /// A step that does this and is then merged alone.
    pub fn step(&self, name: &str, act: impl FnOnce(&Hand<'_>)) {
        self.begin(name);
        act(&self.in_view(name));
        self.stage.seal_step(name).unwrap();
    }

    pub fn tree(&self) -> Tree {
        Tree::of(&self.stage.current_stack().unwrap())
    }

    pub fn ino(&self, path: &str) -> Ino {
        let stack = self.stage.current_stack().unwrap();
        stack.find(Path::new(path)).unwrap().unwrap().attr.ino
    }
}

pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Writes into an open layer what a view would.
pub struct Hand<'a> {
    stage: &'a Stage,
    stack: Stack,
    open: OpenLayer,
}

impl Hand<'_> {
    fn real(&self, path: &str) -> PathBuf {
        self.open.path().join("tree").join(path)
    }

    fn parent(&self, path: &str) {
        let parent = Path::new(path).parent().unwrap();
        for dir in parent.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if dir.as_os_str().is_empty() || self.real(dir.to_str().unwrap()).is_dir() {
                continue;
            }
            if self.stack.find(dir).unwrap().is_some() {
                copy_up::copy_dir(&self.open, &self.stack, dir).unwrap();
            } else {
                self.mkdir(dir.to_str().unwrap());
            }
        }
    }

    fn number(&self, path: &str) {
        let path = Path::new("tree").join(path);
        set_ino(&self.open, &path, self.stage.inos().allocate(), false).unwrap();
    }

    /// Whether the step's view has something there.
    pub fn has(&self, path: &str) -> bool {
        self.kind(path).is_some()
    }

    pub fn has_dir(&self, path: &str) -> bool {
        self.kind(path) == Some(Kind::Dir)
    }

    fn kind(&self, path: &str) -> Option<Kind> {
        let layer = harness_fs::layer::read_open(self.open.path()).unwrap();
        let found = self.stack.with(layer).find(Path::new(path)).unwrap();
        found.map(|found| found.attr.kind)
    }

    pub fn mkdir(&self, path: &str) -> &Self {
        self.parent(path);
        fs::create_dir(self.real(path)).unwrap();
        self.number(path);
        self
    }

    pub fn copy_up(&self, path: &str) -> &Self {
        self.parent(path);
        if fs::symlink_metadata(self.real(path)).is_err() {
            let path = Path::new(path);
            let found = self.stack.find(path).unwrap().unwrap();
            let to = Path::new("tree").join(path);
            copy_up::entry(&self.open, &self.stack, &found, path, &to, Extent::Whole).unwrap();
        }
        self
    }

    /// Writes in place, or makes a file.
    pub fn write(&self, path: &str, content: &str) -> &Self {
        self.parent(path);
        let seen = self.stack.find(Path::new(path)).unwrap();
        let here = self.open.entry(Path::new(path)).unwrap();
        let whiteout = matches!(here, Some(Entry::Whiteout));
        if seen.is_some_and(|seen| seen.attr.kind == Kind::File) && here.is_none() {
            self.copy_up(path);
        }
        if whiteout {
            fs::remove_file(self.real(path)).unwrap();
        }
        let fresh = fs::symlink_metadata(self.real(path)).is_err();
        fs::write(self.real(path), content).unwrap();
        if fresh {
            self.number(path);
        }
        self
    }

    pub fn append(&self, path: &str, more: &str) -> &Self {
        self.copy_up(path);
        let text = fs::read_to_string(self.real(path)).unwrap();
        self.write(path, &(text + more))
    }

    pub fn remove(&self, path: &str) -> &Self {
        self.parent(path);
        let _ = fs::remove_dir_all(self.real(path));
        let _ = fs::remove_file(self.real(path));
        if self.stack.find(Path::new(path)).unwrap().is_some() {
            self.open
                .whiteout_file(&Path::new("tree").join(path))
                .unwrap();
        }
        self
    }

    pub fn rename_dir(&self, from: &str, to: &str) -> &Self {
        self.parent(to);
        let found = self.stack.find(Path::new(from)).unwrap().unwrap();
        let target = Path::new("tree").join(to);
        copy_up::directory(&self.open, &self.stack, &found, &target).unwrap();
        let text = harness_fs::tree::union::redirect_text(Path::new(from));
        self.open
            .mark(&target, found.attr.ino, marker::REDIRECT, &text)
            .unwrap();
        self.remove(from)
    }

    pub fn rename_file(&self, from: &str, to: &str) -> &Self {
        self.parent(to);
        self.copy_up(from);
        fs::rename(self.real(from), self.real(to)).unwrap();
        self.remove(from)
    }

    /// A directory made anew where there was one.
    pub fn remake_dir(&self, path: &str) -> &Self {
        self.remove(path);
        fs::remove_file(self.real(path)).unwrap();
        self.mkdir(path);
        let ino = self.stage.inos().allocate();
        let target = Path::new("tree").join(path);
        self.open
            .mark(&target, ino, marker::OPAQUE, "y".as_ref())
            .unwrap();
        self
    }

    pub fn chmod(&self, path: &str, mode: u32) -> &Self {
        let dir = self.stack.find(Path::new(path)).unwrap();
        if dir.is_some_and(|dir| dir.attr.is_dir()) {
            self.parent(&format!("{path}/x"));
        } else {
            self.copy_up(path);
        }
        fs::set_permissions(self.real(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn link(&self, from: &str, to: &str) -> &Self {
        self.parent(to);
        fs::hard_link(self.real(from), self.real(to)).unwrap();
        self
    }
}

/// A tree as a map of lines, to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, String>);

impl Tree {
    /// Reads a stack, and checks on the way that one number is one file.
    pub fn of(stack: &Stack) -> Tree {
        let mut lines = BTreeMap::new();
        let mut inodes: HashMap<Ino, (usize, u32, u32)> = HashMap::new();
        let mut first_names: HashMap<Ino, String> = HashMap::new();
        walk(stack, Path::new(""), &mut |path, found| {
            let attr = &found.attr;
            assert!(attr.ino > 1, "{} has no number", path.display());
            let layer = found.parts[0].layer;
            let seen = inodes.entry(attr.ino).or_insert((layer, attr.nlink, 0));
            seen.2 += 1;
            if attr.is_dir() {
                assert_eq!(seen.2, 1, "{} is in two places", path.display());
            } else {
                assert_eq!(seen.0, layer, "{} is two files", path.display());
            }
            let mut line = format!("{:?} {:o} {}", attr.kind, attr.perm, attr.uid);
            if attr.kind == Kind::File {
                let mut text = String::new();
                let mut file = fs::File::from(stack.open(found)?);
                file.read_to_string(&mut text)?;
                let first = first_names.entry(attr.ino);
                let first = first.or_insert_with(|| path.to_str().unwrap().to_owned());
                write!(line, " nlink {} of {first} {text:?}", attr.nlink).unwrap();
            }
            lines.insert(path.to_str().unwrap().to_owned(), line);
            Ok(Visit::Enter)
        })
        .unwrap();
        for (path, line) in &lines {
            if line.starts_with("File") {
                let found = stack.find(Path::new(path)).unwrap().unwrap();
                let (_, nlink, names) = inodes[&found.attr.ino];
                assert_eq!(nlink, names, "{path}: st_nlink and names");
            }
        }
        Tree(lines)
    }

    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// A file's content.
    pub fn text(&self, path: &str) -> String {
        let line = self.0.get(path).unwrap_or_else(|| panic!("no {path}"));
        let quoted = &line[line.find('"').unwrap()..];
        serde_json::from_str(quoted).unwrap()
    }
}
