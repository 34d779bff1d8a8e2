//! Where mount namespaces show what lies at the mapped paths. Told from lists of
//! mounts alone: no filesystem is asked.

use std::path::{Path, PathBuf};

use crate::sys::cached;
use crate::sys::mountinfo::{self, Mount};

/// What a mapped path shows in this process's namespace: a part of a filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    mapped: PathBuf,
    device: String,
    inner: PathBuf,
}

/// A directory or file of a namespace in which a part shows, or something of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    at: PathBuf,
    /// The same for who looks below the mapped path.
    mapped: PathBuf,
    /// The number of the mount that shows it.
    mount: u64,
    /// What files in it are said to lie on; `None` where that can be untrue.
    device: Option<String>,
}

impl Part {
    /// What shows at each mapped path, or will when it is made.
    pub fn all(mapped: &[PathBuf], own: &[Mount]) -> Vec<Part> {
        let part = |path: &PathBuf| {
            let number = path.ancestors().find_map(|dir| cached::lies(dir).ok());
            let number = number.and_then(|lies| lies.mount);
            let numbered = own.iter().find(|mount| Some(mount.id) == number);
            let mount = numbered.or_else(|| mountinfo::holding(own, path))?;
            let below = path.strip_prefix(&mount.at).ok()?;
            Some(Part {
                mapped: path.clone(),
                device: mount.device.clone(),
                inner: below_dir(&mount.root, below),
            })
        };
        mapped.iter().filter_map(part).collect()
    }
}

impl Place {
    /// The places in a namespace with these mounts.
    pub fn all(parts: &[Part], mounts: &[Mount]) -> Vec<Place> {
        let place = |part: &Part, mount: &Mount| {
            let (at, mapped) = if let Ok(below) = part.inner.strip_prefix(&mount.root) {
                (below_dir(&mount.at, below), part.mapped.clone())
            } else {
                let below = mount.root.strip_prefix(&part.inner).ok()?;
                (mount.at.clone(), below_dir(&part.mapped, below))
            };
            // Before Linux 6.8 maps name the disk that an overlay's file is on.
            let device = (mount.kind != "overlay").then(|| mount.device.clone());
            Some(Place {
                at,
                mapped,
                mount: mount.id,
                device,
            })
        };
        let pairs = parts
            .iter()
            .flat_map(|part| mounts.iter().map(move |mount| (part, mount)));
        pairs
            .filter(|(part, mount)| part.device == mount.device)
            .filter_map(|(part, mount)| place(part, mount))
            .collect()
    }

    /// The path below the mapped path of what a process knows as `path`.
    pub fn mapped(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.at).ok()?;
        Some(below_dir(&self.mapped, below))
    }

    /// Whether this is the mount with that number.
    pub fn is_mount(&self, number: u64) -> bool {
        self.mount == number
    }

    /// Whether a file in it can lie on that device.
    pub fn may_lie_on(&self, device: &str) -> bool {
        self.device.as_ref().is_none_or(|own| own == device)
    }
}

/// [`Path::join`] that adds no slash for the directory itself.
fn below_dir(dir: &Path, below: &Path) -> PathBuf {
    match below.as_os_str().is_empty() {
        true => dir.to_path_buf(),
        false => dir.join(below),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, device: &str, root: &str, at: &str) -> Mount {
        Mount {
            id,
            device: device.into(),
            root: root.into(),
            at: at.into(),
            kind: "ext4".into(),
            source: "disk".into(),
            ..Mount::default()
        }
    }

    #[test]
    fn a_part_shows_under_other_names_too() {
        let part = Part {
            mapped: "/harness".into(),
            device: "8:1".into(),
            inner: "/disk/harness".into(),
        };
        let mounts = [
            mount(1, "8:1", "/", "/"),
            mount(2, "8:1", "/disk", "/mnt"),
            mount(3, "8:1", "/disk/harness/src", "/srv/src"),
            mount(4, "8:1", "/other", "/other"),
            mount(5, "8:2", "/", "/harness"),
            mount(6, "8:1", "/disk/harness", "/bound"),
        ];
        let places = Place::all(&[part], &mounts);
        let shown: Vec<(u64, &str)> = places
            .iter()
            .map(|place| (place.mount, place.at.to_str().unwrap()))
            .collect();
        let expected = [
            (1, "/disk/harness"),
            (2, "/mnt/harness"),
            (3, "/srv/src"),
            (6, "/bound"),
        ];
        assert_eq!(shown, expected);
        let seen = |place: usize, path| places[place].mapped(Path::new(path));
        assert_eq!(seen(1, "/mnt/harness/a"), Some("/harness/a".into()));
        assert_eq!(seen(1, "/mnt/other"), None);
        assert_eq!(
            seen(2, "/srv/src/main.c"),
            Some("/harness/src/main.c".into())
        );
        assert_eq!(seen(3, "/bound").unwrap().to_str(), Some("/harness"));
    }

    #[test]
    fn what_is_not_there_yet_shows_where_it_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().canonicalize().unwrap().join("a/b");
        let own = mountinfo::own().unwrap();
        let parts = Part::all(std::slice::from_ref(&missing), &own);
        let places = Place::all(&parts, &own);
        assert!(places.iter().any(|place| place.at == missing), "{places:?}");
    }
}
