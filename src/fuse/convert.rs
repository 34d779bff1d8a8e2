//! Between fuser's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};

use crate::error::Error;
use crate::sys::at::SetTime;
use crate::tree::{Attr, Kind, Time};

/// Without end: a view changes only through its own mount.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 30);

pub(super) fn errno(error: &Error) -> Errno {
    if error.level() <= log::Level::Warn {
        log::log!(error.level(), "{error}");
    }
    Errno::from_i32(error.errno() as i32)
}

pub(super) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

fn system_time(time: Time) -> SystemTime {
    let nsec = Duration::from_nanos(u64::from(time.nsec));
    let sec = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec >= 0 {
        UNIX_EPOCH.checked_add(sec)
    } else {
        UNIX_EPOCH.checked_sub(sec)
    };
    whole
        .and_then(|whole| whole.checked_add(nsec))
        .unwrap_or(UNIX_EPOCH)
}

/// What the kernel sent as seconds and nanoseconds. Before the epoch fuser counts
/// both down, although the nanoseconds of a `timespec` always count up.
fn time(at: SystemTime) -> Time {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => Time {
            sec: since.as_secs().cast_signed(),
            nsec: since.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            Time {
                sec: -before.as_secs().cast_signed(),
                nsec: before.subsec_nanos(),
            }
        }
    }
}

pub(super) fn set_time(at: Option<TimeOrNow>) -> Option<SetTime> {
    at.map(|at| match at {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::To(time(at)),
    })
}

/// The kernel's 32-bit form of a device number (`new_encode_dev`).
fn encode_device(rdev: u64) -> u32 {
    let major = nix::sys::stat::major(rdev);
    let minor = nix::sys::stat::minor(rdev);
    let value = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
    u32::try_from(value).unwrap_or(0)
}

/// The reverse of [`encode_device`] (`new_decode_dev`).
pub(super) fn decode_device(rdev: u32) -> u64 {
    let major = (rdev & 0xf_ff00) >> 8;
    let minor = (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00);
    nix::sys::stat::makedev(u64::from(major), u64::from(minor))
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: u16::try_from(attr.perm).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev),
        blksize: attr.blksize,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_round_trip() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (254, 4096), (4095, 1_048_575)] {
            let rdev = nix::sys::stat::makedev(major, minor);
            assert_eq!(decode_device(encode_device(rdev)), rdev);
        }
    }

    #[test]
    fn times_before_the_epoch_are_read_as_fuser_makes_them() {
        for (sec, nsec) in [(-1_i64, 0), (-1, 999_999_999), (-77, 1)] {
            let made = UNIX_EPOCH - Duration::new(sec.unsigned_abs(), nsec);
            assert_eq!(time(made), Time { sec, nsec });
        }
    }
}
