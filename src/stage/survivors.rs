//! Processes that outlive a step's command: found by its view, told to end,
//! then ended.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{occupants, slots};
use crate::error::{Error, Result};
use crate::sys::cached::{self, Lies};
use crate::sys::mountinfo::{self, Mount};
use crate::sys::process::Process;

/// How many are named in one sentence.
const NAMED: usize = 10;
/// How long the kernel may take to end what was killed.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// A process that was ended with its step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    /// Its number.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// Whether it had to be killed, for it did not end when told to.
    pub killed: bool,
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.killed { ", killed" } else { "" };
        match self.name.as_str() {
            // It ended while it was looked at.
            "" => write!(f, "pid {}{how}", self.pid),
            name => write!(f, "{name} (pid {}{how})", self.pid),
        }
    }
}

/// `ended 2 processes left by the step: gradle (pid 123), …`, or nothing.
pub fn sentence(survivors: &[Survivor]) -> Option<String> {
    let plural = match survivors.len() {
        0 => return None,
        1 => "1 process",
        more => &format!("{more} processes"),
    };
    let shown = survivors.iter().take(NAMED);
    let mut names: Vec<String> = shown.map(ToString::to_string).collect();
    if survivors.len() > NAMED {
        names.push(format!("and {} more", survivors.len() - NAMED));
    }
    let names = names.join(", ");
    Some(format!("ended {plural} left by the step: {names}"))
}

/// The processes in namespaces where a state directory is hidden by one of these
/// ([`StepView::hidden_by`](super::StepView::hidden_by)): those of background
/// steps, which see what everybody sees at the mapped paths.
pub fn find_marked(marks: &[String]) -> Vec<i32> {
    let mut known: HashMap<u64, bool> = HashMap::new();
    let inside = |pid: &i32| {
        let process = pid.to_string();
        let Some(namespace) = occupants::mount_namespace(&process) else {
            return false;
        };
        match known.entry(namespace) {
            hash_map::Entry::Occupied(known) => *known.get(),
            hash_map::Entry::Vacant(new) => match mountinfo::of(&process) {
                Ok(mounts) => *new.insert(mounts.iter().any(|mount| is_marked(mount, marks))),
                // It has ended just now; others in there may be left.
                Err(_) => false,
            },
        }
    };
    if marks.is_empty() {
        return Vec::new();
    }
    occupants::processes().into_iter().filter(inside).collect()
}

fn is_marked(mount: &Mount, marks: &[String]) -> bool {
    mount.kind == "tmpfs" && marks.iter().any(|mark| mount.source == mark.as_str())
}

/// The processes in the views that are mounted at `views`: by the mounts they
/// see, or by where they are themselves.
///
/// # Errors
/// As read(2) on this process's own mounts.
pub fn find(views: &[PathBuf]) -> Result<Vec<i32>> {
    let own = mountinfo::own()?;
    let mounted = of_views(&own, views);
    if mounted.is_empty() {
        return Ok(Vec::new());
    }
    Ok(in_views(&mounted, occupants::processes()))
}

/// The mounts here that have the device of one that is mounted at such a place.
fn of_views(own: &[Mount], at: &[PathBuf]) -> Vec<Mount> {
    let views = own.iter().filter(|mount| at.contains(&mount.at));
    let devices: Vec<&String> = views.map(|view| &view.device).collect();
    let same = |mount: &&Mount| devices.contains(&&mount.device);
    own.iter().filter(same).cloned().collect()
}

/// A process is in a view if its mount namespace has the view's device
/// elsewhere than this one has it (at the view's own mount point, and in a slot):
/// whoever merely copied all mounts (`unshare -m`, a container about to start, the
/// namespace of a sibling step in the making) has it there only and is none of
/// ours. One that has put the view out of its mounts (`umount -l`) is in it while
/// it stays there; so is one in a container that saw the view in a slot.
fn in_views(views: &[Mount], processes: Vec<i32>) -> Vec<i32> {
    let own = occupants::mount_namespace("self");
    let mut known: HashMap<u64, Mounts> = HashMap::new();
    let inside = |pid: &i32| {
        let process = pid.to_string();
        let Some(namespace) = occupants::mount_namespace(&process) else {
            return false;
        };
        if Some(namespace) == own {
            return false;
        }
        let seen = match known.entry(namespace) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(new) => match Mounts::of(&process, views) {
                Ok(mounts) => new.insert(mounts),
                // It has ended just now; others in there may be left.
                Err(_) => return false,
            },
        };
        seen.show_a_view || stays_in(views, &process, &seen.all)
    };
    processes.into_iter().filter(inside).collect()
}

