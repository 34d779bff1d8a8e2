//! Limits that whoever runs `mount` has set for itself, not for the stage.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

/// Lifts those that would end the process (getrlimit(2)), as far as it may.
///
/// A write that is too long nevertheless is to be an error for whoever asked
/// for it, so `SIGXFSZ` is held back; threads that are started later inherit that.
pub fn lift() {
    for resource in [Resource::RLIMIT_FSIZE, Resource::RLIMIT_CPU] {
        // More than the hard limit needs CAP_SYS_RESOURCE.
        let lifted = setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY).or_else(|_| raise(resource));
        if let Err(errno) = lifted {
            log::warn!("{resource:?} stays as it is: {errno}");
        }
    }
    // What all steps together have open, we may have open too; each of them has
    // a limit of its own.
    if let Err(errno) = raise(Resource::RLIMIT_NOFILE) {
        log::warn!("the limit of open files stays low: {errno}");
    }
    let mut held = SigSet::empty();
    held.add(Signal::SIGXFSZ);
    if let Err(errno) = held.thread_block() {
        log::warn!("SIGXFSZ is not held back: {errno}");
    }
}

fn raise(resource: Resource) -> nix::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    setrlimit(resource, hard, hard)
}
