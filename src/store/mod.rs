//! Where caches live: a directory, an object store, a registry.
//!
//! All hold the same: *blobs*, named by their sha256 and never changed, and
//! *refs*, small documents that say which blob a key within a scope stands for.
//! A ref is written last, so whoever finds one finds all it names; a save that
//! was cut off leaves blobs that nobody names.
//!
//! | | blob | manifest | ref |
//! |---|---|---|---|
//! | directory, bucket | `blobs/sha256/<hex>` | a blob | `refs/<scope>/<key>` |
//! | registry | a blob of the repository | `manifests/<digest>` | a tag |
//!
//! A ref's content is the same everywhere, an OCI image index of one manifest.
//! Operations are synchronous, may be called from several threads, and never
//! wait without end. Each takes at most 64 MiB of memory, whatever the blob.

mod cloud;
mod digest;
mod directory;
mod failure;
mod location;
mod names;
mod network;
mod objects;
mod reference;
mod registry;

use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::time::SystemTime;

pub use digest::Digest;
pub use failure::{Failure, Kind, Result};
pub use reference::{Condition, INDEX_TYPE, Listed, Ref, RefName, Target, Version};

use location::{Location, Place};

/// The largest blob that is read into memory whole.
const LARGEST_IN_MEMORY: u64 = 32 << 20;

/// Content on its way to a store; it is read from its start, once more if need be.
pub trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// What became of a blob that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was sent.
    Sent,
    /// It was there already.
    There,
}

/// A blob in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// When it was written, or put again, by the store's clock.
    pub modified: SystemTime,
}

/// What each kind of store does in its own way. See [`Store`] for what is promised.
trait Backend: Send + Sync {
    fn blob_size(&self, digest: &Digest) -> Result<Option<u64>>;
    fn put_blob(&self, digest: &Digest, size: u64, source: &mut dyn Source) -> Result<Put>;
    fn get_blob(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<()>;
    fn read_range(&self, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>>;
    fn list_blobs(&self) -> Result<Vec<Listing>>;
    fn delete_blob(&self, digest: &Digest) -> Result<()>;
    fn read_ref(&self, name: &RefName) -> Result<Ref>;
    fn put_ref(&self, name: &RefName, target: &Target, condition: &Condition) -> Result<Version>;
    fn list_refs(&self, scope: Option<&str>, prefix: &str) -> Result<Vec<Listed>>;
    fn delete_ref(&self, name: &RefName) -> Result<()>;
    /// Registries keep manifests apart.
    fn put_manifest(&self, _media_type: &str, digest: &Digest, bytes: &[u8]) -> Result<Put> {
        self.put_blob(digest, bytes.len() as u64, &mut std::io::Cursor::new(bytes))
    }
    fn get_manifest(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<()> {
        self.get_blob(digest, size, sink)
    }
}

/// A store of caches.
pub struct Store {
    url: String,
    backend: Box<dyn Backend>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.url)
    }
}

impl Store {
    /// Opens the store at a URL: `file:///directory`, `s3://bucket/prefix`, `gs://bucket/prefix` or
    /// `oci://registry/repository`. Nothing is asked and nothing is made yet.
    ///
    /// # Errors
    /// `Invalid` for a URL that is none of these, `Denied` where credentials that are configured cannot be read.
    pub fn open(url: &str) -> Result<Store> {
        let location = Location::parse(url)?;
        let context = |failure: Failure| failure.context(&location.text);
        let backend: Box<dyn Backend> = match location.place {
            Place::Directory(root) => Box::new(directory::Directory::new(root)),
            Place::S3 {
                bucket,
                region,
                path_style,
            } => Box::new(objects::Objects::s3(bucket, region, path_style).map_err(context)?),
            Place::Gcs { bucket } => Box::new(objects::Objects::gcs(bucket).map_err(context)?),
            Place::Registry {
                registry,
                repository,
                plain_http,
                limits,
            } => Box::new(
                registry::Registry::new(&registry, &repository, plain_http, limits)
                    .map_err(context)?,
            ),
        };
        Ok(Store {
            url: location.text,
            backend,
        })
    }

    /// The URL, for people: without its parameters.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn told<T>(&self, what: impl std::fmt::Display, result: Result<T>) -> Result<T> {
        result.map_err(|failure| failure.context(format_args!("{}: {what}", self.url)))
    }

