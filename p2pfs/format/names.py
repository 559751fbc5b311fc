"""Names: sealing the name of a dentry, and the tag that ties a name to its inode.

Sealed names are deterministic within one directory, so that the coordinator finds a name without reading it; padding
shows their length only in steps of 32 bytes. Names are bytes, as the kernel gives them. Called by vfs.
"""

import hmac
from struct import Struct
from typing import Final

from blake3 import blake3

from p2pfs.errors import Corrupt, Invalid, NameTooLong
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import open_row, seal_row
from p2pfs.types import MAX_NAME_BYTES, InodeId, Kind, VolumeId

TAG_BYTES: Final = 16
_STEP: Final = 32
_CONTEXT: Final = Struct(">QQ")  # volume, parent
_TAGGED: Final = Struct(">BQQQB")  # version, volume, parent, inode, kind; the name follows
_TAG_VERSION: Final = 1


def seal_name(keys: VolumeKeys, volume: VolumeId, parent: InodeId, name: bytes) -> bytes:
    """The sealed name under `parent`: equal names of one directory give equal bytes.

    Raises:
        NameTooLong: The name is longer than 255 bytes.
        Invalid: No directory entry can have this name.
    """
    if len(name) > MAX_NAME_BYTES:
        raise NameTooLong(f"a name may have {MAX_NAME_BYTES} bytes, this has {len(name)}")
    if not _is_name(name):
        raise Invalid("no file can have this name")
    plain = bytes((len(name),)) + name
    plain += bytes(-len(plain) % _STEP)
    return seal_row(keys.names, keys.prefix, plain, _CONTEXT.pack(volume, parent))


def open_name(keys: VolumeKeys, volume: VolumeId, parent: InodeId, sealed: bytes) -> bytes:
    """The name in a dentry of `parent`.

    Raises:
        Corrupt: It was not sealed for this directory, or is no name.
    """
    plain = open_row(keys.names, keys.prefix, sealed, _CONTEXT.pack(volume, parent))
    length = plain[0]
    name = plain[1 : 1 + length]
    if len(plain) % _STEP or len(name) != length or any(plain[1 + length :]) or not _is_name(name):
        raise Corrupt("a sealed name is malformed")
    return name


def dentry_tag(keys: VolumeKeys, volume: VolumeId, parent: InodeId, name: bytes, inode: InodeId, kind: Kind) -> bytes:
    """Sixteen bytes that only a member can make: `name` under `parent` leads to `inode`, which is a `kind`."""
    fixed = _TAGGED.pack(_TAG_VERSION, volume, parent, inode, kind)
    return blake3(fixed + name, key=keys.tag).digest(TAG_BYTES)


def check_tag(
    keys: VolumeKeys, volume: VolumeId, parent: InodeId, name: bytes, inode: InodeId, kind: Kind, tag: bytes
) -> None:
    """Refuse a dentry that was re-pointed.

    Raises:
        Corrupt: `tag` was not made for this name, parent, inode and kind.
    """
    if inode < 0 or not hmac.compare_digest(dentry_tag(keys, volume, parent, name, inode, kind), tag):
        raise Corrupt("a directory entry was changed by somebody without the key")


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= MAX_NAME_BYTES and b"/" not in name and b"\0" not in name and name not in (b".", b"..")
