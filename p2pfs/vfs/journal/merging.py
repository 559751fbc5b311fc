"""Changes of a dead mount that can no longer be done under its delegation: those that still fit are done one by one.

Others may have changed the volume since. Each operation says what it was built on, so the coordinator refuses what is
in conflict; removing, moving or setting attributes of what somebody changed after that is left here. All of it may be
done twice.
"""

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from p2pfs.errors import Conflict, Corrupt, NotFound, PoolError, Semantic, Unavailable
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import open_name
from p2pfs.meta.protocol import Namespace
from p2pfs.types import InodeId, Kind, VolumeId
from p2pfs.vfs.content import Sealer
from p2pfs.vfs.delegation.known import concerns
from p2pfs.vfs.journal.records import Kept, Named
from p2pfs.vfs.journal.unfinished import Unfinished
from p2pfs.wire.namespace import (
    RENAME_EXCHANGE,
    Attributes,
    Commit,
    Link,
    Make,
    Operation,
    Rename,
    SetAttributes,
    Unlink,
)
from p2pfs.wire.search import IndexName

log = logging.getLogger(__name__)

_TELLING = (Make, Commit)  # their numbers and heads are like no others
_LONELY = (SetAttributes, Unlink, IndexName)  # nothing rests on it
_CLOCKS_NS: Final = 20_000_000
"""The kernel's coarse clock, which `-o writeback_cache` takes times from, is less far behind. Others can change nothing
within that of a change acknowledged: the delegation has to be over first."""


async def merge(namespace: Namespace, operations: Sequence[Operation]) -> list[Operation]:
    """Do what can be done; the others, and what rests on them. Raises Unavailable, and then may be called again."""
    done = await _evidently_done(namespace, operations)
    refused: list[Operation] = [*await _lacking(namespace, operations, done)]
    own = {_time_ns(operation) for operation in operations}
    without = {getattr(operation, "inode", 0) for operation in refused}  # inodes that are not what they would be
    for at, operation in enumerate(operations[done:], done):
        if without.isdisjoint(concerns(operation)) and await _fits(namespace, operation, operations[at:], own):
            continue
        refused.append(operation)
        if not isinstance(operation, _LONELY):
            without.add(getattr(operation, "inode", 0))
    return refused


async def _evidently_done(namespace: Namespace, operations: Sequence[Operation]) -> int:
    """How many were done already or tried: the last batch of the dead mount may have been, or all by a recovery that
    was cut short. They go in order, so that one which is there tells of those before it."""
    for at in range(len(operations) - 1, -1, -1):
        if isinstance(operations[at], _TELLING) and await _is_done(namespace, operations[at], operations[at:]):
            return at + 1
    return 0


async def _lacking(namespace: Namespace, operations: Sequence[Operation], done: int) -> list[Make | Commit]:
    """Of those tried, what is not there although none of them removed it."""
    removed = {
        getattr(operation, "replaced", operation.inode)
        for operation in operations
        if isinstance(operation, Unlink | Rename)
    }
    return [
        operation
        for at, operation in enumerate(operations[:done])
        if isinstance(operation, Make | Commit)
        and operation.inode not in removed
        and not await _is_done(namespace, operation, operations[at:])
    ]


async def _fits(
    namespace: Namespace, operation: Operation, following: Sequence[Operation], own: AbstractSet[int]
) -> bool:
    """Whether it is done now. `own` are the times of the dead mount's operations."""
    try:
        await _check_unchanged(namespace, operation, own)
        await namespace.apply([operation])
    except Unavailable:
        raise
    except PoolError as error:
        if await _is_done(namespace, operation, following):
            return True
        log.info("what an earlier mount acknowledged is refused: %s", error)
        return False
    return True


async def _check_unchanged(namespace: Namespace, operation: Operation, own: AbstractSet[int]) -> None:
    """What it takes a name of, moves or sets must not have been changed by others since: raises Conflict. Not so a
    directory that it moves, whose time says of names in it."""
    match operation:
        case Unlink() | SetAttributes():
            inodes = [operation.inode]
        case Rename():
            inodes = [operation.replaced, operation.inode]
        case _:
            return
    for inode in filter(None, inodes):
        row = await _row(namespace, inode)
        if row is None or row.ctime_ns <= _time_ns(operation) + _CLOCKS_NS or row.ctime_ns in own:
            continue
        if isinstance(operation, Rename) and inode == operation.inode and row.kind == Kind.DIRECTORY:
            continue
        raise Conflict("somebody changed since what this was to remove, move or set")


