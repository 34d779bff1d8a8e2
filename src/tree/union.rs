//! How layers unite: lookup of one name, of a path, and of a directory's names.
//!
//! The rules are those of `overlayfs.rst`: the uppermost entry wins, a whiteout
//! or a non-directory ends the search, directories unite until one is opaque,
//! and a redirect continues the search below at another path.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::marker::Marks;
use super::{Attr, Ino, Kind};

/// An entry as one layer holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The name is deleted: nothing below shows.
    Whiteout,
    /// The name exists here.
    Present(Attr, Marks),
}

/// One name of a directory as one layer lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: OsString,
    /// Its type, or `None` for a whiteout.
    pub kind: Option<Kind>,
    /// The stage's inode number, 0 where listing does not tell it.
    pub ino: Ino,
}

/// A stack of layers, numbered from the lowest (0) up.
///
/// Paths are relative to a layer's root; their first component is the index of
/// a mapped path.
pub trait LayerSet {
    /// What went wrong.
    type Error;
    /// The number of layers.
    fn depth(&self) -> usize;
    /// The entry at `path` in one layer.
    ///
    /// # Errors
    /// Whatever the layer's storage reports; absence is `Ok(None)`.
    fn entry(&self, layer: usize, path: &Path) -> Result<Option<Entry>, Self::Error>;
    /// The names in the directory at `path` in one layer, in any order.
    ///
    /// # Errors
    /// Whatever the layer's storage reports.
    fn names(&self, layer: usize, path: &Path) -> Result<Vec<Name>, Self::Error>;
}

/// One layer's share of a united directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the layer, 0 the lowest.
    pub layer: usize,
    /// The directory's path in that layer.
    pub path: Arc<Path>,
}

/// What a name resolves to.
#[derive(Clone, Debug)]
pub struct Found {
    /// Attributes of the uppermost entry.
    pub attr: Attr,
    /// Markers of the uppermost entry.
    pub marks: Marks,
    /// The layers that hold it, uppermost first; exactly one unless it is a directory, or a file
    /// of which only the metadata is there, and no redirect says where the rest is.
    pub parts: Vec<Part>,
}

/// The parts of the stack's root, for layers below `top`.
pub fn roots(top: usize) -> Vec<Part> {
    let root: Arc<Path> = Arc::from(Path::new(""));
    (0..top)
        .rev()
        .map(|layer| Part {
            layer,
            path: root.clone(),
        })
        .collect()
}

/// Looks one name up in a united directory.
///
/// # Errors
/// What the layers report.
pub fn lookup<S: LayerSet + ?Sized>(
    set: &S,
    parent: &[Part],
    name: &OsStr,
) -> Result<Option<Found>, S::Error> {
    let mut found: Option<Found> = None;
    let mut name = name.to_os_string();
    for part in parent {
        let path = part.path.join(&name);
        let Some(entry) = set.entry(part.layer, &path)? else {
            continue;
        };
        let Entry::Present(attr, marks) = entry else {
            break;
        };
        let here = Part {
            layer: part.layer,
            path: path.into(),
        };
        if !attr.is_dir() {
            // Of a file of which only the metadata is here, the rest is further down.
            let goes_on = marks.metacopy && marks.redirect.is_none();
            let renamed = marks.renamed.clone();
            match &mut found {
                Some(found) if found.attr.is_dir() || attr.kind != Kind::File => break,
                Some(found) => found.parts.push(here),
                None => {
                    let parts = vec![here];
                    found = Some(Found { attr, marks, parts });
                }
            }
            if !goes_on {
                break;
            }
            name = renamed.unwrap_or(name);
            continue;
        }
        let opaque = marks.opaque;
        let redirect = marks.redirect.clone();
        let renamed = marks.renamed.clone();
        match &mut found {
            Some(found) if !found.attr.is_dir() => break,
            Some(found) => found.parts.push(here),
            None => {
                found = Some(Found {
                    attr,
                    marks,
                    parts: vec![here],
                })
            }
        }
        if opaque {
            break;
        }
        if let Some(redirect) = redirect {
            if let (Some(found), Some(below)) = (&mut found, resolve(set, part.layer, &redirect)?)
                && below.attr.is_dir()
            {
                found.parts.extend(below.parts);
            }
            break;
        }
        name = renamed.unwrap_or(name);
    }
    Ok(found)
}

