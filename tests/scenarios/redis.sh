#!/usr/bin/env bash
# Scenario 9: Redis in the background, appending to its log in the workspace while
# steps are merged and snapshots are taken. Nothing that was acknowledged is lost,
# and a step gets the data that the service has written up to its beginning.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SERVER=$CACHE/redis/redis-server
SOCKET=$TMP/redis.sock
redis() { timeout 20 redis-cli -s "$SOCKET" "$@"; }
answers() { [ "$(redis ping 2>/dev/null)" = PONG ]; }
start_redis() {
    "$HARNESS_FS" step background redis -- "$SERVER" --port 0 --unixsocket "$SOCKET" --dir /harness/data \
        --appendonly yes --appendfsync everysec --save '' --auto-aof-rewrite-percentage 0 >>"$TMP/redis.log" 2>&1 3>&- &
    poll 30 "redis answers" answers
}

map /harness
mkdir /harness/data
mount_stage
start_redis
note "writes, while steps are merged and snapshots taken"
redis-benchmark -s "$SOCKET" -q -t incr -r 1 -n 30000 -c 4 >"$TMP/benchmark" 2>&1 3>&- &
bench=$!
round=0
while [ $round -lt 4 ] || kill -0 "$bench" 2>/dev/null; do
    round=$((round + 1))
    redis set round "in round $round." >"$OUT"
    # What it has written is what the step begins with.
    expect 0 hfs step run "step-$round" -- sh -euc "grep -aqF 'in round $round.' /harness/data/appendonlydir/*.incr.aof; echo $round >/harness/by-$round"
    expect 0 hfs snapshot create "snap-$round"
done
wait "$bench" || { cat "$TMP/benchmark" >&3; fail "redis-benchmark"; }
if grep -qi error "$TMP/benchmark"; then cat "$TMP/benchmark" >&3; fail "redis-benchmark"; fi
for number in $(seq "$round"); do assert_exists "/harness/by-$number"; done

note "its log is rewritten, which replaces files, with a step open"
expect 0 hfs step begin open
redis bgrewriteaof >"$OUT"
rewritten() { redis info persistence | tr -d '\r' | grep -qx aof_rewrite_in_progress:0 && [ -e /harness/data/appendonlydir/appendonly.aof.2.base.rdb ]; }
poll 30 "the log is rewritten" rewritten
expect 0 hfs step exec open -- sh -c 'echo x >/harness/by-open'
expect 0 hfs step merge open
redis set last one >"$OUT"
counter=$(redis get counter:000000000000)
assert_same "$counter" 30000 "what was counted"
if grep -iE 'error|fatal|can.t|broken' "$TMP/redis.log" >&3; then fail "redis complains"; fi

note "ended and started again; then from a snapshot"
expect 0 hfs step stop redis
start_redis
assert_same "$(redis get counter:000000000000) $(redis get last)" "30000 one" "what is there after a restart"
expect 0 hfs step stop redis
expect 0 hfs snapshot restore snap-3
start_redis
assert_same "$(redis get round)" 'in round 3.' "what is there in the snapshot"
[ "$(redis get counter:000000000000)" -le 30000 ] || fail "more than there ever was"
unmount_stage
says 'ended background steps: redis'
