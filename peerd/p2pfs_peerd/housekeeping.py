"""What a peer does in its store now and then: the trash is emptied, and what is stored is counted and kept.

Run by `composition`.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.errors import NoSpace, Unavailable

log = logging.getLogger(__name__)

_TRASH_EVERY_S: Final = 3600.0
_TALLY_EVERY_S: Final = 60.0
_LAST_TALLY_S: Final = 2.0


class Housekeeping:
    """`tidy` and `account` are tasks; what fails is a warning, and tried again."""

    def __init__(self, store: DirectoryStore, trash_keep_s: float) -> None:
        self._store = store
        self._trash_keep_s = trash_keep_s

    async def tidy(self) -> None:
        """Empty the trash of what has been there long enough, now and then; until cancelled."""
        while True:
            try:
                removed = await self._store.empty_trash(self._trash_keep_s)
                if removed:
                    log.info("emptied the trash of %d chunks", removed)
            except Unavailable as error:
                log.warning("cannot empty the trash: %s", error)
            await trio.sleep(min(_TRASH_EVERY_S, max(1.0, self._trash_keep_s / 10)))

    async def account(self) -> None:
        """Count what is stored, and keep the figures for the next start, at the end too; until cancelled.

        Cancellation: waits `_LAST_TALLY_S` at most to keep them.
        """
        try:
            await _warned(self._store.recount)
            while True:
                await _warned(self._store.keep_tally)
                await trio.sleep(_TALLY_EVERY_S)
        finally:
            with trio.move_on_after(_LAST_TALLY_S, shield=True):
                await _warned(self._store.keep_tally)


async def _warned(effort: Callable[[], Awaitable[None]]) -> None:
    try:
        await effort()
    except (NoSpace, Unavailable) as error:
        log.warning("cannot count, or keep, how much is stored: %s", error)
