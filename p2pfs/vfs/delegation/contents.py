"""The content of small files that were listed without it. Who reads one after a listing will read those listed behind
it: they come along, more of them the longer that goes on, and for a while listings bring the content themselves.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import trio

from p2pfs.errors import NotDirectory, NotFound, PoolError
from p2pfs.meta.protocol import Delegable
from p2pfs.types import KIB, DentryId, InodeId
from p2pfs.wire.namespace import Attributes

FIRST: Final = 16
"""Entries asked for with the first file of a directory; then `MORE` times as many each time, up to `MOST`."""
MORE: Final = 4
MOST: Final = 256
MOST_RUNS: Final = 8
"""Directories whose files are read at once."""
UNREAD_BYTES: Final = 512 * KIB
"""Of a directory, fetched and not read yet, a page more at most; then files are asked for alone. What was fetched stays
until it is read, so whatever the order, little is fetched twice."""
READ_S: Final = 30.0
"""After the content of a listed file was asked for, listings bring it for so long."""


class _Run:
    """Files of one directory that are read: what was fetched, until it is read and something else is fetched."""

    __slots__ = ("count", "failures", "fetching", "has_more", "rows", "unread", "unread_bytes")

    def __init__(self) -> None:
        self.rows: dict[int, Attributes] = {}
        self.unread: set[int] = set()
        self.unread_bytes = 0
        self.count = FIRST // MORE  # entries of the last page that was asked for
        self.has_more = True  # behind that page
        self.failures = 0
        self.fetching = trio.Lock()

    def read(self, inode: int) -> Attributes | None:
        row = self.rows.get(inode)
        if inode in self.unread:
            self.unread.remove(inode)
            self.unread_bytes -= _size(row)
        return row

    def next_count(self) -> int:
        """How many entries to ask for: more each time as long as most of what came was read."""
        return min(MORE * self.count, MOST) if self.has_more and 2 * len(self.unread) <= self.count else FIRST

    def took(self, count: int, rows: Sequence[Attributes], *, has_more: bool) -> None:
        self.rows = {inode: self.rows[inode] for inode in self.unread}
        for row in rows:
            self.unread_bytes += _size(row) - _size(self.rows.get(row.inode))
            self.unread.add(row.inode)
            self.rows[row.inode] = row
        self.count, self.has_more = count, has_more


def _size(row: Attributes | None) -> int:
    return len(row.inline or b"") if row is not None else 0


class Contents:
    """`place_of` says in which directory, and with which dentry, a file was listed without its content."""

    def __init__(self, inner: Delegable, place_of: Callable[[int], tuple[int, int] | None]) -> None:
        self._inner, self._place_of = inner, place_of
        self._runs: OrderedDict[int, _Run] = OrderedDict()
        self._read_until_s = 0.0

    @property
    def are_read(self) -> bool:
        """Whether listed files are being read."""
        return trio.current_time() < self._read_until_s

    async def of(self, row: Attributes) -> bytes | None:
        """The inline data of an inode as that row says it; None if it must be asked for alone. Raises what asking for
        a listing raises."""
        self._read_until_s = trio.current_time() + READ_S
        place = self._place_of(row.inode)
        if place is None:
            return None
        directory, dentry = place
        run = self._run(directory)
        if row.inode not in run.rows:
            failures = run.failures
            async with run.fetching:
                if run.failures != failures:
                    return None  # what was waited for came to nothing: the next in turn need not wait for it again
                if row.inode not in run.rows and run.unread_bytes < UNREAD_BYTES:
                    await self._fetch(run, directory, dentry)
        told = run.read(row.inode)
        return told.inline if told is not None and told.change == row.change else None

    def _run(self, directory: int) -> _Run:
        run = self._runs.setdefault(directory, _Run())
        self._runs.move_to_end(directory)
        if len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        return run

    async def _fetch(self, run: _Run, directory: int, dentry: int) -> None:
        count = run.next_count()
        try:
            page = await self._inner.directory(InodeId(directory), DentryId(dentry - 1), count, content=True)
        except (NotFound, NotDirectory):  # the file was moved before
            return
        except PoolError:
            run.failures += 1
            raise
        run.took(
            count, [entry.attributes for entry in page.entries if entry.attributes.inline], has_more=not page.complete
        )
