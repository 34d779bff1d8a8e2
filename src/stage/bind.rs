//! The stage view over the mapped paths: what must hold before, and the binds.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;

use super::{Failure, occupants};
use crate::error::{Context, Error, Result};
use crate::sys::made::Made;
use crate::sys::mount;
use crate::sys::mountinfo::{self, Mount};
use crate::tree::Kind;
use crate::tree::shown::shown;

/// Its number (capability.h).
const CAP_SYS_ADMIN: u32 = 21;
/// How long a mount may take to say whether it is alive.
const ALIVE: Duration = Duration::from_secs(2);

/// Checks what the paths and the machine are like now, and takes away what a
/// killed daemon has left at the mapped paths.
///
/// Returns sentences the user should read: who still sees the old directories.
/// Processes in `except` (those of the mount itself) do not count.
///
/// # Errors
/// One sentence each: not root, no `/dev/fuse`, a path mounted already, mounts
/// below it, files open for writing.
pub fn check(mapped: &[PathBuf], except: &[i32]) -> Result<Vec<String>, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return refuse("mounting needs root: run it with sudo".to_owned());
    }
    if !may_mount() {
        return refuse(
            "mounting needs the capability CAP_SYS_ADMIN, which is not here: start the container with --privileged"
                .to_owned(),
        );
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return refuse(format!(
            "/dev/fuse cannot be opened ({error}): load the kernel module 'fuse', or start the \
             container with --device /dev/fuse"
        ));
    }
    remove_dead(mapped)?;
    let mounts = mountinfo::own()?;
    for path in mapped {
        if let Some(ours) = topmost(&mounts, path).filter(|top| top.is_of_stage()) {
            let stage = stage_of(ours);
            return refuse(format!(
                "{} is already mounted by the stage {stage}: `harness-fs unmount` ends it",
                path.display()
            ));
        }
        let around = mounts
            .iter()
            .find(|mount| mount.is_of_stage() && mountinfo::is_below_dir(path, mount));
        if let Some(ours) = around {
            return refuse(format!(
                "{} lies in {}, which is mounted by the stage {}: one stage cannot be inside another",
                path.display(),
                ours.at.display(),
                stage_of(ours)
            ));
        }
        let below: Vec<String> = mounts
            .iter()
            .filter(|mount| mountinfo::is_below(mount, path))
            .map(|mount| mount.at.display().to_string())
            .collect();
        if !below.is_empty() {
            return refuse(format!(
                "{} cannot be mapped while something is mounted below it: {}",
                path.display(),
                below.join(", ")
            ));
        }
    }
    occupied(mapped, except)
}

/// Whether this process has `CAP_SYS_ADMIN` (capabilities(7), proc_pid_status(5));
/// where that cannot be told, the mount will.
fn may_mount() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_none_or(|effective| effective & (1 << CAP_SYS_ADMIN) != 0)
}

fn refuse<T>(sentence: String) -> Result<T, Failure> {
    Err(Failure::Failed(Error::new(Errno::EBUSY, sentence)))
}

fn occupied(mapped: &[PathBuf], except: &[i32]) -> Result<Vec<String>, Failure> {
    let found = occupants::find(mapped, except);
    if !found.writers.is_empty() {
        let list: Vec<String> = found.writers.iter().map(ToString::to_string).collect();
        return refuse(format!(
            "these processes have files open for writing, which would be lost to the stage; end them first: {}",
            list.join(", ")
        ));
    }
    let visitor = |visitor: &occupants::Occupant| {
        format!(
            "{} (pid {}) is in {} and still sees the old directory there; in a shell, `cd .` enters the stage",
            visitor.name,
            visitor.pid,
            shown(&visitor.path)
        )
    };
    Ok(found.visitors.iter().map(visitor).collect())
}

/// The stage that a mount of ours belongs to.
pub(super) fn stage_of(mount: &Mount) -> String {
    let source = mount.source.to_string_lossy();
    let stage = source.strip_prefix("harness-fs:").unwrap_or(&source);
    format!("'{stage}'")
}

/// Where a stage is mounted here that somebody serves.
///
/// # Errors
/// As read(2) on the list of mounts.
pub fn served_at(label: &str) -> Result<Option<PathBuf>> {
    let source = format!("harness-fs:{label}");
    let mut mounts = mountinfo::own()?.into_iter();
    let served = mounts.find(|mount| {
        mountinfo::is_ours(&mount.kind) && mount.source == *source && !is_dead(&mount.at)
    });
    Ok(served.map(|mount| mount.at))
}

fn topmost<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.at == path)
}

/// Detaches mounts of ours at the mapped paths whose daemon is gone, such as
/// the one a killed container left on a shared volume.
fn remove_dead(mapped: &[PathBuf]) -> Result<()> {
    for path in mapped {
        loop {
            let mounts = mountinfo::own()?;
            let ours = topmost(&mounts, path).filter(|top| top.is_of_stage());
            if ours.is_none() || !is_dead(path) {
                break;
            }
            log::info!(
                "{}: takes away the mount of a daemon that is gone",
                path.display()
            );
            mount::detach(path)?;
        }
    }
    Ok(())
}

