"""Where inodes are: paths of what has a name, and of what is in the trash. Every name was checked against its seal.

For commands that speak of paths about what the coordinator knows by number only. Nothing is remembered beyond one
command: make one for each.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from typing import Final

import trio

from p2pfs.errors import Corrupt, NotFound, PoolError
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import check_tag, open_name
from p2pfs.meta.protocol import Namespace
from p2pfs.types import ROOT_INODE, InodeId, Kind, VolumeId
from p2pfs.wire.namespace import Attributes, Entry, Named, TrashRow

LOST: Final = b"\xe2\x80\xa6"
"""Stands for a directory that is gone (…)."""
_PAGE: Final = 500
_DEEPEST: Final = 4096


class Paths:
    """Paths from the volume's root, without a leading slash; the root is empty."""

    def __init__(self, keys: VolumeKeys, volume: VolumeId, namespace: Namespace) -> None:
        self._keys, self._volume, self._namespace = keys, volume, namespace
        self._known: dict[int, bytes] = {ROOT_INODE: b""}
        self._places: dict[int, tuple[int, bytes] | None] = {}  # learnt ahead

    def name(self, parent: int, entry: Entry) -> bytes:
        """The name in a dentry. Raises Corrupt."""
        name = open_name(self._keys, self._volume, InodeId(parent), entry.name)
        kind, number = _kind(entry.attributes), InodeId(entry.attributes.inode)
        check_tag(self._keys, self._volume, InodeId(parent), name, number, kind, entry.tag)
        return name

    async def of_entry(self, parent: int, entry: Entry) -> bytes:
        """The path of a dentry."""
        return joined(await self.of_directory(parent), self.name(parent, entry))

    async def of_directory(self, number: int) -> bytes:
        """Where a directory is, or was when it went to the trash."""
        chain: list[tuple[int, bytes]] = []
        at = number
        while at not in self._known:
            place = await self._place(at)
            if place is None:
                self._known[at] = LOST
                break
            chain.append((at, place[1]))
            at = place[0]
            if len(chain) > _DEEPEST:
                raise Corrupt(f"inode {number}: the directories above it go round in a circle")
        for inode, name in reversed(chain):
            self._known[inode] = joined(self._known[at], name)
            at = inode
        return self._known[number]

    async def learn(self, directories: Iterable[int]) -> None:
        """Ask where all of these are, those of one level at once: one after the other is a round trip each."""
        level = {number for number in directories if number not in self._known}
        for _ in range(_DEEPEST):
            level -= self._known.keys() | self._places.keys()
            if not level:
                return
            async with trio.open_nursery() as nursery:
                for number in level:
                    nursery.start_soon(self._learn, number)
            found = (self._places.get(number) for number in level)
            level = {place[0] for place in found if place is not None}

    async def _learn(self, number: int) -> None:
        with suppress(PoolError):  # who asks for the path hears of it
            self._places[number] = await self._place(number)

    async def _place(self, number: int) -> tuple[int, bytes] | None:
        """(parent, name) of a directory; None if it is gone."""
        if number in self._places:
            return self._places[number]
        found: Sequence[Named | TrashRow | None] = ()
        with suppress(NotFound):
            found = await self._namespace.names(InodeId(number))
        named = (
            found[0] if found else await trashed(self._namespace, number)
        )  # one without names is kept open somewhere
        return None if named is None else (named.parent, self.name(named.parent, named.entry))


async def names(namespace: Namespace, number: int, after: tuple[int, int] = (0, 0)) -> AsyncGenerator[Named, None]:
    """All names of an inode behind one (parent, dentry), asked for in pages; none of what is gone."""
    while True:
        try:
            page = await namespace.names(InodeId(number), after)
        except NotFound:
            return
        last = max(((named.parent, named.entry.dentry) for named in page), default=after)
        if last <= after:  # an earlier coordinator tells the first ones again
            return
        after = last
        for named in page:
            yield named


async def trashed(namespace: Namespace, number: int) -> TrashRow | None:
    """The inode's row, if it is in the trash."""
    page = await namespace.trash(number - 1, 1)
    found = page.rows[0] if page.rows else None
    return found if found is not None and found.entry.attributes.inode == number else None


def joined(above: bytes, name: bytes) -> bytes:
    """A path one name longer."""
    return above + b"/" + name if above else name


def is_below(path: bytes, top: bytes) -> bool:
    """Whether a path is `top` or in it; the root is empty."""
    return not top or path == top or path.startswith(top + b"/")


def _kind(attributes: Attributes) -> Kind:
    try:
        return Kind(attributes.kind)
    except ValueError:
        raise Corrupt(f"inode {attributes.inode}: the coordinator gives it a kind that there is not") from None
