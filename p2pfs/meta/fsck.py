"""What `p2pfs fsck` sees of a volume's rows that no mount sees, and counting again what does not agree with them.

Nothing here is believed of a client: a mend derives what it writes from other rows, in the transaction that writes it.
It is a batch of its own (`engine.check`), since of what others in the batch did those rows would not all tell yet.
Pages look at a bounded number of rows each, whatever they find.
"""

import sqlite3
from typing import Final

from p2pfs.errors import Conflict, Exists, Invalid, Loop, Misuse, NotFound, TooLarge
from p2pfs.meta import inodes, trash, tree
from p2pfs.meta.inodes import InodeRow
from p2pfs.meta.work import Work
from p2pfs.types import ROOT_INODE, Kind, VolumeId, head_limit
from p2pfs.wire.fsck import (
    MOST_NAMES,
    OPEN,
    TRASHED,
    Adopt,
    Dangling,
    DanglingPage,
    DropDangling,
    InodeFacts,
    InodePage,
    ReadDangling,
    ReadInodes,
    Recount,
    Reseal,
)

MAX_PAGE: Final = 1000
PAGE_BYTES: Final = 1 << 20
"""Heads beyond which a page of inodes ends early."""
PAGE_NAMES: Final = 20_000
"""So do names that were counted."""
SCANNED: Final = 5000
"""Dentries one question looks at."""
_MOST_SEALED_NAME: Final = 512

_IN_DIRECTORY: Final = (
    "EXISTS (SELECT 1 FROM inode p WHERE p.volume = d.volume AND p.inode = d.parent"
    f" AND p.kind = {int(Kind.DIRECTORY)})"
)
"""SQL, of `dentry d`: a name in a directory that is not there is none."""

_FACTS: Final = (
    "SELECT i.inode, i.kind, i.links, i.size, i.parent,"
    " (SELECT count(*) FROM (SELECT 1 FROM dentry d INDEXED BY dentry_inode"
    f" WHERE d.volume = i.volume AND d.inode = i.inode AND {_IN_DIRECTORY} LIMIT {MOST_NAMES})),"
    " (SELECT min(d.parent) FROM dentry d INDEXED BY dentry_inode"
    f" WHERE d.volume = i.volume AND d.inode = i.inode AND {_IN_DIRECTORY}),"
    f" {TRASHED} * EXISTS (SELECT 1 FROM trash t WHERE t.volume = i.volume AND t.inode = i.inode)"
    f" + {OPEN} * EXISTS (SELECT 1 FROM open_inode o WHERE o.volume = i.volume AND o.inode = i.inode),"
    f" (i.inline OR i.kind = {int(Kind.SYMLINK)}) AND NOT EXISTS"
    " (SELECT 1 FROM inline_data x WHERE x.volume = i.volume AND x.inode = i.inode), i.head"
    " FROM inode i WHERE i.volume = ? AND i.inode > ? ORDER BY i.inode LIMIT ?"
)


def inode_page(connection: sqlite3.Connection, volume: VolumeId, question: ReadInodes) -> InodePage:
    """See ReadInodes."""
    if question.limit < 1:
        raise Misuse("a page has at least one inode")
    limit = min(question.limit, MAX_PAGE)
    cursor = connection.execute(_FACTS, (volume, question.after, limit + 1))
    rows: list[InodeFacts] = []
    room, names_left = PAGE_BYTES, PAGE_NAMES
    for inode, kind, links, size, parent, names, named_in, kept, lacks_data, head in cursor:
        if len(rows) == limit or room < 0 or names_left < 0:
            cursor.close()
            return InodePage(rows, False)
        room, names_left = room - len(head), names_left - names
        rows.append(
            InodeFacts(inode, kind, links, size, parent, names, named_in or 0, kept, bool(lacks_data), bytes(head))
        )
    return InodePage(rows, True)


def dangling(connection: sqlite3.Connection, volume: VolumeId, question: ReadDangling) -> DanglingPage:
    """See ReadDangling."""
    parent, dentry = question.after
    seen, last, found = 0, (0, 0), []
    for row in connection.execute(
        f"SELECT d.parent, d.dentry, d.inode, d.name, i.inode IS NOT NULL, {_IN_DIRECTORY} FROM dentry d"
        " LEFT JOIN inode i ON i.volume = d.volume AND i.inode = d.inode"
        " WHERE d.volume = ? AND (d.parent, d.dentry) > (?, ?) ORDER BY d.parent, d.dentry LIMIT ?",
        (volume, parent, dentry, SCANNED),
    ):
        seen, last = seen + 1, (row[0], row[1])
        if not (row[4] and row[5]):
            found.append(Dangling(row[0], row[1], row[2], bytes(row[3]), bool(row[4])))
    return DanglingPage(found, last if seen == SCANNED else (0, 0))


# ---- mending --------------------------------------------------------------------------------------------------------


