"""Inodes that the coordinator keeps for this mount although they may have lost their last name: since when, until when.

By number, whether or not the inode is in memory. Who uses one is the inode table's to know: for a file, who opens it or
has it open; for everything else, whoever the kernel refers to it for, because who opens a pipe or stands in a directory
does not tell us. Nothing here reads or writes content.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Final

import trio

from p2pfs.errors import Fenced, NoSpace, NotFound, PoolError, Semantic, Unavailable
from p2pfs.meta.protocol import Namespace
from p2pfs.runtime.retry import backoff
from p2pfs.types import InodeId, Kind
from p2pfs.vfs.glimpses import Glimpse
from p2pfs.vfs.inode_table import InodeTable
from p2pfs.vfs.inodes import Inode, Signal
from p2pfs.wire.namespace import Opened, Operation, Released

log = logging.getLogger(__name__)

MOST_RELEASED: Final = 500
"""Inodes let go in one batch."""
MOST_CONFIRMED: Final = 32
"""Inodes claimed in one: the answer brings their attributes, with inline data."""


class Keeper:
    """What the coordinator keeps for this mount, as an inode goes through it:

    not kept ──a batch takes a name of one in use, and may be committed; or another mount did──▶ kept
    kept because of another mount, and used ──▶ claimed, or the coordinator lets it go after two lifetimes
    kept ──nobody uses it──▶ unused ──its turn──▶ releasing ──answered──▶ not kept
                             unused ◀──no answer── releasing
    kept ◀──used again────── unused

    While one is releasing or a name of it is being taken, opening it waits for the outcome and then asks whether it is
    still there; and a name of one is not taken while it is releasing. So the coordinator never sees this mount release
    what it began to use. It may be asked to release what it does not keep, which does nothing.
    """

    def __init__(self, namespace: Namespace, table: InodeTable) -> None:
        self._namespace, self._table = namespace, table
        self._kept: set[InodeId] = set()
        self._unused: dict[InodeId, None] = {}  # of those kept, in the order they are released
        self._unclaimed: dict[InodeId, None] = {}  # of the others, those the coordinator keeps on suspicion
        self._releasing: frozenset[InodeId] = frozenset()  # in the batch under way
        self._removing: Counter[InodeId] = Counter()  # batches under way that take a name
        self._news = Signal()

    def __repr__(self) -> str:
        return f"Keeper({len(self._kept)} kept, {len(self._unused)} unused, {len(self._releasing)} releasing)"

    # ---- using

    @asynccontextmanager
    async def opening(self, number: InodeId) -> AsyncIterator[None]:
        """The inode counts as used within the block, by the end of which it has a handle or was not opened.

        Raises NotFound: It lost its last name, and everybody here has closed it.
        """
        known = self._table.get(number)
        if known is not None and not known.attributes.links and not self._table.is_in_use(number):
            raise NotFound("the file has no name any more, and nobody here has it open")
        self._table.begin_opening(number)
        self._weigh(number)
        try:
            while number in self._releasing or number in self._removing:
                await self._news.wait()
            yield
        finally:
            self._table.end_opening(number)
            self._weigh(number)

    def check(self, inode: Inode) -> None:
        """Before an inode being opened is used. Raises NotFound: It lost its last name without being kept for us."""
        if not inode.attributes.links and inode.id not in self._kept:
            raise NotFound("the file lost its last name before it was open")

    def opened(self, inode: Inode) -> None:
        """One handle more."""
        inode.handles += 1
        self._weigh(inode.id)

    def closed(self, inode: Inode) -> None:
        """One handle less."""
        inode.handles -= 1
        self._weigh(inode.id)

    def refer(self, inode: Inode | Glimpse) -> None:
        """The kernel was told of the inode once more."""
        self._table.refer(inode)
        if inode.kind is not Kind.FILE:  # files are used by whoever opens them
            self._weigh(inode.id)

    def forget(self, number: InodeId, count: int) -> None:
        """The kernel gave `count` references back."""
        self._table.forget(number, count)
        self._weigh(number)

    # ---- keeping

    @asynccontextmanager
    async def removing(self, number: InodeId) -> AsyncIterator[list[Operation]]:
        """The block sends a batch that takes a name of the inode, perhaps its last. What is given belongs at the
        beginning of the batch: it has the inode kept if it is in use."""
        while number in self._releasing:
            await self._news.wait()
        keep: list[Operation] = [Opened(number)] if self._table.is_in_use(number) else []
        self._removing[number] += 1
        self._weigh(number)
        is_refused = False
        try:
            yield keep
        except Semantic:
            is_refused = True
            raise
        finally:
            if keep and not is_refused:  # also when nobody knows: then it may be
                self._kept.add(number)
            self._removing[number] -= 1
            if not self._removing[number]:
                del self._removing[number]
            self._news.pulse()
            self._weigh(number)

    def held(self, numbers: Iterable[InodeId]) -> None:
        """The coordinator says that it keeps these for a while: those in use are claimed, the others released."""
        for number in numbers:
            self._kept.add(number)
            self._claim_later(number)
            self._weigh(number)

    def _weigh(self, number: InodeId) -> None:
        """Sort it to the unused or to the others, after anything changed about it."""
        is_needed = number in self._removing or self._table.is_in_use(number)
        if is_needed or number not in self._kept:
            if number in self._unused:
                del self._unused[number]
                self._claim_later(number)  # the coordinator may keep it on suspicion only
        elif number not in self._unused:
            self._unclaimed.pop(number, None)
            self._unused[number] = None
            self._news.pulse()

    def _claim_later(self, number: InodeId) -> None:
        if self._table.is_in_use(number):
            self._unclaimed[number] = None
            self._news.pulse()

    # ---- releasing

    async def released(self) -> None:
        """Wait until nothing is left to release."""
        while self._unused or self._releasing:
            await self._news.wait()

    async def tell(self) -> None:
        """Tell the coordinator what is in use of what it keeps on suspicion, and what is not used any more: many at
        once, and until it has heard it. Until cancelled."""
        pauses = backoff(1.0, 30.0)
        while True:
            while not self._unused and not self._unclaimed:
                await self._news.wait()
            is_heard = not self._unclaimed or await self._claim(list(islice(self._unclaimed, MOST_CONFIRMED)))
            if self._unused:
                is_heard &= await self._release(list(islice(self._unused, MOST_RELEASED)))
            if is_heard:
                pauses = backoff(1.0, 30.0)
            else:
                await trio.sleep(next(pauses))

    async def _claim(self, batch: list[InodeId]) -> bool:
        """False if the coordinator may not have heard it."""
        try:
            await self._namespace.apply([Opened(number) for number in batch])
        except Unavailable as error:
            log.info("%d open inodes are claimed later: %s", len(batch), error)
            return False
        except (NotFound, NoSpace):
            if len(batch) > 1:  # one of them is gone, or is one too many: the others are not
                return all([await self._claim([number]) for number in batch])
        except PoolError as error:
            log.warning("%d open inodes cannot be claimed: %s", len(batch), error)
        for number in batch:
            self._unclaimed.pop(number, None)
        return True

    async def _release(self, batch: list[InodeId]) -> bool:
        """False if the coordinator may not have heard it."""
        self._releasing = frozenset(batch)
        self._kept -= self._releasing
        for number in batch:
            del self._unused[number]
        is_heard = False
        try:
            await self._namespace.apply([Released(number) for number in batch])
            is_heard = True
        except Unavailable as error:
            log.info("%d inodes are released later: %s", len(batch), error)
        except Fenced:
            is_heard = True  # they went with the session
        except PoolError as error:
            is_heard = True
            log.warning("%d inodes are kept until the session ends: %s", len(batch), error)
        finally:
            self._releasing = frozenset()
            if not is_heard:
                self._kept.update(batch)
            for number in batch:
                if not is_heard:
                    self._claim_later(number)
                self._weigh(number)
            self._news.pulse()
        return is_heard
