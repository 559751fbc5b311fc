"""What the index says a peer holds, summed up and compared with what the peer lists. Inside the caller's transaction;
called by `p2pfs.coordinator.upkeep.inventory`.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from p2pfs.format.inventory import BUCKETS, EMPTY, bucket_of, digest
from p2pfs.meta import chunks_index, void_copies
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.orders import Entry

MOST_VOID: Final = 100_000
"""Rows of void copies of one peer, beyond which its orphans wait: it may list what does not exist, without end."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of what a peer holds was listed: of one bucket, what comes behind `after` and not behind `last`, both
    (volume, chunk), None at the ends; every PUT up to `settled_seq` that is in it was listed."""

    bucket: int
    after: tuple[int, bytes] | None
    last: tuple[int, bytes] | None
    settled_seq: int


@dataclass(slots=True)
class Differences:
    """What was found, and is mended in the index."""

    lost: list[tuple[VolumeId, ChunkId]] = field(default_factory=list)
    adopted: list[tuple[VolumeId, ChunkId]] = field(default_factory=list)
    orphans: int = 0
    strangers: int = 0  # chunks listed that the index does not know, orphans or not yet


def digests(connection: sqlite3.Connection, peer: PeerNumber) -> list[bytes]:
    """format.inventory's digest of each bucket of what the peer is to hold, copies it has yet to delete included. A
    scan, which keeps nothing: UNION alone would gather all of it in memory to see what is there twice."""
    found = [EMPTY] * BUCKETS
    rows = connection.execute(
        "SELECT c.volume, c.id FROM replica r JOIN chunk c ON c.number = r.chunk WHERE r.peer = ?1"
        " UNION ALL SELECT v.volume, v.id FROM void_copy v WHERE v.peer = ?1 AND v.pending AND NOT EXISTS"
        " (SELECT 1 FROM chunk c JOIN replica r ON r.chunk = c.number AND r.part = 0 AND r.peer = ?1"
        " WHERE c.volume = v.volume AND c.id = v.id)",
        (peer,),
    )
    for volume, chunk in rows:
        bucket = bucket_of(ChunkId(chunk))
        found[bucket] = digest([(VolumeId(volume), ChunkId(chunk))], found[bucket])
    return found


def reconcile(
    connection: sqlite3.Connection,
    peer: PeerNumber,
    *,
    part: Part,
    entries: Sequence[Entry],
    orphaned_before_s: float,
    now_s: float,
) -> Differences:
    """Bring the index to what the peer lists of one part; orphans put before `orphaned_before_s` must go."""
    found = Differences()
    room = MOST_VOID - void_copies.count(connection, peer, most=MOST_VOID)
    listed = {(entry.volume, entry.chunk): entry for entry in entries}
    for volume, chunk in _indexed(connection, peer, part):
        if (volume, chunk) not in listed and chunks_index.drop_replica(
            connection, volume, chunk=chunk, peer=peer, now_s=now_s, up_to_seq=part.settled_seq
        ):
            found.lost.append((volume, chunk))
    for entry in entries:
        volume, chunk = VolumeId(entry.volume), ChunkId(entry.chunk)
        if chunks_index.is_held(connection, volume, chunk=chunk, peer=peer):
            continue
        void_s = void_copies.since(connection, peer, volume=volume, chunk=chunk, put_seq=entry.put_seq)
        if void_s is not None and void_s >= orphaned_before_s:
            continue  # it is to be deleted, or was between the listing and now
        if void_s is None and chunks_index.adopt(
            connection, volume, chunk=chunk, size=entry.size, peer=peer, put_seq=entry.put_seq
        ):
            found.adopted.append((volume, chunk))
            continue
        found.strangers += void_s is None
        if entry.stored_s < orphaned_before_s and room > found.orphans:
            void_copies.add(
                connection, peer, volume=volume, chunk=chunk, put_seq=entry.put_seq, pending=True, now_s=now_s
            )
            found.orphans += 1
    return found


def _indexed(connection: sqlite3.Connection, peer: PeerNumber, part: Part) -> list[tuple[VolumeId, ChunkId]]:
    """What the index says the peer holds of a part."""
    # By volume and id, not by peer: a bucket is 1/256 of what there is, and this runs for each of them.
    low = bytes([part.bucket])
    high = bytes([part.bucket + 1]) if part.bucket + 1 < BUCKETS else b"\xff" * 33
    volume, chunk = part.after or (-1, b"")
    last_volume, last_chunk = part.last or ((1 << 63) - 1, high)
    return connection.execute(
        "SELECT c.volume, c.id FROM volume v CROSS JOIN chunk c ON c.volume = v.id AND c.id >= ? AND c.id < ?"
        " CROSS JOIN replica r ON r.chunk = c.number AND r.part = 0 AND r.peer = ?"
        " WHERE (c.volume, c.id) > (?, ?) AND (c.volume, c.id) <= (?, ?)",
        (low, high, peer, volume, chunk, last_volume, last_chunk),
    ).fetchall()
