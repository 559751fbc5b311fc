"""Values: inline content, symlink targets and extended attributes, sealed for the inode they belong to.

Whether inline content is the newest is proved by the head (format.heads.inline_digest). Called by vfs.
"""

import enum
from struct import Struct
from typing import Final

from p2pfs.errors import Corrupt
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import OVERHEAD, open_row, seal_row
from p2pfs.types import InodeId, VolumeId

VALUE_OVERHEAD: Final = OVERHEAD + 1
"""How much longer a sealed value is than the value."""
_CONTEXT: Final = Struct(">BQQ")  # kind, volume, inode; the name of an extended attribute follows


class ValueKind(enum.IntEnum):
    """What a value is. Sealed: never renumber."""

    INLINE = 1
    TARGET = 2
    XATTR = 3
    LABEL = 4  # format.search


def seal_value(
    keys: VolumeKeys, kind: ValueKind, volume: VolumeId, inode: InodeId, data: bytes, name: bytes = b""
) -> bytes:
    """The sealed value; `name` is that of an extended attribute. Empty data is fine."""
    # The leading byte keeps the plain text from being empty, which AES-SIV libraries refuse.
    plain = bytes((kind,)) + data
    return seal_row(keys.values, keys.prefix, plain, _CONTEXT.pack(kind, volume, inode) + name)


def open_value(
    keys: VolumeKeys, kind: ValueKind, volume: VolumeId, inode: InodeId, sealed: bytes, name: bytes = b""
) -> bytes:
    """The value.

    Raises:
        Corrupt: It was not sealed as this kind of value of this inode (and name).
    """
    plain = open_row(keys.values, keys.prefix, sealed, _CONTEXT.pack(kind, volume, inode) + name)
    if plain[0] != kind:
        raise Corrupt("a sealed value is of another kind")
    return plain[1:]
