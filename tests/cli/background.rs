//! Background steps: what they see, what they keep, and how they end.

use super::mounted::in_stage;
use super::rig::Ran;

/// A script in a stage with a service in the background: `tell` has it evaluate an
/// expression of `service.py`, and prints the result.
fn with_service(script: &str) -> Ran {
    let service = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/service.py");
    in_stage(&format!(
        r#"
        mkfifo "$T/in" "$T/out"
        tell() {{ printf '%s' "$1" >"$T/in"; cat "$T/out"; }}
        echo first >"$W/log"; mkdir "$W/src"; echo one >"$W/src/main"; echo old >"$W/src/old"
        "$H" step background service -- python3 {service} "$T/in" "$T/out" & service=$!
        is "$(tell 1)" 1
        {script}
        "$H" step stop service
        code 143 wait "$service"
        "#
    ))
}

#[test]
fn it_sees_each_merge_as_it_happens() {
    with_service(
        r#"
        # All of it is in the kernel's cache now, the missing name too.
        is "$(tell 'sorted(os.listdir("."))')" "['file', 'log', 'src']"
        is "$(tell 'exists("new")')" False
        is "$(tell 'read("src/main")')" one
        is "$(tell 'oct(os.stat("file").st_mode)')" 0o100644
        is "$(tell 'map_file("log", "log")')" first
        is "$(tell 'hold("main", "src/main", "r")')" None
        is "$(tell 'hold("old", "src/old", "r")')" None
        code 0 "$H" step run one -- sh -c '
            echo new >new; echo two >src/main; chmod 600 file; printf FIRST >log; rm src/old; mkdir d; echo x >d/x'
        is "$(tell 'sorted(os.listdir("."))')" "['d', 'file', 'log', 'new', 'src']"
        is "$(tell 'read("new")')" new
        is "$(tell 'read("d/x")')" x
        is "$(tell 'read("src/main")')" two
        is "$(tell 'oct(os.stat("file").st_mode)')" 0o100600
        # Written in place: the mapping shows it. And what is open shows it, or, removed, is as it was.
        is "$(tell 'maps["log"][:5].decode()')" FIRST
        is "$(tell 'files["main"].read()')" two
        is "$(tell 'files["old"].read()')" old
        is "$(tell 'exists("src/old")')" False
        code 0 "$H" step run two -- sh -c 'rm -r d; echo three >src/main.new; mv src/main.new src/main'
        is "$(tell 'read("src/main")')" three
        is "$(tell 'exists("d/x")')" False
        code 7 "$H" step run three -- sh -c 'echo no >src/main; exit 7'
        is "$(tell 'read("src/main")')" three
        "#,
    );
}

#[test]
fn it_keeps_its_files_open_across_merges_and_snapshots() {
    let ran = with_service(
        r#"
        tell 'hold("log", "log", "a")'
        tell 'hold("gone", "gone", "w+")'
        tell 'os.unlink("gone")'
        for n in 1 2 3; do
            tell "write('log', 'line $n\\n')"
            tell "write('gone', '$n')"
            code 0 "$H" step run "s$n" -- sh -c 'echo "$1" >"by-$1"; grep -c line log >seen' - "$n"
            is "$(cat "$W/seen")" "$n"
            "$H" snapshot create "snap$n"
        done
        is "$(cat "$W/log")" "$(printf 'first\nline 1\nline 2\nline 3')"
        tell 'files["gone"].seek(0)'
        is "$(tell 'files["gone"].read()')" 123
        # What it takes to seal under a writer is told, and nothing where nothing was written.
        tell 'write("log", "more\n")'
        "$H" step begin open | grep -q '^sealed under 1 file open for writing: requests were held for [0-9.]* ms; 32 B will'
        "$H" step discard open
        is "$("$H" snapshot create clean)" ''
        tell 'write("log", "more\n")'
        "$H" snapshot create dirty --json | grep -A 4 '"sealed": {' | grep -q '"files": 1'
        tell 'write("log", "more\n")'
        "$H" step run told -- true 2>&1 | grep -q '^harness-fs: sealed under 1 file open'
        is "$(tail -n 1 "$W/log")" more
        # What it has open for writing is not changed under it.
        code 121 "$H" step run rude -- sh -c 'echo no >log'
        "$H" step discard rude
        tell 'write("log", "line 4\n")'
        is "$(tail -n 1 "$W/log")" 'line 4'
        # Back, with the service in it: the file is as it was then, and the service is there.
        tell 'files["log"].close()'
        "$H" snapshot restore snap1
        is "$(tell 'read("log")')" "$(printf 'first\nline 1')"
        is "$(tell 'exists("by-2")')" False
        "$H" rollback base
        is "$(tell 'sorted(os.listdir("."))')" "['file']"
        is "$("$H" step list | cut -d ' ' -f 1)" service
        "#,
    );
    assert!(ran.err.contains("busy  "), "{}", ran.err);
}

