//! A layer's tree as the merge wants it: a list of changes against what is below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cached::CachedStack;
use super::content::Seen;
use crate::error::{Context, Result};
use crate::layer::Stack;
use crate::merge::{Change, Content, Delta, Present};
use crate::tree::union::{Entry, Found, Part};
use crate::tree::{Ino, Kind};

/// What a layer holds: as a delta, and by inode number.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub delta: Delta,
    /// Where it has each inode. One that both sides hold at different paths
    /// would be one inode with two contents.
    pub numbers: BTreeMap<Ino, BTreeSet<PathBuf>>,
    /// Where the layers below have what it covers, by inode.
    pub homes: BTreeMap<Ino, BTreeSet<PathBuf>>,
    /// Metadata-only copies in the one layer that was read, and where their content was below it.
    pub metacopies: Vec<(PathBuf, PathBuf)>,
}

impl Scan {
    /// Reads one layer of a stack, against those below it.
    ///
    /// # Errors
    /// What the layers report.
    pub fn of(stack: &Stack, index: usize, writer: &Arc<str>) -> Result<Scan> {
        Scan::but_for(stack, index, writer, &[])
    }

    /// [`Scan::of`] that does not look at some mapped paths, given by their roots.
    ///
    /// # Errors
    /// What the layers report.
    pub fn but_for(
        stack: &Stack,
        index: usize,
        writer: &Arc<str>,
        roots: &[PathBuf],
    ) -> Result<Scan> {
        let layer = stack.layer(index);
        let below = stack.below(index);
        let mut scan = Scan::default();
        let mut dirs = vec![Dir::root(&below)];
        while let Some(Dir { dir, parts, place }) = dirs.pop() {
            let names = layer.names(&dir);
            for name in names.context(|| format!("{} of layer {}", dir.display(), layer.id()))? {
                let path = dir.join(&name.name);
                if roots.contains(&path) {
                    continue;
                }
                let Some(entry) = layer.entry(&path)? else {
                    continue;
                };
                let covered = match &parts {
                    Some(parts) => below.lookup(parts, &name.name)?,
                    None => None,
                };
                if let (Some(covered), Some(place)) = (&covered, &place) {
                    scan.at_home(covered.attr.ino, place.join(&name.name));
                }
                let was = covered.as_ref().map(|found| found.attr.kind);
                let (attr, marks) = match entry {
                    Entry::Whiteout => {
                        let change = Change::Deleted { was };
                        scan.delta.insert(path, change, writer);
                        continue;
                    }
                    Entry::Present(attr, marks) => (attr, marks),
                };
                let mut present = Present::new(attr.kind, was);
                if marks.metacopy {
                    present.content = Content::Below;
                    let origin = marks.redirect.as_ref().unwrap_or(&path);
                    scan.metacopies.push((path.clone(), origin.clone()));
                }
                if attr.kind == Kind::Dir {
                    present.opaque = marks.opaque;
                    if let Some(from) = &marks.redirect {
                        scan.at_home(attr.ino, from.clone());
                    }
                    present.redirect_from.clone_from(&marks.redirect);
                    dirs.push(Dir {
                        place: present.origin(&name.name, place.as_deref()),
                        parts: continues(&below, &marks, covered)?,
                        dir: path.clone(),
                    });
                } else if attr.ino != 0 {
                    // Also of files with one name: a file that one side renamed
                    // and the other changed is one inode through two names.
                    present.link = Some(attr.ino);
                }
                if attr.ino != 0 {
                    let paths = scan.numbers.entry(attr.ino).or_default();
                    paths.insert(path.clone());
                }
                scan.delta.insert(path, present, writer);
            }
        }
        Ok(scan)
    }

    fn at_home(&mut self, ino: Ino, path: PathBuf) {
        self.homes.entry(ino).or_default().insert(path);
    }

    /// Names the writers of what this layer, a join layer on top of `here`,
    /// takes from the stage as it was before the step that was merged:
    /// `before`, where `earlier` says who wrote what.
    ///
    /// # Errors
    /// What the layers report.
    pub fn credit(&mut self, here: Stack, earlier: &Delta, before: Stack) -> Result<()> {
        let (here, before) = (CachedStack::from(here), CachedStack::from(before));
        let mut taken = Vec::new();
        for (path, entry) in self.delta.iter() {
            let Some(old) = earlier.get(path) else {
                continue;
            };
            let same = match (here.find(path)?, before.find(path)?) {
                (Some(now), Some(then)) => {
                    let dir = now.attr.is_dir();
                    let (now_seen, then_seen) = (Seen::new(&here, &now), Seen::new(&before, &then));
                    // Taking keeps the time of a file, so most need no reading.
                    (dir || now.attr.mtime == then.attr.mtime)
                        && now_seen.same_content(then_seen)?
                        && now_seen.same_metadata(then_seen)?
                }
                (None, None) => true,
                _ => false,
            };
            if same {
                taken.push((path.clone(), entry.change.clone(), old.writer.clone()));
            }
        }
        for (path, change, writer) in taken {
            self.delta.insert(path, change, &writer);
        }
        Ok(())
    }

    /// Adds a layer that lies directly above.
    pub fn then(&mut self, later: Scan) {
        for (ino, paths) in later.homes {
            for path in paths {
                if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
                    && let Some(place) = self.delta.origin(parent)
                {
                    self.at_home(ino, place.join(name));
                }
            }
        }
        self.follow(&later.delta);
        self.delta.then(later.delta);
        for (ino, paths) in later.numbers {
            self.numbers.entry(ino).or_default().extend(paths);
        }
    }

    /// Adds where each inode is after the directories were renamed that the layer above
    /// renames. It may still be under the name that it had, if another has that now.
    fn follow(&mut self, later: &Delta) {
        let mut renames: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
        for (to, entry) in later.iter() {
            if let Some(from) = entry.change.redirect_from() {
                renames.entry(from).or_default().push(to);
            }
        }
        if renames.is_empty() {
            return;
        }
        for paths in self.numbers.values_mut() {
            let mut moved = Vec::new();
            for path in &*paths {
                for from in path.ancestors() {
                    let names = renames.get(from).into_iter().flatten();
                    match path.strip_prefix(from) {
                        Ok(rest) if !rest.as_os_str().is_empty() => {
                            moved.extend(names.map(|to| to.join(rest)));
                        }
                        _ => moved.extend(names.map(|to| to.to_path_buf())),
                    }
                }
            }
            paths.extend(moved);
        }
    }
}

/// A directory of the layer that is still to be read.
struct Dir {
    dir: PathBuf,
    /// What shows through it.
    parts: Option<Vec<Part>>,
    /// As [`Delta::origin`], which would walk up to the root for each.
    place: Option<PathBuf>,
}

impl Dir {
    fn root(below: &Stack) -> Dir {
        Dir {
            dir: PathBuf::new(),
            parts: Some(below.roots()),
            place: Some(PathBuf::new()),
        }
    }
}

/// What shows through a directory of the layer, of what is below.
fn continues(
    below: &Stack,
    marks: &crate::tree::marker::Marks,
    covered: Option<Found>,
) -> Result<Option<Vec<Part>>> {
    let under = match &marks.redirect {
        _ if marks.opaque => None,
        Some(from) => below.find(Path::new(from))?,
        None => covered,
    };
    Ok(under
        .filter(|found| found.attr.is_dir())
        .map(|found| found.parts))
}
