//! The secrets that a user wants to leave.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::tree::shown::path_of;

/// Patterns, and whether anything has their path.
#[derive(Debug)]
pub(super) struct Allowed {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    /// The path that a report shows as this text.
    path: PathBuf,
    /// `None` for what can only be a path.
    glob: Option<GlobMatcher>,
    is_path: bool,
    is_glob: bool,
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let whole = if text.contains('/') {
            text.to_owned()
        } else {
            format!("**/{text}")
        };
        let glob = GlobBuilder::new(&whole).literal_separator(true).build();
        // To globset `**/` is every file; a user's empty variable is none.
        let glob = glob.ok().filter(|_| !whole.ends_with('/'));
        Pattern {
            text: text.to_owned(),
            path: path_of(text),
            glob: glob.map(|glob| glob.compile_matcher()),
            is_path: false,
            is_glob: false,
        }
    }

    fn is(&self, path: &Path) -> bool {
        let part = if self.text.contains('/') {
            path.as_os_str()
        } else {
            path.file_name().unwrap_or_default()
        };
        part == OsStr::new(&self.text) || part == self.path
    }

    fn matches(&self, path: &Path) -> bool {
        self.glob.as_ref().is_some_and(|glob| glob.is_match(path))
    }
}

impl Allowed {
    pub fn new(patterns: &[String]) -> Allowed {
        Allowed {
            patterns: patterns.iter().map(|text| Pattern::new(text)).collect(),
        }
    }

    /// Takes note of a file.
    pub fn see(&mut self, path: &Path) {
        for pattern in &mut self.patterns {
            if !pattern.is_path && pattern.is(path) {
                pattern.is_path = true;
            } else if !pattern.is_glob && pattern.matches(path) {
                pattern.is_glob = true;
            }
        }
    }

    /// Refuses a pattern that none of the files seen has: whoever mistypes a
    /// path should not find out from what is missing.
    pub fn check(&self) -> Result<()> {
        let unused = |pattern: &&Pattern| !pattern.is_path && !pattern.is_glob;
        let Some(pattern) = self.patterns.iter().find(unused) else {
            return Ok(());
        };
        let text = format!(
            "--allow-secret '{}' is no file of the snapshot: give a file's absolute path, \
             as export lists it, a glob for such paths, or a name such as .npmrc",
            pattern.text
        );
        Err(Error::new(Errno::ENOENT, text))
    }

    /// Whether a file may leave. To be asked when all have been seen.
    pub fn covers(&self, path: &Path) -> bool {
        // `/w/[id]/.env` is what a report shows; as a glob it would be another
        // file, whose secrets nobody named.
        self.patterns.iter().any(|pattern| {
            if pattern.is_path {
                pattern.is(path)
            } else {
                pattern.matches(path)
            }
        })
    }
}