#[test]
fn what_it_watches_is_told_of_merges() {
    with_service(
        r#"
        echo x >"$W/src/gone"; ln -s main "$W/src/link"; mkdir "$W/src/dir" "$W/src/away"; echo m >"$W/src/mode"
        tell 'watch(".", "src", "src/main", "src/gone")'
        code 0 "$H" step run quiet -- sh -c 'mkdir elsewhere; echo x >elsewhere/x'
        is "$(tell 'events()')" 'create ./elsewhere'
        code 0 "$H" step run busy -- sh -euc '
            echo two >src/main; rm src/gone; echo new >src/new; mkdir src/made; echo in >src/made/in; rmdir src/dir
            mv src/away src/there; ln -sf old src/link; chmod 600 src/mode; echo NEW >src/o; mv src/o src/old; echo x >>elsewhere/x'
        is "$(tell 'events()' | tr ' ' '\n' | paste -d ' ' - - | LC_ALL=C sort)" "$(printf '%s\n' \
            'attrib src/gone' 'attrib src/mode' 'close-write src/main' 'close-write src/new' 'close-write src/old' \
            'create src/link' 'create src/made' 'create src/new' 'create src/old' 'create src/there' \
            'delete src/away' 'delete src/dir' 'delete src/gone' 'delete src/link' 'delete src/old' 'delete-self src/gone' \
            'modify src/main' 'modify src/new' 'modify src/old')"
        # It is told when it can see it, and nothing of it is written a second time.
        is "$(tell 'read("src/main") + read("src/old") + os.readlink("src/link")')" "$(printf 'two\nNEW\nold')"
        is "$("$H" log | grep -c head)" "$("$H" log | sed -n '/busy/,$p' | grep -c head)"
        # A new directory is one like any other.
        is "$(stat -c %h "$W/src/main")" 1
        echo later >"$W/src/made/later"; touch "$W/src/there/x"; rm -r "$W/src/made"
        code 1 "$H" step run fails -- sh -c 'echo no >src/main; exit 1'
        tell 'events()' >"$T/by-hand"
        grep -q 'delete src/made' "$T/by-hand"
        code 1 grep -q main "$T/by-hand"
        "$H" rollback busy
        is "$(tell 'events()')" 'create src/made'
        "#,
    );
}

#[test]
fn its_name_is_taken_and_it_is_listed() {
    let ran = with_service(
        r#"
        is "$("$H" step list --json | grep -c '"kind": "background"')" 1
        is "$("$H" status --json | grep -c "\"pid\": $service")" 1
        code 2 "$H" step begin service
        code 125 "$H" step background service -- true
        code 125 "$H" step run service -- true
        "$H" step begin open
        code 125 "$H" step background open -- true
        code 2 "$H" step stop open
        "$H" step discard open
        "$H" group declare g member
        code 125 "$H" step background member -- true
        code 3 "$H" step stop none
        code 3 "$H" step discard service
        # It is a step: no commands, and no state.
        code 3 "$H" step background look -- "$H" status
        code 1 "$H" step background look -- test -e "$HARNESS_FS_STATE_DIR/stage.json"
        code 0 "$H" step background env -- sh -c '[ "$HARNESS_FS_STEP $HARNESS_WORKSPACE" = "env $1" ] && [ "$PWD" = "$1" ]' - "$W"
        code 126 "$H" step background none -- ./file
        "#,
    );
    assert!(
        ran.err.contains("`step stop service` ends it"),
        "{}",
        ran.err
    );
}

