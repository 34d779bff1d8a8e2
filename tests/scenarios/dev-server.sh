#!/usr/bin/env bash
# Scenario 10: a development server (Vite) in the background. It keeps what it has
# compiled until inotify tells that a source has changed: so it serves what steps
# have merged only if it is told of merges.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export npm_config_cache=/root/.npm npm_config_update_notifier=false npm_config_audit=false \
    npm_config_fund=false npm_config_ignore_scripts=true npm_config_offline=true npm_config_loglevel=error \
    npm_config_omit_lockfile_registry_resolved=false
PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
get() { python3 -c 'import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())' "http://127.0.0.1:$PORT/$1" 2>/dev/null; }
serves() { get "$1" | grep -qF -e "$2"; }
serves_not() { ! serves "$1" "$2"; }

map /harness /root/.npm
cp -a "$CACHE/vite/project/." /harness/
cp -a "$CACHE/vite/npm-cache/." /root/.npm/
mount_stage
expect 0 hfs step run install -- npm ci
"$HARNESS_FS" step background web -- npx vite --host 127.0.0.1 --port "$PORT" --strictPort >"$TMP/web.log" 2>&1 3>&- &
poll 60 "the page is served" serves index.html '/src/main.js'
poll 30 "the module is served" serves src/message.js 'first message'
poll 30 "the modules of the directory are served" serves src/main.js parts/one.js

note "a step changes a source in place"
expect 0 hfs step run change -- sh -c 'echo "export default \"second message\"" >/harness/src/message.js'
poll 20 "the new content is served" serves src/message.js 'second message'
note "a step replaces it by a rename, as editors and sed do"
expect 0 hfs step run replace -- sed -i s/second/third/ /harness/src/message.js
poll 20 "the new content is served" serves src/message.js 'third message'
note "steps add and remove modules"
expect 0 hfs step run add -- sh -c 'echo "export default 2" >/harness/src/parts/two.js'
poll 20 "the new module is in the list" serves src/main.js parts/two.js
expect 0 hfs step run remove -- rm /harness/src/parts/one.js
poll 20 "the module is not in the list" serves_not src/main.js parts/one.js
note "a step that fails changes nothing"
expect 7 hfs step run fail -- sh -c 'echo "export default \"broken\"" >/harness/src/message.js; exit 7'
serves src/message.js 'third message' || fail "what a failed step wrote is served"
note "back, with the server in the stage"
expect 0 hfs rollback change
poll 20 "the earlier content is served" serves src/message.js 'second message'
poll 20 "the earlier modules are served" serves src/main.js parts/one.js
# What it writes itself is in the stage, and in the next step.
assert_exists /harness/node_modules/.vite
expect 0 hfs step run look -- test -e /harness/node_modules/.vite
unmount_stage
says 'ended background steps: web'
