//! The guard: secrets stay on the machine unless their path is named.
//!
//! Whatever leaves (an image layout, later a store) asks it about every regular
//! file. It knows the files that tools keep credentials in (`known.rs`). Where a
//! name alone says too little it looks inside (`secret.rs`): certifi's
//! `cacert.pem` is no secret, nor is an `.npmrc` that names a registry. It does
//! not search for secrets elsewhere. In doubt a file stays in.
//!
//! It judges files, not names: a hard link to `.netrc` leaves as little as
//! `.netrc` does, so all names are seen before the first is written.

mod allowed;
mod known;
mod secret;
mod setting;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Wanted;
use crate::error::Result;
use crate::layer::Stack;
use crate::tree::union::Found;
use crate::tree::{Ino, Kind};

use allowed::Allowed;
use survey::Survey;

/// Decides what of one stack stays in.
#[derive(Debug)]
pub struct Guard {
    allowed: Allowed,
    /// The names for which a file stays in, each with the reason.
    held: HashMap<File, BTreeMap<PathBuf, &'static str>>,
    /// One such name of an inode, whatever its content was in which layer.
    inodes: HashMap<Ino, (PathBuf, &'static str)>,
    /// Files that were looked into because of a name, and hold no secret.
    cleared: HashSet<File>,
}

/// One content of one inode: all names that it has in a layer share it, and so
/// do copies of its metadata in the layers above.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct File {
    layer: usize,
    ino: Ino,
    /// Tells apart what has no inode number.
    path: Option<Arc<Path>>,
}

impl File {
    fn of(stack: &Stack, found: &Found) -> Result<File> {
        let part = if found.marks.metacopy {
            stack.content(found)?
        } else {
            found.parts[0].clone()
        };
        let ino = found.attr.ino;
        Ok(File {
            layer: part.layer,
            ino,
            path: (ino == 0).then_some(part.path),
        })
    }
}

impl Guard {
    /// Looks at all names of a stack. Besides what is no secret, the files
    /// named in `allowed` pass: paths as users see them or as reports show
    /// them, or globs; a pattern without a slash means that name anywhere. A
    /// pattern that is some file's path means that file only.
    ///
    /// # Errors
    /// `ENOENT` naming a pattern that no file has; else what the layers report,
    /// naming the path, or what `wanted` says, which is asked all the time.
    pub fn survey(
        stack: &Stack,
        mapped: &[PathBuf],
        allowed: &[String],
        wanted: Wanted<'_>,
    ) -> Result<Guard> {
        let mut survey = Survey::new(mapped, Allowed::new(allowed));
        for index in 0..stack.layers().len() {
            survey.layer(&stack.below(index + 1), index, wanted)?;
        }
        let Survey {
            allowed,
            suspects,
            cleared,
            ..
        } = survey;
        allowed.check()?;
        let mut held: HashMap<File, BTreeMap<PathBuf, &'static str>> = HashMap::new();
        let mut inodes = HashMap::new();
        // Sorted, so that a report always names the same one of several names.
        for (path, file, why) in suspects {
            if !allowed.covers(&path) {
                if file.ino != 0 {
                    let first = || (path.clone(), why);
                    inodes.entry(file.ino).or_insert_with(first);
                }
                held.entry(file).or_default().insert(path, why);
            }
        }
        Ok(Guard {
            allowed,
            held,
            inodes,
            cleared,
        })
    }

    /// Why an entry of the stack (or of its lower layers, `stack`) at `path`, as
    /// users see it, has to stay in; `None` if it may leave.
    ///
    /// # Errors
    /// What finding its content reports.
    pub fn withholds(&self, stack: &Stack, path: &Path, found: &Found) -> Result<Option<String>> {
        if self.held.is_empty() || found.attr.kind != Kind::File || found.attr.size == 0 {
            return Ok(None);
        }
        let file = File::of(stack, found)?;
        let why = if let Some(names) = self.held.get(&file) {
            match names.get(path) {
                Some(why) => Some((*why).to_owned()),
                None => names.first_key_value().map(|(name, why)| same(name, why)),
            }
        } else if self.cleared.contains(&file) {
            None
        } else {
            // A link that a later layer made, or an earlier one had: what the
            // content was then is not known to be something else.
            let other = self.inodes.get(&file.ino);
            other.map(|(name, why)| same(name, why))
        };
        Ok(why.filter(|_| !self.allowed.covers(path)))
    }
}

fn same(name: &Path, why: &str) -> String {
    let name = crate::tree::shown::shown(name);
    format!("is the same file as {name}, which {why}")
}
