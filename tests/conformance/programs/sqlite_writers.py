"""Four processes write one SQLite database, are killed at once, and the database must be whole: what was committed is
there, and nothing half.

    python3 sqlite_writers.py delete|wal ROUNDS COMMITS

COMMITS is how many each writer tells of before all are killed.
"""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

WRITERS = 4


def write(number: int, mode: str) -> None:
    """Transfers between two accounts for ever; says each number that is committed."""
    database = sqlite3.connect("accounts.db", timeout=60, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute("PRAGMA synchronous=FULL")
    (last,) = database.execute("SELECT coalesce(max(entry), 0) FROM journal WHERE writer = ?", (number,)).fetchone()
    while True:
        last += 1
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE account SET sum = sum - 1 WHERE name = 'a'")
        database.execute("INSERT INTO journal VALUES (?, ?, randomblob(1000))", (number, last))
        database.execute("UPDATE account SET sum = sum + 1 WHERE name = 'b'")
        database.execute("COMMIT")
        print(last, flush=True)


def one_round(mode: str, commits: int) -> dict[int, int]:
    """The last entry each writer told of before it was killed."""
    command = [sys.executable, __file__, "--writer"]
    writers = [
        subprocess.Popen([*command, str(number), mode], stdout=subprocess.PIPE, text=True) for number in range(WRITERS)
    ]
    told = {}
    for number, writer in enumerate(writers):
        assert writer.stdout is not None
        for _ in range(commits):
            line = writer.stdout.readline()
            assert line, f"writer {number} ended with {writer.wait()}"
            told[number] = int(line)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
    for number, writer in enumerate(writers):
        rest = writer.communicate()[0].split()  # entries committed while the others were read
        told[number] = max([told[number], *map(int, rest)])
    return told


def check(told: dict[int, int]) -> None:
    database = sqlite3.connect("accounts.db", timeout=60)
    result = database.execute("PRAGMA integrity_check").fetchone()
    assert result == ("ok",), result
    (total,) = database.execute("SELECT sum(sum) FROM account").fetchone()
    assert total == 0, f"half a transaction is there: the sums make {total}"
    for number, last in told.items():
        count, newest = database.execute(
            "SELECT count(*), max(entry) FROM journal WHERE writer = ?", (number,)
        ).fetchone()
        assert newest >= last, f"writer {number}: entry {last} was committed, and {newest} is the newest"
        assert count == newest, f"writer {number}: {newest - count} entries are missing"
    database.close()


def main(mode: str, rounds: int, commits: int) -> None:
    Path("accounts.db").unlink(missing_ok=True)
    database = sqlite3.connect("accounts.db")
    assert database.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    database.execute("CREATE TABLE account (name TEXT PRIMARY KEY, sum INTEGER)")
    database.execute("CREATE TABLE journal (writer INTEGER, entry INTEGER, data BLOB, PRIMARY KEY (writer, entry))")
    database.executemany("INSERT INTO account VALUES (?, 0)", [("a",), ("b",)])
    database.commit()
    database.close()
    for number in range(rounds):
        told = one_round(mode, commits)
        check(told)
        print(f"round {number + 1}: {sum(told.values())} entries, whole", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--writer":
        write(int(sys.argv[2]), sys.argv[3])
    else:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
