//! Paths and names in a record: JSON is UTF-8, names on a disk need not be.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::tree::shown;

/// A path that is written as [`shown`] shows it, and read back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawPath(#[serde(with = "shown")] PathBuf);

impl From<PathBuf> for RawPath {
    fn from(path: PathBuf) -> RawPath {
        RawPath(path)
    }
}

impl Deref for RawPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// Extended attributes as a list of pairs: the keys of a JSON object are text.
pub mod xattrs {
    use super::{BTreeMap, Deserialize, Deserializer, OsStr, OsString, RawPath, Serialize};
    use super::{PathBuf, Serializer};

    pub fn serialize<S: Serializer>(
        all: &BTreeMap<OsString, Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let path = |name: &OsStr| RawPath(PathBuf::from(name));
        let pairs: Vec<_> = all
            .iter()
            .map(|(name, value)| (path(name), value))
            .collect();
        pairs.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<OsString, Vec<u8>>, D::Error> {
        let pairs = Vec::<(RawPath, Vec<u8>)>::deserialize(deserializer)?;
        let pairs = pairs.into_iter();
        Ok(pairs
            .map(|(name, value)| (name.0.into_os_string(), value))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn any_name_comes_back() {
        for name in [&b"plain"[..], b"a/\xff\xfe", "\u{fc}n\n\"".as_bytes(), b""] {
            let path = RawPath(PathBuf::from(OsStr::from_bytes(name)));
            let text = serde_json::to_vec(&path).expect("to JSON");
            let back: RawPath = serde_json::from_slice(&text).expect("from JSON");
            assert_eq!(back, path);
        }
    }
}
