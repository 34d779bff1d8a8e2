#!/usr/bin/env bash
# Scenario 5: four steps at once, each of which writes reports/junit.xml,
# .coverage and pytest's cache. On a plain directory one of four survives, which
# is checked first.
#
# "One tree digest" in ten runs: reports hold times and the host's name, and
# coverage's database holds a time, so the digest is taken of a copy in which
# `normalise-pytest` replaced just those. Names, types, modes, owners and all
# other content count; times of files do not.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

runs=${HARNESS_FS_PYTEST_RUNS:-10}
export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
unset PYTEST_ADDOPTS COVERAGE_FILE
python=$CACHE/pytest/venv/bin/python
steps=(unit-a unit-b unit-c unit-d)
# What all four change, each differently (each test covers other lines of `shop`,
# so no two coverage databases are equal even if made in the same second):
conflicts=(reports/junit.xml .coverage .pytest_cache/v/cache/nodeids)

map /harness
cp -a "$DATA/pytest/." /harness/

# pytest_of STEP COMMAND... : COMMAND with what the step has to run, which takes
# down its name in $TMP/order when it has ended.
pytest_of() {
    local step=$1
    shift
    # The delay is the point here: the members end in any order.
    # shellcheck disable=SC2016
    "$@" sh -c 'sleep "$1"; step=$2 order=$3; shift 3; code=0; "$@" || code=$?; echo "$step" >>"$order"; exit $code' - \
        "0.$((RANDOM % 9))" "$step" "$TMP/order" \
        "$python" -m pytest -q -p no:randomly --cov=shop --cov-report= \
        --junitxml=reports/junit.xml "tests/test_${step#unit-}.py" \
        >"$TMP/$step.out" 2>&1 </dev/null
}

# group_of_four POLICY : declares the group and runs its members at once, each
# after a random delay. Leaves their exit codes in CODES, output in $TMP/NAME.*,
# and the order in which they ended in $TMP/order.
group_of_four() {
    local policy=$1 step pids=() pid i
    expect 0 hfs group declare tests "${steps[@]}"
    rm -f "$TMP/order"
    for step in "${steps[@]}"; do
        pytest_of "$step" hfs step run --group tests --on-conflict "$policy" --result "$TMP/$step.json" "$step" -- &
        pids+=($!)
    done
    CODES=()
    for i in "${!pids[@]}"; do
        pid=${pids[i]}
        CODES[i]=0
        wait "$pid" || CODES[i]=$?
        grep -q ' passed' "$TMP/${steps[i]}.out" ||
            { cat "$TMP/${steps[i]}.out" >&3; fail "pytest in step ${steps[i]} did not pass"; }
    done
}

four_reports() {
    assert_same "$(find /harness -maxdepth 1 -name '.coverage*' | wc -l)" 4 "number of coverage files"
    assert_same "$(find /harness/reports -type f | wc -l)" 4 "number of reports"
    # One of each step, whole.
    python3 - /harness/reports <<'PY'
import os, sys, xml.etree.ElementTree as tree
found = sorted(
    next(tree.parse(os.path.join(sys.argv[1], name)).iter("testcase")).get("classname")
    for name in os.listdir(sys.argv[1]))
assert found == ["tests.test_" + step for step in "abcd"], found
PY
}

note "on a plain directory, one of four reports survives"
cp -a /harness "$TMP/plain"
(
    cd "$TMP/plain"
    for step in "${steps[@]}"; do pytest_of "$step" command & done
    # Some may fail for coverage's database, which they take from each other.
    wait
)
assert_same "$(find "$TMP/plain/reports" -type f)" "$TMP/plain/reports/junit.xml" "reports on a plain directory"
# (Two that write at the same moment leave a mixture.)
survived=$(grep -o 'classname="[^"]*"' "$TMP/plain/reports/junit.xml" | sort -u | wc -l)
[ "$survived" -lt 4 ] || fail "all four reports are in one file on a plain directory"

note "fail: all pass, the conflict is reported, the stage is unchanged"
mount_stage
"$DIGEST" --list /harness >"$TMP/tree-before"
group_of_four fail
case " ${CODES[*]} " in
*" 121 "*) ;;
*) fail "no step of the group exited with 121: ${CODES[*]}" ;;
esac
for code in "${CODES[@]}"; do
    case $code in 0 | 121) ;; *) fail "a step exited with $code" ;; esac
done
"$DIGEST" --list /harness >"$TMP/tree-after"
same_lines "$TMP/tree-before" "$TMP/tree-after" "the stage after a conflict"
# (pytest itself names the report that it wrote)
cat "$TMP"/unit-?.out | grep -v 'generated xml file' >"$OUT"
: >"$ERR"
for path in "${conflicts[@]}"; do says "$path"; done
for i in "${!CODES[@]}"; do
    [ "${CODES[i]}" != 121 ] || python3 "$SCENARIOS/conflicts" "$TMP/${steps[i]}.json" "${steps[@]}" -- "${conflicts[@]}"
done
expect 0 hfs status
for step in "${steps[@]}"; do says "$step"; done

note "the kept layers merge later, without running anything again"
expect 0 hfs step merge "${steps[@]}" --on-conflict keep-both
four_reports
unmount_stage

note "keep-both: $runs runs, each in a stage of its own"
first=
for ((run = 1; run <= runs; run++)); do
    mount_stage
    group_of_four keep-both
    assert_same "${CODES[*]}" "0 0 0 0" "exit codes of run $run"
    four_reports
    assert_same "$(sort "$TMP/order" | tr '\n' ' ')" "${steps[*]} " "steps that ended in run $run"
    tr '\n' ' ' <"$TMP/order" >>"$TMP/orders"
    echo >>"$TMP/orders"
    rm -rf "$TMP/copy"
    cp -a /harness "$TMP/copy"
    python3 "$SCENARIOS/normalise-pytest" "$TMP/copy"
    "$DIGEST" --list --no-mtime "$TMP/copy" >"$TMP/run-$run"
    if [ -n "$first" ]; then
        same_lines "$first" "$TMP/run-$run" "run $run"
    else
        first=$TMP/run-$run
    fi
    unmount_stage
done

# Else the equal trees would show nothing.
orders=$(sort -u "$TMP/orders" | wc -l)
note "the steps ended in $orders different orders"
[ "$runs" = 1 ] || [ "$orders" -gt 1 ] || fail "the steps ended in the same order in each of $runs runs: $(head -n 1 "$TMP/orders")"

note "last: one report, that of the step declared last"
mount_stage
group_of_four last
assert_same "${CODES[*]}" "0 0 0 0" "exit codes"
assert_same "$(find /harness/reports -type f)" /harness/reports/junit.xml "reports"
grep -q 'tests\.test_d' /harness/reports/junit.xml || fail "not the report of unit-d"
unmount_stage
