#!/usr/bin/env bash
# Scenario 6: a step that applies half of a change and fails, and its retry; and
# a step that leaves processes behind.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

map /harness
odd_tree /harness/odd
cat >/harness/greet.py <<'PY'
def greet(name):
    return "Hello, " + name
PY
printf '1.0.0\n' >/harness/version
mkdir /harness/ci
cat >/harness/ci/first.diff <<'DIFF'
--- a/greet.py
+++ b/greet.py
@@ -1,2 +1,2 @@
 def greet(name):
-    return "Hello, " + name
+    return "Good day, " + name
DIFF
cat >/harness/ci/second.diff <<'DIFF'
--- a/version
+++ b/version
@@ -1 +1 @@
-1.0.0
+1.1.0
DIFF
# As such scripts are: it cannot run twice on the same tree.
cat >/harness/ci/apply <<'SH'
#!/bin/sh
set -eu
git apply ci/first.diff
mkdir generated
rm -r odd/old
mv odd/sub odd/moved
echo half >generated/part
chmod 0600 version
[ "$ATTEMPT" != 1 ] || exit 7
git apply ci/second.diff
chmod 0644 version
echo whole >generated/part
SH
chmod +x /harness/ci/apply
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_CEILING_DIRECTORIES=/

note "on a plain directory the retry fails"
cp -a /harness "$TMP/plain"
cd "$TMP/plain"
expect 7 env ATTEMPT=1 ci/apply
expect 1 env ATTEMPT=2 ci/apply
cd /
rm -rf "$TMP/plain"
cp -a /harness "$TMP/plain"

mount_stage
same() {
    "$DIGEST" --list /harness >"$TMP/now"
    same_lines "$TMP/tree" "$TMP/now" "the stage after $1"
}
"$DIGEST" --list /harness >"$TMP/tree"

note "half a change; retry with the same name"
expect 7 hfs step run --result "$TMP/result.json" change -- env ATTEMPT=1 ci/apply
same "a failed step"
python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$TMP/result.json"
expect 7 hfs step run change -- env ATTEMPT=1 ci/apply
same "another failed attempt"
expect 0 hfs step run change -- env ATTEMPT=2 ci/apply
(cd "$TMP/plain" && ATTEMPT=2 ci/apply)
same_tree /harness "$TMP/plain" "the tree after the retry" --no-mtime
"$DIGEST" --list /harness >"$TMP/tree"

note "exit codes"
expect 143 hfs step run signal -- sh -c 'touch x; kill -TERM $$'
expect 137 hfs step run killed -- sh -c 'touch x; kill -KILL $$'
expect 127 hfs step run unknown -- ./no-such-command
expect 126 hfs step run no-program -- ./greet.py
expect 125 hfs step run 'a/b' -- true
same "those"

note "a failed step that is kept: looked at, discarded; and one merged in spite of it"
expect 3 hfs step run --on-failure keep kept -- sh -c 'echo log >kept.log; exit 3'
same "a step that was kept"
expect 0 hfs diff kept
says kept.log
expect 0 hfs status
says kept
expect 0 hfs step discard kept
same "discard"
expect 3 hfs step run --on-failure merge merged -- sh -c 'echo log >merged.log; exit 3'
assert_same "$(cat /harness/merged.log)" log "merged.log"

note "processes that outlive the step are ended before its layer is sealed"
# One that does as it is told, and writes a last word; one that will not hear.
cat >"$TMP/polite" <<'SH'
#!/bin/sh
trap 'echo bye >/harness/bye; exit 0' TERM
echo $$ >"$1"
while :; do sleep 0.1; done
SH
cat >"$TMP/stubborn" <<'SH'
#!/bin/sh
trap '' TERM HUP INT
exec 7>>/harness/stubborn.log
echo $$ >"$1"
while :; do echo line >&7; echo line >>/harness/other.log; sleep 0.01; done
SH
chmod +x "$TMP/polite" "$TMP/stubborn"
# shellcheck disable=SC2016
expect 0 hfs step run --grace 1s leaves -- sh -euc '
    setsid "$1/polite" "$1/polite.pid" </dev/null >/dev/null 2>&1 &
    setsid "$1/stubborn" "$1/stubborn.pid" </dev/null >/dev/null 2>&1 &
    until [ -s "$1/polite.pid" ] && [ -s "$1/stubborn.pid" ] && [ -s other.log ]; do sleep 0.02; done
    echo done >result' - "$TMP"
says polite
says stubborn
for name in polite stubborn; do
    pid=$(cat "$TMP/$name.pid")
    if kill -0 "$pid" 2>/dev/null; then fail "$name (process $pid) outlived the step"; fi
done
assert_same "$(cat /harness/result)" "done" "result"
assert_same "$(cat /harness/bye)" bye "the last word of the polite one"
assert_exists /harness/stubborn.log
assert_same "$(tail -n 1 /harness/stubborn.log)" line "the last line"
"$DIGEST" --list /harness >"$TMP/tree"
expect 0 hfs step run nothing -- true
same "the end of the stubborn one"

note "the same when the step fails: nothing stays"
rm -f "$TMP"/*.pid
# shellcheck disable=SC2016
expect 4 hfs step run --grace 1s leaves-and-fails -- sh -uc '
    rm -f other.log
    setsid "$1/stubborn" "$1/stubborn.pid" </dev/null >/dev/null 2>&1 &
    until [ -s "$1/stubborn.pid" ] && [ -s other.log ]; do sleep 0.02; done
    exit 4' - "$TMP"
if kill -0 "$(cat "$TMP/stubborn.pid")" 2>/dev/null; then fail "it outlived the step"; fi
same "a failed step with a process left"
unmount_stage
