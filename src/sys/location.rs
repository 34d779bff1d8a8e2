//! Where a path lies, whatever names mounts give it. A bind mount, or one volume
//! mounted in two places, shows one directory under two names (mount(8)), and
//! neither name says so.
//!
//! It is told from the list of mounts alone: a look at the path itself could
//! wait for a FUSE mount that nobody serves.

use std::path::{Path, PathBuf};

use super::mountinfo::Mount;

/// Whether a path is `dir` or lies in it, by its name or because mounts show it
/// there. Both are absolute and without symbolic links; neither has to exist.
///
/// A mapped path counts as what it shows and as the base that it covers.
pub fn lies_in(path: &Path, dir: &Path, mounts: &[Mount]) -> bool {
    if path.starts_with(dir) {
        return true;
    }
    let dirs = both(dir, mounts);
    both(path, mounts).into_iter().flatten().any(|path| {
        let mut dirs = dirs.iter().flatten();
        dirs.any(|dir| path.device == dir.device && path.inner.starts_with(&dir.inner))
    })
}

/// A filesystem, and a path in it.
#[derive(Debug, PartialEq, Eq)]
struct Location<'a> {
    device: &'a str,
    inner: PathBuf,
}

fn both<'a>(path: &Path, mounts: &'a [Mount]) -> [Option<Location<'a>>; 2] {
    [
        locate(path, mounts, |_| true),
        locate(path, mounts, |mount| !mount.is_of_stage()),
    ]
}

/// Goes from mount to mount as the kernel does on the way down a path: at each
/// one it steps into the first that is mounted on it.
fn locate<'a>(
    path: &Path,
    mounts: &'a [Mount],
    counts: impl Fn(&Mount) -> bool,
) -> Option<Location<'a>> {
    // The parent of the root is outside of what the process sees, or itself.
    let is_root = |mount: &&Mount| {
        let known = |other: &Mount| other.id == mount.parent && other.id != mount.id;
        mount.at == Path::new("/") && !mounts.iter().any(known)
    };
    let mut mount = mounts.iter().find(is_root)?;
    // No mount is stepped into twice; a list that was read while mounts moved
    // must not keep us.
    for _ in mounts {
        let here = |inner: &&Mount| {
            inner.parent == mount.id
                && inner.id != mount.id
                && path.starts_with(&inner.at)
                && counts(inner)
        };
        let inner = mounts.iter().filter(here);
        match inner.min_by_key(|inner| inner.at.components().count()) {
            Some(inner) => mount = inner,
            None => break,
        }
    }
    let rest = path.strip_prefix(&mount.at).ok()?;
    Some(Location {
        device: &mount.device,
        inner: mount.root.join(rest),
    })
}

#[cfg(test)]
mod tests {
    use super::super::mountinfo::parse;
    use super::*;

    const MOUNTS: &[u8] = b"\
        20 1 8:1 / / rw - ext4 /dev/root rw\n\
        21 20 0:30 / /run rw - tmpfs tmpfs rw\n\
        30 20 8:1 /srv/base /harness rw - ext4 /dev/root rw\n\
        31 20 8:1 /srv/base/.hfs /state rw - ext4 /dev/root rw\n\
        32 30 0:98 /0 /harness rw - fuse.harness-fs harness-fs:ci rw\n\
        33 20 0:98 /0 /mirror rw - fuse.harness-fs harness-fs:ci rw\n\
        34 20 8:2 / /vol rw - ext4 /dev/vol rw\n\
        35 34 8:2 /a/b /vol/x rw - ext4 /dev/vol rw\n\
        36 34 0:40 / /vol rw - tmpfs tmpfs rw\n";

    fn inside(path: &str, dir: &str) -> bool {
        lies_in(Path::new(path), Path::new(dir), &parse(MOUNTS))
    }

    #[test]
    fn one_directory_under_two_names_is_told() {
        for (path, dir) in [
            ("/srv/base", "/harness"),
            ("/harness", "/srv/base"),
            ("/harness/src", "/srv"),
            ("/srv/base/new/one", "/harness/new"),
            ("/state/default", "/harness"),
            ("/mirror/x", "/harness"),
            ("/harness/x", "/harness"),
            ("/var/new", "/"),
        ] {
            assert!(inside(path, dir), "{path} in {dir}");
        }
        for (path, dir) in [
            ("/srv", "/harness"),
            ("/srv/base-2", "/harness"),
            ("/harness", "/state"),
            ("/run/srv/base", "/harness"),
            ("/var/state", "/state"),
        ] {
            assert!(!inside(path, dir), "{path} in {dir}");
        }
    }

    #[test]
    fn what_is_mounted_over_hides_what_is_below() {
        let mut mounts = parse(MOUNTS);
        let at = |path: &str, mounts: &[Mount]| {
            locate(Path::new(path), mounts, |_| true).map(|found| found.inner)
        };
        // The volume, and what was mounted in it, are covered.
        assert_eq!(at("/vol/x/y", &mounts), Some("/x/y".into()));
        mounts.pop();
        assert_eq!(at("/vol/x/y", &mounts), Some("/a/b/y".into()));
    }
}
