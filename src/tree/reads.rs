//! What a step has seen of the tree that it began on, by name.
//!
//! It is written down while the step runs, once for nearly every request, and looked at only when
//! others have changed something meanwhile. So it is a log: an event is a few bytes behind the
//! last one. What was noted twice is put together when there is a lot, and when it is read.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::ops::{BitOr, BitOrAssign};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// How a name was seen: several of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight(u8);

impl Sight {
    /// It was looked up, and it was there.
    pub const FOUND: Sight = Sight(1);
    /// It was looked up, and there was nothing.
    pub const MISSING: Sight = Sight(1 << 1);
    /// Right after that it was made, so the look-up may have been part of making it.
    pub const MADE: Sight = Sight(1 << 2);
    /// Its attributes came with a listing that nobody may have asked them of.
    pub const TOLD: Sight = Sight(1 << 3);
    /// It is a directory, and its names were listed.
    pub const LISTED: Sight = Sight(1 << 4);
    /// Its content was opened to be read, or its target was.
    pub const READ: Sight = Sight(1 << 5);

    /// Whether all of `other` is in it.
    pub fn has(self, other: Sight) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Sight {
    type Output = Sight;

    fn bitor(self, other: Sight) -> Sight {
        Sight(self.0 | other.0)
    }
}

impl BitOrAssign for Sight {
    fn bitor_assign(&mut self, other: Sight) {
        self.0 |= other.0;
    }
}

/// What was seen in one directory, by name; the empty name is the directory itself.
pub type Names = BTreeMap<OsString, Sight>;

/// So many bytes are kept: a million names, more or less.
const MOST: usize = 32 << 20;
/// From so many bytes on what was noted twice is put together.
const MANY: usize = 4 << 20;
/// Of an event: how it was seen, the directory, the length of the name (`NAME_MAX` is 255).
const HEAD: usize = 6;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Directories, as paths below a layer's root.
    dirs: Vec<Arc<Path>>,
    /// Events, one after another.
    log: Vec<u8>,
    /// How many bytes the directories have.
    dir_bytes: usize,
    /// When `log` is this long it is time to put together what was noted twice.
    tidy_at: usize,
    partial: bool,
}

impl Reads {
    /// Notes a directory; what is seen in it is noted under this number.
    pub fn dir(&mut self, path: &Arc<Path>) -> u32 {
        let number = self.dirs.len();
        self.dir_bytes += path.as_os_str().len() + size_of::<Arc<Path>>();
        self.dirs.push(path.clone());
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Notes that a name was seen in a directory. The empty name is the directory itself.
    pub fn note(&mut self, dir: u32, name: &OsStr, sight: Sight) {
        let Ok(length) = u8::try_from(name.len()) else {
            return;
        };
        if self.log.len() >= self.tidy_at.max(MANY) {
            self.tidy();
        }
        if self.log.len() + self.dir_bytes > MOST {
            self.partial = true;
        }
        if self.partial {
            return;
        }
        self.log.push(sight.0);
        self.log.extend_from_slice(&dir.to_le_bytes());
        self.log.push(length);
        self.log.extend_from_slice(name.as_bytes());
    }

    /// Puts together what was noted twice.
    fn tidy(&mut self) {
        let mut together: HashMap<(u32, &OsStr), Sight> = HashMap::new();
        for (dir, name, sight) in self.events() {
            *together.entry((dir, name)).or_default() |= sight;
        }
        let mut tidied = Reads {
            tidy_at: usize::MAX,
            ..Reads::default()
        };
        for ((dir, name), sight) in together {
            tidied.note(dir, name, sight);
        }
        self.log = tidied.log;
        self.tidy_at = self.log.len() * 2;
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Whether more was seen than is kept.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    fn events(&self) -> impl Iterator<Item = (u32, &OsStr, Sight)> {
        let mut rest = &self.log[..];
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_at_checked(HEAD)?;
            let [sight, a, b, c, d, length] = *head else {
                return None;
            };
            let (name, tail) = tail.split_at_checked(length.into())?;
            rest = tail;
            let dir = u32::from_le_bytes([a, b, c, d]);
            Some((dir, OsStr::from_bytes(name), Sight(sight)))
        })
    }

    /// What was seen in those directories that are wanted, by directory.
    pub fn within(&self, mut wanted: impl FnMut(&Path) -> bool) -> BTreeMap<&Path, Names> {
        let wanted: Vec<bool> = self.dirs.iter().map(|dir| wanted(dir)).collect();
        let mut seen: BTreeMap<&Path, Names> = BTreeMap::new();
        for (dir, name, sight) in self.events() {
            let dir = dir as usize;
            if wanted.get(dir) == Some(&true) {
                let names = seen.entry(&self.dirs[dir]).or_default();
                match names.get_mut(name) {
                    Some(known) => *known |= sight,
                    None => drop(names.insert(name.to_owned(), sight)),
                }
            }
        }
        seen
    }

