"""What depends on some peers: counts for plans and for letting a peer go. Scans; inside the caller's transaction."""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from p2pfs.meta.sql import number_list
from p2pfs.types import PeerNumber, VolumeId


@dataclass(frozen=True, slots=True)
class Dependence:
    """Chunks on some peers, by how many copies others hold; see wire.plans.PlanAnswer."""

    held: int
    held_bytes: int
    short: int
    short_bytes: int
    unreadable: int
    unreadable_bytes: int
    thinned: int


def dependence(
    connection: sqlite3.Connection,
    peers: Collection[PeerNumber],
    *,
    others: Collection[PeerNumber],
    readable: Collection[PeerNumber],
    wanted: int,
    replicas: int | None = None,
    only_proved: bool = False,
) -> Dependence:
    """What of these `peers` is not held `wanted` times by `others`, nor at all by those of them that are `readable`.
    `replicas` is how many copies are made where there are peers enough (None: `wanted`); a chunk that should have more
    than `wanted` is thinned. `only_proved`: copies of others that were not proved since those peers appeared count for
    nothing."""
    proved = " AND o.proved = (SELECT appearances FROM peer WHERE number = o.peer)" if only_proved else ""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(copies < wanted), 0),"
        " coalesce(sum(max(0, wanted - copies) * size), 0), coalesce(sum(readable = 0), 0),"
        " coalesce(sum((readable = 0) * size), 0), coalesce(sum(due > ?1), 0) FROM"
        " (SELECT *, min(?1, due) AS wanted FROM (SELECT c.size,"
        " min(?2, coalesce((SELECT f.copies FROM frugal f WHERE f.chunk = c.number), ?2)) AS due,"
        f" (SELECT count(*) FROM replica o WHERE o.chunk = c.number{proved}"
        f" AND o.peer IN ({number_list(others)}))"
        " AS copies, (SELECT count(*) FROM replica o WHERE o.chunk = c.number AND o.peer IN"
        f" ({number_list(readable)})) AS readable FROM chunk c WHERE c.refs > 0 AND c.number IN"
        f" (SELECT chunk FROM replica WHERE peer IN ({number_list(peers)}))))",
        (wanted, wanted if replicas is None else replicas),
    ).fetchone()
    return Dependence(*(int(figure) for figure in row))


def lost_since(connection: sqlite3.Connection, peer: PeerNumber, *, since_s: float) -> bool:
    """Whether another copy of something this peer holds was found to be gone after that time."""
    row = connection.execute(
        "SELECT 1 FROM void_copy v JOIN chunk c ON c.volume = v.volume AND c.id = v.id"
        " JOIN replica r ON r.chunk = c.number AND r.peer = ? WHERE NOT v.pending AND v.since_s > ? LIMIT 1",
        (peer, since_s),
    ).fetchone()
    return row is not None


def files_at_risk(
    connection: sqlite3.Connection,
    peers: Collection[PeerNumber],
    *,
    readable: Collection[PeerNumber],
    limit: int,
) -> list[tuple[VolumeId, int, list[int]]]:
    """(volume, number of files, the first `limit` inodes) that have a chunk on `peers` and on none that is
    `readable`."""
    only = (
        f"SELECT r.chunk FROM replica r WHERE r.peer IN ({number_list(peers)}) AND NOT EXISTS (SELECT 1 FROM replica o"
        f" WHERE o.chunk = r.chunk AND o.peer IN ({number_list(readable)}))"
    )
    found: dict[VolumeId, list[int]] = {}
    rows = connection.execute(
        f"SELECT DISTINCT volume, inode FROM extent WHERE chunk IN ({only}) ORDER BY volume, inode"
    )
    counts: dict[VolumeId, int] = {}
    for volume, inode in rows:
        inodes = found.setdefault(volume, [])
        counts[volume] = counts.get(volume, 0) + 1
        if len(inodes) < limit:
            inodes.append(inode)
    return [(volume, counts[volume], inodes) for volume, inodes in found.items()]
