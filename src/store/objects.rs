//! Stores in an object store: S3 and what speaks its protocol, and Google Cloud
//! Storage.

use std::error::Error as _;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use object_store::client::HttpError;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Error, GetResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutResult, UpdateVersion,
};
use tokio::task::JoinSet;

use super::digest::{Check, Digest, Outgoing};
use super::failure::{Failure, Kind, Result, excerpt};
use super::names::{self, Found};
use super::network::{Network, Patience};
use super::reference::{self, Condition, LARGEST_REF, Listed, Ref, RefName, Target, Version};
use super::{Backend, Listing, Put, Source};

mod buckets;

/// Blobs from this size on are sent in parts.
const MULTIPART: u64 = 16 << 20;
/// The usual part: four of them are under way.
const PART: u64 = 8 << 20;
const PARTS_AT_ONCE: u64 = 4;
/// S3 takes no more parts than this, nor does GCS.
const MOST_PARTS: u64 = 10_000;
/// How long a failed upload is waited for to be taken back.
const ABORT: Duration = Duration::from_secs(10);
/// How often a conditional put is repeated whose answer was lost.
const LOST_ANSWERS: usize = 2;

/// A bucket, or a part of one.
pub(super) struct Objects {
    network: Network,
    store: Arc<dyn ObjectStore>,
    pages: Arc<dyn PaginatedListStore>,
    prefix: Path,
    /// GCS has a number for each content of an object, S3 an etag.
    by_generation: bool,
}

/// What a request failed with.
fn failed(error: Error) -> Failure {
    let kind = match &error {
        Error::NotFound { .. } => Kind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => Kind::Conflict,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Kind::Denied,
        Error::NotSupported { .. } | Error::NotImplemented { .. } => Kind::Unsupported,
        _ => Kind::Unreachable,
    };
    // The outer errors repeat the inner ones, so the innermost of the crate's own says it best.
    let (mut text, mut kind) = (error.to_string(), kind);
    let mut next = error.source();
    while let Some(inner) = next {
        text = inner.to_string();
        if inner.is::<HttpError>() {
            kind = Kind::Unreachable;
            // What the network said: the reasons are nested, and each says only its own part.
            let mut deeper = inner.source();
            while let Some(reason) = deeper {
                let reason_text = reason.to_string();
                if !text.contains(&reason_text) {
                    text = format!("{text}: {reason_text}");
                }
                deeper = reason.source();
            }
            break;
        }
        next = inner.source();
    }
    let says = |what: &str| text.contains(what);
    if says("NoSuchBucket") || says("Received redirect") {
        kind = Kind::Invalid;
    } else if says("169.254.169.254") || says("metadata.google.internal") || says("ExpiredToken") {
        // The last place where credentials are looked for.
        kind = Kind::Denied;
        text = format!("no credentials were found, or they are not valid any more: {text}");
    } else if says("status code: 401") || says("status code: 403") {
        // Lists do not tell them apart.
        kind = Kind::Denied;
    } else if says("status code: 400") || says("status code: 405") || says("status code: 501") {
        kind = Kind::Unsupported;
    } else if says("status code: 416") {
        kind = Kind::Corrupt;
    }
    Failure::new(kind, excerpt(&text))
}

/// The size of a part, if a blob can be sent so at all: memory is bounded, and so is the number of parts.
fn part_size(size: u64) -> Result<u64> {
    let part = size
        .div_ceil(MOST_PARTS)
        .next_multiple_of(1 << 20)
        .max(PART);
    if part > PART * PARTS_AT_ONCE {
        let most = MOST_PARTS * PART * PARTS_AT_ONCE / (1 << 30);
        let text = format!("a blob of more than {most} GiB cannot be sent");
        return Err(Failure::new(Kind::Unsupported, text));
    }
    Ok(part)
}

impl Objects {
    fn blob(&self, digest: &Digest) -> Path {
        self.prefix
            .clone()
            .join("blobs")
            .join("sha256")
            .join(digest.hex())
    }

    fn reference(&self, name: &RefName) -> Path {
        let [scope, key] = name.path();
        self.prefix.clone().join("refs").join(scope).join(key)
    }

    fn version(&self, etag: Option<String>, generation: Option<String>) -> Result<Version> {
        let version = if self.by_generation { generation } else { etag };
        version.map(Version).ok_or_else(|| {
            let text =
                "the server tells no version of an object, so two writers could not be kept apart";
            Failure::new(Kind::Unsupported, text)
        })
    }

