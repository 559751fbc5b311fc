"""What is not known of the tree yet is asked for, and what will be wanted next meanwhile. For `delegated`.

An answer is taken in only if what is known was not cleared since it was asked for, and nobody changes the inode.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from p2pfs.errors import NotFound, PoolError
from p2pfs.meta.protocol import Delegable
from p2pfs.types import DentryId, InodeId
from p2pfs.vfs.delegation.ahead import DIRECTORIES, Ahead, Wanted
from p2pfs.vfs.delegation.contents import Contents
from p2pfs.vfs.delegation.known import KnownTree, Need, NeedListing, NeedName, NeedRow
from p2pfs.wire.namespace import DirectoryPage, Entry

AHEAD: Final = 128
"""Entries of a directory that come with a lookup in it."""

BELOW: Final = 2
"""Directories of one that is listed which are fetched ahead: whoever walks goes on with them, and whoever does not has
asked for little in vain."""


class Learning:
    """Fills `known`. `holds`: whether what is known counts; `answers`: for this inode, too. Nothing is fetched ahead
    once more than `known_bytes` are known."""

    def __init__(
        self,
        inner: Delegable,
        known: KnownTree,
        *,
        holds: Callable[[], bool],
        answers: Callable[[int], bool],
        known_bytes: int,
    ) -> None:
        self._inner, self._known, self._known_bytes = inner, known, known_bytes
        self._holds, self._answers = holds, answers
        self._under_way: dict[tuple[InodeId, int], trio.Event] = {}  # pages
        self.ahead = Ahead(self._ahead)
        self.contents = Contents(inner, known.place_of_untold)

    async def learn(self, need: Need) -> None:
        """Whatever it is. Raises PoolError."""
        match need:
            case NeedRow(inode):
                await self.row(InodeId(inode))
            case NeedName(parent, name):
                await self.name(InodeId(parent), name)
            case NeedListing(directory):
                await self._more(InodeId(directory))

    async def row(self, inode: InodeId) -> None:
        """An inode's attributes, or that it is gone."""
        generation, asked = self._known.generation, self._known.moment
        try:
            row = await self._inner.attributes(inode)
        except NotFound:
            if self._known.generation == generation:
                self._known.take_gone(inode, asked)
            return
        if self._known.generation == generation:
            self._known.take_row(row, asked)

    async def name(self, parent: InodeId, name: bytes) -> None:
        """With the next entries of the directory: who asks for one will ask for others."""
        generation, asked = self._known.generation, self._known.moment
        found: Entry | PoolError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._row_too, parent)
            nursery.start_soon(self._more, parent)
            try:
                found = await self._inner.lookup(parent, name)
            except PoolError as error:
                found = error  # raised out here: a nursery would wrap it
        if isinstance(found, PoolError) and not isinstance(found, NotFound):
            raise found
        if self._known.generation != generation or not self._holds():
            return
        if isinstance(found, Entry):
            self._known.take_entry(parent, found, asked)
        elif self._known.row(parent) is not None:
            self._known.take_absent(parent, name, asked)
        else:
            raise found

    async def _row_too(self, directory: InodeId) -> None:
        with suppress(PoolError):  # who needs it asks for something else too, and hears why
            if self._known.row(directory) is None:
                await self.row(directory)

    async def _more(self, directory: InodeId) -> None:
        """The directory's next entries."""
        after = self._known.covered(directory)
        if after < math.inf:
            with suppress(PoolError):
                await self.page(Wanted(directory, int(after), AHEAD, content=True))

    async def listing(self, directory: InodeId, after: int, limit: int) -> float:
        """As `page`, for a listing: what comes with it depends on whether files that were listed are read."""
        return await self.page(self._wanted(directory, after, limit))

    def _wanted(self, directory: int, after: int, limit: int) -> Wanted:
        return Wanted(InodeId(directory), after, limit, self.contents.are_read)

    async def page(self, wanted: Wanted) -> float:
        """Entries of a directory; up to which number they were told. 0 if that may not be so any more, or if somebody
        else was learning it, which was waited for."""
        place = wanted.directory, wanted.after
        if place in self._under_way:
            await self._under_way[place].wait()
            return 0
        learnt = self._under_way[place] = trio.Event()
        try:
            generation, asked = self._known.generation, self._known.moment
            page = await self._inner.directory(
                wanted.directory, DentryId(wanted.after), wanted.limit, content=wanted.content
            )
            if self._known.generation != generation or not self._answers(wanted.directory):
                return 0
            return self._known.take_page(wanted.directory, wanted.after, page, asked)
        finally:
            del self._under_way[place]
            learnt.set()

    async def _ahead(self, wanted: Wanted) -> None:
        if self._answers(wanted.directory) and not self._known.has_behind(wanted.directory, wanted.after):
            await self.page(wanted)

    def look_ahead(self, directory: InodeId, page: DirectoryPage, limit: int) -> None:
        """A page is given away; what will be wanted next is fetched meanwhile."""
        known = self._known
        if known.bytes > self._known_bytes:
            return
        self._want(known.first_below(page, BELOW), limit)
        if page.complete:
            following = known.ahead(directory, DIRECTORIES)
            missing = [number for number in following if known.covered(number) < math.inf]
            if len(missing) > DIRECTORIES // 2 or len(following) < DIRECTORIES:  # a few at once, not one each time
                self._want(missing, limit)
        elif page.entries and not known.has_behind(directory, page.entries[-1].dentry):
            self.ahead.want([self._wanted(directory, page.entries[-1].dentry, limit)])

    def _want(self, directories: Sequence[int], limit: int) -> None:
        pages = [(number, self._known.covered(number)) for number in directories]
        self.ahead.want([self._wanted(number, int(upto), limit) for number, upto in pages if upto < math.inf])
