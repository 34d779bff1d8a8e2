//! A TOC that nobody vouches for, made into entries.

use std::fmt;

use nix::errno::Errno;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::super::tar::{Member, What};
use super::toc::{self, Chunk, Record, VERSION, ZEROS};
use crate::error::{Error, Result};

/// The most records. One takes some 250 bytes of memory beside its strings, and a
/// few hundred more with attributes, which may be ten times what it has in the TOC.
const MAX_RECORDS: usize = 1_000_000;

/// A member of the tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What its header says.
    pub member: Member,
    /// Digest of its content; `None` if it has none.
    pub digest: Option<[u8; 32]>,
    /// Its content, from the first byte to the last.
    pub chunks: Vec<Chunk>,
}

/// What a TOC says, consistent in itself.
pub struct Contents {
    entries: Vec<Entry>,
    /// Indexes of entries, sorted by path.
    by_path: Vec<usize>,
}

impl Contents {
    /// In the order of the TOC.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The one with this path.
    pub fn find(&self, path: &[u8]) -> Option<&Entry> {
        let path_of = |index: &usize| self.entries[*index].member.path.as_slice();
        let found = self
            .by_path
            .binary_search_by(|index| path_of(index).cmp(path));
        found.ok().map(|at| &self.entries[self.by_path[at]])
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, what.into())
}

/// Reads a TOC. `end` is where the frames of the tar end in the blob.
///
/// # Errors
/// `EINVAL` saying what is wrong: no such JSON, a name that is there twice,
/// chunks that do not make up their file, or lie over each other or outside.
pub fn contents(json: &[u8], end: u64) -> Result<Contents> {
    let mut entries = Entries {
        all: Vec::new(),
        records: 0,
        open: None,
    };
    let mut input = serde_json::Deserializer::from_slice(json);
    let wrong = |error: serde_json::Error| bad(error.to_string());
    let version = Toc(&mut entries).deserialize(&mut input).map_err(wrong)?;
    input.end().map_err(wrong)?;
    if version != VERSION {
        return Err(bad(format!("version {version} is not known")));
    }
    entries.close()?;
    let entries = entries.all;
    let chunks = entries.iter().flat_map(|entry| &entry.chunks);
    let mut ranges: Vec<_> = chunks
        .map(|chunk| (chunk.packed.start, chunk.packed.end))
        .collect();
    ranges.sort_unstable();
    if ranges.last().is_some_and(|last| last.1 > end) {
        return Err(bad("content outside of the archive"));
    }
    if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(bad("chunks that lie over each other"));
    }
    let mut by_path: Vec<usize> = (0..entries.len()).collect();
    by_path.sort_unstable_by(|a, b| entries[*a].member.path.cmp(&entries[*b].member.path));
    let mut pairs = by_path
        .windows(2)
        .map(|pair| (&entries[pair[0]], &entries[pair[1]]));
    if let Some((twice, _)) = pairs.find(|(a, b)| a.member.path == b.member.path) {
        return Err(bad(format!("{} is there twice", twice.member.shown())));
    }
    Ok(Contents { entries, by_path })
}

/// A file whose chunks follow.
struct Open {
    entry: Entry,
    name: String,
    /// Where its content ends in the blob.
    end: u64,
    /// Further chunks may follow.
    chunked: bool,
}

/// Entries so far.
struct Entries {
    all: Vec<Entry>,
    records: usize,
    open: Option<Open>,
}

impl Entries {
    fn add(&mut self, record: &Record<'_>) -> Result<()> {
        self.records += 1;
        if self.records > MAX_RECORDS {
            return Err(bad(format!("more than {MAX_RECORDS} entries")));
        }
        if record.kind == toc::CHUNK {
            return self.chunk(record);
        }
        self.close()?;
        let member = record.member()?;
        let What::File(size @ 1..) = member.what else {
            self.all.push(Entry {
                member,
                digest: None,
                chunks: Vec::new(),
            });
            return Ok(());
        };
        let digest = toc::digest(&record.digest);
        let digest = digest.ok_or_else(|| record.wrong("no digest"))?;
        // A single chunk has no fields of its own.
        let chunked = record.chunk_size != 0 && record.chunk_size != size;
        let mut open = Open {
            entry: Entry {
                member,
                digest: Some(digest),
                chunks: Vec::new(),
            },
            name: record.name.to_string(),
            end: record.end_offset,
            chunked,
        };
        if chunked {
            open.chunk(record)?;
        } else {
            open.entry.chunks.push(Chunk {
                at: 0,
                size,
                packed: record.offset..record.end_offset,
                digest,
                zeros: false,
            });
        }
        self.open = Some(open);
        Ok(())
    }

    fn chunk(&mut self, record: &Record<'_>) -> Result<()> {
        match &mut self.open {
            Some(open) if open.chunked && open.name == record.name => open.chunk(record),
            _ => Err(record.wrong("a chunk of no file")),
        }
    }

    /// The last file has no more chunks.
    fn close(&mut self) -> Result<()> {
        let Some(Open { mut entry, end, .. }) = self.open.take() else {
            return Ok(());
        };
        let wrong = |what: &str| bad(format!("{}: {what}", entry.member.shown()));
        // Each chunk ends where the next begins.
        for index in 0..entry.chunks.len() {
            let next = entry
                .chunks
                .get(index + 1)
                .map_or(end, |next| next.packed.start);
            let packed = &mut entry.chunks[index].packed;
            packed.end = next;
            if packed.end <= packed.start {
                return Err(wrong("an empty chunk"));
            }
        }
        let held = entry.chunks.last().map_or(0, |last| last.at + last.size);
        if held != entry.member.size() {
            return Err(wrong("chunks that are not the whole file"));
        }
        self.all.push(entry);
        Ok(())
    }
}

impl Open {
    fn chunk(&mut self, record: &Record<'_>) -> Result<()> {
        let chunks = &mut self.entry.chunks;
        let at = chunks.last().map_or(0, |last| last.at + last.size);
        let end = at.checked_add(record.chunk_size);
        let fits = end.is_some_and(|end| end <= self.entry.member.size());
        if record.chunk_offset != at || record.chunk_size == 0 || !fits {
            return Err(record.wrong("a chunk out of place"));
        }
        let digest = toc::digest(&record.chunk_digest);
        let zeros = match &*record.chunk_type {
            "" => false,
            ZEROS => true,
            _ => return Err(record.wrong("a chunk of an unknown type")),
        };
        chunks.push(Chunk {
            at,
            size: record.chunk_size,
            packed: record.offset..record.end_offset,
            digest: digest.ok_or_else(|| record.wrong("a chunk without a digest"))?,
            zeros,
        });
        Ok(())
    }
}

/// The object itself; gives its version.
struct Toc<'a>(&'a mut Entries);

impl<'de> DeserializeSeed<'de> for Toc<'_> {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<u32, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Toc<'_> {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u32, A::Error> {
        let mut version = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => version = Some(map.next_value()?),
                "entries" => map.next_value_seed(&mut *self.0)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        version.ok_or_else(|| A::Error::missing_field("version"))
    }
}

impl<'de> DeserializeSeed<'de> for &mut Entries {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Entries {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        // One at a time: they take more memory than what is made of them.
        while let Some(record) = list.next_element::<Record<'de>>()? {
            self.add(&record).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}
