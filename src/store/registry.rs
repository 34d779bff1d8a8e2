//! Stores in a repository of an OCI registry (distribution-spec).
//!
//! Blobs are blobs and manifests are manifests; a ref is an index under a tag.
//! An upload is one `POST` and one `PUT` with the whole blob, which every
//! registry takes (chunks only some do); if it breaks it begins anew.

use std::io::Write;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LINK, LOCATION, RANGE,
};
use reqwest::{Body, Method, StatusCode};
use tokio::sync::mpsc;

use super::digest::{Check, Digest, Outgoing};
use super::failure::{Failure, Kind, Result};
use super::names::{self, Found};
use super::network::{Limits, Network, Patience};
use super::reference::{
    self, Condition, INDEX_TYPE, LARGEST_REF, Listed, Ref, RefName, Target, Version,
};
use super::{Backend, Listing, Put, Source};
use asking::{Access, Client, broken, refused};

mod asking;
mod cloud;
mod credentials;
mod token;

/// What a manifest may be.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";
/// Of a blob on its way, and how many of them wait for the network.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;
/// Tags on one page of a list.
const PAGE: usize = 1000;
/// The largest page that is read.
const LARGEST_PAGE: u64 = 4 << 20;
/// How many refs of a list are read at once.
const REFS_AT_ONCE: usize = 8;
/// How long a broken upload is waited for to be taken back.
const CANCEL: Duration = Duration::from_secs(5);

pub(super) struct Registry {
    network: Network,
    client: Client,
}

impl Registry {
    pub fn new(host: &str, repository: &str, plain_http: bool, limits: Limits) -> Result<Registry> {
        let network = Network::start(limits)?;
        let client = Client::new(host, repository, plain_http, limits)?;
        Ok(Registry { network, client })
    }

