//! The sha256 digests that blobs are named by, and what is read or written while
//! one is computed.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::failure::{Failure, Kind, Result};

/// A sha256 digest; its text is `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits alone, which a blob's file or object is called.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From 64 hexadecimal digits in lower case; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Failure;
    fn from_str(text: &str) -> Result<Digest> {
        let digest = text.strip_prefix("sha256:").and_then(Digest::from_hex);
        digest.ok_or_else(|| Failure::new(Kind::Invalid, format!("{text:?} is no sha256 digest")))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = Failure;
    fn try_from(text: String) -> Result<Digest> {
        text.parse()
    }
}

/// Sees bytes go by, and says in the end whether they were the blob.
pub(super) struct Check {
    digest: Digest,
    size: u64,
    hash: Sha256,
    seen: u64,
}

impl Check {
    pub fn new(digest: &Digest, size: u64) -> Check {
        Check {
            digest: *digest,
            size,
            hash: Sha256::new(),
            seen: 0,
        }
    }

    /// How many bytes went by.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Takes the next bytes; false once they are more than the blob has.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        self.hash.update(bytes);
        self.seen += bytes.len() as u64;
        self.seen <= self.size
    }

    /// What is wrong with what went by, if anything.
    pub fn wrong(&self) -> Option<String> {
        if self.seen != self.size {
            let (seen, size) = (self.seen, self.size);
            return Some(format!("it has {seen} bytes instead of {size}"));
        }
        let got = Digest(self.hash.clone().finalize().into());
        (got != self.digest).then(|| format!("its content is {got}"))
    }
}

/// The caller's blob on its way out: read in pieces, and checked.
pub(super) struct Outgoing<'a> {
    source: &'a mut dyn Read,
    check: Check,
}

impl Outgoing<'_> {
    pub fn new<'a>(source: &'a mut dyn Read, digest: &Digest, size: u64) -> Outgoing<'a> {
        Outgoing {
            source,
            check: Check::new(digest, size),
        }
    }

    /// The next piece: `most` bytes, or what is left; `None` at the end, when the whole was what its digest says.
    pub fn piece(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        let left = self.check.size - self.check.seen;
        // One byte more at the end finds a file that has grown.
        let wanted = usize::try_from(left).map_or(most, |left| left.min(most));
        let mut piece = Vec::with_capacity(wanted.max(1));
        (&mut *self.source)
            .take(wanted.max(1) as u64)
            .read_to_end(&mut piece)
            .map_err(|error| Failure::local(error).context("what is to be sent"))?;
        let short = piece.len() < wanted;
        if !self.check.take(&piece) || short || piece.is_empty() {
            return match self.check.wrong() {
                None => Ok(None),
                Some(wrong) => {
                    let text = format!("what is to be sent is not {}: {wrong}", self.check.digest);
                    Err(Failure::new(Kind::Local, text))
                }
            };
        }
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let digest = Digest::of(b"abc");
        assert!(digest.to_string().starts_with("sha256:ba7816bf8f01cfea"));
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        for bad in [
            "",
            "sha256:",
            &digest.hex(),
            &digest.to_string().to_uppercase(),
        ] {
            assert_eq!(
                bad.parse::<Digest>().unwrap_err().kind(),
                Kind::Invalid,
                "{bad}"
            );
        }
    }

    fn pieces(content: &[u8], digest: &Digest, size: u64, most: usize) -> Result<Vec<usize>> {
        let mut content = content;
        let mut outgoing = Outgoing::new(&mut content, digest, size);
        let mut sizes = Vec::new();
        while let Some(piece) = outgoing.piece(most)? {
            sizes.push(piece.len());
        }
        Ok(sizes)
    }

    #[test]
    fn a_blob_goes_out_in_pieces_and_only_if_it_is_what_its_digest_says() {
        let content = [7; 10];
        let digest = Digest::of(&content);
        assert_eq!(pieces(&content, &digest, 10, 4).unwrap(), [4, 4, 2]);
        assert_eq!(pieces(&content, &digest, 10, 5).unwrap(), [5, 5]);
        assert_eq!(pieces(&[], &Digest::of(b""), 0, 5).unwrap(), [0; 0]);
        // Shorter, longer, and of other content than it should be.
        for (size, digest) in [(11, digest), (9, digest), (10, Digest::of(b"x"))] {
            let failure = pieces(&content, &digest, size, 4).unwrap_err();
            assert_eq!(failure.kind(), Kind::Local, "{failure}");
        }
    }
}
