"""A namespace that answers for the coordinator while its volume is delegated to this mount. See `Namespace`.

Wraps a `Delegable`. While the delegation holds, what the tree alone decides (names, attributes, content small enough
for the metadata) is judged and acknowledged here and sent in order behind; whatever else a change rests on (receipts of
chunks, extended attributes) is sent when everything before it is committed, and waited for. Without the delegation
every call goes through, as if this were not here. `vfs.delegation.holding` gets, renews and returns it.

An operation never sees half of another: between judging a change and queueing it there is no checkpoint, and inodes of
a change that was sent through are `busy` until its answer was taken in.
"""

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import trio

from p2pfs.errors import CoordinatorAway, Semantic
from p2pfs.meta.protocol import Delegable, InDoubt
from p2pfs.types import ChunkId, DentryId, InodeId
from p2pfs.vfs.delegation.changes import Changes
from p2pfs.vfs.delegation.known import KnownTree, concerned, is_local, new_numbers
from p2pfs.vfs.delegation.learning import Learning
from p2pfs.vfs.journal.journal import NoJournal
from p2pfs.wire.events import Events
from p2pfs.wire.found import LabelPage
from p2pfs.wire.namespace import (
    UNTOLD,
    Applied,
    Attributes,
    ChunkPlace,
    DirectoryPage,
    Entry,
    ExpiringPage,
    ExtentPage,
    Named,
    Operation,
    Space,
    TrashPage,
    XattrPage,
)
from p2pfs.wire.search import Hits

KNOWN_BYTES: Final = 64 << 20
"""What is known of the tree takes no more memory than about this; then it is learnt anew."""
MOST_UNUSED: Final = 10_000
"""Granted numbers that are remembered as new: of changes that failed, or were sent through, nobody uses theirs."""
SETTLING_S: Final = 1.0
"""After a grant, for answers that are on their way to the kernel."""


