//! Which paths can be mapped: the rules that need no look at what is there.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::bind::stage_of;
use super::{Failure, State};
use crate::merge::SharingMode;
use crate::sys::location::lies_in;
use crate::sys::mountinfo::{self, Mount};

/// Places that belong to the kernel; nothing at or below them can be mapped.
const RESERVED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The mapped paths of a stage as they will be mounted, the workspace first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Absolute paths without symbolic links.
    pub paths: Vec<PathBuf>,
    /// What the user should know: a sentence for each symbolic link followed.
    pub notes: Vec<String>,
}

/// Checks the workspace and the shared paths against the rules and against
/// each other and the state directory, and that against other stages, following
/// symbolic links. What one of them is told by is not its name alone: see
/// [`lies_in`].
///
/// A mapped path that is a symbolic link, or lies behind one, is mapped where
/// it leads: then both names show the same tree.
///
/// # Errors
/// [`Failure::Usage`] with one sentence; as read(2) for the list of mounts.
pub fn resolve(workspace: &Path, shared: &[PathBuf], state_dir: &Path) -> Result<Mapped, Failure> {
    let mounts = mountinfo::own()?;
    let mut mapped = Mapped {
        paths: Vec::new(),
        notes: Vec::new(),
    };
    for given in std::iter::once(workspace).chain(shared.iter().map(PathBuf::as_path)) {
        let plain = normalise(given)?;
        let path = follow(&plain)?;
        if path != plain {
            reserved(given, &path)?;
            mapped.notes.push(format!(
                "{} is reached through a symbolic link: {} is mapped",
                plain.display(),
                path.display()
            ));
        }
        apart(&path, given, &mapped.paths, &mounts)?;
        if mapped.paths.is_empty() && path.exists() && !path.is_dir() {
            return Err(Failure::Usage(format!(
                "{} cannot be the workspace: it is no directory, and steps run in it",
                quoted(given)
            )));
        }
        mapped.paths.push(path);
    }
    let state = follow(state_dir)?;
    outside_of_stages(&state, &mounts)?;
    for path in &mapped.paths {
        if lies_in(&state, path, &mounts) {
            return Err(Failure::Usage(format!(
                "the state directory {} lies inside the mapped path {}; choose another with --state-dir",
                state.display(),
                path.display()
            )));
        }
        if lies_in(path, &state, &mounts) {
            return Err(Failure::Usage(format!(
                "the mapped path {} lies inside the state directory {}",
                path.display(),
                state.display()
            )));
        }
    }
    Ok(mapped)
}

/// The modes of shared paths, by the paths that are mapped. `given` are the
/// workspace and the shared paths as [`resolve`] had them, `modes` names some by
/// these names or by where they lead. What is merged, as all else, is left out.
///
/// # Errors
/// [`Failure::Usage`] with one sentence for a path that is not shared, is named
/// twice, or is the workspace.
pub fn sharing(
    mapped: &[PathBuf],
    given: &[&Path],
    modes: &[(PathBuf, SharingMode)],
) -> Result<BTreeMap<PathBuf, SharingMode>, Failure> {
    let mut all = BTreeMap::new();
    for (path, mode) in modes {
        let plain = normalise(path)?;
        let named = |index: &usize| {
            mapped[*index] == plain || normalise(given[*index]).is_ok_and(|given| given == plain)
        };
        let found = (0..mapped.len().min(given.len())).find(named);
        let Some(index) = found else {
            return Err(Failure::Usage(format!(
                "{} has the sharing mode {mode} but is no shared path: add --shared-path {}",
                quoted(path),
                plain.display()
            )));
        };
        if index == 0 && *mode != SharingMode::Merge {
            return Err(Failure::Usage(format!(
                "{} is the workspace, which is always merged: only a shared path can be {mode}",
                quoted(path)
            )));
        }
        if all.insert(mapped[index].clone(), *mode).is_some() {
            let text = format!("{} has two sharing modes", quoted(path));
            return Err(Failure::Usage(text));
        }
    }
    all.retain(|_, mode| *mode != SharingMode::Merge);
    Ok(all)
}

