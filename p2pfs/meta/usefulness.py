"""Rows of who gives and who takes: windows, reports of reads, what lies where, and chunks that want fewer copies.

Inside the caller's transaction. What the numbers mean, and who is believed, is `p2pfs.coordinator`'s; `placed` and the
end of `frugal` rows are kept by triggers (`schema_usefulness`).
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from p2pfs.meta.chunks_index import COUNTS
from p2pfs.meta.sql import number_list
from p2pfs.placement.usefulness import Counts
from p2pfs.types import ChunkId, NodeId, PeerNumber, VolumeId


@dataclass(frozen=True, slots=True, order=True)
class ReadKey:
    """One end's report of a day; see the table read_report."""

    day: int
    server: NodeId
    client: NodeId
    by_client: bool
    run: int


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


def expire(connection: sqlite3.Connection, *, windows_before: int, reports_before: int) -> None:
    """Forget days that count no more."""
    connection.execute("DELETE FROM usefulness WHERE day < ?", (windows_before,))
    connection.execute("DELETE FROM read_report WHERE day < ?", (reports_before,))


# ---- what lies where ------------------------------------------------------------------------------------------------


def stock(connection: sqlite3.Connection, owner: str) -> tuple[int, int]:
    """(bytes of the owner's copies on others' peers, bytes of others' copies on the owner's). What nothing names any
    more counts until it is purged: until then it takes up room."""
    rows = (
        " FROM placed r JOIN volume v ON v.id = r.volume JOIN peer q ON q.number = r.peer JOIN node n ON n.id = q.node"
        f" WHERE {COUNTS} AND "
    )
    placed = connection.execute(
        f"SELECT coalesce(sum(r.bytes), 0){rows}v.owner = ?1 AND n.owner != ?1", (owner,)
    ).fetchone()[0]
    held = connection.execute(
        f"SELECT coalesce(sum(r.bytes), 0){rows}n.owner = ?1 AND v.owner != ?1", (owner,)
    ).fetchone()[0]
    return int(placed), int(held)


def stocks(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """The same of every owner that has any. A scan of `placed`: call it through `Database.scan`."""
    found: dict[str, tuple[int, int]] = {}
    for placer, holder, size in connection.execute(
        "SELECT v.owner, n.owner, sum(r.bytes) FROM placed r JOIN volume v ON v.id = r.volume"
        f" JOIN peer q ON q.number = r.peer JOIN node n ON n.id = q.node WHERE v.owner != n.owner AND {COUNTS}"
        " GROUP BY v.owner, n.owner"
    ):
        placed, held = found.get(placer, (0, 0))
        found[placer] = placed + size, held
        placed, held = found.get(holder, (0, 0))
        found[holder] = placed, held + size
    return found


def newcomers(
    connection: sqlite3.Connection, volume: VolumeId, *, chunk: ChunkId, peers: Iterable[int]
) -> list[PeerNumber]:
    """Of these peers, those that would take a chunk in for the first time, as far as is known: neither has the index a
    copy there, nor is one remembered that was lost or deleted."""
    known = {
        row[0]
        for row in connection.execute(
            "SELECT r.peer FROM chunk c JOIN replica r ON r.chunk = c.number WHERE c.volume = ?1 AND c.id = ?2",
            (volume, chunk),
        )
    }
    return [
        PeerNumber(peer)
        for peer in dict.fromkeys(peers)
        if peer not in known
        and not connection.execute(
            "SELECT 1 FROM void_copy WHERE peer = ? AND volume = ? AND id = ?", (peer, volume, chunk)
        ).fetchone()
    ]


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
