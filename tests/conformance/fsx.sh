#!/usr/bin/env bash
# fsx of crates.io: random reads, writes, mappings, truncations, holes and copies of one file, each read checked.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=0.3.2
PROGRAM=$CACHE/fsx-$VERSION/bin/fsx
SEEDS=(1 2 3 4 5)

suite_describe() { echo "shortened: ${#SEEDS[@]} seeds x 200,000 random operations on one file, each read checked; crates.io, $VERSION"; }

suite_install() {
    cargo_install fsx "$VERSION"
    echo "$VERSION"
}

suite_populate() {
    local seed
    for seed in "${SEEDS[@]}"; do
        head -c 262144 /dev/urandom >"$1/lower-$seed"
        head -c 262144 /dev/urandom >"$1/in-place-$seed"
    done
}

# Of each seed: a new file; a lower one, which fsx empties first; and a lower one of which it never changes the length,
# which somebody else has open and mapped from before.
suite_run() {
    local directory=$1 operations=200000 seeds=("${SEEDS[@]}") config seed kind
    [ "$2" = full ] || { operations=4000; seeds=(1); }
    config=$(mktemp -d)
    printf '%s\n' '[opsize]' 'max = 65536' '[weights]' 'read = 10' 'write = 10' 'mapread = 10' 'mapwrite = 10' 'fsync = 0.2' \
        'fdatasync = 0.2' 'invalidate = 1' 'punch_hole = 3' 'sendfile = 3' 'posix_fadvise = 3' 'copy_file_range = 3' >"$config/common"
    { echo 'flen = 262144'; cat "$config/common"; printf '%s\n' 'close_open = 1' 'truncate = 5' 'posix_fallocate = 3'; } >"$config/all"
    { echo 'blockmode = true'; cat "$config/common"; printf '%s\n' 'close_open = 0' 'truncate = 0' 'posix_fallocate = 0'; } >"$config/in-place"
    cd "$directory"
    for kind in new lower in-place; do
        for seed in "${seeds[@]}"; do printf '%s\0' "$kind" "$seed"; done
    done | xargs -0 -n 2 -P 2 "$CONFORMANCE/fsx.sh" one "$operations" "$config" "$PROGRAM"
    rm -r "$config"
}

# One file. Its reader goes on to see what is written.
one() {
    local operations=$1 config=$2 program=$3 kind=$4 seed=$5 file=$4-$5 settings=$2/all outcome=pass
    if [ "$kind" = in-place ]; then
        settings=$config/in-place
        exec 3<"$file"
    fi
    "$program" -q -f "$settings" -N "$operations" -S "$seed" -P "$config" "$file" >&2 || outcome=fail
    if [ "$kind" = in-place ] && ! cmp -s /proc/self/fd/3 "$file"; then outcome='fail: an old handle sees another file'; fi
    printf '%s, seed %s, %s operations\t%s\n' "$kind" "$seed" "$operations" "$outcome"
}

if [ "${1:-}" = one ]; then "$@"; else suite "$@"; fi
