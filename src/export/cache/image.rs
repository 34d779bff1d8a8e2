//! The image of a cache: its manifest and its configuration.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use nix::errno::Errno;
use oci_spec::image::{
    Descriptor, ImageConfiguration, ImageConfigurationBuilder, ImageManifest, ImageManifestBuilder,
    MediaType, Os, RootFsBuilder,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::TREE_DIGEST;
use super::super::layout::{canonical, describe, hex};
use super::{ARTIFACT_TYPE, CACHE_PATHS, FILTER};
use crate::error::{Context, Error, Result};

/// The annotation of a layer's descriptor with the number of its members.
const MEMBERS: &str = "io.harness.fs.members";
/// The annotation of a layer's descriptor with the bytes of its tar.
const UNCOMPRESSED: &str = "io.harness.fs.uncompressed";
/// The most layers that an image may have: a store may be somebody else's.
const MOST_LAYERS: usize = 127;

fn bad(what: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, what.into())
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Digest of the tar inside, `sha256:…`.
    pub diff_id: String,
}

impl ImageLayer {
    fn annotation(&self, key: &str) -> Option<&String> {
        self.descriptor.annotations().as_ref()?.get(key)
    }

    /// What its writer says that it counts.
    fn count(&self, key: &str) -> u64 {
        let count = self.annotation(key).and_then(|text| text.parse().ok());
        count.unwrap_or(0)
    }

    /// How many members it has, as its writer says.
    pub fn members(&self) -> u64 {
        self.count(MEMBERS)
    }

    /// Bytes of its tar, as its writer says.
    pub fn uncompressed(&self) -> u64 {
        self.count(UNCOMPRESSED)
    }

    /// Of what was written.
    pub(super) fn of(written: &super::super::chunked::Written, gzip: bool) -> Result<ImageLayer> {
        let media_type = match gzip {
            true => MediaType::ImageLayerGzip,
            false => MediaType::ImageLayerZstd,
        };
        let mut descriptor = describe(media_type, written.size, &written.digest)?;
        let mut annotations: HashMap<_, _> = written.annotations.clone().into_iter().collect();
        annotations.insert(TREE_DIGEST.to_owned(), written.tree_digest.clone());
        annotations.insert(MEMBERS.to_owned(), written.members.to_string());
        annotations.insert(UNCOMPRESSED.to_owned(), written.uncompressed.to_string());
        descriptor.set_annotations(Some(annotations));
        Ok(ImageLayer {
            descriptor,
            diff_id: format!("sha256:{}", written.diff_id),
        })
    }
}

/// A cache: which paths, and the layers that hold them, the lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The saved paths that were there, absolute and sorted.
    pub paths: Vec<PathBuf>,
    /// By which wishes something was left out, or let through; empty for none.
    pub filter: String,
    /// The layers.
    pub layers: Vec<ImageLayer>,
}

impl Image {
    /// Digest of the tree that it holds, however it is compressed, and in however
    /// many layers it came about: `docs/format.md`.
    pub fn tree_digest(&self) -> String {
        let mut hash = Sha256::new_with_prefix(b"io.harness.fs cache 1\n");
        for layer in &self.layers {
            let digest = layer.annotation(TREE_DIGEST).map_or("", String::as_str);
            hash.update(format!("{digest}\n"));
        }
        format!("sha256:{}", hex(&hash.finalize()))
    }

    /// Bytes of all blobs of layers.
    pub fn size(&self) -> u64 {
        let sizes = self.layers.iter().map(|layer| layer.descriptor.size());
        sizes.sum()
    }

