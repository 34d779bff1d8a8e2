//! The list behind `-o`: what mount(8), the kernel's overlayfs and fuse-overlayfs call things.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::mount::MsFlags;

/// What is asked for, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The uppermost first.
    pub lower: Vec<PathBuf>,
    pub upper: Option<PathBuf>,
    pub work: Option<PathBuf>,
    pub source: Option<OsString>,
    pub remount: bool,
    pub set: MsFlags,
    pub cleared: MsFlags,
    pub passthrough: bool,
    pub metacopy: bool,
    pub redirects: bool,
    pub log: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            lower: Vec::new(),
            upper: None,
            work: None,
            source: None,
            remount: false,
            set: MsFlags::empty(),
            cleared: MsFlags::empty(),
            passthrough: true,
            metacopy: false,
            redirects: true,
            log: None,
        }
    }
}

/// What mount(8) and fstab(5) say to others than us, or what always holds here.
const PASSED_OVER: [&str; 28] = [
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    // Of FUSE: always so, or how its messages are sent.
    "allow_other",
    "default_permissions",
    "nonempty",
    "clone_fd",
    "big_writes",
    // Of overlayfs: who serves it reads and writes the layers. Leave to do less, which nobody has
    // to notice.
    "override_creds",
    "volatile",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    // Of fuse-overlayfs: that the link count of a directory tells nothing.
    "static_nlink",
    // Without effect since Linux 5.15, or on FUSE.
    "mand",
    "nomand",
    "noiversion",
];

/// The same, with a value.
const PASSED_OVER_VALUES: [&str; 11] = [
    "comment",
    "helper",
    "uhelper",
    "user",
    "_fstype",
    // Of fuse-overlayfs: how fast, and leave to do less.
    "threaded",
    "timeout",
    "writeback",
    "fast_ino",
    "static_nlink",
    "fsync",
];

/// What `mount -o remount` finds in the list of mounts and repeats.
const REPEATED: [&str; 5] = ["user_id", "group_id", "rootmode", "max_read", "blksize"];

/// Of fuse-overlayfs, and not here.
const OF_FUSE_OVERLAYFS: [&str; 11] = [
    "uidmapping",
    "gidmapping",
    "squash_to_root",
    "squash_to_uid",
    "squash_to_gid",
    "noxattrs",
    "disable_xattrs",
    "noacl",
    "xattr_permissions",
    "plugins",
    "context",
];

/// Names of flags: what each sets and clears.
fn flag(name: &[u8]) -> Option<(MsFlags, MsFlags)> {
    let none = MsFlags::empty();
    Some(match name {
        b"ro" => (MsFlags::MS_RDONLY, none),
        b"rw" => (none, MsFlags::MS_RDONLY),
        b"nosuid" => (MsFlags::MS_NOSUID, none),
        b"suid" => (none, MsFlags::MS_NOSUID),
        b"nodev" => (MsFlags::MS_NODEV, none),
        b"dev" => (none, MsFlags::MS_NODEV),
        b"noexec" => (MsFlags::MS_NOEXEC, none),
        b"exec" => (none, MsFlags::MS_NOEXEC),
        b"sync" => (MsFlags::MS_SYNCHRONOUS, none),
        b"async" => (none, MsFlags::MS_SYNCHRONOUS),
        b"dirsync" => (MsFlags::MS_DIRSYNC, none),
        b"noatime" => (MsFlags::MS_NOATIME, none),
        b"atime" => (none, MsFlags::MS_NOATIME),
        b"nodiratime" => (MsFlags::MS_NODIRATIME, none),
        b"diratime" => (none, MsFlags::MS_NODIRATIME),
        b"relatime" => (MsFlags::MS_RELATIME, none),
        b"norelatime" => (none, MsFlags::MS_RELATIME),
        b"strictatime" => (MsFlags::MS_STRICTATIME, none),
        b"nostrictatime" => (none, MsFlags::MS_STRICTATIME),
        _ => return None,
    })
}

