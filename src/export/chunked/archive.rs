//! One layer's tar, cut into batches while it is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use nix::errno::Errno;
use serde::Serialize;

use super::super::tar::{END, Member, header, padding};
use super::super::wanting::Wanted;
use super::CHUNK;
use super::assemble::Assembler;
use super::pipeline::{self, Feed};
use crate::error::{Context, Error, Result};

/// What a layer's blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Form {
    /// A tar in zstd frames, with a TOC.
    #[serde(rename = "zstd:chunked")]
    Chunked,
    /// A tar in zstd frames, without one.
    #[serde(rename = "zstd")]
    Zstd,
    /// A tar in one gzip stream.
    #[serde(rename = "gzip")]
    Gzip,
}

/// A blob that was written.
pub struct Written {
    /// What it is in.
    pub file: File,
    /// Its digest in hexadecimal.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
    /// Digest of the tar in hexadecimal.
    pub diff_id: String,
    /// Bytes of the tar.
    pub uncompressed: u64,
    /// Members of the tar.
    pub members: u64,
    /// Digest of the tree, `sha256:…`.
    pub tree_digest: String,
    /// What it has become.
    pub form: Form,
    /// What other tools will not make of it, and why.
    pub note: Option<&'static str>,
    /// Where the TOC is, for the descriptor.
    pub annotations: BTreeMap<String, String>,
}

/// An archive under construction.
pub struct Archive<'a> {
    feed: &'a mut Feed,
    wanted: Wanted<'a>,
}

/// Writes a blob into the empty file `file`; `fill` appends the members.
/// `scratch` makes empty files that may be used until then. `threads` compress,
/// of which the bytes do not depend; `wanted` is asked all the time.
///
/// # Errors
/// As write(2), what `fill` says, or what `wanted` says.
pub fn write(
    file: File,
    gzip: bool,
    threads: usize,
    scratch: &mut dyn FnMut() -> Result<File>,
    wanted: Wanted<'_>,
    fill: impl FnOnce(&mut Archive<'_>) -> Result<()>,
) -> Result<Written> {
    let mut assembler = match gzip {
        true => Assembler::gzip(file),
        false => Assembler::chunked(file, scratch()?, scratch()?)?,
    };
    let mut take = |batch: &mut super::batch::Batch| assembler.take(batch);
    pipeline::run(threads, !gzip, &mut take, |feed| {
        let mut archive = Archive { feed, wanted };
        fill(&mut archive)?;
        archive.between(&END)
    })?;
    assembler.finish()
}

impl Archive<'_> {
    /// Appends a member; `content` is read to exactly the size of a file.
    ///
    /// # Errors
    /// As read(2) and write(2); `EIO` for content that is shorter than said.
    pub fn append(&mut self, member: Member, content: Option<&mut dyn Read>) -> Result<()> {
        let shown = member.shown();
        self.try_append(member, content)
            .context(|| format!("writing {shown} to the archive"))
    }

    fn try_append(&mut self, member: Member, content: Option<&mut dyn Read>) -> Result<()> {
        self.between(&header(&member)?)?;
        let size = member.size();
        debug_assert!(content.is_some() || size == 0);
        self.feed.batch.member(member);
        let Some(content) = content else {
            return Ok(());
        };
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            // A chunk has one frame, so it is in one batch.
            if self.feed.batch.room() < length {
                self.flush()?;
            }
            self.feed
                .batch
                .content(length, |buffer| read_all(content, buffer))?;
            left -= length as u64;
        }
        self.between(padding(size))
    }

    fn between(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.feed.batch.room() == 0 {
                self.flush()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.feed.batch.room()));
            self.feed.batch.between(now);
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        (self.wanted)()?;
        self.feed.flush()
    }
}

fn read_all(content: &mut dyn Read, buffer: &mut [u8]) -> Result<()> {
    content.read_exact(buffer).map_err(|error| {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return Error::new(Errno::EIO, "it became shorter while it was read");
        }
        error.into()
    })
}
