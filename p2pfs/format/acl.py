"""POSIX access control lists: the binary form Linux keeps in extended attributes, and the arithmetic of POSIX.1e.

Pure. Who may do what is decided by the kernel; here lists are read, written, brought in line with an inode's mode, and
inherited. Called by vfs.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from p2pfs.errors import Invalid

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

OWNER: Final = 0x01
USER: Final = 0x02
OWNING_GROUP: Final = 0x04
GROUP: Final = 0x08
MASK: Final = 0x10
OTHERS: Final = 0x20
NOBODY: Final = 0xFFFFFFFF
"""The id of an entry that is of no named user or group."""

_VERSION: Final = 2
_HEAD: Final = Struct("<I")
_ENTRY: Final = Struct("<HHI")  # tag, permissions, id


class Entry(NamedTuple):
    """Permissions (0 to 7) of somebody."""

    tag: int
    permissions: int
    id: int = NOBODY


Acl = tuple[Entry, ...]


def decode(data: bytes) -> Acl:
    """The list, in its canonical order.

    Raises:
        Invalid: These bytes are none, or no list POSIX allows.
    """
    if len(data) < _HEAD.size or (len(data) - _HEAD.size) % _ENTRY.size:
        raise Invalid("this is no access control list")
    if _HEAD.unpack_from(data)[0] != _VERSION:
        raise Invalid("this access control list is of an unknown version")
    acl = tuple(sorted(_entry(*fields) for fields in _ENTRY.iter_unpack(data[_HEAD.size :])))
    _check(acl)
    return acl


def encode(acl: Acl) -> bytes:
    """The bytes of a list."""
    return _HEAD.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def is_minimal(acl: Acl) -> bool:
    """Whether a mode says as much: no named user or group, no mask."""
    return len(acl) == 3


def mode_of(acl: Acl) -> int:
    """The permission bits (0777) an inode with this access list shows."""
    return _permissions(acl, OWNER) << 6 | _permissions(acl, _group_class(acl)) << 3 | _permissions(acl, OTHERS)


def with_mode(acl: Acl, mode: int) -> Acl:
    """The list as chmod leaves it: owner, others, and the mask (without one: the owning group) are the mode's."""
    given = {OWNER: mode >> 6 & 7, _group_class(acl): mode >> 3 & 7, OTHERS: mode & 7}
    return tuple(entry._replace(permissions=given.get(entry.tag, entry.permissions)) for entry in acl)


def inherited(default: Acl, mode: int) -> Acl:
    """The access list of an inode made with `mode` in a directory with this default list: no more than both allow."""
    return with_mode(default, mode & mode_of(default))


def _group_class(acl: Acl) -> int:
    return MASK if any(entry.tag == MASK for entry in acl) else OWNING_GROUP


def _permissions(acl: Iterable[Entry], tag: int) -> int:
    return next(entry.permissions for entry in acl if entry.tag == tag)


def _entry(tag: int, permissions: int, named: int) -> Entry:
    if permissions > 7 or tag not in (OWNER, USER, OWNING_GROUP, GROUP, MASK, OTHERS):
        raise Invalid("an entry of this access control list is unknown")
    return Entry(tag, permissions, named if tag in (USER, GROUP) else NOBODY)


def _check(acl: Acl) -> None:
    tags = [entry.tag for entry in acl]
    if any(tags.count(tag) != 1 for tag in (OWNER, OWNING_GROUP, OTHERS)) or tags.count(MASK) > 1:
        raise Invalid("an access control list has one owner, owning group and others, and at most one mask")
    if MASK not in tags and (USER in tags or GROUP in tags):
        raise Invalid("an access control list with named users or groups has a mask")
    if len({(entry.tag, entry.id) for entry in acl}) != len(acl):
        raise Invalid("an access control list names somebody twice")
