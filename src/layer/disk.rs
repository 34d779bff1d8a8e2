//! Reading a layer's tree: a directory with overlayfs's markers.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Error, Result};
use crate::sys::{at, xattr};
use crate::tree::marker::{self, Marks};
use crate::tree::union::{Entry, Name, redirect_target};
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
        DiskTree { root, whiteouts }
    }

    /// The descriptor of the tree's root.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// How this tree marks deletions.
    pub fn whiteouts(&self) -> Whiteouts {
        self.whiteouts
    }

    fn is_whiteout(&self, path: &Path, stat: &at::Stat) -> Result<bool> {
        let attr = &stat.attr;
        match self.whiteouts {
            Whiteouts::Device => Ok(attr.kind == Kind::CharDevice && attr.rdev == 0),
            Whiteouts::Xattr => Ok(attr.kind == Kind::File
                && attr.size == 0
                && xattr::get(&self.root, path, marker::XWHITEOUT)?.is_some()),
        }
    }

    fn marks(&self, path: &Path, kind: Kind) -> Result<Marks> {
        let mut marks = Marks::default();
        match kind {
            Kind::Dir => {
                let opaque = xattr::get(&self.root, path, marker::OPAQUE)?;
                marks.opaque = opaque.as_deref() == Some(b"y");
            }
            Kind::File => {
                marks.metacopy = xattr::get(&self.root, path, marker::METACOPY)?.is_some();
            }
            _ => return Ok(marks),
        }
        if (kind == Kind::Dir || marks.metacopy)
            && let Some(text) = xattr::get(&self.root, path, marker::REDIRECT)?
        {
            let text = OsString::from_vec(text);
            let target = redirect_target(path, &text).ok_or_else(|| {
                Error::new(
                    Errno::EIO,
                    format!("{}: bad redirect {text:?}", path.display()),
                )
            })?;
            marks.redirect = Some(target);
        }
        Ok(marks)
    }

    /// The entry at `path`.
    ///
    /// # Errors
    /// What the disk reports; `EIO` for a marker that makes no sense.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        let Some(mut stat) = at::stat_if_there(&self.root, path)? else {
            return Ok(None);
        };
        if self.is_whiteout(path, &stat)? {
            return Ok(Some(Entry::Whiteout));
        }
        let kind = stat.attr.kind;
        let known = xattr::get(&self.root, path, marker::INO)?
            .as_deref()
            .and_then(parse_ino);
        stat.attr.ino = known.map_or(0, |(ino, _)| ino);
        let marks = match known {
            Some((_, false)) => Marks::default(),
            _ => {
                if kind == Kind::File
                    && stat.attr.size == 0
                    && xattr::get(&self.root, path, marker::NULL_DEVICE)?.is_some()
                {
                    stat.attr.kind = Kind::CharDevice;
                }
                self.marks(path, stat.attr.kind)?
            }
        };
        Ok(Some(Entry::Present(stat.attr, marks)))
    }

    /// The names in the directory at `path`.
    ///
    /// # Errors
    /// As openat(2), getdents64(2).
    pub fn names(&self, path: &Path) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in at::list(&self.root, path)? {
            let inner = path.join(&entry.name);
            let suspect = matches!(
                (self.whiteouts, entry.kind),
                (_, None)
                    | (Whiteouts::Device, Some(Kind::CharDevice))
                    | (Whiteouts::Xattr, Some(Kind::File))
            );
            let kind = if suspect {
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
                ino: 0,
            });
        }
        Ok(names)
    }

    /// Opens a file's own content for reading.
    ///
    /// # Errors
    /// As openat(2).
    pub fn open(&self, path: &Path) -> Result<OwnedFd> {
        at::open(&self.root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As readlinkat(2).
    pub fn readlink(&self, path: &Path) -> Result<OsString> {
        at::readlink(&self.root, path)
    }

    /// An extended attribute under its name in a view.
    ///
    /// # Errors
    /// As lgetxattr(2), but for absence.
    pub fn xattr(&self, path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
        match name.to_str() {
            Some(text) => match marker::xattr_to_layer(text) {
                Some(inside) => xattr::get(&self.root, path, inside.as_ref()),
                None => Ok(None),
            },
            None => xattr::get(&self.root, path, name),
        }
    }

    /// The names of the extended attributes as a view shows them.
    ///
    /// # Errors
    /// As llistxattr(2).
    pub fn xattrs(&self, path: &Path) -> Result<Vec<OsString>> {
        let list = xattr::list(&self.root, path)?;
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
