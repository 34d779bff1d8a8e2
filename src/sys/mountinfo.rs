//! The mounts of a process: `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// `st_dev` of its files as `major:minor`; a FUSE connection has one of its own.
    pub device: String,
    /// Which directory of the filesystem it shows: `/`, or another with a bind.
    pub root: PathBuf,
    /// Where it is, relative to the process's root.
    pub at: PathBuf,
    /// What is mounted on it reaches its copies too (mount_namespaces(7)).
    pub shared: bool,
    /// The type of filesystem, `fuse.harness-fs` for ours.
    pub kind: OsString,
    /// What is mounted there.
    pub source: OsString,
    /// The filesystem's options, as they are listed.
    pub options: Vec<u8>,
}

/// What a stage's mounts have as their source, before its name, and others of ours never.
pub const OF_A_STAGE: &str = "harness-fs:";

impl Mount {
    /// Whether it shows a stage.
    pub fn is_of_stage(&self) -> bool {
        is_ours(&self.kind) && self.source.as_bytes().starts_with(OF_A_STAGE.as_bytes())
    }

    /// The value of one of the filesystem's options.
    pub fn option(&self, name: &str) -> Option<OsString> {
        let mut options = self.options.split(|byte| *byte == b',');
        options.find_map(|option| {
            let value = option.strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=").map(unescape)
        })
    }

    /// The device's minor number: the name of a FUSE connection below
    /// `/sys/fs/fuse/connections`.
    pub fn minor(&self) -> Option<&str> {
        self.device.split_once(':').map(|(_, minor)| minor)
    }
}

/// The mounts that this process sees, in the order they were made.
///
/// # Errors
/// As read(2).
pub fn own() -> Result<Vec<Mount>> {
    of("self")
}

/// The mounts that a process sees.
///
/// # Errors
/// As read(2): `ENOENT` or `EINVAL` when the process is gone.
pub fn of(process: &str) -> Result<Vec<Mount>> {
    let path = format!("/proc/{process}/mountinfo");
    let bytes = std::fs::read(&path).context(|| path)?;
    Ok(parse(&bytes))
}

/// The mounts that the text of such a file lists.
pub(super) fn parse(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|b| *b == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /root /at options tag:… - type source superoptions`
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = String::from_utf8_lossy(fields.next()?).into_owned();
    let root = PathBuf::from(unescape(fields.next()?));
    let at = PathBuf::from(unescape(fields.next()?));
    let mut shared = false;
    loop {
        match fields.next()? {
            b"-" => break,
            field => shared |= field.starts_with(b"shared:"),
        }
    }
    let kind = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let options = fields.next().unwrap_or_default().to_vec();
    Some(Mount {
        id,
        parent,
        device,
        root,
        at,
        shared,
        kind,
        source,
        options,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Whether a mount is strictly below a directory.
pub fn is_below(mount: &Mount, dir: &Path) -> bool {
    mount.at != dir && mount.at.starts_with(dir)
}

/// Whether a path lies below a mount point.
pub fn is_below_dir(path: &Path, mount: &Mount) -> bool {
    path != mount.at && path.starts_with(&mount.at)
}

/// The mount that a path lies in.
pub fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let around = mounts.iter().filter(|mount| path.starts_with(&mount.at));
    // Of several at one place the last covers the others.
    around.max_by_key(|mount| mount.at.components().count())
}

/// Whether a mount's server is asked for every link of `/proc` that leads there,
/// whatever is wanted (`d_weak_revalidate` in the kernel's vfs.rst).
pub fn asks_its_server(mount: &Mount) -> bool {
    let kind = mount.kind.as_bytes();
    kind.starts_with(b"nfs") || kind == b"9p"
}

/// Whether a type of filesystem is ours.
pub fn is_ours(kind: &OsStr) -> bool {
    kind.as_bytes() == b"fuse.harness-fs"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let text = b"36 35 0:98 /d\\040e /mnt/a\\040b rw,noatime master:1 shared:2 - fuse.harness-fs harness-fs:x rw,a=b\\054c\n\
            1 2 8:1 / / rw - ext4 /dev/root rw\nnonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].at, Path::new("/mnt/a b"));
        assert_eq!((mounts[0].id, mounts[0].parent), (36, 35));
        assert_eq!(mounts[0].root, Path::new("/d e"));
        assert!(mounts[0].shared && !mounts[1].shared);
        assert_eq!(mounts[0].minor(), Some("98"));
        assert!(mounts[0].is_of_stage());
        assert_eq!(mounts[0].source, "harness-fs:x");
        assert_eq!(mounts[0].option("a"), Some("b,c".into()));
        assert_eq!(mounts[0].option("rw"), None);
        assert!(is_below(&mounts[0], Path::new("/mnt")));
        assert!(!is_below(&mounts[0], Path::new("/mnt/a")));
        assert!(!is_ours(&mounts[1].kind));
        let overlay = Mount {
            source: "disk".into(),
            ..mounts[0].clone()
        };
        assert!(is_ours(&overlay.kind) && !overlay.is_of_stage());
        let holding = |path: &str| holding(&mounts, Path::new(path)).unwrap().device.as_str();
        assert_eq!(holding("/mnt/a b/c"), "0:98");
        assert_eq!(holding("/mnt/a"), "8:1");
        assert!(!asks_its_server(&mounts[0]));
    }
}
