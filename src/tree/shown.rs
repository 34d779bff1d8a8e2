//! Paths as text: in reports, in messages and in JSON, one way for all.
//!
//! A path is any bytes, JSON is UTF-8, and a file name must not be able to forge lines of a report
//! or to drive a terminal. So bytes that are no UTF-8 become `\xNN`, control characters `\n`, `\t`,
//! `\r` or `\u{N}`, and a backslash two of them. No two paths look alike, and [`path_of`] reads it
//! back.
//!
//! `#[serde(with = "shown")]` writes and reads a path so, `shown::all` a list of them.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serializer};

/// A path as text.
pub fn shown(path: &Path) -> Cow<'_, str> {
    if let Some(text) = path.to_str()
        && !text.contains(|c: char| c.is_control() || c == '\\')
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    Cow::Owned(text)
}

/// The path that [`shown`] wrote as this text. A backslash that begins none of
/// its escapes stands for itself.
pub fn path_of(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let after = &rest[at + 1..];
        rest = escaped(after, &mut bytes).unwrap_or_else(|| {
            bytes.push(b'\\');
            after
        });
    }
    bytes.extend_from_slice(rest.as_bytes());
    OsString::from_vec(bytes).into()
}

/// Reads what follows a backslash; returns what comes after it.
fn escaped<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let (byte, length) = match text.as_bytes().first()? {
        b'\\' => (b'\\', 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'x' => (u8::from_str_radix(text.get(1..3)?, 16).ok()?, 3),
        _ => {
            let (number, rest) = text.strip_prefix("u{")?.split_once('}')?;
            let c = char::from_u32(u32::from_str_radix(number, 16).ok()?)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(rest);
        }
    };
    bytes.push(byte);
    text.get(length..)
}

/// Writes a path as text.
///
/// # Errors
/// As the serializer.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(path))
}

/// Reads a path that was written as text.
///
/// # Errors
/// As the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    String::deserialize(deserializer).map(|text| path_of(&text))
}

/// The same for a list.
pub mod all {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{path_of, shown};

    /// Writes paths as text.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| shown(path)))
    }

    /// Reads paths that were written as text.
    ///
    /// # Errors
    /// As the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Ok(texts.iter().map(|text| path_of(text)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn no_two_paths_look_alike_and_each_is_read_back() {
        let names: [&[u8]; 9] = [
            b"plain",
            "\u{fc}\u{fffd}".as_bytes(),
            b"a\xff",
            b"a\xfe",
            b"a\\xff",
            b"a\nb\tc\rd",
            b"\x1b[2J\x7f",
            b"back\\slash\\",
            b"\xc3",
        ];
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            let path = Path::new(OsStr::from_bytes(name));
            let text = shown(path);
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert_eq!(path_of(&text), path, "{text:?}");
            assert!(seen.insert(text.into_owned()));
        }
        assert_eq!(
            shown(Path::new(OsStr::from_bytes(b"a\n\xff\\"))),
            "a\\n\\xff\\\\"
        );
        for odd in ["\\", "\\q", "\\x", "\\xg0", "\\u{", "\\u{110000}"] {
            assert_eq!(path_of(odd), Path::new(odd));
        }
    }
}