    /// The manifest and the configuration that it names, as they are stored.
    ///
    /// # Errors
    /// `EILSEQ` for a path that is not UTF-8.
    pub fn write(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let diff_ids = self.layers.iter().map(|layer| layer.diff_id.clone());
        let rootfs = RootFsBuilder::default().diff_ids(diff_ids.collect::<Vec<_>>());
        let broken = |error: oci_spec::OciSpecError| bad(error.to_string());
        let config = ImageConfigurationBuilder::default()
            .os(Os::Linux)
            .rootfs(rootfs.build().map_err(broken)?)
            .build()
            .map_err(broken)?;
        let config = canonical(&config)?;
        let digest = hex(&Sha256::digest(&config));
        let described = describe(MediaType::ImageConfig, config.len() as u64, &digest)?;
        let mut annotations = BTreeMap::from([
            (CACHE_PATHS.to_owned(), self.path_list()?),
            (TREE_DIGEST.to_owned(), self.tree_digest()),
        ]);
        if !self.filter.is_empty() {
            annotations.insert(FILTER.to_owned(), self.filter.clone());
        }
        let layers = self.layers.iter().map(|layer| layer.descriptor.clone());
        let manifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageManifest)
            .artifact_type(MediaType::Other(ARTIFACT_TYPE.to_owned()))
            .config(described)
            .layers(layers.collect::<Vec<_>>())
            .annotations(annotations.into_iter().collect::<HashMap<_, _>>())
            .build()
            .map_err(broken)?;
        Ok((canonical(&manifest)?, config))
    }

    fn path_list(&self) -> Result<String> {
        let text = |path: &PathBuf| {
            let text = path.to_str().map(str::to_owned);
            let wrong = || format!("{path:?}: a path has to be UTF-8 to be saved");
            text.ok_or_else(|| Error::new(Errno::EILSEQ, wrong()))
        };
        let texts: Vec<String> = self.paths.iter().map(text).collect::<Result<_>>()?;
        Ok(serde_json::to_string(&texts)?)
    }

    /// The configuration that a manifest names.
    ///
    /// # Errors
    /// `EINVAL` for what is no manifest.
    pub fn config_of(manifest: &[u8]) -> Result<Descriptor> {
        Ok(parse(manifest)?.config().clone())
    }

    /// From what was stored, both verified by digest before.
    ///
    /// # Errors
    /// `EINVAL` saying in what it is no cache of ours.
    pub fn read(manifest: &[u8], config: &[u8]) -> Result<Image> {
        let manifest = parse(manifest)?;
        let annotation = |key: &str| manifest.annotations().as_ref()?.get(key);
        let foreign =
            || bad("this image is no cache that harness-fs has saved: it does not name its paths");
        let paths = annotation(CACHE_PATHS).ok_or_else(foreign)?;
        let paths: Vec<PathBuf> = serde_json::from_str(paths)
            .context(|| format!("the annotation {CACHE_PATHS} is damaged"))?;
        if let Some(wrong) = paths.iter().find(|path| !is_plain(path)) {
            return Err(bad(format!("the cache names the path {wrong:?}")));
        }
        let config: ImageConfiguration =
            serde_json::from_slice(config).context(|| "the configuration of the image")?;
        let diff_ids = config.rootfs().diff_ids();
        let layers = manifest.layers();
        if diff_ids.len() != layers.len() || layers.len() > MOST_LAYERS {
            return Err(bad(format!(
                "the image has {} layers, its configuration names {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        let layers = layers.iter().zip(diff_ids);
        let layers = layers.map(|(descriptor, diff_id)| ImageLayer {
            descriptor: descriptor.clone(),
            diff_id: diff_id.clone(),
        });
        Ok(Image {
            paths,
            filter: annotation(FILTER).cloned().unwrap_or_default(),
            layers: layers.collect(),
        })
    }
}

fn parse(manifest: &[u8]) -> Result<ImageManifest> {
    serde_json::from_slice(manifest).context(|| "the manifest of the image")
}

/// Absolute and in its shortest form.
fn is_plain(path: &std::path::Path) -> bool {
    let mut shortest = PathBuf::new();
    shortest.extend(path.components());
    let upwards = |part| part == std::path::Component::ParentDir;
    path.is_absolute()
        && shortest.as_os_str() == path.as_os_str()
        && !path.components().any(upwards)
}