def _time_ns(operation: Operation) -> int:
    time_ns: int = operation.ctime_ns if isinstance(operation, SetAttributes) else getattr(operation, "time_ns", 0)
    return time_ns


async def _is_done(namespace: Namespace, operation: Operation, following: Sequence[Operation]) -> bool:
    match operation:
        case Make():
            return await _row(namespace, operation.inode) is not None
        case Commit():
            row = await _row(namespace, operation.inode)
            heads = {later.head for later in following if isinstance(later, Commit) and later.inode == operation.inode}
            return row is not None and row.head in heads
        case Link():
            return await _leads_to(namespace, operation.parent, operation.name) == operation.inode
        case Rename():
            return await _leads_to(namespace, operation.new_parent, operation.new_name) == operation.inode
        case Unlink():
            return await _leads_to(namespace, operation.parent, operation.name) != operation.inode
    return False


async def _row(namespace: Namespace, inode: int) -> Attributes | None:
    try:
        return await namespace.attributes(InodeId(inode))
    except NotFound:
        return None


async def _leads_to(namespace: Namespace, parent: int, name: bytes) -> int | None:
    try:
        return (await namespace.lookup(InodeId(parent), name)).attributes.inode
    except Semantic:
        return None


def aside(
    keys: VolumeKeys, volume: VolumeId, unfinished: Unfinished, left: Sequence[Operation], refused: Sequence[Operation]
) -> list[Kept]:
    """Content that rests on what was refused of what was `left`, as one record a file that can only be given back in
    another file; they take the place of those of the same inodes."""
    names = _names(keys, volume, unfinished, left)
    made = {operation.inode for operation in refused if isinstance(operation, Make)}
    removed = {operation.inode for operation in left if isinstance(operation, Unlink)} - names.keys()
    contents = {operation.inode: operation.inline for operation in refused if isinstance(operation, Commit)}
    by_inode: dict[int, list[Kept]] = {}
    for _, kept in sorted(unfinished.kept.items()):
        by_inode.setdefault(kept.inode, []).append(kept)
    found = []
    for inode in (contents.keys() | (by_inode.keys() & made)) - removed:
        sealed = contents.get(inode)
        content = Sealer(keys, volume).open_inline(InodeId(inode), sealed) if sealed else b""
        found.append(_together(inode, content, by_inode.get(inode, []), names.get(inode)))
    return [kept for kept in found if kept.data]


def _together(inode: int, content: bytes, later: list[Kept], named: Named | None) -> Kept:
    number = later[-1].number if later else 0
    runs = [(0, len(content)), *(run for kept in later for run in kept.runs)]
    return Kept(inode, number, 0, [], 0, runs, content + b"".join(kept.data for kept in later), named)


def _names(
    keys: VolumeKeys, volume: VolumeId, unfinished: Unfinished, operations: Sequence[Operation]
) -> dict[int, Named]:
    """The last name that each inode had, as the dead mount saw it; none of those it removed."""
    names = dict(unfinished.names)
    for operation in operations:
        match operation:
            case Make(inode=inode, parent=parent, name=sealed):
                name = _opened(keys, volume, inode, parent, sealed)
                names[inode] = Named(inode, parent, name, operation.mode, operation.uid, operation.gid)
            case Rename(inode=inode, new_parent=parent, new_name=sealed):
                if inode in names:
                    name = _opened(keys, volume, inode, parent, sealed)
                    names[inode] = msgspec.structs.replace(names[inode], parent=parent, name=name)
                if not operation.flags & RENAME_EXCHANGE:
                    names.pop(operation.replaced, None)
            case Unlink():
                names.pop(operation.inode, None)
    return names


def _opened(keys: VolumeKeys, volume: VolumeId, inode: int, parent: int, sealed: bytes) -> bytes:
    try:
        return open_name(keys, volume, InodeId(parent), sealed)
    except Corrupt:
        return b"inode-%d" % inode
