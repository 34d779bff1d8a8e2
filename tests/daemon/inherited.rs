//! What lies above the state directory does not show in the tree.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::rig::{Rig, alone, start, tool};

/// Copies up, makes anew, and makes over what was removed.
const CHANGES: &str = "
    umask 027
    chmod 660 log; chmod 770 src
    echo new >new; mkdir newdir; echo in >newdir/in; mkfifo newdir/fifo
    rm readme; echo again >readme; rm -r src/deep; mkdir src/deep
    mv src moved
";

/// Owner, group, mode and ACLs of everything in a directory.
fn listed(dir: &Path) -> String {
    let mut getfacl = Command::new("getfacl");
    getfacl.args(["-R", "-n", "-p", "."]).current_dir(dir);
    let ran = start(getfacl).end();
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut entries: Vec<&str> = ran.out.split("\n\n").collect();
    entries.sort_unstable();
    entries.join("\n\n")
}

/// The workspace after `script`, in a directory that inherits nothing.
fn expected(rig: &Rig, name: &str, script: &str) -> String {
    let plain = rig.path().join(name);
    let (from, to) = (rig.ws(), plain.to_str().unwrap().to_owned());
    tool("cp", &["-a", from.to_str().unwrap(), &to]);
    tool("sh", &["-ec", &format!("cd {to}; {script}")]);
    listed(&plain)
}

/// A default ACL for another user, and another group.
fn hands_down(dir: &Path) {
    let path = dir.to_str().unwrap();
    tool("setfacl", &["-d", "-m", "u:1000:rwx,g:2000:rwx", path]);
    chown(dir, None, Some(2000)).unwrap();
    fs::set_permissions(dir, Permissions::from_mode(0o2755)).unwrap();
}

#[test]
fn acls_and_groups_from_above_the_state_reach_nothing() {
    alone(|rig| {
        let ws = rig.ws();
        let parent = rig.path().join("parent");
        fs::create_dir(&parent).unwrap();
        hands_down(&parent);
        let state = parent.join("state");
        let dir = state.to_str().unwrap();
        let run = |arguments: &[&str]| rig.ok(&[arguments, &["--state-dir", dir]].concat());
        let step = |name: &str, script: &str| {
            let options = ["step", "run", "--state-dir", dir, name];
            rig.ok(&[&options[..], &["--", "sh", "-ec", script]].concat());
        };
        let changed = expected(rig, "once", CHANGES);
        let later = "echo 2 >log; umask 077; mkdir last";
        let changed_later = expected(rig, "twice", &format!("{CHANGES} {later}"));

        run(&["mount", "--workspace", ws.to_str().unwrap()]);
        step("changes", CHANGES);
        assert_eq!(listed(&ws), changed);
        let diff = run(&["diff", "changes"]).out;
        assert!(!diff.contains(&format!(" {}\n", ws.display())), "{diff}");
        run(&["snapshot", "create", "saved"]);
        let layout = rig.path().join("layout");
        run(&["export", "saved", "--to", layout.to_str().unwrap()]);

        // It may come later, and from the directory itself.
        run(&["unmount", "--keep-state"]);
        for name in [
            "",
            "layers",
            "views",
            "views/stage/open",
            "views/stage/open/tree",
        ] {
            hands_down(&state.join(name));
        }
        run(&["mount", "--resume"]);
        tool("sh", &["-ec", &format!("cd {}; {later}", ws.display())]);
        assert_eq!(listed(&ws), changed_later);
        run(&["unmount"]);

        hands_down(&parent);
        let from = layout.to_str().unwrap();
        run(&["mount", "--workspace", ws.to_str().unwrap(), "--from", from]);
        assert_eq!(listed(&ws), changed);
        run(&["unmount"]);
    });
}
