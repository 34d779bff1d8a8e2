#!/usr/bin/env bash
# Scenario 13: what cargo and make have built is saved, and a later stage, which has the
# sources only, rebuilds nothing after it was restored; nor does one after a change was saved.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTFLAGS RUSTC_WRAPPER CARGO_BUILD_RUSTC_WRAPPER CARGO_INCREMENTAL
export HARNESS_FS_STORE=file://$TMP/store
unset HARNESS_FS_CACHE_SCOPE HARNESS_FS_CACHE_POLICY
build=(cargo build --offline --locked --color never -v)

map /harness
cp -a "$CACHE/cargo/project/." /harness/
mkdir /harness/c
printf 'int answer(void) { return 42; }\n' >/harness/c/answer.c
printf '#include <stdio.h>\nint answer(void);\nint main(void) { printf("%%d\\n", answer()); }\n' >/harness/c/main.c
printf 'out/main: out/main.o out/answer.o\n\tcc -o $@ $^\nout/%%.o: %%.c\n\tmkdir -p out\n\tcc -c -o $@ $<\n' >/harness/c/Makefile

count() { grep -cE "^ *$1 " "$ERR" || true; }
builds() {
    HFS_TIMEOUT=400 expect 0 hfs step run "$1" -- "${build[@]}"
}
nothing_to_do() {
    builds "$1"
    assert_same "$(count Compiling)$(count Dirty)$(count Running)" 000 "crates that $1 rebuilt"
    expect 0 hfs step run "$1-make" -- make -C c
    says "'out/main' is up to date"
    expect 0 /harness/target/debug/cargo-scenario
    says '"answer":42'
    expect 0 /harness/c/out/main
    says 42
}
saves() { # KEY: sets sent
    expect 0 hfs cache save --key "$1" --path /harness/target --path /harness/c/out --json
    sent=$(sed -n 's/.*"sent_bytes": \([0-9]*\).*/\1/p' "$OUT")
}
stage_with() { # KEY
    mount_stage
    assert_missing /harness/target
    expect 0 hfs cache restore --key "$1"
    says cache_state=complete
}
trees() { "$DIGEST" --list /harness/target /harness/c/out; }

note "build, and save"
mount_stage
builds build
[ "$(count Compiling)" -ge 21 ] || fail "only $(count Compiling) crates compiled"
expect 0 hfs step run make -- make -C c
saves built
whole=$sent
trees >"$TMP/built"
saves again
assert_same "$sent" 0 "bytes sent of what has not changed"
unmount_stage

note "a later stage has it, to the last link and nanosecond, and rebuilds nothing"
stage_with built
trees >"$TMP/restored"
same_lines "$TMP/built" "$TMP/restored" "the restored tree"
nothing_to_do restored
note "what a change has rebuilt is all that is sent"
echo '// changed' >>/harness/src/main.rs
builds changed
assert_same "$(count Compiling)" 1 "crates compiled after one change"
saves changed
[ "$sent" -lt $((whole / 2)) ] || fail "$sent of $whole bytes were sent after one change"
unmount_stage

note "and the stage after that has the change"
echo '// changed' >>/harness/src/main.rs
touch -d '1 hour ago' /harness/src/main.rs
stage_with changed
nothing_to_do after-the-change
expect 0 hfs cache verify
unmount_stage

note "the store is a layout that other tools read"
expect 0 skopeo inspect --raw "oci:$TMP/store:default/changed"
says application/vnd.harness.fs.cache.v1
