"""Which chunks there are, how often extents name them, and which peers hold copies. Inside the caller's transaction.

    live ──last reference goes──▶ doomed ──purge──▶ (no row; a void_copy on each peer that has yet to delete its copy)
      ◀──a commit names it again──┘

A commit that names a purged chunk gets Gone unless it brings receipts newer than what was purged: whatever the order in
which a purge and a new reference come, no extent ever names a chunk that is being deleted. Receipts are checked before
they come here; what to copy where is decided by `p2pfs.coordinator`, and looked for by `survey`.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Gone, Misuse
from p2pfs.meta import void_copies
from p2pfs.meta.sql import GONE, number_list
from p2pfs.types import SEALED_CHUNK_BYTES, ChunkId, PeerNumber, VolumeId
from p2pfs.wire.namespace import ChunkPlace, NewChunk

Added = Callable[[NewChunk, Sequence[PeerNumber], Sequence[PeerNumber]], None]
"""Hears of copies that the index counts from now on: the chunk, on which peers, and which of these take it in for the
first time: no copy is remembered that they lost or deleted."""

WHOLE_COPIES: Final = 1
"""The only `scheme` so far."""
EVERY_SEQ: Final = (1 << 63) - 1
CHUNK_ID_BYTES: Final = 32
COUNTED: Final = 100_000
"""Chunks whose copies are counted by one statement."""


COUNTS: Final = f"NOT EXISTS (SELECT 1 FROM peer p WHERE p.number = r.peer AND p.state IN ({GONE}))"
"""SQL: a row of `replica r` is a copy. One on a peer that is no member is none: nobody asks it."""
HOLDERS: Final = f"(SELECT group_concat(r.peer) FROM replica r WHERE r.chunk = c.number AND {COUNTS})"
"""SQL: the peers that hold `chunk c`, for `parse_holders`."""
_ROW = f"SELECT c.id, c.size, {HOLDERS} FROM chunk c"


# ---- references, from commits and the reaper ------------------------------------------------------------------------


def refer(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    chunk: ChunkId,
    times: int,
    new: NewChunk | None,
    wanted_min: int,
    frugal: int = 0,
    added: Added = lambda _new, _peers, _first: None,
    stored: Callable[[VolumeId, NewChunk], None] | None = None,
) -> int:
    """Count `times` new references to a chunk and return its number.

    `new` carries verified receipts; without it the chunk must be known. A chunk that was not wants `frugal` copies, or
    with 0 as many as the pool does. `stored` is told of a `new` one that nothing referred to.

    Raises:
        Gone: It is not stored (any more), or on fewer than `wanted_min` peers: put it again.
        Misuse: It is of another size.
    """
    row = connection.execute(
        "SELECT number, size, refs FROM chunk WHERE volume = ? AND id = ?", (volume, chunk)
    ).fetchone()
    if row is None:
        if new is None:
            raise Gone("the chunk is not stored, or was deleted meanwhile: store it again")
        number = _add(connection, volume, new=new, refs=times, wanted_min=wanted_min, frugal=frugal, added=added)
        if stored is not None:
            stored(volume, new)
        return number
    number, size, refs = row
    if new is not None:
        if new.size != size:
            raise Misuse(f"the chunk has {size} bytes, not {new.size}")
        _add_replicas(connection, number, volume, new=new, added=added)
    if new is not None or refs == 0:  # content already committed needs no new proof
        _require(connection, number, wanted_min)
    if new is not None and refs == 0 and stored is not None:
        stored(volume, new)
    connection.execute("UPDATE chunk SET refs = refs + ?, doomed_s = NULL WHERE number = ?", (times, number))
    return int(number)


def unrefer(connection: sqlite3.Connection, numbers: Iterable[int], *, now_s: float) -> None:
    """Take one reference of each chunk away (a number may come twice); without any the chunk is doomed."""
    connection.executemany(
        "UPDATE chunk SET refs = refs - 1, doomed_s = CASE WHEN refs = 1 THEN ? ELSE doomed_s END WHERE number = ?",
        [(now_s, number) for number in numbers],
    )


def _add(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    new: NewChunk,
    refs: int,
    wanted_min: int,
    frugal: int,
    added: Added,
) -> int:
    if not 0 < new.size <= SEALED_CHUNK_BYTES or len(new.chunk) != CHUNK_ID_BYTES:
        raise Misuse("this is no chunk")
    cursor = connection.execute(
        "INSERT INTO chunk (volume, id, size, scheme, refs, doomed_s) VALUES (?, ?, ?, ?, ?, NULL)",
        (volume, new.chunk, new.size, WHOLE_COPIES, refs),
    )
    number = cursor.lastrowid or 0
    _add_replicas(connection, number, volume, new=new, added=added)
    _require(connection, number, wanted_min)
    if frugal:
        connection.execute("INSERT INTO frugal VALUES (?, ?, ?)", (number, volume, frugal))
    return number


def _require(connection: sqlite3.Connection, number: int, wanted_min: int) -> None:
    """Enough copies for a commit to name the chunk. Raises Gone: its receipts may be of copies that were deleted, or of
    peers that left, or the mount's map of the pool was old."""
    copies = _copies(connection, number)
    if copies < wanted_min:
        raise Gone(f"the chunk is on {copies} peers, {wanted_min} are needed: store it again")


