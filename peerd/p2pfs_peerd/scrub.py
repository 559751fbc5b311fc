"""Reads every chunk again within `scrub_period`, so that a copy that rots is found while others are whole.

A worker of the daemon. Damage is the store's business: it sets such a copy aside and the next heartbeat reports it.
Where a round has got to is kept in the home, so that a restart goes on there.

    idle ──(the period since the last round began is over; start)──▶ running ⇄ paused
      ◀──(everything was read; cancel)──────────────────────────────────┘

Paused holds back rounds that would begin, too. Only `start` makes a round go as fast as `scrub_rate` lets it; others
take as long as they may.
"""

import logging
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.errors import Corrupt, Misuse, NoSpace, PoolError, Unavailable
from p2pfs.format.inventory import BUCKETS, bucket_of
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.rates import RateLimit
from p2pfs.runtime.worker import Progress
from p2pfs.types import MIB, ChunkId, VolumeId
from p2pfs.wire.membership import Scrub, ScrubState
from p2pfs_peerd.kept import Kept

log = logging.getLogger(__name__)

SLOWEST: Final = 1 * MIB
"""Bytes a second that nobody notices: a small store is read sooner than it must be, and its disk may sleep then."""
SPREAD: Final = 0.8
"""Part of the period that a round plans to take; the rest is for a machine that sleeps or is busy."""
SAVE_EVERY_S: Final = 60.0
_LOOK_EVERY_S: Final = 3600.0
"""While nothing is to be done, for the case that somebody sets the clock."""
_TRIES: Final = 3


class Round(msgspec.Struct, kw_only=True):
    """What is kept across restarts. Times are UTC seconds; `volume` and `chunk` are the last one done."""

    running: bool = False
    paused: bool = False
    hurried: bool = False  # begun by hand
    started_s: float = 0.0  # also of the last round, after it
    finished_s: float = 0.0  # of the last round that came to its end
    volume: int = 0
    chunk: bytes = b""
    done: int = 0
    done_bytes: int = 0  # of files: what `used` counts
    damaged: int = 0
    unread: int = 0  # given up


