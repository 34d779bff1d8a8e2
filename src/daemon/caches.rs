//! Caches, on the stage's side: images of parts of the tree. Who asked brings them to a
//! store or from one, with its own credentials.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::Serialize;
use serde_json::{Value, json};

use super::render;
use super::requests::Requests;
use crate::control::{CacheRestoreRequest, CacheSaveRequest, Connection, Reply};
use crate::error::{Context, Error, Result};
use crate::export::LeftOut;
use crate::export::cache::{
    Image, ImageLayer, Parent, Place, SaveOptions, Saved, Terms, save, unpack,
};
use crate::stage::{CacheLink, CacheState, Failure, KnownCache, KnownLink, Stage, ToSave};
use crate::sys::passing::MOST;
use crate::tree::shown::shown;

/// An image of more layers is made anew where the last ones can be made one.
const LONGEST: usize = 8;

/// What was saved.
#[derive(Debug, Serialize)]
struct CacheImage {
    /// The manifest, as it is to be stored.
    manifest: String,
    /// The configuration.
    config: String,
    /// Digest of the tree.
    tree_digest: String,
    /// Digests and sizes of the blobs of layers, the lowest first.
    layers: Vec<CacheBlob>,
    /// Saved paths that are not there.
    #[serde(with = "crate::tree::shown::all")]
    missing: Vec<PathBuf>,
    secrets: Vec<LeftOut>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug, Serialize)]
struct CacheBlob {
    digest: String,
    size: u64,
    members: u64,
    uncompressed: u64,
    /// It comes with the reply.
    new: bool,
}

impl Requests {
    /// Makes an image of some paths.
    ///
    /// # Errors
    /// [`Failure::Usage`] for paths that are not the stage's, [`Failure::NotFound`] if
    /// none of them is there, else what reading or writing it reports.
    pub(super) fn cache_save(
        &self,
        request: CacheSaveRequest,
        connection: &mut Connection,
    ) -> Result<Reply, Failure> {
        let stage = self.stage()?;
        let options = SaveOptions {
            paths: places(&stage, &request.paths)?,
            filter: filter(&request)?,
            allow_secret: request.allow_secret,
            compat: request.compat,
        };
        let ToSave { stack, top, caches } = stage.to_save()?;
        let named: Vec<&PathBuf> = options.paths.iter().map(|place| &place.shown).collect();
        let of_these = |cache: &&KnownCache| {
            cache.filter == options.filter && cache.paths.iter().all(|path| named.contains(&path))
        };
        let known = caches.iter().rev().find(of_these);
        let known = known.filter(|_| !request.whole);
        let links = known.map(links).transpose()?.unwrap_or_default();
        let objects = stage.objects_dir();
        let mut scratch = || scratch(&objects);
        let mut make = |parent: &[(ImageLayer, usize)]| {
            let parent = parent.last().map(|(_, depth)| Parent {
                image: Image {
                    paths: known.map(|known| known.paths.clone()).unwrap_or_default(),
                    filter: options.filter.clone(),
                    layers: parent.iter().map(|(layer, _)| layer.clone()).collect(),
                },
                depth: *depth,
            });
            save(
                &stack,
                &self.mapped,
                parent,
                &options,
                &mut scratch,
                &|| self.wanted(connection),
            )
        };
        let mut saved = make(&links).map_err(missing)?;
        // What grows too long, or by more than what it grows on, is better made anew.
        let kept = worth_keeping(&links, &saved);
        if kept < links.len() {
            saved = make(&links[..kept])?;
        }
        let new = saved.blob.is_some();
        let old = known.map_or(&[][..], |known| &known.links);
        let old = &old[..saved.image.layers.len() - usize::from(new)];
        let mut remembered: Vec<_> = old.iter().map(|known| known.link.clone()).collect();
        if let Some(layer) = saved.image.layers.last().filter(|_| new) {
            let layer = serde_json::to_value(layer).map_err(Error::from)?;
            remembered.push(CacheLink { top, layer });
        }
        stage.remember_cache(CacheState {
            paths: saved.image.paths.clone(),
            filter: options.filter.clone(),
            links: remembered,
        })?;
        let reply = reply(&saved)?;
        let files: Vec<_> = saved.blob.iter().map(AsFd::as_fd).collect();
        // A client that has gone needs no answer.
        let _ = connection.answer_with(&reply, &files);
        Ok(reply)
    }

    /// Makes files for the layers of an image that is to be restored.
    ///
    /// # Errors
    /// [`Failure::Usage`] for more than can come with a reply, else as open(2).
    pub(super) fn cache_files(
        &self,
        count: usize,
        connection: &mut Connection,
    ) -> Result<Reply, Failure> {
        if count > MOST {
            let text = format!("a cache has at most {MOST} layers, not {count}");
            return Err(Failure::Usage(text));
        }
        let objects = self.stage()?.objects_dir();
        let files: Vec<File> = (0..count)
            .map(|_| scratch(&objects))
            .collect::<Result<_>>()?;
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let reply = Reply::done();
        let _ = connection.answer_with(&reply, &files);
        Ok(reply)
    }

