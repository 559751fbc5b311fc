"""What the entries of a directory take: their sizes and the chunks they are made of. Questions of `p2pfs du`."""

import sqlite3
from typing import Final

from p2pfs.errors import NotDirectory, NotFound
from p2pfs.meta import chunks_index, cuts
from p2pfs.types import Kind, VolumeId
from p2pfs.wire.usage import ChunkUsage, FileUsage, ReadFileUsage, ReadUsage, UsagePage

MAX_PAGE: Final = 500
"""Entries of one answer."""
MAX_EXTENTS: Final = 5000
"""Extents after which an answer ends: some 30 ms."""

_INODE: Final = (
    "i.kind, i.links, i.size, coalesce((SELECT length(x.data) FROM inline_data x"
    " WHERE i.inline AND x.volume = i.volume AND x.inode = i.inode), 0)"
)
_COPIES: Final = f"(SELECT count(*) FROM replica r WHERE r.chunk = c.number AND {chunks_index.COUNTS})"


def directory(connection: sqlite3.Connection, volume: VolumeId, question: ReadUsage) -> UsagePage:
    """See ReadUsage."""
    entries = connection.execute(
        f"SELECT d.dentry, i.inode, {_INODE} FROM dentry d JOIN inode i ON i.volume = d.volume AND i.inode = d.inode"
        " WHERE d.volume = ? AND d.parent = ? AND d.dentry > ? ORDER BY d.dentry LIMIT ?",
        (volume, question.directory, question.after, MAX_PAGE + 1),
    ).fetchall()
    if not entries:
        _require_directory(connection, volume, question.directory)
    rows: list[FileUsage] = []
    after, room = question.after, MAX_EXTENTS
    for dentry, inode, *fields in entries:
        if len(rows) == MAX_PAGE or room <= 0:
            return UsagePage(rows, after, False)
        chunks, next_mib = _chunks(connection, volume, inode, fields, room=room)
        room -= len(chunks)
        kind, links, size, inline = fields
        rows.append(FileUsage(inode, kind, links, size, inline, chunks, next_mib))
        after = dentry
    return UsagePage(rows, after, True)


def file(connection: sqlite3.Connection, volume: VolumeId, question: ReadFileUsage) -> FileUsage:
    """See ReadFileUsage."""
    fields = connection.execute(
        f"SELECT {_INODE} FROM inode i WHERE i.volume = ? AND i.inode = ?", (volume, question.inode)
    ).fetchone()
    if fields is None:
        raise NotFound("there is no such inode")
    chunks, next_mib = _chunks(connection, volume, question.inode, fields, room=MAX_EXTENTS, first=question.from_mib)
    kind, links, size, inline = fields
    return FileUsage(question.inode, kind, links, size, inline, chunks, next_mib)


def _chunks(
    connection: sqlite3.Connection, volume: VolumeId, inode: int, fields: list[int], *, room: int, first: int = 0
) -> tuple[list[ChunkUsage], int]:
    """(the chunks of the next `room` extents or so, where the others begin)."""
    if fields[0] != Kind.FILE or not fields[2]:
        return [], -1
    hidden = cuts.of_inode(connection, volume, inode)
    found: dict[int, ChunkUsage] = {}
    seen, at = 0, first
    cursor = connection.execute(
        f"SELECT e.mib, e.seq, c.number, c.size, {_COPIES} FROM extent e LEFT JOIN chunk c ON c.number = e.chunk"
        " WHERE e.volume = ? AND e.inode = ? AND e.mib >= ? ORDER BY e.mib, e.seq",
        (volume, inode, first),
    )
    for mib, seq, number, size, copies in cursor:
        if seen >= room and mib != at:
            cursor.close()
            return list(found.values()), mib
        seen, at = seen + 1, mib
        if number is not None and not hidden.hide(mib, seq):
            found[number] = ChunkUsage(number, size, copies)
    return list(found.values()), -1


def _require_directory(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> None:
    row = connection.execute("SELECT kind FROM inode WHERE volume = ? AND inode = ?", (volume, inode)).fetchone()
    if row is None:
        raise NotFound("there is no such directory")
    if row[0] != Kind.DIRECTORY:
        raise NotDirectory("this is not a directory")
