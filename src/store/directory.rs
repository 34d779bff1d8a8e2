//! A store in a directory. It is an OCI image layout as well: `index.json` names
//! the image of each ref `SCOPE/KEY`, so that `skopeo copy oci:DIR:SCOPE/KEY …` finds it.
//!
//! Everything is written beside its place, synced, and renamed (rename(2) is
//! atomic), so that neither a kill nor a power cut leaves half of anything. Who
//! writes refs holds flock(2) on `.lock`, which NFS passes on to its server.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::digest::{Check, Digest, Outgoing};
use super::failure::{Failure, Kind, Result};
use super::names::{self, Found};
use super::reference::{self, Condition, LARGEST_REF, Listed, Ref, RefName, Target, Version};
use super::{Backend, Listing, Put, Source};

mod index;

const LAYOUT: &str = "oci-layout";
const LAYOUT_TEXT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
const BLOBS: &str = "blobs/sha256";
const REFS: &str = "refs";
const LOCK: &str = ".lock";
/// What is being written.
const WORK: &str = ".tmp";
/// After this nobody is writing a file any more.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// A ref is written in milliseconds; who waits longer waits for something that hangs.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const PIECE: usize = 1 << 20;

pub(super) struct Directory {
    root: PathBuf,
    /// The mode of new files, once it was seen that the directory is a store.
    ready: OnceLock<u32>,
    serial: AtomicU32,
}

/// A file that is gone if it was not put into its place.
struct Draft {
    file: File,
    path: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is none.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn disk<T>(result: std::io::Result<T>, path: &Path) -> Result<T> {
    result.map_err(|error| Failure::disk(error).context(path.display()))
}

/// None where there is nothing.
fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if failure.kind() == Kind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Opens a regular file, and nothing that a link or a pipe leads to.
fn open(path: &Path) -> Result<(File, std::fs::Metadata)> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    let file = disk(file, path)?;
    let metadata = disk(file.metadata(), path)?;
    if !metadata.is_file() {
        let text = format!("{} is not a regular file", path.display());
        return Err(Failure::new(Kind::Invalid, text));
    }
    Ok((file, metadata))
}

fn entries(dir: &Path) -> Result<Vec<std::fs::DirEntry>> {
    let list = std::fs::read_dir(dir).and_then(Iterator::collect);
    Ok(if_there(disk(list, dir))?.unwrap_or_default())
}

fn sync_dir(dir: &Path) -> Result<()> {
    disk(File::open(dir).and_then(|dir| dir.sync_all()), dir)
}

fn remove(path: &Path) -> Result<()> {
    if_there(disk(std::fs::remove_file(path), path)).map(drop)
}

fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => disk(other, dir),
    }
}

impl Directory {
    pub fn new(root: PathBuf) -> Directory {
        Directory {
            root,
            ready: OnceLock::new(),
            serial: AtomicU32::new(0),
        }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join(BLOBS).join(digest.hex())
    }

    fn reference(&self, name: &RefName) -> PathBuf {
        let [scope, key] = name.path();
        self.root.join(REFS).join(scope).join(key)
    }

    /// Directories have the mode of files, and can be searched by those who may read them.
    fn dir_mode(mode: u32) -> u32 {
        mode | (mode & 0o444) >> 2
    }

    /// Sees that the directory is a store, or makes it one. Returns the mode of new files: what only root may read is in
    /// them, so they are for their owner only, unless somebody has shared the store by giving `oci-layout` another mode.
    fn prepare(&self) -> Result<u32> {
        if let Some(mode) = self.ready.get() {
            return Ok(*mode);
        }
        let layout = self.root.join(LAYOUT);
        let mode = match if_there(open(&layout))? {
            Some((mut file, metadata)) => {
                let mut text = Vec::new();
                let read = (&mut file).take(4096).read_to_end(&mut text);
                disk(read, &layout)?;
                let version: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
                if version.is_none_or(|layout| layout["imageLayoutVersion"] != "1.0.0") {
                    let text = format!("{} is of no version that is known", layout.display());
                    return Err(Failure::new(Kind::Invalid, text));
                }
                0o600 | metadata.permissions().mode() & 0o666
            }
            None => {
                self.make_store()?;
                0o600
            }
        };
        for dir in ["blobs", BLOBS, REFS, WORK] {
            make_dir(&self.root.join(dir), Self::dir_mode(mode))?;
        }
        self.sweep();
        Ok(*self.ready.get_or_init(|| mode))
    }

