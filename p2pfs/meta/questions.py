"""Answers to what a mount asks, from the committed state the connection sees."""

import sqlite3
from typing import Final

from p2pfs.errors import Misuse, NotDirectory, NotFound, TooLarge
from p2pfs.meta import chunks_index, cuts, inodes
from p2pfs.meta import room as rooms
from p2pfs.types import INDICES_PER_RANGE, MIB, Kind, VolumeId
from p2pfs.wire.namespace import (
    Attributes,
    ChunkPlace,
    DirectoryPage,
    Entry,
    ExtentPage,
    ExtentRow,
    GetAttributes,
    Locate,
    Lookup,
    ReadDirectory,
    ReadExtents,
    Space,
)

MAX_PAGE: Final = 1000
"""Most entries of one directory page, whatever was asked for."""
PAGE_BYTES: Final = MIB
"""Inline data, heads and targets beyond which a directory page ends early."""
MAX_EXTENTS_BYTES: Final = 16 * MIB
"""Most bytes of extents in one page: a mount that compacts stays far below."""
_ROW_BYTES: Final = 32  # an extent or place beside what is counted
MAX_LOCATED: Final = 1000


def lookup(connection: sqlite3.Connection, volume: VolumeId, question: Lookup) -> Entry:
    """See Namespace.lookup."""
    row = connection.execute(
        f"SELECT d.dentry, d.name, d.tag, {inodes.FIELDS} FROM dentry d"
        " JOIN inode i ON i.volume = d.volume AND i.inode = d.inode"
        " WHERE d.volume = ? AND d.parent = ? AND d.name = ?",
        (volume, question.parent, question.name),
    ).fetchone()
    if row is None:
        _require_directory(connection, volume, question.parent)
        raise NotFound("there is no such name")
    return Entry(row[0], row[1], row[2], Attributes(*row[3:]))


def attributes(connection: sqlite3.Connection, volume: VolumeId, question: GetAttributes) -> Attributes:
    """See Namespace.attributes."""
    return attributes_of(connection, volume, question.inode)


def directory(connection: sqlite3.Connection, volume: VolumeId, question: ReadDirectory) -> DirectoryPage:
    """See Namespace.directory."""
    if question.limit < 1:
        raise Misuse("a directory page has at least one entry")
    limit = min(question.limit, MAX_PAGE)
    cursor = connection.execute(
        f"SELECT d.dentry, d.name, d.tag, {inodes.FIELDS if question.content else inodes.FIELDS_UNTOLD} FROM dentry d"
        " JOIN inode i ON i.volume = d.volume AND i.inode = d.inode"
        " WHERE d.volume = ? AND d.parent = ? AND d.dentry > ? ORDER BY d.dentry LIMIT ?",
        (volume, question.inode, question.after, limit + 1),
    )
    entries: list[Entry] = []
    room = PAGE_BYTES
    for row in cursor:
        if len(entries) == limit or room < 0:
            cursor.close()
            return DirectoryPage(entries, False)
        attributes = Attributes(*row[3:])
        room -= inodes.weight(attributes)
        entries.append(Entry(row[0], row[1], row[2], attributes))
    if not entries:
        _require_directory(connection, volume, question.inode)
    return DirectoryPage(entries, True)


def extents(connection: sqlite3.Connection, volume: VolumeId, question: ReadExtents) -> ExtentPage:
    """See Namespace.extents."""
    of = attributes_of(connection, volume, question.inode)
    first = question.range * INDICES_PER_RANGE
    hidden = cuts.of_inode(connection, volume, question.inode)
    rows = connection.execute(
        f"SELECT e.mib, e.seq, c.id, e.sealed, c.size, {chunks_index.HOLDERS}"
        " FROM extent e LEFT JOIN chunk c ON c.number = e.chunk"
        " WHERE e.volume = ? AND e.inode = ? AND e.mib >= ? AND e.mib < ? ORDER BY e.mib, e.seq",
        (volume, question.inode, first, first + INDICES_PER_RANGE),
    )
    found: list[ExtentRow] = []
    places: dict[bytes, ChunkPlace] = {}
    room = MAX_EXTENTS_BYTES
    for mib, seq, chunk, sealed, size, holders in rows:
        if hidden.hide(mib, seq):
            continue
        room -= len(sealed) + len(chunk or b"") + _ROW_BYTES
        if room < 0:
            rows.close()
            raise TooLarge("this part of the file has more extents than one answer can hold")
        found.append(ExtentRow(mib, seq, chunk, sealed))
        if chunk is not None and chunk not in places:
            places[chunk] = ChunkPlace(chunk, size, chunks_index.parse_holders(holders))
    return ExtentPage(of, found, list(places.values()))


def locate(connection: sqlite3.Connection, volume: VolumeId, question: Locate) -> list[ChunkPlace]:
    """See Namespace.locate."""
    if len(question.chunks) > MAX_LOCATED:
        raise Misuse(f"at most {MAX_LOCATED} chunks can be located at once")
    if any(len(chunk) != chunks_index.CHUNK_ID_BYTES for chunk in question.chunks):
        raise Misuse("this is no chunk id")
    return chunks_index.locate(connection, volume, chunks=question.chunks)


def space(connection: sqlite3.Connection, volume: VolumeId, room: tuple[int, int] | None) -> Space:
    """See Namespace.space. `room` is (total, free) where the caller knows better than the peers' rows."""
    row = connection.execute(
        "SELECT inodes, trash_bytes, bytes, quota_bytes, quota_files FROM volume WHERE id = ?", (volume,)
    ).fetchone()
    if row is None:
        raise NotFound("there is no such volume")
    total, free = rooms.room(connection) if room is None else room
    return Space(total, free, *row)


def attributes_of(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> Attributes:
    """An inode's attributes. Raises NotFound."""
    row = connection.execute(
        f"SELECT {inodes.FIELDS} FROM inode i WHERE i.volume = ? AND i.inode = ?", (volume, inode)
    ).fetchone()
    found = None if row is None else Attributes(*row)
    if found is None or (found.links == 0 and not inodes.is_open(connection, volume, inode)):
        raise NotFound("there is no such inode")
    return found


def _require_directory(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> None:
    row = connection.execute("SELECT kind, links FROM inode WHERE volume = ? AND inode = ?", (volume, inode)).fetchone()
    if row is None or (row[1] == 0 and not inodes.is_open(connection, volume, inode)):
        raise NotFound("there is no such directory")
    if row[0] != Kind.DIRECTORY:
        raise NotDirectory("this is not a directory")