def _copies(connection: sqlite3.Connection, number: int) -> int:
    """Copies on peers that stay: what is named from now on must not depend on one that is about to be let go."""
    row = connection.execute(
        f"SELECT count(*) FROM replica r WHERE r.chunk = ? AND {COUNTS}"
        " AND NOT EXISTS (SELECT 1 FROM peer p WHERE p.number = r.peer AND p.leaving)",
        (number,),
    ).fetchone()
    return int(row[0])


# ---- replicas -------------------------------------------------------------------------------------------------------


def add_replicas(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    new: NewChunk,
    added: Added = lambda _new, _peers, _first: None,
) -> bool:
    """Note more copies of a chunk (verified receipts). False when the chunk is unknown by now."""
    row = connection.execute(
        "SELECT number, size FROM chunk WHERE volume = ? AND id = ?", (volume, new.chunk)
    ).fetchone()
    if row is None:
        return False
    if row[1] != new.size:
        raise Misuse(f"the chunk has {row[1]} bytes, not {new.size}")
    _add_replicas(connection, row[0], volume, new=new, added=added)
    return True


def drop_replica(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    chunk: ChunkId,
    peer: PeerNumber,
    now_s: float,
    up_to_seq: int = EVERY_SEQ,
) -> bool:
    """A peer has lost its copy (or quarantined it): receipts up to the newest known one prove nothing any more. False
    when it was not known to hold one, or only one put after `up_to_seq`."""
    dropped = connection.execute(
        "DELETE FROM replica WHERE peer = ? AND chunk = (SELECT number FROM chunk WHERE volume = ? AND id = ?)"
        " AND put_seq <= ? RETURNING put_seq",
        (peer, volume, chunk, up_to_seq),
    ).fetchall()
    for (put_seq,) in dropped:
        void_copies.add(connection, peer, volume=volume, chunk=chunk, put_seq=put_seq, pending=False, now_s=now_s)
    return bool(dropped)


def drop_replicas_of(connection: sqlite3.Connection, peer: PeerNumber, *, limit: int = 1000) -> int:
    """Forget up to `limit` copies of a peer that is gone for good; returns how many went."""
    return connection.execute(
        "DELETE FROM replica WHERE (chunk, part, peer) IN"
        " (SELECT chunk, part, peer FROM replica WHERE peer = ? LIMIT ?)",
        (peer, limit),
    ).rowcount


def is_held(connection: sqlite3.Connection, volume: VolumeId, *, chunk: ChunkId, peer: PeerNumber) -> bool:
    """Whether the index says that the peer holds the chunk."""
    row = connection.execute(
        "SELECT 1 FROM replica r JOIN chunk c ON c.number = r.chunk WHERE c.volume = ? AND c.id = ? AND r.peer = ?",
        (volume, chunk, peer),
    ).fetchone()
    return row is not None


def adopt(
    connection: sqlite3.Connection, volume: VolumeId, *, chunk: ChunkId, size: int, peer: PeerNumber, put_seq: int
) -> bool:
    """Count a copy that a peer was found to hold, unproved. False when the chunk is unknown or has another size."""
    return bool(
        connection.execute(
            "INSERT INTO replica (chunk, part, peer, put_seq, proved)"
            " SELECT number, 0, ?, ?, -1 FROM chunk WHERE volume = ? AND id = ? AND size = ?",
            (peer, put_seq, volume, chunk, size),
        ).rowcount
    )


