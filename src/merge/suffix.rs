//! Names for what `keep-both` keeps of the later side.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The longest name that filesystems take.
const NAME_MAX: usize = 255;

/// The candidates for a path, best first: in its directory, with the step's name
/// added, and if that is taken `.2`, `.3` and so on. None for a mapped path itself,
/// which has no directory to keep a second file in, or if the name would be too long.
pub(super) fn names(path: &Path, step: &str) -> impl Iterator<Item = PathBuf> {
    // A step of a matrix may be called `test/linux`.
    let step = step.replace(['/', '\0'], "_");
    let name = path
        .file_name()
        .filter(|_| path.components().count() > 1)
        .map(OsStr::to_owned);
    let path = path.to_path_buf();
    (1u64..).map_while(move |n| {
        let mut name: OsString = name.clone()?;
        name.push(format!(".{step}"));
        if n > 1 {
            name.push(format!(".{n}"));
        }
        (name.len() <= NAME_MAX).then(|| path.with_file_name(name))
    })
}
