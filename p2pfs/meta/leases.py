"""Until when inodes are kept: setting that, what is about to be over, and letting go what is. Inside the caller's
transaction; when and whether to let go is decided by `p2pfs.coordinator`.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Misuse, NotEmpty
from p2pfs.meta import delegations, inodes, questions, tree
from p2pfs.meta.events import Publication
from p2pfs.meta.work import Rules, Work
from p2pfs.types import ROOT_INODE, Kind, VolumeId
from p2pfs.wire.leases import ReadExpiring, ReadNames, Reason, SetLease
from p2pfs.wire.namespace import Attributes, Entry, ExpiringPage, Named, Unlink

MAX_HEADS_BYTES: Final = 8 << 20
"""Sealed heads of what expires in one transaction, which has all of them in memory."""
MAX_EXPIRES_S: Final = 1 << 62
MOST_NAMES: Final = 100
MAX_PAGE: Final = 500
MOST_AT_ONCE: Final = 1000
"""Names that are taken in one transaction; an inode loses the others when its turn comes again."""


def set_lease(work: Work, operation: SetLease) -> None:
    """Until when it is kept."""
    if not 0 <= operation.expires_s <= MAX_EXPIRES_S:
        raise Misuse("no lease ends then")
    work.set_lease(work.inode(operation.inode), operation.expires_s)


def names(connection: sqlite3.Connection, volume: VolumeId, question: ReadNames) -> list[Named]:
    """See Namespace.names."""
    of = questions.attributes_of(connection, volume, question.inode)
    rows = connection.execute(
        "SELECT parent, dentry, name, tag FROM dentry INDEXED BY dentry_inode WHERE volume = ? AND inode = ?"
        " AND (parent, dentry) > (?, ?) ORDER BY parent, dentry LIMIT ?",
        (volume, question.inode, *question.after, MOST_NAMES),
    )
    return [Named(parent, Entry(dentry, name, tag, of)) for parent, dentry, name, tag in rows]


def expiring(connection: sqlite3.Connection, volume: VolumeId, question: ReadExpiring) -> ExpiringPage:
    """See Namespace.expiring."""
    if question.limit < 1:
        raise Misuse("a page has at least one row")
    limit = min(question.limit, MAX_PAGE)
    rows = connection.execute(
        f"SELECT {inodes.FIELDS} FROM inode i INDEXED BY inode_expiry"
        " WHERE i.volume = ? AND i.expires_s > 0 AND i.links > 0 AND i.expires_s < ?"
        " AND (i.expires_s, i.inode) > (?, ?) ORDER BY i.expires_s, i.inode LIMIT ?",
        (volume, question.before_s, *question.after, limit + 1),
    ).fetchall()
    found = [_named(connection, volume, Attributes(*row)) for row in rows[:limit]]
    return ExpiringPage(found, len(rows) <= limit)


def _named(connection: sqlite3.Connection, volume: VolumeId, of: Attributes) -> Named:
    """With one of its names; the root with none."""
    row = connection.execute(
        "SELECT parent, dentry, name, tag FROM dentry INDEXED BY dentry_inode WHERE volume = ? AND inode = ? LIMIT 1",
        (volume, of.inode),
    ).fetchone()
    parent, dentry, name, tag = row or (of.inode, 0, b"", b"")
    return Named(parent, Entry(dentry, name, tag, of))


@dataclass(frozen=True, slots=True)
class Expected:
    """How many of a volume's inodes expire soon, and when its root does; 0: never."""

    count: int
    root_s: int


def expected(connection: sqlite3.Connection, *, before_s: int) -> dict[VolumeId, Expected]:
    """Of every volume, what expires before then. A scan of that."""
    rows = connection.execute(
        "SELECT v.id, (SELECT count(*) FROM inode i INDEXED BY inode_expiry WHERE i.volume = v.id AND i.expires_s > 0"
        " AND i.expires_s < ?1 AND i.links > 0 AND i.inode != ?2),"
        " (SELECT expires_s FROM inode r WHERE r.volume = v.id AND r.inode = ?2) FROM volume v",
        (before_s, ROOT_INODE),
    )
    return {VolumeId(volume): Expected(count, root_s) for volume, count, root_s in rows}


