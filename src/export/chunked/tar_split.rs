//! tar-split: all bytes of a tar but the contents of its files, so that who has
//! those can make the very same tar again. JSON lines, as of github.com/vbatts/tar-split.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::super::tar::Member;
use super::spool::Spool;
use crate::error::Result;

/// A line: bytes of the tar, or a file that stands in their place.
#[derive(Serialize)]
struct Line<'a> {
    r#type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// For a name that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_raw: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    payload: Option<String>,
    position: u64,
}

const FILE: u8 = 1;
const BYTES: u8 = 2;

/// Writes the lines of one tar.
pub struct TarSplit {
    spool: Spool,
    /// Padding and headers since the last file.
    since: Vec<u8>,
    position: u64,
}

impl TarSplit {
    /// Into `spool`.
    pub fn new(spool: Spool) -> TarSplit {
        TarSplit {
            spool,
            since: Vec::new(),
            position: 0,
        }
    }

    /// Bytes that are no content.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.since.extend_from_slice(bytes);
    }

    /// The header of the next member has ended. `sum` is the CRC-64 of its
    /// content, which no tool checks; `None` if it is empty.
    ///
    /// # Errors
    /// As write(2).
    pub fn member(&mut self, member: &Member, sum: Option<u64>) -> Result<()> {
        self.flush()?;
        let name = member.name();
        let text = std::str::from_utf8(&name).ok();
        let line = Line {
            r#type: FILE,
            name: text,
            name_raw: text.is_none().then(|| STANDARD.encode(&name)),
            size: Some(member.size()).filter(|size| *size > 0),
            payload: sum.map(|sum| STANDARD.encode(sum.to_be_bytes())),
            position: self.position,
        };
        self.line(&line)
    }

    fn flush(&mut self) -> Result<()> {
        let line = Line {
            r#type: BYTES,
            name: None,
            name_raw: None,
            size: None,
            payload: Some(STANDARD.encode(&self.since)),
            position: self.position,
        };
        self.since.clear();
        self.line(&line)
    }

    fn line(&mut self, line: &Line<'_>) -> Result<()> {
        self.position += 1;
        self.spool.json(line)?;
        self.spool.write(b"\n")
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// As write(2).
    pub fn finish(mut self) -> Result<Spool> {
        self.flush()?;
        Ok(self.spool)
    }
}
