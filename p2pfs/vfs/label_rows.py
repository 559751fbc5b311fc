"""What the coordinator tells of labels and names, opened and checked. Called by `labels` and `search`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from p2pfs.errors import Corrupt, NotFound
from p2pfs.format.heads import Head, open_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.search import Label, open_label
from p2pfs.meta.protocol import Namespace
from p2pfs.types import InodeId, VolumeId
from p2pfs.vfs.paths import Paths, names
from p2pfs.wire.found import MOST_PLACES, Labelled, Place
from p2pfs.wire.namespace import Entry

AT_ONCE: Final = 100
"""Labels asked for, or set, in one go."""


class LabelRows:
    """Rows of one volume."""

    def __init__(self, keys: VolumeKeys, volume: VolumeId, namespace: Namespace) -> None:
        self._keys, self._volume, self._namespace = keys, volume, namespace

    async def one(self, number: InodeId) -> Labelled:
        """Raises NotFound."""
        found = await self.some([number])
        if not found:
            raise NotFound("there is no such inode")
        return found[0]

    async def some(self, numbers: Sequence[InodeId]) -> list[Labelled]:
        """Those that have a name. Raises Corrupt when others are told of."""
        found: list[Labelled] = []
        left = list(numbers)
        while left:
            page = await self._namespace.labels(left)
            if page.done < 1 or not {row.attributes.inode for row in page.rows} <= set(left):
                raise Corrupt("the coordinator tells of other inodes than were asked for")
            found += page.rows
            left = left[page.done :]
        return found

    def label(self, row: Labelled) -> Label:
        """What is said of it. Raises Corrupt: it is not what a member sealed."""
        if not row.sealed:
            return Label()
        return open_label(self._keys, self._volume, InodeId(row.attributes.inode), row.sealed)

    def readable(self, row: Labelled) -> Label | None:
        """As `label`; None if it is not what a member sealed."""
        try:
            return self.label(row)
        except Corrupt:
            return None

    def head(self, row: Labelled) -> Head:
        """Raises Corrupt."""
        return open_head(self._keys, self._volume, InodeId(row.attributes.inode), row.attributes.head)

    async def places(self, row: Labelled) -> AsyncGenerator[Place, None]:
        """Its names, of which the row has the first few."""
        for place in row.places:
            yield place
        if len(row.places) < MOST_PLACES:
            return
        last = row.places[-1]
        behind = names(self._namespace, row.attributes.inode, (last.parent, last.dentry))
        async with aclosing(behind) as others:
            async for named in others:
                yield Place(named.parent, named.entry.dentry, named.entry.name, named.entry.tag)

    def name(self, row: Labelled, place: Place) -> bytes:
        """Raises Corrupt."""
        return Paths(self._keys, self._volume, self._namespace).name(place.parent, entry(row, place))


def entry(row: Labelled, place: Place) -> Entry:
    """The dentry that a name of the row is."""
    return Entry(place.dentry, place.name, place.tag, row.attributes)
