"""Which rows a change of content adds and drops, and the head that goes with them. Pure: `committer` applies it.

A commit's rows take sequence numbers above every earlier one: `change << SEQ_BITS | ordinal`. Rows that newer ones hide
entirely are dropped in the same commit, so that layers do not pile up; what remains is bounded by compaction.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from p2pfs.errors import TooLarge
from p2pfs.format.extents import Extent, resolve, seal_extent
from p2pfs.format.heads import Head, add, inline_digest, row_digest, seal_head, subtract
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.values import ValueKind, open_value, seal_value
from p2pfs.types import CHUNK_BYTES, INDICES_PER_RANGE, MAX_FILE_BYTES, ChunkKey, InodeId, VolumeId
from p2pfs.vfs.inodes import Freeze, Inode, Upload
from p2pfs.wire.namespace import Commit, ExtentRow, NewChunk

SEQ_BITS: Final = 20
"""A commit may add 2^20 rows; changes have 43 bits."""


class Layer(NamedTuple):
    """A committed extent and the row it stands in."""

    extent: Extent
    row: ExtentRow


Layers = Callable[[int], list[Layer]]
"""The committed extents of one MiB, none for a MiB beyond the old end of the file."""


@dataclass(frozen=True, slots=True)
class Change:
    """A commit ready to send and what it means for the loaded pages."""

    commit: Commit
    head: Head
    added: list[ExtentRow]
    dropped: set[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Sealer:
    """The keys and names that seal one volume's content rows."""

    keys: VolumeKeys
    volume: VolumeId

    def open_inline(self, inode: InodeId, sealed: bytes) -> bytes:
        return open_value(self.keys, ValueKind.INLINE, self.volume, inode, sealed)

    def row(self, inode: InodeId, extent: Extent) -> ExtentRow:
        return seal_extent(self.keys, self.volume, inode, extent)

    def digest(self, inode: InodeId, row: ExtentRow) -> int:
        return row_digest(self.keys, self.volume, inode, row)

    def head(self, inode: InodeId, head: Head) -> bytes:
        return seal_head(self.keys, self.volume, inode, head)


def check_size(size: int) -> None:
    """Raises TooLarge beyond what the format can hold."""
    if size > MAX_FILE_BYTES:
        raise TooLarge(f"a file may have at most {MAX_FILE_BYTES} bytes")


def write_change(
    sealer: Sealer,
    inode: Inode,
    uploads: list[Upload],
    layers: Layers,
    *,
    end: int,
    time_ns: int,
) -> Change:
    """The commit that lays stored chunks over the inode's content, later ones over earlier ones.

    `end` is the file size they imply; `time_ns` 0 leaves the times as they are. Inline data goes: who needs it has
    stored it as the first upload.
    """
    first_seq = (inode.head.change + 1) << SEQ_BITS
    added: list[Extent] = []
    for upload in uploads:
        for place in upload.plan.placed:
            seq = first_seq + len(added)
            key = ChunkKey(upload.key)
            added.append(Extent(place.index, seq, place.off, place.length, upload.chunk, place.chunk_off, key))
    added, dropped = _drop_hidden(added, layers)
    used = {extent.chunk for extent in added}
    chunks = {
        upload.chunk: NewChunk(upload.chunk, upload.size, upload.receipts)
        for upload in uploads
        if upload.chunk is not None and upload.chunk in used
    }
    inline = inode.check_inline()
    head = inode.head if inline is None else inode.head.with_digest(0, 0)
    return _finish(
        sealer, inode, head, max(inode.head.size, end), added, dropped,
        time_ns=time_ns, chunks=list(chunks.values()), clear_inline=inline is not None,
    )  # fmt: skip


def _drop_hidden(added: list[Extent], layers: Layers) -> tuple[list[Extent], list[ExtentRow]]:
    """(added extents that show, committed rows that no longer do)."""
    kept: list[Extent] = []
    dropped: list[ExtentRow] = []
    by_index: dict[int, list[Extent]] = {}
    for extent in added:
        by_index.setdefault(extent.index, []).append(extent)
    for index, new in by_index.items():
        old = layers(index)
        if not old and len(new) == 1:
            kept += new
            continue
        showing = {
            segment.extent.seq
            for segment in resolve([*(layer.extent for layer in old), *new], 0, CHUNK_BYTES)
            if segment.extent is not None
        }
        kept += [extent for extent in new if extent.seq in showing]
        data = [extent for extent in (*(layer.extent for layer in old), *new) if extent.seq in showing]
        dropped += [row for extent, row in old if extent.seq not in showing and not _still_hides(extent, data)]
    return kept, dropped


