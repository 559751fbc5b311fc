"""What one look at the namespace and one batch cost, by the size of the database. Called by `scale`."""

import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import scale_fill
from scale_fill import DIRECTORY, EXTENTS, PEERS, VOLUME

from p2pfs.meta import engine, sessions
from p2pfs.meta.database import ThreadedDatabase, open_database
from p2pfs.types import CHUNK_BYTES, Kind, NodeId, SessionId
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import (
    Batch,
    Commit,
    ExtentRow,
    GetAttributes,
    Lookup,
    Make,
    NewChunk,
    Operation,
    Question,
    ReadDirectory,
    ReadExtents,
)
from p2pfs.wire.volumes import OpenSession

LOOKS = 2000
BATCHES = 60
MAKES = 100
COMMITS = 20


async def measure(path: Path, inodes: int, first_peer: int, changes: dict[int, int]) -> dict[str, float]:
    """Median µs of each kind of question and batch. `changes`: of the inodes committed to so far, which grow more."""
    chance = random.Random(inodes)
    found: dict[str, float] = {}
    async with open_database(path) as database:
        for name, question in _questions(chance, inodes).items():
            found[name] = _looks(database, question)
        batches = _Batches(database, await _session(database))
        found["creates"], found["creates, committed"] = await batches.run(lambda: _makes(chance, inodes, batches.ids))
        found["commits"], found["commits, committed"] = await batches.run(
            lambda: [_commit(chance, inodes, first_peer, at, changes) for at in range(COMMITS)]
        )
    return found


def _questions(chance: random.Random, inodes: int) -> dict[str, Callable[[], Question]]:
    def lookup() -> Question:
        number = chance.randrange(2, inodes)
        return Lookup(scale_fill.parent_of(number), scale_fill.name_of(number))

    return {
        "lookup": lookup,
        "getattr": lambda: GetAttributes(chance.randrange(2, inodes)),
        "readdir": lambda: ReadDirectory(_directory(chance, inodes), 0, DIRECTORY),
        "extents": lambda: ReadExtents(_file(chance, inodes), 0),
    }


def _directory(chance: random.Random, inodes: int) -> int:
    return 2 + (DIRECTORY + 1) * chance.randrange((inodes - 2) // (DIRECTORY + 1))


def _file(chance: random.Random, inodes: int) -> int:
    number = chance.randrange(3, inodes)
    return number + scale_fill.is_directory(number)


def _looks(database: ThreadedDatabase, question: Callable[[], Question]) -> float:
    taken = []
    for _ in range(LOOKS):
        asked = question()
        began = time.perf_counter()
        database.read(lambda connection, asked=asked: engine.answer(connection, VOLUME, asked))
        taken.append(time.perf_counter() - began)
    return 1e6 * statistics.median(taken)


# ---- batches --------------------------------------------------------------------------------------------------------


async def _session(database: ThreadedDatabase) -> SessionId:
    def begin(connection: sqlite3.Connection) -> SessionId:
        grant = sessions.open_session(
            connection, VOLUME, node=NodeId("0"), owner="owner0", request=OpenSession(), now_s=time.time(),
            lifetime_s=86400.0,
        )  # fmt: skip
        return SessionId(grant.session)

    return await database.write(begin)


class _Batches:
    """Sends batches one after the other and times them."""

    def __init__(self, database: ThreadedDatabase, session: SessionId) -> None:
        self._database, self._session, self._seq = database, session, 0
        self.ids: Iterator[int] = iter(())

    async def run(self, operations: Callable[[], list[Operation]]) -> tuple[float, float]:
        """Median µs of a batch: in SQL, and until it is on stable storage."""
        needed = 2 * MAKES * BATCHES
        block = await self._database.write(lambda found: sessions.grant_ids(found, self._session, count=needed))
        self.ids = iter(range(block.first_id, block.last_id + 1))
        inside, whole = [], []
        for _ in range(BATCHES):
            batch = Batch(self._seq, self._seq, operations())
            self._seq += 1

            def change(connection: sqlite3.Connection, batch: Batch = batch) -> None:
                began = time.perf_counter()
                outcome = sessions.apply_batch(
                    connection, self._session, batch=batch, verify=lambda *_: None, wanted_min=2, now_s=time.time()
                )
                inside.append(time.perf_counter() - began)
                assert not outcome.answer.code, outcome.answer

            began = time.perf_counter()
            await self._database.write(change)
            whole.append(time.perf_counter() - began)
        return 1e6 * statistics.median(inside), 1e6 * statistics.median(whole)


def _makes(chance: random.Random, inodes: int, ids: Iterator[int]) -> list[Operation]:
    parent = _directory(chance, inodes)
    return [
        Make(
            parent, chance.randbytes(40), next(ids), b"t" * 16, next(ids), int(Kind.FILE), 0o644, 0, 0, 0, b"h" * 60, 1
        )
        for _ in range(MAKES)
    ]


def _commit(chance: random.Random, inodes: int, first_peer: int, at: int, changes: dict[int, int]) -> Operation:
    """A MiB written anew: an extent over the one there was."""
    inode = _file(chance, inodes)
    changes[inode] = change = changes.get(inode, 0) + 1
    chunk = chance.randbytes(32)
    receipts = [Receipt(first_peer + (at + copy) % PEERS, 1, b"m" * 16) for copy in range(2)]
    extent = ExtentRow(chance.randrange(EXTENTS), change, chunk, b"s" * 72)
    size = EXTENTS * CHUNK_BYTES
    return Commit(inode, change, size, b"h" * 92, 1, [extent], [NewChunk(chunk, CHUNK_BYTES, receipts)])