/// Whether nobody serves the mount here any more. A daemon that does not
/// answer (stopped, say) is alive; asking it must not hang us. It is asked for what
/// the kernel never keeps: attributes it would give of a dead mount as well.
fn is_dead(path: &Path) -> bool {
    let (sender, answer) = mpsc::channel();
    let path = path.to_path_buf();
    std::thread::spawn(move || {
        let _ = sender.send(nix::sys::statfs::statfs(&path).map(drop));
    });
    let answer = answer.recv_timeout(ALIVE);
    matches!(answer, Ok(Err(Errno::ENOTCONN | Errno::ECONNABORTED)))
}

/// Makes the mapped paths that are missing, as what the layers have there: the
/// workspace open to every user, as CI runners make it, all else as usual;
/// whatever the umask.
///
/// `kinds` says what each path is in the layers, if they have it. A file is not
/// mounted on a directory, nor the other way round (move_mount(2)).
///
/// # Errors
/// One sentence for a path that is there and is another kind of thing, or as
/// mkdir(2) and open(2); then none is made.
pub fn create_missing(mapped: &[PathBuf], kinds: &[Option<Kind>]) -> Result<Made, Failure> {
    let mut made = Made::default();
    for (index, (path, kind)) in mapped.iter().zip(kinds).enumerate() {
        let is_dir = kind.is_none_or(|kind| kind == Kind::Dir);
        match path.metadata() {
            Ok(there) if kind.is_some() && there.is_dir() != is_dir => {
                let (is, wanted) = match is_dir {
                    true => ("a file", "a directory"),
                    false => ("a directory", "a file"),
                };
                return refuse(format!(
                    "{} is {is}, but in the stage to start from it is {wanted}: move it away",
                    path.display()
                ));
            }
            Ok(_) => {}
            Err(_) if !is_dir => made.file(path, 0o644, 0o755)?,
            Err(_) => {
                let mode = if index == 0 { 0o777 } else { 0o755 };
                made.dir(path, mode, 0o755)?;
            }
        }
    }
    Ok(made)
}

/// Binds the entries of a view's mount point, one per mapped path, over the
/// mapped paths, or over their places in a slot. When one fails, those before it
/// are taken away again.
///
/// # Errors
/// As open_tree(2) and move_mount(2).
pub fn bind_mapped(view: &Path, mapped: &[PathBuf]) -> Result<()> {
    bind_each(|_| view, mapped)
}

/// [`bind_mapped`], each of its own view.
///
/// # Errors
/// As [`bind_mapped`].
pub fn bind_each<'a>(view: impl Fn(usize) -> &'a Path, mapped: &[PathBuf]) -> Result<()> {
    for (index, path) in mapped.iter().enumerate() {
        let view = view(index);
        let bound = File::open(view)
            .context(|| view.display().to_string())
            .and_then(|dir| {
                mount::clone_mount(&dir, Path::new(&index.to_string()))
                    .context(|| format!("bind {}", path.display()))
            })
            .and_then(|tree| mount::attach(tree, path));
        if let Err(error) = bound {
            unbind(&mapped[..index])?;
            return Err(error);
        }
    }
    Ok(())
}

/// Takes the binds away again, also while they are in use.
///
/// # Errors
/// As umount2(2); every path is tried.
pub fn unbind(mapped: &[PathBuf]) -> Result<()> {
    if mapped.is_empty() {
        return Ok(());
    }
    let mounts = mountinfo::own()?;
    let mut result = Ok(());
    for path in mapped.iter().rev() {
        if topmost(&mounts, path).is_some_and(Mount::is_of_stage) {
            result = result.and(mount::detach(path));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn missing_paths_are_created_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::create_dir(&there).unwrap();
        std::fs::set_permissions(&there, Permissions::from_mode(0o700)).unwrap();
        let mapped = [dir.path().join("a/b"), there, dir.path().join("c/d")];
        create_missing(&mapped, &[None, None, Some(Kind::Dir)])
            .unwrap()
            .keep();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&mapped[0]), 0o777);
        assert_eq!(mode(mapped[0].parent().unwrap()), 0o755);
        assert_eq!(mode(&mapped[1]), 0o700, "what is there stays as it is");
        assert_eq!(mode(&mapped[2]), 0o755);
    }

    #[test]
    fn a_path_is_made_as_what_the_layers_have_there() {
        let dir = tempfile::tempdir().unwrap();
        let mapped = ["new/ws", "etc/conf.ini"].map(|path| dir.path().join(path));
        let made = create_missing(&mapped, &[None, Some(Kind::File)]).unwrap();
        assert!(mapped[0].is_dir() && mapped[1].is_file());
        let swapped = [Some(Kind::File), None];
        let Failure::Failed(error) = create_missing(&mapped, &swapped).unwrap_err() else {
            panic!("another failure");
        };
        assert!(error.to_string().contains("is a directory, but"), "{error}");
        drop(made);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_stage_is_named_by_the_source() {
        let mount = Mount {
            device: "0:9".into(),
            at: "/harness".into(),
            kind: "fuse.harness-fs".into(),
            source: "harness-fs:ci".into(),
            ..Mount::default()
        };
        assert_eq!(stage_of(&mount), "'ci'");
        assert_eq!(
            topmost(std::slice::from_ref(&mount), Path::new("/harness")),
            Some(&mount)
        );
        assert_eq!(topmost(&[mount], Path::new("/")), None);
    }
}
