//! The table of contents: JSON, one record for each member of the tar, and one
//! for each further chunk of a large file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::sys::stat::{major, makedev, minor};
use serde::{Deserialize, Serialize};

use super::super::layout::hex;
use super::super::tar::{Member, What, pax_time};
use super::super::untar;
use super::rfc3339;
use super::spool::{Spool, Spooled};
use crate::error::{Error, Result};
use crate::tree::Time;

/// The version that there is.
pub const VERSION: u32 = 1;
/// The type of a record for a further chunk.
pub const CHUNK: &str = "chunk";
/// `chunkType` of a chunk of zeros.
pub const ZEROS: &str = "zeros";

/// The type of a member's record.
pub fn kind(what: &What) -> &'static str {
    match what {
        What::File(_) => "reg",
        What::HardLink(_) => "hardlink",
        What::Symlink(_) => "symlink",
        What::Dir => "dir",
        What::Fifo => "fifo",
        What::CharDevice(_) => "char",
        What::BlockDevice(_) => "block",
    }
}

/// A piece of a file's content, in frames of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it is in the file.
    pub at: u64,
    /// Its bytes.
    pub size: u64,
    /// Where its frames are in the blob.
    pub packed: std::ops::Range<u64>,
    /// Digest of the bytes.
    pub digest: [u8; 32],
    /// All are zeros.
    pub zeros: bool,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A record, with the names of containers/storage (`minimal.FileMetadata`).
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_zero")]
    pub link_name: Cow<'a, str>,
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modtime: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_offset: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_digest: String,
    #[serde(borrow, skip_serializing_if = "is_zero")]
    pub chunk_type: Cow<'a, str>,
    /// What JSON or RFC 3339 cannot hold.
    #[serde(rename = "io.harness.fs", skip_serializing_if = "Option::is_none")]
    pub exact: Option<Exact>,
}

/// Fields of a record as they are. Its other fields then hold the nearest that
/// can be said there.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Exact {
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_name: Option<String>,
    /// All of them, names and values in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xattrs: Option<BTreeMap<String, String>>,
    /// Seconds, as PAX has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modtime: Option<String>,
}

fn sha256(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hex(digest))
}

impl Record<'_> {
    /// The record of a member, without its content.
    fn of<'a>(member: &Member, name: &'a [u8], link: &'a [u8]) -> Record<'a> {
        let mut exact = Exact::default();
        let mut text = |bytes: &'a [u8], raw: fn(&mut Exact) -> &mut Option<String>| {
            let text = String::from_utf8_lossy(bytes);
            if matches!(text, Cow::Owned(_)) {
                *raw(&mut exact) = Some(STANDARD.encode(bytes));
            }
            text
        };
        let name = text(name, |exact| &mut exact.name);
        let link_name = text(link, |exact| &mut exact.link_name);
        let modtime = rfc3339::format(member.mtime);
        if modtime.is_none() {
            exact.modtime = Some(pax_time(member.mtime));
        }
        let xattrs = member
            .xattrs
            .iter()
            .map(|(name, value)| (name.as_bytes(), value));
        if xattrs
            .clone()
            .any(|(name, _)| std::str::from_utf8(name).is_err())
        {
            let raw =
                |(name, value): (&[u8], &Vec<u8>)| (STANDARD.encode(name), STANDARD.encode(value));
            exact.xattrs = Some(xattrs.clone().map(raw).collect());
        }
        let shown = |(name, value): (&[u8], &Vec<u8>)| {
            (
                String::from_utf8_lossy(name).into_owned(),
                STANDARD.encode(value),
            )
        };
        let device = match member.what {
            What::CharDevice(number) | What::BlockDevice(number) => number,
            _ => 0,
        };
        Record {
            kind: kind(&member.what).into(),
            name,
            link_name,
            mode: member.perm.into(),
            size: member.size(),
            uid: member.uid,
            gid: member.gid,
            modtime,
            dev_major: major(device),
            dev_minor: minor(device),
            xattrs: xattrs.map(shown).collect(),
            exact: Some(exact).filter(|exact| *exact != Exact::default()),
            ..Record::default()
        }
    }

    /// The member that a record is about.
    ///
    /// # Errors
    /// `EINVAL` saying what is wrong with it.
    pub fn member(&self) -> Result<Member> {
        let exact = |pick: fn(&Exact) -> &Option<String>| {
            self.exact.as_ref().and_then(|e| pick(e).as_ref())
        };
        let bytes = |raw: Option<&String>, text: &str| match raw {
            Some(raw) => STANDARD
                .decode(raw)
                .map_err(|_| self.wrong("a name that is no base64")),
            None => Ok(text.as_bytes().to_vec()),
        };
        let mut path = bytes(exact(|e| &e.name), &self.name)?;
        let link = bytes(exact(|e| &e.link_name), &self.link_name)?;
        while path.last() == Some(&b'/') {
            path.pop();
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(self.wrong("a NUL in a name"));
        }
        let device = || makedev(self.dev_major, self.dev_minor);
        let what = match &*self.kind {
            "reg" => What::File(self.size),
            "hardlink" => What::HardLink(link),
            "symlink" => What::Symlink(link),
            "dir" => What::Dir,
            "fifo" => What::Fifo,
            "char" => What::CharDevice(device()),
            "block" => What::BlockDevice(device()),
            _ => return Err(self.wrong("an unknown type")),
        };
        let mtime = match (exact(|e| &e.modtime), &self.modtime) {
            (Some(text), _) => untar::time(text.as_bytes()).ok(),
            (None, Some(text)) => rfc3339::parse(text),
            (None, None) => Some(Time::default()),
        };
        Ok(Member {
            path,
            what,
            // The rest of st_mode, where a writer has it, is in the type.
            perm: u32::try_from(self.mode & 0o7777).unwrap_or(0),
            uid: self.uid,
            gid: self.gid,
            mtime: mtime.ok_or_else(|| self.wrong("a bad modtime"))?,
            xattrs: self.attributes()?,
        })
    }

    fn attributes(&self) -> Result<BTreeMap<OsString, Vec<u8>>> {
        let raw = self.exact.as_ref().and_then(|exact| exact.xattrs.as_ref());
        let base64 = |text: &str| {
            STANDARD
                .decode(text)
                .map_err(|_| self.wrong("an attribute that is no base64"))
        };
        let mut all = BTreeMap::new();
        for (name, value) in raw.unwrap_or(&self.xattrs) {
            let name = match raw {
                Some(_) => base64(name)?,
                None => name.clone().into_bytes(),
            };
            all.insert(OsString::from_vec(name), base64(value)?);
        }
        untar::check_attributes(&all)?;
        Ok(all)
    }

    /// An error about this record.
    pub fn wrong(&self, what: &str) -> Error {
        Error::new(Errno::EINVAL, format!("{:?}: {what}", self.name))
    }
}

