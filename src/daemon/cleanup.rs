//! Takes away what a daemon that died had mounted, so that nothing hangs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Result;
use crate::stage::survivors::{self, Guests};
use crate::stage::{VIEWS, slots, stage_mount};
use crate::sys::connection::Abort;
use crate::sys::mount;
use crate::sys::mountinfo::{self, Mount};

/// How long the processes of steps may take to end.
const GRACE: Duration = Duration::from_secs(1);

/// Aborts the connections of a stage whose daemon is gone, ends the processes of
/// its steps, and unmounts all its mounts lazily. Returns where they were. Its
/// slots stay, for the containers that have them bound see what `mount --resume`
/// brings.
///
/// # Errors
/// As read(2) on the list of mounts, and umount2(2); every mount is tried.
pub fn clean(state_dir: &Path, label: &str) -> Result<Vec<PathBuf>> {
    let mounts = mountinfo::own()?;
    let left = of_stage(&mounts, state_dir, label);
    if left.is_empty() {
        return Ok(Vec::new());
    }
    abort(&left);
    // First: a container must not pass for a part of the step that it shows.
    let slots = mounts.iter().filter(|mount| slots::is_slot(mount));
    let slots: Vec<&Mount> = slots.collect();
    let in_slot = |mount: &&&Mount| {
        let mut slots = slots.iter();
        slots.any(|slot| mountinfo::is_below(mount, &slot.at))
    };
    let shown = left.iter().filter(in_slot).map(|mount| mount.at.clone());
    let shown: Vec<PathBuf> = shown.collect();
    let guests = Guests::of(&shown).unwrap_or_default();
    for at in shown.iter().rev() {
        // What is left there is tried again below.
        let _ = mount::detach(at);
    }
    // Who was in a step finds nothing there any more, but files that the kernel
    // serves by itself can still be written: in a layer that is soon sealed.
    let stage_view = stage_mount(state_dir);
    let steps = left.iter().filter(|mount| {
        // Not the stage view: everybody may have that.
        mountinfo::is_below(mount, &state_dir.join(VIEWS)) && mount.at != stage_view
    });
    let views: Vec<PathBuf> = steps.map(|mount| mount.at.clone()).collect();
    match survivors::end_in_containers(&views, &guests, GRACE) {
        Ok(ended) => ended
            .iter()
            .for_each(|one| log::info!("ended with its step: {one}")),
        Err(error) => log::error!("{error}"),
    }
    let mut result = Ok(());
    for mount in left.iter().rev() {
        result = result.and(mount::detach(&mount.at));
    }
    result.map(|()| left.into_iter().map(|mount| mount.at.clone()).collect())
}

/// The mounts of a stage: by their source, or by the device of a view in its
/// state directory, which their binds share. Elsewhere below that may lie the
/// state of another stage.
fn of_stage<'a>(mounts: &'a [Mount], state_dir: &Path, label: &str) -> Vec<&'a Mount> {
    let source = format!("harness-fs:{label}");
    let views = state_dir.join(VIEWS);
    let is_ours = |mount: &&Mount| mountinfo::is_ours(&mount.kind);
    let devices: BTreeSet<&str> = mounts
        .iter()
        .filter(is_ours)
        .filter(|mount| mount.source == *source || mountinfo::is_below(mount, &views))
        .map(|mount| mount.device.as_str())
        .collect();
    let shares = |mount: &&Mount| devices.contains(mount.device.as_str());
    mounts.iter().filter(is_ours).filter(shares).collect()
}

/// Aborts connections. The kernel does the same once the last descriptor of
/// the device is closed; this is for one that was passed on.
fn abort(mounts: &[&Mount]) {
    let minors: BTreeSet<&str> = mounts.iter().filter_map(|mount| mount.minor()).collect();
    for minor in minors {
        if let Err(error) = Abort::of(minor).and_then(|connection| connection.abort()) {
            log::warn!("not aborted: {error}");
        }
    }
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
            ..Mount::default()
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
            mount("0:61", "/state/other/views/stage/mnt", ours, "elsewhere"),
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
