//! Names for what `keep-both` keeps of the later side.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::PolicyError;

/// The longest name that filesystems take.
const NAME_MAX: usize = 255;

/// How `keep-both` names the later side's version: text with placeholders.
///
/// - `{path}` is the path in conflict, and can only be the beginning;
/// - `{stem}` and `{ext}` are its name up to the last dot, and the rest with that dot. A dot at
///   the beginning is none, and without one `{ext}` is empty;
/// - `{step}` is the step's name, with `.2`, `.3` and so on added if the whole name is taken.
///
/// The version is kept beside the path, so there is no `/` outside of the placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SuffixPattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Path,
    Stem,
    Ext,
    Step,
}

const PLACEHOLDERS: [(&str, Part); 4] = [
    ("path", Part::Path),
    ("stem", Part::Stem),
    ("ext", Part::Ext),
    ("step", Part::Step),
];

impl SuffixPattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The candidates for a path, best first. None for a mapped path itself, which has no
    /// directory to keep a second file in, or if the name would be too long.
    pub(super) fn names(&self, path: &Path, step: &str) -> impl Iterator<Item = PathBuf> {
        // A step of a matrix may be called `test/linux`.
        let step = step.replace(['/', '\0'], "_");
        let name = path
            .file_name()
            .filter(|_| path.components().count() > 1)
            .map(OsStr::to_owned);
        let path = path.to_path_buf();
        (1u64..).map_while(move |n| {
            let name = name.as_deref()?;
            let name = match n {
                1 => self.name(name, &step),
                _ => self.name(name, &format!("{step}.{n}")),
            };
            (name.len() <= NAME_MAX).then(|| path.with_file_name(name))
        })
    }

    fn name(&self, of: &OsStr, step: &str) -> OsString {
        let stem = Path::new(of).file_stem().unwrap_or(of);
        let ext = OsStr::from_bytes(&of.as_bytes()[stem.len()..]);
        let mut name = OsString::new();
        for part in &self.parts {
            name.push(match part {
                Part::Text(text) => OsStr::new(text),
                Part::Path => of,
                Part::Stem => stem,
                Part::Ext => ext,
                Part::Step => OsStr::new(step),
            });
        }
        name
    }
}

impl Default for SuffixPattern {
    fn default() -> SuffixPattern {
        SuffixPattern {
            text: "{path}.{step}".to_owned(),
            parts: vec![Part::Path, Part::Text(".".to_owned()), Part::Step],
        }
    }
}

impl FromStr for SuffixPattern {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<SuffixPattern, PolicyError> {
        let wrong = |why: &str| Err(PolicyError::Suffix(why.to_owned()));
        let parts = parts(text)?;
        let after_the_first = parts.iter().skip(1);
        if after_the_first.clone().any(|part| *part == Part::Path) {
            return wrong("{path} is the whole path, so nothing can come before it");
        }
        if !parts.contains(&Part::Path) && !parts.contains(&Part::Stem) {
            return wrong("it needs {path} or {stem}, or all files would have one name");
        }
        if !parts.contains(&Part::Step) {
            return wrong("it needs {step}, or all steps would have one name");
        }
        Ok(SuffixPattern {
            text: text.to_owned(),
            parts,
        })
    }
}

fn parts(text: &str) -> Result<Vec<Part>, PolicyError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (before, after) = match rest.split_once('{') {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        if !before.is_empty() {
            parts.push(Part::Text(checked(before)?));
        }
        let Some(after) = after else { break };
        let Some((word, more)) = after.split_once('}') else {
            return Err(PolicyError::Suffix("a '{' has no '}'".to_owned()));
        };
        let known = PLACEHOLDERS.iter().find(|(name, _)| *name == word);
        let Some((_, part)) = known else {
            let names = PLACEHOLDERS.map(|(name, _)| format!("{{{name}}}"));
            let why = format!("{{{word}}} is none of {}", names.join(", "));
            return Err(PolicyError::Suffix(why));
        };
        parts.push(part.clone());
        rest = more;
    }
    Ok(parts)
}

/// Text that can stand in a name.
fn checked(text: &str) -> Result<String, PolicyError> {
    let why = if text.contains('/') {
        "it has a '/', but the version is kept in the directory of the file"
    } else if text.contains('}') {
        "a '}' has no '{'"
    } else if text.chars().any(char::is_control) {
        "it has a control character"
    } else {
        return Ok(text.to_owned());
    };
    Err(PolicyError::Suffix(why.to_owned()))
}

impl TryFrom<String> for SuffixPattern {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<SuffixPattern, PolicyError> {
        text.parse()
    }
}

impl From<SuffixPattern> for String {
    fn from(pattern: SuffixPattern) -> String {
        pattern.text
    }
}
