//! Exporting: a stack as an OCI image in an image layout.
//!
//! One layer per sealed layer, the lowest first, as a tar in one zstd stream; a
//! lazily readable form would be another writer. Same tree, same digests: no
//! time and no name of a machine is in it.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::image::{
    Descriptor, ImageConfigurationBuilder, ImageManifestBuilder, MediaType, Os, RootFsBuilder,
};
use serde::Serialize;

use super::content::{Findings, LayerContent};
use super::guard::Guard;
use super::layout::{Hashing, describe};
use super::layout_writer::LayoutWriter;
use super::tar::TarWriter;
use super::wanting::{Wanted, Wanting};
use super::{BASE, BASE_INCLUDED, BASE_NONE, LeftOut, MAPPED_PATHS, SINGLE_FILES};
use crate::error::{Context, Error, Result};
use crate::layer::Stack;
use crate::tree::Kind;

/// The zstd level: the default of zstd(1), and fixed, since the digest hangs on it.
const LEVEL: i32 = 3;

/// What to export, and how.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The image's name in the layout: the snapshot's.
    pub name: String,
    /// With the stage's own base as the lowest layer.
    pub with_base: bool,
    /// Secret files to export all the same: see [`Guard::survey`].
    pub allow_secret: Vec<String>,
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        ExportOptions {
            name: "latest".to_owned(),
            with_base: true,
            allow_secret: Vec::new(),
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
            let written = write_layer(&mut layout, content, &id, wanted);
            if let Some(layer) = written.context(|| format!("layer {id}"))? {
                let digest = layer.digest.trim_start_matches("sha256:");
                descriptors.push(describe(MediaType::ImageLayerZstd, layer.size, digest)?);
                layers.push(layer);
            }
        }
        let included = first == 0;
        let annotations = annotations(stack, mapped, included)?;
        let manifest = write_manifest(&mut layout, annotations, &layers, descriptors)?;
        let report = ExportReport {
            name: options.name.clone(),
            manifest: manifest.digest().to_string(),
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

/// Writes one layer's blob; `None` for a layer without members. Both digests
/// are made on the way, nothing is held in memory.
fn write_layer(
    layout: &mut LayoutWriter<'_>,
    content: LayerContent<'_>,
    id: &str,
    wanted: Wanted<'_>,
) -> Result<Option<ExportedLayer>> {
    let (file, path) = layout.new_blob()?;
    let blob = Hashing::new(BufWriter::with_capacity(1 << 20, file));
    let zstd = zstd::Encoder::new(blob, LEVEL)?;
    let zstd = Wanting {
        inner: zstd,
        wanted,
    };
    let mut tar = TarWriter::new(Hashing::new(BufWriter::with_capacity(128 << 10, zstd)));
    content.write(&mut tar)?;
    let members = tar.members();
    let (zstd, diff_id, uncompressed) = tar.finish()?.finish();
    let zstd = zstd.into_inner().map_err(|error| error.into_error())?;
    let (mut blob, digest, size) = zstd.inner.finish()?.finish();
    blob.flush()?;
    let file = blob.into_inner().map_err(|error| error.into_error())?;
    if members == 0 {
        std::fs::remove_file(&path).context(|| path.display().to_string())?;
        return Ok(None);
    }
    let new = layout.keep_blob(file, &path, &digest)?;
    Ok(Some(ExportedLayer {
        id: id.to_owned(),
        digest: format!("sha256:{digest}"),
        diff_id: format!("sha256:{diff_id}"),
        size,
        uncompressed,
        members,
        new,
    }))
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
