"""What the pool looked like over the last month: a look a minute, kept in rings (`meta.rounds`).

For the dashboard and `GET /history`; nothing is decided by it. The worker looks, `series` answers. What there is to see
is put into names here, and nowhere else; docs/monitoring.md lists them.
"""

import contextlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import msgspec
import trio

from p2pfs.coordinator.report import StatusReport
from p2pfs.errors import Misuse, PoolError
from p2pfs.meta.rounds import MOST_NAMES, MOST_POINTS, Point, Rounds
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import GONE_STATES, Health, PeerState

_log = logging.getLogger(__name__)

EVERY_S: Final = 60.0
MOST_COPIES: Final = 6
"""Chunks with more copies are counted together."""
DEFAULT_SINCE_S: Final = 6 * 3600.0
DEFAULT_POINTS: Final = 360
_MAX_TIME_S: Final = 1e12
_HEALTH: Final = {Health.HEALTHY.value: 0.0, Health.WARNING.value: 1.0, Health.ERROR.value: 2.0}
_STATES: Final = [state.value for state in PeerState if state not in GONE_STATES]
_COPIES: Final = [*map(str, range(MOST_COPIES + 1)), "more"]
TOTALS: Final = ("traffic.in", "traffic.out", "copies", "batches")
"""Counted up somewhere, kept as so much a second."""
QUEUES: Final = ("queue.copies", "queue.deletions")
NAMES: Final = (
    "health",
    *(f"peers.{state}" for state in _STATES),
    "chunks.total",
    "chunks.short",
    "chunks.lost",
    *(f"chunks.copies.{copies}" for copies in _COPIES),
    "space.capacity",
    "space.used",
    "space.trash",
    "space.promised",
    "space.total",
    "space.writable",
    "volumes.count",
    "volumes.files",
    "volumes.bytes",
    "volumes.trash_files",
    "volumes.trash_bytes",
    "mounts",
    "jobs",
    "backup.age_s",
    *QUEUES,
    *TOTALS,
)
"""Every series there is."""


def figures(report: StatusReport) -> dict[str, float]:
    """What a report says, by name."""
    members = [peer for peer in report.peers if peer.state not in GONE_STATES]
    states = [peer.state for peer in members]
    by_copies = dict.fromkeys(_COPIES, 0)
    for copies, count in report.chunks.by_copies.items():
        by_copies[copies if copies in by_copies else "more"] += count
    found: dict[str, float] = {
        "health": _HEALTH.get(report.health, math.nan),
        **{f"peers.{state}": states.count(state) for state in _STATES},
        "chunks.total": report.chunks.total,
        "chunks.short": report.chunks.under_replicated - report.chunks.away,  # nobody is to do anything for those
        "chunks.lost": report.chunks.lost,
        **{f"chunks.copies.{copies}": count for copies, count in by_copies.items()},
        "space.capacity": report.pool.capacity,
        "space.used": report.pool.used,
        "space.trash": sum(peer.trash for peer in members),
        "space.promised": report.pool.promised,
        "space.total": report.pool.total,
        "space.writable": report.pool.writable,
        "volumes.count": len(report.volumes),
        "volumes.files": sum(volume.files for volume in report.volumes),
        "volumes.bytes": sum(volume.bytes for volume in report.volumes),
        "volumes.trash_files": sum(volume.trash_files for volume in report.volumes),
        "volumes.trash_bytes": sum(volume.trash_bytes for volume in report.volumes),
        "mounts": report.pool.sessions,
        "jobs": len(report.jobs),
    }
    if report.backup is not None and report.backup.age_s is not None:
        found["backup.age_s"] = report.backup.age_s
    return found


class Observer:
    """Looks at the pool. `queues` are lengths, `totals` are counted up, both by name."""

    def __init__(
        self,
        report: Callable[[], Awaitable[StatusReport]],
        clock: Clock,
        *,
        queues: Mapping[str, Callable[[], float]],
        totals: Mapping[str, Callable[[], int]],
    ) -> None:
        self._report = report
        self._clock = clock
        self._queues = queues
        self._totals = totals
        self._last: tuple[float, dict[str, int]] | None = None  # when (monotonic), and the totals then

    async def look(self) -> dict[str, float]:
        """What there is to see now; a rate is that since the last look. Raises Unavailable."""
        found = figures(await self._report())
        found |= {name: length() for name, length in self._queues.items()}
        now_s, totals = self._clock.monotonic(), {name: total() for name, total in self._totals.items()}
        if self._last is not None and now_s > self._last[0]:
            passed_s = now_s - self._last[0]
            found |= {name: (total - self._last[1][name]) / passed_s for name, total in totals.items()}
        self._last = now_s, totals
        return found


