"""Entries of directories as they are shown, and those shown last, to be shown again. For `tree`."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from p2pfs.types import MIB, DentryId, InodeId
from p2pfs.vfs.glimpses import Glimpse
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.known_names import Child
from p2pfs.wire.namespace import DirectoryPage, Entry

LISTED_BYTES: Final = 24 * MIB
"""Of directories listed last, opened and verified: about 20 000 entries without content."""
_PAGE_COST: Final = 400
_ENTRY_COST: Final = 1100
"""Bytes of memory for an entry, its row and a glimpse besides what is sealed in them; measured."""

KnownPage = Callable[[InodeId, DentryId, int], DirectoryPage | None]
"""As `Namespace.directory`, where that needs no waiting; else None. See `vfs.delegation`."""

Place = tuple[InodeId, DentryId]
"""A directory, and behind which of its entries a page begins."""


class Listed(NamedTuple):
    """One directory entry, with the cookie to go on behind it."""

    name: bytes
    cookie: DentryId
    inode: Inode | Glimpse


class OpenedAhead(NamedTuple):
    """A page that will be listed next, and what its first entries say: names, what they lead to, and glimpses
    of files. Verified, and nothing else came of it yet."""

    page: DirectoryPage
    entries: list[tuple[bytes, Child, Glimpse | None]]


class _Kept(NamedTuple):
    page: DirectoryPage
    listed: list[Listed]
    cost: int  # bytes


class Listings:
    """What pages of directories were made of, to give the same for the same page: a namespace that knows that nothing
    has changed gives the same object. Those used last, within a budget of bytes, sealed content included."""

    def __init__(self, most: int = LISTED_BYTES) -> None:
        self._pages: OrderedDict[Place, _Kept] = OrderedDict()
        self._most = most
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._pages)

    def get(self, place: Place, page: DirectoryPage) -> list[Listed] | None:
        """None when what is kept was not made of this page."""
        kept = self._pages.get(place)
        if kept is None or kept.page is not page:
            return None
        self._pages.move_to_end(place)
        return kept.listed

    def put(self, place: Place, page: DirectoryPage, listed: list[Listed]) -> None:
        """Keep it, in place of what was kept of there, unless it alone is more than the budget."""
        self.drop(place)
        cost = _PAGE_COST + sum(map(_cost, page.entries))
        if cost > self._most:
            return
        self._pages[place] = _Kept(page, listed, cost)
        self.bytes += cost
        while self.bytes > self._most:
            self.bytes -= self._pages.popitem(last=False)[1].cost

    def drop(self, place: Place) -> None:
        kept = self._pages.pop(place, None)
        if kept is not None:
            self.bytes -= kept.cost


def _cost(entry: Entry) -> int:
    row = entry.attributes
    return _ENTRY_COST + len(entry.name) + len(row.head) + len(row.inline or b"") + len(row.target or b"")