/// Reads such a list into what was read before. Of those that are not known one is named; with
/// `sloppy` they are passed over (mount(8), `-s`).
///
/// # Errors
/// One sentence.
pub fn read(list: &OsStr, sloppy: bool, options: &mut Options) -> Result<(), String> {
    for option in split(list.as_bytes(), b',') {
        if option.is_empty() {
            continue;
        }
        let (name, value) = match option.iter().position(|byte| *byte == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (option, None),
        };
        match one(name, value, options) {
            Err(Refused::Unknown(_)) if sloppy => {}
            Err(Refused::Unknown(text) | Refused::Wrong(text)) => return Err(text),
            Ok(()) => {}
        }
    }
    Ok(())
}

enum Refused {
    Unknown(String),
    Wrong(String),
}

fn one(name: &[u8], value: Option<&[u8]>, options: &mut Options) -> Result<(), Refused> {
    let text = String::from_utf8_lossy(name);
    let known = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
    match (name, value) {
        (b"lowerdir", Some(value)) => options.lower = lower(value)?,
        // As the kernel takes them one by one, also when there is a colon in the name.
        (b"lowerdir+", Some(value)) => options.lower.push(path(&text, value)?),
        (b"upperdir", Some(value)) => options.upper = Some(path(&text, value)?),
        (b"workdir", Some(value)) => options.work = Some(path(&text, value)?),
        (b"fsname", Some(value)) => options.source = Some(unescape(value)),
        (b"log_file", Some(value)) => options.log = Some(path(&text, value)?),
        (b"passthrough", Some(value)) => options.passthrough = on_or_off(&text, value)?,
        (b"metacopy", Some(value)) => options.metacopy = on_or_off(&text, value)?,
        (b"redirect_dir", Some(value)) => {
            options.redirects = match value {
                b"on" => true,
                b"off" | b"follow" => false,
                _ => return Err(not(&text, value, "on, off or follow")),
            }
        }
        // What either word allows or asks for is so: names of one file stay that, and numbers are
        // kept from mount to unmount.
        (b"index", Some(value)) => drop(on_or_off(&text, value)?),
        (b"xino", Some(b"on" | b"off" | b"auto")) => {}
        (b"nfs_export" | b"verity", Some(b"off")) => {}
        (b"uuid", Some(b"off" | b"null" | b"auto")) => {}
        (b"subtype", Some(b"harness-fs")) => {}
        (b"remount", None) => options.remount = true,
        (name, None) if let Some((set, cleared)) = flag(name) => {
            options.set = (options.set - cleared) | set;
            options.cleared = (options.cleared - set) | cleared;
        }
        (_, None) if known(&PASSED_OVER) => {}
        (_, Some(_)) if known(&PASSED_OVER_VALUES) || known(&REPEATED) => {}
        _ if name.starts_with(b"x-") || name.starts_with(b"X-") => {}
        (b"lowerdir" | b"lowerdir+" | b"upperdir" | b"workdir" | b"fsname" | b"log_file", None) => {
            return Err(Refused::Wrong(format!("the option '{text}' needs a value")));
        }
        _ if known(&OF_FUSE_OVERLAYFS) => {
            let text = format!("the option '{text}' of fuse-overlayfs is not known here");
            return Err(Refused::Unknown(text));
        }
        (_, value) => {
            let whole = match value {
                Some(value) => format!("{text}={}", String::from_utf8_lossy(value)),
                None => text.into_owned(),
            };
            return Err(Refused::Unknown(format!(
                "the option '{whole}' is not known: see `harness-fs overlay --help`"
            )));
        }
    }
    Ok(())
}

fn not(name: &str, value: &[u8], instead: &str) -> Refused {
    let value = String::from_utf8_lossy(value);
    Refused::Wrong(format!("{name}={value}: choose {instead}"))
}

fn on_or_off(name: &str, value: &[u8]) -> Result<bool, Refused> {
    match value {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(not(name, value, "on or off")),
    }
}

