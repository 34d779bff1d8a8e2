#!/usr/bin/env bash
# Scenario 3: npm ci with /root/.npm shared; a second step upgrades a package,
# for which npm renames directories that lie in a lower layer.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export npm_config_cache=/root/.npm npm_config_update_notifier=false npm_config_audit=false \
    npm_config_fund=false npm_config_ignore_scripts=true npm_config_offline=true \
    npm_config_omit_lockfile_registry_resolved=false npm_config_progress=false \
    npm_config_loglevel=error
upgrade=$(cat "$DATA/npm/upgrade")

map /harness /root/.npm
cp -a "$CACHE/npm/old/package.json" "$CACHE/npm/old/package-lock.json" /harness/
cp -a "$CACHE/npm/npm-cache/." /root/.npm/

note "the same on a plain directory"
mkdir "$TMP/plain"
cp -a /harness "$TMP/plain/"
cp -a /root/.npm "$TMP/plain-cache"
(
    cd "$TMP/plain/harness"
    export npm_config_cache=$TMP/plain-cache
    timeout 300 npm ci
    cp -a . ../ci
    timeout 300 npm install "$upgrade"
) >"$TMP/plain.log" 2>&1 </dev/null || { tail -n 20 "$TMP/plain.log" >&3; fail "npm on a plain directory"; }

mount_stage
note "npm ci"
HFS_TIMEOUT=400 expect 0 hfs step run install -- npm ci
count=$(find /harness/node_modules -type f | wc -l)
[ "$count" -ge 8000 ] || fail "only $count files in node_modules"
same_tree /harness "$TMP/plain/ci" "the tree after npm ci" --no-mtime

note "upgrade, in which npm renames directories of the lower layer"
renames() { "$HARNESS_FS" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["requests"].get("rename", 0))'; }
(cd /harness && find node_modules -type d | LC_ALL=C sort) >"$TMP/lower"
before=$(renames)
expect 0 hfs step run upgrade -- env NODE_OPTIONS="--require=$DATA/npm/log-renames.js" RENAMES="$TMP/renames" \
    npm install "$upgrade"
# Those that were there when the step began: a fallback to copying renames none.
sed 's:^/harness/::' "$TMP/renames" | LC_ALL=C sort -u >"$TMP/renamed"
count=$(LC_ALL=C comm -12 "$TMP/lower" "$TMP/renamed" | wc -l)
note "$count directories"
[ "$count" -ge 1 ] || fail "npm renamed no directory of the lower layer"
[ $(($(renames) - before)) -ge "$count" ] || fail "renames that never reached harness-fs"
same_tree /harness "$TMP/plain/harness" "the tree after the upgrade" --no-mtime
assert_same "express@$(node -p 'require("/harness/node_modules/express/package.json").version')" \
    "$upgrade" "version"
expect 0 hfs step run check -- sh -euc 'npm ls >/dev/null && node -e "require(\"express\")()"'

note "npm ci over what is there, which first removes it all; failed, so it never was"
timeout 300 "$DIGEST" --list /harness >"$TMP/before"
HFS_TIMEOUT=400 expect 9 hfs step run again -- sh -c 'npm ci >/dev/null && exit 9'
timeout 300 "$DIGEST" --list /harness >"$TMP/after"
same_lines "$TMP/before" "$TMP/after" "the stage after a failed step"
unmount_stage
