//! Other processes, held by descriptor so that a number used again is no danger.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

use crate::error::Result;

/// A process that cannot be mistaken for a later one with the same number
/// (pidfd_open(2)). Readable, to poll(2), once the process has ended.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// Takes hold of the process that has this number now.
    ///
    /// # Errors
    /// As pidfd_open(2): `ESRCH` when there is none.
    pub fn open(pid: i32) -> Result<Process> {
        // SAFETY: both arguments are plain numbers.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel just returned this descriptor and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Process { pid, fd })
    }

    /// Sends a signal; a process that has ended meanwhile is no failure.
    ///
    /// # Errors
    /// As pidfd_send_signal(2), but for `ESRCH`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open; a null siginfo means the default one.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal as i32,
                no_info,
                0,
            )
        };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl std::os::fd::AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The supplementary groups of a thread (proc_pid_status(5), `Groups`).
///
/// # Errors
/// `ENOENT` when there is none of this number, else as read(2).
pub fn groups(pid: u32) -> Result<Vec<u32>> {
    let status = std::fs::read(format!("/proc/{pid}/status"))?;
    // A thread's name may be any bytes.
    let status = String::from_utf8_lossy(&status);
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    let groups = groups.unwrap_or_default().split_whitespace();
    Ok(groups.filter_map(|group| group.parse().ok()).collect())
}

/// Makes every descriptor but the three standard ones close when another
/// program is executed (close_range(2)): a daemon must not hold open what its
/// starter's callers forgot to close.
///
/// # Errors
/// As close_range(2).
pub fn close_on_exec() -> Result<()> {
    // SAFETY: only sets a flag on descriptors, closes none.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(done)?;
    Ok(())
}

/// Who a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
}

/// Starts a command as a user, with that user's groups and no others.
pub fn run_as(command: &mut Command, user: User) {
    let groups: Vec<libc::gid_t> = user.groups;
    let change = move || {
        // In this order: setgroups(2) and setgid(2) need what setuid(2) gives up.
        // SAFETY: the list outlives the call, which reads no more of it than its length.
        Errno::result(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
        // SAFETY: a plain number.
        Errno::result(unsafe { libc::setgid(user.gid) })?;
        // SAFETY: a plain number.
        Errno::result(unsafe { libc::setuid(user.uid) })?;
        Ok(())
    };
    // SAFETY: it makes three system calls, which are safe after fork(2) in a process that has
    // one thread then (signal-safety(7)), and allocates nothing.
    unsafe { command.pre_exec(change) };
}

/// A further descriptor of the same file, of the first number from `least` on that is free;
/// it closes when another program is executed.
///
/// # Errors
/// As fcntl(2).
pub fn duplicate(file: &OwnedFd, least: RawFd) -> Result<OwnedFd> {
    // SAFETY: the descriptor is open.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Starts a command with one more descriptor open, under the number that it has here.
pub fn hand_over(command: &mut Command, fd: RawFd) {
    let keep = move || {
        // SAFETY: it changes a flag of a descriptor.
        Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
        Ok(())
    };
    // SAFETY: it makes one system call, which is safe after fork(2) (signal-safety(7)).
    unsafe { command.pre_exec(keep) };
}

/// These signals, to be blocked and read (signalfd(2)), without those that this process was
/// started to ignore: `nohup` has it so of `SIGHUP`, and a shell of `SIGINT` and `SIGQUIT` for what
/// a script runs in the background. The kernel queues a blocked signal even where it is ignored.
pub fn heeded(signals: &[Signal]) -> SigSet {
    let signals = signals.iter().copied();
    signals.filter(|signal| !is_ignored(*signal)).collect()
}

fn is_ignored(signal: Signal) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action it only writes the present one (sigaction(2)).
    let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: it was written where the call succeeded.
    asked == 0 && unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Whether [`hear_children`] has found that nobody wanted to hear of them.
static CHILDREN_IGNORED: AtomicBool = AtomicBool::new(false);

/// Lets this process learn how its children end, whatever its starter did: an
/// ignored `SIGCHLD` outlives execve(2), and then the kernel buries them without
/// a word (wait(2), "Notes").
pub fn hear_children() {
    // SAFETY: the default is no handler that could run at a bad moment.
    let before = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    // It fails only for signals that there are not.
    let ignored = matches!(before, Ok(SigHandler::SigIgn));
    CHILDREN_IGNORED.store(ignored, Ordering::Relaxed);
}

/// Starts a command with `SIGCHLD` as this process was started with it.
pub fn hear_as_before(command: &mut Command) {
    if !CHILDREN_IGNORED.load(Ordering::Relaxed) {
        return;
    }
    // Here it would race with the end of the child.
    let ignore = || {
        // SAFETY: ignoring is no handler.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
        Ok(())
    };
    // SAFETY: it makes one system call, which is safe after fork(2) (signal-safety(7)).
    unsafe { command.pre_exec(ignore) };
}
