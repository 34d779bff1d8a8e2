#!/usr/bin/env bash
# The tests that scripts/container-test runs inside a container: harness-fs is in PATH, the container is thrown away
# afterwards, HARNESS_FS_STATE_DIR says where the state lies (unset: the default place).
#
#   inside.sh           every test; ends with "N passed, N failed"
#   inside.sh NAME…     these tests only
#
# Each test starts with a workspace that holds files and no stage, and has a time limit. After each: the base is as
# before, nothing is mounted, no process of harness-fs is left.
set -u
# It empties /harness and ends every harness-fs it finds.
[ -e /run/.containerenv ] || [ -e /.dockerenv ] || { echo 'inside.sh: this is not a container' >&2; exit 2; }

state=${HARNESS_FS_STATE_DIR:-/var/lib/harness-fs/default}
here=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")

fail() { printf '  %s\n' "$*" >&2; exit 1; }
expect() { # expect CODE COMMAND…: the exit code is CODE
  local wanted=$1 code=0
  shift
  "$@" || code=$?
  [ "$code" = "$wanted" ] || fail "exit code $code, not $wanted: $*"
}
same() { [ "$1" = "$2" ] || fail "$3: $(diff <(printf '%s\n' "$1") <(printf '%s\n' "$2") | head -20)"; }

# Everything a tree is: names, types, modes, owners, times of files, link targets, hard-link counts, content.
digest() { (
  cd "$1" || exit 1
  find . -mindepth 1 \( -type d -printf '%p %y %m %U %G\n' -o -printf '%p %y %m %U %G %s %T@ %n %l\n' \) | LC_ALL=C sort
  find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum
); }

make_base() {
  mkdir -p /harness/src/deep /harness/cache
  echo 'from the base' >/harness/readme
  echo 'int main(void) { return 0; }' >/harness/src/main.c
  head -c 300000 /dev/urandom >/harness/cache/blob
  ln -s src/main.c /harness/link
  ln /harness/readme /harness/src/deep/same-readme
  chmod 640 /harness/src/main.c
}

mounts() { grep -cE ' fuse[. ]' /proc/self/mounts; }
processes() { pgrep -x harness-fs; }
gone() { # nothing is mounted and nothing runs, at once or in a moment
  local i
  for i in $(seq 50); do
    [ "$(mounts)" = 0 ] && ! processes >/dev/null && return
    sleep 0.1
  done
  fail "left behind after $i tries: $(grep -E ' fuse[. ]' /proc/self/mounts) $(pgrep -ax harness-fs)"
}

in_step() { # in_step NAME SCRIPT [OPTION…]: runs SCRIPT in a step
  local name=$1 script=$2
  shift 2
  harness-fs step run "$@" "$name" -- sh -ec "$script"
}

# --- The tests ---------------------------------------------------------------------------------------------------------

# Whichever this run is for, by the list of mounts (proc_pid_mountinfo(5)): the path is the fifth field, the type follows " - ".
test_the_state_lies_on_an_overlay_root_or_on_a_volume() {
  local mounted type
  mounted=$(awk '{ print $5 }' /proc/self/mountinfo)
  if [ -n "${HARNESS_FS_STATE_DIR:-}" ]; then
    grep -qxF "$(dirname "$state")" <<<"$mounted" || fail "$(dirname "$state") is not a volume"
    return
  fi
  type=$(awk '$5 == "/" { sub(/.* - /, ""); type = $1 } END { print type }' /proc/self/mountinfo)
  [ "$type" = overlay ] ||
    fail "the root of this container is on $type, not on an overlayfs: give the runtime its overlay storage driver"
  ! grep -xE '/var|/var/lib|/var/lib/harness-fs(/.*)?' <<<"$mounted" || fail 'something is mounted between the root and the state'
}

test_mount_shows_the_base_and_never_writes_it() {
  expect 0 harness-fs mount
  same "$(cat /harness/readme)" 'from the base' 'a file of the base'
  echo changed >/harness/readme
  mkdir /harness/new && echo new >/harness/new/file
  rm -r /harness/src
  same "$(cat /harness/readme)" changed 'a written file'
  [ ! -e /harness/src ] || fail 'a removed directory is still there'
  expect 0 harness-fs unmount
}