def recount(work: Work, operation: Recount) -> None:
    """See Recount. What nothing leads to stays as it is: it is to be adopted, or goes when it is let go."""
    if not operation.inode:
        _recount_volume(work)
        return
    row = work.kept(operation.inode)
    place = _place(work, row)
    if place is None:
        return
    if trash.take(work.connection, work.volume, row.inode) is not None:  # or it would be purged in spite of its name
        work.unsettle(row)
    names, parent = place
    links = 2 + _subdirectories(work, row.inode) if row.is_directory else names
    if (row.links, row.parent) != (links, parent):
        row.links, row.parent = links, parent
        row.changed(0)


def _place(work: Work, row: InodeRow) -> tuple[int, int] | None:
    """(how many names lead to it, what its `parent` should be); None: no name does."""
    if row.inode == ROOT_INODE:
        return 1, ROOT_INODE
    names, parent = work.connection.execute(
        f"SELECT count(*), min(d.parent) FROM dentry d INDEXED BY dentry_inode"
        f" WHERE d.volume = ? AND d.inode = ? AND {_IN_DIRECTORY}",
        (work.volume, row.inode),
    ).fetchone()
    if not names:
        return None
    return names, parent if row.is_directory else 0


def _subdirectories(work: Work, directory: int) -> int:
    (count,) = work.connection.execute(
        "SELECT count(*) FROM dentry d JOIN inode i ON i.volume = d.volume AND i.inode = d.inode"
        " WHERE d.volume = ? AND d.parent = ? AND i.kind = ?",
        (work.volume, directory, int(Kind.DIRECTORY)),
    ).fetchone()
    return int(count)


def _recount_volume(work: Work) -> None:
    """One walk over the volume's inodes: a third of a second a million."""
    work.connection.execute(
        "UPDATE volume SET (trash_inodes, trash_bytes) = (SELECT count(*), coalesce(sum(i.size), 0) FROM trash t"
        " JOIN inode i ON i.volume = t.volume AND i.inode = t.inode WHERE t.volume = ?1 AND NOT EXISTS"
        " (SELECT 1 FROM open_inode o WHERE o.volume = t.volume AND o.inode = t.inode)) WHERE id = ?1",
        (work.volume,),
    )
    work.connection.execute(
        "UPDATE volume SET (inodes, bytes) = (SELECT count(*) - volume.trash_inodes,"
        " coalesce(sum(size), 0) - volume.trash_bytes FROM inode WHERE volume = ?1) WHERE id = ?1",
        (work.volume,),
    )


def adopt(work: Work, operation: Adopt) -> None:
    """See Adopt."""
    if not operation.name or len(operation.name) > _MOST_SEALED_NAME or len(operation.dentry_tag) > 64:
        raise Misuse("this is no sealed name")
    parent = work.directory(operation.parent)
    row = work.kept(operation.inode)
    if row.gone:
        raise NotFound("there is no such inode")
    is_kept = (
        row.inode == ROOT_INODE
        or _place(work, row) is not None
        or inodes.is_trashed(work.connection, work.volume, row.inode)
        or inodes.is_open(work.connection, work.volume, row.inode)
    )
    if is_kept:
        raise Conflict("something keeps this inode")
    if row.is_directory and tree.is_below(work, parent, row.inode):
        raise Loop("a directory cannot be adopted by itself, or by one below it")
    work.connection.execute("DELETE FROM dentry WHERE volume = ? AND inode = ?", (work.volume, row.inode))
    if not work.add_name(
        parent.inode, operation.name, dentry=operation.dentry, inode=row.inode, tag=operation.dentry_tag
    ):
        raise Exists("the name is taken")
    row.links = 2 + _subdirectories(work, row.inode) if row.is_directory else 1
    row.parent = parent.inode if row.is_directory else 0
    row.changed(operation.time_ns)
    parent.entries_changed(operation.time_ns)
    if row.is_directory:
        parent.links += 1


def reseal(work: Work, operation: Reseal) -> None:
    """See Reseal."""
    row = work.inode(operation.inode)
    if row.kind == Kind.FILE:
        raise Invalid("a file's head comes with its content")
    if len(operation.head) > head_limit(0):
        raise TooLarge("this is more head than an inode without content has")
    row.head = operation.head
    row.changed(0)


def drop_dangling(work: Work, operation: DropDangling) -> None:
    """See DropDangling."""
    row = work.connection.execute(
        f"SELECT d.inode, {_IN_DIRECTORY} FROM dentry d WHERE d.volume = ? AND d.parent = ? AND d.dentry = ?",
        (work.volume, operation.parent, operation.dentry),
    ).fetchone()
    if row is None:
        return
    inode = inodes.load(work.connection, work.volume, row[0])
    if inode is not None and (row[1] or _place(work, inode) is None):
        raise Conflict("the name leads to an inode, which has no other")
    work.drop_name(operation.parent, operation.dentry)
    if inodes.load(work.connection, work.volume, operation.parent) is not None:
        work.kept(operation.parent).changed(0)
