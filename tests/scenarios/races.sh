#!/usr/bin/env bash
# Scenario 8: which steps read what another wrote at the same time. `npm ci`
# beside `cargo build` in one workspace: none, in either order, and with --strict.
# Two pytest runs: the coverage database, and nothing else.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export npm_config_cache=/root/.npm npm_config_update_notifier=false npm_config_audit=false \
    npm_config_fund=false npm_config_ignore_scripts=true npm_config_offline=true \
    npm_config_omit_lockfile_registry_resolved=false npm_config_progress=false \
    npm_config_loglevel=error
export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTFLAGS RUSTC_WRAPPER CARGO_BUILD_RUSTC_WRAPPER CARGO_INCREMENTAL
unset PYTEST_ADDOPTS COVERAGE_FILE
python=$CACHE/pytest/venv/bin/python

map /harness /root/.npm
cp -a "$CACHE/cargo/project/." /harness/
cp -a "$CACHE/npm/old/package.json" "$CACHE/npm/old/package-lock.json" /harness/
cp -a "$CACHE/npm/npm-cache/." /root/.npm/
cp -a "$DATA/pytest/." /harness/

# member NAME COMMAND... : with $OPTION, in a view that is opened before any member has ended,
# so that the members have nothing of each other.
member() {
    local name=$1
    shift
    # shellcheck disable=SC2016
    HFS_TIMEOUT=400 hfs step run --group pair "$OPTION" --result "$TMP/$name.json" "$name" -- \
        sh -c 'echo >"$1/begun-$2"; while [ ! -e "$1/go" ]; do sleep 0.05; done; shift 2; "$@"' - \
        "$TMP" "$name" "$@" >"$TMP/$name.out" 2>&1 </dev/null
}

begun() { for step; do [ -e "$TMP/begun-$step" ] || return 1; done; }

# both A B : waits for two members to begin, lets them go, and for their end.
both() {
    local pid
    poll 60 "$* have begun" begun "$@"
    touch "$TMP/go"
    for pid in "${PIDS[@]}"; do wait "$pid" || { cat "$TMP/$1.out" "$TMP/$2.out" >&3; fail "a step of $*"; }; done
    rm "$TMP/go" "$TMP/begun-$1" "$TMP/begun-$2"
}

none() {
    expect 0 hfs step list --reads
    assert_same "$(cat "$OUT")" "no step saw what another changed meanwhile" "what $* read of each other"
}

build=(cargo build --offline --locked --color never)
for order in "--strict=false install build" "--strict install build" "--strict build install"; do
    note "npm ci beside cargo build: $order"
    mount_stage
    read -ra steps <<<"$order"
    OPTION=${steps[0]} steps=("${steps[@]:1}")
    expect 0 hfs group declare pair "${steps[@]}"
    PIDS=()
    member install npm ci & PIDS+=($!)
    member build "${build[@]}" & PIDS+=($!)
    both install build
    none npm ci and cargo build
    [ "$(find /harness/node_modules -type f | wc -l)" -ge 8000 ] || fail "npm ci was not merged"
    assert_exists /harness/target/debug/cargo-scenario
    unmount_stage
done

note "two pytest runs share a coverage database"
OPTION=--on-conflict=last
pytest=("$python" -m pytest -q -p no:randomly --cov=shop --cov-report=)
mount_stage
expect 0 hfs group declare pair unit-a unit-b
PIDS=()
for test in a b; do
    member "unit-$test" "${pytest[@]}" --junitxml=reports/junit.xml "tests/test_$test.py" & PIDS+=($!)
done
both unit-a unit-b
expect 0 hfs step list --reads
assert_same "$(cat "$OUT")" "unit-b found no /harness/.coverage, which unit-a added" "what pytest read of a sibling"
grep -hqF 'read/write: unit-b found no /harness/.coverage, which unit-a added' "$TMP"/unit-?.out ||
    fail "the merge did not say so"

note "they add to one that is there"
expect 0 hfs group declare pair more-a more-b
PIDS=()
for test in a b; do
    member "more-$test" "${pytest[@]}" --cov-append "tests/test_$test.py" & PIDS+=($!)
done
both more-a more-b
expect 0 hfs step list --reads
says "more-b read /harness/.coverage, which more-a changed"

note "with --strict it is a conflict, which can be decided"
expect 0 hfs step begin strict-a
expect 0 hfs step begin strict-b
for test in a b; do
    expect 0 hfs step exec "strict-$test" -- "${pytest[@]}" "tests/test_$test.py"
done
expect 0 hfs step merge strict-a
expect 4 hfs step merge strict-b --strict --json
python3 - "$OUT" <<'PY'
import json, sys
conflicts = json.load(open(sys.argv[1]))["conflicts"]
assert any(one["path"] == "/harness/.coverage" for one in conflicts), conflicts
PY
expect 0 hfs step merge strict-b --strict --on-conflict last
unmount_stage
