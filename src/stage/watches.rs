//! What happens in the stage view by a merge, for those who watch it with inotify.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::changes::between;
use super::occupants;
use crate::error::Result;
use crate::layer::Stack;
use crate::tree::union::Found;
use crate::tree::{Ino, Kind};

/// Something that a watcher would have been told, had it been done in the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Below the mount point of the view.
    pub path: PathBuf,
    /// What it is, or was.
    pub kind: Kind,
    /// What happened.
    pub event: Event,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is not there any more, and neither is the inode.
    Removed,
    /// Its name is not there any more; the inode may be, under another.
    Unnamed,
    /// It is new.
    Made,
    /// It has another content.
    Changed,
    /// It has another owner or mode.
    Attributes,
}

/// The inodes of a FUSE mount that processes watch with inotify(7), by the minor
/// number of its device. The kernel tells it of each inotify descriptor
/// (proc_pid_fdinfo(5)), and nowhere else.
pub fn watched(minor: u64) -> BTreeSet<Ino> {
    let mut inodes = BTreeSet::new();
    for pid in occupants::processes() {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let is_inotify = std::fs::read_link(descriptor.path())
                .is_ok_and(|what| what.as_os_str() == "anon_inode:inotify");
            if is_inotify {
                let number = descriptor.file_name();
                let info = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
                let info = std::fs::read_to_string(info).unwrap_or_default();
                inodes.extend(info.lines().filter_map(|line| watch(line, minor)));
            }
        }
    }
    inodes
}

/// `inotify wd:1 ino:9e7e sdev:800013 mask:800afce …`, all in hexadecimal; the
/// device as the kernel has it, with the minor number in the lower 20 bits.
fn watch(line: &str, minor: u64) -> Option<Ino> {
    let mut fields = line.strip_prefix("inotify ")?.split(' ');
    let mut field = |name: &str| {
        let text = fields.find_map(|field| field.strip_prefix(name))?;
        u64::from_str_radix(text, 16).ok()
    };
    let ino = field("ino:")?;
    (field("sdev:")? == minor).then_some(ino)
}

/// What those who watch these inodes are to be told: of the inodes themselves, and
/// of the names in directories. What lies below a directory that is new or gone is
/// not told, as when it is moved.
///
/// # Errors
/// What the layers report.
pub(super) fn happenings(
    old: &Stack,
    new: &Stack,
    known: impl Fn(Ino) -> bool,
    watched: &BTreeSet<Ino>,
) -> Result<Vec<Happening>> {
    let (mut all, mut made) = (Vec::new(), BTreeSet::new());
    between(old, new, &mut |difference| {
        let (a, b) = (difference.old, difference.new);
        let is_root = difference.parent.is_none();
        let stays = match (a, b) {
            (Some(a), Some(b)) => {
                is_root || (a.attr.ino == b.attr.ino && a.attr.kind == b.attr.kind)
            }
            _ => is_root,
        };
        let names = difference.parent.is_some_and(|dir| watched.contains(&dir));
        let told = names || a.is_some_and(|a| watched.contains(&a.attr.ino));
        let mut add = |kind, event| {
            all.push((
                a.map(|a| a.attr.ino),
                Happening {
                    path: difference.path.to_path_buf(),
                    kind,
                    event,
                },
            ));
        };
        match (a, b) {
            (Some(a), Some(b)) if stays => {
                if told && let Some(event) = changed(a, b) {
                    add(b.attr.kind, event);
                }
            }
            _ => {
                if let Some(a) = a.filter(|_| told) {
                    add(a.attr.kind, Event::Removed);
                }
                if let Some(b) = b {
                    made.insert(b.attr.ino);
                    if names {
                        add(b.attr.kind, Event::Made);
                    }
                }
            }
        }
        let is_known = |ino| difference.parent.is_none() || known(ino);
        Ok(stays && a.is_some_and(|a| a.attr.is_dir() && is_known(a.attr.ino)))
    })?;
    let all = all.into_iter().map(|(ino, mut happening)| {
        let elsewhere = ino.is_some_and(|ino| made.contains(&ino));
        // Where it may have gone cannot be said of a directory: it need not be looked at.
        if happening.event == Event::Removed && (elsewhere || happening.kind == Kind::Dir) {
            happening.event = Event::Unnamed;
        }
        happening
    });
    Ok(all.collect())
}

/// What became of an inode that is there before and after.
fn changed(a: &Found, b: &Found) -> Option<Event> {
    let (was, is) = (&a.attr, &b.attr);
    let dressed = |attr: &crate::tree::Attr| (attr.perm, attr.uid, attr.gid);
    if was.kind == Kind::File && (was.size, was.mtime) != (is.size, is.mtime) {
        Some(Event::Changed)
    } else if dressed(was) != dressed(is) {
        Some(Event::Attributes)
    } else if was.kind == Kind::File && a.parts != b.parts {
        // Written anew with the old times, perhaps.
        Some(Event::Changed)
    } else {
        None
    }
}

impl Happening {
    /// The directory, and the name in it.
    pub fn place(&self) -> (&Path, &Path) {
        let name = self.path.file_name().map_or(Path::new(""), Path::new);
        (self.path.parent().unwrap_or(Path::new("")), name)
    }

    /// It has to be told while the kernel still knows what was there.
    pub fn comes_first(&self) -> bool {
        self.event == Event::Removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_read() {
        let line =
            "inotify wd:3 ino:9e7e sdev:62 mask:800afce ignored_mask:0 fhandle-bytes:8 f_handle:7e";
        assert_eq!(watch(line, 0x62), Some(0x9e7e));
        assert_eq!(watch(line, 0x63), None);
        assert_eq!(watch("pos:\t0", 0x62), None);
    }

    #[test]
    fn who_watches_is_found() {
        use std::os::unix::fs::MetadataExt;

        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().metadata().unwrap();
        let device = nix::sys::stat::major(meta.dev()) << 20 | nix::sys::stat::minor(meta.dev());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        assert!(!watched(device).contains(&meta.ino()));
        inotify
            .add_watch(dir.path(), AddWatchFlags::IN_CREATE)
            .unwrap();
        assert!(watched(device).contains(&meta.ino()));
    }
}
