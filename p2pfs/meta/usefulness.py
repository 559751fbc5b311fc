"""Rows of who gives and who takes: windows, reports of reads, what lies where, and chunks that want fewer copies.

Inside the caller's transaction. What the numbers mean, and who is believed, is `p2pfs.coordinator`'s; `placed` and the
end of `frugal` rows are kept by triggers (`schema_usefulness`).
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from p2pfs.meta.chunks_index import COUNTS
from p2pfs.meta.sql import number_list
from p2pfs.placement.usefulness import Counts, Stock
from p2pfs.types import ChunkId, NodeId, PeerNumber, VolumeId


@dataclass(frozen=True, slots=True, order=True)
class ReadKey:
    """One end's report of a day; see the table read_report."""

    day: int
    server: NodeId
    client: NodeId
    by_client: bool
    run: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Days that count: windows from `first` to `last`, reports from `first_report` on."""

    first: int
    first_report: int
    last: int  # today


# ---- windows and reports --------------------------------------------------------------------------------------------


def windows(connection: sqlite3.Connection) -> dict[NodeId, dict[int, Counts]]:
    """All that are kept, by node and day."""
    found: dict[NodeId, dict[int, Counts]] = {}
    for day, node, *bytes_ in connection.execute(
        "SELECT day, node, u_usual, d_usual, d_special, u_special FROM usefulness"
    ):
        found.setdefault(NodeId(node), {})[day] = Counts(*bytes_)
    return found


def reports(connection: sqlite3.Connection) -> dict[ReadKey, int]:
    """All that are kept."""
    rows = connection.execute("SELECT day, server, client, by_client, run, bytes FROM read_report")
    return {
        ReadKey(day, NodeId(server), NodeId(client), bool(by_client), run): size
        for day, server, client, by_client, run, size in rows
    }


def keep(
    connection: sqlite3.Connection,
    counts: Mapping[tuple[int, NodeId], Counts],
    told: Mapping[ReadKey, int],
) -> None:
    """Take over windows and reports as they are now."""
    connection.executemany(
        "INSERT OR REPLACE INTO usefulness VALUES (?, ?, ?, ?, ?, ?)",
        [
            (day, node, int(one.u_usual), int(one.d_usual), int(one.d_special), int(one.u_special))
            for (day, node), one in counts.items()
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO read_report VALUES (?, ?, ?, ?, ?, ?)",
        [(key.day, key.server, key.client, key.by_client, key.run, size) for key, size in told.items()],
    )


def expire(connection: sqlite3.Connection, kept: Kept) -> None:
    """Forget all other days."""
    connection.execute("DELETE FROM usefulness WHERE day < ? OR day > ?", (kept.first, kept.last))
    connection.execute("DELETE FROM read_report WHERE day < ? OR day > ?", (kept.first_report, kept.last))


# ---- what lies where ------------------------------------------------------------------------------------------------


def stock(connection: sqlite3.Connection, owner: str) -> Stock:
    """What nothing names any more counts until it is purged: until then it takes up room.

    CROSS JOIN keeps the order: from the owner's few volumes, or peers, to what lies of them or there, and not through
    all of `placed`; everybody who asks for room, and statfs, waits for it.
    """
    placed, own = connection.execute(
        "SELECT coalesce(sum(CASE WHEN n.owner != ?1 THEN r.bytes END), 0),"
        " coalesce(sum(CASE WHEN n.owner = ?1 THEN r.bytes END), 0) FROM volume v CROSS JOIN placed r"
        " ON r.volume = v.id CROSS JOIN peer q ON q.number = r.peer CROSS JOIN node n ON n.id = q.node"
        f" WHERE v.owner = ?1 AND {COUNTS}",
        (owner,),
    ).fetchone()
    (held,) = connection.execute(
        "SELECT coalesce(sum(r.bytes), 0) FROM node n CROSS JOIN peer q ON q.node = n.id CROSS JOIN placed r"
        " ON r.peer = q.number CROSS JOIN volume v ON v.id = r.volume WHERE n.owner = ?1"
        f" AND v.owner != ?1 AND {COUNTS}",
        (owner,),
    ).fetchone()
    return Stock(int(placed), int(held), int(own))


def stocks(connection: sqlite3.Connection) -> dict[str, Stock]:
    """The same of every owner that has any. A scan of `placed`: call it through `Database.scan`."""
    found: dict[str, Stock] = {}
    for placer, holder, size in connection.execute(
        "SELECT v.owner, n.owner, sum(r.bytes) FROM placed r JOIN volume v ON v.id = r.volume"
        f" JOIN peer q ON q.number = r.peer JOIN node n ON n.id = q.node WHERE {COUNTS} GROUP BY v.owner, n.owner"
    ):
        if placer == holder:
            found[placer] = found.get(placer, Stock()) + Stock(own=size)
        else:
            found[placer] = found.get(placer, Stock()) + Stock(placed=size)
            found[holder] = found.get(holder, Stock()) + Stock(held=size)
    return found


def on_peers(connection: sqlite3.Connection, peers: Iterable[PeerNumber]) -> Counter[str]:
    """Bytes of each owner's copies on these peers, as far as they are others'."""
    rows = connection.execute(
        "SELECT v.owner, sum(r.bytes) FROM placed r JOIN volume v ON v.id = r.volume JOIN peer q ON q.number = r.peer"
        f" JOIN node n ON n.id = q.node WHERE r.peer IN ({number_list(peers)}) AND n.owner != v.owner GROUP BY v.owner"
    )
    return Counter(dict(rows.fetchall()))


def out_of(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    chunk: ChunkId,
    safe: Iterable[PeerNumber],
    known: Iterable[PeerNumber],
) -> list[PeerNumber]:
    """Whose copies of a chunk do not count any more, so that others are made: those that the index has on peers that
    are not `safe`; or else, among `known` ones, who lost or gave up its copy last."""
    rows = (
        connection.execute(
            "SELECT r.peer FROM chunk c JOIN replica r ON r.chunk = c.number WHERE c.volume = ? AND c.id = ?"
            f" AND r.peer NOT IN ({number_list(safe)})",
            (volume, chunk),
        ).fetchall()
        or connection.execute(
            f"SELECT peer FROM void_copy WHERE peer IN ({number_list(known)}) AND volume = ? AND id = ? AND NOT pending"
            " ORDER BY since_s DESC LIMIT 1",
            (volume, chunk),
        ).fetchall()
    )
    return [PeerNumber(row[0]) for row in rows]


# ---- chunks that want fewer copies ----------------------------------------------------------------------------------


def frugal_owners(connection: sqlite3.Connection) -> list[str]:
    """Who has any."""
    rows = connection.execute("SELECT DISTINCT owner FROM volume WHERE id IN (SELECT volume FROM frugal)")
    return [row[0] for row in rows]


def release(connection: sqlite3.Connection, owner: str, *, copies: int, limit: int) -> list[tuple[VolumeId, ChunkId]]:
    """Let up to `limit` chunks of an owner that want fewer copies want the pool's again; which."""
    rows = connection.execute(
        "SELECT f.chunk, c.volume, c.id FROM frugal f JOIN chunk c ON c.number = f.chunk WHERE f.volume IN"
        " (SELECT id FROM volume WHERE owner = ?) AND f.copies < ? LIMIT ?",
        (owner, copies, limit),
    ).fetchall()
    connection.execute(f"DELETE FROM frugal WHERE chunk IN ({number_list(row[0] for row in rows)})")
    return [(VolumeId(volume), ChunkId(chunk)) for _, volume, chunk in rows]


def content(connection: sqlite3.Connection, wanted: int, live: Iterable[PeerNumber]) -> int:
    """How many chunks have fewer than `wanted` copies on `live` peers, and as many as they want: these are not short. A
    scan of those that want fewer."""
    row = connection.execute(
        "SELECT count(*) FROM (SELECT f.copies AS enough, (SELECT count(*) FROM replica r WHERE"
        f" r.chunk = f.chunk AND r.peer IN ({number_list(live)})) AS copies FROM frugal f JOIN chunk c"
        " ON c.number = f.chunk WHERE c.refs > 0) WHERE copies BETWEEN max(1, enough) AND ? - 1",
        (wanted,),
    ).fetchone()
    return int(row[0])