class Scrubber:
    """A `runtime.worker.Worker`. Made by `open`."""

    name = "scrub"

    def __init__(
        self,
        store: DirectoryStore,
        kept: Kept[Round],
        round_: Round,
        *,
        period_s: float,
        rate: int | None,
        clock: Clock,
    ) -> None:
        self._store = store
        self._kept = kept
        self._round = round_
        self._period_s = period_s
        self._rate = rate
        self._clock = clock
        self._limit = RateLimit(rate, clock)
        self._ahead: deque[ChunkId] = deque()  # the rest of the directory (volume, bucket)
        self._directory: tuple[VolumeId, int] | None = None
        self._tries = 0
        self._steered = trio.Event()
        self._saved_s = clock.monotonic()
        self._cannot_save = False

    @classmethod
    async def open(
        cls, store: DirectoryStore, path: Path, *, period_s: float, rate: int | None, clock: Clock
    ) -> "Scrubber":
        """Go on where the file at `path` says; from the start if it is damaged."""
        kept = Kept(path, Round)
        try:
            found = await trio.to_thread.run_sync(kept.load)
        except Corrupt as error:
            log.warning("%s: the scrub begins anew", error)
            found = None
        return cls(store, kept, found or Round(), period_s=period_s, rate=rate, clock=clock)

    def state(self) -> Scrub:
        """For people and the coordinator. Totals are of now, while chunks come and go."""
        now, usage = self._round, self._store.usage()
        state = ScrubState.PAUSED if now.paused else ScrubState.RUNNING if now.running else ScrubState.IDLE
        total, total_bytes = (usage.chunks, usage.used) if now.running else (now.done + now.unread, now.done_bytes)
        return Scrub(
            state=state,
            done=now.done,
            total=max(total, now.done),
            done_bytes=now.done_bytes,
            total_bytes=max(total_bytes, now.done_bytes),
            started_s=now.started_s,
            finished_s=now.finished_s,
            damaged=now.damaged,
        )

    # ---- orders -----------------------------------------------------------------------------------------------------

    def steer(self, action: str) -> None:
        """Take one of: `pause`; `resume`; `cancel`, no more of this round; `start`, read everything from now on, unless
        a round begun so is under way. Said again, it changes nothing.

        Raises:
            Misuse: None of these.
        """
        actions: dict[str, Callable[[], None]] = {
            "pause": self._pause,
            "resume": self._resume,
            "cancel": self._cancel,
            "start": self._start,
        }
        if action not in actions:
            raise Misuse(f"a scrub does not know how to {action}")
        actions[action]()
        self._limit.rate = self._pace()
        self._steered.set()

    def _pause(self) -> None:
        self._round.paused = True

    def _resume(self) -> None:
        self._round.paused = False

    def _cancel(self) -> None:
        self._round.running = self._round.paused = False

    def _start(self) -> None:
        self._round.paused = False
        if not (self._round.running and self._round.hurried):
            self._begin(hurried=True)

    # ---- the worker -------------------------------------------------------------------------------------------------

    async def work(self) -> Progress:
        """One directory listed, or one chunk read."""
        if self._steered.is_set():
            self._steered = trio.Event()
            await self._save()
        if self._round.paused:
            return Progress.IDLE
        if not self._round.running:
            if self._due_in_s() > 0:
                return Progress.IDLE
            self._begin(hurried=False)
        if self._ahead:
            await self._check(self._ahead[0])
        else:
            await self._go_on()
        if self._clock.monotonic() >= self._saved_s + SAVE_EVERY_S:
            await self._save()
        return Progress.BUSY

    async def wait(self) -> None:
        """Until a round is due, or somebody steers."""
        pause_s = _LOOK_EVERY_S if self._round.paused else min(max(self._due_in_s(), 0.0), _LOOK_EVERY_S)
        with trio.move_on_after(pause_s):
            await self._steered.wait()

    def _due_in_s(self) -> float:
        """Until the next round; a clock set back makes it begin at once, not a year later."""
        passed_s = self._clock.time() - self._round.started_s
        return self._period_s - passed_s if passed_s >= 0 else 0.0

    def _begin(self, *, hurried: bool) -> None:
        now = self._round
        self._round = Round(
            running=True, hurried=hurried, started_s=self._clock.time(), finished_s=now.finished_s, paused=now.paused
        )
        self._ahead.clear()
        self._directory = None
        self._tries = 0

    async def _check(self, chunk: ChunkId) -> None:
        """Read one chunk, then wait for as long as that costs."""
        assert self._directory is not None
        round_, volume, length = self._round, self._directory[0], 0
        try:
            length = await self._store.verify(volume, chunk) or 0
            round_.done += length > 0
        except Corrupt:
            round_.damaged += 1
        except PoolError:
            # Again after a pause, as the disk may be ill as a whole; but one chunk does not keep the others waiting.
            self._tries += 1
            if self._tries < _TRIES or round_ is not self._round:
                raise
            log.warning("chunk %s cannot be read: left to the next scrub", chunk.hex())
            round_.unread += 1
        if round_ is not self._round:  # another began meanwhile
            return
        self._tries = 0
        self._ahead.popleft()
        round_.volume, round_.chunk = volume, chunk
        round_.done_bytes += length
        self._limit.rate = self._pace()
        await self._limit.take(length)

    async def _go_on(self) -> None:
        """List the next directory; behind the last one the round is over."""
        round_ = self._round
        place, behind = self._directory, b""
        if place is None and round_.chunk:
            behind = round_.chunk
            place = VolumeId(round_.volume), bucket_of(ChunkId(behind))
        elif place is not None and place[1] + 1 < BUCKETS:
            place = place[0], place[1] + 1
        else:
            before = -1 if place is None else place[0]
            volume = next((each for each in await self._store.inventory.volumes() if each > before), None)
            if volume is None:
                if round_ is self._round and round_.running:  # nobody steered meanwhile
                    await self._finish()
                return
            place = volume, 0
        names = await self._store.inventory.names(*place)
        if round_ is self._round:
            self._directory = place
            self._ahead.extend(chunk for chunk in names if chunk > behind)

    async def _finish(self) -> None:
        round_ = self._round
        round_.running = False
        round_.finished_s = self._clock.time()
        log.info("read %d chunks again, and %d that are damaged", round_.done, round_.damaged)
        await self._save()

    def _pace(self) -> float | None:
        """Bytes a second that end this round in time, within what is allowed."""
        if self._round.hurried or not self._round.running:
            return self._rate
        left_s = min(self._round.started_s + SPREAD * self._period_s - self._clock.time(), self._period_s)
        left_bytes = self._store.usage().used - self._round.done_bytes
        needed = left_bytes / left_s if left_s > 0 else math.inf
        pace = max(needed, SLOWEST)
        if self._rate is None:
            return pace if pace < math.inf else None
        return min(pace, self._rate)

    async def _save(self) -> None:
        """Keep the position. A disk that is full is no reason to stop reading it."""
        self._saved_s = self._clock.monotonic()
        value = msgspec.structs.replace(self._round)  # steering goes on while the thread writes
        try:
            await trio.to_thread.run_sync(self._kept.save, value)
            self._cannot_save = False
        except (NoSpace, Unavailable) as error:
            if not self._cannot_save:
                log.warning("cannot keep how far the scrub has got: %s", error)
            self._cannot_save = True