/// The mounts of a namespace.
struct Mounts {
    all: Vec<Mount>,
    show_a_view: bool,
}

impl Mounts {
    fn of(process: &str, views: &[Mount]) -> Result<Mounts> {
        let all = mountinfo::of(process)?;
        Ok(Mounts {
            show_a_view: all.iter().any(|mount| shows(mount, views)),
            all,
        })
    }
}

/// Whether a mount of another namespace is none of those that it has copied.
fn shows(mount: &Mount, views: &[Mount]) -> bool {
    let mut same = views.iter().filter(|view| view.device == mount.device);
    let first = same.next();
    first.is_some_and(|first| first.at != mount.at && same.all(|other| other.at != mount.at))
}

/// The containers that see a view in a slot. When it is taken away there, what
/// uses it goes on without: it is ended with the step, and the rest of the
/// container lives on for the next one.
#[derive(Debug, Default)]
pub struct Guests {
    devices: Vec<String>,
    /// By the mount namespace.
    mounts: HashMap<u64, Seen>,
}

/// What there is to see in one of them.
#[derive(Debug)]
struct Seen {
    /// The mounts of views.
    shown: Vec<u64>,
    all: Vec<Mount>,
}

impl Guests {
    /// Of the views that are mounted at these places of slots. Asked for before
    /// they are taken away.
    ///
    /// # Errors
    /// As read(2) on this process's own mounts.
    pub fn of(places: &[PathBuf]) -> Result<Guests> {
        let mut guests = Guests::default();
        if places.is_empty() {
            return Ok(guests);
        }
        let own = mountinfo::own()?;
        let views = of_views(&own, places);
        guests.devices = views.iter().map(|view| view.device.clone()).collect();
        let slots: Vec<&Mount> = own.iter().filter(|mount| holds(mount, places)).collect();
        let inside = occupants::mount_namespace("self");
        for pid in occupants::processes() {
            let process = pid.to_string();
            let namespace = occupants::mount_namespace(&process);
            let Some(namespace) = namespace.filter(|found| Some(*found) != inside) else {
                continue;
            };
            if let hash_map::Entry::Vacant(new) = guests.mounts.entry(namespace)
                && let Ok(all) = mountinfo::of(&process)
            {
                let shown = all.iter().filter(|mount| {
                    shows(mount, &views)
                        || guests.devices.contains(&mount.device) && comes_of(mount, &all, &slots)
                });
                let shown = shown.map(|mount| mount.id).collect();
                new.insert(Seen { shown, all });
            }
        }
        guests.mounts.retain(|_, seen| !seen.shown.is_empty());
        Ok(guests)
    }

    /// Those of their processes that work in a view, or have something of it open
    /// or mapped.
    fn at_work(&self) -> Vec<i32> {
        if self.mounts.is_empty() {
            return Vec::new();
        }
        let at_work = |pid: &i32| {
            let process = pid.to_string();
            let namespace = occupants::mount_namespace(&process);
            let seen = namespace.and_then(|namespace| self.mounts.get(&namespace));
            seen.is_some_and(|seen| {
                occupants::has_open(&process, &seen.shown, &self.devices)
                    || occupants::maps(&process, &self.devices)
                    || self.stays_in(&process, seen)
            })
        };
        let mut processes = occupants::processes();
        processes.retain(at_work);
        processes
    }

    /// As [`stays_in`]; by the mount, for what steps share live is seen elsewhere too.
    fn stays_in(&self, process: &str, seen: &Seen) -> bool {
        ways(process, &seen.all).any(|lies| {
            let shown = lies.mount.is_some_and(|id| seen.shown.contains(&id));
            shown && self.devices.contains(&lies.device)
        })
    }
}