    async fn size_of(&self, path: &Path) -> Result<Option<u64>> {
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    async fn read_small(&self, path: &Path) -> Result<(Vec<u8>, Version)> {
        let got = self.store.get(path).await.map_err(failed)?;
        if got.meta.size > LARGEST_REF {
            return Err(Failure::new(Kind::Corrupt, "it is too large for a ref"));
        }
        let version = self.version(got.meta.e_tag.clone(), got.meta.version.clone())?;
        let bytes = got.bytes().await.map_err(failed)?;
        Ok((bytes.to_vec(), version))
    }

    async fn send(&self, path: &Path, size: u64, outgoing: Outgoing<'_>) -> Result<()> {
        if size < MULTIPART {
            return self.send_whole(path, outgoing).await;
        }
        let part = part_size(size)?;
        let mut upload = self.store.put_multipart(path).await.map_err(failed)?;
        let sent = self.send_parts(&mut *upload, part, outgoing).await;
        if let Err(failure) = sent {
            // Its parts cost money until somebody takes them away.
            match tokio::time::timeout(ABORT, upload.abort()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::warn!("{path}: the parts sent so far are left: {error}"),
                Err(_) => log::warn!("{path}: the parts sent so far are left"),
            }
            return Err(failure);
        }
        match upload.complete().await {
            Ok(_) => Ok(()),
            // The answer may have been lost, and then the upload is not found when it is asked for again.
            Err(error) => match self.size_of(path).await {
                Ok(Some(there)) if there == size => Ok(()),
                _ => Err(not_a_miss(failed(error))),
            },
        }
    }

    async fn send_whole(&self, path: &Path, mut outgoing: Outgoing<'_>) -> Result<()> {
        // Below this size it is one piece, and the end, which says whether it was right, comes after it.
        let piece = outgoing.piece(MULTIPART as usize)?.unwrap_or_default();
        while outgoing.piece(1)?.is_some() {}
        self.store.put(path, piece.into()).await.map_err(failed)?;
        Ok(())
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        part: u64,
        mut outgoing: Outgoing<'_>,
    ) -> Result<()> {
        let at_once = (PART * PARTS_AT_ONCE / part).max(1) as usize;
        let mut sending = JoinSet::new();
        while let Some(piece) = outgoing.piece(part as usize)? {
            sending.spawn(upload.put_part(piece.into()));
            if sending.len() >= at_once {
                finished(sending.join_next().await)?;
            }
        }
        while let Some(sent) = sending.join_next().await {
            finished(Some(sent))?;
        }
        Ok(())
    }

    /// Writes a received object to a sink, checked.
    async fn receive(got: GetResult, mut check: Check, sink: &mut dyn Write) -> Result<()> {
        let mut stream = got.into_stream();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(failed)?;
            if !check.take(&bytes) {
                break;
            }
            sink.write_all(&bytes).map_err(Failure::local)?;
        }
        match check.wrong() {
            None => Ok(()),
            Some(wrong) => Err(Failure::new(Kind::Corrupt, wrong)),
        }
    }

    /// A put with a condition is not repeated by object_store, for then it would conflict with itself. We look whether
    /// it was ours.
    async fn put_conditionally(&self, path: &Path, bytes: &[u8], mode: PutMode) -> Result<Version> {
        let mut patience = Patience::new(self.network.limits);
        let mut lost = 0;
        loop {
            let options = PutOptions::from(mode.clone());
            let error = match self
                .store
                .put_opts(path, bytes.to_vec().into(), options)
                .await
            {
                Ok(PutResult { e_tag, version, .. }) => return self.version(e_tag, version),
                Err(error) => error,
            };
            let there = self.read_small(path).await;
            if let Ok((there, version)) = &there
                && there == bytes
            {
                return Ok(version.clone());
            }
            let missing = there.is_err_and(|failure| failure.kind() == Kind::NotFound);
            let failure = failed(error);
            let again = match (failure.kind(), &mode) {
                (Kind::Unreachable, _) => {
                    lost += 1;
                    lost <= LOST_ANSWERS
                }
                // Another create was under way, and has failed (S3: ConditionalRequestConflict).
                (Kind::Conflict, PutMode::Create) => missing,
                _ => false,
            };
            if !again || !patience.again(None).await {
                return Err(not_a_miss(failure));
            }
        }
    }

    async fn list(&self, below: &str) -> Result<Vec<ObjectMeta>> {
        let prefix = match self.prefix.as_ref() {
            "" => below.to_owned(),
            prefix => format!("{prefix}/{below}"),
        };
        let mut objects = Vec::new();
        let mut options = PaginatedListOptions::default();
        loop {
            let page = self.pages.list_paginated(Some(&prefix), options).await;
            let page = match page {
                Ok(page) => page,
                Err(error) => return Err(failed(error)),
            };
            objects.extend(page.result.objects);
            match page.page_token {
                None => return Ok(objects),
                token => {
                    options = PaginatedListOptions {
                        page_token: token,
                        ..PaginatedListOptions::default()
                    }
                }
            }
        }
    }

    async fn name_of(&self, path: &Path, scope: &str, key: &str) -> Result<Option<RefName>> {
        match (names::of_file(scope), names::of_file(key)) {
            (Found::Foreign, _) | (_, Found::Foreign) => Ok(None),
            (Found::Whole(scope), Found::Whole(key)) => RefName::new(scope, key).map(Some),
            _ => match self.read_small(path).await {
                Ok((bytes, version)) => match reference::read(&bytes, version) {
                    Ok((name, _)) => Ok(Some(name)),
                    Err(failure) => {
                        log::warn!("{path}: {failure}");
                        Ok(None)
                    }
                },
                Err(failure) if failure.kind() == Kind::NotFound => Ok(None),
                Err(failure) => Err(failure),
            },
        }
    }
}

