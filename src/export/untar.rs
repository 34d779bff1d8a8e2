//! Reading tar members from an archive that nobody vouches for.
//!
//! Headers are decoded here and not by the tar crate's iterator: that one cuts
//! PAX records at newlines (an ACL may hold one) and reads extension headers of
//! any size into memory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::sys::stat::makedev;
use tar::{EntryType, Header};

use super::tar::{MAX_EXTENSION, Member, What, XATTR};
use crate::error::{Context, Error, Result};
use crate::tree::Time;

const BLOCK: u64 = 512;
/// The longest value of an extended attribute, and the room for all their names
/// (XATTR_SIZE_MAX and XATTR_LIST_MAX, xattr(7)).
const MAX_XATTR: usize = 64 << 10;

/// Reads members one after another; between them it is the content of the last.
pub struct TarReader<R: Read> {
    input: R,
    left: u64,
    padding: u64,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, what.into())
}

/// What extension headers say of the member that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// Splits PAX records by their lengths: values may hold newlines.
fn records(mut bytes: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let record = || -> Option<_> {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = body.iter().position(|byte| *byte == b'=')?;
            Some((length, &body[..equals], &body[equals + 1..]))
        };
        let (length, key, value) = record().ok_or_else(|| bad("a damaged PAX header"))?;
        all.push((key, value));
        bytes = &bytes[length..];
    }
    Ok(all)
}

fn number<T: std::str::FromStr>(key: &str, value: &[u8]) -> Result<T> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| bad(format!("a PAX header with a bad {key}")))
}

/// The reverse of what the writer does: decimal, maybe negative, to the ns.
///
/// # Errors
/// `EINVAL` for what is no such number.
pub fn time(value: &[u8]) -> Result<Time> {
    let parse = || -> Option<Time> {
        let text = std::str::from_utf8(value).ok()?;
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        // A second sign would not only be wrong: the negative of the smallest number is none.
        let digits = [whole, fraction].concat();
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let sec: i64 = whole.parse().ok()?;
        let digits: String = fraction
            .chars()
            .chain("000000000".chars())
            .take(9)
            .collect();
        let nsec: u32 = digits.parse().ok()?;
        Some(match (negative, nsec) {
            (false, nsec) => Time { sec, nsec },
            (true, 0) => Time { sec: -sec, nsec },
            (true, nsec) => Time {
                sec: -sec - 1,
                nsec: 1_000_000_000 - nsec,
            },
        })
    };
    parse().ok_or_else(|| bad("a PAX header with a bad mtime"))
}

impl Extended {
    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        for (key, value) in records(bytes)? {
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number("size", value)?),
                b"uid" => self.uid = Some(number("uid", value)?),
                b"gid" => self.gid = Some(number("gid", value)?),
                b"mtime" => self.mtime = Some(time(value)?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(bad("a sparse member, which OCI layers do not have"));
                }
                key => {
                    if let Some(name) = key.strip_prefix(XATTR.as_bytes()) {
                        let name = OsString::from_vec(name.to_vec());
                        self.xattrs.insert(name, value.to_vec());
                    }
                }
            }
        }
        check_attributes(&self.xattrs)
    }
}

/// Sees that a file could have these attributes.
///
/// # Errors
/// `EINVAL` saying why not.
pub fn check_attributes(xattrs: &BTreeMap<OsString, Vec<u8>>) -> Result<()> {
    if xattrs.values().any(|value| value.len() > MAX_XATTR) {
        return Err(bad("an extended attribute of more than 64 KiB"));
    }
    let names = xattrs.keys().map(|name| name.len() + 1);
    if names.sum::<usize>() > MAX_XATTR {
        return Err(bad("names of extended attributes of more than 64 KiB"));
    }
    Ok(())
}

