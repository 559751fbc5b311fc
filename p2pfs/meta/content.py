"""Operations on one inode: commits of new content, attributes, and what keeps it open."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import Final

from p2pfs.errors import Conflict, Invalid, IsDirectory, Misuse, TooLarge
from p2pfs.meta import chunks_index, cuts, inodes, open_inodes
from p2pfs.meta.inodes import InodeRow
from p2pfs.meta.work import Work
from p2pfs.types import CHUNK_BYTES, MAX_FILE_BYTES, ChunkId, Kind, head_limit
from p2pfs.wire.namespace import Accessed, AddReplicas, Commit, ExtentRow, NewChunk, Opened, Released, SetAttributes

SEALING_BYTES: Final = 1024
"""More than inline data gets longer by being sealed."""
MAX_INLINE_BYTES: Final = CHUNK_BYTES + SEALING_BYTES
"""Sealed; how much a mount keeps inline is a setting of the volume."""
MAX_SEALED_EXTENT_BYTES: Final = 256
MAX_INDEX: Final = MAX_FILE_BYTES // CHUNK_BYTES


def commit(work: Work, operation: Commit) -> None:
    """New content: what it names first, then what it drops, so that a chunk that moves is never doomed between."""
    row = work.inode(operation.inode)
    _check(row, operation)
    _check_inline(work, row, operation)
    _add_extents(work, operation)
    if operation.chunks:
        work.rules.grown(work.connection)
    _drop_extents(work, operation)
    if operation.cut_index >= 0:
        _cut(work, operation)
    _set_inline(work, row, operation)
    work.resize(row, operation.size)
    row.head = operation.head
    row.change += 1
    if operation.mode is not None:
        row.mode = operation.mode & 0o7777
    if operation.time_ns:
        row.mtime_ns = operation.time_ns
    # what was written earlier than another change must not move ctime back behind it
    row.changed(max(operation.time_ns, row.ctime_ns))


def add_replicas(work: Work, operation: AddReplicas) -> None:
    """More copies, of chunks that are still known."""
    for new in operation.chunks:
        work.rules.verify(work.volume, new)
        chunks_index.add_replicas(work.connection, work.volume, new=new, added=work.rules.added)


def set_attributes(work: Work, operation: SetAttributes) -> None:
    """What is not None."""
    row = work.inode(operation.inode)
    if operation.mode is not None:
        row.mode = operation.mode & 0o7777
    if operation.uid is not None:
        row.uid = operation.uid
    if operation.gid is not None:
        row.gid = operation.gid
    if operation.atime_ns is not None:
        row.atime_ns = operation.atime_ns
    if operation.mtime_ns is not None:
        row.mtime_ns = operation.mtime_ns
    row.changed(operation.ctime_ns)


def opened(work: Work, operation: Opened) -> None:
    """Keep the inode for the session."""
    row = work.inode(operation.inode)
    work.hold(row.inode)
    work.mention(row)


def released(work: Work, operation: Released) -> None:
    """Keep it no longer. What is gone already stays gone."""
    if open_inodes.release(work.connection, work.volume, operation.inode, session=work.session):
        work.settle(work.kept(operation.inode))


def accessed(work: Work, operation: Accessed) -> None:
    """A later access time; the row's version stays, since no mount builds on it."""
    row = work.loaded(operation.inode)
    if row is not None:
        row.atime_ns, row.dirty = max(row.atime_ns, operation.atime_ns), True
        return
    work.connection.execute(
        "UPDATE inode SET atime_ns = ? WHERE volume = ? AND inode = ? AND atime_ns < ?",
        (operation.atime_ns, work.volume, operation.inode, operation.atime_ns),
    )


# ---- parts of a commit ----------------------------------------------------------------------------------------------


def _check(row: InodeRow, operation: Commit) -> None:
    if row.is_directory:
        raise IsDirectory("a directory has no content")
    if row.kind != Kind.FILE:
        raise Invalid("only a file has content")
    if row.change != operation.base_change:
        raise Conflict(f"the file is at change {row.change}, not {operation.base_change}")
    if operation.size > MAX_FILE_BYTES:
        raise TooLarge("the file would be too large")
    if len(operation.head) > head_limit(operation.size):
        raise TooLarge("this is more head than a file of that size has")
    if operation.inline is not None and len(operation.inline) > MAX_INLINE_BYTES:
        raise TooLarge("this is too much to be kept inline")
    if operation.size < 0 or (operation.inline is not None and operation.clear_inline):
        raise Misuse("this commit contradicts itself")


