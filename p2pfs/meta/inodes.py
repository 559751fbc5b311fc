"""Inode rows: reading and writing one, making Attributes of it, and removing it. No rules about trees or contents."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Misuse
from p2pfs.meta import keywords
from p2pfs.meta.schema import EVERYTHING
from p2pfs.types import InodeId, Kind, VolumeId
from p2pfs.wire.namespace import Attributes

_COLUMNS: Final = (
    "inode, kind, mode, uid, gid, rdev, links, size, change, attr_change, atime_ns, mtime_ns, ctime_ns, parent, inline,"
    " head, expires_s"
)
_ATTRIBUTES: Final = (
    "i.inode, i.kind, i.mode, i.uid, i.gid, i.rdev, i.links, i.size, i.change, i.attr_change, i.atime_ns, i.mtime_ns,"
    " i.ctime_ns, i.head"
)
_DATA: Final = "(SELECT x.data FROM inline_data x WHERE x.volume = i.volume AND x.inode = i.inode)"
_TARGET: Final = f"CASE WHEN i.kind = {int(Kind.SYMLINK)} THEN {_DATA} END"

_INLINE: Final = f"CASE WHEN i.inline AND i.kind = {int(Kind.FILE)} THEN"

FIELDS: Final = f"{_ATTRIBUTES}, {_INLINE} {_DATA} END, {_TARGET}, i.expires_s"
"""SQL for the fields of Attributes in order, from `inode i`."""
FIELDS_UNTOLD: Final = f"{_ATTRIBUTES}, {_INLINE} x'' END, {_TARGET}, i.expires_s"
"""So too, with inline data UNTOLD."""


@dataclass(slots=True)
class InodeRow:
    """One row of `inode`, columns in order, and what is to become of it at the end of the batch."""

    inode: int
    kind: int
    mode: int
    uid: int
    gid: int
    rdev: int
    links: int
    size: int
    change: int
    attr_change: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    parent: int
    inline: int
    head: bytes
    expires_s: int = 0
    fresh: bool = False  # made in this batch: to be inserted
    dirty: bool = False  # to be written
    gone: bool = False  # to be removed, or kept by the trash alone
    trashed: bool | None = None  # whether it is in the trash; None: not known
    buried: bool = False  # losing its last name is all that became of it

    @property
    def is_directory(self) -> bool:
        """Whether it can have entries."""
        return self.kind == Kind.DIRECTORY

    def changed(self, time_ns: int) -> None:
        """Something outside its head changes."""
        self.attr_change += 1
        self.dirty = True
        if time_ns:
            self.ctime_ns = time_ns

    def entries_changed(self, time_ns: int) -> None:
        """A directory gains, loses or re-points a name."""
        self.mtime_ns = time_ns
        self.changed(time_ns)


def load(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> InodeRow | None:
    """The row, if there is one."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM inode WHERE volume = ? AND inode = ?", (volume, inode)).fetchone()
    return None if row is None else InodeRow(*row)


def insert(connection: sqlite3.Connection, volume: VolumeId, row: InodeRow) -> None:
    """Write a new row. Raises Misuse when the number is in use."""
    try:
        connection.execute(
            "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                volume,
                row.inode,
                row.kind,
                row.mode,
                row.uid,
                row.gid,
                row.rdev,
                row.links,
                row.size,
                row.change,
                row.attr_change,
                row.atime_ns,
                row.mtime_ns,
                row.ctime_ns,
                row.parent,
                row.inline,
                row.head,
                row.expires_s,
            ),
        )
    except sqlite3.IntegrityError:
        raise Misuse(f"the inode number {row.inode} is in use") from None


def update(connection: sqlite3.Connection, volume: VolumeId, row: InodeRow) -> None:
    """Write what can change of a row."""
    connection.execute(
        "UPDATE inode SET mode = ?, uid = ?, gid = ?, links = ?, size = ?, change = ?, attr_change = ?, atime_ns = ?,"
        " mtime_ns = ?, ctime_ns = ?, parent = ?, inline = ?, head = ? WHERE volume = ? AND inode = ?",
        (
            row.mode,
            row.uid,
            row.gid,
            row.links,
            row.size,
            row.change,
            row.attr_change,
            row.atime_ns,
            row.mtime_ns,
            row.ctime_ns,
            row.parent,
            row.inline,
            row.head,
            volume,
            row.inode,
        ),
    )


def bury(connection: sqlite3.Connection, volume: VolumeId, row: InodeRow) -> None:
    """Write what losing its last name changes of a row."""
    connection.execute(
        "UPDATE inode SET links = 0, attr_change = ?, ctime_ns = ? WHERE volume = ? AND inode = ?",
        (row.attr_change, row.ctime_ns, volume, row.inode),
    )


