"""Until when inodes are kept, as their mount sees and sets it; and how a lease is written as an extended attribute.

A lease is the coordinator's to keep: it is an attribute outside the sealed head, in absolute UTC seconds, 0 for ever.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from p2pfs.errors import Invalid, NotFound
from p2pfs.format.heads import open_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.protocol import Namespace
from p2pfs.runtime.sizes import parse_span
from p2pfs.types import InodeId, Kind, VolumeId
from p2pfs.vfs.below import pages_below
from p2pfs.vfs.paths import Paths, is_below, names
from p2pfs.vfs.tree import Tree
from p2pfs.wire.leases import SetLease
from p2pfs.wire.namespace import Named

EXPIRES: Final = b"user.p2pfs.expires"
FOR_EVER: Final = 0
LATEST_S: Final = 1 << 62
PAGE: Final = 500
AT_ONCE: Final = 200
"""Inodes in one batch."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """Something whose lease ends, with one of its paths from the volume's root."""

    inode: int
    path: bytes
    kind: Kind
    size: int
    expires_s: int  # UTC


class Leases:
    """The leases of one volume."""

    def __init__(self, keys: VolumeKeys, volume: VolumeId, namespace: Namespace, tree: Tree) -> None:
        self._keys, self._volume, self._namespace, self._tree = keys, volume, namespace, tree

    async def of(self, number: InodeId) -> int:
        """Until when it is kept. Raises NotFound."""
        return (await self._tree.inode(number)).attributes.expires_s

    async def set_one(self, number: InodeId, expires_s: int) -> None:
        """Committed on return. Raises NotFound."""
        await self._apply([SetLease(number, expires_s)])

    async def change(
        self,
        number: InodeId,
        new: Callable[[int], int],
        show: Callable[[int], Awaitable[None]],
        *,
        is_deep: bool,
    ) -> None:
        """Give an inode, and `is_deep` everything below it, the lease that `new` makes of the old one. Directories
        first, so that what is made in them meanwhile has it too. `show` is told how many it was, now and then. What is
        removed meanwhile is left out."""
        top = (await self._tree.inode(number)).attributes
        done = await self._set([(number, top.expires_s)], new)
        if is_deep and top.kind == Kind.DIRECTORY:
            async with aclosing(pages_below(self._namespace, number, limit=PAGE)) as pages:
                async for entries, _ in pages:
                    rows = [entry.attributes for entry in entries]
                    done += await self._set([(InodeId(row.inode), row.expires_s) for row in rows], new)
                    await show(done)
        await show(done)

    async def look(self, before_s: int, below: bytes, show: Callable[[Expiring], Awaitable[None]]) -> None:
        """Show what is below a path and has a lease that ends before then, the first first. Raises Corrupt."""
        paths = Paths(self._keys, self._volume, self._namespace)
        after, complete = (0, 0), False
        while not complete:
            page = await self._namespace.expiring(before_s, after, PAGE)
            for row in page.rows:
                of = row.entry.attributes
                after = of.expires_s, of.inode
                path = await self._path(paths, row, below)
                if path is not None:
                    head = open_head(self._keys, self._volume, InodeId(of.inode), of.head)
                    await show(Expiring(of.inode, path, head.kind, head.size, of.expires_s))
            complete = page.complete or not page.rows

    async def _path(self, paths: Paths, row: Named, below: bytes) -> bytes | None:
        """Of the name it was told with, or of another one that is below."""
        path = await paths.of_entry(row.parent, row.entry) if row.entry.name else b""
        if is_below(path, below):
            return path
        of = row.entry.attributes
        if of.links > 1 and of.kind != Kind.DIRECTORY:
            async with aclosing(names(self._namespace, of.inode)) as every:
                async for named in every:
                    path = await paths.of_entry(named.parent, named.entry)
                    if is_below(path, below):
                        return path
        return None

    async def _set(self, found: Sequence[tuple[InodeId, int]], new: Callable[[int], int]) -> int:
        """How many there were."""
        operations = [SetLease(number, new(old)) for number, old in found if new(old) != old]
        gone = 0
        for first in range(0, len(operations), AT_ONCE):
            some = operations[first : first + AT_ONCE]
            try:
                await self._apply(some)
            except NotFound:
                gone += sum([not await self._set_if_there(operation) for operation in some])
        return len(found) - gone

    async def _set_if_there(self, operation: SetLease) -> bool:
        try:
            await self._apply([operation])
        except NotFound:
            return False
        return True

    async def _apply(self, operations: Sequence[SetLease]) -> None:
        self._tree.took(await self._namespace.apply(operations))


def extended(old_s: int, now_s: int, span_s: int) -> int:
    """The lease that lasts so much longer; from now on if it is over, and for ever if it was."""
    return FOR_EVER if old_s == FOR_EVER else max(old_s, now_s) + span_s


def written(expires_s: int) -> bytes:
    """A lease as the value of an extended attribute: "never", or a time."""
    if expires_s == FOR_EVER:
        return b"never"
    try:
        return datetime.fromtimestamp(expires_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return b"@%d" % expires_s


def parsed(value: bytes, now_s: float) -> int:
    """What somebody wrote there: "+30d" or "30d" from now, "never", or a time. Raises Invalid."""
    try:
        text = value.decode().strip().rstrip("\0")
    except UnicodeDecodeError:
        raise Invalid("this is no time") from None
    if text == "never":
        return FOR_EVER
    expires_s = _moment(text, now_s)
    if not 0 < expires_s <= LATEST_S:
        raise Invalid(f"no lease ends at “{text}”")
    return expires_s


def _moment(text: str, now_s: float) -> int:
    if text.startswith("@") and text[1:].isdecimal() and len(text) < 22:
        return int(text[1:])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return int(now_s + parse_span(text.removeprefix("+")))
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
