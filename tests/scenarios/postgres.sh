#!/usr/bin/env bash
# Scenario 8: PostgreSQL in the background, its data in the workspace. pgbench runs
# while steps are merged and snapshots are taken: no transaction fails, and every
# snapshot is a database that recovers, as after a crash, and is consistent.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BIN=$CACHE/postgres/bin
DB=/harness/pgdata
mkdir -m 0777 "$TMP/socket" # outside of the mapped paths: whoever is in another view reaches it too
export PGHOST=$TMP/socket PGUSER=postgres PGDATABASE=postgres
as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups env -C / LC_ALL=C)

sql() { psql -qAtX -v ON_ERROR_STOP=1 -c "$1"; }
answers() { sql 'select 1' >/dev/null 2>&1; }
start_db() {
    "$HARNESS_FS" step background db -- "${as_postgres[@]}" "$BIN/postgres" -D "$DB" -k "$PGHOST" -c listen_addresses= \
        >>"$TMP/db.log" 2>&1 3>&- &
    poll 60 "the database answers" answers
}
# Whatever was paid arrived, and is in the history.
consistent() {
    sql 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
        and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)
        and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
        and (select count(*) from pgbench_accounts) = 100000'
}
count() { sql 'select count(*) from pgbench_history'; }

map /harness
mount_stage
note "a step makes the database, and is merged"
expect 0 hfs step run initdb -- sh -euc "mkdir -m 0700 $DB; chown postgres: $DB; $(printf '%q ' "${as_postgres[@]}") $BIN/initdb -N -A trust -D $DB"
start_db
"$BIN/pgbench" -q -i -s 1 >"$OUT" 2>"$ERR"

note "pgbench, while steps are merged and snapshots taken"
"$BIN/pgbench" -c 2 -T 6 >"$TMP/pgbench" 2>&1 3>&- &
bench=$!
round=0
while kill -0 "$bench" 2>/dev/null; do
    round=$((round + 1))
    expect 0 hfs step run "build-$round" -- sh -c "echo $round >/harness/built-$round; cp /harness/pgdata/PG_VERSION /harness/seen"
    expect 0 hfs snapshot create "snap-$round"
    expect 1 hfs step run "broken-$round" -- sh -c 'rm -rf /harness/*; exit 1'
    answers || fail "the database does not answer"
done
wait "$bench" || { cat "$TMP/pgbench" >&3; fail "pgbench"; }
grep -qF 'number of failed transactions: 0 ' "$TMP/pgbench" || { cat "$TMP/pgbench" >&3; fail "transactions failed"; }
[ "$round" -ge 3 ] || fail "only $round rounds"
assert_same "$(consistent)" t "the sums"
all=$(count)
note "$round rounds, $all transactions"
[ "$all" -ge 10 ] || fail "only $all transactions"
if grep -E 'PANIC|FATAL|could not|corrupt' "$TMP/db.log" | grep -v 'the database system is starting up' >&3; then fail "the database complains"; fi

note "a merge onto a file that the database has open for writing"
wal=$(find "$DB/pg_wal" -maxdepth 1 -type f | LC_ALL=C sort | tail -n 1)
sql 'insert into pgbench_history values (1, 1, 1, 0, now())'
expect 121 hfs step run rude -- sh -c "echo >>$wal"
says 'busy '
expect 0 hfs step discard rude
assert_same "$(consistent)" t "the sums after a refused merge"

note "back to a snapshot that was taken in the middle: the database recovers from it"
expect 0 hfs step stop db
grep -qF 'database system is shut down' "$TMP/db.log" || fail "it was not shut down"
note "it has shut itself down"
middle=$(((round + 1) / 2))
expect 0 hfs snapshot restore "snap-$middle"
assert_exists "/harness/built-$middle"
assert_missing "/harness/built-$((middle + 1))"
: >"$TMP/db.log"
start_db
grep -qF 'database system was not properly shut down; automatic recovery in progress' "$TMP/db.log" ||
    fail "it was shut down in the snapshot"
assert_same "$(consistent)" t "the sums in the snapshot"
there=$(count)
[ "$there" -lt "$all" ] || fail "$there transactions in the snapshot, $all in all"
note "$there transactions were in it"

note "the end of the stage ends the database"
unmount_stage
says 'ended background steps: db'
