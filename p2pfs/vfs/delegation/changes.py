"""What was acknowledged under a delegation and the coordinator has not heard of yet: sent in order, many at once."""

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import trio

from p2pfs.errors import CoordinatorAway, Fenced, PoolError
from p2pfs.meta.protocol import InDoubt
from p2pfs.runtime.retry import backoff
from p2pfs.vfs.journal.journal import NoJournal
from p2pfs.wire.namespace import Applied, Commit, Operation
from p2pfs.wire.search import BATCH_ROWS, rows

log = logging.getLogger(__name__)

LINGER_S: Final = 0.02
"""How long a change that nobody waits for waits for company."""
BATCH_OPERATIONS: Final = 500
BATCH_BYTES: Final = 4 << 20
MOST_WAITING: Final = 4000
"""Operations; who does more waits. A batch of them takes a fraction of a second."""
MOST_BYTES: Final = 16 << 20
AWAY_S: Final = 3.0
"""How long who waits does so once the coordinator is known to be away: until the next try (PAUSE_S) has its answer."""
PAUSE_S: Final = 2.0
"""The longest pause between two tries of a batch."""
_COST: Final = 500  # of an operation besides its inline data and tokens
_ROW_COST: Final = 64  # of a token

Send = Callable[[Sequence[Operation]], Awaitable[Applied]]
"""Raises InDoubt, Fenced, and PoolError for what cannot be."""


class _Item(NamedTuple):
    operations: Sequence[Operation]
    bytes: int
    rows: int


class Changes:
    """The queue. Its positions rise with every `put`; everything up to `done` is committed.

    A batch that is refused can only mean that the delegation is not ours any more, or that this mount and the
    coordinator read the rules differently: nothing after it can be true then, so `error` stays and is raised for good.
    """

    def __init__(self, send: Send, *, io_timeout_s: float, journal: NoJournal | None = None) -> None:
        """`io_timeout_s`: without progress for so long, who waits is told that the coordinator is away; inf: never.
        Once that is known, who waits is told so within `AWAY_S`: not each call is to wait for it anew."""
        self._send, self._io_timeout_s = send, io_timeout_s
        self._journal = journal or NoJournal()
        self._waiting: deque[_Item] = deque()
        self._bytes = 0
        self._operations = self._rows = 0
        self._queued = self._done = 0
        self._urgent = trio.Event()
        self._lingering: trio.CancelScope | None = None  # of `run` while it waits for changes
        self._progress = trio.Event()
        self._is_away = False  # nobody answered to the batch under way
        self.error: Fenced | None = None

    def __repr__(self) -> str:
        return f"Changes({self.outstanding} outstanding, {self._operations} operations, {self._bytes} bytes)"

    @property
    def outstanding(self) -> int:
        """How many changes are not known to be committed."""
        return self._queued - self._done

    def put(self, operations: Sequence[Operation]) -> None:
        """Add what was just acknowledged."""
        self._journal.queued(operations)
        of = sum(rows(operation) for operation in operations)
        item = _Item(operations, sum(_cost(operation) for operation in operations) + _ROW_COST * of, of)
        self._waiting.append(item)
        self._queued += 1
        self._bytes += item.bytes
        self._operations += len(operations)
        self._rows += of
        if self._lingering is not None and self._lingering.deadline == math.inf:  # one wake-up for all that comes
            self._lingering.deadline = trio.current_time() + LINGER_S
        if self._is_much():
            self._urgent.set()

    def hurry(self) -> None:
        """Send what waits now: somebody waits for something behind it."""
        if self._waiting:
            self._urgent.set()

    def _is_much(self) -> bool:
        return self._operations >= BATCH_OPERATIONS or self._bytes >= BATCH_BYTES or self._rows >= BATCH_ROWS

    # ---- waiting

    @property
    def has_room(self) -> bool:
        """Whether `room` would return at once."""
        return self.error is None and self._operations < MOST_WAITING and self._bytes < MOST_BYTES

    async def room(self) -> None:
        """Wait until not too much is waiting. Raises as `settle`."""
        await self._until(lambda: self.has_room)

    async def settle(self) -> None:
        """Wait until what was put so far is committed.

        Raises:
            Fenced: It never will be.
            CoordinatorAway: Nobody answered within `io_timeout_s`, or was known not to answer; it is tried on.
        """
        position = self._queued
        await self._until(lambda: self._done >= position)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while True:
            if self.error is not None:
                raise self.error.with_traceback(None)  # each raise would add to it
            if condition():
                return
            self._urgent.set()
            patience_s = min(AWAY_S, self._io_timeout_s) if self._is_away else self._io_timeout_s
            with trio.move_on_after(patience_s) as waiting:
                await self._progress.wait()
            if waiting.cancelled_caught:
                raise CoordinatorAway("the coordinator does not answer: changes wait to be sent")

    # ---- sending

    async def run(self) -> None:
        """Send until cancelled or fenced."""
        while self.error is None:
            with trio.CancelScope() as self._lingering:
                if self._waiting:
                    self._lingering.deadline = trio.current_time() + LINGER_S
                await self._urgent.wait()
            if not self._waiting:  # somebody wanted what was sent meanwhile
                self._urgent = trio.Event()
                continue
            if not self._is_much():
                self._urgent = trio.Event()
            count, operations = self._take()
            try:
                await self._sent(operations)
            except Fenced as error:
                self._fail(error, operations)
            except PoolError as error:
                log.error("the coordinator refused what this mount was to be free to change: %s", error)
                self._fail(Fenced(f"the coordinator refused a change: {error}"), operations)
            else:
                self._done += count
                self._journal.committed(operations)
            self._pulse()

    def _take(self) -> tuple[int, list[Operation]]:
        operations: list[Operation] = []
        count = bytes_ = of = 0
        while self._waiting:
            item = self._waiting[0]
            if count and (
                len(operations) + len(item.operations) > BATCH_OPERATIONS
                or bytes_ + item.bytes > BATCH_BYTES
                or of + item.rows > BATCH_ROWS
            ):
                break
            self._waiting.popleft()
            operations += item.operations
            bytes_ += item.bytes
            of += item.rows
            count += 1
        self._bytes -= bytes_
        self._operations -= len(operations)
        self._rows -= of
        return count, operations

    async def _sent(self, operations: Sequence[Operation]) -> None:
        """Until it is known what became of them."""
        try:
            await self._send(operations)
            return
        except InDoubt as error:
            doubt = error
        self._is_away = True
        self._pulse()  # who waits looks at how long it still may
        try:
            await self._sent_again(doubt, len(operations))
        finally:
            self._is_away = False

    async def _sent_again(self, doubt: InDoubt, count: int) -> None:
        for pause_s in backoff(0.1, PAUSE_S):
            log.info("%d changes wait for the coordinator: %s", count, doubt)
            await trio.sleep(pause_s)
            try:
                await doubt.again()
                return
            except CoordinatorAway:
                continue

    def _fail(self, error: Fenced, operations: Sequence[Operation]) -> None:
        lost = len(operations) + self._operations
        fate = "left to the next mount of this node that may write" if self._journal.holds_names else "lost"
        log.error("%d changes of this mount are %s: %s", lost, fate, error)
        self.error = Fenced(f"{lost} changes of this mount were {fate}: {error}")
        self.error.__cause__ = error

    def _pulse(self) -> None:
        self._progress.set()
        self._progress = trio.Event()


def _cost(operation: Operation) -> int:
    return _COST + len(operation.inline or b"") if isinstance(operation, Commit) else _COST
