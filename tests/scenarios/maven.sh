#!/usr/bin/env bash
# Scenario 2: Maven with /root/.m2 shared; a later step uses the jar of an
# earlier one; then both projects at once.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The JVM's own noise in /tmp is of no interest.
export JAVA_TOOL_OPTIONS='-XX:-UsePerfData -Dstyle.color=never'
unset MAVEN_OPTS MAVEN_ARGS M2_HOME
mvn=(/usr/share/maven/bin/mvn -o -B -q)
repository=/root/.m2/repository

map /harness /root/.m2
cp -a "$CACHE/maven/projects/first" "$CACHE/maven/projects/second" /harness/
cp -a "$CACHE/maven/m2/." /root/.m2/
assert_missing $repository/demo
mount_stage

note "the second project cannot be built alone: the stage stays as it was"
"$DIGEST" --list /harness /root/.m2 >"$TMP/untouched"
expect 1 hfs step run too-early -- "${mvn[@]}" -f second/pom.xml install
"$DIGEST" --list /harness /root/.m2 >"$TMP/after-failure"
same_lines "$TMP/untouched" "$TMP/after-failure" "the stage after a failed step"

note "first, then second"
expect 0 hfs step run first -- "${mvn[@]}" -f first/pom.xml install
assert_exists $repository/demo/first/1/first-1.jar
expect 0 hfs step run second -- sh -euc '
    test -e /root/.m2/repository/demo/first/1/first-1.jar
    rm -r first # nothing to build it from
    cd second
    exec "$@"' - "${mvn[@]}" install
assert_missing /harness/first
assert_exists $repository/demo/second/1/second-1.jar
assert_exists /harness/second/target/surefire-reports/TEST-demo.PartyTest.xml

note "both at once in a group"
rm -r /harness/second
cp -a "$CACHE/maven/projects/first" "$CACHE/maven/projects/second" /harness/
expect 0 hfs group declare both again-first again-second
hfs step run --group both again-second -- "${mvn[@]}" -f second/pom.xml install \
    >"$TMP/second.log" 2>&1 </dev/null &
one=$!
hfs step run --group both again-first -- "${mvn[@]}" -f first/pom.xml install \
    >"$TMP/first.log" 2>&1 </dev/null &
two=$!
got=0
wait $one || got=$?
wait $two || got=$((got + 1000 * $?))
[ $got = 0 ] || { cat "$TMP/first.log" "$TMP/second.log" >&3; fail "a step of the group failed ($got)"; }
assert_exists /harness/first/target/first-1.jar
assert_exists /harness/second/target/second-1.jar
cmp /harness/first/target/first-1.jar $repository/demo/first/1/first-1.jar
cmp /harness/second/target/second-1.jar $repository/demo/second/1/second-1.jar
python3 - /harness/first/target/first-1.jar $repository/demo/second/1/second-1.jar <<'PY'
import sys, zipfile
for jar in sys.argv[1:]:
    assert zipfile.ZipFile(jar).testzip() is None, jar
PY
unmount_stage
assert_missing $repository/demo