    fn make_store(&self) -> Result<()> {
        if let Some(parent) = self.root.parent() {
            disk(std::fs::create_dir_all(parent), parent)?;
        }
        make_dir(&self.root, 0o700)?;
        for entry in entries(&self.root)? {
            // Another process may be making it as well.
            let name = entry.file_name();
            if !["blobs", REFS, WORK, LOCK, LAYOUT]
                .iter()
                .any(|own| name == *own)
            {
                let text = format!(
                    "{} is neither empty nor a store; nothing was written",
                    self.root.display()
                );
                return Err(Failure::new(Kind::Invalid, text));
            }
        }
        make_dir(&self.root.join(WORK), 0o700)?;
        let mut draft = self.draft(0o600)?;
        disk(draft.file.write_all(LAYOUT_TEXT), &draft.path)?;
        self.place(draft, &self.root.join(LAYOUT))
    }

    /// Removes what was left by those who were killed.
    fn sweep(&self) {
        let Ok(drafts) = entries(&self.root.join(WORK)) else {
            return;
        };
        for draft in drafts {
            let age = draft.metadata().and_then(|metadata| metadata.modified());
            let age = age.ok().and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age > STALE)
                && let Err(error) = std::fs::remove_file(draft.path())
            {
                log::warn!("{}: {error}", draft.path().display());
            }
        }
    }

    fn draft(&self, mode: u32) -> Result<Draft> {
        loop {
            let serial = self.serial.fetch_add(1, Ordering::Relaxed);
            // Process ids repeat among containers that share a store.
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.map_or(0, |now| now.as_nanos());
            let name = format!("{}-{now:x}-{serial}", std::process::id());
            let path = self.root.join(WORK).join(name);
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path);
            match file {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // It was there a moment ago: no miss, but a store that somebody takes away.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let text = format!("{} was removed meanwhile", self.root.display());
                    return Err(Failure::new(Kind::Unreachable, text));
                }
                Err(error) => return disk(Err(error), &path),
                Ok(file) => {
                    let draft = Draft { file, path };
                    // Exact, whatever the umask.
                    let permissions = std::fs::Permissions::from_mode(mode);
                    disk(draft.file.set_permissions(permissions), &draft.path)?;
                    return Ok(draft);
                }
            }
        }
    }

    /// Puts a draft where it belongs, for good.
    fn place(&self, draft: Draft, path: &Path) -> Result<()> {
        disk(draft.file.sync_all(), path)?;
        disk(std::fs::rename(&draft.path, path), path)?;
        path.parent().map_or(Ok(()), sync_dir)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut draft = self.draft(self.prepare()?)?;
        disk(draft.file.write_all(bytes), path)?;
        self.place(draft, path)
    }

    /// Takes the lock of those who write refs.
    fn lock(&self) -> Result<Flock<File>> {
        let mode = self.prepare()?;
        let path = self.root.join(LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path);
        let mut file = disk(file, &path)?;
        let begun = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((unlocked, Errno::EWOULDBLOCK)) if begun.elapsed() < LONGEST_WAIT => {
                    file = unlocked;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    let text = format!("{} is held by another process", path.display());
                    return Err(Failure::new(Kind::Unreachable, text));
                }
                Err((_, errno)) => return Err(Failure::disk(errno).context(path.display())),
            }
        }
    }

    fn read_small(&self, path: &Path) -> Result<Vec<u8>> {
        let (file, _) = open(path)?;
        let mut bytes = Vec::new();
        disk(file.take(LARGEST_REF + 1).read_to_end(&mut bytes), path)?;
        if bytes.len() as u64 > LARGEST_REF {
            return Err(Failure::new(Kind::Corrupt, "it is too large for a ref"));
        }
        Ok(bytes)
    }
}

/// Of a content: two with the same are the same.
fn version_of(bytes: &[u8]) -> Version {
    Version(Digest::of(bytes).to_string())
}

