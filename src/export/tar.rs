//! Writing tar members: the same tree gives the same bytes.
//!
//! ustar headers, and a PAX header before one where ustar is too small (pax(1),
//! "pax Interchange Format"): a fraction of a second, a long or non-ASCII name,
//! a large number, extended attributes. The order of the records, and all that
//! tells of the machine or the hour, is fixed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use tar::{EntryType, Header};

use crate::error::{Context, Error, Result};
use crate::tree::Time;

/// What PAX calls an extended attribute; star's convention, used by all.
pub const XATTR: &str = "SCHILY.xattr.";

/// The most that the extension headers of one member may hold together: more
/// attributes than any disk but XFS lets a file have. A reader has it in memory.
pub const MAX_EXTENSION: u64 = 16 << 20;

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A regular file of this size.
    File(u64),
    /// A further name of the member with this path.
    HardLink(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
    /// A character device with this number.
    CharDevice(u64),
    /// A block device with this number.
    BlockDevice(u64),
}

/// One member of an archive, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path, without slashes at the ends.
    pub path: Vec<u8>,
    /// Its type.
    pub what: What,
    /// Permission bits.
    pub perm: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Member {
    /// A member that belongs to nobody in particular: a marker or a parent.
    pub fn plain(path: Vec<u8>, what: What, perm: u32) -> Member {
        Member {
            path,
            what,
            perm,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: BTreeMap::new(),
        }
    }

    /// The path as archives have it: that of a directory ends with a slash.
    pub fn name(&self) -> Vec<u8> {
        let slash: &[u8] = if self.what == What::Dir { b"/" } else { b"" };
        [&self.path, slash].concat()
    }

    /// The size of what follows its header.
    pub fn size(&self) -> u64 {
        match self.what {
            What::File(size) => size,
            _ => 0,
        }
    }

    /// The path for messages.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// The largest numbers of a ustar header's octal fields.
const MAX_ID: u32 = 0o7_777_777;
const MAX_LONG: u64 = 0o77_777_777_777;
const BLOCK: usize = 512;

/// What ends an archive: two blocks of zeros.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn pax_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // "%d %s=%s\n": the length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A time as PAX writes it: decimal, no zeros at the end.
pub fn pax_time(time: Time) -> String {
    let (sign, sec, nsec) = match time {
        Time { sec, nsec: 0 } if sec < 0 => ("-", sec.unsigned_abs(), 0),
        // Seconds are rounded down, so the fraction counts from below.
        Time { sec, nsec } if sec < 0 => ("-", sec.unsigned_abs() - 1, 1_000_000_000 - nsec),
        Time { sec, nsec } => ("", sec.unsigned_abs(), nsec),
    };
    let fraction = format!(".{nsec:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{sign}{sec}{fraction}")
}

fn fits(name: &[u8], field: usize) -> bool {
    name.len() <= field && name.is_ascii()
}

/// The member's PAX records, empty where the header alone is enough.
fn pax(member: &Member, path: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    let link = match &member.what {
        What::HardLink(target) | What::Symlink(target) => target.as_slice(),
        _ => b"",
    };
    let octal = u64::try_from(member.mtime.sec).is_ok_and(|sec| sec <= MAX_LONG);
    if member.mtime.nsec != 0 || !octal {
        pax_record(&mut records, b"mtime", pax_time(member.mtime).as_bytes());
    }
    if std::str::from_utf8(path).is_err() || std::str::from_utf8(link).is_err() {
        // pax(1): names are UTF-8 unless this says otherwise.
        pax_record(&mut records, b"hdrcharset", b"BINARY");
    }
    if !fits(path, 100) {
        pax_record(&mut records, b"path", path);
    }
    if !fits(link, 100) {
        pax_record(&mut records, b"linkpath", link);
    }
    if let What::File(size) = member.what
        && size > MAX_LONG
    {
        pax_record(&mut records, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [("uid", member.uid), ("gid", member.gid)] {
        if id > MAX_ID {
            pax_record(&mut records, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    for (name, value) in &member.xattrs {
        let key = [XATTR.as_bytes(), name.as_bytes()].concat();
        pax_record(&mut records, &key, value);
    }
    records
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

fn device(header: &mut Header, number: u64) -> Result<()> {
    let number = (major(number), minor(number));
    header.set_device_major(u32::try_from(number.0).map_err(|_| Errno::EOVERFLOW)?)?;
    header.set_device_minor(u32::try_from(number.1).map_err(|_| Errno::EOVERFLOW)?)?;
    Ok(())
}

/// The zeros that follow a content of this many bytes.
pub fn padding(size: u64) -> &'static [u8] {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    match over {
        0 => &[],
        over => &END[..BLOCK - over],
    }
}

/// The header of a member, and the PAX header before it where it has one.
///
/// # Errors
/// `E2BIG` for what no reader would take, `EOVERFLOW` for the number of a device.
pub fn header(member: &Member) -> Result<Vec<u8>> {
    try_header(member).context(|| format!("writing {} to the archive", member.shown()))
}

fn try_header(member: &Member) -> Result<Vec<u8>> {
    let path = member.name();
    let mut header = Header::new_ustar();
    let mut size = 0;
    let kind = match &member.what {
        What::File(length) => {
            size = *length;
            EntryType::Regular
        }
        What::HardLink(_) => EntryType::Link,
        What::Symlink(_) => EntryType::Symlink,
        What::Dir => EntryType::Directory,
        What::Fifo => EntryType::Fifo,
        What::CharDevice(_) => EntryType::Char,
        What::BlockDevice(_) => EntryType::Block,
    };
    let records = pax(member, &path);
    if records.len() as u64 > MAX_EXTENSION {
        let text = "its name and extended attributes are too large for an archive";
        return Err(Error::new(Errno::E2BIG, text));
    }
    let mut bytes = Vec::new();
    if !records.is_empty() {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        put(&mut extended.as_old_mut().name, b"PaxHeaders/x");
        extended.set_mode(0o644);
        numbers(&mut extended, [0, 0, 0, records.len() as u64]);
        bytes.extend_from_slice(extended.as_bytes());
        bytes.extend_from_slice(&records);
        bytes.extend_from_slice(padding(records.len() as u64));
    }
    header.set_entry_type(kind);
    put(&mut header.as_old_mut().name, &path);
    match &member.what {
        What::HardLink(target) | What::Symlink(target) => {
            put(&mut header.as_old_mut().linkname, target);
        }
        What::CharDevice(number) | What::BlockDevice(number) => device(&mut header, *number)?,
        _ => {}
    }
    header.set_mode(member.perm);
    let or_zero = |id: u32| if id > MAX_ID { 0 } else { u64::from(id) };
    let sec = u64::try_from(member.mtime.sec).unwrap_or(0);
    let sec = if sec > MAX_LONG { 0 } else { sec };
    let field = if size > MAX_LONG { 0 } else { size };
    let ids = (or_zero(member.uid), or_zero(member.gid));
    numbers(&mut header, [ids.0, ids.1, sec, field]);
    bytes.extend_from_slice(header.as_bytes());
    Ok(bytes)
}

/// Owner, group, seconds and size; and the checksum, which is always last.
fn numbers(header: &mut Header, [uid, gid, mtime, size]: [u64; 4]) {
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(mtime);
    header.set_size(size);
    header.set_cksum();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_lengths_count_themselves() {
        for size in [0, 1, 80, 88, 89, 90, 91, 980, 985, 990, 9980, 9990] {
            let mut records = Vec::new();
            pax_record(&mut records, b"path", &vec![b'x'; size]);
            let text = String::from_utf8(records.clone()).expect("ascii");
            let (length, _) = text.split_once(' ').expect("a length");
            assert_eq!(length.parse::<usize>().expect("digits"), records.len());
        }
    }

    #[test]
    fn times_are_decimal() {
        let table = [
            (0, 1, "0.000000001"),
            (5, 500_000_000, "5.5"),
            (5, 0, "5"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.5"),
            (-1, 999_999_999, "-0.000000001"),
        ];
        for (sec, nsec, text) in table {
            assert_eq!(pax_time(Time { sec, nsec }), text);
        }
    }
}
