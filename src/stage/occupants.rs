//! Processes that already use a mapped path when a stage is to be mounted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::places::{Part, Place};
use crate::sys::{cached, mountinfo};
use crate::tree::Ino;
use crate::tree::shown::shown;

/// A process that uses a mapped path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Its number.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// What it has open for writing there, or its working directory.
    pub path: PathBuf,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}): {}", self.name, self.pid, shown(&self.path))
    }
}

/// Who uses what the mapped paths show in the mount namespace of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupants {
    /// Files open for writing, or mapped shared and writable; in any namespace.
    pub writers: Vec<Occupant>,
    /// Processes of this namespace that only have their working directory there.
    pub visitors: Vec<Occupant>,
}

impl Occupants {
    /// What to tell of those who are still there when the stage ends.
    pub fn at_the_end(&self) -> Vec<String> {
        let writer = |writer: &Occupant| {
            format!(
                "{} (pid {}) had {} open for writing; what it writes there from now on is lost",
                writer.name,
                writer.pid,
                shown(&writer.path)
            )
        };
        let visitor = |visitor: &Occupant| {
            format!(
                "{} (pid {}) is still in {} of the stage; in a shell, `cd .` leaves it",
                visitor.name,
                visitor.pid,
                shown(&visitor.path)
            )
        };
        let writers = self.writers.iter().map(writer);
        writers.chain(self.visitors.iter().map(visitor)).collect()
    }
}

/// Looks at every process; those that end meanwhile or that may not be looked
/// at are passed over, and so are the processes of `except` where they are only
/// visitors: what somebody gave them to write to would be lost as any other.
pub fn find(mapped: &[PathBuf], except: &[i32]) -> Occupants {
    let mut found = Occupants::default();
    let mounts = mountinfo::own().unwrap_or_default();
    let parts = Part::all(mapped, &mounts);
    let mut known: HashMap<u64, Vec<Place>> = HashMap::new();
    let own = mount_namespace("self");
    known.extend(own.map(|own| (own, Place::all(&parts, &mounts))));
    for pid in processes() {
        let process = pid.to_string();
        let Some(namespace) = mount_namespace(&process) else {
            continue;
        };
        let places = match known.entry(namespace) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => match mountinfo::of(&process) {
                Ok(mounts) => new.insert(Place::all(&parts, &mounts)),
                Err(_) => continue,
            },
        };
        if places.is_empty() {
            continue;
        }
        let occupant = |path: PathBuf| Occupant {
            pid,
            name: name(pid),
            path,
        };
        if let Some(path) = written(&process, places) {
            found.writers.push(occupant(path));
        } else if !except.contains(&pid)
            && Some(namespace) == own
            && let Some(path) = visited(&process, places)
        {
            found.visitors.push(occupant(path));
        }
    }
    found
}

/// Who has the file open for writing that a view knows by `ino`, with the name
/// of each. Numbers of new files are so high that no disk has them.
pub fn writers(ino: Ino) -> Vec<(i32, String)> {
    let writes = |pid: &i32| {
        let process = pid.to_string();
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"));
        descriptors
            .into_iter()
            .flatten()
            .flatten()
            .any(|descriptor| {
                let number = descriptor.file_name();
                let number = number.to_string_lossy();
                fdinfo(&process, &number, "ino:").is_some_and(|text| text.parse() == Ok(ino))
                    && open_for_writing(&process, &number)
            })
    };
    let all = processes().into_iter().filter(writes);
    all.map(|pid| (pid, name(pid))).collect()
}

/// Whether a process has something open that lies on one of these mounts of these
/// devices, also where they are mounted nowhere any more.
pub fn has_open(process: &str, mounts: &[u64], devices: &[String]) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"));
    descriptors.into_iter().flatten().flatten().any(|open| {
        let number = open.file_name();
        let mount = fdinfo(process, &number.to_string_lossy(), "mnt_id:");
        // Numbers of mounts that are gone are given to others.
        mount.is_some_and(|id| id.parse().is_ok_and(|id| mounts.contains(&id)))
            && cached::lies(&open.path()).is_ok_and(|lies| devices.contains(&lies.device))
    })
}

/// Whether a process has files of one of these devices mapped.
pub fn maps(process: &str, devices: &[String]) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    // address perms offset dev inode path (proc_pid_maps(5))
    let mut mapped = maps
        .lines()
        .filter_map(|line| decimal(line.split_ascii_whitespace().nth(3)?));
    mapped.any(|device| devices.contains(&device))
}

