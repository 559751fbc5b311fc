"""One read of a replicated chunk: whom to ask, when to ask a second one, whom to believe.

Made and run by chunks.replicated for each `get`. Requests that lost the race are left alone for a second, so that we
learn whether their peer is slow or silent.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.outcomes import Outcomes
from p2pfs.chunks.protocol import Asking, Blocks, Check, PeerStore
from p2pfs.chunks.standing import HEDGE_CAP_S, PATIENCE_S, Attempt, Standings
from p2pfs.errors import Corrupt, Denied, NotFound, PoolError, Unavailable, bare
from p2pfs.net.watch import Watch
from p2pfs.runtime.retry import backoff
from p2pfs.types import ChunkId, PeerNumber, VolumeId

Locate = Callable[[VolumeId, ChunkId], Awaitable[Sequence[PeerNumber]]]


Count = Callable[[PeerNumber, VolumeId, ChunkId, int], None]
"""Told who gave how many right bytes of which chunk."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where copies can be had; the same for every read of a store."""

    peers: Callable[[PeerNumber], PeerStore | None]
    states: Callable[[], Mapping[PeerNumber, str]]
    locate: Locate
    refresh: Locate
    standings: Standings
    nursery: trio.Nursery  # losers outlive their read by a second
    count: Count = lambda _peer, _volume, _chunk, _size: None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read."""

    volume: VolumeId
    chunk: ChunkId
    size: int
    blocks: Blocks
    check: Check | None


@dataclass(slots=True)
class _Race:
    """The requests of one round."""

    outcomes: Outcomes[memoryview | PoolError] = field(default_factory=Outcomes)
    scopes: list[trio.CancelScope] = field(default_factory=list)
    running: int = 0
    failures: dict[PeerNumber, PoolError] = field(default_factory=dict)


async def read(sources: Sources, wanted: Wanted, io_timeout_s: float) -> memoryview:
    """The bytes, from whichever holder gives them first.

    Raises:
        NotFound: Every holder says it has no such chunk, or there is none.
        Corrupt: Every holder answered, and no answer was right.
        Unavailable: Nobody gave a right answer within the deadline.
    """
    last: PoolError = Unavailable("no peer that holds the chunk answered in time")
    with trio.move_on_after(io_timeout_s) as scope:
        holders = await sources.locate(wanted.volume, wanted.chunk)
        first = _ask_at_once(sources, wanted, holders)
        if first is not None and (right := await _answered_soon(sources, wanted, first)) is not None:
            return right
        for pause_s in backoff(0.1, 2.0):
            outcome = await _round(sources, wanted, holders, scope.deadline, first)
            first = None
            if isinstance(outcome, memoryview):
                return outcome
            tried = set(holders)
            holders = await sources.refresh(wanted.volume, wanted.chunk)
            if set(holders) <= tried:
                verdict = _verdict(list(outcome.values()))
                if not isinstance(verdict, Unavailable):
                    raise verdict
                last = verdict
                await trio.sleep(pause_s)
    raise last


@dataclass(slots=True)
class _First:
    """A request that the read waits for by itself, as long as no second one is due: no task, and nothing to race."""

    attempt: Attempt
    asking: Asking
    hedge_s: float  # infinite when there is nobody else to ask
    is_over: bool = False
    failure: PoolError | None = None  # final, for this peer


def _ask_at_once(sources: Sources, wanted: Wanted, holders: Sequence[PeerNumber]) -> _First | None:
    """Ask the best holder, if nothing stands in the way."""
    standings = sources.standings
    order = standings.read_order(holders, sources.states())
    store = sources.peers(order[0]) if order and not standings.is_silent(order[0]) else None
    if store is None:
        return None
    watch = Watch()
    asking = store.ask(wanted.volume, wanted.chunk, wanted.size, wanted.blocks, watch=watch)
    if asking is None:
        return None
    hedge_s = standings.hedge_after_s(order[0]) if len(order) > 1 else math.inf
    start, stop = runs.span(wanted.size, wanted.blocks)
    probe_silent(sources, wanted.volume, wanted.chunk, order)
    return _First(standings.begin(order[0], stop - start, watch), asking, hedge_s)


async def _answered_soon(sources: Sources, wanted: Wanted, first: _First) -> memoryview | None:
    """Right bytes, if they come before a second holder would be asked."""
    standings, attempt = sources.standings, first.attempt
    try:
        with trio.move_on_after(first.hedge_s):
            sealed = await first.asking.sealed()
            first.is_over = True
            standings.read(attempt)
            if wanted.check is not None:
                wanted.check(sealed)
            sources.count(attempt.peer, wanted.volume, wanted.chunk, len(sealed))
            return sealed
    except (Unavailable, Denied):  # perhaps only this connection: the peer is asked once more, over a new one
        first.is_over = True
        standings.refused(attempt)
    except PoolError as error:
        if not first.is_over:
            standings.declined(attempt)
        first.is_over, first.failure = True, bare(error)
    except BaseException:
        await first.asking.aclose()
        standings.dropped(attempt)
        raise
    return None


def _verdict(failures: Sequence[PoolError]) -> PoolError:
    """What it means that all of these holders failed; Unavailable is worth another round."""
    if all(isinstance(failure, NotFound) for failure in failures):
        return NotFound("no peer has this chunk")
    for failure in failures:
        if not isinstance(failure, NotFound | Corrupt):
            return Unavailable(f"no valid copy within reach: {failure}")
    return Corrupt("no peer has a valid copy of this chunk")


async def _round(
    sources: Sources, wanted: Wanted, holders: Sequence[PeerNumber], deadline: float, first: _First | None
) -> memoryview | dict[PeerNumber, PoolError]:
    """Ask the holders one after another, impatiently: the bytes, or why each of them failed. One may have been asked
    `first`, and be late."""
    waiting = sources.standings.read_order(holders, sources.states())
    race = _Race()
    try:
        if first is not None and first.failure is not None:
            waiting.remove(first.attempt.peer)
            race.failures[first.attempt.peer] = first.failure
        elif first is not None and not first.is_over:
            waiting.remove(first.attempt.peer)
            _start(sources, wanted, race, first.attempt, deadline, first.asking)
            outcome = await _wait_on(sources, wanted, race, first.attempt, first.hedge_s)
            if isinstance(outcome, memoryview):
                return _won(sources, race, outcome)
        else:
            probe_silent(sources, wanted.volume, wanted.chunk, waiting)
        while waiting or race.running:
            outcome = await _ask_next(sources, wanted, race, waiting, deadline)
            if isinstance(outcome, memoryview):
                return _won(sources, race, outcome)
        return race.failures
    finally:
        # Only a cancelled read, or one whose deadline passed, still has scopes here.
        _finish(race, patience_s=0.0)


def _won(sources: Sources, race: _Race, right: memoryview) -> memoryview:
    _finish(race, patience_s=PATIENCE_S)
    for peer, failure in race.failures.items():
        if isinstance(failure, Corrupt | NotFound):
            sources.standings.distrust(peer)
    return right


async def _ask_next(
    sources: Sources, wanted: Wanted, race: _Race, waiting: list[PeerNumber], deadline: float
) -> memoryview | PoolError | None:
    """Ask the next holder, if there is one, and wait: for an outcome, or until it is time to ask another one too."""
    if not waiting:
        return await _outcome(sources, wanted, race, math.inf)
    standings, peer = sources.standings, waiting.pop(0)
    hedge_s = standings.hedge_after_s(peer)
    start, stop = runs.span(wanted.size, wanted.blocks)
    attempt = standings.begin(peer, stop - start)
    _start(sources, wanted, race, attempt, deadline)
    if not waiting:
        return await _outcome(sources, wanted, race, math.inf)
    outcome = await _outcome(sources, wanted, race, hedge_s)
    return outcome if outcome is not None else await _wait_on(sources, wanted, race, attempt, hedge_s)


async def _wait_on(
    sources: Sources, wanted: Wanted, race: _Race, attempt: Attempt, hedge_s: float
) -> memoryview | PoolError | None:
    """An attempt has taken `hedge_s`: wait on while that is better than to ask another holder too."""
    standings = sources.standings
    outcome: memoryview | PoolError | None = None
    # On a full link a second request would only take its share of it.
    while outcome is None and (wait_s := standings.look_again_s(attempt, hedge_s)) is not None:
        outcome = await _outcome(sources, wanted, race, wait_s)
    if outcome is None and not standings.take_hedge():
        outcome = await _outcome(sources, wanted, race, max(0.0, HEDGE_CAP_S - hedge_s))
    return outcome


def _start(
    sources: Sources,
    wanted: Wanted,
    race: _Race,
    attempt: Attempt,
    deadline: float,
    asking: Asking | None = None,
) -> None:
    """Ask a peer in the background, or wait there for its answer."""
    scope = trio.CancelScope(deadline=deadline)
    race.scopes.append(scope)
    race.running += 1
    sources.nursery.start_soon(_ask, sources, wanted, attempt, scope, race, asking)


async def _outcome(sources: Sources, wanted: Wanted, race: _Race, patience_s: float) -> memoryview | PoolError | None:
    """What one of the holders asked gave: right bytes, or why not; None if none of them gave anything in time."""
    with trio.move_on_after(patience_s):
        peer, outcome = await race.outcomes.next()
        race.running -= 1
        if isinstance(outcome, memoryview):
            try:
                if wanted.check is not None:
                    wanted.check(outcome)
            except Corrupt as error:
                outcome = bare(error)
        if isinstance(outcome, PoolError):
            race.failures[peer] = outcome
        else:
            sources.count(peer, wanted.volume, wanted.chunk, len(outcome))
        return outcome
    return None


def _finish(race: _Race, *, patience_s: float) -> None:
    """The read is over: what still runs gets `patience_s` to show that its peer is alive."""
    limit = trio.current_time() + patience_s
    for scope in race.scopes:
        scope.deadline = min(scope.deadline, limit)
    if patience_s:
        race.scopes.clear()


async def _ask(
    sources: Sources,
    wanted: Wanted,
    attempt: Attempt,
    scope: trio.CancelScope,
    race: _Race,
    asking: Asking | None,
) -> None:
    """One request to one peer; its outcome goes to the race and to the peer's standing."""
    standings, peer = sources.standings, attempt.peer
    outcome: memoryview | PoolError = Unavailable(f"peer {peer} did not answer in time")
    with scope:
        try:
            outcome = await (_get(sources, wanted, attempt) if asking is None else asking.sealed())
            standings.read(attempt)
        except (Unavailable, Denied) as error:
            standings.failed(attempt)
            outcome = bare(error)
        except PoolError as error:
            standings.declined(attempt)
            outcome = bare(error)
        except trio.Cancelled:
            standings.dropped(attempt)
            raise
        finally:
            if asking is not None:
                await asking.aclose()
    race.outcomes.add(peer, outcome)


async def _get(sources: Sources, wanted: Wanted, attempt: Attempt) -> memoryview:
    store = sources.peers(attempt.peer)
    if store is None:
        raise Unavailable(f"the pool does not know peer {attempt.peer}")
    return await store.get(wanted.volume, wanted.chunk, wanted.size, wanted.blocks, watch=attempt.watch)


def probe_silent(sources: Sources, volume: VolumeId, chunk: ChunkId, peers: Sequence[PeerNumber]) -> None:
    """Find out in the background whether a peer that was silent is back, so that no read and no write has to."""
    peer = sources.standings.take_probe(peers)
    if peer is not None:
        sources.nursery.start_soon(probe, sources, volume, chunk, peer)


async def probe(sources: Sources, volume: VolumeId, chunk: ChunkId, peer: PeerNumber) -> None:
    """Ask a peer whether it has a chunk, only to see whether it answers."""
    store = sources.peers(peer)
    if store is None:
        return
    attempt = sources.standings.begin(peer)
    with trio.move_on_after(2 * PATIENCE_S):
        try:
            await store.has(volume, chunk)
            sources.standings.probed(attempt)
        except PoolError:
            sources.standings.refused(attempt)
        except trio.Cancelled:
            sources.standings.refused(attempt)
            raise
