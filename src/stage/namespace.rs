//! A step's mount namespace: its view over every mapped path, and nothing of
//! the stage's other mounts.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::{StepView, stage_mount};
use crate::error::{Context, Error, Result};
use crate::sys::{mount, mountinfo};

/// The socket in the state directory that steps see, for what they may ask the daemon.
pub const STEP_SOCKET: &str = "step.sock";

/// The mounts as they were, to go back to.
///
/// The command line enters a step's namespace only to start the command there.
/// If it stayed, it would keep the view's mounts busy until it ends.
#[derive(Debug)]
pub struct Outside {
    namespace: File,
    cwd: Option<PathBuf>,
}

/// Puts this process into a mount namespace of its own that shows the view, in
/// the caller's working directory if that lies in a mapped path, else in the
/// workspace. Returns the way back.
///
/// A process with threads cannot go back (setns(2)); the caller has none.
///
/// # Errors
/// As unshare(2), open_tree(2), move_mount(2) and mount(2).
pub fn enter(view: &StepView) -> Result<Outside> {
    let namespace = File::open("/proc/self/ns/mnt").context(|| "/proc/self/ns/mnt")?;
    let cwd = std::env::current_dir().ok();
    let outside = Outside { namespace, cwd };
    mount::unshare()?;
    let shown =
        show(view).and_then(|()| chdir(working_directory(&view.mapped, outside.cwd.as_deref())));
    match shown {
        Ok(()) => Ok(outside),
        Err(error) => {
            outside.leave()?;
            Err(error)
        }
    }
}

impl Outside {
    /// Goes back to the mounts and the working directory from before.
    ///
    /// # Errors
    /// As setns(2).
    pub fn leave(self) -> Result<()> {
        nix::sched::setns(&self.namespace, CloneFlags::CLONE_NEWNS)
            .context(|| "go back to the mount namespace")?;
        if let Some(cwd) = &self.cwd {
            // A directory that was removed meanwhile is nobody's loss.
            let _ = std::env::set_current_dir(cwd);
        }
        Ok(())
    }
}

/// The directory a command starts in: the caller's, or the workspace.
pub fn working_directory<'a>(mapped: &'a [PathBuf], cwd: Option<&'a Path>) -> &'a Path {
    let workspace = mapped.first().map_or(Path::new("/"), PathBuf::as_path);
    cwd.filter(|cwd| mapped.iter().any(|root| cwd.starts_with(root)))
        .filter(|cwd| cwd.is_dir())
        .unwrap_or(workspace)
}

fn chdir(dir: &Path) -> Result<()> {
    std::env::set_current_dir(dir).context(|| format!("cd {}", dir.display()))
}

fn show(view: &StepView) -> Result<()> {
    let open = |mount: &Path| File::open(mount).context(|| mount.display().to_string());
    let own = open(&view.mount)?;
    let stage = match view.live.is_empty() {
        true => None,
        false => Some(open(&stage_mount(&view.state_dir))?),
    };
    for (index, path) in view.mapped.iter().enumerate() {
        let live = stage.as_ref().filter(|_| view.live.contains(path));
        let tree = mount::clone_mount(live.unwrap_or(&own), Path::new(&index.to_string()))
            .map_err(|error| elsewhere(error, view))
            .context(|| format!("bind {}", path.display()))?;
        // The stage's own view; beneath it lies the base. Also of a live path: what
        // somebody has mounted there meanwhile is not in the stage.
        mount::detach(path)?;
        mount::attach(tree, path)?;
    }
    drop((own, stage));
    // The mounts of this and of all other views lie in the state directory: a
    // copy of them here would keep each alive until this step ends.
    let mounts = mountinfo::own()?;
    for inside in mounts.iter().rev() {
        if mountinfo::is_below(inside, &view.state_dir) {
            mount::detach(&inside.at)?;
        }
    }
    for other in &view.other_mounts {
        mount::detach(other)?;
    }
    // What steps may ask the daemon for they ask there.
    let socket = Path::new(STEP_SOCKET);
    let clone = || mount::clone_mount(&open(&view.state_dir)?, socket);
    let socket = match view.state_dir.join(socket).exists() {
        true => Some((socket, clone().context(|| "bind the socket for steps")?)),
        false => None,
    };
    mount::hide(&view.state_dir, &view.hidden_by, socket)
}

/// A namespace that was copied before the stage was mounted, or that hears of no
/// mounts outside, lacks the view (mount_namespaces(7)).
fn elsewhere(error: Error, view: &StepView) -> Error {
    let seen =
        mountinfo::own().is_ok_and(|mounts| mounts.iter().any(|mount| mount.at == view.mount));
    if seen || error.errno() != Errno::ENOENT {
        return error;
    }
    let text = "the daemon mounts views in another mount namespace than this process is in: run it where the \
                stage was mounted, or with `nsenter -t PID -m`; `harness-fs status` shows the daemon's PID";
    Error::new(Errno::ENOENT, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_start_where_the_caller_is_if_that_is_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        let inner = shared.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        let mapped = [PathBuf::from("/no-workspace"), shared];
        assert_eq!(working_directory(&mapped, Some(&inner)), inner);
        assert_eq!(working_directory(&mapped, Some(dir.path())), mapped[0]);
        assert_eq!(
            working_directory(&mapped, Some(&inner.join("gone"))),
            mapped[0]
        );
        assert_eq!(working_directory(&mapped, None), mapped[0]);
    }
}
