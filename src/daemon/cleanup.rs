//! Takes away what a daemon that died had mounted, so that nothing hangs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::error::{Context, Result};
use crate::sys::mount;
use crate::sys::mountinfo::{self, Mount};

/// Where the kernel lists FUSE connections, if somebody mounted that.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// Where it is mounted in the state directory otherwise, for a moment.
pub const CONNECTIONS_DIR: &str = "connections";

/// Aborts the connections of a stage whose daemon is gone and unmounts all its
/// mounts lazily. Returns where they were.
///
/// # Errors
/// As read(2) on the list of mounts, and umount2(2); every mount is tried.
pub fn clean(state_dir: &Path, label: &str) -> Result<Vec<PathBuf>> {
    let mounts = mountinfo::own()?;
    let left = of_stage(&mounts, state_dir, label);
    if left.is_empty() {
        return Ok(Vec::new());
    }
    abort(&left, state_dir);
    let mut result = Ok(());
    for mount in left.iter().rev() {
        result = result.and(mount::detach(&mount.at));
    }
    result.map(|()| left.into_iter().map(|mount| mount.at.clone()).collect())
}

/// The mounts of a stage: by their source, or by the device of a mount in its
/// state directory, which their binds share.
fn of_stage<'a>(mounts: &'a [Mount], state_dir: &Path, label: &str) -> Vec<&'a Mount> {
    let source = format!("harness-fs:{label}");
    let is_ours = |mount: &&Mount| mountinfo::is_ours(&mount.kind);
    let devices: BTreeSet<&str> = mounts
        .iter()
        .filter(is_ours)
        .filter(|mount| mount.source == *source || mountinfo::is_below(mount, state_dir))
        .map(|mount| mount.device.as_str())
        .collect();
    let shares = |mount: &&Mount| devices.contains(mount.device.as_str());
    mounts.iter().filter(is_ours).filter(shares).collect()
}

/// Aborts connections. The kernel does the same once the last descriptor of
/// the device is closed; this is for one that was passed on.
fn abort(mounts: &[&Mount], state_dir: &Path) {
    let minors: BTreeSet<&str> = mounts.iter().filter_map(|mount| mount.minor()).collect();
    let listed = |dir: &Path| {
        for minor in &minors {
            if let Err(error) = std::fs::write(dir.join(minor).join("abort"), "1") {
                log::debug!("abort of connection {minor}: {error}");
            }
        }
    };
    let common = Path::new(CONNECTIONS);
    if minors.iter().any(|minor| common.join(minor).exists()) {
        return listed(common);
    }
    let own = state_dir.join(CONNECTIONS_DIR);
    match mount_connections(&own) {
        Ok(()) => {
            listed(&own);
            if let Err(error) = mount::detach(&own) {
                log::warn!("{error}");
            }
        }
        Err(error) => log::warn!("cannot abort the connections: {error}"),
    }
    let _ = std::fs::remove_dir(&own);
}

fn mount_connections(at: &Path) -> Result<()> {
    if !at.is_dir() {
        std::fs::create_dir(at).context(|| at.display().to_string())?;
    }
    let none = None::<&str>;
    nix::mount::mount(none, at, Some("fusectl"), MsFlags::empty(), none)
        .context(|| format!("mount fusectl at {}", at.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(device: &str, at: &str, kind: &str, source: &str) -> Mount {
        Mount {
            device: device.into(),
            at: at.into(),
            kind: kind.into(),
            source: source.into(),
        }
    }

    #[test]
    fn the_mounts_of_one_stage_and_no_other() {
        let ours = "fuse.harness-fs";
        let mounts = [
            mount("8:1", "/", "ext4", "/dev/vda"),
            mount("8:1", "/state/views", "ext4", "/dev/vda"),
            mount("0:50", "/state/views/stage/mnt", ours, "something"),
            mount("0:50", "/harness", ours, "something"),
            mount("0:60", "/other", ours, "harness-fs:other"),
            mount("0:70", "/left", ours, "harness-fs:ci"),
            mount("0:71", "/strange", "fuse.sshfs", "harness-fs:ci"),
        ];
        let found = of_stage(&mounts, Path::new("/state"), "ci");
        let at: Vec<&Path> = found.iter().map(|mount| mount.at.as_path()).collect();
        let expected = ["/state/views/stage/mnt", "/harness", "/left"].map(Path::new);
        assert_eq!(at, expected);
    }

    #[test]
    fn nothing_mounted_is_nothing_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            clean(dir.path(), "no-such-stage").unwrap(),
            Vec::<PathBuf>::new()
        );
    }
}
