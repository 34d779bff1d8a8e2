//! Reading single files of a blob, wherever it lies.
//!
//! Nobody vouches for a blob: its TOC is believed only because its digest is one
//! that the caller trusts, and content only because its digest is in that TOC.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use sha2::{Digest, Sha256};
use zstd::bulk::Decompressor;
use zstd::zstd_safe::compress_bound;

use super::super::layout::hex;
use super::MAX_TOC;
pub use super::check::Entry;
use super::check::{self, Contents};
use super::location::{FOOTER, FRAME_HEADER, Location, Part};
pub use super::toc::Chunk;
use super::tree_digest::TreeDigest;
use crate::error::{Context, Error, Result};

/// The largest chunk that is read: it is in memory, twice, until its digest has
/// been looked at. Ours have 2 MiB; containers/storage writes some of 64 KiB and
/// a few that are larger.
const MAX_CHUNK: u64 = 64 << 20;
/// What the frames of a chunk may have beyond the most that zstd makes of it.
const SLACK: u64 = 64 << 10;

/// Something that can be read anywhere: a file, or an object in a store.
pub trait ReadAt {
    /// Its bytes.
    ///
    /// # Errors
    /// As stat(2).
    fn size(&self) -> Result<u64>;

    /// Fills the buffer from this offset. It is never asked for what lies
    /// beyond [`ReadAt::size`].
    ///
    /// # Errors
    /// As read(2).
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
}

impl ReadAt for File {
    fn size(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        Ok(FileExt::read_exact_at(self, buffer, offset)?)
    }
}

/// A blob whose TOC has been read.
pub struct Blob<R> {
    source: R,
    contents: Contents,
    tree_digest: String,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, what.into())
}

/// The part of the blob, which is in it and not too large.
fn check_part(part: &Part, until: u64, what: &str) -> Result<()> {
    let end = part.offset.checked_add(part.packed);
    if part.offset < FRAME_HEADER || end.is_none_or(|end| end > until) {
        return Err(bad(format!("{what} lies outside of the blob")));
    }
    if part.packed.max(part.unpacked) > MAX_TOC {
        return Err(bad(format!("{what} has more than {MAX_TOC} bytes")));
    }
    Ok(())
}

impl<R: ReadAt> Blob<R> {
    /// Reads the TOC of `source`, a blob whose descriptor has these annotations.
    /// `None` if it has no TOC: then it can only be read from start to end.
    ///
    /// Without annotations the TOC is where the footer says. Its digest is then
    /// in no place that could be trusted: it is as good as the blob, whose own
    /// digest the caller has to have seen.
    ///
    /// # Errors
    /// `EINVAL` saying what is wrong with the blob, or what `source` says.
    pub fn open(source: R, annotations: &HashMap<String, String>) -> Result<Option<Blob<R>>> {
        let size = source.size()?;
        let location = match Location::from_annotations(annotations)? {
            Some(location) => location,
            None if size < FOOTER => return Ok(None),
            None => {
                let mut footer = vec![0; usize::try_from(FOOTER).map_err(|_| Errno::EOVERFLOW)?];
                source.read_exact_at(&mut footer, size - FOOTER)?;
                match Location::from_footer(&footer) {
                    Some(location) => location,
                    None => return Ok(None),
                }
            }
        };
        let read = || {
            check_part(&location.toc, size, "it")?;
            let packed = read(&source, location.toc.offset, location.toc.packed)?;
            if let Some(digest) = &location.digest
                && hex(&Sha256::digest(&packed)) != *digest
            {
                return Err(bad("it does not match its digest"));
            }
            let toc = unpack(&packed, location.toc.unpacked)?;
            drop(packed);
            check::contents(&toc, location.toc.offset - FRAME_HEADER)
        };
        let contents = read().context(|| "the table of contents")?;
        let mut tree = TreeDigest::default();
        for entry in contents.entries() {
            tree.add(&entry.member, entry.digest.as_ref());
        }
        Ok(Some(Blob {
            source,
            contents,
            tree_digest: tree.finish(),
        }))
    }

    /// The tar's members, in their order. Names are as the tar has them: they may
    /// be absolute or lead out of any directory.
    pub fn entries(&self) -> &[Entry] {
        self.contents.entries()
    }

    /// The member with this path, which has no slash at its end.
    pub fn find(&self, path: &[u8]) -> Option<&Entry> {
        self.contents.find(path)
    }

