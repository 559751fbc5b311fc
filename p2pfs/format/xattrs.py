"""Extended attributes: an operation with a name and a value sealed for their inode. Called by vfs."""

from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import seal_xattr_name
from p2pfs.format.values import ValueKind, seal_value
from p2pfs.types import InodeId, VolumeId
from p2pfs.wire.namespace import SetXattr


def sealed_xattr(
    keys: VolumeKeys, volume: VolumeId, inode: InodeId, name: bytes, value: bytes, *, time_ns: int, flags: int = 0
) -> SetXattr:
    """The operation that gives an inode an extended attribute."""
    sealed_name = seal_xattr_name(keys, volume, inode, name)
    return SetXattr(inode, sealed_name, seal_value(keys, ValueKind.XATTR, volume, inode, value, name), flags, time_ns)