/// A digest as the TOC has it.
pub fn digest(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64)?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// Writes a TOC.
pub struct TocWriter {
    spool: Spool,
    empty: bool,
    portable: bool,
}

impl TocWriter {
    /// Into `spool`.
    ///
    /// # Errors
    /// As write(2).
    pub fn new(mut spool: Spool) -> Result<TocWriter> {
        spool.write(format!("{{\"version\":{VERSION},\"entries\":[").as_bytes())?;
        Ok(TocWriter {
            spool,
            empty: true,
            portable: true,
        })
    }

    /// Its bytes so far.
    pub fn size(&self) -> u64 {
        self.spool.unpacked()
    }

    /// Whether it holds nothing that only we understand. containers/storage
    /// compares it with the tar and refuses the image where they differ.
    pub fn portable(&self) -> bool {
        self.portable
    }

    /// Adds the next member.
    ///
    /// # Errors
    /// As write(2).
    pub fn add(
        &mut self,
        member: &Member,
        content: Option<&[u8; 32]>,
        chunks: &[Chunk],
    ) -> Result<()> {
        let name = member.name();
        let link = match &member.what {
            What::HardLink(target) | What::Symlink(target) => target.as_slice(),
            _ => &[],
        };
        let mut record = Record::of(member, &name, link);
        self.portable &= record.exact.is_none();
        record.digest = content.map(sha256).unwrap_or_default();
        if let [first, ..] = chunks {
            record.offset = first.packed.start;
            record.end_offset = chunks[chunks.len() - 1].packed.end;
        }
        let [first, further @ ..] = chunks else {
            return self.record(&record);
        };
        if further.is_empty() {
            return self.record(&record);
        }
        describe(&mut record, first);
        self.record(&record)?;
        for chunk in further {
            let mut record = Record {
                kind: CHUNK.into(),
                name: String::from_utf8_lossy(&name),
                ..Record::default()
            };
            describe(&mut record, chunk);
            if chunk.packed.end == further[further.len() - 1].packed.end {
                // Else containers/storage takes the next file's beginning.
                record.end_offset = chunk.packed.end;
            }
            self.record(&record)?;
        }
        Ok(())
    }

    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.spool.write(b",")?;
        }
        self.spool.json(record)
    }

    /// Ends it; `tar_split` is the digest of the compressed tar-split, in hexadecimal.
    ///
    /// # Errors
    /// As write(2).
    pub fn finish(mut self, tar_split: &str) -> Result<Spooled> {
        let end = format!("],\"tarSplitDigest\":\"sha256:{tar_split}\"}}");
        self.spool.write(end.as_bytes())?;
        self.spool.finish()
    }
}

fn describe(record: &mut Record<'_>, chunk: &Chunk) {
    record.offset = chunk.packed.start;
    record.chunk_size = chunk.size;
    record.chunk_offset = chunk.at;
    record.chunk_digest = sha256(&chunk.digest);
    if chunk.zeros {
        record.chunk_type = ZEROS.into();
    }
}
