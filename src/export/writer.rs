//! Exporting: a stack as an OCI image in an image layout.
//!
//! One layer per sealed layer, the lowest first, as zstd:chunked: a tar for all
//! tools, of which single files can be read. Same tree, same digests: no time and
//! no name of a machine is in it.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::image::{
    Descriptor, ImageConfigurationBuilder, ImageManifestBuilder, MediaType, Os, RootFsBuilder,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::chunked::{self, Form};
use super::content::{Findings, LayerContent};
use super::guard::Guard;
use super::layout::{describe, hex};
use super::layout_writer::LayoutWriter;
use super::wanting::Wanted;
use super::{BASE, BASE_INCLUDED, BASE_NONE, LeftOut, MAPPED_PATHS, SINGLE_FILES, TREE_DIGEST};
use crate::error::{Context, Error, Result};
use crate::layer::Stack;
use crate::tree::Kind;

/// What a tool has to be spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// Layers in gzip, for what knows no zstd.
    Gzip,
}

/// What to export, and how.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The image's name in the layout: the snapshot's.
    pub name: String,
    /// With the stage's own base as the lowest layer.
    pub with_base: bool,
    /// Secret files to export all the same: see [`Guard::survey`].
    pub allow_secret: Vec<String>,
    /// For other tools than ours and those of today.
    pub compat: Option<Compat>,
    /// How many threads compress, at most 8; without it, as many as there are
    /// CPUs. What is written does not depend on it.
    pub threads: Option<NonZero<usize>>,
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        ExportOptions {
            name: "latest".to_owned(),
            with_base: true,
            allow_secret: Vec::new(),
            compat: None,
            threads: None,
        }
    }
}

/// One layer of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedLayer {
    /// The layer's id in the stage.
    pub id: String,
    /// Digest of the blob, `sha256:…`.
    pub digest: String,
    /// Digest of the tar inside.
    pub diff_id: String,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the tar.
    pub uncompressed: u64,
    /// Members of the tar.
    pub members: u64,
    /// Digest of the tree, however it is compressed: of what its entries are.
    pub tree_digest: String,
    /// How it is compressed.
    pub form: Form,
    /// What other tools cannot make of it, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
    /// The layout did not have this blob yet.
    pub new: bool,
}

/// What an export wrote, and what it did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// The image's name in the layout.
    pub name: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// Digest of the tree that the image holds, however it is compressed.
    pub tree_digest: String,
    /// Whether the image is complete in itself.
    pub base_included: bool,
    /// The layers, the lowest first.
    pub layers: Vec<ExportedLayer>,
    /// Bytes of all blobs of layers.
    pub size: u64,
    /// Bytes of those that the layout did not have.
    pub new_bytes: u64,
    /// Files that the guard kept in.
    pub secrets: Vec<LeftOut>,
    /// What an image layer cannot hold: sockets, some names and attributes.
    pub left_out: Vec<LeftOut>,
}

/// Writes a stack into the image layout `to`, which is made, or gets one more
/// image; an image of the same name is replaced.
///
/// `own_base` says that the lowest layer is what the container held before the
/// stage; only that one is left out without `with_base`. A base that came with
/// an imported image always goes along, since the image is the user's.
///
/// The guard keeps secret files in; they are listed in the report. `wanted` is
/// asked up to the commit.
///
/// # Errors
/// One sentence with the path, or what `wanted` says; `to` is then as it was
/// before.
pub fn export(
    stack: &Stack,
    own_base: bool,
    mapped: &[PathBuf],
    to: &Path,
    options: ExportOptions,
    wanted: Wanted<'_>,
) -> Result<ExportReport> {
    let write = || {
        let guard = Guard::survey(stack, mapped, &options.allow_secret, wanted)?;
        let mut layout = LayoutWriter::begin(to, wanted)?;
        let first = usize::from(own_base && !options.with_base);
        let mut findings = Findings::default();
        let mut layers = Vec::new();
        let mut descriptors = Vec::new();
        for index in first..stack.layers().len() {
            let content = LayerContent::new(stack, index, first, mapped, &guard, &mut findings);
            let id = stack.layer(index).id().to_owned();
            let written = write_layer(&mut layout, content, &id, &options, wanted);
            if let Some((layer, descriptor)) = written.context(|| format!("layer {id}"))? {
                descriptors.push(descriptor);
                layers.push(layer);
            }
        }
        let included = first == 0;
        let mut annotations = annotations(stack, mapped, included)?;
        let tree_digest = tree_digest(&annotations, &layers);
        annotations.insert(TREE_DIGEST.to_owned(), tree_digest.clone());
        let manifest = write_manifest(&mut layout, annotations, &layers, descriptors)?;
        let report = ExportReport {
            name: options.name.clone(),
            manifest: manifest.digest().to_string(),
            tree_digest,
            base_included: included,
            size: layers.iter().map(|layer| layer.size).sum(),
            new_bytes: layers.iter().filter(|l| l.new).map(|l| l.size).sum(),
            layers,
            secrets: findings.secrets.into_iter().collect(),
            left_out: findings.left_out.into_iter().collect(),
        };
        layout.commit(&options.name, manifest)?;
        Ok(report)
    };
    write().map_err(|error: Error| error.context(format!("export to {}", to.display())))
}