#[test]
fn it_ends_with_all_that_it_has_started() {
    in_stage(
        r#"
        runs() { grep -lx "$1" /proc/[0-9]*/comm 2>/dev/null | wc -l; }
        cp "$(command -v sleep)" "$T/dawdle"
        start() {
            "$H" step background a -- sh -c '"$1/dawdle" 1000 & unshare -m "$1/dawdle" 1000 & trap "" TERM; echo x >started; while :; do sleep 0.1; done' - "$T" & a=$!
            until [ -e "$W/started" ] && [ "$(runs dawdle)" = 2 ]; do sleep 0.01; done
            rm "$W/started"
        }
        start
        "$H" step stop a --grace 100ms --json | grep -c '"name": "dawdle"' | grep -x 2
        code 137 wait "$a"
        is "$(runs dawdle)" 0
        start
        kill -KILL "$a"
        code 137 wait "$a"
        until [ "$(runs dawdle)" = 0 ]; do sleep 0.01; done
        until [ -z "$("$H" step list)" ]; do sleep 0.01; done
        # A signal is passed on, and is for the command alone; what is left is ended.
        "$H" step background b -- sh -c '"$1/dawdle" 1000 & trap "exit 5" TERM; echo x >started; while :; do sleep 0.1; done' - "$T" & b=$!
        until [ -e "$W/started" ]; do sleep 0.01; done
        kill "$b"
        code 5 wait "$b"
        is "$(runs dawdle)" 0
        "$H" step background c -- sh -c 'echo x >c; exec "$1/dawdle" 1000' - "$T" & c=$!
        until [ -e "$W/c" ]; do sleep 0.01; done
        "$H" unmount --json >"$T/unmount"
        grep -A1 '"background_steps": \[' "$T/unmount" | grep -q '"c"'
        code 143 wait "$c"
        is "$(runs dawdle)" 0
        "$H" mount --workspace "$W"
        "#,
    );
}

/// What has taken the place of a directory meanwhile may lead anywhere, and so may a mount.
#[test]
fn telling_reaches_nothing_outside_of_the_stage() {
    with_service(
        r#"
        mkdir "$W/src/deep" "$T/outside"; echo in >"$W/src/deep/file"; echo out >"$T/outside/file"; echo out >"$T/file"
        touch -d 2020-02-02 "$T/outside/file" "$T/file"
        tell 'watch("src", "src/deep")'
        "$H" step begin one
        "$H" step exec one -- sh -c 'echo two >src/deep/file; echo two >src/main; echo new >src/deep/new'
        # On the file, and on the directory, as the view shows them at its own mount point.
        view=$("$H" status --json | sed -n 's/.*"mount": "\(.*views.stage.mnt\)".*/\1/p')
        mount --bind "$T/file" "$view/0/src/main"
        mount --bind "$T/outside" "$view/0/src/deep"
        code 0 "$H" step merge one
        is "$(stat -c %Y "$T/file" "$T/outside/file" | sort -u)" "$(date -d 2020-02-02 +%s)"
        is "$(cat "$T/file" "$T/outside/file" && ls "$T/outside")" "$(printf 'out\nout\nfile')"
        umount "$view/0/src/main" "$view/0/src/deep" || true
        is "$(cat "$W/src/main" "$W/src/deep/new")" "$(printf 'two\nnew')"
        "#,
    );
}