/// Resolves a whole path in the layers below `top`; symbolic links are not followed.
///
/// # Errors
/// What the layers report.
pub fn resolve<S: LayerSet + ?Sized>(
    set: &S,
    top: usize,
    path: &Path,
) -> Result<Option<Found>, S::Error> {
    let mut parts = roots(top);
    let mut found = None;
    for component in path.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        if let Some(Found { attr, .. }) = &found
            && !Attr::is_dir(attr)
        {
            return Ok(None);
        }
        match lookup(set, &parts, name)? {
            Some(next) => {
                parts.clone_from(&next.parts);
                found = Some(next);
            }
            None => return Ok(None),
        }
    }
    Ok(found)
}

/// Where the content of a file lies: follows metadata-only copies down.
///
/// `None` means that the content is gone: in a whole stack the work of a damaged layer, in a part
/// of one also of a merge, if another step removed the file and what became of it lies further up.
///
/// # Errors
/// What the layers report.
pub fn content<S: LayerSet + ?Sized>(set: &S, file: &Found) -> Result<Option<Part>, S::Error> {
    let mut marks = file.marks.clone();
    let mut parts = file.parts.clone().into_iter();
    let Some(mut part) = parts.next() else {
        return Ok(None);
    };
    while marks.metacopy {
        if let Some(redirect) = &marks.redirect {
            let Some(next) = resolve(set, part.layer, redirect)? else {
                return Ok(None);
            };
            if next.attr.kind != Kind::File {
                return Ok(None);
            }
            marks = next.marks;
            parts = next.parts.into_iter();
            let Some(next) = parts.next() else {
                return Ok(None);
            };
            part = next;
            continue;
        }
        let Some(next) = parts.next() else {
            return Ok(None);
        };
        let Some(Entry::Present(_, below)) = set.entry(next.layer, &next.path)? else {
            return Ok(None);
        };
        (part, marks) = (next, below);
    }
    Ok(Some(part))
}

/// The names of a united directory with the layer each comes from.
///
/// # Errors
/// What the layers report.
pub fn names<S: LayerSet + ?Sized>(
    set: &S,
    parts: &[Part],
) -> Result<BTreeMap<OsString, (usize, Name)>, S::Error> {
    let mut all: BTreeMap<OsString, (usize, Name)> = BTreeMap::new();
    for part in parts {
        for name in set.names(part.layer, &part.path)? {
            all.entry(name.name.clone()).or_insert((part.layer, name));
        }
    }
    all.retain(|_, (_, name)| name.kind.is_some());
    Ok(all)
}

/// Where an entry with a redirect goes on below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// At this path below the layer's root.
    To(PathBuf),
    /// In the same directory, under this name.
    Renamed(OsString),
}

/// A redirect's text, found at the path `own`: absolute ones count from the mapped path's root,
/// relative ones are a name in the same directory (`overlayfs.rst`, "redirect_dir").
///
/// `None` for a text that leads out of the mapped path.
pub fn redirect(own: &Path, text: &OsStr) -> Option<Redirect> {
    let text = Path::new(text);
    let mapped = own.components().next()?;
    if text.is_absolute() {
        let mut target = PathBuf::from(mapped.as_os_str());
        for component in text.components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => target.push(name),
                _ => return None,
            }
        }
        return Some(Redirect::To(target));
    }
    let mut components = text.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) => Some(Redirect::Renamed(name.to_os_string())),
        _ => None,
    }
}

/// The reverse of [`redirect`]: the absolute text for a path below a
/// layer's root.
pub fn redirect_text(target: &Path) -> OsString {
    let mut text = PathBuf::from("/");
    text.extend(target.components().skip(1));
    text.into_os_string()
}
