//! Names for what `keep-both` keeps of the later side.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::PolicyError;

/// The longest name that filesystems take.
const NAME_MAX: usize = 255;

/// How `keep-both` names the later side's file: `{path}.{step}` unless the user says otherwise.
///
/// A pattern begins with `{path}`, holds `{step}` and no slash, so the file stays in its
/// directory. If the name is taken, `.2`, `.3` and so on is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuffixPattern {
    /// What follows `{path}`.
    suffix: String,
}

impl Default for SuffixPattern {
    fn default() -> SuffixPattern {
        SuffixPattern {
            suffix: ".{step}".to_owned(),
        }
    }
}

impl SuffixPattern {
    /// Checks a pattern.
    pub fn new(pattern: &str) -> Result<SuffixPattern, PolicyError> {
        let bad = |reason| Err(PolicyError::Suffix(pattern.to_owned(), reason));
        let Some(suffix) = pattern.strip_prefix("{path}") else {
            return bad("it must begin with {path}");
        };
        if !suffix.contains("{step}") {
            return bad("it must contain {step}");
        }
        if suffix.contains(['/', '\0']) || suffix.replace("{step}", "").contains(['{', '}']) {
            return bad("only {path} and {step} stand for something, and a slash cannot follow");
        }
        Ok(SuffixPattern {
            suffix: suffix.to_owned(),
        })
    }

    /// The candidates for a path, best first. None for a mapped path itself, which has no
    /// directory to keep a second file in, or if the name would be too long.
    pub(super) fn names(&self, path: &Path, step: &str) -> impl Iterator<Item = PathBuf> {
        // A step of a matrix may be called `test/linux`.
        let suffix = self
            .suffix
            .replace("{step}", &step.replace(['/', '\0'], "_"));
        let name = path
            .file_name()
            .filter(|_| path.components().count() > 1)
            .map(OsStr::to_owned);
        let path = path.to_path_buf();
        (1u64..).map_while(move |n| {
            let mut name: OsString = name.clone()?;
            name.push(&suffix);
            if n > 1 {
                name.push(format!(".{n}"));
            }
            (name.len() <= NAME_MAX).then(|| path.with_file_name(name))
        })
    }
}