    /// As bytes, to be written to a file: [`Reads::read`] reads them.
    pub fn write(&self) -> Vec<u8> {
        let count = u32::try_from(self.dirs.len()).unwrap_or(u32::MAX);
        let mut bytes = vec![u8::from(self.partial)];
        bytes.extend_from_slice(&count.to_le_bytes());
        for dir in &self.dirs {
            let path = dir.as_os_str().as_bytes();
            let length = u32::try_from(path.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(path);
        }
        bytes.extend_from_slice(&self.log);
        bytes
    }

    /// Reads what [`Reads::write`] wrote; `None` for anything else.
    pub fn read(bytes: &[u8]) -> Option<Reads> {
        let mut rest = bytes;
        let mut take = |length: usize| -> Option<&[u8]> {
            let (taken, tail) = rest.split_at_checked(length)?;
            rest = tail;
            Some(taken)
        };
        let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
        let mut reads = Reads {
            partial: match take(1)? {
                [0] => false,
                [1] => true,
                _ => return None,
            },
            ..Reads::default()
        };
        for _ in 0..number(take(4)?)? {
            let length = number(take(4)?)? as usize;
            let path = Path::new(OsStr::from_bytes(take(length)?));
            let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
            if !path.components().all(plain) {
                return None;
            }
            reads.dir(&Arc::from(path));
        }
        reads.log = rest.to_vec();
        let mut length = 0;
        for (dir, name, _) in reads.events() {
            let name = name.as_bytes();
            let odd = name.contains(&b'/') || name == b"." || name == b"..";
            if odd || dir as usize >= reads.dirs.len() {
                return None;
            }
            length += HEAD + name.len();
        }
        (length == reads.log.len()).then_some(reads)
    }

    /// The path of a name in a directory; the directory itself for the empty name.
    pub fn path(dir: &Path, name: &OsStr) -> PathBuf {
        match name.is_empty() {
            true => dir.to_path_buf(),
            false => dir.join(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(path: &str) -> Arc<Path> {
        Arc::from(Path::new(path))
    }

    fn some() -> Reads {
        let mut reads = Reads::default();
        let (root, src) = (reads.dir(&dir("0")), reads.dir(&dir("0/src")));
        reads.note(root, OsStr::new("a"), Sight::FOUND);
        reads.note(src, OsStr::new("\u{fc}b"), Sight::MISSING);
        reads.note(root, OsStr::new(""), Sight::LISTED);
        reads.note(root, OsStr::new("a"), Sight::READ);
        reads
    }

    #[test]
    fn what_is_noted_is_found_by_directory() {
        let reads = some();
        let seen = reads.within(|path| path == Path::new("0"));
        assert_eq!(seen.len(), 1);
        let names = &seen[Path::new("0")];
        assert_eq!(names[OsStr::new("a")], Sight::FOUND | Sight::READ);
        assert!(names[OsStr::new("")].has(Sight::LISTED));
        assert_eq!(Reads::path(Path::new("0"), OsStr::new("")), Path::new("0"));
    }

    #[test]
    fn it_is_read_as_it_was_written_and_nothing_else_is() {
        let written = some().write();
        assert_eq!(Reads::read(&written).unwrap().write(), written);
        for length in 0..written.len() {
            // Cut off behind an event it is a shorter log.
            if let Some(reads) = Reads::read(&written[..length]) {
                assert_eq!(reads.write(), written[..length]);
            }
        }
        for index in 0..written.len() {
            for byte in [0, 1, b'/', 0xff] {
                let mut odd = written.clone();
                odd[index] = byte;
                if let Some(reads) = Reads::read(&odd) {
                    drop(reads.within(|_| true));
                }
            }
        }
        let mut up = Reads::default();
        let root = up.dir(&dir("0"));
        up.note(root, OsStr::new(".."), Sight::READ);
        assert_eq!(Reads::read(&up.write()), None);
        let mut out = Reads::default();
        out.dir(&dir("/etc"));
        assert_eq!(Reads::read(&out.write()), None);
    }

    #[test]
    fn what_is_noted_again_and_again_takes_no_more_room() {
        let mut reads = Reads::default();
        let root = reads.dir(&dir("0"));
        for round in 0..1_000_000 {
            let name = format!("a rather long name, one of a few: {}", round % 100);
            reads.note(root, OsStr::new(&name), Sight::FOUND);
        }
        assert!(reads.log.len() <= MANY + 512, "{}", reads.log.len());
        assert!(!reads.is_partial());
        assert_eq!(reads.within(|_| true)[Path::new("0")].len(), 100);
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut reads = Reads::default();
        let root = reads.dir(&dir("0"));
        for number in 0..200_000 {
            let name = format!("{number:0250}");
            reads.note(root, OsStr::new(&name), Sight::FOUND);
        }
        assert!(reads.is_partial());
        assert!(reads.log.len() <= MOST + 512, "{}", reads.log.len());
        assert!(Reads::read(&reads.write()).unwrap().is_partial());
    }
}
