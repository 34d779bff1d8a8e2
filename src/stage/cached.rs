//! A stack that remembers where its directories are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::error::Result;
use crate::layer::Stack;
use crate::tree::union::{Found, Part};

/// What is remembered of a directory: its parts, or that there is none.
type Parts = Option<Rc<[Part]>>;

/// So many directories are remembered: some megabytes.
const MOST: usize = 1 << 15;

/// A stack in which many paths are looked up, as a merge does. To look one up in a [`Stack`] asks
/// every layer for every directory on the way, and a stage has a layer for each of its steps.
/// Layers do not change, so a directory need be found once, and then only those are asked that
/// have something in it; a layer that does change calls for [`CachedStack::forget`].
#[derive(Debug)]
pub(super) struct CachedStack {
    stack: Stack,
    dirs: RefCell<HashMap<PathBuf, Parts>>,
}

impl From<Stack> for CachedStack {
    fn from(stack: Stack) -> CachedStack {
        CachedStack {
            stack,
            dirs: RefCell::default(),
        }
    }
}

impl Deref for CachedStack {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl CachedStack {
    /// As [`Stack::find`].
    ///
    /// # Errors
    /// What the layers report.
    pub fn find(&self, path: &Path) -> Result<Option<Found>> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return self.stack.find(path);
        };
        match self.dir(dir)? {
            Some(parts) => self.stack.lookup(&parts, name),
            None => Ok(None),
        }
    }

    /// Forgets where directories are: to be called when the uppermost layer, one that is still
    /// being made, has got another entry.
    pub fn forget(&self) {
        self.dirs.borrow_mut().clear();
    }

    fn dir(&self, dir: &Path) -> Result<Parts> {
        let mut parts: Parts = Some(self.stack.roots().into());
        let mut unknown = Vec::new();
        for above in dir.ancestors() {
            if let Some(known) = self.dirs.borrow().get(above) {
                parts = known.clone();
                break;
            }
            if let Some(name) = above.file_name() {
                unknown.push((above, name));
            }
        }
        for (above, name) in unknown.into_iter().rev() {
            if let Some(parent) = parts {
                let found = self.stack.lookup(&parent, name)?;
                let found = found.filter(|found| found.attr.is_dir());
                parts = found.map(|found| found.parts.into());
            }
            let mut dirs = self.dirs.borrow_mut();
            if dirs.len() >= MOST {
                dirs.clear();
            }
            dirs.insert(above.to_path_buf(), parts.clone());
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::{OsStr, OsString};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nix::errno::Errno;

    use super::*;
    use crate::layer::Layer;
    use crate::tree::marker::Marks;
    use crate::tree::union::{Entry, Name};
    use crate::tree::{Attr, Ino, Kind, Time};

    /// A layer of these entries, that counts how often it is asked.
    #[derive(Debug, Default)]
    struct Told {
        entries: BTreeMap<PathBuf, Entry>,
        asked: Arc<AtomicUsize>,
        links: HashMap<Ino, i64>,
    }

    impl Layer for Told {
        fn id(&self) -> &str {
            "told"
        }
        fn entry(&self, path: &Path) -> Result<Option<Entry>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(self.entries.get(path).cloned())
        }
        fn names(&self, _: &Path) -> Result<Vec<Name>> {
            Ok(Vec::new())
        }
        fn open(&self, _: &Path) -> Result<OwnedFd> {
            Err(Errno::EIO.into())
        }
        fn readlink(&self, _: &Path) -> Result<OsString> {
            Err(Errno::EIO.into())
        }
        fn xattr(&self, _: &Path, _: &OsStr) -> Result<Option<Vec<u8>>> {
            Ok(None)
        }
        fn xattrs(&self, _: &Path) -> Result<Vec<OsString>> {
            Ok(Vec::new())
        }
        fn link_changes(&self) -> &HashMap<Ino, i64> {
            &self.links
        }
    }

    fn entry(kind: Kind, marks: Marks) -> Entry {
        let attr = Attr {
            ino: 7,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
        };
        Entry::Present(attr, marks)
    }

    fn dir() -> Entry {
        entry(Kind::Dir, Marks::default())
    }

    fn file() -> Entry {
        entry(Kind::File, Marks::default())
    }

    /// The lowest has `files` in `0/deep/down`; each above has one of its own beside that.
    fn stack(files: usize, above: usize, asked: &Arc<AtomicUsize>) -> Stack {
        let mut told = BTreeMap::new();
        for path in ["0", "0/deep", "0/deep/down", "0/old", "0/cut"] {
            told.insert(PathBuf::from(path), dir());
        }
        for path in ["0/old/x", "0/cut/x", "0/gone"] {
            told.insert(PathBuf::from(path), file());
        }
        for number in 0..files {
            told.insert(PathBuf::from(format!("0/deep/down/{number}")), file());
        }
        let mut layers = vec![told];
        for number in 0..above {
            let own = PathBuf::from(format!("0/own{number}"));
            layers.push(BTreeMap::from([(PathBuf::from("0"), dir()), (own, file())]));
        }
        let moved = Marks {
            redirect: Some(PathBuf::from("0/old")),
            ..Marks::default()
        };
        let opaque = Marks {
            opaque: true,
            ..Marks::default()
        };
        layers.push(BTreeMap::from([
            (PathBuf::from("0"), dir()),
            (PathBuf::from("0/new"), entry(Kind::Dir, moved)),
            (PathBuf::from("0/old"), Entry::Whiteout),
            (PathBuf::from("0/cut"), entry(Kind::Dir, opaque)),
            (PathBuf::from("0/gone"), Entry::Whiteout),
        ]));
        let layer = |entries| -> Arc<dyn Layer> {
            Arc::new(Told {
                entries,
                asked: asked.clone(),
                ..Told::default()
            })
        };
        Stack::new(layers.into_iter().map(layer).collect())
    }

    #[test]
    fn it_finds_what_the_stack_finds() {
        let stack = stack(2, 3, &Arc::default());
        let cached = CachedStack::from(stack.clone());
        for path in [
            "",
            "0",
            "1",
            "0/deep/down/1",
            "0/deep/down/2",
            "0/deep/down",
            "0/own1",
            "0/own1/x",
            "0/new/x",
            "0/new",
            "0/old",
            "0/old/x",
            "0/cut",
            "0/cut/x",
            "0/gone",
            "0/gone/x/y",
            "0/nothing/at/all",
            "1/x",
        ] {
            let path = Path::new(path);
            let parts = |found: Option<Found>| found.map(|found| found.parts);
            let expected = parts(stack.find(path).unwrap());
            // The second time from what is remembered.
            for _ in 0..2 {
                assert_eq!(parts(cached.find(path).unwrap()), expected, "{path:?}");
            }
        }
    }

    #[test]
    fn only_layers_that_have_something_there_are_asked_for_each_file() {
        let asked = Arc::default();
        let (files, above) = (1000, 50);
        let cached = CachedStack::from(stack(files, above, &asked));
        for number in 0..files {
            let path = PathBuf::from(format!("0/deep/down/{number}"));
            assert!(cached.find(&path).unwrap().is_some());
        }
        let asked = asked.load(Ordering::Relaxed);
        assert!(asked < files + 4 * above, "{asked} questions");
    }
}