# ---- letting go -----------------------------------------------------------------------------------------------------


def overdue_volumes(connection: sqlite3.Connection, *, now_s: float) -> list[VolumeId]:
    """Volumes that may have something to let go."""
    rows = connection.execute(
        "SELECT v.id FROM volume v WHERE v.deleted_s IS NULL AND EXISTS"
        " (SELECT 1 FROM inode i INDEXED BY inode_expiry WHERE i.volume = v.id"
        " AND i.expires_s > 0 AND i.expires_s <= ? AND i.links > 0 AND i.inode != ?)",
        (now_s, ROOT_INODE),
    )
    return [VolumeId(row[0]) for row in rows]


def overdue(connection: sqlite3.Connection, volume: VolumeId, *, now_s: float, limit: int) -> list[int]:
    """Inodes whose lease is over, at most `limit`: directories that something is in live on, and the root. A scan."""
    rows = connection.execute(
        "SELECT i.inode FROM inode i INDEXED BY inode_expiry WHERE i.volume = ?1 AND i.expires_s > 0"
        " AND i.expires_s <= ?2 AND i.links > 0 AND i.inode != ?3 AND (i.kind != ?4 OR NOT EXISTS"
        " (SELECT 1 FROM dentry d WHERE d.volume = ?1 AND d.parent = i.inode)) ORDER BY i.expires_s LIMIT ?5",
        (volume, now_s, ROOT_INODE, int(Kind.DIRECTORY), limit),
    )
    return [row[0] for row in rows]


def expire(
    connection: sqlite3.Connection, volume: VolumeId, inodes_: Iterable[int], *, rules: Rules, fences: int
) -> Publication:
    """Take all names of what is still overdue, with the parents' times as unlink leaves them; it goes to the trash.
    Of inodes with very large heads, or very many names, only the first ones.

    `fences`: the epoch of a delegation whose time has run out.

    Raises:
        Recalling: A session holds the volume's delegation; nothing is changed.
    """
    delegations.free(connection, volume, fences=fences)
    (trash_s,) = connection.execute("SELECT trash_expired_s FROM volume WHERE id = ?", (volume,)).fetchone()
    work = Work(connection, volume=volume, session=0, next_id=0, rules=rules, echoes=False, trash_s=trash_s)
    time_ns, heads = int(rules.now_s * 1e9), 0
    operations: list[Unlink] = []
    for inode in inodes_:
        found = _overdue(work, inode)
        if found is None or heads > MAX_HEADS_BYTES or len(operations) >= MOST_AT_ONCE:
            continue
        kind, head = found
        heads += head
        for operation in _removals(work, inode, kind, time_ns, limit=MOST_AT_ONCE - len(operations)):
            try:
                tree.unlink(work, operation, reason=Reason.EXPIRED)
            except NotEmpty:  # something was made in it meanwhile
                continue
            operations.append(operation)
    applied = work.finish()
    keepers = [session for _, session in work.others] if work.held else []
    return Publication(volume, operations, applied, work.held, keepers)


def _overdue(work: Work, inode: int) -> tuple[int, int] | None:
    """(kind, bytes of its head); None if it was removed or extended meanwhile."""
    row: tuple[int, int] | None = work.connection.execute(
        "SELECT kind, length(head) FROM inode"
        " WHERE volume = ? AND inode = ? AND links > 0 AND expires_s > 0 AND expires_s <= ?",
        (work.volume, inode, work.rules.now_s),
    ).fetchone()
    return row


def _removals(work: Work, inode: int, kind: int, time_ns: int, *, limit: int) -> list[Unlink]:
    rows = work.connection.execute(
        "SELECT parent, name FROM dentry INDEXED BY dentry_inode WHERE volume = ? AND inode = ? LIMIT ?",
        (work.volume, inode, limit),
    )
    return [Unlink(parent, name, inode, kind == Kind.DIRECTORY, time_ns) for parent, name in rows]
