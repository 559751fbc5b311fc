"""kill -9 of the process that writes the metadata: what was acknowledged is there, nothing is there by half, and a
retry gets its old answer. Run as a script, this file is that process.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from namespaces import VOLUME, WANTED_MIN, SqlWorld, broken_invariants, extent, new_chunk, verify

from p2pfs.meta import database as databases
from p2pfs.meta import engine, reaper, sessions, volumes
from p2pfs.meta.database import InlineDatabase, ThreadedDatabase, open_database
from p2pfs.types import ROOT_INODE, Kind, SessionId
from p2pfs.wire import answers
from p2pfs.wire.answers import Answer
from p2pfs.wire.namespace import Applied, Batch, Commit, Make, Operation, ReadDirectory, Unlink
from p2pfs.wire.volumes import OpenSession

pytestmark = pytest.mark.l3

WRITERS = 8
ROUNDS = 3
ACKNOWLEDGED = 150
"""Batches acknowledged in each round before the kill."""


def operations(seq: int) -> list[Operation]:
    """A file with inline data and an extent; every third batch removes an earlier one too."""
    inode = seq + 1
    made: list[Operation] = [
        Make(ROOT_INODE, b"name %d" % seq, inode, b"tag", inode, Kind.FILE, 0o644, 0, 0, 0, b"head 0", seq),
        Commit(
            inode, 0, 3000, b"head 1", seq, inline=b"x" * 3000, extents=[extent(0, 1, seq)], chunks=[new_chunk(seq)]
        ),
    ]
    if seq % 3 == 0:
        made.append(Unlink(ROOT_INODE, b"name %d" % seq, inode, False, seq))
    return made


async def apply(database: ThreadedDatabase, session: SessionId, seq: int) -> Answer:
    outcome = await database.write(
        lambda c: sessions.apply_batch(
            c, session, batch=Batch(seq, 1, operations(seq)), verify=verify, wanted_min=WANTED_MIN, now_s=1.0
        )
    )
    return outcome.answer


async def write(path: Path, session: SessionId, first: int) -> None:
    """Apply batches for ever, several at a time, telling on stdout what is begun and what is acknowledged."""
    numbers = iter(range(first, first + 1000))

    async def one_after_the_other() -> None:
        for seq in numbers:
            os.write(1, b"begun %d\n" % seq)
            answer = await apply(database, session, seq)
            assert not answer.code, answer
            os.write(1, b"done %d\n" % seq)

    async def reap() -> None:
        while True:
            await database.write(lambda c: reaper.reap(c, now_s=1.0, limit=2))

    async with open_database(path) as database, trio.open_nursery() as nursery:
        nursery.start_soon(reap)
        for _ in range(WRITERS):
            nursery.start_soon(one_after_the_other)


@dataclass
class Manifest:
    """What the writer said it did."""

    begun: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)

    def add(self, line: bytes) -> None:
        verb, number = line.split()
        (self.begun if verb == b"begun" else self.done).add(int(number))


def run_and_kill(path: Path, session: SessionId, manifest: Manifest) -> int:
    """One round; how many batches were in flight when the writer died."""
    first = max(manifest.begun, default=0) + 1
    enough = len(manifest.done) + ACKNOWLEDGED
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"}
    arguments = [sys.executable, __file__, str(path), session, str(first)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        while len(manifest.done) < enough:
            line = writer.stdout.readline()
            assert line, "the writer ended by itself"
            manifest.add(line)
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout.read().splitlines():
            manifest.add(line)
    assert writer.returncode == -signal.SIGKILL
    return len(manifest.begun - manifest.done)


async def prepare(path: Path) -> SessionId:
    async with open_database(path) as database:
        world = SqlWorld(database)
        await world.prepare()
        session = SessionId((await world.open_session(OpenSession())).session)
        await database.write(lambda c: volumes.grant_ids(c, VOLUME, count=100_000))
    return session


def names(database: ThreadedDatabase) -> set[bytes]:
    found: set[bytes] = set()
    after = 0
    while True:
        page = database.read(lambda c, after=after: engine.answer(c, VOLUME, ReadDirectory(ROOT_INODE, after, 1000)))  # type: ignore[misc]
        found |= {entry.name for entry in page.entries}
        if page.complete:
            return found
        after = page.entries[-1].dentry


async def test_what_was_acknowledged_survives_kill_9_of_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "pool.db"
    session = await prepare(path)
    manifest = Manifest()
    for _ in range(ROUNDS):
        assert run_and_kill(path, session, manifest), "nothing was in flight: this run proves nothing"
        async with open_database(path) as database:
            assert database.read(broken_invariants) == []
            there = names(database)
            lasting = {seq for seq in manifest.done if seq % 3}
            assert {b"name %d" % seq for seq in lasting} <= there
            assert there <= {b"name %d" % seq for seq in manifest.begun if seq % 3}
            before = database.commits
            for seq in sorted(manifest.begun):  # every one of them again, as a mount would that lost the answers
                applied = answers.unwrap(await apply(database, session, seq), Applied)
                assert (seq + 1 in applied.removed) == (seq % 3 == 0)
            assert database.commits - before == len(manifest.begun)
            assert names(database) == {b"name %d" % seq for seq in manifest.begun if seq % 3}
            assert database.read(broken_invariants) == []
            manifest.done |= manifest.begun


async def test_a_kill_between_the_changes_and_the_commit_leaves_the_state_before(tmp_path: Path) -> None:
    """Every crash point of a transaction: copies of the files at each step open as the state before or after it."""
    path = tmp_path / "pool.db"
    await prepare(path)
    copies: list[tuple[str, Path]] = []

    def copy(step: str) -> None:
        target = tmp_path / f"copy {len(copies)}" / "pool.db"
        target.parent.mkdir()
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                target.with_name(target.name + suffix).write_bytes(source.read_bytes())
        copies.append((step, target))

    async with open_database(path) as database:
        copy("before")
        await database.write(lambda c: (c.execute("INSERT INTO setting VALUES ('canary', x'01')"), copy("within")))
        copy("after")
        assert database.read(lambda c: c.execute("SELECT count(*) FROM setting").fetchone()[0]) == 2
    for step, target in copies:
        reopened = InlineDatabase(target)
        found = reopened.read(lambda c: c.execute("SELECT count(*) FROM setting WHERE key = 'canary'").fetchone()[0])
        assert (step, found) == (step, 1 if step == "after" else 0)
        assert reopened.read(broken_invariants) == []
        reopened.close()


async def test_what_was_torn_off_the_log_takes_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    """A log cut anywhere, as a power failure may leave what was not yet synced, opens as one of the commits."""
    path = tmp_path / "pool.db"
    await prepare(path)
    wal = path.with_name("pool.db-wal")
    lengths: list[int] = []
    async with open_database(path) as database:
        for number in range(5):
            await database.write(
                lambda c, number=number: c.execute("INSERT INTO setting VALUES (?, x'01')", (f"key {number}",))  # type: ignore[misc]
            )
            lengths.append(wal.stat().st_size)
        whole, base = wal.read_bytes(), path.read_bytes()
    for number, length in enumerate(lengths):
        for torn in (length, length - 1, length + 100):
            target = tmp_path / f"torn {torn}" / "pool.db"
            target.parent.mkdir()
            target.write_bytes(base)
            target.with_name("pool.db-wal").write_bytes(whole[:torn])
            reopened = InlineDatabase(target)
            keys = reopened.read(
                lambda c: c.execute("SELECT count(*) FROM setting WHERE key LIKE 'key%'").fetchone()[0]
            )
            assert keys == (number if torn < length else number + 1)
            reopened.close()


if __name__ == "__main__":
    databases.MAX_GROUP = 16
    trio.run(write, Path(sys.argv[1]), SessionId(sys.argv[2]), int(sys.argv[3]))
