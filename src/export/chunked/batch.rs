//! A stretch of the tar on its way through a worker.

use crc::{CRC_64_GO_ISO, Crc, Table};
use sha2::{Digest, Sha256};
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::super::tar::Member;
use super::CHUNK;
use crate::error::Result;

/// What tar-split has of contents.
pub static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

/// What a batch holds, in the order of the tar.
#[derive(Debug)]
pub enum Piece {
    /// This many bytes that are no content: headers and padding.
    Between(usize),
    /// The header of this member has ended.
    Member(Box<Member>),
    /// One chunk of content of the last member.
    Content(usize),
}

/// What a worker found out about a chunk.
#[derive(Clone, Debug)]
pub struct Sums {
    /// Its digest.
    pub sha256: [u8; 32],
    /// Its CRC-64, as of tar-split.
    pub crc64: u64,
    /// All its bytes are zeros.
    pub zeros: bool,
    /// Where its frame is in what the batch became.
    pub packed: std::ops::Range<usize>,
}

/// At most [`CHUNK`] bytes of a tar. Which bytes make a batch depends on the tar
/// alone, and so do the frames: consecutive bytes of a batch that are no content,
/// and each chunk of content.
pub struct Batch {
    /// Its place among all.
    pub serial: u64,
    /// What is in it.
    pub pieces: Vec<Piece>,
    /// About each chunk, in order.
    pub sums: Vec<Sums>,
    // Both keep their length: it would cost as much as a copy to fill them with
    // zeros each time.
    raw: Vec<u8>,
    used: usize,
    packed: Vec<u8>,
    packed_used: usize,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Batch {
        Batch {
            raw: vec![0; CHUNK],
            ..Batch::without_room()
        }
    }

    /// One that takes nothing, and no memory.
    pub fn without_room() -> Batch {
        Batch {
            serial: 0,
            pieces: Vec::new(),
            sums: Vec::new(),
            raw: Vec::new(),
            used: 0,
            packed: Vec::new(),
            packed_used: 0,
        }
    }

    /// Makes it empty again.
    pub fn clear(&mut self, serial: u64) {
        self.serial = serial;
        self.pieces.clear();
        self.sums.clear();
        (self.used, self.packed_used) = (0, 0);
    }

    /// The bytes of the tar.
    pub fn raw(&self) -> &[u8] {
        &self.raw[..self.used]
    }

    /// The frames.
    pub fn packed(&self) -> &[u8] {
        &self.packed[..self.packed_used]
    }

    /// How much more it takes.
    pub fn room(&self) -> usize {
        self.raw.len() - self.used
    }

    /// Bytes that are no content, no more than there is room for.
    pub fn between(&mut self, bytes: &[u8]) {
        self.raw[self.used..][..bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        self.pieces.push(Piece::Between(bytes.len()));
    }

    /// The header of a member has ended.
    pub fn member(&mut self, member: Member) {
        self.pieces.push(Piece::Member(Box::new(member)));
    }

    /// A chunk of content, no longer than there is room for, filled by `read`.
    ///
    /// # Errors
    /// What `read` says.
    pub fn content(
        &mut self,
        size: usize,
        read: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        read(&mut self.raw[self.used..][..size])?;
        self.used += size;
        self.pieces.push(Piece::Content(size));
        Ok(())
    }

    /// Hashes what it holds and, with a compressor, makes frames of it.
    ///
    /// # Errors
    /// As zstd.
    pub fn pack(&mut self, mut compressor: Option<&mut Compressor<'static>>) -> Result<()> {
        let mut start = 0;
        let mut at = 0;
        // Not borrowed from, while the rest of the batch changes.
        let pieces = std::mem::take(&mut self.pieces);
        for piece in &pieces {
            match piece {
                Piece::Between(length) => at += length,
                Piece::Member(_) => {}
                Piece::Content(length) => {
                    self.frame(start..at, &mut compressor)?;
                    start = at;
                    at += length;
                    let before = self.packed_used;
                    self.frame(start..at, &mut compressor)?;
                    let bytes = &self.raw[start..at];
                    self.sums.push(Sums {
                        sha256: Sha256::digest(bytes).into(),
                        crc64: CRC64.checksum(bytes),
                        zeros: bytes.iter().all(|byte| *byte == 0),
                        packed: before..self.packed_used,
                    });
                    start = at;
                }
            }
        }
        self.pieces = pieces;
        self.frame(start..at, &mut compressor)
    }

    fn frame(
        &mut self,
        range: std::ops::Range<usize>,
        compressor: &mut Option<&mut Compressor<'static>>,
    ) -> Result<()> {
        let (Some(compressor), false) = (compressor, range.is_empty()) else {
            return Ok(());
        };
        let most = self.packed_used + compress_bound(range.len());
        if self.packed.len() < most {
            self.packed.resize(most, 0);
        }
        let to = &mut self.packed[self.packed_used..];
        self.packed_used += compressor.compress_to_buffer(&self.raw[range], to)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::LEVEL;
    use super::*;

    /// Bytes that are neither all alike nor without any pattern.
    fn text(seed: u64, size: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = Vec::with_capacity(size + 16);
        while bytes.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let word = state % 97;
            bytes.extend_from_slice(format!("word-{word} ").as_bytes());
        }
        bytes.truncate(size);
        bytes
    }

    #[test]
    fn what_was_compressed_before_makes_no_difference() {
        let mut used = Compressor::new(LEVEL).unwrap();
        for round in 0..40 {
            for size in [1, 500, 4_000, 16_000, 17_000, 130_000, 300_000] {
                let bytes = text(round * 1000 + size, usize::try_from(size).unwrap());
                let fresh = Compressor::new(LEVEL).unwrap().compress(&bytes).unwrap();
                assert!(used.compress(&bytes).unwrap() == fresh, "{round}: {size}");
            }
        }
    }

    #[test]
    fn the_crc_is_that_of_go() {
        // hash/crc64, crc64_test.go: golden values of ISO.
        for (value, text) in [
            (0, ""),
            (0x3420_0000_0000_0000, "a"),
            (0x36c4_2000_0000_0000, "ab"),
        ] {
            assert_eq!(CRC64.checksum(text.as_bytes()), value, "{text}");
        }
    }
}
