//! zstd:chunked blobs, in the dialect of containers/storage: an ordinary tar in
//! zstd frames, one for each file, with a table of contents (TOC) behind it.
//!
//! [`write()`] makes one, [`Blob`] reads single files of one. `docs/format.md`
//! specifies what is in it. Of the two dialects that exist this is the one whose
//! footer has 64 bytes; that of stargz-snapshotter has 40.

mod archive;
mod assemble;
mod batch;
mod blob;
mod check;
mod location;
mod pipeline;
mod rfc3339;
mod spool;
mod tar_split;
#[cfg(test)]
mod tests;
mod toc;
mod tree_digest;

pub use archive::{Archive, Form, Written, write};
pub use blob::{Blob, Chunk, Entry, ReadAt};
pub use tree_digest::TreeDigest;

/// The zstd level: the default of zstd(1), and fixed, since the digest hangs on it.
/// A level of the row match finder (5 to 12) would not do: what it finds depends
/// on what its context compressed before.
const LEVEL: i32 = 3;
/// The most content in one frame. At this level zstd looks no further back, so
/// longer frames would hardly be smaller.
const CHUNK: usize = 2 << 20;
/// The largest TOC, in either form: containers/storage refuses to read more
/// (`maxTocSize`), and so do we.
const MAX_TOC: u64 = 150 << 20;