class Delegated:
    """One volume within one session, delegated or not. `until_s` is on the clock `now`, which counts suspended time.

    `epoch` 0: not held. `recalled` is set when the coordinator wants it back.
    """

    def __init__(
        self,
        inner: Delegable,
        *,
        now: Callable[[], float],
        io_timeout_s: float,
        known_bytes: int = KNOWN_BYTES,
        journal: NoJournal | None = None,
    ) -> None:
        self.inner = inner
        self._now = now
        self._known_bytes = known_bytes
        self._known = KnownTree()
        self._journal = journal or NoJournal()
        self.changes = Changes(self._send, io_timeout_s=io_timeout_s, journal=self._journal)
        self.epoch = 0
        self._sends_under = 0
        self._since_s = self._until_s = -math.inf
        self.recalled = trio.Event()
        self._busy: set[int] = set()
        self._doubtful: Counter[int] = Counter()  # how many changes of an inode may have been done or not
        self._granted: set[int] = set()  # numbers not used yet; of others the coordinator must say that they are new
        self._directly = 0  # changes under way that `known` does not see
        self._is_taking = False  # whether `hold` waits for them: no more of them begin
        self._freed = trio.Event()
        self._away_s = -math.inf  # when a change last found the coordinator away
        self.learning = Learning(
            inner, self._known, holds=lambda: self.holds, answers=self._answers, known_bytes=known_bytes
        )

    def __repr__(self) -> str:
        return f"Delegated(epoch {self.epoch}, {self.changes!r})"

    # ---- the delegation, for `holding`

    @property
    def holds(self) -> bool:
        """Whether to answer from what is known."""
        return (
            bool(self.epoch)
            and not self.recalled.is_set()
            and self._now() < self._until_s
            and self.changes.error is None  # else what is known is not what there is
        )

    def trust_s(self) -> float:
        """For how long what is answered now may be believed without asking again. Not at the very beginning: what is
        answered then may have been asked before."""
        now = self._now()
        return self._until_s - now if self.holds and now >= self._since_s + SETTLING_S else 0.0

    async def hold(self, epoch: int, until_s: float) -> None:
        """The coordinator granted it, or renewed what is held."""
        if epoch == self.epoch and self.holds:
            self._until_s = until_s
            return
        self._is_taking = True
        try:
            while self._directly or self.changes.outstanding or self.changes.error:  # what they change would be missed
                if self._directly:
                    await self._freed.wait()
                else:
                    await self.changes.settle()
            self._take(epoch, until_s)
        finally:
            self._is_taking = False
            self._free(())

    def _take(self, epoch: int, until_s: float) -> None:
        self._known.clear()
        self._granted.clear()
        if epoch != self.epoch:
            self.recalled = trio.Event()
            self._journal.granted(epoch)
        self.epoch, self._sends_under, self._since_s, self._until_s = epoch, epoch, self._now(), until_s

    def let_go(self) -> None:
        """It is over. What waits to be sent is still sent under it, and refused if somebody else was faster."""
        self.epoch, self._until_s = 0, -math.inf
        self.recalled = trio.Event()

    async def _send(self, operations: Sequence[Operation]) -> Applied:
        return await self.inner.apply_under(self._sends_under, operations)

    # ---- questions

    async def lookup(self, parent: InodeId, name: bytes) -> Entry:
        """See Namespace."""
        await self._make_room()
        while self._answers(parent):
            found = self._known.entry(parent, name)
            if found is not None:
                if self._is_unsure(found.attributes.inode):
                    break
                return found
            await self.learning.name(parent, name)
        await self._ordered()
        return await self.inner.lookup(parent, name)

    async def attributes(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        await self._make_room()
        while self._answers(inode):
            row = self._known.row(inode)
            if row is not None:
                return row
            await self.learning.row(inode)
        await self._ordered()
        return await self.inner.attributes(inode)

    async def content(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        row = await self.attributes(inode)
        if row.inline == UNTOLD and self._answers(inode):
            change, sealed = row.change, await self.learning.contents.of(row)
            row = await self.attributes(inode)  # it may have been changed meanwhile
            if sealed is not None and row.inline == UNTOLD and row.change == change:
                return msgspec.structs.replace(row, inline=sealed)
        if row.inline != UNTOLD:
            return row
        await self._ordered()
        return await self.inner.content(inode)

    async def directory(self, inode: InodeId, after: DentryId, limit: int, *, content: bool = False) -> DirectoryPage:
        """See Namespace."""
        await self._make_room()
        while self._answers(inode) and limit > 0 and not content:
            row = self._known.row(inode)
            if row is None:
                await self.learning.row(inode)
                continue
            self._known.require_directory(inode, removed_too=True)
            upto = self._known.covered(inode)
            if not self._known.has_behind(inode, after):
                upto = await self.learning.listing(inode, int(max(after, upto)), limit)
                if not upto:
                    continue
            page, lacking = self._page(inode, after, upto, limit)
            if page is not None:
                return page
            for number in lacking:  # a change of them went through
                await self.learning.row(InodeId(number))
        await self._ordered()
        return await self.inner.directory(inode, after, limit, content=content)

    def _page(
        self, inode: InodeId, after: DentryId, upto: float, limit: int
    ) -> tuple[DirectoryPage | None, Sequence[int]]:
        """As `KnownTree.page`, None for one that lacks something; what follows a new one is fetched meanwhile."""
        before = self._known.told(inode)
        page, lacking = self._known.page(inode, after, upto, limit)
        if lacking:
            return None, lacking
        if page is not before:
            self.learning.look_ahead(inode, page, limit)
        return page, lacking

    def known_page(self, inode: InodeId, after: DentryId, limit: int) -> DirectoryPage | None:
        """What `directory` would answer, if nobody has to be asked for it; else None."""
        if not self._answers(inode) or self._known.row(inode) is None or not self._known.has_behind(inode, after):
            return None
        return self._page(inode, after, self._known.covered(inode), limit)[0]

    async def extents(self, inode: InodeId, range_number: int) -> ExtentPage:
        """See Namespace."""
        while True:
            await self._ordered()
            page = await self.inner.extents(inode, range_number)
            if not self._answers(inode):
                return page
            row = self._known.row(inode)
            if row is None:
                return page
            if row.change == page.attributes.change:
                if row.inline == UNTOLD:
                    row = msgspec.structs.replace(row, inline=page.attributes.inline)
                return msgspec.structs.replace(page, attributes=row)

    async def xattrs(self, inode: InodeId) -> XattrPage:
        """See Namespace."""
        await self._ordered()
        page = await self.inner.xattrs(inode)
        row = self._known.row(inode) if self._answers(inode) else None
        return page if row is None else msgspec.structs.replace(page, attributes=row)

    async def locate(self, chunks: Sequence[ChunkId]) -> list[ChunkPlace]:
        """See Namespace."""
        return await self.inner.locate(chunks)

    async def space(self) -> Space:
        """See Namespace."""
        await self._ordered()
        return await self.inner.space()

    async def trash(self, after: int, limit: int, parent: int = 0) -> TrashPage:
        """See Namespace."""
        await self._ordered()
        return await self.inner.trash(after, limit, parent)

    async def names(self, inode: InodeId, after: tuple[int, int] = (0, 0)) -> list[Named]:
        """See Namespace."""
        await self._ordered()
        return await self.inner.names(inode, after)

    async def expiring(self, before_s: int, after: tuple[int, int], limit: int) -> ExpiringPage:
        """See Namespace."""
        await self._ordered()
        return await self.inner.expiring(before_s, after, limit)

    async def find(self, tokens: Sequence[bytes], after: tuple[int, int, int], limit: int) -> Hits:
        """See Namespace."""
        await self._ordered()
        return await self.inner.find(tokens, after, limit)

    async def find_content(self, token: bytes, after: int, limit: int) -> list[int]:
        """See Namespace."""
        await self._ordered()
        return await self.inner.find_content(token, after, limit)

    async def labels(self, inodes: Sequence[InodeId]) -> LabelPage:
        """See Namespace."""
        await self._ordered()
        return await self.inner.labels(inodes)

    def _answers(self, inode: int) -> bool:
        """Not of an inode that a change on its way may have changed already: others may show what it is by then."""
        return self.holds and not self._is_unsure(inode)

    def _is_unsure(self, inode: int) -> bool:
        return inode in self._doubtful or inode in self._busy

    async def _ordered(self) -> None:
        """Before something is asked of the coordinator that must show what was acknowledged here."""
        if self.changes.outstanding or self.changes.error:
            await self.changes.settle()

    async def _make_room(self) -> None:
        """At the beginning of a call only: what it learns must last until it is done."""
        if self._known.bytes > self._known_bytes:
            await self.changes.settle()
            if not self.changes.outstanding and not self._busy:
                self._known.clear()

    # ---- changes

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        """See Namespace."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if (applied := self.apply_now(operations)) is not None:
            return applied
        await trio.lowlevel.checkpoint()
        await self.changes.room()
        await self._make_room()
        touched, began_s = concerned(operations), trio.current_time()
        while True:
            if self._is_taking or touched & self._busy:
                await self._freed.wait()
                if self._away_s > began_s:  # each of many in a row would find it out for itself
                    raise CoordinatorAway("the coordinator does not answer to a change before this one")
                continue
            if not self.holds:
                if not self.changes.outstanding and self.changes.error is None:
                    return await self._direct(operations, touched)
                await self.changes.settle()  # meanwhile it may be held again
                continue
            if touched & self._doubtful.keys() or not self._is_judged_here(operations):
                return await self._through(operations, touched)
            need = self._known.needs(operations)
            if need is not None:
                await self.learning.learn(need)
                continue
            if not all(map(self._known.can_judge, operations)):
                return await self._through(operations, touched)
            return self._judge(operations)

    def apply_now(self, operations: Sequence[Operation]) -> Applied | None:
        """As `apply`, if nobody has to be waited for or asked; else None, and nothing was done. No checkpoint."""
        if self._is_taking or not (self.holds and self.changes.has_room) or self._known.bytes > self._known_bytes:
            return None
        if self._busy or self._doubtful:
            touched = concerned(operations)
            if touched & self._busy or touched & self._doubtful.keys():
                return None
        if not self._is_judged_here(operations):
            return None
        if self._known.needs(operations) is not None or not all(map(self._known.can_judge, operations)):
            return None
        return self._judge(operations)

    def _is_judged_here(self, operations: Sequence[Operation]) -> bool:
        for operation in operations:
            if not is_local(operation) or not self._granted.issuperset(new_numbers(operation)):
                return False
        return True

    def _judge(self, operations: Sequence[Operation]) -> Applied:
        applied = self._known.apply(operations)
        self._granted.difference_update(number for operation in operations for number in new_numbers(operation))
        self.changes.put(operations)
        return applied

    async def _direct(self, operations: Sequence[Operation], touched: set[int]) -> Applied:
        self._directly += 1
        try:
            applied = await self.inner.apply(operations)
        except InDoubt as doubt:  # once it is resolved, the volume may be delegated
            raise self._doubted(doubt, operations, touched) from doubt
        else:
            self._known.note_opened(operations)
            return applied
        finally:
            self._directly -= 1
            self._free(())

    async def _through(self, operations: Sequence[Operation], touched: set[int]) -> Applied:
        """Behind everything acknowledged so far, and before anything else about these inodes."""
        async with self._occupied(touched):
            try:
                await self._ordered()
            except CoordinatorAway:
                self._away_s = trio.current_time()
                raise
            generation = self._known.generation
            try:
                applied = await self.inner.apply(operations)
            except Semantic:
                raise
            except InDoubt as doubt:
                self._away_s = trio.current_time()
                raise self._doubted(doubt, operations, touched) from doubt
            except BaseException as error:
                if isinstance(error, CoordinatorAway):
                    self._away_s = trio.current_time()
                self._doubt(touched)
                raise
            self._adopt(operations, applied, is_newest=generation == self._known.generation)
            return applied

    async def _again(self, doubt: InDoubt, operations: Sequence[Operation], touched: set[int]) -> Applied:
        async with self._occupied(touched):
            try:
                applied = await doubt.again()
            except Semantic:
                self._doubtful -= Counter(touched)
                self._known.forget(touched)
                raise
            self._doubtful -= Counter(touched)
            self._adopt(operations, applied, is_newest=False)
            return applied

    @asynccontextmanager
    async def _occupied(self, inodes: set[int]) -> AsyncIterator[None]:
        while inodes & self._busy:
            await self._freed.wait()
        self._busy |= inodes
        try:
            yield
        finally:
            self._free(inodes)

    def _free(self, inodes: Iterable[int]) -> None:
        self._busy.difference_update(inodes)
        self._freed.set()
        self._freed = trio.Event()

    def _doubt(self, inodes: set[int]) -> None:
        """Nobody knows what they are now: they are asked for each time, until that is resolved."""
        self._doubtful.update(inodes)
        self._known.forget(inodes)

    def _doubted(self, doubt: InDoubt, operations: Sequence[Operation], touched: set[int]) -> InDoubt:
        self._doubt(touched)
        return InDoubt(str(doubt), partial(self._again, doubt, operations, touched), doubt.give_up)

    def _adopt(self, operations: Sequence[Operation], applied: Applied, *, is_newest: bool) -> None:
        """Take in what a change that was sent through did; nobody can have changed it since if it `is_newest`."""
        self._known.forget(concerned(operations))
        self._known.forget([*(row.inode for row in applied.attributes), *applied.removed])
        self._known.note_opened(operations)
        if is_newest:
            for row in applied.attributes:
                self._known.take_row(row, self._known.moment)

    async def settle(self) -> None:
        """See Namespace."""
        await self.changes.settle()

    # ---- the rest

    async def new_ids(self, count: int) -> range:
        """See Namespace."""
        granted = await self.inner.new_ids(count)
        if self.holds:
            if len(self._granted) >= MOST_UNUSED:
                self._granted.clear()  # whoever uses one of these asks the coordinator whether it is new
            self._granted.update(granted)
        return granted

    async def events(self, wait_s: float) -> Events:
        """See Namespace; a recall is for `holding`."""
        events = await self.inner.events(wait_s)
        if events.recall and events.recall == self.epoch:
            self.recalled.set()
        return events

    async def held(self) -> list[InodeId]:
        """See Namespace."""
        return await self.inner.held()