/// Sees that a state directory is not part of another stage: it would be out of
/// reach, or removed, once that is unmounted, and nothing could end its daemon.
fn outside_of_stages(state: &Path, mounts: &[Mount]) -> Result<(), Failure> {
    let refuse = |what: String| {
        Err(Failure::Usage(format!(
            "the state directory {} lies inside {what}; choose another with --state-dir",
            state.display()
        )))
    };
    // Also what is mounted there meanwhile goes with the stage.
    let around = |mount: &&Mount| mount.is_of_stage() && state.starts_with(&mount.at);
    if let Some(mount) = mounts.iter().find(around) {
        let (at, stage) = (mount.at.display(), stage_of(mount));
        return refuse(format!("{at}, which belongs to the stage {stage}"));
    }
    match state.ancestors().skip(1).find(|dir| State::is_in(dir)) {
        Some(other) => refuse(format!("that of another stage, {}", other.display())),
        None => Ok(()),
    }
}

/// Brings a path into its one form: no trailing slash, no `//`, no `.`.
///
/// # Errors
/// [`Failure::Usage`] for a path that is empty, relative, not UTF-8, `/`, below
/// a place of the kernel's, or has a `..` in it.
pub fn normalise(given: &Path) -> Result<PathBuf, Failure> {
    let refuse = |why: &str| Err(Failure::Usage(format!("{} {why}", quoted(given))));
    if given.to_str().is_none() {
        return refuse("cannot be mapped: it is not UTF-8");
    }
    if !given.is_absolute() {
        return refuse("cannot be mapped: it must be absolute, such as /vol");
    }
    let mut path = PathBuf::from("/");
    for component in given.components() {
        match component {
            Component::ParentDir => return refuse("cannot be mapped: it contains '..'"),
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    reserved(given, &path)?;
    Ok(path)
}

fn reserved(given: &Path, path: &Path) -> Result<(), Failure> {
    if path == Path::new("/") {
        let text = format!("{} cannot be mapped: it is the root", quoted(given));
        return Err(Failure::Usage(text));
    }
    match RESERVED.iter().find(|place| path.starts_with(place)) {
        None => Ok(()),
        Some(place) => Err(Failure::Usage(format!(
            "{} cannot be mapped: {place} belongs to the kernel",
            quoted(given)
        ))),
    }
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

fn apart(path: &Path, given: &Path, others: &[PathBuf], mounts: &[Mount]) -> Result<(), Failure> {
    for other in others {
        let inside = lies_in(path, other, mounts);
        let around = lies_in(other, path, mounts);
        let relation = match (inside, around) {
            (true, true) if path == other => "is mapped twice".to_owned(),
            (true, true) => format!("is the mapped path {} under another name", other.display()),
            (true, false) => format!("lies inside the mapped path {}", other.display()),
            (false, true) => format!("contains the mapped path {}", other.display()),
            (false, false) => continue,
        };
        return Err(Failure::Usage(format!("{} {relation}", quoted(given))));
    }
    Ok(())
}

/// Follows the symbolic links of what is there of a path; the rest stays.
fn follow(path: &Path) -> Result<PathBuf, Failure> {
    let mut there = path;
    loop {
        match there.canonicalize() {
            Ok(real) => {
                let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
                let real = if rest.as_os_str().is_empty() {
                    real
                } else {
                    real.join(rest)
                };
                return Ok(real);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // A dead mount (the daemon in it was killed) is cleaned later.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::ENOTCONN | nix::libc::ECONNABORTED)
                ) => {}
            Err(error) => {
                let text = format!("{} cannot be mapped: {error}", quoted(path));
                return Err(Failure::Usage(text));
            }
        }
        if there.is_symlink() {
            let text = format!(
                "{} cannot be mapped: {} is a symbolic link that leads nowhere",
                quoted(path),
                there.display()
            );
            return Err(Failure::Usage(text));
        }
        match there.parent() {
            Some(parent) => there = parent,
            None => return Ok(path.to_path_buf()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(workspace: &str, shared: &[&str], state: &str) -> String {
        let shared: Vec<PathBuf> = shared.iter().map(PathBuf::from).collect();
        match resolve(Path::new(workspace), &shared, Path::new(state)) {
            Err(Failure::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_with_a_sentence() {
        let table: [(&str, &[&str], &str); 17] = [
            ("/etc/passwd", &[], "cannot be the workspace"),
            ("harness", &[], "must be absolute"),
            ("", &[], "must be absolute"),
            ("/", &[], "is the root"),
            ("//", &[], "is the root"),
            ("/./", &[], "is the root"),
            ("/a/../b", &[], "contains '..'"),
            ("/proc", &[], "belongs to the kernel"),
            ("/proc/1/x", &[], "belongs to the kernel"),
            ("/sys/", &[], "belongs to the kernel"),
            ("/dev/shm/x", &[], "belongs to the kernel"),
            ("/no-a", &["/no-a/"], "is mapped twice"),
            ("/no-a", &["/no-a//b"], "lies inside the mapped path /no-a"),
            ("/no-a/b", &["/no-a"], "contains the mapped path /no-a/b"),
            ("/no-a", &["/no-b", "/./no-b/."], "is mapped twice"),
            ("/no-state/x", &[], "inside the state directory"),
            ("/no-parent", &["/no-p2"], ""),
        ];
        for (workspace, shared, part) in table {
            let state = if part.is_empty() {
                "/no-parent/s"
            } else {
                "/no-state"
            };
            let text = sentence(workspace, shared, state);
            assert!(text.contains(part), "{workspace} {shared:?}: {text}");
        }
    }

    #[test]
    fn names_that_only_look_nested_are_apart() {
        let shared = [PathBuf::from("/no-a-b"), PathBuf::from("/no/a")];
        let mapped = resolve(Path::new("/no-a/"), &shared, Path::new("/no-state")).unwrap();
        let expected = ["/no-a", "/no-a-b", "/no/a"].map(PathBuf::from);
        assert_eq!(mapped.paths, expected);
        assert!(mapped.notes.is_empty());
    }

    #[test]
    fn modes_are_of_shared_paths() {
        use SharingMode::{Locked, Merge, Private, Shared};
        let mapped = ["/ws", "/real/npm", "/m2"].map(PathBuf::from);
        let given = ["/ws", "/link/npm/", "/m2"].map(Path::new);
        let modes = |modes: &[(&str, SharingMode)]| {
            let modes: Vec<_> = modes.iter().map(|(p, m)| (p.into(), *m)).collect();
            sharing(&mapped, &given, &modes).map_err(|failure| failure.to_string())
        };
        let both = modes(&[("/link//npm", Shared), ("/m2/", Locked)]).unwrap();
        let expected = [("/real/npm", Shared), ("/m2", Locked)];
        assert_eq!(both, expected.map(|(p, m)| (p.into(), m)).into());
        assert_eq!(
            modes(&[("/ws", Merge), ("/m2", Merge)]),
            Ok(BTreeMap::new())
        );
        for (wrong, part) in [
            (&[("/ws", Shared)][..], "is the workspace"),
            (&[("/other", Private)], "add --shared-path /other"),
            (&[("m2", Private)], "must be absolute"),
            (&[("/m2", Merge), ("/m2/.", Shared)], "two sharing modes"),
        ] {
            let text = modes(wrong).unwrap_err();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn links_are_followed_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("to")).unwrap();
        std::os::unix::fs::symlink("to", real.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", real.join("dead")).unwrap();
        std::os::unix::fs::symlink("/proc", real.join("proc")).unwrap();
        let state = Path::new("/no-state");
        let mapped = resolve(&real.join("link/new"), &[], state).unwrap();
        assert_eq!(mapped.paths, [real.join("to/new")]);
        assert_eq!(mapped.notes.len(), 1);
        let dead = resolve(&real.join("dead"), &[], state).unwrap_err();
        assert!(dead.to_string().contains("leads nowhere"), "{dead}");
        let kernel = resolve(&real.join("proc/x"), &[], state).unwrap_err();
        assert!(kernel.to_string().contains("kernel"), "{kernel}");
        let twice = [real.join("link")];
        let twice = resolve(&real.join("to"), &twice, state).unwrap_err();
        assert!(twice.to_string().contains("twice"), "{twice}");
    }
}
