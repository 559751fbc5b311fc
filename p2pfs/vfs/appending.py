"""Appending: where the bytes of an O_APPEND write go, and where they must go when another mount appended too.

A mount lays them behind the end it knows and goes on. When they are committed the file may end elsewhere: then they
move there before they become content (`Unsaved.move_appended`), so that records of several mounts all survive, each in
one piece. Pure bookkeeping; `Inode` has it, writer and committer follow it.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

PAGE_BYTES: Final = 4096
DELIVERED_S: Final = 5.0
"""After so long the kernel has taken in what it was told, unless a write of its own overtook it."""
MOST_TOLD: Final = 16
"""Sizes remembered as told; of more, the oldest count as the smaller one."""


class _Told(NamedTuple):
    when: float
    size: int
    is_sure: bool  # no write of the kernel's own overtook it


@dataclass(slots=True)
class Appended:
    """Unsaved bytes start…end of a file that were appended one behind the other: they belong wherever the file ends
    when they are committed.

    `floor` is where this mount's other unsaved bytes ended when the first was appended, 0 without such: the file ends
    there at least.
    """

    start: int
    end: int
    floor: int


def place(regions: list[Appended], length: int, *, size: int, unsaved_end: int) -> int:
    """The offset of `length` bytes appended now to a file of `size` with unsaved writes."""
    last = regions[-1] if regions else None
    if last is None or unsaved_end > last.end:  # bytes written by position lie behind, and do not move
        offset = size if last is None else unsaved_end
        last = Appended(offset, offset, unsaved_end)
        regions.append(last)
    offset = last.end
    last.end += length
    return offset


def shifts(regions: list[Appended], stored_size: int) -> list[tuple[Appended, int]]:
    """Which regions are elsewhere than where the file ends now, and how far they must move."""
    found = []
    end = stored_size
    for region in regions:
        by = max(end, region.floor) - region.start
        if by:
            found.append((region, by))
        end = max(end, region.end + by)
    return found


def committed(regions: list[Appended], size: int) -> None:
    """A commit of this mount made the file `size` bytes long."""
    for region in regions:
        region.start = max(region.start, min(size, region.end))
        if size >= region.floor:
            region.floor = 0
    regions[:] = [region for region in regions if region.start < region.end]


class KernelSize:
    """What the kernel may take the size of a file to be: an answer on its way may count or not, and its own writes
    count at once."""

    def __init__(self) -> None:
        self._told: list[_Told] = []  # the oldest still in doubt
        self._wrote_s = -math.inf

    @property
    def newest(self) -> int:
        """What it was told or wrote last; 0 before that."""
        return self._told[-1].size if self._told else 0

    def tell(self, size: int, now: float) -> None:
        """The kernel is told; it passes over what its own writes overtake."""
        is_sure = now - self._wrote_s > DELIVERED_S
        if self._told and self._told[-1].size == size:
            if is_sure and not self._told[-1].is_sure:
                self._told[-1] = _Told(now, size, is_sure)
            return
        self._told.append(_Told(now, size, is_sure))
        if len(self._told) > MOST_TOLD:
            first, second = self._told[:2]
            self._told[:2] = [_Told(second.when, min(first.size, second.size), False)]

    def wrote(self, end: int, now: float, *, is_end: bool) -> None:
        """The kernel wrote up to `end`, which with `is_end` is what it takes the size to be."""
        self._wrote_s = now
        known = [] if is_end else [told._replace(size=max(told.size, end)) for told in self._told]
        self._told = known or [_Told(now, end, True)]

    def is_page(self, offset: int, length: int, now: float) -> bool:
        """Whether a write through a handle that appends is none for certain: a page of a shared mapping comes through
        whichever handle there is, and stays where it is. An append starts at the end."""
        while len(self._told) > 1 and self._told[1].is_sure and self._told[1].when < now - DELIVERED_S:
            del self._told[0]
        at_least = min((told.size for told in self._told), default=-1)
        return offset % PAGE_BYTES == 0 and offset + length <= at_least
