//! All names of a stack, layer by layer, before any of them leaves.
//!
//! Directories are only listed: what is no suspect by its name costs no further
//! system call. Layers that are not exported are listed too, since their files
//! may have further names in those that are.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::super::Wanted;
use super::allowed::Allowed;
use super::{File, known, secret};
use crate::error::{Context, Result};
use crate::layer::Stack;
use crate::tree::Kind;
use crate::tree::union::{Entry, Found, Part};

/// What has been seen.
pub(super) struct Survey<'a> {
    mapped: &'a [PathBuf],
    pub allowed: Allowed,
    /// Names as users see them, of files that hold a secret, and why.
    pub suspects: BTreeSet<(PathBuf, File, &'static str)>,
    pub cleared: HashSet<File>,
}

/// A directory to be listed.
struct Dir {
    path: PathBuf,
    shown: PathBuf,
    /// All that the layers up to this one show there: a redirect, which is
    /// written out. Else what the layer itself has.
    united: Option<Vec<Part>>,
}

impl<'a> Survey<'a> {
    pub fn new(mapped: &'a [PathBuf], allowed: Allowed) -> Survey<'a> {
        Survey {
            mapped,
            allowed,
            suspects: BTreeSet::new(),
            cleared: HashSet::new(),
        }
    }

    /// Goes through the uppermost layer of `stack`, which is number `index`.
    pub fn layer(&mut self, stack: &Stack, index: usize, wanted: Wanted<'_>) -> Result<()> {
        let mut open = vec![Dir {
            path: PathBuf::new(),
            shown: PathBuf::new(),
            united: None,
        }];
        while let Some(dir) = open.pop() {
            wanted()?;
            let list = || match &dir.united {
                Some(parts) => {
                    let names = stack.list(parts)?.into_values();
                    Ok(names.map(|(_, name)| name).collect())
                }
                None => stack.layer(index).names(&dir.path),
            };
            for name in list().context(|| dir.shown.display().to_string())? {
                let path = dir.path.join(&name.name);
                let shown = if dir.path.as_os_str().is_empty() {
                    let index = name.name.to_str().and_then(|name| name.parse().ok());
                    match index.and_then(|index: usize| self.mapped.get(index)) {
                        Some(root) => root.clone(),
                        None => continue,
                    }
                } else {
                    dir.shown.join(&name.name)
                };
                match name.kind {
                    Some(Kind::Dir) => {
                        let united = united(stack, index, &dir, &path);
                        let united = united.context(|| shown.display().to_string())?;
                        open.push(Dir {
                            path,
                            shown,
                            united,
                        });
                    }
                    Some(Kind::File) => {
                        self.allowed.see(&shown);
                        self.file(stack, shown, || match &dir.united {
                            Some(parts) => stack.lookup(parts, &name.name),
                            None => own(stack, index, &path),
                        })?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        stack: &Stack,
        shown: PathBuf,
        look: impl FnOnce() -> Result<Option<Found>>,
    ) -> Result<()> {
        let Some((test, why)) = known::suspect(&shown) else {
            return Ok(());
        };
        let judge = || -> Result<Option<(File, bool)>> {
            let Some(found) = look()?.filter(|found| found.attr.kind == Kind::File) else {
                return Ok(None);
            };
            let file = File::of(stack, &found)?;
            let holds = secret::holds(test, found.attr.size, || stack.open(&found))?;
            Ok(Some((file, holds)))
        };
        match judge().context(|| shown.display().to_string())? {
            Some((file, true)) => {
                self.suspects.insert((shown, file, why));
            }
            Some((file, false)) => {
                self.cleared.insert(file);
            }
            None => {}
        }
        Ok(())
    }
}

/// What [`Dir::united`] is for the directory `path` in `dir`.
fn united(stack: &Stack, index: usize, dir: &Dir, path: &Path) -> Result<Option<Vec<Part>>> {
    let found = match &dir.united {
        Some(parts) => stack.lookup(parts, path.file_name().unwrap_or_default())?,
        // Below the lowest layer nothing can be meant.
        None if index == 0 => return Ok(None),
        None => match own(stack, index, path)? {
            Some(found) if found.marks.redirect.is_some() => stack.find(path)?,
            _ => return Ok(None),
        },
    };
    Ok(Some(found.map(|found| found.parts).unwrap_or_default()))
}

/// An entry as one layer has it.
fn own(stack: &Stack, index: usize, path: &Path) -> Result<Option<Found>> {
    let Some(Entry::Present(attr, marks)) = stack.layer(index).entry(path)? else {
        return Ok(None);
    };
    let part = Part {
        layer: index,
        path: path.into(),
    };
    let parts = vec![part];
    Ok(Some(Found { attr, marks, parts }))
}
