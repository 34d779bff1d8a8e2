//! What docs/security.md states: whom the stage is protected from.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::rig::{self, Rig, alone};

/// Set for the process that tries what it can reach: the state directory.
const STATE: &str = "HARNESS_FS_TEST_PROBE_STATE";
const USER: u32 = 1000;

/// Run as another user by the tests below; nothing to do otherwise.
#[test]
fn probe() {
    let Some(state) = std::env::var_os(STATE) else {
        return;
    };
    let reached = reached(Path::new(&state));
    assert!(reached.is_empty(), "reached: {reached:#?}");
    assert_eq!(nix::unistd::geteuid().as_raw(), USER);
}

/// Everything of the stage that this process gets at.
fn reached(state: &Path) -> Vec<PathBuf> {
    let inner = |root: &Path| root.join(state.strip_prefix("/").unwrap());
    // Its own root, and everybody else's who is another user.
    let mut states = vec![state.to_path_buf()];
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let foreign = process
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<i32>().is_ok())
            && fs::metadata(&path).is_ok_and(|meta| meta.uid() != USER);
        if !foreign {
            continue;
        }
        states.push(inner(&path.join("root")));
        for way in ["root", "cwd", "fd", "map_files", "task"] {
            let way = path.join(way);
            // `task` is open to all, what it leads to is not.
            if way.ends_with("task") {
                let threads = fs::read_dir(&way).into_iter().flatten().flatten();
                let roots = threads.map(|thread| thread.path().join("root"));
                found.extend(roots.filter(|root| fs::read_dir(root).is_ok()));
            } else if fs::read_dir(&way).is_ok_and(|mut entries| entries.next().is_some()) {
                found.push(way);
            }
        }
        for file in ["mem", "environ"] {
            found.extend(Some(path.join(file)).filter(|file| fs::File::open(file).is_ok()));
        }
    }
    for state in states {
        for name in [
            "layers",
            "views",
            "journal",
            "objects",
            "views/root-sibling/mnt/0",
        ] {
            found.extend(Some(state.join(name)).filter(|dir| fs::read_dir(dir).is_ok()));
        }
        for name in ["stage.json", "daemon.log", "lock", "control.sock"] {
            found.extend(Some(state.join(name)).filter(|file| fs::metadata(file).is_ok()));
        }
        if let Ok(mut stream) = UnixStream::connect(state.join("control.sock")) {
            stream
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            let _ = stream.write_all(b"{\"protocol\":1,\"version\":\"0.1.0\",\"pid\":1}\n");
            let answered = stream.read(&mut [0]).is_ok_and(|read| read > 0);
            found.extend(answered.then(|| state.join("control.sock, answered")));
        }
    }
    found
}

/// The probe, as a command line for another user, in a place where it may go.
fn prober(rig: &Rig) -> Vec<String> {
    let program = rig.path().join("probe");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let state = format!("{STATE}={}", rig.state().display());
    let words = [
        "setpriv",
        "--reuid=1000",
        "--regid=1000",
        "--clear-groups",
        "env",
        &state,
        program.to_str().unwrap(),
        "--exact",
        "isolation::probe",
        "--nocapture",
    ];
    words.map(str::to_owned).into()
}

#[test]
fn another_user_reaches_neither_socket_nor_layers_nor_siblings() {
    alone(|rig| {
        rig.mount();
        assert_eq!(
            rig.step("first", &[], "echo secret > secret; chmod 600 secret")
                .code,
            0
        );
        // Two siblings that run meanwhile, as root and as a third user.
        let mut siblings = Vec::new();
        for (name, user) in [("root-sibling", "0"), ("other-sibling", "1001")] {
            let fifo = rig.path().join(name);
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
            fs::set_permissions(&fifo, fs::Permissions::from_mode(0o666)).unwrap();
            let script = format!(
                "echo mine > mine-{name}; echo > {0}; cat {0}",
                fifo.display()
            );
            let user = format!("--reuid={user}");
            let arguments = [
                "step", "run", name, "--", "setpriv", &user, "sh", "-ec", &script,
            ];
            siblings.push((rig.start(&arguments), fifo.clone()));
            fs::read_to_string(&fifo).unwrap();
        }
        let prober = prober(rig);
        let words: Vec<&str> = prober.iter().map(String::as_str).collect();
        // In a step, and beside the stage.
        let ran = rig.run(&[&["step", "run", "probe", "--"], &words[..]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("1 passed"), "{ran:?}");
        let mut outside = Command::new(words[0]);
        outside.args(&words[1..]);
        let ran = rig::start(outside).end();
        assert_eq!(ran.code, 0, "{ran:?}");
        // And what lies in its own view it may use as anywhere.
        let user = [
            "setpriv",
            "--reuid=1000",
            "--regid=1000",
            "--clear-groups",
            "sh",
            "-ec",
        ];
        let script =
            "echo mine > mine; ! cat secret 2>/dev/null; ! ls mine-* 2>/dev/null; cat readme";
        let ran = rig.run(&[&["step", "run", "works", "--"], &user[..], &[script]].concat());
        assert_eq!((ran.code, &*ran.out), (0, "from the base\n"), "{ran:?}");
        assert_eq!(fs::metadata(rig.ws().join("mine")).unwrap().uid(), USER);
        for (sibling, fifo) in siblings {
            fs::write(fifo, "end\n").unwrap();
            let ran = sibling.end();
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        rig.ok(&["unmount"]);
    });
}

/// Root in a step is protected from accidents: it does not stumble upon the state.
#[test]
fn inside_a_step_the_state_is_not_in_sight() {
    alone(|rig| {
        rig.mount();
        rig.ok(&["step", "begin", "sibling"]);
        let state = rig.state();
        let state = state.display();
        let script = format!(
            "[ -z \"$(ls -A {state})\" ]; ! touch {state}/x 2>/dev/null; ! rm -rf {state} 2>/dev/null; \
             [ \"$(grep -c fuse.harness-fs /proc/self/mounts)\" = 1 ]"
        );
        let ran = rig.step("look", &[], &script);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(rig.state().join("stage.json").exists());
        assert_eq!(
            fs::metadata(rig.state()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let socket = fs::metadata(rig.state().join("control.sock")).unwrap();
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);
        rig.ok(&["unmount"]);
    });
}

/// It is not for root alone: a stage in the default place is as closed.
#[test]
fn the_default_place_is_closed_too() {
    alone(|rig| {
        // Nobody else's stages: this namespace has a place of its own.
        fs::create_dir_all("/var/lib/harness-fs").unwrap();
        rig::tool(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                "mode=755",
                "none",
                "/var/lib/harness-fs",
            ],
        );
        let mut mount = rig.command(&["--stage", "ci", "mount", "--workspace"]);
        mount.arg(rig.ws()).env_remove("HARNESS_FS_STATE_DIR");
        let ran = rig::start(mount).end();
        assert_eq!(ran.code, 0, "{ran:?}");
        let user = ["--reuid=1000", "--regid=1000", "--clear-groups"];
        let script = "! ls /var/lib/harness-fs/ci 2>/dev/null && ! cat /var/lib/harness-fs/ci/stage.json 2>/dev/null";
        let mut look = Command::new("setpriv");
        look.args(user).args(["sh", "-c", script]);
        assert_eq!(rig::start(look).end().code, 0);
        let mut unmount = rig.command(&["--stage", "ci", "unmount"]);
        unmount.env_remove("HARNESS_FS_STATE_DIR");
        assert_eq!(rig::start(unmount).end().code, 0);
    });
}
