"""Directories of the known part of a tree as pages: up to where their dentries are known, their order, and the page of
each that was told last. The half of `known` that only reads what is known.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Final

from p2pfs.meta.memory_rules import MemoryRules
from p2pfs.meta.memory_state import Name
from p2pfs.types import Kind
from p2pfs.wire.namespace import DirectoryPage, Entry

_TOLD_COST: Final = 100
"""Bytes of memory for an entry of a page that was told."""
_AROUND: Final = 64


@dataclass(frozen=True, slots=True)
class _Told:
    """A page that was told, and what it was made of."""

    page: DirectoryPage
    names: list[Name]
    order: list[tuple[int, bytes]]
    length: int
    after: int
    upto: float
    limit: int

    def answers(self, after: int, upto: float, limit: int) -> bool:
        """Whether it was made for this question, or for one whose answer is the same."""
        return (self.after, self.limit) == (after, limit) and (self.is_full or self.upto == upto)

    @property
    def is_full(self) -> bool:
        """It ends for its limit, so that what is known or made behind it changes nothing."""
        return len(self.names) == self.limit and not self.page.complete


class KnownPages(MemoryRules):
    """`bytes`: of memory that all of it takes, about."""

    def __init__(self) -> None:
        super().__init__(root_head=b"")
        self.bytes = 0
        self.clear_pages()

    def clear_pages(self) -> None:
        """Forget all of them."""
        self._covered: dict[int, float] = {}  # of a directory: all dentries up to this number are known
        self._order: dict[int, list[tuple[int, bytes]]] = {}
        self._place: dict[int, int] = {}  # of directories, the dentry they were found by
        self._told: dict[int, _Told] = {}  # of each directory, the page told last

    def forget_pages(self, directory: int) -> None:
        """Forget those of one directory, and where it was found."""
        self._covered.pop(directory, None)
        self._order.pop(directory, None)
        self._told.pop(directory, None)
        self._place.pop(directory, None)

    def covered(self, directory: int) -> float:
        """All dentries up to this number are known; inf when all are."""
        return self._covered.get(directory, 0)

    def told(self, directory: int) -> DirectoryPage | None:
        """The page of it that was told last."""
        told = self._told.get(directory)
        return None if told is None else told.page

    def has_behind(self, directory: int, after: int) -> bool:
        """Whether what follows there is known, or that nothing does."""
        upto = self.covered(directory)
        if upto == math.inf:
            return True
        order = self._sorted(directory)
        first = bisect_right(order, after, key=itemgetter(0))
        return first < len(order) and order[first][0] <= upto

    def ahead(self, directory: int, most: int) -> list[int]:
        """The directories behind this one in the directory it was found in, where whoever lists it walks: nothing
        before it is left out. Of a few entries around."""
        place, parent = self._place.get(directory), self._up.get(directory)
        if place is None or parent is None:
            return []
        order = self._sorted(parent)
        at = bisect_right(order, place, key=itemgetter(0))
        before = next(self._directories(parent, order[max(0, at - 1 - _AROUND) : max(0, at - 1)][::-1]), None)
        if before is not None and self.covered(before) < math.inf:
            return []
        return list(islice(self._directories(parent, order[at : at + _AROUND]), most))

    def first_below(self, page: DirectoryPage, most: int) -> list[int]:
        """The first directories of a page."""
        below = (entry.attributes.inode for entry in page.entries if entry.attributes.kind == Kind.DIRECTORY)
        return list(islice(below, most))

    def _directories(self, parent: int, places: Sequence[tuple[int, bytes]]) -> Iterator[int]:
        rows = (self._inodes.get(self._names[parent][name].inode) for _, name in places)
        return (row.inode for row in rows if row is not None and row.kind == Kind.DIRECTORY)

    def page(self, directory: int, after: int, upto: float, limit: int) -> tuple[DirectoryPage, list[int]]:
        """As `between`, up to `limit`: the same object as last time while it is the same."""
        told = self._told.get(directory)
        if told is not None and told.answers(after, upto, limit) and self._is_still(directory, told):
            return told.page, []
        found, lacking = self.between(directory, after, upto, limit + 1)
        page = DirectoryPage(found[:limit], upto == math.inf and len(found) <= limit)
        if not lacking:
            self._tell(directory, page, after, upto, limit)
        return page, lacking

    def _tell(self, directory: int, page: DirectoryPage, after: int, upto: float, limit: int) -> None:
        old = self._told.get(directory)
        self.bytes += _TOLD_COST * (len(page.entries) - (len(old.names) if old is not None else 0))
        names, order = self._names.get(directory, {}), self._sorted(directory)
        made_of = [names[entry.name] for entry in page.entries]
        self._told[directory] = _Told(page, made_of, order, len(order), after, upto, limit)

    def _is_still(self, directory: int, told: _Told) -> bool:
        if self._order.get(directory) is not told.order:
            return False
        if len(told.order) != told.length and not told.is_full:  # of the same list, what was there stays
            return False
        names, rows = self._names[directory], self._inodes
        return all(
            names.get(entry.name) is name and rows.get(name.inode) is entry.attributes
            for name, entry in zip(told.names, told.page.entries, strict=True)
        )

    def between(self, directory: int, after: int, upto: float, limit: int) -> tuple[list[Entry], list[int]]:
        """The known entries with numbers above `after`, ascending, up to `upto`; and the inodes of those among them
        whose attributes are not known."""
        names, order = self._names.get(directory, {}), self._sorted(directory)
        first = bisect_right(order, after, key=itemgetter(0))
        found, lacking = [], []
        for dentry, name in order[first : first + limit]:
            if dentry > upto:
                break
            known = names[name]
            row = self._inodes.get(known.inode)
            if row is None:
                lacking.append(known.inode)
            else:
                found.append(Entry(dentry, name, known.tag, row))
        return found, lacking

    def _sorted(self, directory: int) -> list[tuple[int, bytes]]:
        order = self._order.get(directory)
        if order is None:
            names = self._names.get(directory, {})
            order = sorted(((known.dentry, name) for name, known in names.items()), key=itemgetter(0))
            self._order[directory] = order
        return order

    def _put_in_order(self, directory: int, new: list[tuple[int, bytes]]) -> None:
        """Pages come one behind the other: a long directory is not sorted again for each."""
        new.sort()
        order = self._order.get(directory)
        if order is not None and new and (not order or order[-1][0] < new[0][0]):
            order.extend(new)
        elif new:
            self._order.pop(directory, None)
