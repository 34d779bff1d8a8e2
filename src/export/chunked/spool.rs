//! Compressed aside in a file: memory does not grow with the tree.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};

use serde::Serialize;

use super::super::layout::Hashing;
use super::LEVEL;
use crate::error::Result;

/// A zstd frame under construction.
pub struct Spool {
    frame: zstd::Encoder<'static, Hashing<BufWriter<File>>>,
    unpacked: u64,
    line: Vec<u8>,
}

/// A finished frame.
pub struct Spooled {
    file: File,
    /// Its length.
    pub packed: u64,
    /// What it had to compress.
    pub unpacked: u64,
    /// Its digest in hexadecimal.
    pub digest: String,
}

impl Spool {
    /// In an empty file.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(file: File) -> Result<Spool> {
        let out = Hashing::new(BufWriter::new(file));
        Ok(Spool {
            frame: zstd::Encoder::new(out, LEVEL)?,
            unpacked: 0,
            line: Vec::new(),
        })
    }

    /// Bytes so far, uncompressed.
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As write(2).
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.unpacked += bytes.len() as u64;
        Ok(self.frame.write_all(bytes)?)
    }

    /// Appends a value as JSON.
    ///
    /// # Errors
    /// As write(2).
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        // At once, and not in the many small writes of serde_json.
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        serde_json::to_writer(&mut line, value)?;
        self.write(&line)?;
        self.line = line;
        Ok(())
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// As write(2).
    pub fn finish(self) -> Result<Spooled> {
        let (file, digest, packed) = self.frame.finish()?.finish();
        Ok(Spooled {
            file: file.into_inner().map_err(|error| error.into_error())?,
            packed,
            unpacked: self.unpacked,
            digest,
        })
    }
}

impl Spooled {
    /// Copies the frame to its place.
    ///
    /// # Errors
    /// As read(2) and write(2).
    pub fn copy(mut self, to: &mut impl Write) -> Result<()> {
        self.file.rewind()?;
        std::io::copy(&mut self.file.take(self.packed), to)?;
        Ok(())
    }
}