def _still_hides(extent: Extent, data: Iterable[Extent]) -> bool:
    """Whether this is a hole that lies over something older which otherwise would show."""
    return extent.chunk is None and any(
        below.seq < extent.seq and below.off < extent.off + extent.length and extent.off < below.off + below.length
        for below in data
    )


def inline_change(sealer: Sealer, inode: Inode, freezes: list[Freeze]) -> Change:
    """The commit of a file small enough to live in the metadata."""
    base = inode.head
    size = max([base.size, *(freeze.end for freeze in freezes)])
    old = inode.check_inline()
    content = bytearray(size)
    if old is not None:
        plain = sealer.open_inline(inode.id, old)
        content[: len(plain)] = plain
    view = memoryview(content)
    for freeze in freezes:
        for mib in freeze.mibs.values():
            mib.copy_into(0, view)
    return _inline_commit(sealer, inode, bytes(content), size, max(freeze.mtime_ns for freeze in freezes))


def _inline_commit(sealer: Sealer, inode: Inode, content: bytes, size: int, time_ns: int) -> Change:
    sealed = seal_value(sealer.keys, ValueKind.INLINE, sealer.volume, inode.id, content)
    digest = inline_digest(sealer.keys, sealer.volume, inode.id, sealed)
    head = Head(inode.head.change + 1, size, inode.head.kind, (digest,))
    commit = Commit(
        inode=inode.id, base_change=inode.head.change, size=size, head=sealer.head(inode.id, head), time_ns=time_ns,
        inline=sealed,
    )  # fmt: skip
    return Change(commit, head, [], set())


def truncate_change(
    sealer: Sealer, inode: Inode, size: int, boundary: list[ExtentRow], layers: Layers, time_ns: int
) -> Change:
    """The commit of a truncation. `boundary` holds every row of the range in which the cut lies."""
    base = inode.head
    sealed = inode.check_inline()
    if sealed is not None:
        content = sealer.open_inline(inode.id, sealed)
        return _inline_commit(sealer, inode, content[:size], size, time_ns)
    if size >= base.size:
        return _finish(sealer, inode, base, size, [], [], time_ns=time_ns)
    cut_index = -(-size // CHUNK_BYTES)
    seq = (base.change + 1) << SEQ_BITS
    range_number = cut_index // INDICES_PER_RANGE
    head = base.first_ranges(range_number + 1)
    digest = head.digest(range_number)
    gone = [row for row in boundary if row.index >= cut_index]
    for row in gone:
        digest = subtract(digest, sealer.digest(inode.id, row))
    head = head.with_digest(range_number, digest)
    added: list[Extent] = []
    dropped: list[ExtentRow] = []
    if size % CHUNK_BYTES and (old := layers(cut_index - 1)):
        off = size % CHUNK_BYTES
        added = [Extent(cut_index - 1, seq, off, CHUNK_BYTES - off, None, 0, None)]
        dropped = [row for extent, row in old if extent.off >= off]
    return _finish(sealer, inode, head, size, added, dropped, time_ns=time_ns, cut_index=cut_index, cut_seq=seq)


def _finish(
    sealer: Sealer,
    inode: Inode,
    head: Head,
    size: int,
    added: list[Extent],
    dropped: list[ExtentRow],
    *,
    time_ns: int,
    chunks: list[NewChunk] | None = None,
    clear_inline: bool = False,
    cut_index: int = -1,
    cut_seq: int = 0,
) -> Change:
    rows = [sealer.row(inode.id, extent) for extent in added]
    for row in rows:
        number = row.index // INDICES_PER_RANGE
        head = head.with_digest(number, add(head.digest(number), sealer.digest(inode.id, row)))
    for row in dropped:
        number = row.index // INDICES_PER_RANGE
        head = head.with_digest(number, subtract(head.digest(number), sealer.digest(inode.id, row)))
    gone = {(row.index, row.seq) for row in dropped}
    head = Head(inode.head.change + 1, size, head.kind, head.digests)
    commit = Commit(
        inode=inode.id,
        base_change=inode.head.change,
        size=size,
        head=sealer.head(inode.id, head),
        time_ns=time_ns,
        extents=rows,
        chunks=chunks or [],
        drop=sorted(gone),
        clear_inline=clear_inline,
        cut_index=cut_index,
        cut_seq=cut_seq,
    )
    return Change(commit, head, rows, gone)