def prove(
    connection: sqlite3.Connection, volume: VolumeId, *, chunk: ChunkId, peer: PeerNumber, appearances: int
) -> bool:
    """An audit that began after so many of the peer's `appearances` has shown that its copy is whole. False when it is
    not known to hold one."""
    return bool(
        connection.execute(
            "UPDATE replica SET proved = max(proved, ?4)"
            " WHERE peer = ?1 AND chunk = (SELECT number FROM chunk WHERE volume = ?2 AND id = ?3)",
            (peer, volume, chunk, appearances),
        ).rowcount
    )


def _add_replicas(
    connection: sqlite3.Connection, number: int, volume: VolumeId, *, new: NewChunk, added: Added
) -> None:
    """A receipt of a copy that is void is passed over. One of before its peer last appeared, however late it comes,
    does not say what the peer has now: that has yet to be shown."""
    before = _peers_of(connection, number)
    connection.executemany(
        "INSERT INTO replica (chunk, part, peer, put_seq, proved)"
        " SELECT ?1, 0, ?2, ?3, coalesce((SELECT CASE WHEN appeared_seq < ?3 THEN appearances ELSE -1 END"
        " FROM peer WHERE number = ?2), 0) WHERE NOT EXISTS"
        " (SELECT 1 FROM void_copy WHERE peer = ?2 AND volume = ?4 AND id = ?5 AND put_seq >= ?3)"
        " ON CONFLICT (chunk, part, peer) DO UPDATE SET put_seq = excluded.put_seq,"
        " proved = max(proved, excluded.proved)"
        " WHERE excluded.put_seq > put_seq",
        [(number, receipt.peer, receipt.put_seq, volume, new.chunk) for receipt in new.receipts],
    )
    if peers := sorted(_peers_of(connection, number) - before):
        added(new, peers, [peer for peer in peers if not void_copies.is_known(connection, peer, volume, new.chunk)])


def _peers_of(connection: sqlite3.Connection, number: int) -> set[PeerNumber]:
    return {PeerNumber(row[0]) for row in connection.execute("SELECT peer FROM replica WHERE chunk = ?", (number,))}


# ---- questions ------------------------------------------------------------------------------------------------------


def locate(connection: sqlite3.Connection, volume: VolumeId, *, chunks: Iterable[bytes]) -> list[ChunkPlace]:
    """Where copies are said to be; unknown chunks are left out."""
    found = []
    for chunk in chunks:
        row = connection.execute(f"{_ROW} WHERE c.volume = ? AND c.id = ?", (volume, chunk)).fetchone()
        if row is not None:
            found.append(ChunkPlace(row[0], row[1], parse_holders(row[2])))
    return found


def is_settled(connection: sqlite3.Connection, volume: VolumeId, *, chunk: ChunkId, copies: int) -> bool:
    """Whether the chunk is said to have so many copies, and each was proved at some time."""
    count, least = connection.execute(
        "SELECT count(*), min(r.proved) FROM chunk c JOIN replica r ON r.chunk = c.number"
        " WHERE c.volume = ? AND c.id = ?",
        (volume, chunk),
    ).fetchone()
    return bool(count == copies and (least is None or least >= 0))


def holders(connection: sqlite3.Connection, volume: VolumeId, *, chunk: ChunkId) -> dict[PeerNumber, int]:
    """put_seq of the newest receipt, per peer said to hold the chunk."""
    rows = connection.execute(
        "SELECT r.peer, r.put_seq FROM chunk c JOIN replica r ON r.chunk = c.number WHERE c.volume = ? AND c.id = ?",
        (volume, chunk),
    )
    return {PeerNumber(peer): put_seq for peer, put_seq in rows}


def parse_holders(joined: str | None) -> list[int]:
    """The peer numbers of SQL's group_concat(peer)."""
    return [int(number) for number in joined.split(",")] if joined else []


