//! The processes that a command has started, however it started them.

use std::collections::{HashMap, HashSet};
use std::thread;

use nix::sys::prctl;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

use crate::error::{Context, Result};
use crate::stage::occupants;

/// From here on, processes that lose their parent stay below this one
/// (`PR_SET_CHILD_SUBREAPER`), and can be found by that.
///
/// # Errors
/// As prctl(2).
pub fn adopt() -> Result<()> {
    prctl::set_child_subreaper(true).context(|| "take in orphans")
}

/// Buries the adopted that end before the command does: nobody else would, and
/// what is not waited for takes a number (wait(2)).
pub fn bury_adopted(command: i32) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    thread::spawn(move || {
        while let Some(ended) = waitid(Id::All, look).ok().and_then(|ended| ended.pid())
            && ended != Pid::from_raw(command)
        {
            let _ = waitpid(ended, None);
        }
    });
}

/// A process and all below it that run, without this process itself.
pub fn of(root: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let mut ended = HashSet::from([nix::unistd::getpid().as_raw()]);
    for pid in occupants::processes() {
        let Some((parent, runs)) = look(pid) else {
            continue;
        };
        children.entry(parent).or_default().push(pid);
        if !runs {
            ended.insert(pid);
        }
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    all.retain(|pid| !ended.contains(pid));
    all
}

/// The parent of a process, and whether it has not ended (proc_pid_stat(5)).
fn look(pid: i32) -> Option<(i32, bool)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // Its name can hold anything.
    let (_, stat) = stat.rsplit_once(')')?;
    let mut fields = stat.split_ascii_whitespace();
    let state = fields.next()?;
    Some((fields.next()?.parse().ok()?, !matches!(state, "Z" | "X")))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn those_below_and_no_zombies() {
        let script = "sleep 1000 & echo $!; read none; kill $!";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let below: i32 = lines.next().unwrap().unwrap().parse().unwrap();
        let number = |child: &Child| i32::try_from(child.id()).unwrap();
        let root = number(&child);
        assert_eq!(of(root), [root, below]);
        assert!(of(std::process::id().cast_signed()).contains(&below));
        let mut zombie = Command::new("true").spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while look(number(&zombie)).unwrap().1 {
            assert!(Instant::now() < deadline);
        }
        assert_eq!(of(number(&zombie)), Vec::<i32>::new());
        zombie.wait().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
