//! The base: what the mapped paths held before the stage, never written.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use dashmap::DashMap;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{Inos, Layer};
use crate::error::Result;
use crate::sys::{at, mount, xattr};
use crate::tree::marker::Marks;
use crate::tree::union::{Entry, Name};
use crate::tree::{Attr, Ino};

/// The original content of the mapped paths, through read-only clones of their
/// mounts that were taken before the stage's own mount covered them.
#[derive(Debug)]
pub struct Base {
    roots: Vec<OwnedFd>,
    devices: Vec<u64>,
    inos: Arc<Inos>,
    /// Numbers of files whose own number does not fit (device, number).
    odd: DashMap<(u64, u64), Ino>,
    no_changes: HashMap<Ino, i64>,
}

impl Base {
    /// Takes hold of what the mapped paths show now.
    ///
    /// # Errors
    /// As open_tree(2) and mount_setattr(2), naming the path.
    pub fn take(mapped: &[PathBuf], inos: Arc<Inos>) -> Result<Base> {
        let mut roots = Vec::new();
        let mut devices = Vec::new();
        for path in mapped {
            let root = mount::clone_read_only(path)?;
            let device = at::fstat(&root)?.dev;
            if !devices.contains(&device) {
                devices.push(device);
            }
            roots.push(root);
        }
        Ok(Base {
            roots,
            devices,
            inos,
            odd: DashMap::new(),
            no_changes: HashMap::new(),
        })
    }

    fn locate<'a>(&self, path: &'a Path) -> Result<(&OwnedFd, &'a Path)> {
        let mut components = path.components();
        let index: usize = match components.next() {
            Some(Component::Normal(index)) => index
                .to_str()
                .and_then(|index| index.parse().ok())
                .ok_or(Errno::ENOENT)?,
            _ => return Err(Errno::ENOENT.into()),
        };
        let root = self.roots.get(index).ok_or(Errno::ENOENT)?;
        Ok((root, components.as_path()))
    }

    fn ino(&self, device: u64, number: u64) -> Ino {
        let index = self.devices.iter().position(|known| *known == device);
        index
            .and_then(|index| Inos::of_base(index as u64 + 1, number))
            .unwrap_or_else(|| {
                *self
                    .odd
                    .entry((device, number))
                    .or_insert_with(|| self.inos.allocate())
            })
    }

    fn attr(&self, stat: &at::Stat) -> Attr {
        Attr {
            ino: self.ino(stat.dev, stat.ino),
            ..stat.attr
        }
    }
}

impl Layer for Base {
    fn id(&self) -> &'static str {
        "base"
    }

    fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let Ok((root, inner)) = self.locate(path) else {
            return Ok(None);
        };
        let stat = if inner.as_os_str().is_empty() {
            Some(at::fstat(root)?)
        } else {
            at::stat_if_there(root, inner)?
        };
        Ok(stat.map(|stat| Entry::Present(self.attr(&stat), Marks::default())))
    }

    fn names(&self, path: &Path) -> Result<Vec<Name>> {
        if path.as_os_str().is_empty() {
            let mut names = Vec::new();
            for (index, root) in self.roots.iter().enumerate() {
                let attr = self.attr(&at::fstat(root)?);
                names.push(Name {
                    name: index.to_string().into(),
                    kind: Some(attr.kind),
                    ino: attr.ino,
                });
            }
            return Ok(names);
        }
        let (root, inner) = self.locate(path)?;
        let dir = at::open_dir(root, inner)?;
        let device = at::fstat(&dir)?.dev;
        let mut names = Vec::new();
        for entry in at::list(&dir, Path::new(""))? {
            let kind = match entry.kind {
                Some(kind) => kind,
                None => match at::stat_if_there(&dir, Path::new(&entry.name))? {
                    Some(stat) => stat.attr.kind,
                    None => continue,
                },
            };
            names.push(Name {
                name: entry.name,
                kind: Some(kind),
                ino: self.ino(device, entry.ino),
            });
        }
        Ok(names)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd> {
        let (root, inner) = self.locate(path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOATIME;
        if inner.as_os_str().is_empty() {
            return at::reopen(root, flags);
        }
        at::open(root, inner, flags, 0)
    }

    fn readlink(&self, path: &Path) -> Result<OsString> {
        let (root, inner) = self.locate(path)?;
        at::readlink(root, inner)
    }

    fn xattr(&self, path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
        let (root, inner) = self.locate(path)?;
        xattr::get(root, inner, name)
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<OsString>> {
        let (root, inner) = self.locate(path)?;
        xattr::list(root, inner)
    }

    fn link_changes(&self) -> &HashMap<Ino, i64> {
        &self.no_changes
    }
}
