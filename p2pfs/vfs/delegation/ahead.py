"""Pages of directories that will be wanted soon, learnt before they are asked for: the rest of one that is being read,
and the next directories where a program walks. Only while the volume is delegated, when what is learnt stays right.

`Learning` says what it wants; `run` fetches it, beside the mount (`vfs.delegation.holding`).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import trio

from p2pfs.errors import PoolError
from p2pfs.types import InodeId

DIRECTORIES: Final = 8
"""Fetched ahead of a walk, in one request; each is at most one page, a MiB."""
MOST_UNDER_WAY: Final = 2
"""Batches on their way; what is wanted beyond that is not fetched ahead."""


class Wanted(NamedTuple):
    """A page: up to `limit` entries of a directory behind a dentry's number, files with or without their content."""

    directory: InodeId
    after: int
    limit: int
    content: bool


class Ahead:
    """What to learn ahead, a bounded number of pages."""

    def __init__(self, learn: Callable[[Wanted], Awaitable[object]]) -> None:
        self._learn = learn
        self._batches: list[Sequence[Wanted]] = []
        self._under_way = 0
        self._changed = trio.Event()

    def want(self, pages: Sequence[Wanted]) -> None:
        """Fetch them soon and together, unless there is enough to do."""
        if pages and len(self._batches) + self._under_way < MOST_UNDER_WAY:
            self._batches.append(pages)
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                batches, self._batches = self._batches, []
                for batch in batches:
                    self._under_way += 1
                    nursery.start_soon(self._fetch, batch)

    async def _fetch(self, batch: Sequence[Wanted]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for page in batch:
                    nursery.start_soon(self._fetch_page, page)
        finally:
            self._under_way -= 1

    async def _fetch_page(self, page: Wanted) -> None:
        try:
            await self._learn(page)
        except PoolError:
            return  # who needs it asks for it, and hears why
