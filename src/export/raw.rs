//! Paths and names in a record: JSON is UTF-8, names on a disk need not be.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path: text where it is UTF-8, else its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawPath(PathBuf);

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Bytes(Vec<u8>),
}

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

impl Serialize for RawPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => self.0.as_os_str().as_bytes().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawPath, D::Error> {
        Ok(RawPath(match Stored::deserialize(deserializer)? {
            Stored::Text(text) => PathBuf::from(text),
            Stored::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        }))
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