/// Whether it is a slot in which one of these places is.
fn holds(mount: &Mount, places: &[PathBuf]) -> bool {
    slots::is_slot(mount) && places.iter().any(|place| place.starts_with(&mount.at))
}

/// Whether a mount of another namespace has come there by one of these slots, which
/// is bound there and not merely copied. What steps share live is also where the
/// stage is, so its device does not tell.
fn comes_of(mount: &Mount, all: &[Mount], slots: &[&Mount]) -> bool {
    let below = all.iter().find(|below| below.id == mount.parent);
    below.is_some_and(|below| {
        let mut slots = slots.iter();
        slots.any(|slot| slot.device == below.device && slot.at != below.at)
    })
}

/// Whether a process works in a view, or runs a program of it. Not by what it has
/// open: that can have been handed to somebody who does not belong to the step.
fn stays_in(views: &[Mount], process: &str, mounts: &[Mount]) -> bool {
    ways(process, mounts).any(|lies| views.iter().any(|view| view.device == lies.device))
}

/// Where a process works, and its program lies.
fn ways(process: &str, mounts: &[Mount]) -> impl Iterator<Item = Lies> {
    ["cwd", "root", "exe"].into_iter().filter_map(move |way| {
        let way = PathBuf::from(format!("/proc/{process}/{way}"));
        let path = std::fs::read_link(&way).ok()?;
        // A server that does not answer must not hold up the end of a step.
        let safe = !mountinfo::holding(mounts, &path).is_some_and(mountinfo::asks_its_server);
        safe.then(|| cached::lies(&way).ok()).flatten()
    })
}

/// Ends every process in the views: tells all to, and kills those that are left
/// after the grace. Children that they make meanwhile are ended with them.
///
/// # Errors
/// `EBUSY` naming those that the kernel could not end.
pub fn end(views: &[PathBuf], grace: Duration) -> Result<Vec<Survivor>> {
    end_all(|| find(views), grace, None)
}

/// As [`end`], of views that containers saw in a slot until now.
///
/// # Errors
/// As [`end`].
pub fn end_in_containers(
    views: &[PathBuf],
    guests: &Guests,
    grace: Duration,
) -> Result<Vec<Survivor>> {
    let find_all = || {
        let mut found = find(views)?;
        let more = guests.at_work().into_iter();
        let more: Vec<i32> = more.filter(|pid| !found.contains(pid)).collect();
        found.extend(more);
        Ok(found)
    };
    end_all(find_all, grace, None)
}

/// As [`end`], but the grace is over when there is something to read at `over`.
///
/// # Errors
/// As [`end`].
pub fn end_until(
    views: &[PathBuf],
    grace: Duration,
    over: BorrowedFd<'_>,
) -> Result<Vec<Survivor>> {
    end_all(|| find(views), grace, Some(over))
}