def _check_inline(work: Work, row: InodeRow, operation: Commit) -> None:
    """A volume is charged with the size that is told: what is kept inline must not be longer. Raises Misuse."""
    if operation.inline is not None:
        length = len(operation.inline)
    elif row.inline and not operation.clear_inline:
        length = inodes.data_length(work.connection, work.volume, row.inode)
    else:
        return
    if length > operation.size + SEALING_BYTES:
        raise Misuse("there is more inline than the file is long")


def _add_extents(work: Work, operation: Commit) -> None:
    new_chunks = _new_chunks(work, operation)
    if not operation.extents:
        return
    numbers: dict[bytes, int] = {}
    for chunk, times in Counter(e.chunk for e in operation.extents if e.chunk is not None).items():
        numbers[chunk] = chunks_index.refer(
            work.connection,
            work.volume,
            chunk=ChunkId(chunk),
            times=times,
            new=new_chunks.get(chunk),
            wanted_min=work.rules.wanted_min,
            frugal=work.rules.frugal,
            added=work.rules.added,
            stored=work.rules.stored,
        )
    _insert_extents(work, operation, numbers)


def _new_chunks(work: Work, operation: Commit) -> dict[bytes, NewChunk]:
    """The new chunks by id, with their receipts verified."""
    named = {extent.chunk for extent in operation.extents}
    for new in operation.chunks:
        if new.chunk not in named:
            raise Misuse("a commit brings a chunk none of its extents names")
        work.rules.verify(work.volume, new)
    found = {new.chunk: new for new in operation.chunks}
    if len(found) < len(operation.chunks):
        raise Misuse("a commit brings a chunk more than once")
    return found


def _check_extent(extent: ExtentRow, operation: Commit) -> None:
    if not 0 <= extent.index < MAX_INDEX or extent.seq < 0 or len(extent.sealed) > MAX_SEALED_EXTENT_BYTES:
        raise Misuse("this is no extent")
    if 0 <= operation.cut_index <= extent.index and extent.seq < operation.cut_seq:
        raise Misuse("an extent is cut by the commit that brings it")


def _insert_extents(work: Work, operation: Commit, numbers: Mapping[bytes, int]) -> None:
    """Raises Misuse when (index, seq) is taken or an earlier cut would hide an extent from the start."""
    before = cuts.of_inode(work.connection, work.volume, operation.inode)
    rows = []
    for extent in operation.extents:
        _check_extent(extent, operation)
        if before.hide(extent.index, extent.seq):
            raise Misuse("an extent is older than a truncation before it")
        chunk = None if extent.chunk is None else numbers[extent.chunk]
        rows.append((work.volume, operation.inode, extent.index, extent.seq, chunk, extent.sealed))
    rows.sort(key=lambda row: row[2:4])  # neighbours in the table one after the other
    try:
        work.connection.executemany("INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?)", rows)
    except sqlite3.IntegrityError:
        raise Misuse("one of the extents is there already") from None


def _drop_extents(work: Work, operation: Commit) -> None:
    """Compacted extents; one that the reaper took is gone already."""
    numbers = []
    for index, seq in sorted(operation.drop):
        dropped = work.connection.execute(
            "DELETE FROM extent WHERE volume = ? AND inode = ? AND mib = ? AND seq = ? RETURNING chunk",
            (work.volume, operation.inode, index, seq),
        ).fetchone()
        if dropped is not None and dropped[0] is not None:
            numbers.append(dropped[0])
    chunks_index.unrefer(work.connection, numbers, now_s=work.rules.now_s)


def _cut(work: Work, operation: Commit) -> None:
    """One row, however much it cuts; the cuts it includes go."""
    place = (work.volume, operation.inode, operation.cut_index)
    work.connection.execute(
        "DELETE FROM cut WHERE volume = ? AND inode = ? AND from_mib >= ? AND seq <= ?", (*place, operation.cut_seq)
    )
    # A row that is still at this place has a higher seq and cuts more.
    work.connection.execute("INSERT OR IGNORE INTO cut VALUES (?, ?, ?, ?)", (*place, operation.cut_seq))


def _set_inline(work: Work, row: InodeRow, operation: Commit) -> None:
    if operation.inline is not None:
        inodes.put_data(work.connection, work.volume, row.inode, data=operation.inline)
        row.inline = 1
    elif operation.clear_inline and row.inline:
        inodes.drop_data(work.connection, work.volume, row.inode)
        row.inline = 0
