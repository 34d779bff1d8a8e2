//! What can be told of the directories before anything is done.

use std::fs::OpenOptions;
use std::path::Path;

use nix::errno::Errno;

use super::{Config, Upper};
use crate::error::{Error, Result};
use crate::sys::location::lies_in;
use crate::sys::mountinfo::{self, Mount};
use crate::tree::shown::shown;

/// What may be in a work directory: ours, and what the kernel's overlayfs leaves there.
const IN_WORK: [&str; 3] = ["harness-fs", "work", "index"];

/// Sees whether it can be mounted, as far as a look tells.
///
/// # Errors
/// One sentence.
pub fn check(config: &Config) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return refuse(Errno::EPERM, "mounting needs root: run it with sudo");
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        let text = format!("/dev/fuse cannot be opened ({error}): load the kernel module 'fuse'");
        return refuse(Errno::ENOENT, text);
    }
    if !config.at.is_dir() {
        let text = format!("{} is not a directory: mount it at one", shown(&config.at));
        return refuse(Errno::ENOTDIR, text);
    }
    let mounts = mountinfo::own()?;
    let mut dirs: Vec<(&str, &Path)> = Vec::new();
    if let Some(upper) = &config.upper {
        dirs.push(("upperdir", &upper.dir));
        dirs.push(("workdir", &upper.work));
    }
    dirs.extend(config.lower.iter().map(|dir| ("lowerdir", dir.as_path())));
    for (index, one) in dirs.iter().enumerate() {
        for other in &dirs[index + 1..] {
            apart(*one, *other, &mounts)?;
        }
    }
    if let Some(upper) = &config.upper {
        unused_by_kernel(upper, &mounts)?;
        work(upper)?;
    }
    Ok(())
}

fn refuse<T>(errno: Errno, text: impl Into<String>) -> Result<T> {
    Err(Error::new(errno, text.into()))
}

/// The kernel's rule too (`ELOOP`, "overlapping layers"): a file that has two places in the tree
/// would be two files that are one.
fn apart(one: (&str, &Path), other: (&str, &Path), mounts: &[Mount]) -> Result<()> {
    let same = lies_in(one.1, other.1, mounts);
    let text = match (same, lies_in(other.1, one.1, mounts)) {
        (false, false) => return Ok(()),
        (true, true) => format!(
            "{} {} and {} {} are one directory",
            one.0,
            shown(one.1),
            other.0,
            shown(other.1)
        ),
        (inside, _) => {
            let (inner, outer) = match inside {
                true => (one, other),
                false => (other, one),
            };
            format!(
                "{} {} lies in {} {}: each directory has to lie outside of the others",
                inner.0,
                shown(inner.1),
                outer.0,
                shown(outer.1)
            )
        }
    };
    refuse(Errno::ELOOP, text)
}

/// Of two that write one upper directory neither would know what the other does.
fn unused_by_kernel(upper: &Upper, mounts: &[Mount]) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    for (name, dir) in [("upperdir", &upper.dir), ("workdir", &upper.work)] {
        let used = |mount: &&Mount| {
            let theirs = mount.option(name);
            mount.kind == "overlay"
                && theirs.is_some_and(|theirs| id(Path::new(&theirs)) == id(dir))
        };
        if let Some(mount) = mounts.iter().find(used) {
            let text = format!(
                "{name} {} is in use by the kernel's overlay that is mounted at {}",
                shown(dir),
                shown(&mount.at)
            );
            return refuse(Errno::EBUSY, text);
        }
    }
    Ok(())
}

/// Sees that nothing of somebody else's is in the work directory.
fn work(upper: &Upper) -> Result<()> {
    let dir = &upper.work;
    let list = dir.read_dir().map_err(|error| {
        let error = Error::from(error);
        Error::new(error.errno(), format!("workdir {}: {error}", shown(dir)))
    })?;
    for entry in list {
        let name = entry?.file_name();
        if !IN_WORK.iter().any(|known| name == **known) {
            let text = format!(
                "workdir {} holds '{}': choose an empty directory",
                shown(dir),
                shown(Path::new(&name))
            );
            return refuse(Errno::ENOTEMPTY, text);
        }
    }
    let index = dir.join("index").read_dir();
    if index.is_ok_and(|mut index| index.next().is_some()) {
        let text = format!(
            "workdir {} holds an index of the kernel's overlay (index=on), which alone knows of some hard links: \
             mount it with the kernel",
            shown(dir)
        );
        return refuse(Errno::EINVAL, text);
    }
    // overlayfs.rst, "volatile mount": what it left may not be whole, and the kernel refuses it too.
    if dir.join("work/incompat").exists() {
        let text = format!(
            "workdir {} is left of a volatile mount of the kernel's, so the upperdir may not be whole: remove {}/work to \
             use it nevertheless",
            shown(dir),
            shown(dir)
        );
        return refuse(Errno::EINVAL, text);
    }
    Ok(())
}
