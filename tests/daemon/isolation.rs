//! What docs/security.md states: whom the stage is protected from.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::container;
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
            "[ \"$(ls -A {state})\" = step.sock ]; ! touch {state}/x 2>/dev/null; ! rm -rf {state} 2>/dev/null; \
             [ \"$(grep -c '^harness-fs:{state} ' /proc/self/mounts)\" = 1 ]"
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

/// A container with one view at `/harness`, and what else is bound to where it is; it runs
/// `$PROBE` once there is a view.
const CONTAINER: &str = r#"
    make "$1"; bind "$2" /harness; shift 2
    for more; do bind "$more" "$more"; done
    enter
    until grep -q ' /harness .* fuse.harness-fs ' /proc/self/mountinfo; do :; done
    cd /harness
    # Docker's own set of capabilities, but for mknod, which there a list of devices limits.
    kept=chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,setfcap
    exec setpriv --bounding-set="-all,+$(echo "$kept" | sed 's/,/,+/g')" --inh-caps=-all perl -e "$PROBE"
"#;

/// Prints what of a stage is reached, a line each; its state lay in `$STATE`.
const PROBE: &str = r#"
    use strict; use IO::Socket::UNIX;
    my $state = $ENV{STATE};
    sub look {
        my ($way, $root) = @_;
        for my $name ("layers", "views", "journal", "stage.json", "control.sock", "views/sibling/mnt/0/secret") {
            print "$way$root$state/$name\n" if lstat("$root$state/$name");
        }
        my $socket = "$root$state/control.sock";
        print "answered: $way$root\n" if -S $socket && IO::Socket::UNIX->new(Peer => $socket);
    }
    look("", "");
    # Whoever else there is, and this process.
    for my $process (glob("/proc/[0-9]*"), "/proc/self") {
        look("", "$process/$_") for "root", "cwd", map { "fd/$_" } 0 .. 9;
    }
    # Up from the view, by name and by steps, further than it is deep anywhere.
    look("", "/harness" . "/.." x $_) for 1 .. 9;
    chdir "/harness" or die;
    for (1 .. 9) { chdir ".." or die; look("upwards ", "."); }
    my ($here, $root) = (join(" ", (stat ".")[0, 1]), join(" ", (stat "/")[0, 1]));
    print "above the root: $here, not $root\n" if $here ne $root;
    # Out of a chroot, which leads to the root of the mount namespace (chroot(2)).
    mkdir "/tmp/deeper"; chroot "/tmp/deeper" or die "chroot: $!";
    for (1 .. 9) { chdir ".." or die }
    chroot "." or die;
    look("after chroot ", "");
    open(my $mounts, "<", "/proc/self/mountinfo") or die;
    while (<$mounts>) {
        # Its source is but a name, in which the state directory can occur.
        my $mounted = join " ", (split / /)[3, 4];
        print "mount: $_" if index($mounted, $state) >= 0 || (/ - fuse/ && $mounted ne "/0 /harness");
    }
    # By name, wherever it may be.
    for my $found (`find / -path /usr -prune -o -path /proc -prune -o -print`) {
        print "found: $found" if $found =~ m,/(control\.sock|stage\.json|daemon\.log|layers|secret)$,;
    }
    print "a way to new mounts\n" if -e "/dev/fuse";
    # What it is for works.
    open(my $made, ">", "/harness/made") or die "made: $!"; print $made "inside\n"; close $made or die;
    open(my $readme, "<", "/harness/readme") or die; print STDERR <$readme>;
"#;

/// `docs/security.md`, "Steps in containers of their own": what is bound into it
/// leads to one view and nothing else, so there is no way to the socket, the
/// state, the layers or the views of others, not even for root.
#[test]
fn a_container_with_one_view_reaches_nothing_else() {
    alone(|rig| {
        let slots = ["mine", "other"].map(|name| rig.path().join("slots").join(name));
        let slot = |index: usize, name: &str| format!("{name}={}", slots[index].display());
        let (mine, other) = (slot(0, "mine"), slot(1, "other"));
        let ws = rig.ws();
        let mount = ["mount", "--workspace", ws.to_str().unwrap()];
        rig.ok(&[&mount[..], &["--slot", &mine, "--slot", &other]].concat());
        assert_eq!(rig.step("first", &[], "echo first > first").code, 0);
        for (name, slot) in [("sibling", "other"), ("mine", "")] {
            let in_slot: &[&str] = if slot.is_empty() {
                &[]
            } else {
                &["--slot", slot]
            };
            rig.ok(&[&["step", "begin", name], in_slot].concat());
        }
        let views = rig.state().join("views");
        fs::write(views.join("sibling/mnt/0/secret"), "s3cret").unwrap();
        let start = |name: &str, from: &Path, more: &[&Path]| {
            let mut container = container::namespaces();
            container.arg([container::RUNTIME, CONTAINER].concat());
            container.arg("sh").arg(rig.path().join(name)).arg(from);
            container.args(more);
            container.env("STATE", rig.state()).env("PROBE", PROBE);
            rig::start(container)
        };
        let reached = |started: rig::Started| {
            let ran = started.end();
            assert_eq!((ran.code, &*ran.err), (0, "from the base\n"), "{ran:?}");
            ran.out
        };
        // The view itself, bound while the step is open.
        let view = views.join("mine/mnt/0");
        assert_eq!(reached(start("container", &view, &[])), "");
        // A slot, bound before the step begins; the sibling is in another one.
        let place = slots[0].join(ws.strip_prefix("/").unwrap());
        let waiting = start("waiting", &place, &[]);
        rig.ok(&["step", "begin", "later", "--slot", "mine"]);
        assert_eq!(reached(waiting), "");
        rig.ok(&["step", "merge", "later"]);
        // The same eyes do see what is mounted by mistake.
        let wrong = reached(start("wrong", &view, &[&rig.state()]));
        for part in ["control.sock", "layers", "answered: ", "mount: ", "found: "] {
            assert!(wrong.contains(part), "no {part} in {wrong}");
        }
        rig.ok(&["step", "merge", "mine"]);
        let made = fs::read_to_string(rig.ws().join("made")).unwrap();
        assert_eq!(made, "inside\n");
        assert!(!rig.ws().join("secret").exists());
        rig.ok(&["unmount"]);
    });
}