impl Backend for Directory {
    fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(if_there(open(&self.blob(digest)))?.map(|(_, metadata)| metadata.len()))
    }

    fn put_blob(&self, digest: &Digest, size: u64, source: &mut dyn Source) -> Result<Put> {
        let mode = self.prepare()?;
        let path = self.blob(digest);
        if let Some((file, metadata)) = if_there(open(&path))?
            && metadata.len() == size
        {
            // Whoever prunes leaves it alone for a while: a ref is about to name it.
            if let Err(error) = file.set_modified(SystemTime::now()) {
                log::debug!("{}: {error}", path.display());
            }
            return Ok(Put::There);
        }
        source.rewind().map_err(Failure::local)?;
        let mut outgoing = Outgoing::new(source, digest, size);
        let mut draft = self.draft(mode)?;
        while let Some(piece) = outgoing.piece(PIECE)? {
            disk(draft.file.write_all(&piece), &path)?;
        }
        self.place(draft, &path)?;
        Ok(Put::Sent)
    }

    fn get_blob(&self, digest: &Digest, size: u64, sink: &mut dyn Write) -> Result<()> {
        let path = self.blob(digest);
        let (mut file, _) = open(&path)?;
        let mut check = Check::new(digest, size);
        let mut buffer = vec![0; PIECE];
        loop {
            let got = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return disk(Err(error), &path),
            };
            if !check.take(&buffer[..got]) {
                break;
            }
            sink.write_all(&buffer[..got]).map_err(Failure::local)?;
        }
        match check.wrong() {
            None => Ok(()),
            Some(wrong) => Err(Failure::new(Kind::Corrupt, wrong)),
        }
    }

    fn read_range(&self, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let (file, metadata) = open(&path)?;
        if metadata.len() < range.end {
            let text = format!("it has only {} bytes", metadata.len());
            return Err(Failure::new(Kind::Corrupt, text));
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        disk(file.read_exact_at(&mut bytes, range.start), &path)?;
        Ok(bytes)
    }

    fn list_blobs(&self) -> Result<Vec<Listing>> {
        let mut blobs = Vec::new();
        for entry in entries(&self.root.join(BLOBS))? {
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(Digest::from_hex) else {
                continue;
            };
            let metadata = if_there(disk(entry.metadata(), &entry.path()))?;
            if let Some(metadata) = metadata.filter(std::fs::Metadata::is_file) {
                blobs.push(Listing {
                    digest,
                    size: metadata.len(),
                    modified: disk(metadata.modified(), &entry.path())?,
                });
            }
        }
        Ok(blobs)
    }

    fn delete_blob(&self, digest: &Digest) -> Result<()> {
        remove(&self.blob(digest))
    }

    fn read_ref(&self, name: &RefName) -> Result<Ref> {
        let bytes = self.read_small(&self.reference(name))?;
        reference::read_named(&bytes, version_of(&bytes), name)
    }

    fn put_ref(&self, name: &RefName, target: &Target, condition: &Condition) -> Result<Version> {
        let mode = self.prepare()?;
        let _lock = self.lock()?;
        let path = self.reference(name);
        let there = if_there(self.read_small(&path))?.map(|bytes| version_of(&bytes));
        match (condition, &there) {
            (Condition::Always, _) | (Condition::Create, None) => {}
            (Condition::Replace(expected), Some(there)) if expected == there => {}
            (_, Some(_)) => {
                return Err(Failure::new(Kind::Conflict, "somebody else has written it"));
            }
            (_, None) => return Err(Failure::new(Kind::Conflict, "somebody else has deleted it")),
        }
        if let Some(scope) = path.parent() {
            make_dir(scope, Self::dir_mode(mode))?;
        }
        self.name_image(name, Some(target))?;
        let bytes = reference::write(name, target, SystemTime::now());
        self.write(&path, &bytes)?;
        Ok(version_of(&bytes))
    }

    fn list_refs(&self, scope: Option<&str>, prefix: &str) -> Result<Vec<Listed>> {
        let root = self.root.join(REFS);
        let scopes = match scope {
            Some(scope) => vec![root.join(names::file_name(scope))],
            None => entries(&root)?.iter().map(|entry| entry.path()).collect(),
        };
        let begin = names::file_prefix(prefix);
        let mut refs = Vec::new();
        for dir in scopes {
            let known = match dir
                .file_name()
                .and_then(|name| name.to_str())
                .map(names::of_file)
            {
                Some(Found::Whole(scope)) => Some(scope),
                Some(Found::Cut) => None,
                _ => continue,
            };
            for entry in entries(&dir)? {
                let file_name = entry.file_name();
                let Some(file_name) = file_name.to_str().filter(|name| name.starts_with(&begin))
                else {
                    continue;
                };
                let name = match (names::of_file(file_name), &known) {
                    (Found::Foreign, _) => continue,
                    (Found::Whole(key), Some(scope)) => RefName::new(scope, key)?,
                    _ => match if_there(self.read_small(&entry.path()))? {
                        Some(bytes) => match reference::read(&bytes, Version(String::new())) {
                            Ok((name, _)) => name,
                            Err(failure) => {
                                log::warn!("{}: {failure}", entry.path().display());
                                continue;
                            }
                        },
                        None => continue,
                    },
                };
                let metadata = if_there(disk(entry.metadata(), &entry.path()))?;
                if let Some(metadata) = metadata.filter(|_| name.matches(scope, prefix)) {
                    refs.push(Listed {
                        name,
                        modified: disk(metadata.modified(), &entry.path())?,
                    });
                }
            }
        }
        Ok(refs)
    }

    fn delete_ref(&self, name: &RefName) -> Result<()> {
        let path = self.reference(name);
        if if_there(open(&path))?.is_none() {
            return Ok(());
        }
        let _lock = self.lock()?;
        remove(&path)?;
        self.name_image(name, None)
    }
}
