# shellcheck shell=bash disable=SC2034 # used by those that source it
# What every scenario shares; sourced as its first line.
#
# A scenario runs in a mount and a PID namespace of its own: what it mounts is
# seen by nobody else, and when it ends, however it ends, the kernel kills every
# process it left and drops every mount. It works in a temporary directory of
# its own, with a state directory of its own.
#
#   HARNESS_FS                 the binary (default: of CARGO_TARGET_DIR, or target: release, else debug)
#   HARNESS_FS_CACHE           where `prepare` keeps its input (default: .cache)
#   HARNESS_FS_SCENARIO_TMP    parent of the temporary directory (default: /var/tmp)
#   HARNESS_FS_SCENARIO_STATE  parent of the state directory (default: the temporary directory)
#   HARNESS_FS_SCENARIO_MOUNT  more options for `mount`, such as --no-passthrough
#   HARNESS_FS_NO_PASSTHROUGH  as for `mount`; that steps are served so, or with passthrough, is checked
set -euo pipefail

SCENARIOS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$SCENARIOS/../.." && pwd)
DATA=$SCENARIOS/data
CACHE=${HARNESS_FS_CACHE:-$REPO/.cache}/scenarios
DIGEST=$SCENARIOS/tree-digest
NAME=$(basename "$0" .sh)

if [ "${HARNESS_FS_SCENARIO_NS:-}" != "$(readlink /proc/self/ns/mnt)" ]; then
    [ "$(id -u)" = 0 ] || { echo "$NAME: must run as root" >&2; exit 2; }
    # The first bash only notes the new namespace; $0 then runs as PID 1 of it.
    # shellcheck disable=SC2016
    exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        bash -c 'HARNESS_FS_SCENARIO_NS=$(readlink /proc/self/ns/mnt) exec "$@"' - "$0" "$@"
fi
[ $$ = 1 ] || { echo "$NAME: not in a PID namespace of its own" >&2; exit 2; }

if [ -z "${HARNESS_FS:-}" ]; then
    TARGET=${CARGO_TARGET_DIR:-$REPO/target}
    HARNESS_FS=$TARGET/release/harness-fs
    [ -x "$HARNESS_FS" ] || HARNESS_FS=$TARGET/debug/harness-fs
fi
HARNESS_FS=$(realpath -m "$HARNESS_FS")
[ -x "$HARNESS_FS" ] || { echo "$NAME: no binary at $HARNESS_FS (cargo build --release)" >&2; exit 2; }

umask 022
export LC_ALL=C.UTF-8 TZ=UTC HOME=/root
unset HARNESS_FS_STAGE HARNESS_WORKSPACE DRONE_WORKSPACE HARNESS_FS_STEP
TMP=$(mktemp -d "${HARNESS_FS_SCENARIO_TMP:-/var/tmp}/harness-fs-$NAME.XXXXXX")
chmod 711 "$TMP" # other users reach what is below, where its own mode lets them
STATE_PARENT=$TMP
[ -z "${HARNESS_FS_SCENARIO_STATE:-}" ] ||
    STATE_PARENT=$(mktemp -d "$HARNESS_FS_SCENARIO_STATE/harness-fs-$NAME.XXXXXX")
export HARNESS_FS_STATE_DIR=$STATE_PARENT/state
read -ra MOUNT_OPTIONS <<<"${HARNESS_FS_SCENARIO_MOUNT:-}"
REMOVED=("$TMP" "$STATE_PARENT") # in the end
OUT=$TMP/out
ERR=$TMP/err
MAPPED=()
exec 3>&2

note() { printf -- '-- %3d s: %s\n' "$SECONDS" "$*" >&3; }

fail() {
    trap - ERR
    printf '%s\n' "$NAME: FAILED: $*" >&3
    exit 1
}

