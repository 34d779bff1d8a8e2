#!/usr/bin/env bash
# Snapshots under writers: while pgbench, SQLite in WAL mode, a program that appends
# through one handle and writes into a shared mapping, and its mapped library run in
# the stage view, snapshots are taken. Nobody sees an error, and each snapshot,
# restored in a second stage, holds databases that recover and are consistent, and
# what the program wrote, up to one moment.
#
#   HARNESS_FS_SNAPSHOTS   how many (default: 3; 20 where tests/state-filesystems has the state on ext4 or xfs)
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${HARNESS_FS_STATE_FILESYSTEM:-} in
ext4 | xfs) SNAPSHOTS=${HARNESS_FS_SNAPSHOTS:-20} ;;
*) SNAPSHOTS=${HARNESS_FS_SNAPSHOTS:-3} ;;
esac
BIN=$CACHE/postgres/bin
DB=/harness/pgdata
W=/harness/writer
mkdir -m 0777 "$TMP/socket" # outside of the mapped paths
export PGHOST=$TMP/socket PGUSER=postgres PGDATABASE=postgres
as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups env -C / LC_ALL=C)

sql() { psql -qAtX -v ON_ERROR_STOP=1 -c "$1"; }
answers() { sql 'select 1' >/dev/null 2>&1; }
start_db() {
    "$HARNESS_FS" step background db -- "${as_postgres[@]}" "$BIN/postgres" -D "$DB" -k "$PGHOST" -c listen_addresses= \
        >>"$TMP/db.log" 2>&1 3>&- &
    poll 60 "the database answers" answers
}
consistent() {
    sql 'select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)
        and (select sum(tbalance) from pgbench_tellers) = (select coalesce(sum(delta), 0) from pgbench_history)
        and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history)
        and (select count(*) from pgbench_accounts) = 100000'
}
count() { sql 'select count(*) from pgbench_history'; }
# background NAME CMD... : as a background step; its output, and how it ended, are files.
background() {
    local name=$1
    shift
    { "$HARNESS_FS" step background "$name" -- "$@" >"$TMP/$name.out" 2>"$TMP/$name.err" 3>&-; echo $? >"$TMP/$name.code"; } &
}
# gone_on TRANSACTIONS BYTES : there are more now.
gone_on() { [ "$(count)" -gt "$1" ] && [ "$(stat -c %s "$W/log")" -gt "$2" ]; }
# What the program wrote holds together.
whole() {
    python3 - "$W" <<'END'
import struct, sys
lines = open(f"{sys.argv[1]}/log").read().splitlines(keepends=True)
assert lines == [f"line {n} of the log\n" for n in range(1, len(lines) + 1)], lines[-3:]
mapped = open(f"{sys.argv[1]}/mapped", "rb").read()
first, last = (struct.unpack_from("l", mapped, at)[0] for at in (0, len(mapped) - 4096))
# Each line is written before its number is mapped, the first page is synced before the last.
assert len(lines) >= first >= last >= first - 1, (len(lines), first, last)
print(len(lines))
END
}

map /harness
mount_stage
note "a database from a step; a program and its library, built in the stage itself"
expect 0 hfs step run initdb -- sh -euc "mkdir -m 0700 $DB; chown postgres: $DB; $(printf '%q ' "${as_postgres[@]}") $BIN/initdb -N -A trust -D $DB"
mkdir "$W"
cc -shared -fPIC -o "$W/libtick.so" "$DATA/snapshots/tick.c"
# shellcheck disable=SC2016 # the dynamic linker expands it
cc -Wall -o "$W/writer" "$DATA/snapshots/writer.c" -L"$W" -ltick -Wl,-rpath,'$ORIGIN'
start_db
"$BIN/pgbench" -q -i -s 1 >"$OUT" 2>"$ERR"
background sqlite python3 "$DATA/snapshots/database.py" write "$W/money.db"
poll 60 "SQLite is ready" test -s "$TMP/sqlite.out"
background writer "$W/writer" "$W"
poll 60 "the program writes" test -s "$W/log"

note "$SNAPSHOTS snapshots, while all of them write"
"$BIN/pgbench" -c 2 -T $((SNAPSHOTS / 2 + 4)) >"$TMP/pgbench" 2>&1 3>&- &
bench=$!
poll 60 "there are transactions" gone_on 0 0
for n in $(seq "$SNAPSHOTS"); do
    transactions=$(count)
    size=$(stat -c %s "$W/log")
    expect 0 hfs snapshot create "snap-$n"
    cat "$OUT" "$ERR" >>"$TMP/pauses"
    kill -0 "$bench" 2>/dev/null || fail "pgbench had ended before snapshot $n"
    poll 60 "all go on" gone_on "$transactions" "$size"
done
grep -oE 'held for [0-9.]+' "$TMP/pauses" | awk '{print $3}' | sort -n >"$TMP/held"
assert_same "$(wc -l <"$TMP/held")" "$SNAPSHOTS" "snapshots that say how long requests were held"
note "requests were held for $(sed -n "$(((SNAPSHOTS + 1) / 2))p" "$TMP/held") ms (median), $(tail -n 1 "$TMP/held") ms at most"
wait "$bench" || { cat "$TMP/pgbench" >&3; fail "pgbench"; }
grep -qF 'number of failed transactions: 0 ' "$TMP/pgbench" || { cat "$TMP/pgbench" >&3; fail "transactions failed"; }
if grep -E 'PANIC|FATAL|could not|corrupt' "$TMP/db.log" | grep -v 'the database system is starting up' >&3; then fail "the database complains"; fi
assert_same "$(consistent)" t "the sums"
all=$(count)
for name in writer sqlite db; do
    expect 0 hfs step stop "$name"
done
for name in writer sqlite; do
    poll 10 "$name has ended" test -s "$TMP/$name.code"
    assert_same "$(cat "$TMP/$name.code" "$TMP/$name.err")" 0 "how $name ended"
done
lines=$(whole)
moved=$(python3 "$DATA/snapshots/database.py" check "$W/money.db")
note "$all transactions of PostgreSQL, $moved of SQLite, $lines lines"

note "each of them in a second stage"
for n in $(seq "$SNAPSHOTS"); do
    expect 0 hfs export "snap-$n" --to "$TMP/layout-$n"
done
unmount_stage
before='0 0 0'
for n in $(seq "$SNAPSHOTS"); do
    mount_stage --from "$TMP/layout-$n"
    assert_same "$("$W/writer" --try)" 42 "the program and its library"
    there=$(whole)
    : >"$TMP/db.log"
    start_db
    grep -qF 'database system was not properly shut down; automatic recovery in progress' "$TMP/db.log" ||
        fail "snapshot $n was taken of a database that was shut down"
    assert_same "$(consistent)" t "the sums in snapshot $n"
    now="$(count) $(python3 "$DATA/snapshots/database.py" check "$W/money.db") $there"
    # Each has what the one before had, and no more than there was at the end.
    read -r a b c <<<"$before"
    read -r x y z <<<"$now"
    ((a <= x && x <= all && b <= y && y <= moved && c <= z && z <= lines)) || fail "snapshot $n: $now after $before"
    before=$now
    expect 0 hfs step stop db
    unmount_stage
    rm -r "$TMP/layout-$n"
done
