"""Walks the index of chunks with all that is known of their copies, for whoever looks after them, and takes single
copies off it. Inside the caller's transaction; what to do about a chunk is decided in `p2pfs.placement.care`.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from p2pfs.meta import void_copies
from p2pfs.meta.chunks_index import COUNTS
from p2pfs.meta.sql import number_list
from p2pfs.types import ChunkId, PeerNumber, VolumeId


@dataclass(frozen=True, slots=True)
class Copy:
    """One replica row. `proved`: the peer's `appearances` when it last showed that it has it."""

    peer: PeerNumber
    put_seq: int
    proved: int


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A chunk that is named, with its copies on members, by peer."""

    number: int
    volume: VolumeId
    id: ChunkId
    size: int  # sealed bytes
    copies: tuple[Copy, ...]
    wanted: int = 0  # copies, if fewer than the pool's; else 0


_LOOK = (
    "SELECT c.number, c.volume, c.id, c.size,"
    " coalesce((SELECT copies FROM frugal f WHERE f.chunk = c.number), 0), r.peer, r.put_seq, r.proved FROM {chunks} c"
    f" LEFT JOIN replica r ON r.chunk = c.number AND {COUNTS} ORDER BY c.number, r.peer"
)


def after(connection: sqlite3.Connection, number: int, *, limit: int = 500) -> list[Surveyed]:
    """The next chunks behind `number`, in order; empty at the end."""
    chunks = "(SELECT * FROM chunk WHERE number > ? AND refs > 0 ORDER BY number LIMIT ?)"
    return _gathered(connection.execute(_LOOK.format(chunks=chunks), (number, limit)))


def these(connection: sqlite3.Connection, numbers: Collection[int]) -> list[Surveyed]:
    """These chunks, as far as they are still named."""
    chunks = f"(SELECT * FROM chunk WHERE number IN ({number_list(numbers)}) AND refs > 0)"
    return _gathered(connection.execute(_LOOK.format(chunks=chunks)))


def numbers_of(connection: sqlite3.Connection, chunks: Iterable[tuple[VolumeId, bytes]]) -> list[int]:
    """The numbers of these chunks, unknown ones left out."""
    found = []
    for volume, chunk in chunks:
        row = connection.execute("SELECT number FROM chunk WHERE volume = ? AND id = ?", (volume, chunk)).fetchone()
        if row is not None:
            found.append(int(row[0]))
    return found


def size(connection: sqlite3.Connection) -> tuple[int, int]:
    """(greatest number, chunks that are named). The first without a scan, the second with one."""
    greatest = connection.execute("SELECT coalesce(max(number), 0) FROM chunk").fetchone()[0]
    return int(greatest), int(connection.execute("SELECT count(*) FROM chunk WHERE refs > 0").fetchone()[0])


def take_off(
    connection: sqlite3.Connection,
    number: int,
    *,
    peer: PeerNumber,
    keep: Mapping[PeerNumber, int],
    wanted: int,
    now_s: float,
) -> bool:
    """Stop counting one surplus copy, and note that its peer must delete it. Only while at least `wanted` others, on
    peers of `keep`, were proved since those peers appeared (`keep`: peer → appearances), which is decided here and now:
    who has appeared once more since `keep` was made proves nothing.
    """
    found = these(connection, [number])
    if not found:
        return False
    chunk = found[0]
    appeared = dict(
        connection.execute(
            "SELECT p.number, p.appearances FROM replica r JOIN peer p ON p.number = r.peer WHERE r.chunk = ?",
            (number,),
        )
    )
    solid = sum(
        copy.peer != peer and keep.get(copy.peer) == copy.proved == appeared[copy.peer] for copy in chunk.copies
    )
    surplus = next((copy for copy in chunk.copies if copy.peer == peer), None)
    if surplus is None or solid < wanted:
        return False
    connection.execute("DELETE FROM replica WHERE chunk = ? AND peer = ?", (number, peer))
    void_copies.add(
        connection,
        peer,
        volume=chunk.volume,
        chunk=chunk.id,
        put_seq=surplus.put_seq,
        pending=True,
        now_s=now_s,
    )
    return True


def revive(connection: sqlite3.Connection, peer: PeerNumber, *, volume: VolumeId, chunk: ChunkId, put_seq: int) -> bool:
    """Count a copy again, unproved, that the peer has not been told to delete yet. False when it is not to be deleted
    any more, or the chunk is not there."""
    gone = connection.execute(
        "DELETE FROM void_copy WHERE peer = ?1 AND volume = ?2 AND id = ?3 AND put_seq = ?4 AND pending"
        " AND EXISTS (SELECT 1 FROM chunk WHERE volume = ?2 AND id = ?3)",
        (peer, volume, chunk, put_seq),
    )
    connection.execute(
        "INSERT INTO replica (chunk, part, peer, put_seq, proved) SELECT number, 0, ?1, ?4, -1 FROM chunk"
        " WHERE ?5 AND volume = ?2 AND id = ?3 ON CONFLICT (chunk, part, peer) DO NOTHING",
        (peer, volume, chunk, put_seq, gone.rowcount),
    )
    return bool(gone.rowcount)


def _gathered(rows: Iterable[tuple[int, int, bytes, int, int, int | None, int, int]]) -> list[Surveyed]:
    """Rows of one chunk each copy → chunks."""
    found: list[Surveyed] = []
    copies: list[Copy] = []
    head: tuple[int, int, bytes, int, int] | None = None

    def end() -> None:
        if head is not None:
            found.append(Surveyed(head[0], VolumeId(head[1]), ChunkId(head[2]), head[3], tuple(copies), head[4]))

    for number, volume, chunk, size_, wanted, peer, put_seq, proved in rows:
        if head is None or head[0] != number:
            end()
            head, copies = (number, volume, chunk, size_, wanted), []
        if peer is not None:
            copies.append(Copy(PeerNumber(peer), put_seq, proved))
    end()
    return found


def one_of(connection: sqlite3.Connection, peer: PeerNumber, *, start: int) -> Surveyed | None:
    """A named chunk on this peer: `start`, taken modulo the greatest number, says where to begin looking."""
    greatest = connection.execute("SELECT max(number) FROM chunk").fetchone()[0]
    if not greatest:
        return None
    for beyond in (start % greatest, 0):
        row = connection.execute(
            "SELECT c.number FROM replica r JOIN chunk c ON c.number = r.chunk"
            " WHERE r.peer = ? AND r.chunk > ? AND c.refs > 0 ORDER BY r.chunk LIMIT 1",
            (peer, beyond),
        ).fetchone()
        if row is not None:
            return these(connection, [row[0]])[0]
    return None