    /// Has the tree show an image.
    ///
    /// # Errors
    /// [`Failure::Usage`] for paths that the stage does not map, [`Failure::NotFound`] for
    /// those that the image does not hold; else what is wrong with it, or what the disk
    /// reports. Then the stage is unchanged.
    pub(super) fn cache_restore(
        &self,
        request: &CacheRestoreRequest,
        connection: &mut Connection,
    ) -> Result<Reply, Failure> {
        let blobs: Vec<File> = connection
            .take_files()
            .into_iter()
            .map(File::from)
            .collect();
        let stage = self.stage()?;
        let image = Image::read(request.manifest.as_bytes(), request.config.as_bytes())?;
        let chosen = match request.paths.as_slice() {
            [] => image.paths.clone(),
            chosen => chosen.to_vec(),
        };
        if let Some(other) = chosen.iter().find(|path| !image.paths.contains(path)) {
            let all: Vec<_> = image.paths.iter().map(|path| shown(path)).collect();
            let text = format!("the cache holds {}, not {}", all.join(", "), shown(other));
            return Err(Failure::NotFound(text));
        }
        let paths = places(&stage, &chosen)?;
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let work = stage.objects_dir().join(format!("restore-{number}"));
        let terms = Terms {
            work: &work,
            paths: &paths,
            inos: stage.inos(),
            trusting: request.trust,
            wanted: &|| self.wanted(connection),
        };
        let mut unpacked = unpack(&image, blobs, terms)?;
        self.wanted(connection)?;
        let inner: Vec<PathBuf> = paths.iter().map(|place| place.inner.clone()).collect();
        // Else what the stage shows is not the image.
        let all = chosen.len() == image.paths.len() && unpacked.refused.is_empty();
        let told = image.layers.iter().filter(|_| all);
        let told = told.map(|layer| Ok(serde_json::to_value(layer)?));
        let told: Vec<Value> = told.collect::<Result<_>>()?;
        let cache = (image.paths.as_slice(), image.filter.as_str(), &*told);
        let (layers, notes) = stage.push_cache(&mut unpacked, &inner, cache)?;
        let data = json!({
            "paths": chosen.iter().map(|path| shown(path)).collect::<Vec<_>>(),
            "layers": layers,
            "refused": unpacked.refused,
            "notes": notes,
            "tree_digest": image.tree_digest(),
        });
        Ok(Reply::Report {
            text: render::cache_restored(&unpacked.refused, &notes),
            data,
        })
    }
}

/// The layers of a known image, and how many layers of the stack show each.
fn links(known: &KnownCache) -> Result<Vec<(ImageLayer, usize)>> {
    let links = known.links.iter();
    let read = |known: &KnownLink| -> Result<_> {
        let layer = serde_json::from_value(known.link.layer.clone())?;
        Ok((layer, known.depth))
    };
    links.map(read).collect()
}

/// How many of the layers that were built upon stay as they are. Each is at least as
/// large as all above it that change often, so that nothing is sent more often than
/// the logarithm of what there is.
fn worth_keeping(links: &[(ImageLayer, usize)], saved: &Saved) -> usize {
    let (mut kept, mut above) = (links.len(), 0);
    match saved.image.layers.last() {
        Some(new) if saved.blob.is_some() => above += new.descriptor.size(),
        _ => return kept,
    }
    while let Some((last, _)) = links[..kept].last() {
        let size = last.descriptor.size();
        if size > above && kept < LONGEST {
            break;
        }
        above += size;
        kept -= 1;
    }
    kept
}

/// The places of paths in the layers, sorted; none lies in another.
fn places(stage: &Stage, paths: &[PathBuf]) -> Result<Vec<Place>, Failure> {
    let mut places = Vec::new();
    for path in paths {
        let inner = stage.in_layers(path)?;
        let shown = path.components().collect();
        places.push(Place { shown, inner });
    }
    places.sort();
    places.dedup();
    for pair in places.windows(2) {
        if pair[1].shown.starts_with(&pair[0].shown) {
            return Err(Failure::Usage(format!(
                "{} lies in {}: name the one or the other",
                shown(&pair[1].shown),
                shown(&pair[0].shown)
            )));
        }
    }
    Ok(places)
}

/// Wishes that make another image of the same paths.
fn filter(request: &CacheSaveRequest) -> Result<String> {
    if request.allow_secret.is_empty() && request.compat.is_none() {
        return Ok(String::new());
    }
    let mut allowed = request.allow_secret.clone();
    allowed.sort();
    let wishes = json!({ "allow-secret": allowed, "compat": request.compat });
    Ok(serde_json::to_string(&wishes)?)
}

fn missing(error: Error) -> Failure {
    match error.errno() {
        Errno::ENOENT => Failure::NotFound(error.to_string()),
        _ => error.into(),
    }
}

/// An empty file on the stage's disk that goes when it is closed.
fn scratch(dir: &Path) -> Result<File> {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = dir.join(format!("scratch-{number}"));
    let make = || -> Result<File> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = std::os::unix::fs::OpenOptionsExt::mode(file, 0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    make().context(|| path.display().to_string())
}

fn reply(saved: &Saved) -> Result<Reply> {
    let (manifest, config) = saved.image.write()?;
    let text = |bytes: Vec<u8>| {
        let damaged = |_| Error::new(Errno::EILSEQ, "the manifest is not UTF-8");
        String::from_utf8(bytes).map_err(damaged)
    };
    let last = saved.image.layers.len().saturating_sub(1);
    let layers = saved.image.layers.iter().enumerate();
    let layers = layers.map(|(index, layer)| CacheBlob {
        digest: layer.descriptor.digest().to_string(),
        size: layer.descriptor.size(),
        members: layer.members(),
        uncompressed: layer.uncompressed(),
        new: index == last && saved.blob.is_some(),
    });
    let image = CacheImage {
        manifest: text(manifest)?,
        config: text(config)?,
        tree_digest: saved.image.tree_digest(),
        layers: layers.collect(),
        missing: saved.missing.clone(),
        secrets: saved.secrets.clone(),
        left_out: saved.left_out.clone(),
    };
    Ok(Reply::report(render::cache_saved(saved), &image))
}