/// For what is written, nothing that is not found is a miss.
fn not_a_miss(failure: Failure) -> Failure {
    match failure.kind() {
        Kind::NotFound => Failure::new(Kind::Unreachable, failure.to_string()),
        _ => failure,
    }
}

fn finished(sent: Option<Result<object_store::Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match sent {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(not_a_miss(failed(error))),
        Some(Err(error)) => Err(Failure::new(Kind::Local, error.to_string())),
    }
}

impl Backend for Objects {
    fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        self.network.wait(self.size_of(&self.blob(digest)))
    }

    fn put_blob(&self, digest: &Digest, size: u64, source: &mut dyn Source) -> Result<Put> {
        let path = self.blob(digest);
        self.network.wait(async {
            if self.size_of(&path).await? == Some(size) {
                return Ok(Put::There);
            }
            source.rewind().map_err(Failure::local)?;
            let outgoing = Outgoing::new(source, digest, size);
            self.send(&path, size, outgoing).await.map_err(not_a_miss)?;
            Ok(Put::Sent)
        })
    }

    fn get_blob(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<()> {
        let path = self.blob(digest);
        self.network.wait(async {
            let got = self.store.get(&path).await.map_err(failed)?;
            Self::receive(got, Check::new(digest, size), sink).await
        })
    }

    fn read_range(&self, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        self.network.wait(async {
            let bytes = self.store.get_range(&path, range).await.map_err(|error| {
                let failure = failed(error);
                // object_store says so of an answer with other bytes than were asked for.
                match failure.to_string() {
                    text if text.starts_with("Requested") => Failure::new(Kind::Corrupt, text),
                    _ => failure,
                }
            })?;
            Ok(bytes.to_vec())
        })
    }

    fn list_blobs(&self) -> Result<Vec<Listing>> {
        let objects = self.network.wait(self.list("blobs/sha256/"))?;
        let listing = |object: ObjectMeta| {
            let digest = Digest::from_hex(object.location.filename()?)?;
            Some(Listing {
                digest,
                size: object.size,
                modified: SystemTime::from(object.last_modified),
            })
        };
        Ok(objects.into_iter().filter_map(listing).collect())
    }

    fn delete_blob(&self, digest: &Digest) -> Result<()> {
        self.network.wait(delete(&*self.store, self.blob(digest)))
    }

    fn read_ref(&self, name: &RefName) -> Result<Ref> {
        let path = self.reference(name);
        let (bytes, version) = self.network.wait(self.read_small(&path))?;
        reference::read_named(&bytes, version, name)
    }

    fn put_ref(&self, name: &RefName, target: &Target, condition: &Condition) -> Result<Version> {
        let path = self.reference(name);
        let bytes = reference::write(name, target, SystemTime::now());
        let mode = match condition {
            Condition::Create => PutMode::Create,
            Condition::Always => PutMode::Overwrite,
            Condition::Replace(Version(version)) if self.by_generation => {
                PutMode::Update(UpdateVersion {
                    e_tag: None,
                    version: Some(version.clone()),
                })
            }
            Condition::Replace(Version(etag)) => PutMode::Update(UpdateVersion {
                e_tag: Some(etag.clone()),
                version: None,
            }),
        };
        self.network
            .wait(self.put_conditionally(&path, &bytes, mode))
    }

    fn list_refs(&self, scope: Option<&str>, prefix: &str) -> Result<Vec<Listed>> {
        let below = match scope {
            Some(scope) => {
                let (scope, key) = (names::file_name(scope), names::file_prefix(prefix));
                format!("refs/{scope}/{key}")
            }
            None => "refs/".to_owned(),
        };
        self.network.wait(async {
            let mut refs = Vec::new();
            for object in self.list(&below).await? {
                let parts: Vec<_> = object.location.parts().collect();
                let [.., scope_part, key_part] = parts.as_slice() else {
                    continue;
                };
                let (scope_part, key_part) = (scope_part.as_ref(), key_part.as_ref());
                let name = self.name_of(&object.location, scope_part, key_part).await?;
                if let Some(name) = name.filter(|name| name.matches(scope, prefix)) {
                    refs.push(Listed {
                        name,
                        modified: SystemTime::from(object.last_modified),
                    });
                }
            }
            Ok(refs)
        })
    }

    fn delete_ref(&self, name: &RefName) -> Result<()> {
        self.network
            .wait(delete(&*self.store, self.reference(name)))
    }
}

async fn delete(store: &dyn ObjectStore, path: Path) -> Result<()> {
    match store.delete(&path).await {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_few_and_as_small_as_the_limits_want() {
        assert_eq!(part_size(MULTIPART).unwrap(), PART);
        assert_eq!(part_size(MOST_PARTS * PART).unwrap(), PART);
        let larger = part_size(MOST_PARTS * PART + 1).unwrap();
        assert_eq!(larger, PART + (1 << 20));
        assert_eq!(
            part_size(u64::MAX / 2).unwrap_err().kind(),
            Kind::Unsupported
        );
    }
}
