#!/usr/bin/env bash
# PostgreSQL (Debian): initdb, pgbench, a crash and what its own tools find, for a database that is made in the place and
# for one that lies below.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BIN=$(dirname "$CACHE")/scenarios/postgres/bin
as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups env -C / LC_ALL=C)

suite_describe() { echo 'full only: initdb, pgbench with each way to sync, recovery after a kill, base backup, checksums; Debian'; }

suite_install() {
    "$REPO/tests/scenarios/prepare" postgres >&2
    "$BIN/postgres" --version | sed 's/.* \([0-9.]*\) .*/\1/'
}

suite_populate() {
    make_database "$1/lower" >&2
    start "$1/lower"
    "$BIN/pgbench" -q -i -s 2 >&2
    stop "$1/lower"
}

make_database() {
    mkdir -m 0700 "$1"
    chown postgres: "$1"
    "${as_postgres[@]}" "$BIN/initdb" -k -A trust --locale=C -D "$1"
}

# start DIR [OPTION…] : its socket is beside it. Waits until it answers.
start() {
    local directory=$1 socket limit=$((SECONDS + 60))
    shift
    socket=$(mktemp -d)
    chown postgres: "$socket"
    export PGHOST=$socket PGUSER=postgres PGDATABASE=postgres
    "${as_postgres[@]}" "$BIN/postgres" -D "$directory" -k "$socket" -c listen_addresses= "$@" >&2 2>&1 </dev/null &
    SERVER=$!
    until psql -qAtX -c 'select 1' >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$limit" ] || { echo 'the database does not answer' >&2; return 1; }
        sleep 0.1
    done
}

stop() { kill -INT "$SERVER"; wait "$SERVER"; }

sql() { psql -qAtX -v ON_ERROR_STOP=1 -c "$1"; }

# case_of NAME FUNCTION… : what it prints is part of the outcome.
case_of() {
    local name=$1 code=0 said
    shift
    said=$("$@" 2>/dev/stderr) || code=$?
    echo "$name	$([ $code = 0 ] && echo pass || echo "fail ($code)")${said:+: $(tr '\n\t' '; ' <<<"$said")}"
}

sums() {
    sql 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
        (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history),
        (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history),
        (select count(*) from pgbench_accounts), (select count(*) from pgbench_history)'
}

bench() { "$BIN/pgbench" "$@" 2>&1 | tee /dev/stderr | grep -E '^number of (failed transactions|transactions actually processed)'; }

tables() {
    sql 'vacuum full analyze pgbench_accounts' && sql 'reindex database postgres' && sql 'create database copied strategy file_copy' &&
        sql "select md5(string_agg(aid || ':' || bid, ',' order by aid)) from pgbench_accounts" && sql 'drop database copied'
}

# Killed in the middle of it: each transaction is there or not, so the sums agree. (`-n` leaves the history that they are of.)
crash() {
    "$BIN/pgbench" -n -c 4 -j 2 -T 60 >&2 2>&1 &
    local bench=$! before limit=$((SECONDS + 50))
    before=$(sql 'select count(*) from pgbench_history')
    until [ "$(sql 'select count(*) from pgbench_history')" -ge $((before + 50)) ]; do
        [ "$SECONDS" -lt "$limit" ] || return 1
    done
    kill -KILL "$SERVER" # the others see that their postmaster is gone
    wait "$bench" || true
    while pgrep -u postgres --runstates D,R,S >/dev/null; do
        [ "$SECONDS" -lt "$limit" ] || return 1
        sleep 0.1
    done
}

backup() {
    local to=$1.backup
    rm -rf "$to"
    install -d -m 0700 -o postgres -g postgres "$to"
    "${as_postgres[@]}" env PGHOST="$PGHOST" "$BIN/pg_basebackup" -c fast -D "$to" >&2
    "${as_postgres[@]}" "$BIN/pg_verifybackup" "$to"
}

suite_run() {
    local kind directory way
    for kind in new lower; do
        directory=$1/$kind
        if [ $kind = new ]; then
            case_of "$kind: initdb" made "$directory"
            start "$directory"
            case_of "$kind: pgbench -i" made_tables
        else
            start "$directory"
        fi
        case_of "$kind: pgbench" bench -c 4 -j 2 -t 500
        case_of "$kind: sums" sums
        case_of "$kind: tables" tables
        case_of "$kind: base backup" backup "$directory"
        case_of "$kind: crash" crash
        start "$directory"
        case_of "$kind: sums after the crash" eval 'sums | cut -d"|" -f1-4'
        stop
        case_of "$kind: checksums" eval "'$BIN/pg_checksums' --check -D '$directory' | grep -E '^(Bad checksums|Data checksum)'"
        for way in fdatasync fsync open_datasync open_sync; do
            start "$directory" -c "wal_sync_method=$way"
            case_of "$kind: $way" bench -c 4 -j 2 -t 50
            stop
        done
    done
}

# Which files there are, with their modes.
made() {
    make_database "$1" >&2
    (cd "$1" && find . -printf '%y %m %u %p\n' | LC_ALL=C sort | sha256sum)
}

made_tables() { "$BIN/pgbench" -q -i -s 2 >&2; sql "select pg_relation_size('pgbench_accounts')"; }

suite "$@"
