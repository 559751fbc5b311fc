"""Extents: which bytes of which chunk are bytes of a file; sealing their rows and resolving their layers.

An extent says "bytes `off…off+length` of MiB `index` are those from `chunk_off` of this chunk, opened with this key".
An extent without a chunk is a hole. Whether all extents of a range are there is proved by the head (format.heads), not
here. Called by vfs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from p2pfs.errors import Corrupt
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import open_row, seal_row
from p2pfs.types import CHUNK_BYTES, ChunkId, ChunkKey, InodeId, VolumeId
from p2pfs.wire.namespace import ExtentRow

_CONTEXT: Final = Struct(">QQQ")  # volume, inode, index
_PLACE: Final = Struct(">QIII")  # seq, off, length, chunk_off
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 32
# One byte longer than for a chunk id can be confused with: the two contexts differ in length and in this byte.
_HOLE: Final = b"\0"
_CHUNK: Final = b"\1"


@dataclass(frozen=True, slots=True)
class Extent:
    """One layer over one MiB of a file; newer `seq` covers older. A hole has neither chunk nor key, and chunk_off 0."""

    index: int
    seq: int
    off: int
    length: int
    chunk: ChunkId | None
    chunk_off: int
    key: ChunkKey | None

    def __repr__(self) -> str:
        where = "hole" if self.chunk is None else f"{self.chunk[:4].hex()}@{self.chunk_off}"
        return f"Extent({self.index}/{self.seq}: {self.off}+{self.length} = {where})"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch that reads from one place: `chunk_off` of the extent's chunk, or zeros where there is no extent."""

    off: int
    length: int
    extent: Extent | None
    chunk_off: int


def seal_extent(keys: VolumeKeys, volume: VolumeId, inode: InodeId, extent: Extent) -> ExtentRow:
    """The row of an extent as the coordinator stores it."""
    place = _PLACE.pack(extent.seq, extent.off, extent.length, extent.chunk_off)
    context = _context(volume, inode, extent.index, extent.chunk)
    sealed = seal_row(keys.extents, keys.prefix, (extent.key or b"") + place, context)
    return ExtentRow(extent.index, extent.seq, extent.chunk, sealed)


def open_extent(keys: VolumeKeys, volume: VolumeId, inode: InodeId, row: ExtentRow) -> Extent:
    """The extent in a row.

    Raises:
        Corrupt: The row was not sealed for this inode, index, seq and chunk, or says something impossible.
    """
    if row.index < 0 or (row.chunk is not None and len(row.chunk) != _ID_BYTES):
        raise Corrupt("an extent row is malformed")
    plain = open_row(keys.extents, keys.prefix, row.sealed, _context(volume, inode, row.index, row.chunk))
    key_bytes = 0 if row.chunk is None else _KEY_BYTES
    if len(plain) != key_bytes + _PLACE.size:
        raise Corrupt("an extent row has a strange length")
    seq, off, length, chunk_off = _PLACE.unpack_from(plain, key_bytes)
    if seq != row.seq:
        raise Corrupt("an extent row carries another sequence number than it was sealed with")
    if length == 0 or off + length > CHUNK_BYTES or chunk_off + length > CHUNK_BYTES or (not key_bytes and chunk_off):
        raise Corrupt("an extent row leaves its MiB or its chunk")
    if row.chunk is None:
        return Extent(row.index, seq, off, length, None, 0, None)
    return Extent(row.index, seq, off, length, ChunkId(row.chunk), chunk_off, ChunkKey(plain[:_KEY_BYTES]))


def resolve(layers: Iterable[Extent], off: int, length: int) -> list[Segment]:
    """What bytes `off…off+length` of one MiB read from: ascending, without gaps or overlaps; the newest `seq` wins.

    All layers are of one index. Holes and bytes that no layer covers come back as zeros (`extent` None), merged.
    """
    # Newest first, each layer takes what is still open; with at most MAX_LAYERS layers lists beat anything cleverer.
    gaps = [(off, off + length)] if length else []
    taken: list[tuple[int, int, Extent | None]] = []
    for layer in sorted(layers, key=_seq, reverse=True):
        if not gaps:
            break
        gaps = _cover(layer, gaps, taken)
    taken.extend((start, stop, None) for start, stop in gaps)
    taken.sort(key=_start)
    return _segments(taken)


def _cover(
    layer: Extent, gaps: list[tuple[int, int]], taken: list[tuple[int, int, Extent | None]]
) -> list[tuple[int, int]]:
    """Move what `layer` covers of `gaps` to `taken`; returns the gaps that are left."""
    first, last = layer.off, layer.off + layer.length
    shown = None if layer.chunk is None else layer
    left = []
    for start, stop in gaps:
        low, high = max(start, first), min(stop, last)
        if low >= high:
            left.append((start, stop))
            continue
        taken.append((low, high, shown))
        if start < low:
            left.append((start, low))
        if high < stop:
            left.append((high, stop))
    return left


def _segments(taken: list[tuple[int, int, Extent | None]]) -> list[Segment]:
    segments: list[Segment] = []
    at = 0
    while at < len(taken):
        start, stop, extent = taken[at]
        at += 1
        while at < len(taken) and taken[at][2] is extent:
            stop = taken[at][1]
            at += 1
        chunk_off = 0 if extent is None else extent.chunk_off + start - extent.off
        segments.append(Segment(start, stop - start, extent, chunk_off))
    return segments


def _context(volume: VolumeId, inode: InodeId, index: int, chunk: bytes | None) -> bytes:
    fixed = _CONTEXT.pack(volume, inode, index)
    return fixed + _HOLE if chunk is None else fixed + _CHUNK + chunk


def _seq(extent: Extent) -> int:
    return extent.seq


def _start(part: tuple[int, int, Extent | None]) -> int:
    return part[0]
