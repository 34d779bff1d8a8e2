//! What whoever calls a command has set up is theirs: ignored signals, limits,
//! a terminal.

use super::mounted::in_stage;

/// What is ignored stays so across execve(2); the kernel then buries children,
/// and nobody hears how they ended (wait(2)).
const DEAF: &str = r#"
    deaf() { perl -e '$SIG{CHLD} = "IGNORE"; exec @ARGV' "$@"; }
    "$H" unmount
    deaf "$H" mount --workspace "$W"
"#;

#[test]
fn a_caller_that_ignores_the_ends_of_its_children_does_not_lose_a_step() {
    in_stage(&format!(
        r#"{DEAF}
        code 0 deaf "$H" step run good -- sh -c 'echo 1 >a'
        is "$(cat "$W/a")" 1
        code 7 deaf "$H" step run bad -- sh -c 'exit 7'
        code 127 deaf "$H" step run none -- ./no-such
        # The command has what the caller has: of a mask in hexadecimal bit 16.
        code 0 deaf "$H" step run ignores -- grep -q '^SigIgn:.*[13579bdf]....$' /proc/self/status
        code 1 "$H" step run hears -- grep -q '^SigIgn:.*[13579bdf]....$' /proc/self/status
        "#
    ));
}

#[test]
fn a_death_is_noticed_whoever_has_mounted() {
    in_stage(&format!(
        r#"{DEAF}
        kill -KILL "$("$H" status --json | sed -n 's/^  "pid": \([0-9]*\),*/\1/p')"
        code 5 "$H" snapshot list
        "$H" mount --resume
        "#
    ));
}

/// It was killed by SIGXFSZ, and everybody's tree was gone.
#[test]
fn a_limit_of_who_mounts_does_not_end_the_daemon() {
    let ran = in_stage(
        r#"
        big() { dd if=/dev/zero of="$W/big" bs=1M count=8; }
        "$H" unmount
        (ulimit -S -f 10000; "$H" mount --workspace "$W")
        big
        is "$(stat -c %s "$W/big")" 8388608
        "$H" unmount
        # Without the capability the limit cannot be lifted.
        (ulimit -f 10000; setpriv --bounding-set=-sys_resource "$H" mount --workspace "$W")
        code 1 big
        code 0 "$H" step run good -- sh -c 'echo 1 >a'
        is "$(cat "$W/a")" 1
        "#,
    );
    assert!(ran.err.contains("File too large"), "{}", ran.err);
}

/// As with `ssh -t host harness-fs step run …`: the kernel tells only the
/// leader of the session that the terminal is gone.
#[test]
fn the_end_of_the_terminal_reaches_the_command() {
    in_stage(
        r#"
        code 0 python3 - "$H" "$T/r" <<'END'
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], ["harness-fs", "step", "run", "--result", sys.argv[2], "far", "--", "perl", "-e",
        '$SIG{HUP} = sub { exit 3 }; $| = 1; print "ready\n"; sleep 1000'])
said = b""
while b"ready" not in said:
    said += os.read(terminal, 100)
# A signal just after the start ends the command line itself. That they are blocked says nothing:
# posix_spawn(3) does that too, while it starts the command.
def held():
    for number in os.listdir("/proc/%d/fd" % pid):
        try:
            if os.readlink("/proc/%d/fd/%s" % (pid, number)) == "anon_inode:[signalfd]":
                return True
        except FileNotFoundError:
            pass
while not held():
    pass
os.close(terminal)
os.waitpid(pid, 0)
END
        grep -q '"exit_code": 3' "$T/r"
        "#,
    );
}

#[test]
fn a_step_says_which_capability_it_lacks() {
    let ran = in_stage(
        r#"
        code 125 setpriv --bounding-set=-sys_admin "$H" step run s -- true
        code 0 "$H" step run s -- true
        "#,
    );
    assert!(
        ran.err.contains("needs the capability CAP_SYS_ADMIN"),
        "{}",
        ran.err
    );
}
