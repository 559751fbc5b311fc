"""What other mounts changed: taken in as the coordinator tells it, and handed on to the kernel's cache.

Nothing depends on its coming: names and attributes are asked for anew after a second, content at each open. It makes
that sooner, and it keeps files alive that are open here when another mount takes their last name (docs/adr/0004).
"""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from p2pfs.errors import Corrupt, Fenced, Misuse, NotFound, PoolError, Unavailable
from p2pfs.meta.protocol import MAX_HELD, Namespace
from p2pfs.runtime.retry import backoff
from p2pfs.types import InodeId
from p2pfs.vfs.inode_table import InodeTable
from p2pfs.vfs.keeping import Keeper
from p2pfs.vfs.tree import Tree
from p2pfs.wire.events import ChangedInode, ChangedName, Events

log = logging.getLogger(__name__)

WAIT_S: Final = 20.0
"""How long a request for news waits at the coordinator."""
PAUSE_S: Final = 1.0
"""After one that was not answered."""
MOST_EVENTS: Final = 20_000
"""Of one answer; the coordinator keeps 10 000 for a session."""
NAMES_AT_ONCE: Final = 500
"""Opened before others have their turn."""
ASKED_AT_ONCE: Final = 64
LONGEST_PAUSE_S: Final = 60.0
"""After several that were refused: this node was revoked, say."""


class KernelCache(Protocol):
    """What the kernel remembers of the volume and should forget. Both return at once."""

    def stale_inode(self, inode: InodeId, *, content: bool) -> None:
        """Its attributes, and its pages if `content`."""
        ...

    def stale_name(self, parent: InodeId, name: bytes) -> None:
        """What the name leads to."""
        ...


class NoKernelCache:
    """For volumes used without a kernel."""

    def stale_inode(self, inode: InodeId, *, content: bool) -> None:
        """See KernelCache."""

    def stale_name(self, parent: InodeId, name: bytes) -> None:
        """See KernelCache."""


class News:
    """Follows the other mounts of one volume.

    The next request for news says that the last answer is known, so one that could not be taken in is lost like one
    that never came: then everything that is remembered is distrusted, until that has worked.
    """

    def __init__(
        self, namespace: Namespace, table: InodeTable, tree: Tree, keeper: Keeper, kernel: KernelCache
    ) -> None:
        self._namespace, self._table, self._tree = namespace, table, tree
        self._keeper, self._kernel = keeper, kernel
        self._is_lost = False

    async def follow(self) -> None:
        """Runs until cancelled, or until the session is over. Trouble is logged when it begins, changes and ends."""
        trouble: type[Exception] | None = None
        while True:
            try:
                await self._follow_once()
            except Fenced:
                return
            except Exception as error:  # whatever the coordinator says must not end the mount
                is_away = isinstance(error, Unavailable)
                if type(error) is not trouble:
                    trouble = type(error)
                    pauses = backoff(PAUSE_S, PAUSE_S if is_away else LONGEST_PAUSE_S)
                    level, bug = logging.INFO if is_away else logging.WARNING, not isinstance(error, PoolError)
                    log.log(level, "no news of other mounts can be had: %s", error, exc_info=bug)
                await trio.sleep(next(pauses))
            else:
                if trouble is not None:
                    log.info("news of other mounts come through again")
                trouble = None

    async def _follow_once(self) -> None:
        if self._is_lost:
            await self._distrust()
            self._is_lost = False
            await trio.sleep(PAUSE_S)  # a coordinator that says so again and again must not keep us busy
        asked = trio.current_time()
        events = await self._namespace.events(WAIT_S)
        self._tree.patience.heard()  # else opens would go on from what these events say is stale
        self._is_lost = True
        if not events.lost:
            await self.take(events)
            self._is_lost = False
        if not events.lost and not _size(events) and trio.current_time() - asked < WAIT_S / 2:
            await trio.sleep(PAUSE_S)

    async def take(self, events: Events) -> None:
        """Take one answer in. Raises what asking for details raises, and Misuse when it is longer than there can be."""
        if _size(events) > MOST_EVENTS:
            raise Misuse(f"{_size(events)} events at once")
        self._keeper.held(InodeId(inode) for inode in events.held)
        await self._forget_names(events.names)
        fresh = [changed for changed in events.inodes if self._is_new(changed)]
        await self._ask_again([InodeId(changed.inode) for changed in fresh])
        for changed in fresh:
            self._forget_inode(changed)

    async def _forget_names(self, names: Sequence[ChangedName]) -> None:
        unreadable = 0
        for at, changed in enumerate(names, 1):
            parent = InodeId(changed.parent)
            try:
                name = self._tree.changed_elsewhere(parent, changed.name)
            except Corrupt:
                unreadable += 1
            else:
                if self._table.is_referenced(parent):
                    self._kernel.stale_name(parent, name)
            if at % NAMES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        if unreadable:
            log.warning("%d names that another mount changed are none", unreadable)

    def _is_new(self, changed: ChangedInode) -> bool:
        known = self._table.get(InodeId(changed.inode))
        if known is None:
            return self._table.is_referenced(InodeId(changed.inode))
        return changed.change != known.head.change or changed.attr_change > known.attributes.attr_change

    def _forget_inode(self, changed: ChangedInode) -> None:
        number = InodeId(changed.inode)
        if self._table.is_referenced(number):
            known = self._table.get(number)
            content = known is None or known.cached_change != changed.change
            if known is not None and content:
                known.cached_change = -1
            self._kernel.stale_inode(number, content=content)

    async def _distrust(self) -> None:
        """Some news never came: anything may have changed. What is remembered goes when the coordinator has answered:
        while it is away, reads go on from that."""
        await self._sort_held()
        await self._ask_again([inode.id for inode in self._table.all()])
        self._tree.forget_names()
        for number in self._table.referenced():
            known = self._table.get(number)
            if known is not None:
                known.cached_change = -1
            self._kernel.stale_inode(number, content=True)

    async def _sort_held(self) -> None:
        """Keep what is open here of all that the coordinator keeps. It tells so many at once, the others when those
        not open here are released."""
        while True:
            held = await self._namespace.held()
            self._keeper.held(held)
            if len(held) < MAX_HELD or all(self._table.is_in_use(number) for number in held):
                return
            await self._keeper.released()

    async def _ask_again(self, numbers: Sequence[InodeId]) -> None:
        """Open files go on with what is there now; others are asked for when somebody wants them. Raises Unavailable
        when that could not be asked for one of them."""
        errors: list[Unavailable] = []
        at_once = trio.CapacityLimiter(ASKED_AT_ONCE)

        async def ask(number: InodeId) -> None:
            try:
                async with at_once:
                    await self._tree.inode(number)
            except NotFound:
                log.info("inode %d is gone while it is open here", number)
            except Unavailable as error:
                errors.append(error)
            except PoolError as error:
                log.info("inode %d: not asked for again: %s", number, error)

        async with trio.open_nursery() as nursery:
            for number in set(numbers):
                known = self._table.get(number)
                if known is not None and known.handles:
                    nursery.start_soon(ask, number)
        if errors:
            raise errors[0]


def _size(events: Events) -> int:
    return len(events.inodes) + len(events.names) + len(events.held)
