"""Operations on extended attributes, and the question for them. Names and values are sealed; what they mean, ACLs
included, is the mount's business.
"""

import sqlite3
from typing import Final

from p2pfs.errors import AttributeTooLarge, Exists, Invalid, Misuse, NoAttribute, NoSpace
from p2pfs.meta import questions
from p2pfs.meta.tree import MAX_SEALED_NAME_BYTES
from p2pfs.meta.work import Work
from p2pfs.types import MAX_XATTR_BYTES, MIB, VolumeId
from p2pfs.wire.namespace import XATTR_CREATE, XATTR_REPLACE, GetXattrs, RemoveXattr, SetXattr, Xattr, XattrPage

MAX_SEALED_VALUE_BYTES: Final = MAX_XATTR_BYTES + 64
MOST_XATTRS: Final = 1000
"""Extended attributes of one inode."""
MOST_BYTES: Final = MIB
"""Sealed names and values of one inode together: they are answered at once."""


def set_xattr(work: Work, operation: SetXattr) -> None:
    """A new attribute, or a new value."""
    _check(operation)
    row = work.inode(operation.inode)
    count, bytes_ = _sum(work, operation.inode)
    old = _value_bytes(work, operation.inode, operation.name)
    if old is not None and operation.flags == XATTR_CREATE:
        raise Exists("the attribute is there already")
    if old is None and operation.flags == XATTR_REPLACE:
        raise NoAttribute("there is no such attribute")
    grown = bytes_ + len(operation.value) - (old if old is not None else -len(operation.name))
    if grown > MOST_BYTES or (old is None and count >= MOST_XATTRS):
        raise NoSpace("the inode has as many extended attributes as it can have")
    _put_sum(work, operation.inode, count + (old is None), grown)
    work.connection.execute(
        "INSERT INTO xattr VALUES (?, ?, ?, ?) ON CONFLICT (volume, inode, name) DO UPDATE SET value = excluded.value",
        (work.volume, operation.inode, operation.name, operation.value),
    )
    row.changed(operation.time_ns)


def remove_xattr(work: Work, operation: RemoveXattr) -> None:
    """One attribute less."""
    row = work.inode(operation.inode)
    gone = _value_bytes(work, operation.inode, operation.name)
    if gone is None:
        raise NoAttribute("there is no such attribute")
    work.connection.execute(
        "DELETE FROM xattr WHERE volume = ? AND inode = ? AND name = ?",
        (work.volume, operation.inode, operation.name),
    )
    count, bytes_ = _sum(work, operation.inode)
    _put_sum(work, operation.inode, count - 1, bytes_ - gone - len(operation.name))
    row.changed(operation.time_ns)


def xattrs(connection: sqlite3.Connection, volume: VolumeId, question: GetXattrs) -> XattrPage:
    """See Namespace.xattrs."""
    of = questions.attributes_of(connection, volume, question.inode)
    rows = connection.execute("SELECT name, value FROM xattr WHERE volume = ? AND inode = ?", (volume, question.inode))
    return XattrPage(of, [Xattr(*row) for row in rows])


def _check(operation: SetXattr) -> None:
    if not operation.name or len(operation.name) > MAX_SEALED_NAME_BYTES:
        raise Misuse("this is no sealed name")
    if len(operation.value) > MAX_SEALED_VALUE_BYTES:
        raise AttributeTooLarge("the value is too long for an extended attribute")
    if operation.flags not in (0, XATTR_CREATE, XATTR_REPLACE):
        raise Invalid("these flags of setxattr do not go together")


def _value_bytes(work: Work, inode: int, name: bytes) -> int | None:
    """The sealed bytes of an attribute's value, if there is one."""
    row = work.connection.execute(
        "SELECT length(value) FROM xattr WHERE volume = ? AND inode = ? AND name = ?", (work.volume, inode, name)
    ).fetchone()
    return None if row is None else row[0]


def _sum(work: Work, inode: int) -> tuple[int, int]:
    """(attributes of an inode, their sealed bytes)."""
    row: tuple[int, int] | None = work.connection.execute(
        "SELECT count, bytes FROM xattr_sum WHERE volume = ? AND inode = ?", (work.volume, inode)
    ).fetchone()
    return row or (0, 0)


def _put_sum(work: Work, inode: int, count: int, bytes_: int) -> None:
    work.connection.execute(
        "INSERT INTO xattr_sum VALUES (?, ?, ?, ?)"
        " ON CONFLICT (volume, inode) DO UPDATE SET count = excluded.count, bytes = excluded.bytes",
        (work.volume, inode, count, bytes_),
    )
