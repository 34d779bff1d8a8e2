#!/usr/bin/env bash
# Scenario 4: cargo build of a crate with 20 and more dependencies, the target
# directory in the workspace; the next step rebuilds nothing.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTFLAGS RUSTC_WRAPPER CARGO_BUILD_RUSTC_WRAPPER CARGO_INCREMENTAL
build=(cargo build --offline --locked --color never -v)

map /harness
cp -a "$CACHE/cargo/project/." /harness/
mount_stage

hfs_build() { HFS_TIMEOUT=400 expect 0 hfs step run "$1" -- "${build[@]}"; }
count() { grep -cE "^ *$1 " "$ERR" || true; }

note "build"
hfs_build build
compiled=$(count Compiling)
[ "$compiled" -ge 21 ] || fail "only $compiled crates compiled"
expect 0 /harness/target/debug/cargo-scenario
says '"answer":42'
find /harness/target -type f -links +1 | grep -q . || fail "cargo's hard links are gone"

nothing_to_do() {
    assert_same "$(count Compiling)$(count Dirty)$(count Running)" 000 "crates that $1 rebuilt"
    assert_same "$(count Fresh)" "$compiled" "fresh crates in $1"
}
note "the next step rebuilds nothing; nor does one after a snapshot was restored"
hfs_build next
nothing_to_do next
expect 0 hfs snapshot create built
expect 0 hfs step run change -- sh -c 'echo "// changed" >>src/main.rs && rm -r target/debug/deps'
expect 0 hfs snapshot restore built
hfs_build restored
nothing_to_do restored

note "a change rebuilds one crate"
echo '// changed' >>/harness/src/main.rs
hfs_build changed
assert_same "$(count Compiling)" 1 "crates compiled after one change"
expect 0 hfs step run run -- target/debug/cargo-scenario
says '"answer":42'
unmount_stage
assert_missing /harness/target
