//! A stage of its own for each test, in namespaces of its own: whatever a test
//! mounts or starts ends with it, and nothing it waits for lasts for ever.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use harness_fs::sys::process::Process;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

/// The FUSE mounts that this machine had when the test began: a desktop has some.
static BEFORE: OnceLock<Vec<String>> = OnceLock::new();
/// Set for a test that runs in namespaces of its own.
const INSIDE: &str = "HARNESS_FS_TEST_INSIDE";
/// Seconds for one whole test, on a slow machine.
const TEST_LIMIT: &str = "400";
/// For one command. Nothing here takes long; more than this hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Runs the body of the test that calls it in mount and process namespaces of
/// its own. Afterwards nothing may be mounted, no process of ours may be left,
/// and the base must be as it was.
pub fn alone<F: FnOnce(&Rig)>(body: F) {
    if std::env::var_os(INSIDE).is_some() {
        BEFORE.set(fuse_mounts()).unwrap();
        let rig = Rig::new();
        let base = tree(&rig.ws());
        body(&rig);
        rig.all_gone();
        assert_eq!(tree(&rig.ws()), base, "the base has changed");
        return;
    }
    // `daemon::module::test::{{closure}}`
    let test = std::any::type_name::<F>();
    let test = test.split_once("::").unwrap().1;
    let test = test.strip_suffix("::{{closure}}").unwrap();
    // The shell is the first process there and buries what daemons leave.
    let output = Command::new("timeout")
        .args(["-k", "5", TEST_LIMIT, "unshare", "--mount", "--propagation"])
        .args(["private", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("1 passed"), "{test} did not run: {said}");
}

/// A directory with a workspace that holds files, and a place for the state.
pub struct Rig {
    dir: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// A command that was started.
pub struct Started {
    child: Child,
    out: File,
    err: File,
    what: String,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::Builder::new()
            .prefix("harness-fs-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), all).unwrap();
        let rig = Rig { dir };
        let ws = rig.ws();
        fs::create_dir_all(ws.join("src/deep")).unwrap();
        fs::write(ws.join("readme"), "from the base\n").unwrap();
        fs::write(ws.join("log"), "line\n").unwrap();
        fs::write(ws.join("src/main.c"), "int main;\n").unwrap();
        fs::hard_link(ws.join("readme"), ws.join("src/deep/same")).unwrap();
        std::os::unix::fs::symlink("src/main.c", ws.join("link")).unwrap();
        fs::set_permissions(&ws, fs::Permissions::from_mode(0o777)).unwrap();
        rig
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub fn ws(&self) -> PathBuf {
        self.path().join("ws")
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The program, for this rig's stage.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness-fs"));
        for name in [
            "HARNESS_FS_STAGE",
            "HARNESS_FS_STEP",
            "HARNESS_FS_FAILPOINT",
        ] {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("HARNESS_FS_STATE_DIR", self.state())
            .env(
                "HARNESS_FS_STORE",
                format!("file://{}/store", self.path().display()),
            )
            .current_dir(self.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        start(self.command(arguments)).end()
    }

    /// Runs it; it has to end with 0.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}\n{}", self.log());
        ran
    }

    pub fn start(&self, arguments: &[&str]) -> Started {
        start(self.command(arguments))
    }

    pub fn start_with(&self, arguments: &[&str], name: &str, value: &str) -> Started {
        let mut command = self.command(arguments);
        command.env(name, value);
        start(command)
    }

    /// The processes of ours that run, with their states as `ps` shows them.
    pub fn processes(&self) -> Vec<(i32, char)> {
        ours()
    }

    /// A shell in a step.
    pub fn step(&self, name: &str, options: &[&str], script: &str) -> Ran {
        let tail = ["--", "sh", "-ec", script];
        self.run(&[&["step", "run", name], options, &tail].concat())
    }

    pub fn mount(&self) -> Ran {
        let ws = self.ws();
        self.ok(&["mount", "--workspace", ws.to_str().unwrap()])
    }

    pub fn daemon(&self) -> Daemon {
        let status: serde_json::Value =
            serde_json::from_str(&self.ok(&["status", "--json"]).out).unwrap();
        let pid = |key: &str| i32::try_from(status["daemon"][key].as_i64().unwrap()).unwrap();
        Daemon {
            server: Process::open(pid("pid")).unwrap(),
            supervisor: Process::open(pid("supervisor")).unwrap(),
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.state().join("daemon.log")).unwrap_or_default()
    }

    /// Nothing of ours is mounted and no process is left.
    #[track_caller]
    pub fn all_gone(&self) {
        assert_eq!(mounts(), Vec::<String>::new(), "{}", self.log());
        let deadline = Instant::now() + LIMIT;
        for (pid, _) in ours() {
            // Who has been told to end, or has unmounted last, may still be ending.
            if let Ok(process) = Process::open(pid) {
                let left = deadline.saturating_duration_since(Instant::now());
                assert!(ended(&process, left), "{pid} is left\n{}", self.log());
            }
        }
    }
}

/// The two processes that serve a stage.
pub struct Daemon {
    pub server: Process,
    pub supervisor: Process,
}

impl Daemon {
    #[track_caller]
    pub fn wait(&self) {
        assert!(ended(&self.server, LIMIT), "the server does not end");
        assert!(
            ended(&self.supervisor, LIMIT),
            "the supervisor does not end"
        );
    }

    /// kill -9, and waits until whoever is left has cleaned up.
    #[track_caller]
    pub fn kill_server(&self) {
        self.server.signal(Signal::SIGKILL).unwrap();
        self.wait();
    }
}

/// Waits for a process to end; says whether it has.
pub fn ended(process: &Process, limit: Duration) -> bool {
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(limit).unwrap();
    nix::poll::poll(&mut polled, timeout).unwrap() > 0
}

pub fn start(mut command: Command) -> Started {
    // Files, not pipes: a daemon that kept one open would be waited for.
    let out = tempfile::tempfile().unwrap();
    let err = tempfile::tempfile().unwrap();
    let what = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .spawn()
        .unwrap();
    Started {
        child,
        out,
        err,
        what,
    }
}

impl Started {
    pub fn process(&self) -> Process {
        Process::open(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    #[track_caller]
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        if !ended(&self.process(), LIMIT) {
            let _ = self.child.kill();
            panic!("hangs: {}\n{}", self.what, text(&mut self.err));
        }
        let status = self.child.wait().unwrap();
        Ran {
            code: status.code().unwrap_or(-1),
            out: text(&mut self.out),
            err: text(&mut self.err),
        }
    }
}

fn text(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

impl Ran {
    /// One sentence on standard error that has `part` in it, and this code.
    #[track_caller]
    pub fn refused(&self, code: i32, part: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.contains(part), "no \"{part}\" in {self:?}");
        assert_eq!(self.out, "", "{self:?}");
    }
}

/// The mounts of ours that are seen here.
pub fn mounts() -> Vec<String> {
    let others = BEFORE.get().map_or(&[][..], Vec::as_slice);
    let mut mounts = fuse_mounts();
    mounts.retain(|line| !others.contains(line));
    mounts
}

fn fuse_mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fuse = mounts.lines().filter(|line| line.contains(" fuse."));
    fuse.map(str::to_owned).collect()
}

/// The processes of ours with their states, but for zombies.
fn ours() -> Vec<(i32, char)> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let runs = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = stat.split_once("(harness-fs) ")?.1.chars().next()?;
        (state != 'Z').then_some((pid, state))
    };
    numbers.filter_map(runs).collect()
}

/// Everything a tree is, but for times: what is below a directory, by path.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let content = if kind.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                format!("{} names: {}", meta.nlink(), bytes.escape_ascii())
            } else if kind.is_dir() {
                left.push(path.clone());
                String::new()
            } else {
                format!("{:?} {}", kind.is_char_device(), meta.rdev())
            };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let line = format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid());
            found.insert(name, line);
        }
    }
    found
}

/// Runs a tool of the system; it has to succeed.
#[track_caller]
pub fn tool(command: &str, arguments: &[&str]) {
    let mut tool = Command::new(command);
    tool.args(arguments);
    let ran = start(tool).end();
    assert_eq!(ran.code, 0, "{command} {arguments:?}: {ran:?}");
}
