//! An OCI image layout on disk (image-spec, `image-layout.md`): blobs by
//! digest, and an index of named manifests that is renamed into place last.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, RenameFlags};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, ImageManifest, MediaType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::sys::at;
use crate::tree::Kind;

/// Where blobs lie.
pub const BLOBS: &str = "blobs/sha256";
const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";
const LAYOUT_TEXT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// Inside a layout: what an export has written so far.
const STAGING: &str = ".harness-fs-export";
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

fn hex(bytes: &[u8]) -> String {
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

/// Opens a regular file of a layout. Neither a pipe nor a link to elsewhere
/// passes: a layout may come from anybody.
fn open_file(root: &Path, name: &Path) -> Result<(File, u64)> {
    let path = root.join(name);
    let open = || {
        let fd = at::open(AT_FDCWD, &path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?;
        let attr = at::fstat(&fd)?.attr;
        if attr.kind != Kind::File {
            return Err(bad("it is not a regular file"));
        }
        Ok((File::from(fd), attr.size))
    };
    open().map_err(|error: Error| error.context(path.display().to_string()))
}

fn read_json<T: DeserializeOwned>(root: &Path, name: &Path) -> Result<T> {
    let (file, size) = open_file(root, name)?;
    let path = || root.join(name).display().to_string();
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
    let layout: HashMap<String, serde_json::Value> = read_json(root, Path::new(LAYOUT))
        .map_err(|error| error.context(format!("{} is no OCI image layout", root.display())))?;
    match layout.get("imageLayoutVersion").and_then(|v| v.as_str()) {
        Some("1.0.0") => read_json(root, Path::new(INDEX)),
        _ => Err(bad(format!(
            "{}: an image layout of a version that is not known",
            root.display()
        ))),
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

/// A layout being written, or added to. Dropping it takes back what was not
/// committed.
pub struct LayoutWriter {
    root: PathBuf,
    staging: PathBuf,
    /// The layout that is there, locked against other exports.
    existing: Option<(ImageIndex, Flock<File>)>,
    staged: BTreeSet<String>,
    serial: u32,
}

impl LayoutWriter {
    /// Begins writing to `root`: a new directory, an empty one, or a layout.
    ///
    /// # Errors
    /// `ENOTEMPTY` for a directory of something else, `EBUSY` while another
    /// export writes there, or as mkdir(2).
    pub fn begin(root: &Path) -> Result<LayoutWriter> {
        let context = || root.display().to_string();
        let root = std::path::absolute(root).context(context)?;
        let (staging, existing) = match std::fs::read_dir(&root) {
            Ok(entries) => {
                let mut names = BTreeSet::new();
                for entry in entries {
                    names.insert(entry.context(context)?.file_name());
                }
                // An export that died left its staging directory.
                names.remove(std::ffi::OsStr::new(STAGING));
                let index = if names.contains(std::ffi::OsStr::new(INDEX)) {
                    read_index(&root)?
                } else if names.iter().all(|name| name == "blobs" || name == LAYOUT) {
                    new_index()?
                } else {
                    let what = "is neither empty nor an OCI image layout; nothing was written";
                    let text = format!("{} {what}", root.display());
                    return Err(Error::new(Errno::ENOTEMPTY, text));
                };
                let dir = File::open(&root).context(context)?;
                let lock = Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|_| {
                    let text = format!("{}: another export is writing there", root.display());
                    Error::new(Errno::EBUSY, text)
                })?;
                (root.join(STAGING), Some((index, lock)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let parent = root.parent().unwrap_or(Path::new("/"));
                std::fs::create_dir_all(parent).context(|| parent.display().to_string())?;
                let name = root.file_name().unwrap_or_default().to_string_lossy();
                let name = format!(".{name}{STAGING}-{}", std::process::id());
                (parent.join(name), None)
            }
            Err(error) => return Err(error).context(context),
        };
        at::remove_all(AT_FDCWD, &staging).context(|| staging.display().to_string())?;
        let writer = LayoutWriter {
            root,
            staging,
            existing,
            staged: BTreeSet::new(),
            serial: 0,
        };
        let blobs = writer.staging.join(BLOBS);
        std::fs::create_dir_all(&blobs).context(|| blobs.display().to_string())?;
        Ok(writer)
    }

    /// A new file for a blob whose digest is not known yet.
    ///
    /// # Errors
    /// As open(2).
    pub fn new_blob(&mut self) -> Result<(File, PathBuf)> {
        self.serial += 1;
        let path = self.staging.join(format!("blob-{}", self.serial));
        let file = File::create_new(&path).context(|| path.display().to_string())?;
        Ok((file, path))
    }

    /// Keeps a finished blob under its digest; false if the layout has it.
    ///
    /// # Errors
    /// As fsync(2) and rename(2).
    pub fn keep_blob(&mut self, file: File, path: &Path, digest: &str) -> Result<bool> {
        let context = || path.display().to_string();
        let size = file.metadata().context(context)?.len();
        let there = open_file(&self.root.join(BLOBS), Path::new(digest));
        if self.existing.is_some() && there.is_ok_and(|(_, there)| there == size) {
            std::fs::remove_file(path).context(context)?;
            return Ok(false);
        }
        file.sync_all().context(context)?;
        let target = self.staging.join(BLOBS).join(digest);
        std::fs::rename(path, target).context(context)?;
        Ok(self.staged.insert(digest.to_owned()))
    }

    /// Adds a small blob and describes it.
    ///
    /// # Errors
    /// As write(2).
    pub fn json(&mut self, media_type: MediaType, value: &impl Serialize) -> Result<Descriptor> {
        let bytes = canonical(value)?;
        let digest = hex(&Sha256::digest(&bytes));
        let (mut file, path) = self.new_blob()?;
        file.write_all(&bytes)
            .context(|| path.display().to_string())?;
        self.keep_blob(file, &path, &digest)?;
        describe(media_type, bytes.len() as u64, &digest)
    }

    /// Puts all blobs in place and then, in one rename, the index that names
    /// the manifest; the layout's other names stay.
    ///
    /// # Errors
    /// As rename(2) and fsync(2); then the layout shows what it showed.
    pub fn commit(mut self, name: &str, manifest: Descriptor) -> Result<()> {
        let mut manifest = manifest;
        let annotation = HashMap::from([(ANNOTATION_REF_NAME.to_owned(), name.to_owned())]);
        manifest.set_annotations(Some(annotation));
        let mut index = match &self.existing {
            Some((index, _)) => index.clone(),
            None => new_index()?,
        };
        let mut all = index.manifests().clone();
        let old = all.iter().position(|entry| ref_name(entry) == Some(name));
        let replaced = match old {
            Some(old) => Some(std::mem::replace(&mut all[old], manifest)),
            None => {
                all.push(manifest);
                None
            }
        };
        index.set_manifests(all);
        let staged = |file: &str, bytes: &[u8]| -> Result<PathBuf> {
            let path = self.staging.join(file);
            let write = || {
                let mut file = File::create(&path)?;
                file.write_all(bytes)?;
                file.sync_all()
            };
            write().context(|| path.display().to_string())?;
            Ok(path)
        };
        let index_file = staged(INDEX, &canonical(&index)?)?;
        let layout_file = staged(LAYOUT, LAYOUT_TEXT)?;
        let root = self.root.clone();
        if self.existing.is_none() {
            sync(&self.staging.join(BLOBS))?;
            sync(&self.staging)?;
            let flags = RenameFlags::RENAME_NOREPLACE;
            at::rename(AT_FDCWD, &self.staging, AT_FDCWD, &root, flags)
                .context(|| root.display().to_string())?;
            self.staging = PathBuf::new();
            return sync(root.parent().unwrap_or(Path::new("/")));
        }
        let blobs = root.join(BLOBS);
        std::fs::create_dir_all(&blobs).context(|| blobs.display().to_string())?;
        let to = |from: &Path, to: PathBuf| {
            std::fs::rename(from, &to).context(|| to.display().to_string())
        };
        for digest in &self.staged {
            to(&self.staging.join(BLOBS).join(digest), blobs.join(digest))?;
        }
        sync(&blobs)?;
        to(&layout_file, root.join(LAYOUT))?;
        to(&index_file, root.join(INDEX))?;
        sync(&root)?;
        if let Some(replaced) = replaced {
            sweep(&root, &replaced, &index);
        }
        Ok(())
    }
}

impl Drop for LayoutWriter {
    fn drop(&mut self) {
        if !self.staging.as_os_str().is_empty()
            && let Err(error) = at::remove_all(AT_FDCWD, &self.staging)
        {
            log::warn!("{}: {error}", self.staging.display());
        }
    }
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

fn new_index() -> Result<ImageIndex> {
    ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(Vec::new())
        .build()
        .map_err(|error| bad(error.to_string()))
}

fn sync(dir: &Path) -> Result<()> {
    let sync = || File::open(dir)?.sync_all();
    sync().context(|| dir.display().to_string())
}

/// The digests that a manifest keeps alive; `None` if that cannot be told.
fn digests(root: &Path, manifest: &Descriptor) -> Option<BTreeSet<String>> {
    if *manifest.media_type() != MediaType::ImageManifest {
        return None;
    }
    let content: ImageManifest = read_blob(root, manifest).ok()?;
    let mut all = BTreeSet::new();
    for descriptor in content.layers().iter().chain([content.config(), manifest]) {
        all.insert(descriptor.as_digest_sha256()?.to_owned());
    }
    Some(all)
}

/// Removes the blobs that only a replaced manifest needed. A failure leaves
/// some behind, which does no harm.
fn sweep(root: &Path, replaced: &Descriptor, index: &ImageIndex) {
    let Some(mut dead) = digests(root, replaced) else {
        return;
    };
    for manifest in index.manifests() {
        let Some(alive) = digests(root, manifest) else {
            return;
        };
        dead.retain(|digest| !alive.contains(digest));
    }
    for digest in dead {
        let path = root.join(BLOBS).join(digest);
        if let Err(error) = std::fs::remove_file(&path) {
            log::debug!("{}: {error}", path.display());
        }
    }
}
