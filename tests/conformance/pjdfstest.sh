#!/usr/bin/env bash
# pjdfstest of crates.io: what POSIX says of errors, modes, owners and times.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=0.2.2
PROGRAM=$CACHE/pjdfstest-$VERSION/bin/pjdfstest
# glibc knows a filesystem's LINK_MAX by its type (statfs(2)), and none of FUSE; the case about it would be skipped.
LINK_MAX=$CACHE/link-max-1.so

suite_describe() { echo "shortened (it is short): POSIX errors, modes, owners, times; crates.io, $VERSION"; }

suite_install() {
    cargo_install pjdfstest "$VERSION"
    if [ ! -e "$LINK_MAX" ]; then
        cc -shared -fPIC -O1 -o "$LINK_MAX.new" "$CONFORMANCE/link-max.c" -ldl
        mv "$LINK_MAX.new" "$LINK_MAX"
    fi
    echo "$VERSION"
}

suite_populate() { :; }

suite_run() {
    local config tools
    config=$(mktemp)
    # It remounts with mount(8), which asks a helper about filesystems of FUSE where fuse3 is installed, and that a program of
    # the filesystem's name; the kernel alone can do it (-i).
    tools=$(mktemp -d)
    printf '#!/bin/sh\nexec %s -i "$@"\n' "$(command -v mount)" >"$tools/mount"
    chmod +x "$tools/mount"
    local PATH=$tools:$PATH
    cat >"$config" <<CONFIG
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.012
allow_remount = true

[dummy_auth]
entries = [["conformance1", "conformance1"], ["conformance2", "conformance2"]]
CONFIG
    # Other cases leave removed files open, and a disk with such cannot be remounted read-only.
    local all
    all=$(LD_PRELOAD=$LINK_MAX "$PROGRAM" -c "$config" -p "$1" -s "$CONFORMANCE_OTHER_FILESYSTEM" 2>/dev/null) || true
    outcomes <<<"$all" | grep -v '::erofs_'
    all=$(LD_PRELOAD=$LINK_MAX "$PROGRAM" -c "$config" -p "$1" -s "$CONFORMANCE_OTHER_FILESYSTEM" erofs 2>/dev/null) || true
    outcomes <<<"$all" | grep '::erofs_'
    rm -r "$config" "$tools"
}

outcomes() {
    # shellcheck disable=SC2016
    awk '/^[a-z0-9_:]+ +(ok|FAILED|skipped)$/ { print $1 "\t" ($2 == "ok" ? "pass" : $2 == "FAILED" ? "fail" : "skip") }' |
        LC_ALL=C sort
}

suite "$@"
