//! An OCI image layout on disk (image-spec, `image-layout.md`): blobs by
//! digest, and an index of named manifests.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, MediaType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::sys::at;
use crate::tree::Kind;

/// Where blobs lie.
pub const BLOBS: &str = "blobs/sha256";
/// The names of the images; what a layout holds is decided by it alone.
pub const INDEX: &str = "index.json";
/// Makes a directory a layout.
pub const LAYOUT: &str = "oci-layout";
/// The largest index, manifest or configuration that is read.
const MAX_JSON: u64 = 64 << 20;

/// Hashes and counts what passes through.
pub struct Hashing<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    /// Around a reader or a writer.
    pub fn new(inner: T) -> Hashing<T> {
        Hashing {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// What it was made around, the digest in hexadecimal, and the count.
    pub fn finish(self) -> (T, String, u64) {
        (self.inner, hex(&self.hash.finalize()), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.bytes += got as u64;
        Ok(got)
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, what.into())
}

/// The name of an index entry.
pub fn ref_name(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations.get(ANNOTATION_REF_NAME).map(String::as_str)
}

/// Opens a regular file of a layout and tells its size. Neither a pipe nor a
/// link to elsewhere passes: a layout may come from anybody.
///
/// # Errors
/// As open(2), or `EINVAL` for what is no regular file.
pub fn open_file(root: &Path, name: &Path) -> Result<(File, u64)> {
    let open = || {
        let fd = at::open(
            AT_FDCWD,
            &root.join(name),
            OFlag::O_RDONLY | OFlag::O_NONBLOCK,
            0,
        )?;
        let attr = at::fstat(&fd)?.attr;
        if attr.kind != Kind::File {
            return Err(bad("it is not a regular file"));
        }
        Ok((File::from(fd), attr.size))
    };
    open().map_err(|error: Error| error.context(name.display().to_string()))
}

fn read_json<T: DeserializeOwned>(root: &Path, name: &Path) -> Result<T> {
    let (file, size) = open_file(root, name)?;
    let path = || name.display().to_string();
    if size > MAX_JSON {
        return Err(bad(format!("{}: too large to be one", path())));
    }
    let mut bytes = Vec::new();
    file.take(MAX_JSON).read_to_end(&mut bytes).context(path)?;
    serde_json::from_slice(&bytes).context(path)
}

/// The index of the layout at `root`.
///
/// # Errors
/// `EINVAL` for what is no layout, or of a version that is not known.
pub fn read_index(root: &Path) -> Result<ImageIndex> {
    let layout: HashMap<String, serde_json::Value> =
        read_json(root, Path::new(LAYOUT)).map_err(|error| error.context("no OCI image layout"))?;
    match layout.get("imageLayoutVersion").and_then(|v| v.as_str()) {
        Some("1.0.0") => read_json(root, Path::new(INDEX)),
        _ => Err(bad("an image layout of a version that is not known")),
    }
}

/// Opens the blob that a descriptor names and checks its size.
///
/// # Errors
/// `EINVAL` for a digest that is no sha256 or a wrong size, or as open(2).
pub fn open_blob(root: &Path, descriptor: &Descriptor) -> Result<(File, String)> {
    let digest = descriptor
        .as_digest_sha256()
        .ok_or_else(|| bad(format!("{}: not a sha256 digest", descriptor.digest())))?;
    let (file, size) = open_file(root, &Path::new(BLOBS).join(digest))?;
    if size != descriptor.size() {
        return Err(bad(format!(
            "blob {digest} has {size} bytes, its descriptor says {}",
            descriptor.size()
        )));
    }
    Ok((file, digest.to_owned()))
}

/// Reads a small blob and checks its digest before anything is made of it.
///
/// # Errors
/// `EINVAL` if the blob is not what the descriptor says, or as read(2).
pub fn read_blob<T: DeserializeOwned>(root: &Path, descriptor: &Descriptor) -> Result<T> {
    let (file, digest) = open_blob(root, descriptor)?;
    if descriptor.size() > MAX_JSON {
        return Err(bad(format!("blob {digest} is too large for its type")));
    }
    let mut bytes = Vec::new();
    let context = || format!("blob {digest}");
    file.take(MAX_JSON)
        .read_to_end(&mut bytes)
        .context(context)?;
    if hex(&Sha256::digest(&bytes)) != digest {
        return Err(bad(format!("blob {digest} does not match its digest")));
    }
    serde_json::from_slice(&bytes).context(context)
}

/// JSON with sorted keys: oci-spec keeps annotations in hash maps, and the same
/// image has to have the same digest.
///
/// # Errors
/// As serde_json.
pub fn canonical(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

/// Describes a blob.
///
/// # Errors
/// `EINVAL` if the digest is none.
pub fn describe(media_type: MediaType, size: u64, digest: &str) -> Result<Descriptor> {
    let digest: oci_spec::image::Digest = format!("sha256:{digest}")
        .parse()
        .map_err(|error| bad(format!("{digest}: {error}")))?;
    Ok(Descriptor::new(media_type, size, digest))
}

/// An index of nothing.
///
/// # Errors
/// As the builder of oci-spec.
pub fn new_index() -> Result<ImageIndex> {
    ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(Vec::new())
        .build()
        .map_err(|error| bad(error.to_string()))
}
