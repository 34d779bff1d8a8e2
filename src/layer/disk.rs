//! Reading a layer's tree: a directory with overlayfs's markers.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::DiskNumbers;
use crate::error::{Error, Result};
use crate::sys::{at, xattr};
use crate::tree::marker::{self, Marks};
use crate::tree::union::{Entry, Name, Redirect, redirect};
use crate::tree::{Ino, Kind};

/// How a layer says that a name is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// A character device 0:0.
    Device,
    /// An empty file with `trusted.overlay.whiteout`: where the state directory
    /// lies on an overlayfs, which refuses the device.
    Xattr,
}

/// A layer's tree on disk.
#[derive(Debug)]
pub struct DiskTree {
    root: OwnedFd,
    whiteouts: Whiteouts,
    foreign: Option<Foreign>,
}

/// A tree that others write as well, in all the forms that the kernel's overlayfs knows.
#[derive(Clone, Debug)]
struct Foreign {
    /// What the paths begin with, where the tree's root is the mapped path itself.
    lead: Option<OsString>,
    numbers: Arc<DiskNumbers>,
}

/// Set behind the number in [`marker::INO`] when the entry has further markers,
/// so that reading the common entry takes one call.
const MORE: u8 = b'+';

/// Writes the stage's inode number on an entry; `marked` when it also has
/// overlay markers.
///
/// # Errors
/// As lsetxattr(2).
pub fn set_ino(dir: impl AsFd, path: &Path, ino: Ino, marked: bool) -> Result<()> {
    xattr::set(dir, path, marker::INO, &ino_value(ino, marked), 0)
}

/// The value of [`marker::INO`].
pub(super) fn ino_value(ino: Ino, marked: bool) -> Vec<u8> {
    let mut value = ino.to_string().into_bytes();
    if marked {
        value.push(MORE);
    }
    value
}

fn parse_ino(value: &[u8]) -> Option<(Ino, bool)> {
    let (digits, marked) = match value.split_last() {
        Some((&MORE, digits)) => (digits, true),
        _ => (value, false),
    };
    let ino = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((ino, marked))
}

impl DiskTree {
    /// Reads the tree below `root`.
    pub fn new(root: OwnedFd, whiteouts: Whiteouts) -> DiskTree {
        DiskTree {
            root,
            whiteouts,
            foreign: None,
        }
    }

    /// Reads a tree that others wrote as well, the kernel's overlayfs among them. What carries no
    /// number gets one from `numbers`.
    pub fn of_upper(root: OwnedFd, whiteouts: Whiteouts, numbers: Arc<DiskNumbers>) -> DiskTree {
        let lead = None;
        DiskTree {
            root,
            whiteouts,
            foreign: Some(Foreign { lead, numbers }),
        }
    }

    /// Reads a directory that nobody writes, and that may be the upper one of somebody else's
    /// overlay, as the mapped path `lead`. All numbers come from `numbers`: what is written on
    /// entries was of another mount.
    pub fn of_lower(root: OwnedFd, lead: OsString, numbers: Arc<DiskNumbers>) -> DiskTree {
        let lead = Some(lead);
        DiskTree {
            root,
            whiteouts: Whiteouts::Device,
            foreign: Some(Foreign { lead, numbers }),
        }
    }

    /// Another reader of the same tree.
    ///
    /// # Errors
    /// As fcntl(2) `F_DUPFD_CLOEXEC`.
    pub fn again(&self) -> Result<DiskTree> {
        Ok(DiskTree {
            root: at::dup(&self.root)?,
            whiteouts: self.whiteouts,
            foreign: self.foreign.clone(),
        })
    }

    /// The descriptor of the tree's root.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// How this tree marks deletions.
    pub fn whiteouts(&self) -> Whiteouts {
        self.whiteouts
    }