def attributes(connection: sqlite3.Connection, volume: VolumeId, row: InodeRow, *, content: bool = True) -> Attributes:
    """What a mount is told of a row; without `content` neither inline data nor target."""
    data = get_data(connection, volume, row.inode) if row.inline and content else None
    return Attributes(
        row.inode,
        row.kind,
        row.mode,
        row.uid,
        row.gid,
        row.rdev,
        row.links,
        row.size,
        row.change,
        row.attr_change,
        row.atime_ns,
        row.mtime_ns,
        row.ctime_ns,
        row.head,
        data if row.kind == Kind.FILE else None,
        data if row.kind == Kind.SYMLINK else None,
        row.expires_s,
    )


def weight(attributes: Attributes) -> int:
    """What an inode's attributes weigh in an answer: the bytes that have no fixed number."""
    return len(attributes.head) + len(attributes.inline or b"") + len(attributes.target or b"")


def get_data(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> bytes | None:
    """An inode's sealed inline content or target."""
    row = connection.execute("SELECT data FROM inline_data WHERE volume = ? AND inode = ?", (volume, inode)).fetchone()
    return None if row is None else row[0]


def put_data(connection: sqlite3.Connection, volume: VolumeId, inode: int, *, data: bytes) -> None:
    """Set it."""
    connection.execute(
        "INSERT INTO inline_data VALUES (?, ?, ?) ON CONFLICT (volume, inode) DO UPDATE SET data = excluded.data",
        (volume, inode, data),
    )


def data_length(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> int:
    """Bytes of it; 0 if there is none."""
    row = connection.execute(
        "SELECT length(data) FROM inline_data WHERE volume = ? AND inode = ?", (volume, inode)
    ).fetchone()
    return 0 if row is None else int(row[0])


def drop_data(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> None:
    """Remove it."""
    connection.execute("DELETE FROM inline_data WHERE volume = ? AND inode = ?", (volume, inode))


def is_open(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> bool:
    """Whether any session holds it open."""
    row = connection.execute("SELECT 1 FROM open_inode WHERE volume = ? AND inode = ? LIMIT 1", (volume, inode))
    return row.fetchone() is not None


def remove(connection: sqlite3.Connection, volume: VolumeId, inode: int, *, inline: bool) -> None:
    """Delete an inode's row, label and inline data; its extents and extended attributes are left to the reaper,
    whatever their number."""
    connection.execute("DELETE FROM inode WHERE volume = ? AND inode = ?", (volume, inode))
    if inline:
        drop_data(connection, volume, inode)
    keywords.forget(connection, volume, inode)
    had_xattrs = connection.execute("DELETE FROM xattr_sum WHERE volume = ? AND inode = ?", (volume, inode)).rowcount
    has_extents = connection.execute(
        "SELECT 1 FROM extent WHERE volume = ? AND inode = ? LIMIT 1", (volume, inode)
    ).fetchone()
    if had_xattrs or has_extents is not None:
        connection.execute("DELETE FROM cut WHERE volume = ? AND inode = ?", (volume, inode))
        connection.execute("INSERT INTO cut VALUES (?, ?, 0, ?)", (volume, inode, EVERYTHING))


def count(connection: sqlite3.Connection, volume: VolumeId, *, inodes: int, bytes_: int) -> None:
    """Add to the volume's counters."""
    if inodes or bytes_:
        connection.execute(
            "UPDATE volume SET inodes = inodes + ?, bytes = bytes + ? WHERE id = ?", (inodes, bytes_, volume)
        )


def count_trash(connection: sqlite3.Connection, volume: VolumeId, *, inodes: int, bytes_: int) -> None:
    """Add to what only the volume's trash keeps."""
    if inodes or bytes_:
        connection.execute(
            "UPDATE volume SET trash_inodes = trash_inodes + ?, trash_bytes = trash_bytes + ? WHERE id = ?",
            (inodes, bytes_, volume),
        )


def is_trashed(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> bool:
    """Whether it can be brought back."""
    row = connection.execute("SELECT 1 FROM trash WHERE volume = ? AND inode = ?", (volume, inode))
    return row.fetchone() is not None


def remove_nameless(connection: sqlite3.Connection, volume: VolumeId, candidates: Iterable[InodeId]) -> None:
    """Remove those of `candidates` that have no name and are open nowhere, or leave them to the trash: their session
    has ended."""
    gone = freed = kept = kept_bytes = 0
    for inode in candidates:
        row = connection.execute(
            "SELECT size, inline FROM inode WHERE volume = ? AND inode = ? AND links = 0", (volume, inode)
        ).fetchone()
        if row is not None and not is_open(connection, volume, inode):
            gone, freed = gone + 1, freed + row[0]
            if is_trashed(connection, volume, inode):
                kept, kept_bytes = kept + 1, kept_bytes + row[0]
            else:
                remove(connection, volume, inode, inline=bool(row[1]))
    count(connection, volume, inodes=-gone, bytes_=-freed)
    count_trash(connection, volume, inodes=kept, bytes_=kept_bytes)
