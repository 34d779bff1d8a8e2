//! Which store, which scope, which key.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::super::output::Trouble;
use crate::cache;
use crate::store::{Kind, Ref, RefName, Store};

/// Where caches are kept if nothing says where.
pub const DEFAULT_STORE: &str = "file:///var/cache/harness-fs";
/// The scope if nothing says which.
pub const DEFAULT_SCOPE: &str = "default";

/// Where keys are looked up.
#[derive(Debug, clap::Args)]
pub struct InStore {
    /// The store: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY.
    #[arg(long, value_name = "URL", env = "HARNESS_FS_STORE", default_value = DEFAULT_STORE)]
    pub store: String,
    /// The scope of the keys.
    #[arg(long, value_name = "NAME", env = "HARNESS_FS_CACHE_SCOPE", default_value = DEFAULT_SCOPE)]
    pub scope: String,
}

/// Opens a store.
///
/// # Errors
/// A URL that is none.
pub fn open(url: &str) -> Result<Store, Trouble> {
    Store::open(url).map_err(|failure| cache::Trouble::from(failure).into())
}

impl InStore {
    /// Opens the store.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&self) -> Result<Store, Trouble> {
        open(&self.store)
    }

    /// The name of a key's ref.
    ///
    /// # Errors
    /// A key that is empty or too long.
    pub fn name(&self, key: &str) -> Result<RefName, Trouble> {
        RefName::new(self.scope.as_str(), key).map_err(|error| cache::Trouble::from(error).into())
    }

    /// What a key stands for.
    ///
    /// # Errors
    /// Code 3 if there is no such key.
    pub fn read(&self, store: &Store, key: &str) -> Result<Ref, Trouble> {
        store
            .read_ref(&self.name(key)?)
            .map_err(|failure| match failure.kind() {
                Kind::NotFound => {
                    let scope = &self.scope;
                    let text = format!(
                        "{}: there is no key '{key}' in scope '{scope}'",
                        store.url()
                    );
                    Trouble::new(3, text)
                }
                _ => cache::Trouble::from(failure).into(),
            })
    }
}

/// A moment in seconds since the epoch.
pub fn seconds(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A moment for people.
pub fn when(moment: SystemTime) -> String {
    humantime::format_rfc3339_seconds(moment).to_string()
}

/// What is told of a cache.
#[derive(Debug, Serialize)]
pub struct Told {
    /// The key.
    pub key: String,
    /// Its scope.
    pub scope: String,
    /// When it was saved, in seconds since the epoch.
    pub created: u64,
    /// Its paths.
    pub paths: Vec<String>,
    /// Digest of the manifest.
    pub manifest: String,
    /// Digest of the tree.
    pub tree_digest: String,
    /// Files and other entries in all layers.
    pub entries: u64,
    /// Bytes of all layers.
    pub bytes: u64,
    /// Its layers, the lowest first.
    pub layers: Vec<ToldLayer>,
}

/// What is told of a layer.
#[derive(Debug, Serialize)]
pub struct ToldLayer {
    /// Digest of the blob.
    pub digest: String,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of the archive in it.
    pub uncompressed: u64,
    /// Files and other entries.
    pub entries: u64,
}

impl Told {
    /// Of a cache under a name.
    pub fn of(name: &RefName, stored: &cache::Stored) -> Told {
        let layers = stored.image.layers.iter();
        let layers = layers.map(|layer| ToldLayer {
            digest: layer.descriptor.digest().to_string(),
            bytes: layer.descriptor.size(),
            uncompressed: layer.uncompressed(),
            entries: layer.members(),
        });
        let layers: Vec<ToldLayer> = layers.collect();
        let paths = stored.image.paths.iter();
        Told {
            key: name.key().to_owned(),
            scope: name.scope().to_owned(),
            created: seconds(stored.created),
            paths: paths
                .map(|path| crate::tree::shown::shown(path).into_owned())
                .collect(),
            manifest: stored.target.digest.to_string(),
            tree_digest: stored.image.tree_digest(),
            entries: layers.iter().map(|layer| layer.entries).sum(),
            bytes: stored.image.size(),
            layers,
        }
    }
}
