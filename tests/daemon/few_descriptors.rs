//! The daemon may open far fewer files than the tree has: all of it is walked, read and
//! changed nevertheless, and also held open at once.

use std::fs;
use std::process::Command;

use crate::rig::{alone, start, tree};

/// What the daemon may have open, and how many files there are for each of them.
const LIMIT: usize = 100;
const TIMES: usize = 10;

/// Reads and changes each file and directory of `many`, and then holds all of them open.
const USE: &str = r#"
import os, resource, sys
here = sys.argv[1].encode()
resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
paths = []
for directory, directories, files in os.walk('many'):
    for name in files:
        path = os.path.join(directory, name)
        with open(path, 'r+b') as file:
            assert file.read().startswith(name.split('-')[0].encode()), path
            file.write(here)
        os.chmod(path, 0o600 + len(paths) % 8)
        if len(paths) % 3 == 0:
            os.rename(path, path + '-' + sys.argv[1])
            path += '-' + sys.argv[1]
        paths.append(path)
    for name in directories:
        os.setxattr(os.path.join(directory, name), 'user.here', here)
held = [open(path, 'r+b', buffering=0) for path in paths]
for file in held:
    file.seek(0, 2)
    file.write(b' held')
for file in held:
    assert os.pread(file.fileno(), 999, 0).endswith(here + b' held'), file.name
for path in paths:
    with open(path, 'rb') as file:
        assert file.read().endswith(here + b' held'), path
print(len(paths))
"#;

#[test]
fn fewer_descriptors_than_files() {
    alone(|rig| {
        let ws = rig.ws();
        for number in 0..LIMIT * TIMES {
            let dir = ws.join(format!("many/{}/deep", number % 97));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("f{number}")), format!("f{number} ")).unwrap();
        }
        let base = tree(&ws);
        let own = rig.command(&["mount", "--workspace", ws.to_str().unwrap()]);
        let mut mount = Command::new("sh");
        // With CAP_SYS_RESOURCE it might take more.
        let limit = format!("ulimit -n {LIMIT}; exec setpriv --bounding-set=-sys_resource \"$@\"");
        mount.args(["-c", &limit, "sh"]).arg(own.get_program());
        mount.args(own.get_args());
        mount.env("HARNESS_FS_STATE_DIR", rig.state());
        let mounted = start(mount).end();
        assert_eq!(mounted.code, 0, "{mounted:?}");

        let ran = rig.run(&["step", "run", "s", "--", "python3", "-c", USE, "s"]);
        assert_eq!(
            (ran.code, ran.out),
            (0, format!("{}\n", LIMIT * TIMES)),
            "{}\n{}",
            ran.err,
            rig.log()
        );
        let mut python = Command::new("python3");
        let output = python.args(["-c", USE, "stage"]).current_dir(&ws);
        let output = output.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}\n{}", rig.log());
        let changed = tree(&ws);
        rig.ok(&["snapshot", "create", "all"]);
        let out = rig.path().join("out");
        rig.ok(&["export", "all", "--to", out.to_str().unwrap()]);
        let log = rig.log();
        assert!(!log.contains("panicked"), "{log}");
        rig.ok(&["unmount", "--keep-state"]);
        assert_eq!(tree(&ws), base);
        rig.ok(&["mount", "--resume"]);
        assert_eq!(tree(&ws), changed);
        rig.ok(&["unmount"]);
        fs::remove_dir_all(ws.join("many")).unwrap();
    });
}