test_mount_creates_what_is_missing() {
  rm -rf /harness /vol
  expect 0 harness-fs mount --shared-path /vol
  same "$(stat -c %a /harness)" 777 'mode of the workspace'
  echo shared >/vol/file
  same "$(cat /vol/file)" shared 'a file of the shared path'
  expect 0 harness-fs unmount
}

test_a_step_writes() {
  expect 0 harness-fs mount
  # shellcheck disable=SC2016 # the step's shell expands it
  expect 0 in_step build '[ "$(pwd)" = /harness ]; mkdir out; echo built > out/app; rm readme; echo "// more" >> src/main.c; chmod 600 cache/blob'
  same "$(cat /harness/out/app)" built 'a file the step made'
  same "$(tail -1 /harness/src/main.c)" '// more' 'a file the step changed'
  same "$(stat -c %a /harness/cache/blob)" 600 'a mode the step changed'
  [ ! -e /harness/readme ] || fail 'a file the step removed is still there'
  same "$(cat /harness/src/deep/same-readme)" 'from the base' 'the other name of the removed file'
  expect 0 harness-fs unmount
}

test_a_failed_step_leaves_no_trace() {
  expect 0 harness-fs mount
  local before
  before=$(digest /harness)
  expect 7 in_step bad 'rm -rf src; echo half > half; echo x >> readme; exit 7'
  same "$before" "$(digest /harness)" 'the tree after a failed step'
  expect 0 in_step bad '[ -e src/main.c ] && [ ! -e half ] && echo done > half'
  same "$(cat /harness/half)" 'done' 'what the retry wrote'
  expect 0 harness-fs unmount
}

test_parallel_steps_conflict() {
  expect 0 harness-fs mount
  local before codes
  before=$(digest /harness)
  expect 0 harness-fs group declare pair one two
  in_step one 'echo one > report; echo 1 > only-one' --group pair & local first=$!
  in_step two 'echo two > report; echo 2 > only-two' --group pair & local second=$!
  codes=0
  wait "$first" || codes=$?
  wait "$second" || codes="$codes $?"
  case " $codes " in *' 121 '*) ;; *) fail "no step ended with 121: $codes" ;; esac
  same "$before" "$(digest /harness)" 'the tree after a conflict'
  harness-fs status --json | grep -q '"one"' || fail 'status does not list the kept step'
  expect 0 harness-fs step merge one two --on-conflict last
  same "$(cat /harness/report /harness/only-one /harness/only-two)" "$(printf 'two\n1\n2')" 'the merged files'
  expect 0 harness-fs unmount
}

test_parallel_steps_keep_both() {
  expect 0 harness-fs mount
  expect 0 harness-fs group declare pair one two
  in_step one 'echo one > report' --group pair --on-conflict keep-both & local first=$!
  in_step two 'echo two > report' --group pair --on-conflict keep-both & local second=$!
  wait "$first" || fail "the first step ended with $?"
  wait "$second" || fail "the second step ended with $?"
  same "$(cat /harness/report)" one 'the earlier file'
  same "$(cat /harness/report* | sort)" "$(printf 'one\ntwo')" 'both files'
  expect 0 harness-fs unmount
}

