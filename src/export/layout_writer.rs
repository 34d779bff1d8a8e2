//! Writing to an image layout. One export at a time holds the layout's lock; it
//! stages in the layout itself, and renames the index into place last.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag};
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::layout::{
    BLOBS, Hashing, INDEX, LAYOUT, canonical, describe, hex, new_index, open_file, read_blob,
    read_index, ref_name,
};
use super::target::settle;
use super::wanting::{Wanted, Wanting};
use crate::error::{Context, Error, Result};
use crate::sys::at;
use crate::sys::made::Made;

const LAYOUT_TEXT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// Inside a layout: what an export has written so far.
const STAGING: &str = ".harness-fs-export";
/// Inside a layout: the lock of the export that writes there.
const LOCK: &str = ".harness-fs-export.lock";

/// A file in the layout that is locked. NFS takes an exclusive flock(2) only on
/// what is open for writing, so it cannot be the directory itself.
struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Locks the layout at `root`; `None` if the directory is gone.
    fn take(root: &Path) -> Result<Option<Lock>> {
        let path = root.join(LOCK);
        let context = || path.display().to_string();
        loop {
            let flags = OFlag::O_RDWR | OFlag::O_CREAT;
            let file = match at::open(AT_FDCWD, &path, flags, 0o600) {
                Err(error) if error.errno() == Errno::ENOENT => return Ok(None),
                other => File::from(other.context(context)?),
            };
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::new(Errno::EBUSY, "another export is writing there"));
                }
                Err((_, errno)) => return Err(errno).context(context),
            };
            // The one before us may have removed the file that we have locked.
            let ours = file.metadata().context(context)?;
            let there = path.symlink_metadata();
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Some(Lock { path, _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// The index of the layout at `root`, an empty one if nothing is there yet.
fn index_of(root: &Path) -> Result<ImageIndex> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(root)? {
        names.insert(entry?.file_name());
    }
    // An export that was killed left these.
    for own in [STAGING, LOCK] {
        names.remove(OsStr::new(own));
    }
    if names.contains(OsStr::new(INDEX)) {
        read_index(root)
    } else if names.iter().all(|name| name == "blobs" || name == LAYOUT) {
        new_index()
    } else {
        let what = "it is neither empty nor an OCI image layout; nothing was written";
        Err(Error::new(Errno::ENOTEMPTY, what))
    }
}

/// Sees that an export could write a layout there, as far as that can be told now.
///
/// # Errors
/// `ENOTEMPTY` for a directory of something else, `ENOTDIR` for what is none, or lies below such,
/// `EINVAL` for a path that could become anything, or what reading an index fails with.
pub fn check_layout(root: &Path) -> Result<()> {
    let root = settle(root)?;
    let there = root.ancestors().find(|above| above.exists());
    match there {
        Some(there) if there == root => index_of(&root).map(drop),
        Some(there) if !there.is_dir() => Err(Errno::ENOTDIR.into()),
        _ => Ok(()),
    }
}

/// A layout being written, or added to. Dropping it takes back what was not
/// committed.
pub struct LayoutWriter<'a> {
    root: PathBuf,
    index: ImageIndex,
    /// Mode of the files: content of files that only root may read is in them.
    mode: u32,
    /// Blobs in the staging directory.
    staged: BTreeSet<String>,
    /// Blobs of the layout whose content was checked.
    checked: BTreeSet<String>,
    /// Blobs in place that no index names yet.
    moved: Vec<PathBuf>,
    serial: u32,
    wanted: Wanted<'a>,
    // In this order: the lock lies in what was made.
    _lock: Lock,
    made: Made,
}

impl<'a> LayoutWriter<'a> {
    /// Begins writing to `root`: a new directory, an empty one, or a layout.
    ///
    /// What it makes is for its owner only. In a layout that is there, new files
    /// get the mode of its index: somebody may have decided to share it.
    ///
    /// `wanted` is asked while what is there is read, and before the commit.
    ///
    /// # Errors
    /// `ENOTEMPTY` for a directory of something else, `EBUSY` while another
    /// export writes there, or as mkdir(2).
    pub fn begin(root: &Path, wanted: Wanted<'a>) -> Result<LayoutWriter<'a>> {
        let root = std::path::absolute(root)?;
        loop {
            let mut made = Made::default();
            if !made.dir(&root, 0o700, 0o755)? {
                // Before anything is written to somebody else's directory.
                match index_of(&root) {
                    // An export that failed took back what it had made.
                    Err(_) if !root.is_dir() => continue,
                    other => other?,
                };
            }
            let Some(lock) = Lock::take(&root)? else {
                continue;
            };
            let mut writer = LayoutWriter {
                // Only what is read under the lock counts.
                index: index_of(&root)?,
                mode: match at::stat_if_there(AT_FDCWD, &root.join(INDEX))? {
                    Some(index) => 0o600 | index.attr.perm & 0o666,
                    None => 0o600,
                },
                root,
                staged: BTreeSet::new(),
                checked: BTreeSet::new(),
                moved: Vec::new(),
                serial: 0,
                wanted,
                _lock: lock,
                made,
            };
            writer.stage()?;
            return Ok(writer);
        }
    }

    fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    /// Makes the staging directory. Nobody else lives in one that is there: we
    /// hold the lock.
    fn stage(&mut self) -> Result<()> {
        let staging = self.staging();
        at::remove_all(AT_FDCWD, &staging)
            .and_then(|()| at::mkdir(AT_FDCWD, &staging, 0o700))
            .context(|| staging.display().to_string())
    }

    fn create(&self, path: &Path) -> Result<File> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(self.mode)
            .open(path);
        file.context(|| path.display().to_string())
    }

