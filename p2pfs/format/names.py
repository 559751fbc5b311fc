"""Names: sealing the name of a dentry or of an extended attribute, and the tag that ties a dentry to its inode.

Sealed names are deterministic within one directory (attributes: within one inode), so that the coordinator finds a name
without reading it; padding shows their length only in steps of 32 bytes. Names are bytes, as the kernel gives them.
Called by vfs.
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
_XATTR_CONTEXT: Final = Struct(">BQQ")  # 3, volume, inode: longer than that of a dentry
_XATTR: Final = 3
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
    return seal_row(keys.names, keys.prefix, _padded(name), _CONTEXT.pack(volume, parent))


def open_name(keys: VolumeKeys, volume: VolumeId, parent: InodeId, sealed: bytes) -> bytes:
    """The name in a dentry of `parent`.

    Raises:
        Corrupt: It was not sealed for this directory, or is no name.
    """
    name = _unpadded(open_row(keys.names, keys.prefix, sealed, _CONTEXT.pack(volume, parent)))
    if not _is_name(name):
        raise Corrupt("a sealed name is malformed")
    return name


def seal_xattr_name(keys: VolumeKeys, volume: VolumeId, inode: InodeId, name: bytes) -> bytes:
    """The sealed name of an extended attribute: equal names of one inode give equal bytes.

    Raises:
        TooLarge: The name is longer than 255 bytes.
        Invalid: No attribute can have this name.
    """
    if len(name) > MAX_NAME_BYTES:
        raise NameTooLong(f"a name may have {MAX_NAME_BYTES} bytes, this has {len(name)}")
    if not name or b"\0" in name:
        raise Invalid("no extended attribute can have this name")
    return seal_row(keys.names, keys.prefix, _padded(name), _XATTR_CONTEXT.pack(_XATTR, volume, inode))


def open_xattr_name(keys: VolumeKeys, volume: VolumeId, inode: InodeId, sealed: bytes) -> bytes:
    """The name of an extended attribute.

    Raises:
        Corrupt: It was not sealed for an attribute of this inode, or is no name.
    """
    name = _unpadded(open_row(keys.names, keys.prefix, sealed, _XATTR_CONTEXT.pack(_XATTR, volume, inode)))
    if not name or b"\0" in name:
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


def _padded(name: bytes) -> bytes:
    plain = bytes((len(name),)) + name
    return plain + bytes(-len(plain) % _STEP)


def _unpadded(plain: bytes) -> bytes:
    length = plain[0]
    name = plain[1 : 1 + length]
    if len(plain) % _STEP or len(name) != length or plain.count(0, 1 + length) != len(plain) - 1 - length:
        raise Corrupt("a sealed name is malformed")
    return name


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= MAX_NAME_BYTES and b"/" not in name and b"\0" not in name and name not in (b".", b"..")