/// A name that an extension header carries, without its final NUL.
fn long_name(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

impl<R: Read> TarReader<R> {
    /// Reads the archive in `input`.
    pub fn new(input: R) -> TarReader<R> {
        TarReader {
            input,
            left: 0,
            padding: 0,
        }
    }

    fn skip(&mut self) -> Result<()> {
        let rest = self.left + self.padding;
        let skipped = std::io::copy(&mut (&mut self.input).take(rest), &mut std::io::sink())?;
        if skipped < rest {
            return Err(bad("the archive ends in the middle of a member"));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header, or `None` at the archive's end.
    fn header(&mut self) -> Result<Option<Header>> {
        self.skip()?;
        let mut header = Header::new_old();
        let mut filled = Vec::new();
        (&mut self.input).take(BLOCK).read_to_end(&mut filled)?;
        if filled.is_empty() || filled.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if filled.len() as u64 != BLOCK {
            return Err(bad("the archive ends in the middle of a header"));
        }
        header.as_mut_bytes().copy_from_slice(&filled);
        let bytes = filled[..148].iter().chain(&filled[156..]);
        let sum = bytes.map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(sum) {
            return Err(bad("a header whose checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads an extension header; `left` is what those of one member may have.
    fn extension(&mut self, size: u64, left: &mut u64) -> Result<Vec<u8>> {
        *left = left
            .checked_sub(size)
            .ok_or_else(|| bad(format!("an extension header of {size} bytes is too much")))?;
        let mut bytes = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(bad("the archive ends in the middle of a header"));
        }
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(bytes)
    }

    /// The next member, or `None` at the archive's end; then the rest of the
    /// input has been read too.
    ///
    /// # Errors
    /// `EINVAL` saying what is wrong with the archive, or as read(2).
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        let mut extended = Extended::default();
        let mut described = false;
        let mut left = MAX_EXTENSION;
        loop {
            let Some(header) = self.header()? else {
                if described {
                    return Err(bad("the archive ends after an extension header"));
                }
                std::io::copy(&mut self.input, &mut std::io::sink())?;
                return Ok(None);
            };
            let size = header.entry_size().context(|| "a header with a bad size")?;
            match header.entry_type() {
                EntryType::XHeader => extended.read(&self.extension(size, &mut left)?)?,
                EntryType::GNULongName => {
                    extended.path = Some(long_name(self.extension(size, &mut left)?))
                }
                EntryType::GNULongLink => {
                    extended.link = Some(long_name(self.extension(size, &mut left)?))
                }
                EntryType::XGlobalHeader => {
                    let bytes = self.extension(size, &mut left)?;
                    if records(&bytes)?.iter().any(|(key, _)| *key != b"comment") {
                        return Err(bad("a global PAX header"));
                    }
                    continue;
                }
                _ => return self.member(&header, size, extended).map(Some),
            }
            described = true;
        }
    }

    fn member(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Member> {
        let mut path = match extended.path {
            Some(path) => path,
            None => header.path_bytes().into_owned(),
        };
        let slash = path.last() == Some(&b'/');
        let size = extended.size.unwrap_or(size);
        let link = || match &extended.link {
            Some(link) => link.clone(),
            None => header.link_name_bytes().unwrap_or_default().into_owned(),
        };
        let device = || -> Result<u64> {
            let number = (header.device_major()?, header.device_minor()?);
            Ok(makedev(
                number.0.unwrap_or(0).into(),
                number.1.unwrap_or(0).into(),
            ))
        };
        let shown = String::from_utf8_lossy(&path).into_owned();
        let what = match header.entry_type() {
            // Before POSIX a directory was a file with a slash.
            EntryType::Regular if slash => What::Dir,
            EntryType::Regular | EntryType::Continuous => What::File(size),
            EntryType::Link => What::HardLink(link()),
            EntryType::Symlink => What::Symlink(link()),
            EntryType::Directory => What::Dir,
            EntryType::Fifo => What::Fifo,
            EntryType::Char => What::CharDevice(device()?),
            EntryType::Block => What::BlockDevice(device()?),
            other => {
                let flag = char::from(other.as_byte());
                return Err(bad(format!("{shown}: a member of unknown type {flag:?}")));
            }
        };
        if !matches!(what, What::File(_)) && size > 0 {
            return Err(bad(format!("{shown}: content where no file is")));
        }
        let id = |given: Option<u32>, field: std::io::Result<u64>, name: &str| {
            let id = given.or_else(|| u32::try_from(field.ok()?).ok());
            // -1 is nobody, and leaves an owner as it is (chown(2)).
            id.filter(|id| *id != u32::MAX)
                .ok_or_else(|| bad(format!("{shown}: a bad {name}")))
        };
        let uid = id(extended.uid, header.uid(), "uid")?;
        let gid = id(extended.gid, header.gid(), "gid")?;
        let mode = header.mode().context(|| format!("{shown}: a bad mode"))?;
        let mtime = match extended.mtime {
            Some(time) => time,
            None => {
                let sec = header.mtime().context(|| format!("{shown}: a bad mtime"))?;
                let sec = i64::try_from(sec).map_err(|_| bad(format!("{shown}: a bad mtime")))?;
                Time { sec, nsec: 0 }
            }
        };
        while path.last() == Some(&b'/') {
            path.pop();
        }
        self.left = size;
        self.padding = size
            .checked_next_multiple_of(BLOCK)
            .ok_or_else(|| bad(format!("{shown}: a size that cannot be")))?
            - size;
        Ok(Member {
            path,
            what,
            perm: mode & 0o7777,
            uid,
            gid,
            mtime,
            xattrs: extended.xattrs,
        })
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = (&mut self.input).take(self.left).read(buffer)?;
        self.left -= got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tar::{END, header, padding};
    use super::*;

    /// An archive of files that all have this content.
    fn archive(members: &[Member], content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for member in members {
            bytes.extend(header(member).expect("header"));
            let content = &content[..usize::try_from(member.size()).expect("short")];
            bytes.extend_from_slice(content);
            bytes.extend_from_slice(padding(member.size()));
        }
        bytes.extend_from_slice(&END);
        bytes
    }

    #[test]
    fn what_the_writer_writes_comes_back() {
        let plain = Member::plain(b"a".to_vec(), What::File(3), 0o644);
        let members = [
            Member::plain(vec![b'd'; 300], What::Dir, 0o1755),
            Member {
                uid: u32::MAX - 1,
                gid: 3_000_000,
                mtime: Time {
                    sec: -7,
                    nsec: 123_456_789,
                },
                xattrs: [("user.x".into(), b"a\nb\0c=\n".to_vec())].into(),
                ..plain.clone()
            },
            Member {
                what: What::HardLink(b"a".to_vec()),
                path: "n\u{e4}me".into(),
                ..plain.clone()
            },
            Member {
                what: What::Symlink(b"\xff\xfe".to_vec()),
                path: b"not\xffutf8".to_vec(),
                ..plain.clone()
            },
            Member {
                what: What::CharDevice(makedev(300, 70_000)),
                ..plain.clone()
            },
            Member {
                what: What::BlockDevice(makedev(8, 1)),
                ..plain.clone()
            },
            Member {
                what: What::Fifo,
                mtime: Time {
                    sec: 1 << 40,
                    nsec: 0,
                },
                ..plain
            },
        ];
        let bytes = archive(&members, b"xyz");
        let mut reader = TarReader::new(bytes.as_slice());
        for member in &members {
            assert_eq!(reader.next_member().expect("next").as_ref(), Some(member));
            let mut content = String::new();
            reader.read_to_string(&mut content).expect("content");
            let expected = if matches!(member.what, What::File(_)) {
                "xyz"
            } else {
                ""
            };
            assert_eq!(content, expected);
        }
        assert_eq!(reader.next_member().expect("end"), None);
    }

    #[test]
    fn a_time_has_one_sign() {
        assert_eq!(time(b"-7.25").expect("a time").sec, -8);
        for text in ["--5", "--9223372036854775808", "+5", "-", "", "1.-5", "5 "] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn nobody_is_no_owner() {
        let nobody = |uid, gid| Member {
            uid,
            gid,
            ..Member::plain(b"a".to_vec(), What::Dir, 0o755)
        };
        for (member, part) in [(nobody(u32::MAX, 0), "uid"), (nobody(0, u32::MAX), "gid")] {
            let bytes = archive(&[member], b"");
            let error = TarReader::new(bytes.as_slice()).next_member();
            let error = error.expect_err(part).to_string();
            assert!(error.contains(&format!("a bad {part}")), "{error}");
        }
    }

    #[test]
    fn damage_is_an_error_wherever_it_strikes() {
        let mut member = Member::plain(vec![b'n'; 200], What::File(700), 0o644);
        member.xattrs.insert("user.x".into(), vec![b'v'; 600]);
        let bytes = archive(&[member], &[b'c'; 700]);
        let drain = |bytes: &[u8]| {
            let mut reader = TarReader::new(bytes);
            while reader.next_member()?.is_some() {}
            Ok::<_, Error>(())
        };
        drain(&bytes).expect("whole");
        for end in (1..bytes.len() - 1024).step_by(97) {
            assert!(drain(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..1024 + 512 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let _ = drain(&damaged);
        }
        for text in [
            "",
            "5 a=\n9 b",
            "999999999999999999999 a=b\n",
            "3 =",
            "0 a=b\n",
        ] {
            assert!(
                text.is_empty() || records(text.as_bytes()).is_err(),
                "{text}"
            );
        }
    }
}