    /// A new file for a blob whose digest is not known yet.
    ///
    /// # Errors
    /// As open(2).
    pub fn new_blob(&mut self) -> Result<(File, PathBuf)> {
        self.serial += 1;
        let path = self.staging().join(format!("blob-{}", self.serial));
        Ok((self.create(&path)?, path))
    }

    /// An empty file on the layout's disk that goes when it is closed.
    ///
    /// # Errors
    /// As open(2).
    pub fn scratch(&mut self) -> Result<File> {
        self.serial += 1;
        let path = self.staging().join(format!("scratch-{}", self.serial));
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).context(|| path.display().to_string())?;
        std::fs::remove_file(&path).context(|| path.display().to_string())?;
        Ok(file)
    }

    /// Whether the layout has a blob, undamaged: a disk that filled up or lost
    /// its power leaves files of the right size.
    fn has(&mut self, digest: &str, size: u64) -> Result<bool> {
        if self.checked.contains(digest) {
            return Ok(true);
        }
        let Ok((file, there)) = open_file(&self.root, &Path::new(BLOBS).join(digest)) else {
            return Ok(false);
        };
        let mut hashing = Hashing::new(Wanting {
            inner: file,
            wanted: self.wanted,
        });
        let whole = there == size
            && std::io::copy(&mut hashing, &mut std::io::sink()).is_ok()
            && hashing.finish().1 == digest;
        (self.wanted)()?;
        if whole {
            self.checked.insert(digest.to_owned());
        } else {
            log::warn!(
                "{}: blob {digest} was damaged and is replaced",
                self.root.display()
            );
        }
        Ok(whole)
    }

    /// Keeps a finished blob under its digest; false if the layout has it.
    ///
    /// # Errors
    /// As fsync(2) and rename(2).
    pub fn keep_blob(&mut self, file: File, path: &Path, digest: &str) -> Result<bool> {
        let context = || path.display().to_string();
        let size = file.metadata().context(context)?.len();
        if self.staged.contains(digest) || self.has(digest, size)? {
            std::fs::remove_file(path).context(context)?;
            return Ok(false);
        }
        file.sync_all().context(context)?;
        std::fs::rename(path, self.staging().join(digest)).context(context)?;
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
    pub fn commit(mut self, name: &str, mut manifest: Descriptor) -> Result<()> {
        (self.wanted)()?;
        let annotation = HashMap::from([(ANNOTATION_REF_NAME.to_owned(), name.to_owned())]);
        manifest.set_annotations(Some(annotation));
        let mut all = self.index.manifests().clone();
        let old = all.iter().position(|entry| ref_name(entry) == Some(name));
        let replaced = match old {
            Some(old) => Some(std::mem::replace(&mut all[old], manifest)),
            None => {
                all.push(manifest);
                None
            }
        };
        self.index.set_manifests(all);
        let layout = self.staged_file(LAYOUT, LAYOUT_TEXT)?;
        let index = self.staged_file(INDEX, &canonical(&self.index)?)?;
        let blobs = self.root.join(BLOBS);
        let dir_mode = 0o700 | self.mode | (self.mode & 0o444) >> 2;
        self.made.dir(&blobs, dir_mode, dir_mode)?;
        let to =
            |from: &Path, to: &Path| std::fs::rename(from, to).context(|| to.display().to_string());
        for digest in self.staged.clone() {
            let target = blobs.join(&digest);
            if !target.exists() {
                self.moved.push(target.clone());
            }
            to(&self.staging().join(&digest), &target)?;
        }
        sync(&blobs)?;
        to(&layout, &self.root.join(LAYOUT))?;
        to(&index, &self.root.join(INDEX))?;
        self.moved.clear();
        std::mem::take(&mut self.made).keep();
        sync(&self.root)?;
        sync(self.root.parent().unwrap_or(Path::new("/")))?;
        if let Some(replaced) = replaced {
            sweep(&self.root, &replaced, &self.index);
        }
        Ok(())
    }

    fn staged_file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.staging().join(name);
        let mut file = self.create(&path)?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for LayoutWriter<'_> {
    fn drop(&mut self) {
        let staging = self.staging();
        for path in self.moved.iter().chain([&staging]) {
            if let Err(error) = at::remove_all(AT_FDCWD, path) {
                log::warn!("{}: {error}", path.display());
            }
        }
    }
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