/// Writes one layer's blob and describes it; `None` for a layer without members.
fn write_layer(
    layout: &mut LayoutWriter<'_>,
    content: LayerContent<'_>,
    id: &str,
    options: &ExportOptions,
    wanted: Wanted<'_>,
) -> Result<Option<(ExportedLayer, Descriptor)>> {
    let (file, path) = layout.new_blob()?;
    let gzip = options.compat == Some(Compat::Gzip);
    let threads = options.threads.map(NonZero::get);
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    let mut scratch = || layout.scratch();
    let written = chunked::write(file, gzip, threads, &mut scratch, wanted, |archive| {
        content.write(archive)
    })?;
    if written.members == 0 {
        std::fs::remove_file(&path).context(|| path.display().to_string())?;
        return Ok(None);
    }
    let new = layout.keep_blob(written.file, &path, &written.digest)?;
    let media_type = match gzip {
        true => MediaType::ImageLayerGzip,
        false => MediaType::ImageLayerZstd,
    };
    let mut descriptor = describe(media_type, written.size, &written.digest)?;
    let mut annotations: HashMap<_, _> = written.annotations.into_iter().collect();
    annotations.insert(TREE_DIGEST.to_owned(), written.tree_digest.clone());
    descriptor.set_annotations(Some(annotations));
    let layer = ExportedLayer {
        id: id.to_owned(),
        digest: format!("sha256:{}", written.digest),
        diff_id: format!("sha256:{}", written.diff_id),
        size: written.size,
        uncompressed: written.uncompressed,
        members: written.members,
        tree_digest: written.tree_digest,
        form: written.form,
        note: written.note,
        new,
    };
    Ok(Some((layer, descriptor)))
}

/// The digest of what an image holds: `docs/format.md`.
fn tree_digest(annotations: &HashMap<String, String>, layers: &[ExportedLayer]) -> String {
    let mut hash = Sha256::new_with_prefix(b"io.harness.fs image 1\n");
    for key in [BASE, MAPPED_PATHS, SINGLE_FILES] {
        let value = annotations.get(key).map_or("", String::as_str);
        hash.update(format!("{value}\n"));
    }
    for layer in layers {
        hash.update(format!("{}\n", layer.tree_digest));
    }
    format!("sha256:{}", hex(&hash.finalize()))
}

/// What an import has to know of the image.
fn annotations(
    stack: &Stack,
    mapped: &[PathBuf],
    included: bool,
) -> Result<HashMap<String, String>> {
    // As the layers: in which order they were given makes no other image.
    let mut paths = BTreeSet::new();
    let mut files = BTreeSet::new();
    for (index, path) in mapped.iter().enumerate() {
        let Some(text) = path.to_str() else {
            let text = format!("{path:?}: a mapped path has to be UTF-8 to be exported");
            return Err(Error::new(Errno::EILSEQ, text));
        };
        paths.insert(text);
        let found = stack.find(Path::new(&index.to_string()));
        let found = found.context(|| path.display().to_string())?;
        if found.is_some_and(|found| found.attr.kind == Kind::File) {
            files.insert(text);
        }
    }
    let base = if included { BASE_INCLUDED } else { BASE_NONE };
    let mut annotations = HashMap::from([
        (MAPPED_PATHS.to_owned(), serde_json::to_string(&paths)?),
        (BASE.to_owned(), base.to_owned()),
    ]);
    if !files.is_empty() {
        annotations.insert(SINGLE_FILES.to_owned(), serde_json::to_string(&files)?);
    }
    Ok(annotations)
}

fn write_manifest(
    layout: &mut LayoutWriter<'_>,
    annotations: HashMap<String, String>,
    layers: &[ExportedLayer],
    descriptors: Vec<Descriptor>,
) -> Result<Descriptor> {
    let bad = |error: oci_spec::OciSpecError| Error::new(Errno::EINVAL, error.to_string());
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let rootfs = RootFsBuilder::default().diff_ids(diff_ids).build();
    let config = ImageConfigurationBuilder::default()
        .os(Os::Linux)
        .rootfs(rootfs.map_err(bad)?)
        .build()
        .map_err(bad)?;
    let config = layout.json(MediaType::ImageConfig, &config)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(descriptors)
        .annotations(annotations)
        .build()
        .map_err(bad)?;
    layout.json(MediaType::ImageManifest, &manifest)
}
