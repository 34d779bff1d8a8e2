//! What comes back from the workers, in order: the blob, its digests, its TOC.

use std::fs::File;
use std::io::{BufWriter, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::errno::Errno;
use sha2::{Digest, Sha256};

use super::super::layout::{Hashing, hex};
use super::super::tar::Member;
use super::MAX_TOC;
use super::archive::{Form, Written};
use super::batch::{Batch, CRC64, Piece, Sums};
use super::location::{FRAME_HEADER, Location, Part, skippable_header};
use super::spool::{Spool, Spooled};
use super::tar_split::TarSplit;
use super::toc::{Chunk, TocWriter};
use super::tree_digest::TreeDigest;
use crate::error::{Error, Result};

type Out = Hashing<BufWriter<File>>;

enum Output {
    Frames(Out),
    Gzip(GzEncoder<Out>),
}

/// The index of a blob: what is aside until the tar ends.
struct Index {
    toc: TocWriter,
    tar_split: TarSplit,
}

/// A file of which not all chunks have come.
struct Open {
    member: Box<Member>,
    chunks: Vec<Chunk>,
    hash: Sha256,
    crc: crc::Digest<'static, u64, crc::Table<16>>,
}

/// Puts a blob together.
pub struct Assembler {
    output: Output,
    /// Bytes of the blob so far, of frames.
    at: u64,
    tar: Sha256,
    uncompressed: u64,
    members: u64,
    tree: TreeDigest,
    index: Option<Index>,
    max_toc: u64,
    note: Option<&'static str>,
    open: Option<Open>,
}

impl Assembler {
    fn new(output: Output, index: Option<Index>) -> Assembler {
        Assembler {
            output,
            at: 0,
            tar: Sha256::new(),
            uncompressed: 0,
            members: 0,
            tree: TreeDigest::default(),
            index,
            max_toc: MAX_TOC,
            note: None,
            open: None,
        }
    }

    /// A tar in one gzip stream; batches need no frames.
    pub fn gzip(file: File) -> Assembler {
        // Neither a name nor a time is in the header.
        let stream = GzEncoder::new(out(file), Compression::default());
        Assembler::new(Output::Gzip(stream), None)
    }

    /// Frames, with a TOC; both other files are empty, and for this alone.
    ///
    /// # Errors
    /// As write(2).
    pub fn chunked(file: File, toc: File, tar_split: File) -> Result<Assembler> {
        let index = Index {
            toc: TocWriter::new(Spool::new(toc)?)?,
            tar_split: TarSplit::new(Spool::new(tar_split)?),
        };
        Ok(Assembler::new(Output::Frames(out(file)), Some(index)))
    }

    /// With another bound for the TOC.
    #[cfg(test)]
    pub fn with_max_toc(self, max_toc: u64) -> Assembler {
        Assembler { max_toc, ..self }
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// As write(2).
    pub fn take(&mut self, batch: &mut Batch) -> Result<()> {
        self.tar.update(batch.raw());
        self.uncompressed += batch.raw().len() as u64;
        match &mut self.output {
            Output::Frames(out) => out.write_all(batch.packed())?,
            Output::Gzip(stream) => stream.write_all(batch.raw())?,
        }
        let mut start = 0;
        let pieces = std::mem::take(&mut batch.pieces);
        let mut sums = batch.sums.iter();
        for piece in pieces {
            match piece {
                Piece::Between(length) => {
                    if let Some(index) = &mut self.index {
                        index.tar_split.bytes(&batch.raw()[start..start + length]);
                    }
                    start += length;
                }
                Piece::Member(member) => {
                    self.members += 1;
                    if member.size() == 0 {
                        self.end(&member, None, &[])?;
                    } else {
                        self.open = Some(Open {
                            member,
                            chunks: Vec::new(),
                            hash: Sha256::new(),
                            crc: CRC64.digest(),
                        });
                    }
                }
                Piece::Content(length) => {
                    let sums = sums.next().ok_or(Errno::EINVAL)?;
                    self.content(sums, &batch.raw()[start..start + length])?;
                    start += length;
                }
            }
        }
        self.at += batch.packed().len() as u64;
        if self
            .index
            .as_ref()
            .is_some_and(|index| index.toc.size() > self.max_toc)
        {
            self.drop_index();
        }
        Ok(())
    }

    /// A chunk of content of the last member.
    fn content(&mut self, sums: &Sums, bytes: &[u8]) -> Result<()> {
        let mut open = self.open.take().ok_or(Errno::EINVAL)?;
        let size = open.member.size();
        let at = open.chunks.last().map_or(0, |chunk| chunk.at + chunk.size);
        open.chunks.push(Chunk {
            at,
            size: bytes.len() as u64,
            packed: self.at + sums.packed.start as u64..self.at + sums.packed.end as u64,
            digest: sums.sha256,
            zeros: sums.zeros,
        });
        if bytes.len() as u64 == size {
            return self.end(&open.member, Some((sums.sha256, sums.crc64)), &open.chunks);
        }
        open.hash.update(bytes);
        open.crc.update(bytes);
        if at + (bytes.len() as u64) < size {
            self.open = Some(open);
            return Ok(());
        }
        let sums = (open.hash.finalize().into(), open.crc.finalize());
        self.end(&open.member, Some(sums), &open.chunks)
    }

    /// A member is complete.
    fn end(
        &mut self,
        member: &Member,
        sums: Option<([u8; 32], u64)>,
        chunks: &[Chunk],
    ) -> Result<()> {
        let digest = sums.as_ref().map(|(digest, _)| digest);
        self.tree.add(member, digest);
        if let Some(index) = &mut self.index {
            index.tar_split.member(member, sums.map(|(_, crc)| crc))?;
            index.toc.add(member, digest, chunks)?;
        }
        Ok(())
    }

    fn drop_index(&mut self) {
        self.index = None;
        self.note = Some("it has too many entries for a table of contents");
    }

    /// Ends the blob.
    ///
    /// # Errors
    /// As write(2).
    pub fn finish(mut self) -> Result<Written> {
        let mut location = None;
        let mut portable = true;
        if let Some(Index { toc, tar_split }) = self.index.take() {
            portable = toc.portable();
            let tar_split = tar_split.finish()?.finish()?;
            let toc = toc.finish(&tar_split.digest)?;
            if toc.packed.max(toc.unpacked) > self.max_toc {
                self.drop_index();
            } else {
                location = Some(self.append_index(toc, tar_split)?);
            }
        }
        if !portable && location.is_some() {
            self.note = Some(
                "its table of contents is for harness-fs alone: a name or a time that others cannot read",
            );
        }
        let (out, form) = match self.output {
            Output::Frames(out) if location.is_some() => (out, Form::Chunked),
            Output::Frames(out) => (out, Form::Zstd),
            Output::Gzip(stream) => (stream.finish()?, Form::Gzip),
        };
        let (mut out, digest, size) = out.finish();
        out.flush()?;
        Ok(Written {
            file: out.into_inner().map_err(|error| error.into_error())?,
            digest,
            size,
            diff_id: hex(&self.tar.finalize()),
            uncompressed: self.uncompressed,
            members: self.members,
            tree_digest: self.tree.finish(),
            form,
            note: self.note,
            annotations: location
                .map(|location| location.annotations(portable))
                .unwrap_or_default(),
        })
    }

    fn append_index(&mut self, toc: Spooled, tar_split: Spooled) -> Result<Location> {
        let Output::Frames(out) = &mut self.output else {
            return Err(Errno::EINVAL.into());
        };
        let part = |spooled: &Spooled, offset: u64| Part {
            offset,
            packed: spooled.packed,
            unpacked: spooled.unpacked,
        };
        let toc_at = self.at + FRAME_HEADER;
        let location = Location {
            toc: part(&toc, toc_at),
            tar_split: Some(part(&tar_split, toc_at + toc.packed + FRAME_HEADER)),
            digest: Some(toc.digest.clone()),
        };
        for spooled in [toc, tar_split] {
            let length = u32::try_from(spooled.packed)
                .map_err(|_| Error::new(Errno::EFBIG, "too many headers for one layer"))?;
            out.write_all(&skippable_header(length))?;
            spooled.copy(out)?;
        }
        out.write_all(&location.footer())?;
        Ok(location)
    }
}

fn out(file: File) -> Out {
    Hashing::new(BufWriter::with_capacity(1 << 20, file))
}