/// The numbers of all processes.
pub fn processes() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect()
}

/// A process's name, as `ps` shows it.
pub fn name(pid: i32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// What tells mount namespaces apart (namespaces(7)).
pub fn mount_namespace(process: &str) -> Option<u64> {
    let link = std::fs::metadata(format!("/proc/{process}/ns/mnt"));
    link.ok().map(|metadata| metadata.ino())
}

/// A file inside that the process can write to through what it has open now.
fn written(process: &str, places: &[Place]) -> Option<PathBuf> {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    for descriptor in descriptors.flatten() {
        let Ok(path) = std::fs::read_link(descriptor.path()) else {
            continue;
        };
        let number = descriptor.file_name();
        let number = number.to_str()?;
        // The path alone may be that of another mount at the same place.
        let is_mount = |place: &Place| {
            let mount = fdinfo(process, number, "mnt_id:").and_then(|id| id.parse().ok());
            mount.is_some_and(|id| place.is_mount(id))
        };
        if let Some(path) = inside(&path, places, is_mount)
            && open_for_writing(process, number)
            && path.exists()
        {
            return Some(path);
        }
    }
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    maps.lines().find_map(|line| {
        // address perms offset dev inode path (proc_pid_maps(5))
        let mut fields = line.split_ascii_whitespace();
        let perms = fields.nth(1)?;
        let device = decimal(fields.nth(1)?)?;
        let path = Path::new(line.get(line.find('/')?..)?);
        if perms.as_bytes().get(1) != Some(&b'w') || !perms.ends_with('s') {
            return None;
        }
        inside(path, places, |place| place.may_lie_on(&device))
    })
}

/// The working directory of a process, if it is inside.
fn visited(process: &str, places: &[Place]) -> Option<PathBuf> {
    let link = PathBuf::from(format!("/proc/{process}/cwd"));
    let path = std::fs::read_link(&link).ok()?;
    inside(&path, places, |place| {
        let mount = cached::lies(&link).ok().and_then(|lies| lies.mount);
        mount.is_none_or(|id| place.is_mount(id))
    })
}

/// The path below a mapped path of what a process knows as `path`, if that is in
/// a place that `fits`.
fn inside(path: &Path, places: &[Place], fits: impl Fn(&Place) -> bool) -> Option<PathBuf> {
    let at = |place: &Place| place.mapped(path).filter(|_| fits(place));
    places.iter().find_map(at)
}

/// A device as mountinfo has it, from the two hexadecimal numbers in maps.
fn decimal(device: &str) -> Option<String> {
    let (major, minor) = device.split_once(':')?;
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok();
    Some(format!("{}:{}", number(major)?, number(minor)?))
}

/// A field of what is told of a descriptor (proc_pid_fdinfo(5)).
fn fdinfo(process: &str, number: &str, field: &str) -> Option<String> {
    let info = std::fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().to_owned())
}

/// The open flags stand there in octal.
fn open_for_writing(process: &str, number: &str) -> bool {
    let flags =
        fdinfo(process, number, "flags:").and_then(|flags| i32::from_str_radix(&flags, 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    /// Runs `body` while a shell, once it is ready, waits in or over `dir`.
    fn beside(script: &str, dir: &Path, body: impl FnOnce(i32)) {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{script}; echo; read line")])
            .env("DIR", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        body(i32::try_from(child.id()).unwrap());
        let _ = child.stdin.take().unwrap().write_all(b"\n");
        child.wait().unwrap();
    }

    #[test]
    fn writers_and_visitors_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        File::create(root.join("file")).unwrap();
        let mapped = [root.clone()];
        beside("exec 5>>\"$DIR/file\"", &root, |pid| {
            let found = find(&mapped, &[]);
            assert_eq!(found.writers.len(), 1, "{found:?}");
            assert_eq!(found.writers[0].pid, pid);
            assert_eq!(found.writers[0].path, root.join("file"));
            assert_eq!(found.visitors, []);
            assert_eq!(find(&mapped, &[pid]), found);
        });
        beside("cd \"$DIR\"; exec 5<file", &root, |pid| {
            let found = find(&mapped, &[]);
            assert_eq!(found.writers, []);
            assert_eq!(found.visitors.len(), 1, "{found:?}");
            assert_eq!(
                (found.visitors[0].pid, &*found.visitors[0].name),
                (pid, "sh")
            );
            assert_eq!(find(&mapped, &[pid]), Occupants::default());
        });
        assert_eq!(find(&mapped, &[]), Occupants::default());
    }
}