/// Ends every process that `find` finds, as [`end`] does, until it finds none.
///
/// # Errors
/// As [`end`], or what `find` reports.
pub fn end_all(
    find: impl Fn() -> Result<Vec<i32>>,
    grace: Duration,
    over: Option<BorrowedFd<'_>>,
) -> Result<Vec<Survivor>> {
    let mut ended: BTreeMap<i32, Survivor> = BTreeMap::new();
    let mut told: BTreeMap<i32, Process> = BTreeMap::new();
    let mut term_until = Instant::now() + grace;
    loop {
        let left = find()?;
        if left.is_empty() {
            return Ok(ended.into_values().collect());
        }
        let now = Instant::now();
        if over.is_some_and(|over| wait(&mut [PollFd::new(over, PollFlags::POLLIN)], now)) {
            term_until = term_until.min(now);
        }
        let kill_until = term_until + KILL_WAIT;
        let kill = now >= term_until;
        if now >= kill_until {
            let names: Vec<String> = left
                .iter()
                .map(|pid| format!("{} (pid {pid})", occupants::name(*pid)))
                .collect();
            let text = format!(
                "processes of the step could not be ended: {}",
                names.join(", ")
            );
            return Err(Error::new(Errno::EBUSY, text));
        }
        told.retain(|pid, _| left.contains(pid));
        let opened: Vec<Process> = left
            .iter()
            .filter(|pid| !told.contains_key(pid))
            .filter_map(|pid| Process::open(*pid).ok())
            .collect();
        // Between the look and the hold a number may have gone to another process.
        let still = if opened.is_empty() {
            Vec::new()
        } else {
            find()?
        };
        for process in opened.into_iter().filter(|new| still.contains(&new.pid)) {
            // Once told it may be gone, and its name with it.
            let name = occupants::name(process.pid);
            if !kill {
                process.signal(Signal::SIGTERM)?;
                // A stopped process acts on it only when it goes on.
                process.signal(Signal::SIGCONT)?;
            }
            let survivor = Survivor {
                pid: process.pid,
                name,
                killed: false,
            };
            ended.insert(process.pid, survivor);
            told.insert(process.pid, process);
        }
        if kill {
            for (pid, process) in &told {
                process.signal(Signal::SIGKILL)?;
                if let Some(survivor) = ended.get_mut(pid) {
                    survivor.killed = true;
                }
            }
        }
        let deadline = if kill { kill_until } else { term_until };
        let until = told.values().map(AsFd::as_fd);
        // Once they are killed it has nothing more to say.
        let until = until.chain(over.filter(|_| !kill));
        let mut until: Vec<PollFd<'_>> =
            until.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        if !told.is_empty() {
            wait(&mut until, deadline);
        }
    }
}

/// Waits until one of them can be read, or for the deadline; says whether one can.
fn wait(polled: &mut [PollFd<'_>], deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up, lest a part of a millisecond makes a loop of it.
    let left = left.as_micros().div_ceil(1000);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    // An interruption only means looking again sooner.
    nix::poll::poll(polled, timeout).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn shell(script: &str) -> (Child, i32) {
        let mut child = Command::new("sh")
            .args(["-c", script])
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
        let pid = i32::try_from(child.id()).unwrap();
        (child, pid)
    }

    /// Those of `pids` that still run; a zombie has no mount namespace to look at.
    fn running(pids: &[i32]) -> Vec<i32> {
        let runs = |pid: &&i32| occupants::mount_namespace(&pid.to_string()).is_some();
        pids.iter().filter(runs).copied().collect()
    }

    #[test]
    fn the_polite_end_and_the_stubborn_are_killed() {
        let (mut polite, polite_pid) = shell("echo; read line");
        let (mut stubborn, stubborn_pid) = shell("trap '' TERM; echo; read line; exec sleep 1000");
        let pids = [polite_pid, stubborn_pid];
        let mut ended = end_all(|| Ok(running(&pids)), Duration::from_millis(50), None).unwrap();
        ended.sort_by_key(|survivor| survivor.pid != polite_pid);
        polite.wait().unwrap();
        stubborn.wait().unwrap();
        assert_eq!(ended.len(), 2);
        assert_eq!((ended[0].pid, ended[0].killed), (polite_pid, false));
        assert_eq!((ended[1].pid, ended[1].killed), (stubborn_pid, true));
        let text = sentence(&ended).unwrap();
        let expected = format!(
            "ended 2 processes left by the step: sh (pid {polite_pid}), sh (pid {stubborn_pid}, killed)"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn the_grace_is_over_when_nobody_waits_for_it_any_more() {
        let (mut stubborn, pid) = shell("trap '' TERM; echo; read line; exec sleep 1000");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        let find = || Ok(running(&[pid]));
        let ended = end_all(find, Duration::from_secs(86_400), Some(reader.as_fd())).unwrap();
        stubborn.wait().unwrap();
        assert!(ended[0].killed);
    }

    #[test]
    fn nobody_left_is_no_sentence() {
        assert_eq!(
            end_all(|| Ok(Vec::new()), Duration::ZERO, None).unwrap(),
            []
        );
        assert_eq!(sentence(&[]), None);
        assert_eq!(
            find(&[PathBuf::from("/no/such/view")]).unwrap(),
            Vec::<i32>::new()
        );
    }
}