test_snapshot_and_export() {
  expect 0 harness-fs mount
  echo kept >/harness/kept
  rm -r /harness/src/deep
  local saved
  saved=$(digest /harness)
  expect 0 harness-fs snapshot create before
  harness-fs snapshot list | grep -q before || fail 'snapshot list does not list it'
  rm -rf /harness/src /harness/kept
  echo later >/harness/later
  expect 0 harness-fs export before --to /tmp/export
  [ -s /tmp/export/oci-layout ] || fail 'no oci-layout'
  local blob
  for blob in /tmp/export/blobs/sha256/*; do
    same "$(sha256sum <"$blob" | cut -d' ' -f1)" "$(basename "$blob")" 'the digest of a blob'
  done
  expect 0 harness-fs snapshot restore before
  same "$saved" "$(digest /harness)" 'the restored tree'
  expect 0 harness-fs unmount
  rm -rf /harness
  expect 0 harness-fs mount --from /tmp/export
  same "$saved" "$(digest /harness)" 'the tree mounted from the export'
  expect 0 harness-fs unmount
  rm -rf /harness
  make_base
}

test_unmount_applies() {
  expect 0 harness-fs mount
  expect 0 in_step build 'echo built > app; rm -r src/deep; mv cache renamed'
  local saved applied
  saved=$(digest /harness)
  mkdir /tmp/applied
  expect 0 harness-fs unmount --apply /tmp/applied
  # The workspace's own directory below it, where there is one for each mapped path.
  applied=$(find /tmp/applied -name app -printf '%h')
  [ -n "$applied" ] || fail "unmount --apply wrote no app: $(find /tmp/applied)"
  same "$saved" "$(digest "$applied")" 'the applied tree'
}

test_another_user_reaches_neither_socket_nor_layers() {
  expect 0 harness-fs mount
  local user=(setpriv --reuid=1000 --regid=1000 --clear-groups)
  cat >/tmp/probe.py <<'PROBE'
import os, socket, sys
state = sys.argv[1]
reached = []
sockets = [os.path.join(state, name) for name in ["control.sock", "step.sock"]]
for path in sockets + ["/proc/1/root" + path for path in sockets]:
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(3)
    try:
        s.connect(path)
        s.sendall(b"{}\n")
        if s.recv(1):
            reached.append(path)
    except OSError:
        pass
for path in ["", "layers", "views", "stage.json", "daemon.log"]:
    path = os.path.join(state, path)
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read()
        # What a step has in place of the state directory holds a socket that it cannot use.
        if os.path.isdir(path) and os.listdir(path) in ([], ["step.sock"]):
            continue
        reached.append(path)
    except OSError:
        pass
sys.exit("reached: " + ", ".join(reached) if reached else 0)
PROBE
  chmod 644 /tmp/probe.py
  expect 0 "${user[@]}" python3 /tmp/probe.py "$state"
  expect 0 harness-fs step run probe -- "${user[@]}" python3 /tmp/probe.py "$state"
  chmod 777 /harness
  expect 0 harness-fs step run write -- "${user[@]}" sh -ec 'echo mine > mine'
  same "$(stat -c %u /harness/mine)" 1000 'owner of what the user wrote'
  if "${user[@]}" harness-fs snapshot create stolen >/dev/null 2>&1; then fail 'uid 1000 could give a command'; fi
  expect 0 harness-fs unmount
}

test_the_state_is_hidden_in_a_step() {
  expect 0 harness-fs mount
  [ -S "$state/control.sock" ] || fail "no socket in $state"
  expect 0 in_step look "[ ! -e '$state/control.sock' ]; [ ! -e '$state/stage.json' ]; echo looked > looked"
  same "$(cat /harness/looked)" looked 'what the step wrote'
  expect 0 harness-fs unmount
}

test_a_step_ends_what_it_leaves_behind() {
  expect 0 harness-fs mount
  expect 0 in_step fork 'echo kept > kept; (trap "" HUP; while :; do date >> late; sleep 0.1; done) >/dev/null 2>&1 & while [ ! -e late ]; do sleep 0.1; done' --grace 1s
  same "$(cat /harness/kept)" kept 'what the step wrote'
  [ -e /harness/late ] || fail 'what the process wrote before its end is missing'
  local sealed
  sealed=$(digest /harness)
  sleep 0.5
  same "$sealed" "$(digest /harness)" 'the tree while time goes by'
  expect 0 harness-fs unmount
}

daemon_pid() { # the process that serves: the number under "daemon_pid", or "pid" (at the top or in "daemon")
  harness-fs status --json | python3 -c '
import json, sys
status = json.load(sys.stdin)
daemon = status.get("daemon")
for place, key in [(status, "daemon_pid"), (daemon, "pid"), (status, "pid")]:
    if isinstance(place, dict) and isinstance(place.get(key), int):
        sys.exit(print(place[key]))
sys.exit("status --json names no daemon pid")'
}

test_resume_after_a_killed_daemon() {
  expect 0 harness-fs mount
  expect 0 in_step build 'echo built > app; rm -r src/deep'
  echo live >/harness/live
  local before pid i
  before=$(digest /harness)
  pid=$(daemon_pid) || fail 'no daemon pid'
  kill -9 "$pid"
  for i in $(seq 100); do
    [ "$(mounts)" = 0 ] && break
    sleep 0.1
  done
  [ "$(mounts)" = 0 ] || fail "still mounted after $i tries: $(grep -E ' fuse[. ]' /proc/self/mounts)"
  timeout 5 ls /harness >/dev/null || fail 'a look at the workspace does not return'
  expect 5 timeout 10 harness-fs snapshot list
  expect 125 timeout 10 harness-fs step run more -- true
  expect 0 harness-fs mount --resume
  same "$before" "$(digest /harness)" 'the tree after mount --resume'
  expect 0 in_step more 'echo more >> app'
  expect 0 harness-fs unmount
}

test_kept_state_resumes() {
  expect 0 harness-fs mount
  expect 0 in_step build 'echo built > app'
  local before
  before=$(digest /harness)
  same "$(cat /harness/app)" built 'a file the step made'
  expect 0 harness-fs unmount --keep-state
  [ ! -e /harness/app ] || fail 'the base has what the step made'
  gone
  expect 0 harness-fs mount --resume
  same "$before" "$(digest /harness)" 'the tree after mount --resume'
  expect 0 harness-fs unmount
}

test_a_clone_into_the_workspace() {
  git init -q --bare -b main /tmp/origin.git
  git init -q -b main /tmp/work
  (cd /tmp/work && mkdir -p a/b && for i in $(seq 200); do echo "$i" >"a/b/file-$i"; done && git add . &&
    git -c user.name=t -c user.email=t@example.com commit -qm one && git push -q /tmp/origin.git main) || fail 'no repository'
  expect 0 harness-fs mount
  rm -rf /harness/readme /harness/src /harness/cache /harness/link
  expect 0 in_step clone 'git init -q -b main .; git remote add origin /tmp/origin.git; git fetch -q origin; git checkout -q main'
  cd /harness || fail 'no workspace'
  same "$(git status --porcelain)" '' 'git status'
  expect 0 git fsck --no-progress
  cd /
  expect 0 harness-fs unmount
}

# --- Running them --------------------------------------------------------------------------------------------------------

run_one() { # in a process of its own: a fresh workspace, the test, and what must hold after it
  rm -rf /harness /vol /tmp/export /tmp/applied
  make_base
  local base
  base=$(digest /harness)
  "$1"
  gone
  if [ "$1" != test_mount_creates_what_is_missing ] && [ "$1" != test_snapshot_and_export ]; then
    same "$base" "$(digest /harness)" 'the base'
  fi
}

tidy() { # after a failure: whatever it takes, so that the next test starts from nothing
  local line
  timeout 20 harness-fs unmount >/dev/null 2>&1
  processes | xargs -r kill -9
  while read -r line; do umount -l "$line"; done < <(awk '$3 ~ /^fuse/ { print $2 }' /proc/self/mounts | sort -r)
  rm -rf "$state"
}

if [ "${1:-}" = --one ]; then
  run_one "$2"
  exit 0
fi

export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
names=("$@")
[ $# -gt 0 ] || mapfile -t names < <(declare -F | sed -n 's/^declare -f \(test_.*\)/\1/p')
passed=0 failed=0
for name in "${names[@]}"; do
  cd / || exit 1
  if output=$(timeout -k 5 120 bash "$here" --one "$name" 2>&1 </dev/null); then
    passed=$((passed + 1))
    printf 'ok      %s\n' "${name#test_}"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n%s\n' "${name#test_}" "$output"
    [ -f "$state/daemon.log" ] && tail -15 "$state/daemon.log"
    tidy
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