def counts(connection: sqlite3.Connection, live: Collection[PeerNumber]) -> dict[int, int]:
    """Copies on `live` peers → how many chunks have that many. Chunks nothing names any more are not counted.

    A scan of all copies, a second a million chunks: call it through `Database.scan`. It reads `replica` alone, less
    what is doomed, of which there is an index: a join with `chunk` takes six times as long.
    """
    peers = number_list(live)
    greatest = connection.execute("SELECT coalesce(max(chunk), 0) FROM replica").fetchone()[0]
    found = Counter[int]()
    for first in range(0, greatest + 1, COUNTED):  # what is grouped is gathered in memory
        found.update(
            dict(
                connection.execute(
                    "SELECT copies, count(*) FROM (SELECT count(*) AS copies FROM replica r"  # + keeps its order:
                    f" WHERE r.chunk >= ? AND r.chunk < ? AND +r.peer IN ({peers}) GROUP BY r.chunk) GROUP BY copies",
                    (first, first + COUNTED),
                )
            )
        )
    found.subtract(
        dict(
            connection.execute(
                "SELECT copies, count(*) FROM (SELECT (SELECT count(*) FROM replica r WHERE r.chunk = c.number"
                f" AND r.peer IN ({peers})) AS copies FROM chunk c WHERE c.doomed_s IS NOT NULL)"
                " WHERE copies > 0 GROUP BY copies"
            )
        )
    )
    named = connection.execute(
        "SELECT (SELECT count(*) FROM chunk) - (SELECT count(*) FROM chunk WHERE doomed_s IS NOT NULL)"
    ).fetchone()[0]
    found[0] = named - found.total()
    return {copies: chunks for copies, chunks in found.items() if chunks}


def used_by(connection: sqlite3.Connection, peer: PeerNumber) -> tuple[int, int]:
    """(chunks, bytes) the index places on a peer. A scan of that peer's rows."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(c.size), 0) FROM replica r JOIN chunk c ON c.number = r.chunk WHERE r.peer = ?",
        (peer,),
    ).fetchone()
    return int(row[0]), int(row[1])


# ---- purging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Purged:
    """What one step of a purge took off the index: chunks, bytes of their copies, and copies by peer."""

    chunks: int
    bytes: int
    copies: dict[PeerNumber, int]


def purge(connection: sqlite3.Connection, *, doomed_before_s: float, now_s: float, limit: int = 500) -> Purged:
    """Forget up to `limit` chunks that nothing has named since then, and note the copies that must go. From now on
    receipts of those copies prove nothing."""
    rows = connection.execute(
        "SELECT number, volume, id, size FROM chunk WHERE doomed_s < ? AND refs = 0 ORDER BY doomed_s LIMIT ?",
        (doomed_before_s, limit),
    ).fetchall()
    freed, copies = 0, Counter[PeerNumber]()
    for number, volume, chunk, size in rows:
        held = connection.execute("SELECT peer, put_seq FROM replica WHERE chunk = ?", (number,)).fetchall()
        for peer, put_seq in held:
            void_copies.add(connection, peer, volume=volume, chunk=chunk, put_seq=put_seq, pending=True, now_s=now_s)
        connection.execute("DELETE FROM replica WHERE chunk = ?", (number,))
        connection.execute("DELETE FROM chunk WHERE number = ?", (number,))
        copies.update(peer for peer, _ in held)
        freed += size * len(held)
    return Purged(len(rows), freed, dict(copies))


def restart_grace(connection: sqlite3.Connection, *, now_s: float) -> None:
    """Begin every delay anew: what was written down of time before may be of a clock that was wrong."""
    connection.execute("UPDATE chunk SET doomed_s = ? WHERE doomed_s IS NOT NULL", (now_s,))
    void_copies.restart(connection, now_s=now_s)


def doomed(connection: sqlite3.Connection, *, before_s: float) -> tuple[int, int]:
    """(chunks, their bytes) of what nothing has named since then. A scan."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM chunk WHERE doomed_s < ?", (before_s,)
    ).fetchone()
    return int(row[0]), int(row[1])


def oldest_doomed(connection: sqlite3.Connection, *, before_s: float) -> float | None:
    """Since when the oldest chunk is doomed of those that nothing has named since then; None: there is none."""
    row = connection.execute("SELECT min(doomed_s) FROM chunk WHERE doomed_s < ?", (before_s,)).fetchone()
    return None if row[0] is None else float(row[0])
