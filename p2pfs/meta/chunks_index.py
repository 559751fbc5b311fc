"""Which chunks there are, how often extents name them, and which peers hold copies. Inside the caller's transaction.

    live ──last reference goes──▶ doomed ──begin_purge──▶ purging ──forget──▶ (no row)
      ◀──a commit names it again──┘           └── a commit that names it gets Gone

Receipts are checked before they come here; what to copy where is decided by `p2pfs.coordinator`.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from p2pfs.errors import Gone, Misuse
from p2pfs.types import SEALED_CHUNK_BYTES, ChunkId, PeerNumber, PeerState, VolumeId
from p2pfs.wire.namespace import ChunkPlace, NewChunk

WHOLE_COPIES: Final = 1
"""The only `scheme` so far."""
CHUNK_ID_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk with the peers said to hold it."""

    number: int
    volume: VolumeId
    id: ChunkId
    size: int
    holders: tuple[PeerNumber, ...]


_COUNTS = f"NOT EXISTS (SELECT 1 FROM peer p WHERE p.number = r.peer AND p.state = '{PeerState.REVOKED.value}')"
"""SQL: a row of `replica r` is a copy. One on a revoked peer is none: nobody may read it."""
HOLDERS: Final = f"(SELECT group_concat(r.peer) FROM replica r WHERE r.chunk = c.number AND {_COUNTS})"
"""SQL: the peers that hold `chunk c`, for `parse_holders`."""
_ROW = f"SELECT c.number, c.volume, c.id, c.size, {HOLDERS} FROM chunk c"


# ---- references, from commits and the reaper ------------------------------------------------------------------------


def refer(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    chunk: ChunkId,
    times: int,
    new: NewChunk | None,
    wanted_min: int,
) -> int:
    """Count `times` new references to a chunk and return its number.

    `new` carries verified receipts; without it the chunk must be known.

    Raises:
        Gone: The chunk is being purged.
        Misuse: It is unknown, of another size, or on fewer than `wanted_min` peers.
    """
    row = connection.execute(
        "SELECT number, size, purging, refs FROM chunk WHERE volume = ? AND id = ?", (volume, chunk)
    ).fetchone()
    if row is None:
        if new is None:
            raise Misuse("an extent names a chunk nobody has stored")
        return _add(connection, volume, new=new, refs=times, wanted_min=wanted_min)
    number, size, purging, refs = row
    if purging:
        raise Gone("the chunk is being deleted: store it again")
    if new is not None:
        if new.size != size:
            raise Misuse(f"the chunk has {size} bytes, not {new.size}")
        _add_replicas(connection, number, new=new)
    if new is not None or refs == 0:  # content already committed needs no new proof
        _require(_copies(connection, number), wanted_min)
    connection.execute("UPDATE chunk SET refs = refs + ?, doomed_s = NULL WHERE number = ?", (times, number))
    return int(number)


def unrefer(connection: sqlite3.Connection, numbers: Iterable[int], *, now_s: float) -> None:
    """Take one reference of each chunk away (a number may come twice); without any the chunk is doomed."""
    connection.executemany(
        "UPDATE chunk SET refs = refs - 1, doomed_s = CASE WHEN refs = 1 THEN ? ELSE doomed_s END WHERE number = ?",
        [(now_s, number) for number in numbers],
    )


def _add(connection: sqlite3.Connection, volume: VolumeId, *, new: NewChunk, refs: int, wanted_min: int) -> int:
    if not 0 < new.size <= SEALED_CHUNK_BYTES or len(new.chunk) != CHUNK_ID_BYTES:
        raise Misuse("this is no chunk")
    cursor = connection.execute(
        "INSERT INTO chunk (volume, id, size, scheme, refs, doomed_s, purging) VALUES (?, ?, ?, ?, ?, NULL, 0)",
        (volume, new.chunk, new.size, WHOLE_COPIES, refs),
    )
    number = cursor.lastrowid or 0
    _add_replicas(connection, number, new=new)
    _require(_copies(connection, number), wanted_min)
    return number


def _require(copies: int, wanted_min: int) -> None:
    if copies < wanted_min:
        raise Misuse(f"a chunk is on {copies} peers, {wanted_min} are needed")


def _copies(connection: sqlite3.Connection, number: int) -> int:
    return int(
        connection.execute(f"SELECT count(*) FROM replica r WHERE r.chunk = ? AND {_COUNTS}", (number,)).fetchone()[0]
    )


# ---- replicas -------------------------------------------------------------------------------------------------------


def add_replicas(connection: sqlite3.Connection, volume: VolumeId, *, new: NewChunk) -> bool:
    """Note more copies of a chunk (verified receipts). False when the chunk is unknown by now or being purged."""
    row = connection.execute(
        "SELECT number, size FROM chunk WHERE volume = ? AND id = ? AND purging = 0", (volume, new.chunk)
    ).fetchone()
    if row is None:
        return False
    if row[1] != new.size:
        raise Misuse(f"the chunk has {row[1]} bytes, not {new.size}")
    _add_replicas(connection, row[0], new=new)
    return True


def drop_replica(connection: sqlite3.Connection, volume: VolumeId, *, chunk: ChunkId, peer: PeerNumber) -> bool:
    """A peer has lost its copy (or quarantined it): receipts up to the newest known one prove nothing any more. False
    when it was not known to hold one."""
    dropped = connection.execute(
        "DELETE FROM replica WHERE peer = ? AND chunk = (SELECT number FROM chunk WHERE volume = ? AND id = ?)"
        " RETURNING chunk, peer, put_seq",
        (peer, volume, chunk),
    ).fetchall()
    connection.executemany(
        "INSERT INTO damaged_copy VALUES (?, ?, ?)"
        " ON CONFLICT (chunk, peer) DO UPDATE SET put_seq = max(put_seq, excluded.put_seq)",
        dropped,
    )
    return bool(dropped)


