#!/bin/bash
# A PostgreSQL cluster in the current directory: initdb, pgbench, a crash in the middle of it, recovery. What was
# committed before the crash is there, the books balance, and every page and index is sound.
# usage: postgres.sh SECONDS   (as user postgres, in an empty directory)
set -euo pipefail
seconds=$1
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
export PGDATA=$PWD/data PGDATABASE=postgres LC_ALL=C
PGHOST=$(mktemp -d) # sockets: not in the mount
export PGHOST
sql() { "$bin/psql" -XAtq -v ON_ERROR_STOP=1 -c "$1"; }
start() { "$bin/pg_ctl" -s -w -t 120 -l "$PWD/log" -o "-c listen_addresses= -k $PGHOST -c max_wal_size=64MB" start; }
# The postmaster goes first, so that nobody tidies up after the others.
crash() {
    local master pids
    master=$(head -n 1 data/postmaster.pid)
    pids=$(ps -o pid= --ppid "$master")
    kill -9 "$master" $pids
    while [ -n "$(ps -o stat= -p "$master" -p "$(echo $pids | tr ' ' ,)" | grep -v Z)" ]; do sleep 0.1; done
    rm -f "$PGHOST"/.s.* data/postmaster.pid # as after a crash of the machine: no process has its number
}
finish() {
    status=$?
    [ "$status" -eq 0 ] || tail -n 20 "$PWD/log" >&2
    "$bin/pg_ctl" -s -m immediate stop 2>/dev/null || true
    rm -rf "$PGHOST"
    exit "$status"
}
trap finish EXIT

"$bin/initdb" --data-checksums --no-locale -E UTF8 -A trust >/dev/null
start
"$bin/pgbench" -i -q -s 1 2>/dev/null
"$bin/pgbench" -n -c 4 -j 2 -T "$seconds" | grep -E 'processed|failed'

sql "CREATE TABLE told (n int PRIMARY KEY)"
"$bin/pgbench" -n -c 4 -T 600 >/dev/null 2>&1 &
for n in $(seq 1 30); do sql "INSERT INTO told VALUES ($n)"; done
crash
wait || true
start
test "$(sql 'SELECT count(*) FROM told')" = 30
test "$(sql 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)')" = t
test "$(sql 'SELECT (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)')" = t
"$bin/pg_amcheck" --install-missing --heapallindexed postgres
sql "VACUUM FULL"
"$bin/pg_ctl" -s -w stop
"$bin/pg_checksums" --check | grep -E 'Bad checksums: +0$'
start # once more after an orderly end
test "$(sql 'SELECT count(*) FROM pgbench_accounts')" = 100000
"$bin/pg_ctl" -s -w stop
