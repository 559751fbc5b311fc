"""What proves that a chunk file is not what was stored, as opposed to a disk that does not answer. For `files`."""

import errno

from p2pfs.chunks.header import Header, unpack
from p2pfs.errors import Corrupt
from p2pfs.types import ChunkId, VolumeId


class Damaged(Exception):
    """What was read of a file proves that it is not what was stored."""


def damage_or(error: Corrupt | OSError) -> Exception:
    """Damage; a bad sector is damage too and not weather. Other failures of the disk stay what they are."""
    if isinstance(error, Corrupt):
        return Damaged(str(error))
    if error.errno == errno.EIO:
        return Damaged("the disk cannot read the chunk file")
    return error


def checked(page: memoryview, volume: VolumeId, chunk: ChunkId, size: int) -> Header:
    """The header in its page. Raises Corrupt unless it is that of this chunk."""
    header = unpack(page)
    if (header.volume, header.chunk, header.size) != (volume, chunk, size):
        raise Corrupt("the file holds another chunk than its name and length say")
    return header
