//! Saving: paths of a stage under a key of a store.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Instant;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Progress, Trouble};
use crate::control::{CacheSaveRequest, Client, Reply, Request};
use crate::error::Error;
use crate::export::{Compat, LeftOut};
use crate::store::{Condition, Digest, Kind, Put, RefName, Store};

/// The media type of an image manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What is to be saved.
#[derive(Clone, Debug)]
pub struct SaveWish {
    /// Under which name.
    pub name: RefName,
    /// Which paths, as users see them.
    pub paths: Vec<PathBuf>,
    /// Whether what is there under that name is replaced.
    pub replace: bool,
    /// Secret files that leave all the same.
    pub allow_secret: Vec<String>,
    /// Layers for other tools.
    pub compat: Option<Compat>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SaveReport {
    /// The key.
    pub key: String,
    /// Its scope.
    pub scope: String,
    /// Whether the key stands for it now.
    pub saved: bool,
    /// Why it was not saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Digest of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Digest of the tree, however it is compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree_digest: Option<String>,
    /// How many layers it has.
    pub layers: usize,
    /// Files and other entries in all layers.
    pub entries: u64,
    /// Bytes of all layers.
    pub bytes: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Paths that were not there.
    pub missing: Vec<String>,
    /// Files that the guard kept in.
    pub secrets: Vec<LeftOut>,
    /// What an image layer cannot hold.
    pub left_out: Vec<LeftOut>,
    /// What there is to tell, for people.
    #[serde(skip)]
    pub text: String,
}

/// What the stage says of an image that it has made.
#[derive(Debug, Deserialize)]
struct Made {
    manifest: String,
    config: String,
    tree_digest: String,
    layers: Vec<Blob>,
    missing: Vec<String>,
    secrets: Vec<LeftOut>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug, Deserialize)]
struct Blob {
    digest: Digest,
    size: u64,
    members: u64,
    new: bool,
}

/// Tells of what is read from it.
struct Counting<'a> {
    inner: &'a mut File,
    progress: &'a dyn Progress,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.progress.advance(length as u64);
        Ok(length)
    }
}

impl Seek for Counting<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Saves paths of the stage. Until the last byte is in the store nobody sees anything
/// of it. What is there under the name stays, unless it is to be replaced; of two who
/// save at once one is told that the other was faster.
///
/// # Errors
/// What the store or the stage says; then the name stands for what it stood for.
pub fn save(
    client: &mut Client,
    store: &Store,
    wish: &SaveWish,
    progress: &dyn Progress,
) -> Result<SaveReport, Trouble> {
    let begun = Instant::now();
    let mut report = SaveReport {
        key: wish.name.key().to_owned(),
        scope: wish.name.scope().to_owned(),
        ..SaveReport::default()
    };
    let there = match store.read_ref(&wish.name) {
        Ok(read) => Some(read),
        Err(failure) if failure.kind() == Kind::NotFound => None,
        // Who replaces it need not understand it.
        Err(failure) if failure.kind() == Kind::Corrupt && wish.replace => None,
        Err(failure) => return Err(failure.into()),
    };
    let condition = match there {
        Some(_) if !wish.replace => {
            report.why = Some("the key is taken".to_owned());
            report.seconds = begun.elapsed().as_secs_f64();
            return Ok(report);
        }
        Some(read) => Condition::Replace(read.version),
        None => Condition::Create,
    };
    let (mut made, mut blob, mut text) = make(client, wish, false)?;
    if !has_all(store, made.layers.iter().filter(|layer| !layer.new))? {
        // The stage had it from another store, or it was removed.
        (made, blob, text) = make(client, wish, true)?;
    }
    report.text = text;
    for layer in made.layers.iter().filter(|layer| layer.new) {
        let Some(file) = &mut blob else {
            let text = "the stage gave no file for a new layer";
            return Err(Error::new(Errno::EPROTO, text).into());
        };
        progress.begin("saving", layer.size);
        let mut source = Counting {
            inner: file,
            progress,
        };
        if store.put_blob(&layer.digest, layer.size, &mut source)? == Put::Sent {
            report.sent_bytes += layer.size;
        }
        progress.end();
    }
    let config = made.config.as_bytes();
    store.put_blob(
        &Digest::of(config),
        config.len() as u64,
        &mut Cursor::new(config),
    )?;
    let target = store.put_manifest(MANIFEST, made.manifest.as_bytes())?;
    match store.put_ref(&wish.name, &target, &condition) {
        Ok(_) => report.saved = true,
        Err(failure) if failure.kind() == Kind::Conflict => {
            report.why = Some("another has saved under this key meanwhile".to_owned());
        }
        Err(failure) => return Err(failure.into()),
    }
    report.manifest = Some(target.digest.to_string());
    report.tree_digest = Some(made.tree_digest);
    report.layers = made.layers.len();
    report.entries = made.layers.iter().map(|layer| layer.members).sum();
    report.bytes = made.layers.iter().map(|layer| layer.size).sum();
    report.missing = made.missing;
    report.secrets = made.secrets;
    report.left_out = made.left_out;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Whether the store has these blobs. It counts them as written now, so that nobody who
/// prunes takes them away before a ref names them.
fn has_all<'a>(store: &Store, blobs: impl Iterator<Item = &'a Blob>) -> Result<bool, Trouble> {
    for blob in blobs {
        if store.blob_size(&blob.digest)? != Some(blob.size) {
            return Ok(false);
        }
        match store.put_blob(&blob.digest, blob.size, &mut Absent) {
            Ok(_) => {}
            Err(failure) if failure.kind() == Kind::Local => return Ok(false),
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(true)
}

/// The content of a blob that is expected to be there.
struct Absent;

impl Read for Absent {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

impl Seek for Absent {
    fn seek(&mut self, _: SeekFrom) -> std::io::Result<u64> {
        Ok(0)
    }
}

/// Has the stage make the image.
fn make(
    client: &mut Client,
    wish: &SaveWish,
    whole: bool,
) -> Result<(Made, Option<File>, String), Trouble> {
    let request = Request::CacheSave(CacheSaveRequest {
        paths: wish.paths.clone(),
        allow_secret: wish.allow_secret.clone(),
        compat: wish.compat,
        whole,
    });
    match client.ask(&request)? {
        Reply::Report { text, data } => {
            let made = serde_json::from_value(data).map_err(Error::from)?;
            let file = client.take_files().into_iter().next();
            Ok((made, file.map(File::from), text))
        }
        other => Err(Trouble::Refused(Box::new(other))),
    }
}