cleanup() {
    local code=$? where
    trap - EXIT
    set +e
    if [ $code -ne 0 ]; then
        # (the error trap's message came first)
        [ ! -s "$OUT" ] || { echo "== last stdout"; tail -n 40 "$OUT"; } >&3
        [ ! -s "$ERR" ] || { echo "== last stderr"; tail -n 40 "$ERR"; } >&3
        if [ -e "$HARNESS_FS_STATE_DIR/daemon.log" ]; then
            { echo "== daemon.log"; tail -n 40 "$HARNESS_FS_STATE_DIR/daemon.log"; } >&3
        fi
    fi
    cd / || exit 1
    kill -KILL -1 2>/dev/null # all that is left in this PID namespace, but not us
    while read -r where; do
        umount -l "$(printf '%b' "$where")" 2>/dev/null
    done < <(awk '{print $5}' /proc/self/mountinfo | grep -E "^($(IFS='|'; echo "${REMOVED[*]}")|/harness|/root/\.(m2|npm))(/|$)" | tac)
    if [ -z "${HARNESS_FS_KEEP:-}" ]; then
        rm -rf --one-file-system "${REMOVED[@]}"
    else
        echo "kept: ${REMOVED[*]}" >&3
    fi
    exit $code
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'echo "$NAME: line $LINENO: \"$BASH_COMMAND\" gave $?" >&3' ERR
set -E

# hfs ARGUMENT... : the binary, with a limit.
hfs() {
    printf '+ harness-fs %s\n' "${*@Q}" >&3
    timeout -k 10 "${HFS_TIMEOUT:-180}" "$HARNESS_FS" "$@" 3>&-
}

# expect CODE CMD... : runs CMD (stdout to $OUT, stderr to $ERR) and fails
# unless it exits with CODE.
expect() {
    local want=$1 got=0
    shift
    "$@" >"$OUT" 2>"$ERR" </dev/null || got=$?
    [ "$got" = "$want" ] || fail "exit code $got in place of $want: ${*@Q}"
}

# says TEXT : the last `expect`ed command printed TEXT.
says() { grep -qF -e "$1" "$OUT" "$ERR" || fail "\"$1\" is not in the output"; }

assert_same() { [ "$1" = "$2" ] || fail "$3: \"$1\" is not \"$2\""; }
assert_exists() { [ -e "$1" ] || [ -L "$1" ] || fail "$1 is missing"; }
assert_missing() { if [ -e "$1" ] || [ -L "$1" ]; then fail "$1 must not be there"; fi; }

# same_lines A B WHAT : two listings are equal, or their difference is shown.
same_lines() {
    local got=0
    diff -U0 "$1" "$2" >"$TMP/diff" || got=$?
    [ $got = 0 ] || { head -n 60 "$TMP/diff" >&3; fail "$3 differs ($1, $2)"; }
}

# same_tree A B WHAT [OPTION...] : two trees are equal.
same_tree() {
    local a=$1 b=$2 what=$3
    shift 3
    timeout 300 "$DIGEST" --list "$@" "$a" >"$TMP/tree-a"
    timeout 300 "$DIGEST" --list "$@" "$b" >"$TMP/tree-b"
    same_lines "$TMP/tree-a" "$TMP/tree-b" "$what"
}

# poll SECONDS WHAT CMD... : until CMD succeeds.
poll() {
    local limit=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$limit" ] || fail "waited in vain until $what"
        sleep 0.05
    done
}

# map PATH... : binds a fresh empty directory over each PATH; the first is the
# workspace. The directories of the host are hidden by that, never touched.
map() {
    local path
    for path; do
        mkdir -p "$path" "$TMP/base$path"
        mount --bind "$TMP/base$path" "$path"
        MAPPED+=("$path")
    done
    chmod 0777 "$TMP/base${MAPPED[0]}"
}

mount_points() { awk '{print $5, $4}' /proc/self/mountinfo | LC_ALL=C sort; }

# same_mounts : nothing is mounted that was not before the mount; and what the
# scenario itself mounted still is. (Other mounts of the machine may go away.)
same_mounts() {
    mount_points >"$TMP/mounts-after"
    LC_ALL=C comm -13 "$TMP/mounts-before" "$TMP/mounts-after" >"$TMP/left"
    [ ! -s "$TMP/left" ] || { cat "$TMP/left" >&3; fail "left mounted"; }
    local path
    for path in "${MAPPED[@]}"; do
        LC_ALL=C comm -23 "$TMP/mounts-before" "$TMP/mounts-after" >"$TMP/gone"
        if grep -qF "$path " "$TMP/gone"; then fail "$path itself is no longer mounted"; fi
    done
}

# Those that are not us, and not just waiting to be reaped. Forks nothing that
# it would then see.
others() {
    local dir pid rest
    OTHERS=()
    for dir in /proc/[0-9]*; do
        pid=${dir#/proc/}
        case $pid in "$$" | "$BASHPID") continue ;; esac
        { read -r rest <"$dir/stat"; } 2>/dev/null || continue
        rest=${rest##*) }
        [ "${rest:0:1}" = Z ] || OTHERS+=("$pid")
    done
}

alone() { others; [ ${#OTHERS[@]} = 0 ]; }

shared_options() {
    local path
    SHARED=()
    for path in "${MAPPED[@]:1}"; do SHARED+=(--shared-path "$path"); done
}

# mount_stage [OPTION...] : notes what is there, then `harness-fs mount`.
mount_stage() {
    alone || fail "processes before the mount: ${OTHERS[*]}"
    timeout 300 "$DIGEST" --list "${MAPPED[@]}" >"$TMP/base-before"
    mount_points >"$TMP/mounts-before"
    shared_options
    expect 0 hfs mount "${SHARED[@]}" "${MOUNT_OPTIONS[@]}" "$@"
    check_transport
}

# check_transport : a step's view is served with passthrough where the kernel has
# it (Linux 6.9 and newer), or without where that was asked for.
check_transport() {
    local wanted=passthrough
    [ "$(printf '6.9\n%s\n' "$(uname -r)" | sort -V | head -n 1)" = 6.9 ] || wanted='no passthrough'
    case ${HARNESS_FS_NO_PASSTHROUGH:-0} in 0 | n | no | f | false | off) ;; *) wanted='no passthrough' ;; esac
    case " ${MOUNT_OPTIONS[*]} " in *' --no-passthrough '*) wanted='no passthrough' ;; esac
    expect 0 hfs step begin transport
    expect 0 hfs status --json
    assert_same "$(python3 -c '
import json, sys
views = json.load(open(sys.argv[1]))["views"]
print(*(view["transport"].split(", ")[1] for view in views if view["name"] == "transport"))' "$OUT")" \
        "$wanted" "how a step is served"
    expect 0 hfs step discard transport
}

# unmount_stage [OPTION...] : `harness-fs unmount`, then: the base is what it
# was, nothing is left mounted, no process is left, no state is left.
unmount_stage() {
    cd /
    expect 0 hfs unmount "$@"
    same_mounts
    timeout 300 "$DIGEST" --list "${MAPPED[@]}" >"$TMP/base-after"
    same_lines "$TMP/base-before" "$TMP/base-after" "the base"
    if ! alone; then
        poll 10 "all processes have ended" alone
    fi
    assert_missing "$HARNESS_FS_STATE_DIR"
}

# A directory with a bit of everything that a tree can hold.
odd_tree() {
    local dir=$1
    mkdir -p "$dir/sub/deep" "$dir/empty" "$dir/locked" "$dir/old/inner"
    printf 'hello\n' >"$dir/file"
    printf 'one of two names\n' >"$dir/hard-1"
    ln "$dir/hard-1" "$dir/sub/hard-2"
    ln -s ../file "$dir/sub/link"
    ln -s /nowhere/at/all "$dir/dangling"
    mkfifo -m 0640 "$dir/pipe"
    printf 'x' >"$dir/"$'odd \xff\n name'
    printf 'x' >"$dir/$(printf 'n%.0s' {1..250})"
    truncate -s 3M "$dir/sparse"
    printf 'end' | dd of="$dir/sparse" bs=1 seek=2000000 conv=notrunc status=none
    printf '#!/bin/sh\necho tool\n' >"$dir/tool"
    chmod 4755 "$dir/tool"
    chown 1000:1001 "$dir/sub/deep"
    chmod 1777 "$dir/sub/deep"
    printf 'secret\n' >"$dir/locked/inside"
    chmod 0400 "$dir/locked/inside"
    chmod 0555 "$dir/locked"
    printf 'old\n' >"$dir/old/a"
    printf 'old\n' >"$dir/old/inner/b"
    chown -h 1000:1000 "$dir/sub/link"
    setfattr -n user.note -v 'a value' "$dir/file"
    touch -d '2001-02-03 04:05:06.123456789' "$dir/file"
    touch -h -d '2001-02-03 04:05:06.987654321' "$dir/dangling"
    touch -d '1999-12-31 23:59:59.000000001' "$dir/empty"
}
