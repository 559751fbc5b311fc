"""The content of small files that were listed without it. Who reads one after a listing will read those listed behind
it: they come along, more of them the longer that goes on, and for a while listings bring the content themselves.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

from p2pfs.errors import NotDirectory, NotFound
from p2pfs.meta.protocol import Delegable
from p2pfs.types import DentryId, InodeId
from p2pfs.wire.namespace import Attributes

FIRST: Final = 16
"""Entries asked for with the first file of a directory; then `MORE` times as many each time, up to `MOST`."""
MORE: Final = 4
MOST: Final = 256
MOST_RUNS: Final = 8
"""Directories whose files are read at once; of each one page is kept, a MiB at most."""
READ_S: Final = 30.0
"""After the content of a listed file was asked for, listings bring it for so long."""


class _Run:
    """Files of one directory that are read one behind the other: the page that was fetched last."""

    __slots__ = ("count", "fetching", "last", "rows")

    def __init__(self) -> None:
        self.rows: dict[int, Attributes] = {}
        self.last = 0  # dentry that was told
        self.count = FIRST // MORE
        self.fetching = trio.Lock()


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
        async with run.fetching:
            if row.inode not in run.rows:
                await self._fetch(run, directory, dentry)
            told = run.rows.get(row.inode)
        return told.inline if told is not None and told.change == row.change else None

    def _run(self, directory: int) -> _Run:
        run = self._runs.setdefault(directory, _Run())
        self._runs.move_to_end(directory)
        if len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        return run

    async def _fetch(self, run: _Run, directory: int, dentry: int) -> None:
        run.count = min(MORE * run.count, MOST) if dentry > run.last else FIRST
        try:
            page = await self._inner.directory(InodeId(directory), DentryId(dentry - 1), run.count, content=True)
        except (NotFound, NotDirectory):  # the file was moved before
            return
        run.rows = {entry.attributes.inode: entry.attributes for entry in page.entries if entry.attributes.inline}
        run.last = page.entries[-1].dentry if page.entries else dentry
