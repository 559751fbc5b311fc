"""What must be true after every step, looked up on the simulated disks and in the committed database themselves.

P1 what was acknowledged is committed, and each chunk it names is on enough durable storage; a location the coordinator
   believes in is true. Only what a fault destroyed is excused, copy by copy.
P3 is checked by whoever reads (`load`), P5 at the very moment a copy is deleted.
"""

import sqlite3
from collections.abc import Iterator

import trio

from p2pfs.types import ROOT_INODE, ChunkId, PeerNumber
from tests.broken_rows import broken_invariants

from .determinism import Bugs
from .load import Load
from .pool import VOLUME
from .world import Violation, World

_CHUNKS = """
SELECT c.id, c.refs, group_concat(r.peer) FROM chunk c LEFT JOIN replica r ON r.chunk = c.number
GROUP BY c.number
"""

_NOWHERE = "SELECT inode, chunk FROM extent WHERE chunk IS NOT NULL AND chunk NOT IN (SELECT number FROM chunk) LIMIT 1"


def check(world: World, load: Load, bugs: Bugs) -> None:
    """Raises Violation."""
    for bug in bugs.found:
        world.violated("bug", bug)
    world.has_shrunk_lately()
    for promise, text in world.pool.database.read(lambda connection: list(_broken(connection, world, load))):
        world.violated(promise, text)
    if world.violations:
        raise Violation(world.violations[0])


def check_rows(world: World) -> None:
    """Once, at the end: the database agrees with itself. Raises Violation."""
    for text in world.pool.database.read(broken_invariants):
        raise Violation(f"rows: {text}")


def _broken(connection: sqlite3.Connection, world: World, load: Load) -> Iterator[tuple[str, str]]:
    yield from _broken_locations(connection, world)
    yield from _broken_files(connection, load)
    yield from _broken_stamps(connection, load)
    for inode, chunk in connection.execute(_NOWHERE):
        yield "P6", f"inode {inode} names chunk row {chunk}, which was purged"


def _broken_locations(connection: sqlite3.Connection, world: World) -> Iterator[tuple[str, str]]:
    minimum, wanted, gone = world.pool.settings.min_replicas, world.wanted(), world.gone(connection)
    seen, world.copies = world.copies, {}
    for identity, refs, joined in connection.execute(_CHUNKS):
        chunk = ChunkId(identity)
        holders = [PeerNumber(int(number)) for number in joined.split(",")] if joined else []
        excused = 0
        for number in holders:
            if world.is_excused(number, chunk):
                excused += 1
            elif number not in gone and not world.pool.peers[number - 1].disk.holds((VOLUME, chunk)):
                yield "P1", f"chunk {chunk.hex()[:8]} is said to be on peer {number} and is not on its durable storage"
        if refs:
            now_s = trio.current_time()
            world.named_s[chunk] = now_s
            copies = len([peer for peer in world.valid(chunk) if peer.number not in gone])
            lost = sum(1 for peer in world.pool.peers if world.is_excused(peer.number, chunk))
            if copies + lost < minimum:
                yield "P1", f"chunk {chunk.hex()[:8]} has {copies} valid copies and faults destroyed {lost}"
            # Of copies the index knows: one whose receipt is on its way when its peer leaves was never counted on.
            # A deletion of what the index knows nothing of is looked at when it happens.
            known = len([peer for peer in world.valid(chunk) if peer.number in holders and peer.number not in gone])
            before = seen.get(chunk, 0)
            if copies + lost < min(before, wanted):
                yield "P5", f"chunk {chunk.hex()[:8]} had {before} valid copies and has {copies}"
            world.copies[chunk] = known


def _broken_stamps(connection: sqlite3.Connection, load: Load) -> Iterator[tuple[str, str]]:
    (number,) = connection.execute(
        "SELECT gid FROM inode WHERE volume = ? AND inode = ?", (VOLUME, ROOT_INODE)
    ).fetchone()
    later = load.overwritten(number)
    if later is not None:
        yield "P9", f"stamp {number} stands where {later.number} was committed, which began after its program went on"


def _broken_files(connection: sqlite3.Connection, load: Load) -> Iterator[tuple[str, str]]:
    for file in load.files:
        if not file.is_live or file.busy:
            continue
        row = connection.execute(
            "SELECT change, links FROM inode WHERE volume = ? AND inode = ?", (VOLUME, file.inode)
        ).fetchone()
        if row is None or not row[1]:
            yield "P1", f"{file} is acknowledged and not in the committed database"
        elif row[0] < file.acked_change:
            yield "P1", f"{file} is at change {row[0]} in the database, {file.acked_change} was acknowledged"
