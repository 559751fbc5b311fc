"""What other mounts changed: taken in as the coordinator tells it, and handed on to the kernel's cache.

Nothing depends on its coming: names and attributes are asked for anew after a second, content at each open. It makes
that sooner, and it keeps files alive that are open here when another mount takes their last name (docs/adr/0004).
"""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from p2pfs.errors import Corrupt, Fenced, NotFound, PoolError, Unavailable
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
        trouble: type[PoolError] | None = None
        while True:
            try:
                await self._follow_once()
            except Fenced:
                return
            except PoolError as error:
                is_away = isinstance(error, Unavailable)
                if type(error) is not trouble:
                    trouble = type(error)
                    pauses = backoff(PAUSE_S, PAUSE_S if is_away else LONGEST_PAUSE_S)
                    log.log(
                        logging.INFO if is_away else logging.WARNING, "no news of other mounts can be had: %s", error
                    )
                await trio.sleep(next(pauses))
            else:
                if trouble is not None:
                    log.info("news of other mounts come through again")
                trouble = None

    async def _follow_once(self) -> None:
        if self._is_lost:
            await self._distrust()
            self._is_lost = False
        events = await self._namespace.events(WAIT_S)
        self._is_lost = True
        if not events.lost:
            await self.take(events)
            self._is_lost = False

    async def take(self, events: Events) -> None:
        """Take one answer in. Raises what asking for details raises."""
        self._keeper.held(InodeId(inode) for inode in events.held)
        for name in events.names:
            self._forget_name(name)
        fresh = [changed for changed in events.inodes if self._is_new(changed)]
        await self._ask_again([InodeId(changed.inode) for changed in fresh])
        for changed in fresh:
            self._forget_inode(changed)

    def _forget_name(self, changed: ChangedName) -> None:
        parent = InodeId(changed.parent)
        try:
            name = self._tree.changed_elsewhere(parent, changed.name)
        except Corrupt as error:
            log.warning("a name another mount changed is none: %s", error)
            return
        if self._table.is_referenced(parent):
            self._kernel.stale_name(parent, name)

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

        async def ask(number: InodeId) -> None:
            try:
                await self._tree.inode(number)
            except NotFound:
                log.info("inode %d is gone while it is open here", number)
            except Unavailable as error:
                errors.append(error)
            except PoolError as error:
                log.info("inode %d: not asked for again: %s", number, error)

        async with trio.open_nursery() as nursery:
            for number in numbers:
                known = self._table.get(number)
                if known is not None and known.handles:
                    nursery.start_soon(ask, number)
        if errors:
            raise errors[0]