class Question(msgspec.Struct, frozen=True):
    """What `GET /history` asks: UTC seconds, None: now; a `since_s` of 0 or less counts from `until_s`."""

    names: tuple[str, ...] = NAMES
    since_s: float = -DEFAULT_SINCE_S
    until_s: float | None = None
    points: int = DEFAULT_POINTS


class Answer(msgspec.Struct, frozen=True):
    """Its answer, as JSON; `now_s` is the coordinator's clock."""

    now_s: float
    since_s: float
    until_s: float
    series: dict[str, list[Point]]


class History:
    """The worker that looks, and who answers. `latest` is what the last look saw; empty before the first. While it is
    not `is_settled` nothing is kept: after a start peers that were not heard yet would seem gone, and chunks lost."""

    name = "history"

    def __init__(
        self, rounds: Rounds, observer: Observer, clock: Clock, *, is_settled: Callable[[], bool] = lambda: True
    ) -> None:
        self._is_settled = is_settled
        self._rounds = rounds
        self._observer = observer
        self._clock = clock
        self._one = trio.CapacityLimiter(1)  # the file is for one thread at a time
        self.latest: Mapping[str, float] = {}
        self.looked_s = 0.0  # UTC: when that was

    async def work(self) -> Progress:
        """Look, and keep it."""
        self.latest = seen = await self._observer.look()
        self.looked_s = now_s = self._clock.time()
        if self._is_settled():
            await trio.to_thread.run_sync(partial(self._rounds.add, now_s, seen), limiter=self._one)
        return Progress.IDLE

    async def wait(self) -> None:
        """Until the next minute begins: then each has one look."""
        await trio.sleep(EVERY_S - self._clock.time() % EVERY_S)

    async def series(
        self, names: Iterable[str], since_s: float, until_s: float, points: int = DEFAULT_POINTS
    ) -> dict[str, list[Point]]:
        """For each name its (UTC seconds, value), oldest first, at most `points`, each the mean of the time until the
        next; where nothing was seen there is no point. From the finest ring that reaches back to `since_s`: a minute
        for six hours, ten for three days, an hour for a month.

        Raises:
            Unavailable: The disk fails.
        """
        look = partial(self._rounds.series, tuple(names), since_s, until_s, points=points, now_s=self._clock.time())
        return await trio.to_thread.run_sync(look, limiter=self._one)

    async def answer(self, question: Question, *, is_admin: bool) -> Answer:
        """What `GET /history` says; of volumes, to admins only. Raises Unavailable."""
        now_s = self._clock.time()
        until_s = now_s if question.until_s is None else question.until_s
        since_s = question.since_s if question.since_s > 0 else until_s + question.since_s
        seen = [name for name in question.names if is_admin or not name.startswith("volumes.")]
        series = await self.series(seen, since_s, until_s, question.points)
        return Answer(now_s, since_s, until_s, {name: series.get(name, []) for name in question.names})


@contextlib.asynccontextmanager
async def open_rounds(path: Path) -> AsyncIterator[Rounds]:
    """The rings at `path`; in memory where that cannot be used, for the pool must not stop working for want of them."""
    try:
        rounds = await trio.to_thread.run_sync(Rounds, path)
    except PoolError as error:
        _log.warning("no history of the pool is kept beyond this run: %s", error)
        rounds = Rounds()
    try:
        yield rounds
    finally:
        rounds.close()


def asked(query: str) -> Question:
    """`names=a,b&since=-3600&until=…&points=60`, each of them optional.

    Raises:
        Misuse: It is no such question.
    """
    try:
        fields = {key: values[-1] for key, values in parse_qs(query, strict_parsing=bool(query)).items()}
        names = tuple(fields.pop("names").split(",")) if "names" in fields else NAMES
        since_s = float(fields.pop("since", -DEFAULT_SINCE_S))
        until_s = float(fields.pop("until")) if "until" in fields else None
        points = int(fields.pop("points", DEFAULT_POINTS))
    except ValueError:
        raise Misuse("history is asked for with names, since, until and points") from None
    unknown = [name for name in names if name not in NAMES]
    if fields or unknown or len(names) > MOST_NAMES or not 1 <= points <= MOST_POINTS:
        raise Misuse(f"there is no such history; points are 1 to {MOST_POINTS}")
    if not all(math.isfinite(time_s) and abs(time_s) <= _MAX_TIME_S for time_s in (since_s, until_s or 0.0)):
        raise Misuse("history is asked for at an impossible time")
    return Question(names, since_s, until_s, points)


def encode(answer: Answer) -> bytes:
    """The answer as JSON."""
    return msgspec.json.encode(answer)