def drop_replicas_of(connection: sqlite3.Connection, peer: PeerNumber, *, limit: int = 1000) -> int:
    """Forget up to `limit` copies of a peer that is gone for good; returns how many went."""
    return connection.execute(
        "DELETE FROM replica WHERE (chunk, part, peer) IN"
        " (SELECT chunk, part, peer FROM replica WHERE peer = ? LIMIT ?)",
        (peer, limit),
    ).rowcount


def _add_replicas(connection: sqlite3.Connection, number: int, *, new: NewChunk) -> None:
    """A receipt of a copy that was set aside is passed over."""
    connection.executemany(
        "INSERT INTO replica (chunk, part, peer, put_seq) SELECT ?1, 0, ?2, ?3 WHERE NOT EXISTS"
        " (SELECT 1 FROM damaged_copy WHERE chunk = ?1 AND peer = ?2 AND put_seq >= ?3)"
        " ON CONFLICT (chunk, part, peer) DO UPDATE SET put_seq = max(put_seq, excluded.put_seq)",
        [(number, receipt.peer, receipt.put_seq) for receipt in new.receipts],
    )


# ---- questions ------------------------------------------------------------------------------------------------------


def locate(connection: sqlite3.Connection, volume: VolumeId, *, chunks: Iterable[bytes]) -> list[ChunkPlace]:
    """Where copies are said to be; unknown chunks are left out."""
    found = []
    for chunk in chunks:
        row = connection.execute(f"{_ROW} WHERE c.volume = ? AND c.id = ?", (volume, chunk)).fetchone()
        if row is not None:
            found.append(ChunkPlace(row[2], row[3], parse_holders(row[4])))
    return found


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


def counts(
    connection: sqlite3.Connection, live: Collection[PeerNumber], *, volume: VolumeId | None = None
) -> dict[int, int]:
    """Copies on `live` peers → how many chunks have that many. Chunks nothing names any more are not counted.

    A scan of the whole index: call it through `Database.scan`.
    """
    rows = connection.execute(
        "SELECT copies, count(*) FROM (SELECT count(r.peer) AS copies FROM chunk c LEFT JOIN replica r"
        f" ON r.chunk = c.number AND r.peer IN ({_numbers(live)}) WHERE c.refs > 0"
        " AND (:volume IS NULL OR c.volume = :volume) GROUP BY c.number) GROUP BY copies",
        {"volume": volume},
    )
    return dict(rows.fetchall())


def short(
    connection: sqlite3.Connection, live: Collection[PeerNumber], *, wanted: int, limit: int = 1000
) -> list[ChunkRow]:
    """Chunks with fewer than `wanted` copies on `live` peers, fewest copies first, at most `limit`. A scan."""
    rows = connection.execute(
        "SELECT c.number, c.volume, c.id, c.size, group_concat(r.peer) FROM chunk c LEFT JOIN replica r"
        f" ON r.chunk = c.number AND r.peer IN ({_numbers(live)}) WHERE c.refs > 0"
        " GROUP BY c.number HAVING count(r.peer) < ? ORDER BY count(r.peer), c.number LIMIT ?",
        (wanted, limit),
    )
    return [_row(row) for row in rows]


def used_by(connection: sqlite3.Connection, peer: PeerNumber) -> tuple[int, int]:
    """(chunks, bytes) the index places on a peer. A scan of that peer's rows."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(c.size), 0) FROM replica r JOIN chunk c ON c.number = r.chunk WHERE r.peer = ?",
        (peer,),
    ).fetchone()
    return int(row[0]), int(row[1])


def _numbers(peers: Collection[PeerNumber]) -> str:
    """An SQL list; numbers only, so nothing to quote. (Bound parameters are limited in number.)"""
    return ",".join(str(int(peer)) for peer in sorted(peers))


def _row(row: Sequence[Any]) -> ChunkRow:
    holders = tuple(PeerNumber(peer) for peer in parse_holders(row[4]))
    return ChunkRow(row[0], VolumeId(row[1]), ChunkId(row[2]), row[3], holders)


# ---- purging --------------------------------------------------------------------------------------------------------


def begin_purge(connection: sqlite3.Connection, *, doomed_before_s: float, limit: int = 1000) -> list[ChunkRow]:
    """Mark chunks that nothing named since then: from now on a commit that names one gets Gone. Returns them."""
    rows = connection.execute(
        f"{_ROW} WHERE c.doomed_s < ? AND c.purging = 0 ORDER BY c.doomed_s LIMIT ?", (doomed_before_s, limit)
    ).fetchall()
    connection.executemany("UPDATE chunk SET purging = 1 WHERE number = ?", [(row[0],) for row in rows])
    return [_row(row) for row in rows]


def forget(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Drop the rows of chunks whose last copy was deleted; only those being purged."""
    for number in numbers:
        cursor = connection.execute("DELETE FROM chunk WHERE number = ? AND purging = 1", (number,))
        if cursor.rowcount:
            connection.execute("DELETE FROM replica WHERE chunk = ?", (number,))
            connection.execute("DELETE FROM damaged_copy WHERE chunk = ?", (number,))
