//! A view on a real mount, over a base made by the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness_fs::fuse::{FuseOptions, FuseSession, mount};
use harness_fs::layer::{Base, Inos, OpenLayer, SealedLayer, Stack, seal};
use harness_fs::stage::Session;
use harness_fs::view::View;

/// A mounted view; unmounted when dropped, also when the test fails.
pub struct Mounted {
    directory: tempfile::TempDir,
    session: Option<FuseSession>,
    view: Arc<View>,
    stack: Stack,
    inos: Arc<Inos>,
    layers: u32,
    before: String,
    passthrough: bool,
}

impl Mounted {
    /// Mounts a view over a base that `fill` makes.
    pub fn over(fill: impl FnOnce(&Path)) -> Mounted {
        Mounted::with(true, fill)
    }

    pub fn with(passthrough: bool, fill: impl FnOnce(&Path)) -> Mounted {
        Mounted::within(Path::new("/var/tmp"), passthrough, fill)
    }

    /// The same with all that it needs below a directory.
    pub fn within(parent: &Path, passthrough: bool, fill: impl FnOnce(&Path)) -> Mounted {
        let directory = tempfile::Builder::new()
            .prefix("hfs-test-")
            .tempdir_in(parent)
            .expect("temporary directory");
        let base = directory.path().join("base");
        for name in ["base", "layers", "mnt"] {
            fs::create_dir(directory.path().join(name)).expect(name);
        }
        fill(&base);
        let before = listing(&base);
        let inos = Arc::new(Inos::new(1));
        let base = Base::take(&[base], inos.clone()).expect("base");
        let stack = Stack::new(vec![Arc::new(base)]);
        let open = OpenLayer::open(&directory.path().join("open")).expect("open layer");
        let view = View::new(stack.clone(), open, inos.clone(), false).expect("view");
        let mut mounted = Mounted {
            directory,
            session: None,
            view,
            stack,
            inos,
            layers: 0,
            before,
            passthrough,
        };
        mounted.mount();
        mounted
    }

    fn mount(&mut self) {
        let options = FuseOptions {
            source: "harness-fs:test".into(),
            passthrough: self.passthrough,
        };
        let at = self.directory.path().join("mnt");
        self.session = Some(mount(self.view.clone(), &at, &options).expect("mount"));
    }

    /// The workspace in the view.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("mnt/0")
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// The base directory, below the view.
    pub fn base(&self) -> PathBuf {
        self.directory.path().join("base")
    }

    pub fn open_layer(&self) -> PathBuf {
        self.directory.path().join("open")
    }

    /// The trees of the layers that are sealed, the newest first.
    pub fn sealed_layers(&self) -> Vec<PathBuf> {
        let layers = self.directory.path().join("layers");
        let tree = |number| layers.join(format!("{number:06}-test/tree/0"));
        (1..=self.layers).rev().map(tree).collect()
    }

    pub fn requests(&self) -> std::collections::BTreeMap<String, u64> {
        self.session.as_ref().expect("mounted").requests()
    }

    /// How the kernel and we agreed to serve it.
    pub fn transport(&self) -> String {
        self.session.as_ref().expect("mounted").transport()
    }

    /// Unmounts, seals what was written, and mounts a fresh view on top of it.
    pub fn seal_and_remount(&mut self) {
        let session = self.session.take().expect("mounted");
        session.unmount().expect("unmount");
        drop(session);
        let open = self.view.close().expect("close");
        self.layers += 1;
        let id = format!("{:06}-test", self.layers);
        let layers = self.directory.path().join("layers");
        seal(&open, &self.stack, &layers, &id, "test", 0).expect("seal");
        let sealed = SealedLayer::open(fs::File::open(&layers).expect("layers"), &id);
        self.stack = self.stack.with(Arc::new(sealed.expect("sealed layer")));
        self.fresh_view();
    }

    /// Unmounts and mounts the same open layer again, as after a crash.
    pub fn remount(&mut self) {
        let session = self.session.take().expect("mounted");
        session.unmount().expect("unmount");
        drop(session);
        drop(self.view.close().expect("close"));
        self.inos = Arc::new(Inos::new(u64::from(self.layers) + 100));
        self.fresh_view();
    }

    fn fresh_view(&mut self) {
        let open = OpenLayer::open(&self.open_layer()).expect("open layer");
        self.view = View::new(self.stack.clone(), open, self.inos.clone(), false).expect("view");
        self.mount();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let unmounted = session.unmount();
            if !std::thread::panicking() {
                unmounted.expect("unmount");
            }
        }
        if !std::thread::panicking() {
            assert_eq!(listing(&self.base()), self.before, "the base has changed");
        }
    }
}

/// Everything of a tree that may not change, a line per entry.
pub fn listing(root: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).expect("lstat");
        let mut line = String::new();
        let name = path.strip_prefix(root).expect("below").display();
        write!(
            line,
            "{name} {:o} {}:{} {}.{:09} {} {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.nlink(),
            meta.rdev(),
        )
        .expect("format");
        if meta.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .expect("readdir")
                    .map(|e| e.expect("entry").path()),
            );
        } else if meta.is_file() {
            let content = fs::read(&path).expect("read");
            let sum = content.iter().fold(0_u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
            write!(line, " {} {sum:x}", meta.len()).expect("format");
        } else if meta.is_symlink() {
            write!(
                line,
                " -> {}",
                fs::read_link(&path).expect("readlink").display()
            )
            .expect("format");
        }
        lines.push(line);
    }
    lines.sort();
    lines.join("\n")
}

/// The names in a directory, sorted.
pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .expect("readdir")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
