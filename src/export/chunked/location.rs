//! Where the TOC lies in a blob: told by annotations of its descriptor, and by
//! the last bytes of the blob.

use std::collections::{BTreeMap, HashMap};

use nix::errno::Errno;

use crate::error::{Error, Result};

/// The digest of the compressed TOC, `sha256:…`; what containers/storage reads.
const CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
/// `offset:length:uncompressed length:1`.
const POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
/// `offset:length:uncompressed length` of the tar-split.
const TAR_SPLIT: &str = "io.github.containers.zstd-chunked.tarsplit-position";
/// The same three for a TOC that containers/storage must not see.
const OWN_CHECKSUM: &str = "io.harness.fs.toc-checksum";
const OWN_POSITION: &str = "io.harness.fs.toc-position";
const OWN_TAR_SPLIT: &str = "io.harness.fs.tarsplit-position";

/// What begins a skippable frame (RFC 8878, 3.1.2), before its length.
pub const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// The bytes of a skippable frame before its content.
pub const FRAME_HEADER: u64 = 8;
/// The footer, a skippable frame of its own.
pub const FOOTER: u64 = FRAME_HEADER + 64;
const MAGIC: &[u8; 8] = b"GNUlInUx";
const CRFS: u64 = 1;

/// A compressed part of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins, after the header of its frame.
    pub offset: u64,
    /// Its bytes in the blob.
    pub packed: u64,
    /// Its bytes uncompressed.
    pub unpacked: u64,
}

impl Part {
    fn new([offset, packed, unpacked]: [u64; 3]) -> Part {
        Part {
            offset,
            packed,
            unpacked,
        }
    }
}

/// Where the TOC is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The TOC.
    pub toc: Part,
    /// What a tar has besides contents. Some writers have none.
    pub tar_split: Option<Part>,
    /// Digest of the compressed TOC in hexadecimal, if it was told.
    pub digest: Option<String>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, what.into())
}

impl Location {
    /// As annotations of a descriptor: for everybody, or for us alone.
    pub fn annotations(&self, portable: bool) -> BTreeMap<String, String> {
        let keys = match portable {
            true => [CHECKSUM, POSITION, TAR_SPLIT],
            false => [OWN_CHECKSUM, OWN_POSITION, OWN_TAR_SPLIT],
        };
        let part = |part: &Part| format!("{}:{}:{}", part.offset, part.packed, part.unpacked);
        let digest = self.digest.iter().map(|hex| format!("sha256:{hex}"));
        let position = format!("{}:{CRFS}", part(&self.toc));
        let mut all = BTreeMap::from([(keys[1].to_owned(), position)]);
        all.extend(digest.map(|digest| (keys[0].to_owned(), digest)));
        all.extend(
            self.tar_split
                .iter()
                .map(|it| (keys[2].to_owned(), part(it))),
        );
        all
    }

    /// From such annotations; `None` if there are none.
    ///
    /// # Errors
    /// `EINVAL` for those that say nothing that can be understood.
    pub fn from_annotations(annotations: &HashMap<String, String>) -> Result<Option<Location>> {
        let dialects = [
            [OWN_CHECKSUM, OWN_POSITION, OWN_TAR_SPLIT],
            [CHECKSUM, POSITION, TAR_SPLIT],
        ];
        for [checksum, position, tar_split] in dialects {
            let Some(text) = annotations.get(position) else {
                continue;
            };
            let wrong = |key: &str| bad(format!("the annotation {key} is damaged"));
            let Some([offset, packed, unpacked, CRFS]) = numbers(text) else {
                return Err(wrong(position));
            };
            let split = annotations.get(tar_split).map(|text| {
                let numbers = numbers(text).ok_or_else(|| wrong(tar_split))?;
                Ok::<_, Error>(Part::new(numbers))
            });
            let digest = annotations
                .get(checksum)
                .and_then(|text| text.strip_prefix("sha256:"))
                .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
            return Ok(Some(Location {
                toc: Part::new([offset, packed, unpacked]),
                tar_split: split.transpose()?,
                digest: Some(digest.ok_or_else(|| wrong(checksum))?.to_lowercase()),
            }));
        }
        Ok(None)
    }

    /// The footer, with the header of its frame.
    pub fn footer(&self) -> Vec<u8> {
        let mut bytes = skippable_header(64).to_vec();
        let toc = [self.toc.offset, self.toc.packed, self.toc.unpacked, CRFS];
        let split = self
            .tar_split
            .map(|part| [part.offset, part.packed, part.unpacked]);
        for number in toc.iter().chain(&split.unwrap_or_default()) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    /// From the last [`FOOTER`] bytes of a blob; `None` if they are no footer.
    pub fn from_footer(bytes: &[u8]) -> Option<Location> {
        let rest = bytes.strip_prefix(&skippable_header(64))?;
        let numbers = rest.strip_suffix(MAGIC)?.chunks_exact(8);
        let numbers = numbers.map(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
        let [a, b, c, CRFS, x, y, z] = *numbers.as_slice() else {
            return None;
        };
        Some(Location {
            toc: Part::new([a, b, c]),
            tar_split: Some(Part::new([x, y, z])).filter(|split| split.offset > 0),
            digest: None,
        })
    }
}

/// The bytes before the content of a skippable frame.
pub fn skippable_header(length: u32) -> [u8; 8] {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&SKIPPABLE);
    header[4..].copy_from_slice(&length.to_le_bytes());
    header
}

fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    // Neither a sign nor a blank.
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = text.split(':');
    let parts = parts.map(|text| text.parse().ok().filter(|_| digits(text)));
    parts.collect::<Option<Vec<u64>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location() -> Location {
        let part = |offset| Part::new([offset, 7, u64::MAX]);
        Location {
            toc: part(1000),
            tar_split: Some(part(2000)),
            digest: Some("0123456789abcdef".repeat(4)),
        }
    }

    #[test]
    fn annotations_come_back() {
        for portable in [true, false] {
            let all: HashMap<_, _> = location().annotations(portable).into_iter().collect();
            assert_eq!(Location::from_annotations(&all).unwrap(), Some(location()));
            let ours = all.keys().filter(|key| key.starts_with("io.harness.fs."));
            assert_eq!(ours.count(), if portable { 0 } else { 3 });
            for key in all.keys() {
                for value in [
                    "", "1:2", "a:b:c:d", "1:2:3:2", "+1:2:3:1", "sha256:0", "1:2:3:1:",
                ] {
                    let mut all = all.clone();
                    all.insert(key.clone(), value.to_owned());
                    let error = Location::from_annotations(&all)
                        .expect_err(value)
                        .to_string();
                    assert!(error.contains(key), "{error}");
                }
            }
        }
        assert_eq!(Location::from_annotations(&HashMap::new()).unwrap(), None);
    }

    #[test]
    fn the_footer_comes_back() {
        let footer = location().footer();
        assert_eq!(footer.len() as u64, FOOTER);
        let told = Location {
            digest: None,
            ..location()
        };
        assert_eq!(Location::from_footer(&footer), Some(told));
        // But for the six numbers there is nothing that may be different.
        for at in (0..8).chain(32..40).chain(64..72) {
            let mut other = footer.clone();
            other[at] ^= 1;
            assert_eq!(Location::from_footer(&other), None, "{at}");
        }
        for end in 0..footer.len() {
            assert_eq!(Location::from_footer(&footer[..end]), None);
        }
    }
}