    /// Digest of the tree, as the annotation `io.harness.fs.tree-digest` has it.
    pub fn tree_digest(&self) -> &str {
        &self.tree_digest
    }

    /// Reads one chunk. It is in the answer only if its digest is right.
    ///
    /// # Errors
    /// `EFBIG` for one of more than 64 MiB, `EINVAL` for one that is not what
    /// the TOC says, or what the source says.
    pub fn read_chunk(&self, chunk: &Chunk) -> Result<Vec<u8>> {
        if chunk.size > MAX_CHUNK {
            let text = format!("a chunk of {} bytes is too large", chunk.size);
            return Err(Error::new(Errno::EFBIG, text));
        }
        let size = usize::try_from(chunk.size).map_err(|_| Errno::EOVERFLOW)?;
        if chunk.zeros {
            return Ok(vec![0; size]);
        }
        let length = chunk.packed.end - chunk.packed.start;
        if length > compress_bound(size) as u64 + SLACK {
            return Err(bad(format!("{length} bytes for a chunk of {size}")));
        }
        let packed = read(&self.source, chunk.packed.start, length)?;
        let bytes = unpack(&packed, chunk.size)?;
        if Sha256::digest(&bytes)[..] != chunk.digest {
            return Err(bad("a chunk does not match its digest"));
        }
        Ok(bytes)
    }

    /// Reads from a file of the blob, at most to its end; gives the bytes that it
    /// read. All chunks that it needs are read whole.
    ///
    /// # Errors
    /// As [`Blob::read_chunk`].
    pub fn read_at(&self, entry: &Entry, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let end = offset.saturating_add(buffer.len() as u64);
        let first = entry
            .chunks
            .partition_point(|chunk| chunk.at + chunk.size <= offset);
        let mut done = 0;
        for chunk in &entry.chunks[first..] {
            if chunk.at >= end {
                break;
            }
            let from = (offset + done as u64).saturating_sub(chunk.at);
            let length = (chunk.size - from).min((buffer.len() - done) as u64);
            let length = usize::try_from(length).map_err(|_| Errno::EOVERFLOW)?;
            let to = &mut buffer[done..done + length];
            if chunk.zeros {
                to.fill(0);
            } else {
                let bytes = self.read_chunk(chunk).context(|| entry.member.shown())?;
                let from = usize::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
                to.copy_from_slice(&bytes[from..from + length]);
            }
            done += length;
        }
        Ok(done)
    }

    /// Writes a whole file of the blob to `to`, chunk by chunk, each when its
    /// digest has been seen to be right; and sees at the end to the file's own.
    ///
    /// # Errors
    /// As [`Blob::read_chunk`], and as write(2).
    pub fn copy(&self, entry: &Entry, to: &mut dyn Write) -> Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut whole = Sha256::new();
        let mut put = |bytes: &[u8]| {
            // One chunk is the file.
            if entry.chunks.len() > 1 {
                whole.update(bytes);
            }
            to.write_all(bytes)
        };
        let mut copy = || -> Result<()> {
            for chunk in &entry.chunks {
                if !chunk.zeros {
                    put(&self.read_chunk(chunk)?)?;
                    continue;
                }
                let mut left = chunk.size;
                while left > 0 {
                    let length = left.min(ZEROS.len() as u64);
                    put(&ZEROS[..usize::try_from(length).map_err(|_| Errno::EOVERFLOW)?])?;
                    left -= length;
                }
            }
            Ok(())
        };
        copy().context(|| entry.member.shown())?;
        if entry.chunks.len() > 1 && entry.digest != Some(whole.finalize().into()) {
            let shown = entry.member.shown();
            return Err(bad(format!("{shown}: it does not match its digest")));
        }
        Ok(())
    }
}

/// Reads a part that is known to lie in the source.
fn read(source: &impl ReadAt, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::EOVERFLOW)?];
    source.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Uncompresses frames that hold exactly `size` bytes. zstd stops where there are more.
fn unpack(packed: &[u8], size: u64) -> Result<Vec<u8>> {
    let size = usize::try_from(size).map_err(|_| Errno::EOVERFLOW)?;
    let mut bytes = vec![0; size];
    let unpacked = Decompressor::new()?.decompress_to_buffer(packed, &mut bytes[..]);
    match unpacked {
        Ok(length) if length == size => Ok(bytes),
        Ok(length) => Err(bad(format!("{length} bytes in place of {size}"))),
        Err(error) => Err(bad(format!("damaged zstd frames: {error}"))),
    }
}
