//! What setuid, setgid and ACLs become when somebody without privileges changes
//! a file, as ext4 has it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::mounted::Mounted;

/// Who changes files in these tests, all of them user 1000, and whether that is
/// a member of group 2000.
const CALLERS: [(&[&str], bool); 4] = [
    (&["--regid=1000", "--clear-groups"], false),
    (&["--regid=1000", "--groups=4,24"], false),
    (&["--regid=1000", "--groups=4,2000"], true),
    (&["--regid=2000", "--clear-groups"], true),
];

/// Makes what belongs to user 1000 and group 2000.
fn theirs(path: &Path, perm: u32) {
    if !path.exists() {
        fs::write(path, "content").expect("write");
    }
    chown(path, Some(1000), Some(2000)).expect("chown");
    fs::set_permissions(path, Permissions::from_mode(perm)).expect("chmod");
}

/// Runs a shell as user 1000 in the view, whose root everybody may enter.
#[track_caller]
fn as_user(view: &Mounted, caller: &[&str], script: &str) {
    let through = view.base().parent().expect("parent").to_path_buf();
    fs::set_permissions(through, Permissions::from_mode(0o755)).expect("chmod");
    let status = Command::new("setpriv")
        .arg("--reuid=1000")
        .args(caller)
        .args(["sh", "-ec", script])
        .current_dir(view.root())
        .status()
        .expect("setpriv");
    assert!(status.success(), "{caller:?}: {script}");
}

fn output(command: &str, dir: &Path) -> String {
    let mut shell = Command::new("sh");
    let output = shell.args(["-ec", command]).current_dir(dir).output();
    let output = output.expect("sh");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_acl_costs_setgid_whoever_is_not_in_the_group() {
    for (caller, member) in CALLERS {
        let view = Mounted::over(|base| {
            theirs(&base.join("program"), 0o2755);
            theirs(&base.join("data"), 0o2644);
            fs::create_dir(base.join("dir")).expect("mkdir");
            theirs(&base.join("dir"), 0o2775);
        });
        as_user(&view, caller, "setfacl -d -m u:1001:rwx dir");
        let mode = |name: &str| fs::metadata(view.path(name)).expect("stat").mode();
        assert_eq!(mode("dir") & 0o7777, 0o2775, "{caller:?}: a default ACL");
        as_user(
            &view,
            caller,
            "exec 3<data; setfacl -m u:1001:r program data dir",
        );
        for (name, perm) in [("program", 0o755), ("data", 0o644), ("dir", 0o775)] {
            let kept = if member { 0o2000 } else { 0 };
            assert_eq!(mode(name) & 0o7777, perm | kept, "{caller:?}: {name}");
        }
        let acl = output("getfacl -cn program", &view.root());
        assert!(acl.contains("user:1001:r--"), "{acl}");
    }
    let view = Mounted::over(|base| theirs(&base.join("program"), 0o2755));
    output("setfacl -m u:1001:rwx program", &view.root());
    let mode = fs::metadata(view.path("program")).expect("stat").mode();
    assert_eq!(mode & 0o7777, 0o2775, "root");
}

#[test]
fn setgid_without_a_program_stays_for_the_group_alone() {
    for passthrough in [true, false] {
        for (caller, member) in CALLERS {
            let view = Mounted::with(passthrough, |base| {
                for name in ["write", "truncate", "empty", "late"] {
                    theirs(&base.join(name), 0o2644);
                }
            });
            as_user(
                &view,
                caller,
                "echo x >>write; truncate -s 3 truncate; : >empty
                exec 3>>late; chmod 2644 late; echo x >&3",
            );
            for name in ["write", "truncate", "empty", "late"] {
                let mode = fs::metadata(view.path(name)).expect("stat").mode();
                // Who is not in the group cannot give a file its setgid (chmod(2)).
                let perm = if member { 0o2644 } else { 0o644 };
                assert_eq!(mode & 0o7777, perm, "{caller:?}: {name}, {passthrough}");
            }
        }
    }
}

#[test]
fn a_device_of_number_0_takes_the_directorys_acl() {
    let make = "setfacl -d -m u:1000:rwx,o::- dir; mknod dir/null c 0 0; mknod dir/pipe p";
    let view = Mounted::over(|base| fs::create_dir(base.join("dir")).expect("mkdir"));
    let plain = tempfile::tempdir_in("/var/tmp").expect("temporary directory");
    fs::create_dir(plain.path().join("dir")).expect("mkdir");
    let made = |at: &Path| output(&format!("{make}; getfacl -c dir/null dir/pipe"), at);
    assert_eq!(made(&view.root()), made(plain.path()));
}

#[test]
fn an_acl_that_is_not_there_can_be_removed() {
    let view = Mounted::over(|base| fs::create_dir(base.join("dir")).expect("mkdir"));
    let remove = "import os
for name in ['access', 'default']: os.removexattr('dir', 'system.posix_acl_' + name)
try: os.removexattr('dir', 'user.none')
except OSError as error: assert error.errno == 61, error
else: raise SystemExit('no such attribute, and no error')";
    let status = Command::new("/usr/bin/python3")
        .args(["-c", remove])
        .current_dir(view.root())
        .status();
    assert!(status.expect("python").success());
    assert!(
        !view.open_layer().join("tree/0/dir").exists(),
        "nothing was copied up"
    );
}