    /// Where a path lies below the root's descriptor.
    fn inner<'a>(&self, path: &'a Path) -> Result<&'a Path> {
        let Some(lead) = self.foreign.as_ref().and_then(|tree| tree.lead.as_ref()) else {
            return Ok(path);
        };
        let mut components = path.components();
        match components.next() {
            Some(first) if first.as_os_str() == lead => Ok(components.as_path()),
            _ => Err(Errno::ENOENT.into()),
        }
    }

    fn is_whiteout(&self, inner: &Path, stat: &at::Stat) -> Result<bool> {
        let attr = &stat.attr;
        let device = self.whiteouts == Whiteouts::Device || self.foreign.is_some();
        let marked = self.whiteouts == Whiteouts::Xattr || self.foreign.is_some();
        if device && attr.kind == Kind::CharDevice && attr.rdev == 0 {
            return Ok(true);
        }
        Ok(marked
            && attr.kind == Kind::File
            && attr.size == 0
            && xattr::get(&self.root, inner, marker::XWHITEOUT)?.is_some())
    }

    fn marks(&self, path: &Path, inner: &Path, kind: Kind) -> Result<Marks> {
        let mut marks = Marks::default();
        // It may have been a directory further down in another overlay; a root hides nothing.
        if self.foreign.is_some() && path.components().nth(1).is_none() {
            return Ok(marks);
        }
        match kind {
            Kind::Dir => {
                let opaque = xattr::get(&self.root, inner, marker::OPAQUE)?;
                marks.opaque = opaque.as_deref() == Some(b"y");
            }
            Kind::File => {
                marks.metacopy = xattr::get(&self.root, inner, marker::METACOPY)?.is_some();
            }
            _ => return Ok(marks),
        }
        if (kind == Kind::Dir || marks.metacopy)
            && let Some(text) = xattr::get(&self.root, inner, marker::REDIRECT)?
        {
            let text = OsString::from_vec(text);
            match redirect(path, &text) {
                Some(Redirect::To(target)) => marks.redirect = Some(target),
                Some(Redirect::Renamed(name)) => marks.renamed = Some(name),
                None => {
                    let text = format!("{}: bad redirect {text:?}", path.display());
                    return Err(Error::new(Errno::EIO, text));
                }
            }
        }
        Ok(marks)
    }

    /// The number that is written on an entry, and whether that has more markers.
    fn written(&self, inner: &Path) -> Result<Option<(Ino, bool)>> {
        if self
            .foreign
            .as_ref()
            .is_some_and(|tree| tree.lead.is_some())
        {
            return Ok(None);
        }
        let value = xattr::get(&self.root, inner, marker::INO)?;
        Ok(value.as_deref().and_then(parse_ino))
    }

    /// The entry at `path`.
    ///
    /// # Errors
    /// What the disk reports; `EIO` for a marker that makes no sense.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        let Ok(inner) = self.inner(path) else {
            return Ok(None);
        };
        let Some(mut stat) = at::stat_if_there(&self.root, inner)? else {
            return Ok(None);
        };
        if self.is_whiteout(inner, &stat)? {
            return Ok(Some(Entry::Whiteout));
        }
        let kind = stat.attr.kind;
        let known = self.written(inner)?;
        stat.attr.ino = match (known, &self.foreign) {
            (Some((ino, _)), _) => ino,
            (None, Some(tree)) => tree.numbers.of(stat.dev, stat.ino),
            (None, None) => 0,
        };
        let marks = match known {
            Some((_, false)) => Marks::default(),
            _ => {
                if kind == Kind::File
                    && stat.attr.size == 0
                    && xattr::get(&self.root, inner, marker::NULL_DEVICE)?.is_some()
                {
                    stat.attr.kind = Kind::CharDevice;
                }
                self.marks(path, inner, stat.attr.kind)?
            }
        };
        Ok(Some(Entry::Present(stat.attr, marks)))
    }

    /// Whether a directory may hold empty files that are whiteouts.
    fn marks_whiteouts(&self, inner: &Path) -> Result<bool> {
        Ok(match (self.whiteouts, &self.foreign) {
            (Whiteouts::Xattr, _) => true,
            // overlayfs.rst, "whiteouts and opaque directories".
            (_, Some(_)) => xattr::get(&self.root, inner, marker::OPAQUE)?.as_deref() == Some(b"x"),
            (_, None) => false,
        })
    }

    /// The names in the directory at `path`.
    ///
    /// # Errors
    /// As openat(2), getdents64(2).
    pub fn names(&self, path: &Path) -> Result<Vec<Name>> {
        let dir = self.inner(path)?;
        let marked = self.marks_whiteouts(dir)?;
        let device = self.whiteouts == Whiteouts::Device || self.foreign.is_some();
        let numbers = match &self.foreign {
            Some(tree) if tree.lead.is_some() => {
                Some((&tree.numbers, at::stat(&self.root, dir)?.dev))
            }
            _ => None,
        };
        let mut names = Vec::new();
        for entry in at::list(&self.root, dir)? {
            let suspect = match entry.kind {
                None => true,
                Some(Kind::CharDevice) => device,
                Some(Kind::File) => marked,
                Some(_) => false,
            };
            let kind = if suspect {
                let inner = dir.join(&entry.name);
                let Some(stat) = at::stat_if_there(&self.root, &inner)? else {
                    continue;
                };
                if self.is_whiteout(&inner, &stat)? {
                    None
                } else {
                    Some(stat.attr.kind)
                }
            } else {
                entry.kind
            };
            names.push(Name {
                name: entry.name,
                kind,
                ino: numbers.map_or(0, |(numbers, device)| numbers.of(device, entry.ino)),
            });
        }
        Ok(names)
    }

    /// Opens a file's own content for reading.
    ///
    /// # Errors
    /// As openat(2).
    pub fn open(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        at::open(&self.root, self.inner(path)?, flags, 0)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As readlinkat(2).
    pub fn readlink(&self, path: &Path) -> Result<OsString> {
        at::readlink(&self.root, self.inner(path)?)
    }

    /// An extended attribute under its name in a view.
    ///
    /// # Errors
    /// As lgetxattr(2), but for absence.
    pub fn xattr(&self, path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
        let path = self.inner(path)?;
        match name.to_str() {
            Some(text) => match marker::xattr_to_layer(text) {
                Some(inside) => xattr::get(&self.root, path, inside.as_ref()),
                None => Ok(None),
            },
            None => xattr::get(&self.root, path, name),
        }
    }

    /// The capability that [`marker::CAPABILITY`] keeps of a file.
    ///
    /// # Errors
    /// As lgetxattr(2), but for absence.
    pub fn put_by(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        xattr::get(&self.root, self.inner(path)?, marker::CAPABILITY)
    }

    /// The names of the extended attributes as a view shows them.
    ///
    /// # Errors
    /// As llistxattr(2).
    pub fn xattrs(&self, path: &Path) -> Result<Vec<OsString>> {
        let list = xattr::list(&self.root, self.inner(path)?)?;
        Ok(list
            .into_iter()
            .filter_map(|name| match std::str::from_utf8(name.as_bytes()) {
                Ok(text) => {
                    marker::xattr_from_layer(text).map(|shown| OsString::from(shown.as_ref()))
                }
                Err(_) => Some(name),
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_says_whether_there_are_more_markers() {
        assert_eq!(parse_ino(&ino_value(77, false)), Some((77, false)));
        assert_eq!(parse_ino(&ino_value(77, true)), Some((77, true)));
        assert_eq!(parse_ino(b""), None);
        assert_eq!(parse_ino(b"x"), None);
    }
}
