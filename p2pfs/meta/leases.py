"""Until when inodes are kept: setting that, what is about to be over, and letting go what is. Inside the caller's
transaction; when and whether to let go is decided by `p2pfs.coordinator`.
"""

import sqlite3
from typing import Final

from p2pfs.errors import Misuse
from p2pfs.meta import inodes, questions
from p2pfs.meta.work import Work
from p2pfs.types import VolumeId
from p2pfs.wire.leases import ReadExpiring, ReadNames, SetLease
from p2pfs.wire.namespace import Attributes, Entry, ExpiringPage, Named

MAX_EXPIRES_S: Final = 1 << 62
MOST_NAMES: Final = 100
MAX_PAGE: Final = 500


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
        " ORDER BY parent, dentry LIMIT ?",
        (volume, question.inode, MOST_NAMES),
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
