//! Processes that already use a mapped path when a stage is to be mounted.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;

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

/// Who uses the mapped paths, in the mount namespace of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupants {
    /// Files open for writing, or mapped shared and writable.
    pub writers: Vec<Occupant>,
    /// Processes that only have their working directory there.
    pub visitors: Vec<Occupant>,
}

impl Occupants {
    /// What to tell of those who are still there when the stage ends.
    pub fn at_the_end(&self) -> Vec<String> {
        let writer = |writer: &Occupant| {
            format!("had a file open for writing, and writes no longer reach it: {writer}")
        };
        let visitor = |visitor: &Occupant| {
            format!("is still in a directory of the stage; in a shell, `cd .` leaves it: {visitor}")
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
    let own = mount_namespace("self");
    for pid in processes() {
        let process = pid.to_string();
        // Elsewhere the same path is another file.
        if mount_namespace(&process) != own {
            continue;
        }
        let occupant = |path: PathBuf| Occupant {
            pid,
            name: name(pid),
            path,
        };
        let inside = |path: &Path| mapped.iter().any(|root| path.starts_with(root));
        if let Some(path) = written(&process, &inside) {
            found.writers.push(occupant(path));
        } else if !except.contains(&pid)
            && let Ok(cwd) = std::fs::read_link(format!("/proc/{process}/cwd"))
            && inside(&cwd)
        {
            found.visitors.push(occupant(cwd));
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
fn written(process: &str, inside: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    for descriptor in descriptors.flatten() {
        let Ok(path) = std::fs::read_link(descriptor.path()) else {
            continue;
        };
        let number = descriptor.file_name();
        if inside(&path) && open_for_writing(process, number.to_str()?) && path.exists() {
            return Some(path);
        }
    }
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    maps.lines().find_map(|line| {
        // address perms offset dev inode path (proc_pid_maps(5))
        let mut fields = line.split_ascii_whitespace();
        let perms = fields.nth(1)?;
        let path = Path::new(line.get(line.find('/')?..)?);
        (perms.as_bytes().get(1) == Some(&b'w') && perms.ends_with('s') && inside(path))
            .then(|| path.to_path_buf())
    })
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
