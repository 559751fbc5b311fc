"""The trash of one volume as its mount sees it: listing, bringing back, letting go before its time.

What is in the trash has the place and the name it had, sealed as they were. Bringing it back to the same place sends
them back unaltered; elsewhere they are sealed anew. Changes go through the mount's own session, so that they need no
key but the mount's and end no delegation.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Exists, NotFound, Semantic
from p2pfs.format.heads import open_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import dentry_tag, seal_name
from p2pfs.meta.protocol import Namespace
from p2pfs.types import MAX_NAME_BYTES, ROOT_INODE, InodeId, Kind, VolumeId
from p2pfs.vfs.paths import Paths, is_below, joined, trashed
from p2pfs.vfs.tree import Tree
from p2pfs.wire.leases import PurgeTrash, Reason, Restore
from p2pfs.wire.namespace import Operation, TrashRow

PAGE: Final = 500
AT_ONCE: Final = 100
"""Inodes in one batch."""
_MOST_NAMES: Final = 100
_MOST_DIRECTORIES: Final = 20
"""Of one path, that are looked into."""

Told = Callable[[InodeId, bytes], None]
"""Is told of each name that is there again."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """Something in the trash, as people see it. Paths are from the volume's root."""

    inode: int
    path: bytes
    kind: Kind
    size: int
    reason: Reason
    removed_s: float  # UTC
    purge_s: float  # UTC


@dataclass(frozen=True, slots=True)
class Restored:
    """Something that is back."""

    path: bytes  # where it is
    was: bytes  # where it was


