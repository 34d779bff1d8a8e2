//! A limit on processes and threads, as pods have one, that is reached: whatever
//! is asked for is done or is not, and nothing waits for a thread that never came.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{Ran, Rig, alone, start};

/// A cgroup of its own with the controller `pids`.
struct Pids(PathBuf);

impl Pids {
    /// Named as the rig's directory, which is nobody else's.
    fn new(rig: &Rig) -> Pids {
        let (v1, v2) = (
            Path::new("/sys/fs/cgroup/pids"),
            Path::new("/sys/fs/cgroup"),
        );
        let top = if v1.is_dir() { v1 } else { v2 };
        // Of version 2: where the controller is not handed down yet.
        let _ = fs::write(top.join("cgroup.subtree_control"), "+pids");
        let dir = top.join(rig.path().file_name().unwrap());
        fs::create_dir(&dir).unwrap();
        let pids = Pids(dir);
        assert_eq!(pids.read("pids.max"), "max");
        pids
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn write(&self, file: &str, value: impl ToString) {
        fs::write(self.0.join(file), value.to_string()).unwrap();
    }

    /// How many more than there are now may be started.
    fn leave(&self, more: u32) {
        let now: u32 = self.read("pids.current").parse().unwrap();
        self.write("pids.max", now + more);
    }

    /// The program, with what it starts, inside.
    fn run(&self, rig: &Rig, arguments: &[&str]) -> Ran {
        let mut command = Command::new("sh");
        let program = rig.command(arguments);
        command
            .args(["-c", "echo $$ >\"$0\"; exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(program.get_program())
            .args(program.get_args())
            .env("HARNESS_FS_STATE_DIR", rig.state())
            .env_remove("HARNESS_FS_STAGE")
            .current_dir(rig.path());
        start(command).end()
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // The last of its processes may still be on its way out.
        while !std::thread::panicking() && fs::remove_dir(&self.0).is_err() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_step_without_the_threads_for_its_view_is_refused_and_harms_nobody() {
    alone(|rig| {
        let pids = Pids::new(rig);
        let ws = rig.ws();
        let mounted = pids.run(rig, &["mount", "--workspace", ws.to_str().unwrap()]);
        assert_eq!(mounted.code, 0, "{mounted:?}");
        let (mut refused, mut done) = (0, 0);
        for more in 0..14 {
            let name = format!("s{more}");
            pids.leave(more);
            let ran = rig.step(&name, &[], "echo new >\"$HARNESS_FS_STEP\"");
            pids.write("pids.max", "max");
            match ran.code {
                0 => done += 1,
                125 => {
                    refused += 1;
                    assert!(ran.err.contains("threads"), "{more}: {ran:?}");
                }
                _ => panic!("{more}: {ran:?}"),
            }
            assert_eq!(ws.join(&name).exists(), ran.code == 0, "{more}: {ran:?}");
            assert_eq!(rig.step(&name, &[], "echo again >>log").code, 0);
        }
        assert!(refused > 2 && done > 0, "{refused} refused, {done} done");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn a_stage_without_the_threads_for_it_is_not_mounted_and_leaves_nothing() {
    alone(|rig| {
        let pids = Pids::new(rig);
        let ws = rig.ws();
        let (mut refused, mut done) = (0, 0);
        // The first is the command itself.
        for more in 1..24 {
            pids.write("pids.max", more);
            let ran = pids.run(rig, &["mount", "--workspace", ws.to_str().unwrap()]);
            pids.write("pids.max", "max");
            match ran.code {
                0 => {
                    done += 1;
                    rig.ok(&["unmount"]);
                }
                _ => {
                    refused += 1;
                    assert_eq!(ran.code, 1, "{more}: {ran:?}");
                }
            }
            rig.all_gone();
        }
        assert!(refused > 2 && done > 0, "{refused} refused, {done} done");
    });
}