    /// The size of a blob, if it is there.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        self.told(
            format_args!("blob {digest}"),
            self.backend.blob_size(digest),
        )
    }

    /// Sends a blob, unless one of its digest and size is there. Until the last byte has arrived and was what the digest
    /// says, nobody sees anything of it.
    ///
    /// # Errors
    /// `Local` if the content cannot be read or is not what its digest says; `Unreachable`, `Denied`, `Invalid`.
    pub fn put_blob(&self, digest: &Digest, size: u64, source: &mut dyn Source) -> Result<Put> {
        let put = self.backend.put_blob(digest, size, source);
        self.told(format_args!("blob {digest}"), put)
    }

    /// Writes a whole blob to `sink`, and fails unless it is what its digest says. Then `sink` has got something, which
    /// must not be used.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Local` if it cannot be written; `Unreachable`, `Denied`.
    pub fn get_blob(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<()> {
        let got = self.backend.get_blob(digest, size, sink);
        self.told(format_args!("blob {digest}"), got)
    }

    /// Reads a part of a blob of at most 32 MiB. Only the caller can tell whether that is right: the digest is one of
    /// the whole.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` if the blob ends before, `Invalid` for a part that is too large; `Unreachable`, `Denied`.
    pub fn read_range(&self, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>> {
        let read = || {
            let wanted = range.end.saturating_sub(range.start);
            if wanted > LARGEST_IN_MEMORY {
                let text = format!("{wanted} bytes are more than are read at once");
                return Err(Failure::new(Kind::Invalid, text));
            }
            if wanted == 0 {
                return Ok(Vec::new());
            }
            let bytes = self.backend.read_range(digest, range.clone())?;
            if bytes.len() as u64 != wanted {
                let text = format!("{} bytes came instead of {wanted}", bytes.len());
                return Err(Failure::new(Kind::Corrupt, text));
            }
            Ok(bytes)
        };
        self.told(format_args!("blob {digest}"), read())
    }

    /// Puts a small document that names blobs which are there: an OCI image manifest. Returns what a ref needs.
    ///
    /// # Errors
    /// As [`put_blob`](Store::put_blob); a registry refuses one whose blobs it does not have (`Invalid`).
    pub fn put_manifest(&self, media_type: &str, bytes: &[u8]) -> Result<Target> {
        let digest = Digest::of(bytes);
        let put = self.backend.put_manifest(media_type, &digest, bytes);
        self.told(format_args!("manifest {digest}"), put)?;
        Ok(Target {
            media_type: media_type.to_owned(),
            digest,
            size: bytes.len() as u64,
            annotations: std::collections::BTreeMap::new(),
        })
    }

    /// Reads a manifest of at most 32 MiB, verified.
    ///
    /// # Errors
    /// As [`get_blob`](Store::get_blob); `Invalid` for one that is too large.
    pub fn get_manifest(&self, target: &Target) -> Result<Vec<u8>> {
        let (digest, size) = (target.digest, target.size);
        let get = || {
            if size > LARGEST_IN_MEMORY {
                return Err(Failure::new(
                    Kind::Invalid,
                    "it is too large for a manifest",
                ));
            }
            let mut bytes = Vec::new();
            self.backend.get_manifest(&digest, size, &mut bytes)?;
            Ok(bytes)
        };
        self.told(format_args!("manifest {digest}"), get())
    }

    /// All blobs, in no order, for those who prune. Who deletes one has to leave young ones alone: a save that is under
    /// way has sent them, or counts on them, before its ref names them.
    ///
    /// # Errors
    /// `Unsupported` by registries, which prune by themselves; `Unreachable`, `Denied`.
    pub fn list_blobs(&self) -> Result<Vec<Listing>> {
        self.told("list of blobs", self.backend.list_blobs())
    }

    /// Deletes a blob; that it is not there is no error.
    ///
    /// # Errors
    /// `Unsupported` by some registries; `Unreachable`, `Denied`.
    pub fn delete_blob(&self, digest: &Digest) -> Result<()> {
        self.told(
            format_args!("blob {digest}"),
            self.backend.delete_blob(digest),
        )
    }

    /// Reads a ref.
    ///
    /// # Errors
    /// `NotFound` is a miss; `Corrupt`, `Unreachable`, `Denied`.
    pub fn read_ref(&self, name: &RefName) -> Result<Ref> {
        self.told(name, self.backend.read_ref(name))
    }

    /// Writes a ref, whole or not at all. What it names has to be there.
    ///
    /// Registries know no conditions: there the check and the write are two requests, and a look afterwards tells most of
    /// those who were overtaken, but not all. The ref is always one writer's.
    ///
    /// # Errors
    /// `Conflict` if the condition does not hold; `Unreachable`, `Denied`.
    pub fn put_ref(
        &self,
        name: &RefName,
        target: &Target,
        condition: &Condition,
    ) -> Result<Version> {
        self.told(name, self.backend.put_ref(name, target, condition))
    }

    /// The refs whose key begins with `prefix`, in one scope or in all, newest first as far as the clock tells: S3 counts
    /// in seconds.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`.
    pub fn list_refs(&self, scope: Option<&str>, prefix: &str) -> Result<Vec<Listed>> {
        let mut refs = self.told("list of refs", self.backend.list_refs(scope, prefix))?;
        // By name as well, so that the order is always the same.
        refs.sort_by(|a, b| {
            b.modified
                .cmp(&a.modified)
                .then_with(|| a.name.cmp(&b.name))
        });
        Ok(refs)
    }

    /// Deletes a ref; that it is not there is no error.
    ///
    /// # Errors
    /// `Unsupported` by some registries; `Unreachable`, `Denied`.
    pub fn delete_ref(&self, name: &RefName) -> Result<()> {
        self.told(name, self.backend.delete_ref(name))
    }
}