class Trash:
    """See the module."""

    def __init__(
        self,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        tree: Tree,
        *,
        now_ns: Callable[[], int],
        told: Told,
        indexed: Callable[[InodeId, int, bytes], list[Operation]] = lambda *_: [],
    ) -> None:
        """`indexed` as in `Tree`."""
        self._indexed = indexed
        self._keys, self._volume, self._namespace, self._tree = keys, volume, namespace, tree
        self._now_ns, self._told = now_ns, told

    # ---- looking

    async def look(self, below: bytes, show: Callable[[Discarded], Awaitable[None]]) -> None:
        """Show all in the trash that was below a path, in no order. Raises Corrupt."""
        paths = Paths(self._keys, self._volume, self._namespace)
        after, complete = 0, False
        while not complete:
            page = await self._namespace.trash(after, PAGE)
            for row in page.rows:
                after = row.entry.attributes.inode
                path = await paths.of_entry(row.parent, row.entry)
                if is_below(path, below):
                    await show(self._discarded(row, path))
            complete = page.complete or not page.rows

    def _discarded(self, row: TrashRow, path: bytes) -> Discarded:
        of = row.entry.attributes
        head = open_head(self._keys, self._volume, InodeId(of.inode), of.head)
        return Discarded(of.inode, path, head.kind, head.size, Reason(row.reason), row.removed_s, row.purge_s)

    async def _rows(self, parent: int) -> Sequence[TrashRow]:
        """What was last in a directory."""
        rows: list[TrashRow] = []
        while True:
            page = await self._namespace.trash(rows[-1].entry.attributes.inode if rows else 0, PAGE, parent)
            rows += page.rows
            if page.complete or not page.rows:
                return rows

    async def _row(self, inode: int) -> TrashRow:
        row = await trashed(self._namespace, inode)
        if row is None:
            raise NotFound(f"inode {inode} is not in the trash")
        return row

    async def find(self, path: bytes, at_s: float | None = None) -> TrashRow:
        """What had this path when it went to the trash: the newest, or what was there at a time. Raises NotFound."""
        paths = Paths(self._keys, self._volume, self._namespace)
        *above, last = path.split(b"/")
        parents = [int(ROOT_INODE)]
        for name in above:
            parents = await self._directories(paths, parents, name)
        rows = [row for parent in parents for row in await self._named(paths, parent, last)]
        row = chosen(rows, at_s)
        if row is None:
            raise NotFound(f"nothing called {path.decode(errors='replace')} is in the trash")
        return row

    async def _directories(self, paths: Paths, parents: Sequence[int], name: bytes) -> list[int]:
        """All that are or were called so in any of these: the one that is there, then those that went last."""
        there: list[int] = []
        rows: list[TrashRow] = []
        for parent in parents:
            with contextlib.suppress(Semantic):
                there.append((await self._tree.lookup(InodeId(parent), name)).id)
            rows += await self._named(paths, parent, name)
        gone = sorted((row for row in rows if row.entry.attributes.kind == Kind.DIRECTORY), key=_age, reverse=True)
        found = there + [row.entry.attributes.inode for row in gone]
        if not found:
            raise NotFound(f"there is no directory {name.decode(errors='replace')}, nor is one in the trash")
        return found[:_MOST_DIRECTORIES]

    async def _named(self, paths: Paths, parent: int, name: bytes) -> Sequence[TrashRow]:
        sealed = seal_name(self._keys, self._volume, InodeId(parent), name)
        found = [row for row in await self._rows(parent) if row.entry.name == sealed]
        for row in found:
            paths.name(parent, row.entry)  # which checks it
        return found

    # ---- bringing back

    async def restore(self, inode: int, show: Callable[[Restored], Awaitable[None]], at_s: float | None = None) -> None:
        """Bring something back with all that was in it (`at_s`: at that time), to where it was, under another name
        if that is taken. Directories it was in come back too; if they are gone, it comes to the root. Raises
        NotFound."""
        paths = Paths(self._keys, self._volume, self._namespace)
        row = await self._row(inode)
        was = await paths.of_entry(row.parent, row.entry)
        above: list[TrashRow] = []
        lost = await self._lost_parent(row.parent)
        while lost is not None:
            above.append(lost)
            lost = await self._lost_parent(lost.parent)
        for directory in reversed(above):
            await self._restore_one(paths, directory)
        name = await self._restore_one(paths, row)
        place = Paths(self._keys, self._volume, self._namespace)  # it may have come back under another name
        above_it = await place.of_directory(row.parent) if await self._is_there(row.parent) else b""
        path = joined(above_it, name)
        await show(Restored(path, was))
        if row.entry.attributes.kind == Kind.DIRECTORY:
            await self._restore_below(paths, inode, Restored(path, was), show, at_s)

    async def _lost_parent(self, parent: int) -> TrashRow | None:
        return None if await self._is_there(parent) else await trashed(self._namespace, parent)

    async def _is_there(self, directory: int) -> bool:
        try:
            return (await self._namespace.attributes(InodeId(directory))).links > 0
        except NotFound:
            return False

    async def _restore_below(
        self,
        paths: Paths,
        directory: int,
        place: Restored,
        show: Callable[[Restored], Awaitable[None]],
        at_s: float | None,
    ) -> None:
        """What was in a directory that is back, and in directories in it: of each name one."""
        waiting = [(directory, place)]
        while waiting:
            parent, place = waiting.pop()
            by_name: dict[bytes, list[TrashRow]] = {}
            for row in await self._rows(parent):
                if at_s is not None or row.reason != Reason.REPLACED:
                    by_name.setdefault(row.entry.name, []).append(row)
            newest = (chosen(of_name, at_s) for of_name in by_name.values())
            rows = [row for row in newest if row is not None]
            for first in range(0, len(rows), AT_ONCE):
                some = rows[first : first + AT_ONCE]
                for row, name in zip(some, await self._restore_some(paths, some), strict=True):
                    if name is None:
                        continue
                    back = Restored(joined(place.path, name), joined(place.was, paths.name(row.parent, row.entry)))
                    await show(back)
                    if row.entry.attributes.kind == Kind.DIRECTORY:
                        waiting.append((row.entry.attributes.inode, back))

    async def _restore_some(self, paths: Paths, rows: Sequence[TrashRow]) -> list[bytes | None]:
        """Into the directory they were in; their names, None of what is in the trash no more."""
        try:
            operations = ([self._operation(row, row.parent, None), *self._words(paths, row)] for row in rows)
            await self._apply([operation for of_row in operations for operation in of_row])
        except Semantic:  # a name is taken, or one is back already
            return [await self._restore_what_is_there(paths, row) for row in rows]
        names: list[bytes | None] = [paths.name(row.parent, row.entry) for row in rows]
        for row in rows:
            self._told(InodeId(row.parent), paths.name(row.parent, row.entry))
        return names

    def _words(self, paths: Paths, row: TrashRow) -> list[Operation]:
        """What its own name is found by: the trash kept that as it was when it went there."""
        name = paths.name(row.parent, row.entry)
        return self._indexed(InodeId(row.entry.attributes.inode), row.entry.dentry, name)

    async def _restore_what_is_there(self, paths: Paths, row: TrashRow) -> bytes | None:
        """One of many: that it went or came back meanwhile must not keep the others."""
        try:
            return await self._restore_one(paths, row)
        except NotFound:
            return None

    async def _restore_one(self, paths: Paths, row: TrashRow) -> bytes:
        """To where it was, or to the root; the name it has there."""
        parent = row.parent if await self._is_there(row.parent) else int(ROOT_INODE)
        name, inode = paths.name(row.parent, row.entry), row.entry.attributes.inode
        for candidate in _candidates(name, row.removed_s):
            is_same = parent == row.parent and candidate == name
            try:
                words = self._indexed(InodeId(inode), row.entry.dentry, candidate)
                await self._apply([self._operation(row, parent, None if is_same else candidate), *words])
            except Exists:
                continue
            self._told(InodeId(parent), candidate)
            return candidate
        raise Exists(f"every name for {name.decode(errors='replace')} is taken")

    def _operation(self, row: TrashRow, parent: int, name: bytes | None) -> Restore:
        """With its old name and seal, or a new one."""
        of, directory = row.entry.attributes, InodeId(parent)
        if name is None:
            return Restore(of.inode, parent, row.entry.name, row.entry.dentry, row.entry.tag, self._now_ns())
        tag = dentry_tag(self._keys, self._volume, directory, name, InodeId(of.inode), Kind(of.kind))
        sealed = seal_name(self._keys, self._volume, directory, name)
        return Restore(of.inode, parent, sealed, row.entry.dentry, tag, self._now_ns())

    # ---- letting go

    async def purge(self, inodes: Sequence[int]) -> int:
        """Let these go now; how many were in the trash."""
        gone = 0
        for first in range(0, len(inodes), AT_ONCE):
            some = inodes[first : first + AT_ONCE]
            try:
                await self._apply([PurgeTrash(inode) for inode in some])
                gone += len(some)
            except NotFound:
                gone += sum([await self._purge_one(inode) for inode in some])
        return gone

    async def _purge_one(self, inode: int) -> bool:
        try:
            await self._apply([PurgeTrash(inode)])
        except NotFound:  # its time was over
            return False
        return True

    async def _apply(self, operations: Sequence[Operation]) -> None:
        self._tree.took(await self._namespace.apply(operations))


def chosen(rows: Sequence[TrashRow], at_s: float | None) -> TrashRow | None:
    """Of several that had one name, the last, or the one that had it at a time: the first to lose it after."""
    if at_s is None:
        return max(rows, key=_age, default=None)
    return min((row for row in rows if row.removed_s > at_s), key=_age, default=None)


def _age(row: TrashRow) -> tuple[float, int]:
    return row.removed_s, row.entry.attributes.inode


def _candidates(name: bytes, removed_s: float) -> list[bytes]:
    """Names to try, the best first."""
    date = time.strftime("%Y-%m-%d", time.gmtime(removed_s))
    suffixes = ["", f" (restored {date})", *(f" (restored {date} {number})" for number in range(2, _MOST_NAMES))]
    return [name[: MAX_NAME_BYTES - len(suffix)] + suffix.encode() for suffix in suffixes]
