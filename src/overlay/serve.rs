//! The process that serves an overlay: from the mount to the unmount, and what is left to do then.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;

use super::check::check;
use super::claim::{Claim, Left};
use super::{Config, Said};
use crate::daemon::{lift_limits, start_log};
use crate::error::{Error, Result};
use crate::fuse::{FuseOptions, FuseSession, mount_with};
use crate::layer::{DiskNumbers, Inos, Layer, Lower, Manner, OpenLayer, Scratch, Stack, settle};
use crate::stage::Session;
use crate::sys::mountinfo::OF_A_STAGE;
use crate::sys::{at, memory, mount};
use crate::tree::shown::shown;
use crate::view::View;

/// What there is to write, and to put in order at the end.
struct Written {
    scratch: Scratch,
    stack: Stack,
    claim: Claim,
}

/// Serves in a process of its own, away from the terminal; says on standard output when it is
/// mounted. Returns the exit code when it is not mounted any more.
pub fn serve_detached(config: &Config) -> u8 {
    // Fails only for the leader of a process group, which a child is not.
    let _ = nix::unistd::setsid();
    match std::io::stdout().as_fd().try_clone_to_owned() {
        Ok(out) => serve(config, File::from(out)),
        Err(_) => 1,
    }
}

/// Mounts, says through `ready` that it is or why not, and serves until it is unmounted or a
/// signal ends it. Returns the exit code.
pub fn serve(config: &Config, mut ready: File) -> u8 {
    let _ = nix::sys::prctl::set_name(c"harness-fs");
    let _ = std::env::set_current_dir("/");
    // Modes come from the requests.
    nix::sys::stat::umask(Mode::empty());
    start_log(config.log.as_deref());
    lift_limits();
    memory::give_back_large();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Before there are threads, so that all inherit it.
    if let Err(errno) = signals.thread_block() {
        log::warn!("signals are not held back: {errno}");
    }
    let (session, written) = match start(config) {
        Ok(started) => started,
        Err(error) => {
            Said::Failed(error.to_string()).say(&mut ready);
            return 1;
        }
    };
    log::info!("serving {}", shown(&config.at));
    let session = Arc::new(session);
    if !Said::Mounted.say(&mut ready) {
        // Nobody knows of it.
        let _ = session.unmount();
    }
    drop(ready);
    let ended = session.clone();
    let waits = std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while signals.wait().is_ok() {
                if let Err(error) = ended.unmount() {
                    log::error!("{error}");
                }
            }
        });
    if let Err(error) = waits {
        log::warn!("nobody waits for signals: {error}");
    }
    session.wait();
    match written.map_or(Ok(()), |written| end(&session, &written)) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("{}: {error}", shown(&config.at));
            1
        }
    }
}

fn start(config: &Config) -> Result<(FuseSession, Option<Written>)> {
    check(config)?;
    if config.source.starts_with(OF_A_STAGE) {
        let text = format!(
            "'{}' cannot be the source: stages are called so",
            config.source
        );
        return Err(Error::new(Errno::EINVAL, text));
    }
    let inos = Arc::new(Inos::new(1));
    let scratch = match &config.upper {
        Some(upper) => Some(Scratch::new(&upper.dir, &upper.work)?),
        None => None,
    };
    let roots = clones(config)?;
    let claim = Claim::lock(config, &roots, scratch.as_ref())?;
    let name = match &scratch {
        Some(scratch) => scratch.name().to_os_string(),
        None => "root".into(),
    };
    let room = at::dup(&roots[0])?;
    let stack = lower(config, roots, &name, &inos)?;
    let options = FuseOptions {
        source: config.source.clone(),
        passthrough: config.passthrough,
    };
    let mount = |open: OpenLayer| {
        let view = View::alone(stack.clone(), open, inos.clone(), &name)?;
        mount_with(view, &config.at, &options, config.flags.set())
    };
    let (Some(scratch), Some(upper)) = (scratch, &config.upper) else {
        let open = OpenLayer::unwritten(mount::detached(c"tmpfs")?, room)?;
        return Ok((mount(open)?, None));
    };
    let manner = Manner {
        parts: config.metacopy,
        redirects: config.redirects,
        ..Manner::default()
    };
    if claim.look(config, upper, &scratch)? == Left::Unsettled {
        log::info!("upperdir {} is put in order", shown(&upper.dir));
        settle(&scratch.open(manner, inos.clone())?, &stack)?;
        scratch.sweep()?;
    }
    claim.begin(config, upper, &scratch)?;
    let session = scratch.open(manner, inos.clone()).and_then(mount);
    let written = Written {
        scratch,
        stack,
        claim,
    };
    match session {
        Ok(session) => {
            written.claim.mounted(&config.at, session.connection());
            Ok((session, Some(written)))
        }
        Err(error) => {
            // Nothing was written.
            let undone = written.scratch.sweep().and_then(|()| written.claim.end());
            if let Err(second) = undone {
                log::error!("{second}");
            }
            Err(error)
        }
    }
}

/// Clones of the lower directories' mounts that nobody can write through, that what is mounted
/// later is not in, and that keep nobody from unmounting those; the uppermost first.
fn clones(config: &Config) -> Result<Vec<OwnedFd>> {
    let mut roots = Vec::new();
    for dir in &config.lower {
        let root = mount::clone_read_only(dir)?;
        mount::make_private(&root)?;
        roots.push(root);
    }
    Ok(roots)
}

/// The stack of the lower directories.
fn lower(config: &Config, roots: Vec<OwnedFd>, name: &OsStr, inos: &Arc<Inos>) -> Result<Stack> {
    let devices = roots.iter().map(|root| Ok(at::fstat(root)?.dev));
    let devices: Vec<u64> = devices.collect::<Result<_>>()?;
    let numbers = Arc::new(DiskNumbers::of_lower(inos.clone(), devices));
    let layer = |(dir, root): (&PathBuf, OwnedFd)| -> Arc<dyn Layer> {
        let id = shown(dir).into_owned();
        Arc::new(Lower::new(id, root, name.to_os_string(), numbers.clone()))
    };
    // A stack begins with the lowest.
    let layers = config.lower.iter().zip(roots).map(layer);
    let mut layers: Vec<_> = layers.collect();
    layers.reverse();
    Ok(Stack::new(layers))
}

/// Puts the upper directory in order, which nobody writes any more.
fn end(session: &FuseSession, written: &Written) -> Result<()> {
    written.claim.ending();
    let open = session.view().close()?;
    settle(&open, &written.stack)?;
    written.scratch.sweep()?;
    // As an unmount of the disk itself, the whole is there after a power failure.
    nix::unistd::syncfs(written.scratch.upper()?)?;
    written.claim.end()
}