    /// The size of a blob or a manifest, and the digest that the registry calls it by.
    async fn head(&self, path: &str) -> Result<Option<(Option<u64>, Option<Digest>)>> {
        let url = self.client.url(path)?;
        let make = |http: &reqwest::Client| http.head(url.clone()).header(ACCEPT, MANIFEST_TYPES);
        match self.client.ask(Access::Pull, make).await {
            Ok(response) => {
                let size = header(response.headers(), CONTENT_LENGTH.as_str());
                let digest = header(response.headers(), "docker-content-digest");
                Ok(Some((
                    size.and_then(|size| size.parse().ok()),
                    digest.and_then(|digest| digest.parse().ok()),
                )))
            }
            Err(failure) if failure.kind() == Kind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Sends the whole of a blob once.
    async fn upload(&self, digest: &Digest, size: u64, source: &mut dyn Source) -> Result<()> {
        let begin = self.client.url("blobs/uploads/")?;
        let make = |http: &reqwest::Client| http.post(begin.clone()).header(CONTENT_LENGTH, 0);
        let response = self
            .client
            .ask(Access::Push, make)
            .await
            .map_err(not_a_miss)?;
        let location = header(response.headers(), LOCATION.as_str());
        let location = location.and_then(|location| response.url().join(&location).ok());
        let location = location.ok_or_else(|| {
            Failure::new(
                Kind::Unreachable,
                "the registry said no place for the upload",
            )
        })?;
        let mut place = location.clone();
        place
            .query_pairs_mut()
            .append_pair("digest", &digest.to_string());

        let (pieces, waiting) = mpsc::channel::<Result<Bytes, std::io::Error>>(PIECES);
        let body = futures_util::stream::unfold(waiting, |mut waiting| async {
            waiting.recv().await.map(|piece| (piece, waiting))
        });
        let request = self
            .client
            .request(Method::PUT, place)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(Body::wrap_stream(body));
        let answer = tokio::spawn(self.client.authorized(Access::Push, request).send());
        let read = feed(digest, size, source, pieces).await;
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(error) => return Err(Failure::new(Kind::Local, error.to_string())),
        };
        // What is wrong with the content counts before what the network made of it.
        let sent = match read {
            Err(failure) => Err(failure),
            Ok(()) => match answer {
                Ok(response) if response.status().is_success() => Ok(()),
                // It was checked on its way out, so it was damaged on the way.
                Ok(response) if response.status() == StatusCode::BAD_REQUEST => {
                    let failure = refused(response).await;
                    Err(Failure::new(Kind::Unreachable, failure.to_string()))
                }
                Ok(response) => Err(refused(response).await),
                Err(error) => Err(broken(&error)),
            },
        };
        if sent.is_err() {
            let cancel = self.client.request(Method::DELETE, location);
            let cancel = self.client.authorized(Access::Push, cancel).send();
            let _ = tokio::time::timeout(CANCEL, cancel).await;
        }
        sent.map_err(not_a_miss)
    }

    /// Receives a blob or a manifest, checked; a connection that breaks is taken up where it broke.
    async fn receive(
        &self,
        path: &str,
        digest: &Digest,
        size: u64,
        sink: &mut dyn Write,
    ) -> Result<()> {
        let url = self.client.url(path)?;
        let mut check = Check::new(digest, size);
        let mut patience = Patience::new(self.client.limits);
        loop {
            let from = check.seen();
            let make = |http: &reqwest::Client| {
                let request = http.get(url.clone()).header(ACCEPT, MANIFEST_TYPES);
                match from {
                    0 => request,
                    from => request.header(RANGE, format!("bytes={from}-")),
                }
            };
            let mut response = self.client.ask(Access::Pull, make).await?;
            // A registry that knows no ranges begins at the beginning.
            let mut skip = match response.status() {
                StatusCode::PARTIAL_CONTENT => 0,
                _ => from,
            };
            let broke = loop {
                let bytes = match response.chunk().await {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                };
                let known = skip.min(bytes.len() as u64);
                skip -= known;
                let bytes = &bytes[known as usize..];
                if !check.take(bytes) {
                    break None;
                }
                sink.write_all(bytes).map_err(Failure::local)?;
            };
            match (broke, check.wrong()) {
                (_, None) => return Ok(()),
                (None, Some(wrong)) => return Err(Failure::new(Kind::Corrupt, wrong)),
                (Some(error), Some(_)) => {
                    if check.seen() > size || !patience.again(None).await {
                        return Err(broken(&error));
                    }
                }
            }
        }
    }

    /// A small document under a tag or a digest, and its digest.
    async fn document(&self, name: &str) -> Result<(Vec<u8>, Digest)> {
        let url = self.client.url(&format!("manifests/{name}"))?;
        let make = |http: &reqwest::Client| http.get(url.clone()).header(ACCEPT, MANIFEST_TYPES);
        let bytes = self.client.read(Access::Pull, make, LARGEST_REF).await?.0;
        let digest = Digest::of(&bytes);
        Ok((bytes, digest))
    }

    async fn put_document(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let url = self.client.url(&format!("manifests/{name}"))?;
        let make = |http: &reqwest::Client| {
            http.put(url.clone())
                .header(CONTENT_TYPE, media_type)
                .body(bytes.to_vec())
        };
        let put = self.client.ask(Access::Push, make).await;
        put.map(drop).map_err(not_a_miss)
    }

    /// All tags that begin so.
    async fn tags(&self, begin: &str) -> Result<Vec<String>> {
        let mut url = Some(self.client.url(&format!("tags/list?n={PAGE}"))?);
        let mut tags = Vec::new();
        while let Some(page) = url {
            let make = |http: &reqwest::Client| http.get(page.clone());
            let (bytes, headers) = match self.client.read(Access::Pull, make, LARGEST_PAGE).await {
                // A repository comes into being with its first blob.
                Err(failure) if failure.kind() == Kind::NotFound => break,
                other => other?,
            };
            let list: TagList = serde_json::from_slice(&bytes).map_err(|error| {
                Failure::new(Kind::Corrupt, format!("the list of tags: {error}"))
            })?;
            let listed = list.tags.unwrap_or_default();
            tags.extend(listed.into_iter().filter(|tag| tag.starts_with(begin)));
            url = next_page(&headers).and_then(|next| page.join(&next).ok());
        }
        Ok(tags)
    }

    /// The ref under a tag, if the tag is one of ours and still there.
    async fn listed(&self, tag: String) -> Result<Option<Listed>> {
        let bytes = match self.document(&tag).await {
            Ok((bytes, _)) => bytes,
            Err(failure) if failure.kind() == Kind::NotFound => return Ok(None),
            Err(failure) => return Err(failure),
        };
        match reference::read(&bytes, Version(String::new())) {
            Ok((name, read)) if name.tag() == tag => Ok(Some(Listed {
                name,
                modified: read.created,
            })),
            Ok(_) => Ok(None),
            Err(failure) => {
                log::warn!("tag {tag}: {failure}");
                Ok(None)
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

/// `Link: </v2/…?last=…>; rel="next"` (distribution-spec, "Listing Tags").
fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let (target, rest) = link.split_once('<')?.1.split_once('>')?;
    rest.contains("next").then(|| target.to_owned())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// For what is written, nothing that is not found is a miss.
fn not_a_miss(failure: Failure) -> Failure {
    match failure.kind() {
        Kind::NotFound => Failure::new(Kind::Invalid, failure.to_string()),
        _ => failure,
    }
}

/// Reads a blob and hands it to the request that sends it.
async fn feed(
    digest: &Digest,
    size: u64,
    source: &mut dyn Source,
    pieces: mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> Result<()> {
    source.rewind().map_err(Failure::local)?;
    let mut outgoing = Outgoing::new(source, digest, size);
    let mut last: Option<Bytes> = None;
    loop {
        // The last piece goes only when the whole was right: else the registry gets less than it was promised.
        match outgoing.piece(PIECE) {
            Ok(Some(piece)) => {
                if let Some(last) = last.replace(Bytes::from(piece))
                    && pieces.send(Ok(last)).await.is_err()
                {
                    // The request has ended already, and its answer says why.
                    return Ok(());
                }
            }
            Ok(None) => {
                if let Some(last) = last {
                    let _ = pieces.send(Ok(last)).await;
                }
                return Ok(());
            }
            Err(failure) => {
                let _ = pieces.send(Err(std::io::Error::other("given up"))).await;
                return Err(failure);
            }
        }
    }
}

impl Backend for Registry {
    fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let found = self.network.wait(self.head(&format!("blobs/{digest}")))?;
        match found {
            None => Ok(None),
            Some((Some(size), _)) => Ok(Some(size)),
            Some((None, _)) => {
                let text = "the registry does not say how large it is";
                Err(Failure::new(Kind::Unsupported, text))
            }
        }
    }

    fn put_blob(&self, digest: &Digest, size: u64, source: &mut dyn Source) -> Result<Put> {
        self.network.wait(async {
            // A registry has checked the digest of what it has; some say no size.
            let there = self.head(&format!("blobs/{digest}")).await?;
            if there.is_some_and(|(there, _)| there.is_none_or(|there| there == size)) {
                return Ok(Put::There);
            }
            let mut patience = Patience::new(self.client.limits);
            loop {
                match self.upload(digest, size, source).await {
                    Ok(()) => return Ok(Put::Sent),
                    Err(failure) if failure.kind() != Kind::Unreachable => return Err(failure),
                    Err(failure) => {
                        if !patience.again(None).await {
                            return Err(failure);
                        }
                    }
                }
            }
        })
    }

    fn get_blob(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<()> {
        let path = format!("blobs/{digest}");
        self.network.wait(self.receive(&path, digest, size, sink))
    }

    fn read_range(&self, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>> {
        self.network.wait(async {
            let url = self.client.url(&format!("blobs/{digest}"))?;
            let (start, last) = (range.start, range.end - 1);
            let make = |http: &reqwest::Client| {
                http.get(url.clone())
                    .header(RANGE, format!("bytes={start}-{last}"))
            };
            let most = range.end - range.start;
            let (bytes, headers) = self.client.read(Access::Pull, make, most).await?;
            let told = header(&headers, CONTENT_RANGE.as_str());
            // The whole may be less than what was asked for, where the registry knows no ranges.
            match told {
                Some(told) if told.starts_with(&format!("bytes {start}-{last}/")) => Ok(bytes),
                None if start == 0 => Ok(bytes),
                Some(told) => Err(Failure::new(Kind::Corrupt, format!("{told} came"))),
                None => {
                    let text = "the registry does not give parts of blobs";
                    Err(Failure::new(Kind::Unsupported, text))
                }
            }
        })
    }

    fn list_blobs(&self) -> Result<Vec<Listing>> {
        let text = "a registry does not list its blobs; it prunes by itself what no tag names";
        Err(Failure::new(Kind::Unsupported, text))
    }

    fn delete_blob(&self, digest: &Digest) -> Result<()> {
        let delete = self.client.delete(format!("blobs/{digest}"));
        self.network.wait(delete)
    }

    fn read_ref(&self, name: &RefName) -> Result<Ref> {
        self.network.wait(async {
            let (bytes, digest) = self.document(&name.tag()).await?;
            reference::read_named(&bytes, Version(digest.to_string()), name)
        })
    }

    fn put_ref(&self, name: &RefName, target: &Target, condition: &Condition) -> Result<Version> {
        let tag = name.tag();
        let path = format!("manifests/{tag}");
        let bytes = reference::write(name, target, SystemTime::now());
        let ours = Digest::of(&bytes);
        let conflict = |text| Failure::new(Kind::Conflict, text);
        self.network.wait(async {
            if *condition != Condition::Always {
                let there = match self.document(&tag).await {
                    Ok((_, digest)) => Some(Version(digest.to_string())),
                    Err(failure) if failure.kind() == Kind::NotFound => None,
                    Err(failure) => return Err(failure),
                };
                match (condition, there) {
                    (Condition::Replace(expected), Some(there)) if *expected == there => {}
                    (Condition::Replace(_), None) => {
                        return Err(conflict("somebody else has deleted it"));
                    }
                    (_, Some(_)) => return Err(conflict("somebody else has written it")),
                    (_, None) => {}
                }
            }
            self.put_document(&tag, INDEX_TYPE, &bytes).await?;
            if *condition != Condition::Always {
                let now = self.head(&path).await?.and_then(|(_, digest)| digest);
                if now.is_some_and(|now| now != ours) {
                    return Err(conflict("somebody else has written it at the same time"));
                }
            }
            Ok(Version(ours.to_string()))
        })
    }

    fn list_refs(&self, scope: Option<&str>, prefix: &str) -> Result<Vec<Listed>> {
        self.network.wait(async {
            let tags = self.tags(&names::tag_prefix(scope, prefix)).await?;
            // Those that can be read back and do not match need not be asked for.
            let wanted = tags.into_iter().filter(|tag| match names::of_tag(tag) {
                Found::Whole((tag_scope, key)) => {
                    scope.is_none_or(|scope| scope == tag_scope) && key.starts_with(prefix)
                }
                Found::Cut => true,
                Found::Foreign => false,
            });
            let mut reading = futures_util::stream::iter(wanted)
                .map(|tag| self.listed(tag))
                .buffer_unordered(REFS_AT_ONCE);
            let mut refs = Vec::new();
            while let Some(listed) = reading.next().await {
                refs.extend(listed?.filter(|listed| listed.name.matches(scope, prefix)));
            }
            Ok(refs)
        })
    }

    fn delete_ref(&self, name: &RefName) -> Result<()> {
        self.network.wait(async {
            // By digest, which all registries that delete at all know; no two refs have the same.
            match self.document(&name.tag()).await {
                Ok((_, digest)) => self.client.delete(format!("manifests/{digest}")).await,
                Err(failure) if failure.kind() == Kind::NotFound => Ok(()),
                Err(failure) => Err(failure),
            }
        })
    }

    fn put_manifest(&self, media_type: &str, digest: &Digest, bytes: &[u8]) -> Result<Put> {
        self.network.wait(async {
            let name = digest.to_string();
            if self.head(&format!("manifests/{name}")).await?.is_some() {
                return Ok(Put::There);
            }
            self.put_document(&name, media_type, bytes).await?;
            Ok(Put::Sent)
        })
    }

    fn get_manifest(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<()> {
        let path = format!("manifests/{digest}");
        self.network.wait(self.receive(&path, digest, size, sink))
    }
}