fn path(name: &str, value: &[u8]) -> Result<PathBuf, Refused> {
    match value.is_empty() {
        true => Err(Refused::Wrong(format!("{name}= names no directory"))),
        false => Ok(unescape(value).into()),
    }
}

fn lower(value: &[u8]) -> Result<Vec<PathBuf>, Refused> {
    let mut all = Vec::new();
    for one in split(value, b':') {
        if one.is_empty() {
            let text = "lowerdir= has an empty name in it (data-only layers, behind '::', are not known here)";
            return Err(Refused::Wrong(text.to_owned()));
        }
        all.push(unescape(one).into());
    }
    Ok(all)
}

/// The parts between separators that no backslash comes before.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.iter().enumerate() {
        if escaped {
            escaped = false;
        } else if *byte == b'\\' {
            escaped = true;
        } else if *byte == separator {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A backslash stands for what comes after it.
fn unescape(text: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => bytes.extend(rest.next()),
            byte => bytes.push(*byte),
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(list: &str) -> Result<Options, String> {
        let mut options = Options::default();
        read(OsStr::new(list), false, &mut options).map(|()| options)
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn colons_and_commas_in_names_are_escaped() {
        let read = read_all(r"lowerdir=/a\:b:/c\,d:/e\\f,upperdir=/u\,p,workdir=/w").unwrap();
        assert_eq!(read.lower, paths(&["/a:b", "/c,d", r"/e\f"]));
        assert_eq!(read.upper, Some("/u,p".into()));
        assert_eq!(read.work, Some("/w".into()));
        let one_by_one = read_all(r"lowerdir+=/a:b,lowerdir+=/c").unwrap();
        assert_eq!(one_by_one.lower, paths(&["/a:b", "/c"]));
    }

    #[test]
    fn the_last_word_on_a_flag_counts() {
        let read = read_all("ro,nosuid,rw,suid,nodev,noatime").unwrap();
        assert_eq!(read.set, MsFlags::MS_NODEV | MsFlags::MS_NOATIME);
        assert_eq!(read.cleared, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
        assert!(read_all("rw,ro").unwrap().set.contains(MsFlags::MS_RDONLY));
    }

    #[test]
    fn what_mount_passes_on_is_passed_over() {
        let list = "rw,relatime,user_id=0,group_id=0,default_permissions,allow_other,_netdev,nofail,x-systemd.automount,\
            X-mount.mkdir=0755,user,comment=x,index=off,xino=auto,volatile,,nonempty,lazytime,timeout=1.5,threaded=1,fsync=0,\
            static_nlink";
        let read = read_all(list).unwrap();
        assert_eq!(read.set, MsFlags::MS_RELATIME);
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (list, part) in [
            ("squash_to_uid=0", "'squash_to_uid' of fuse-overlayfs"),
            ("userxattr", "'userxattr' is not known"),
            ("timeout", "'timeout' is not known"),
            ("noacl", "'noacl' of fuse-overlayfs"),
            ("frob=1", "'frob=1' is not known"),
            ("nfs_export=on", "'nfs_export=on' is not known"),
            ("lowerdir", "'lowerdir' needs a value"),
            ("lowerdir=", "empty name"),
            ("lowerdir=/a::/b", "data-only"),
            ("lowerdir=/a:", "empty name"),
            ("upperdir=", "names no directory"),
            ("metacopy=maybe", "choose on or off"),
            ("redirect_dir=nofollow", "choose on, off or follow"),
        ] {
            let refused = read_all(list).unwrap_err();
            assert!(refused.contains(part), "{list}: {refused}");
        }
        let mut options = Options::default();
        read(OsStr::new("frob,ro"), true, &mut options).unwrap();
        assert!(options.set.contains(MsFlags::MS_RDONLY));
        assert!(read(OsStr::new("frob,lowerdir="), true, &mut options).is_err());
    }
}
