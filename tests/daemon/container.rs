//! What a container runtime does (mount_namespaces(7), pivot_root(2)), without one.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::rig::{LIMIT, Rig};

/// Shell functions: `make ROOT` makes a root with the system's programs, `bind
/// FROM TO` binds something into it as a slave, `enter` makes it the root, with a
/// `/proc` of its own process namespace.
pub const RUNTIME: &str = r#"
    make() {
        root=$1
        mkdir "$root"; mount -t tmpfs -o mode=755 container "$root"
        mkdir "$root/proc" "$root/tmp" "$root/old" "$root/usr" "$root/dev"
        : >"$root/dev/null"; mount --bind /dev/null "$root/dev/null"
        mount --rbind -o ro /usr "$root/usr"
        for dir in /bin /sbin /lib /lib64; do
            if [ -L "$dir" ]; then cp -P "$dir" "$root$dir"
            elif [ -d "$dir" ]; then mkdir "$root$dir"; mount --bind "$dir" "$root$dir"; fi
        done
    }
    bind() {
        if [ -d "$1" ]; then mkdir -p "$root$2"
        else mkdir -p "$(dirname "$root$2")"; : >"$root$2"; fi
        mount --rbind "$1" "$root$2"; mount --make-rslave "$root$2"
    }
    enter() {
        cd "$root"
        mount -t proc proc proc
        pivot_root . old
        umount -l old; rmdir old
        cd /
    }
"#;

/// Ends the output of a command; no text has it.
const END: u8 = 0x1e;

/// In mount and process namespaces of its own.
pub fn namespaces() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "slave", "--pid", "--fork"]);
    unshare.args(["--kill-child", "sh", "-euc"]);
    unshare
}

/// A running container, whose first process is a shell that waits for commands.
pub struct Container {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Container {
    /// Starts one that has each of `binds`, from and to, bound as a slave.
    #[track_caller]
    pub fn start(rig: &Rig, name: &str, binds: &[(&Path, &str)]) -> Container {
        let mut script = format!("{RUNTIME}\nmake \"$1\"\n");
        for (from, to) in binds {
            script += &format!("bind '{}' '{to}'\n", from.display());
        }
        script += "enter\nexec sh";
        let mut child = namespaces();
        child.arg(script).arg("sh").arg(rig.path().join(name));
        child.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut container = Container {
            child,
            stdin,
            stdout,
        };
        assert_eq!(container.ask("echo here"), "here\n");
        container
    }

    /// What its shell prints for some commands, with what goes wrong.
    #[track_caller]
    pub fn ask(&mut self, script: &str) -> String {
        writeln!(self.stdin, "{{ {script}\n}} 2>&1; printf '\\036'").unwrap();
        let deadline = Instant::now() + LIMIT;
        let mut said = Vec::new();
        while said.last() != Some(&END) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut polled = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap();
            let ready = nix::poll::poll(&mut polled, timeout).unwrap();
            assert!(ready > 0, "a container hangs: {script}");
            let mut byte = [0];
            let read = self.stdout.read(&mut byte).unwrap();
            let so_far = String::from_utf8_lossy(&said);
            assert!(read > 0, "a container has ended: {script}: {so_far}");
            said.push(byte[0]);
        }
        said.pop();
        String::from_utf8(said).unwrap()
    }

    /// kill -9 of its first process, and of all others with it.
    #[track_caller]
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
