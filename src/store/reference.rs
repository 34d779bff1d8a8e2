//! Refs: what a key within a scope stands for.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::failure::{Failure, Kind, Result};
use super::names;

/// The media type of an OCI image index.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const SCOPE: &str = "io.harness.fs.scope";
const KEY: &str = "io.harness.fs.key";
const CREATED: &str = "org.opencontainers.image.created";
/// The longest scope and key, in bytes.
const LONGEST: usize = 512;
/// The largest ref that is read.
pub(super) const LARGEST_REF: u64 = 1 << 20;

/// The name of a ref: a key within a scope, any text of 1 to 512 bytes each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName {
    scope: String,
    key: String,
}

impl RefName {
    /// From any text.
    ///
    /// # Errors
    /// `Invalid` for one that is empty or longer than 512 bytes.
    pub fn new(scope: impl Into<String>, key: impl Into<String>) -> Result<RefName> {
        let (scope, key) = (scope.into(), key.into());
        for (what, text) in [("scope", &scope), ("key", &key)] {
            if text.is_empty() || text.len() > LONGEST {
                let text = format!("a {what} has 1 to {LONGEST} bytes, this one {}", text.len());
                return Err(Failure::new(Kind::Invalid, text));
            }
        }
        Ok(RefName { scope, key })
    }

    /// The scope: whose build it belongs to.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Below `refs/` in a directory or a bucket.
    pub(super) fn path(&self) -> [String; 2] {
        [names::file_name(&self.scope), names::file_name(&self.key)]
    }

    /// In a registry.
    pub(super) fn tag(&self) -> String {
        names::tag(&self.scope, &self.key)
    }

    /// Whether it is one that a list was asked for.
    pub(super) fn matches(&self, scope: Option<&str>, prefix: &str) -> bool {
        scope.is_none_or(|scope| scope == self.scope) && self.key.starts_with(prefix)
    }
}

impl std::fmt::Display for RefName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ref {:?} in scope {:?}", self.key, self.scope)
    }
}

/// What a ref stands for: an OCI descriptor, usually of an image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// What the blob is.
    pub media_type: String,
    /// The blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Anything else that a reader wants to know before it fetches the blob.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Which content of a ref it was, for [`Condition::Replace`]: an etag, a generation, or a digest. Opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub(super) String);

/// A ref that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// What it stands for.
    pub target: Target,
    /// When its writer wrote it, by the writer's clock.
    pub created: SystemTime,
    /// Which content it was.
    pub version: Version,
}

/// A ref in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: RefName,
    /// When it was written: by the store's clock, in a registry by the writer's.
    pub modified: SystemTime,
}

/// When a ref is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Only if there is none.
    Create,
    /// Only if it is still the one that was read.
    Replace(Version),
    /// Whatever is there; the last writer wins.
    Always,
}

/// The content of a ref: an OCI image index that names one manifest, so that a registry takes it under a tag, and
/// podman and skopeo find the image behind it. It says its own scope and key, which a name that was cut does not.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Target>,
    annotations: BTreeMap<String, String>,
}

/// Writes the content of a ref.
pub(super) fn write(name: &RefName, target: &Target, created: SystemTime) -> Vec<u8> {
    let annotations = [
        (SCOPE, name.scope.clone()),
        (KEY, name.key.clone()),
        (
            CREATED,
            humantime::format_rfc3339_nanos(created).to_string(),
        ),
    ];
    let body = Body {
        schema_version: 2,
        media_type: INDEX_TYPE.to_owned(),
        manifests: vec![target.clone()],
        annotations: annotations.map(|(key, text)| (key.to_owned(), text)).into(),
    };
    // Structs of strings and numbers: nothing in it can fail.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// Reads the content of a ref: its name and what it stands for.
pub(super) fn read(bytes: &[u8], version: Version) -> Result<(RefName, Ref)> {
    let bad = |what: String| Failure::new(Kind::Corrupt, format!("the ref is damaged: {what}"));
    let body: Body = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    let text = |key: &str| {
        let text = body.annotations.get(key);
        text.ok_or_else(|| bad(format!("it has no annotation {key}")))
    };
    let name = RefName::new(text(SCOPE)?, text(KEY)?).map_err(|error| bad(error.to_string()))?;
    let created =
        humantime::parse_rfc3339(text(CREATED)?).map_err(|error| bad(error.to_string()))?;
    let [target] = <[Target; 1]>::try_from(body.manifests)
        .map_err(|targets| bad(format!("it names {} images", targets.len())))?;
    let read = Ref {
        target,
        created,
        version,
    };
    Ok((name, read))
}

/// As [`read`], of a ref that has to be called `name`.
pub(super) fn read_named(bytes: &[u8], version: Version, name: &RefName) -> Result<Ref> {
    let (other, read) = read(bytes, version)?;
    if other != *name {
        return Err(Failure::new(Kind::Corrupt, format!("it holds the {other}")));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: Digest::of(b"{}"),
            size: 2,
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        }
    }

    #[test]
    fn a_ref_is_read_as_it_was_written() {
        let name = RefName::new("main", "npm é/1").unwrap();
        let now = SystemTime::now();
        let bytes = write(&name, &target(), now);
        let version = Version("v".to_owned());
        let (back, read) = read(&bytes, version.clone()).unwrap();
        assert_eq!((back, read.target, read.version), (name, target(), version));
        assert_eq!(read.created, now);
    }

    #[test]
    fn a_ref_that_is_damaged_or_another_one_says_so() {
        let name = RefName::new("main", "a").unwrap();
        let bytes = write(&name, &target(), SystemTime::now());
        let version = || Version(String::new());
        let other = RefName::new("main", "b").unwrap();
        let failure = read_named(&bytes, version(), &other).unwrap_err();
        assert_eq!(failure.kind(), Kind::Corrupt);
        for at in 0..bytes.len() {
            let failure = read(&bytes[..at], version()).unwrap_err();
            assert_eq!(failure.kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn names_of_refs_have_a_size() {
        assert!(RefName::new("s", "k".repeat(512)).is_ok());
        for (scope, key) in [("", "k"), ("s", ""), ("s", &*"k".repeat(513))] {
            assert_eq!(RefName::new(scope, key).unwrap_err().kind(), Kind::Invalid);
        }
    }
}
