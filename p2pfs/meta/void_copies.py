"""Copies that are gone or must go: what peers have yet to delete, and which receipts prove nothing any more.

A row outlives the copy, and even the chunk's own row, so that a receipt given before never counts again: a mount may
still carry it. Inside the caller's transaction; called by `chunks_index`, `survey` and the coordinator's deletions.
"""

import math
import sqlite3
from collections.abc import Collection, Iterable
from typing import Final

from p2pfs.meta.sql import number_list
from p2pfs.types import ChunkId, PeerNumber, VolumeId

FIRST: Final = (-1, b"")
"""Comes before every (volume, chunk)."""


def add(
    connection: sqlite3.Connection,
    peer: PeerNumber,
    *,
    volume: VolumeId,
    chunk: ChunkId,
    put_seq: int,
    pending: bool,
    now_s: float,
) -> None:
    """Receipts of this copy up to `put_seq` are void; `pending`: the peer must delete it."""
    connection.execute(
        "INSERT INTO void_copy VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (peer, volume, id) DO UPDATE SET"
        " put_seq = max(put_seq, excluded.put_seq), pending = max(pending, excluded.pending),"
        " since_s = excluded.since_s",
        (peer, volume, chunk, put_seq, pending, now_s),
    )


def is_known(connection: sqlite3.Connection, peer: PeerNumber, volume: VolumeId, chunk: bytes) -> bool:
    """Whether the peer is remembered to have lost or deleted a copy, or to have to."""
    key = (peer, volume, chunk)
    return (
        connection.execute("SELECT 1 FROM void_copy WHERE peer = ? AND volume = ? AND id = ?", key).fetchone()
        is not None
    )


def pending(
    connection: sqlite3.Connection,
    peer: PeerNumber,
    *,
    after: tuple[int, bytes],
    limit: int,
    look_at: int,
    readable: Collection[PeerNumber],
    wanted: int,
) -> tuple[list[tuple[VolumeId, ChunkId, int]], tuple[int, bytes]]:
    """(volume, chunk, put_seq) of up to `limit` copies the peer must delete, but not of chunks that are named and by
    now have fewer than `wanted` copies on `readable` peers: others were lost since the copy was taken off the index.

    Begins behind `after`, looks at `look_at` rows at most, and says behind which (volume, chunk) to go on; FIRST: that
    was the end.
    """
    rows = connection.execute(
        "SELECT v.volume, v.id, v.put_seq, c.number IS NULL OR c.refs = 0 OR (SELECT count(*) FROM replica r"
        f" WHERE r.chunk = c.number AND r.peer IN ({number_list(readable)})) >= ?"
        " FROM void_copy v LEFT JOIN chunk c ON c.volume = v.volume AND c.id = v.id"
        " WHERE v.peer = ? AND v.pending AND (v.volume, v.id) > (?, ?) ORDER BY v.volume, v.id LIMIT ?",
        (wanted, peer, *after, look_at),
    )
    found: list[tuple[VolumeId, ChunkId, int]] = []
    for seen, (volume, chunk, put_seq, may_go) in enumerate(rows, 1):
        if may_go:
            found.append((VolumeId(volume), ChunkId(chunk), put_seq))
        if seen == look_at or len(found) == limit:
            return found, (volume, chunk)
    return found, FIRST


def pending_of(
    connection: sqlite3.Connection, chunks: Iterable[tuple[VolumeId, ChunkId]], *, peers: Collection[PeerNumber]
) -> list[tuple[PeerNumber, VolumeId, ChunkId, int]]:
    """(peer, volume, chunk, put_seq) of copies of these chunks that `peers` have yet to delete."""
    found = []
    for volume, chunk in chunks:
        rows = connection.execute(
            "SELECT peer, volume, id, put_seq FROM void_copy"
            f" WHERE peer IN ({number_list(peers)}) AND volume = ? AND id = ? AND pending",
            (volume, chunk),
        )
        found += rows.fetchall()
    return found


def count_pending(connection: sqlite3.Connection, peer: PeerNumber) -> int:
    """How many copies the peer must delete."""
    row = connection.execute("SELECT count(*) FROM void_copy WHERE peer = ? AND pending", (peer,)).fetchone()
    return int(row[0])


def count(connection: sqlite3.Connection, peer: PeerNumber, *, most: int) -> int:
    """How many rows a peer has, told ones included; `most` if there are more."""
    row = connection.execute("SELECT count(*) FROM (SELECT 1 FROM void_copy WHERE peer = ? LIMIT ?)", (peer, most))
    return int(row.fetchone()[0])


def peers_pending(connection: sqlite3.Connection) -> dict[PeerNumber, int]:
    """How many copies each peer must delete."""
    rows = connection.execute("SELECT peer, count(*) FROM void_copy WHERE pending GROUP BY peer")
    return {PeerNumber(peer): count for peer, count in rows}


def deleted(
    connection: sqlite3.Connection, peer: PeerNumber, *, volume: VolumeId, chunk: ChunkId, put_seq: int, now_s: float
) -> None:
    """The peer has done it (or was void because of a newer PUT). A newer order stays."""
    connection.execute(
        "UPDATE void_copy SET pending = 0, since_s = ? WHERE peer = ? AND volume = ? AND id = ? AND put_seq <= ?",
        (now_s, peer, volume, chunk, put_seq),
    )


def forget(connection: sqlite3.Connection, *, before_s: float, limit: int = 1000) -> int:
    """Drop rows that were settled before then: nobody can still carry a receipt as old; how many."""
    return connection.execute(
        "DELETE FROM void_copy WHERE (peer, volume, id) IN"
        " (SELECT peer, volume, id FROM void_copy WHERE NOT pending AND since_s < ? LIMIT ?)",
        (before_s, limit),
    ).rowcount


def restart(connection: sqlite3.Connection, *, now_s: float) -> None:
    """Remember all rows as if they had been settled now."""
    connection.execute("UPDATE void_copy SET since_s = ? WHERE NOT pending", (now_s,))


def forget_peers(connection: sqlite3.Connection, peers: Collection[PeerNumber], *, limit: int = 1000) -> int:
    """Drop rows of peers that are gone for good; how many."""
    return connection.execute(
        "DELETE FROM void_copy WHERE (peer, volume, id) IN"
        f" (SELECT peer, volume, id FROM void_copy WHERE peer IN ({number_list(peers)}) LIMIT ?)",
        (limit,),
    ).rowcount


def has_settled(connection: sqlite3.Connection, *, before_s: float) -> bool:
    """Whether `forget` would drop something."""
    row = connection.execute("SELECT 1 FROM void_copy WHERE NOT pending AND since_s < ? LIMIT 1", (before_s,))
    return row.fetchone() is not None


def since(
    connection: sqlite3.Connection, peer: PeerNumber, *, volume: VolumeId, chunk: ChunkId, put_seq: int
) -> float | None:
    """Since when a copy put with this `put_seq` is void; now and in future (infinite) while the peer has yet to delete
    it; None: it is not void."""
    row = connection.execute(
        "SELECT pending, since_s FROM void_copy WHERE peer = ? AND volume = ? AND id = ? AND put_seq >= ?",
        (peer, volume, chunk, put_seq),
    ).fetchone()
    return None if row is None else math.inf if row[0] else float(row[1])
