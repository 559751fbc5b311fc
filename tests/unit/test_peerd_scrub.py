"""The scrub: everything is read in time and no faster than need be, across restarts, damage and orders."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from bits import flipped
from plugins.checklogs import Claims
from sealed import OTHER_VOLUME, VOLUME, Sealed, sealed
from trio.testing import MockClock

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.chunks.receipts import sign_for
from p2pfs.errors import Misuse, NoSpace
from p2pfs.runtime.clocks import SimulatedClock
from p2pfs.runtime.threads import Threads
from p2pfs.runtime.worker import Progress, run
from p2pfs.types import GIB, KIB, MIB, ChunkId, PeerNumber, VolumeId
from p2pfs.wire.membership import Scrub
from p2pfs_peerd.scrub import SLOWEST, SPREAD, Scrubber

pytestmark = pytest.mark.l0

DAY_S = 86400.0
PERIOD_S = 30 * DAY_S
RATE = 16 * MIB


@pytest.fixture(autouse=True)
def _threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps when everything waits would jump while a thread works."""

    async def run_sync(work: Callable[[], object], *arguments: object, **_options: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    async def run(_: Threads, work: Callable[[], object]) -> object:
        return await run_sync(work)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    monkeypatch.setattr(Threads, "run", run)


class Watched(Disk):
    """Remembers which chunk files were opened, and when."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, float]] = []
        self.broken: set[Path] = set()

    def open(self, path: Path, *, direct: bool = False) -> int:
        if len(path.name) == 62:
            self.reads.append((path.parent.name + path.name, trio.current_time()))
        if path in self.broken:
            raise OSError(errno.ENODEV, "no answer")
        return super().open(path, direct=direct)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.reads]


class Peer:
    """A store, its scrub, and a restart of both."""

    def __init__(self, root: Path, disk: Watched, clock: SimulatedClock) -> None:
        self.root, self.disk, self.clock = root, disk, clock
        self.rate: int | None = RATE
        self.period_s = PERIOD_S

    async def start(self) -> "Peer":
        self.store = await DirectoryStore.open(
            self.root / "chunks", sign=sign_for(PeerNumber(1)), capacity=GIB, disk=self.disk, clock=self.clock
        )
        self.scrub = await Scrubber.open(
            self.store, self.root / "scrub", period_s=self.period_s, rate=self.rate, clock=self.clock
        )
        return self

    async def put(self, *chunks: Sealed, volume: VolumeId = VOLUME) -> None:
        for chunk in chunks:
            await self.store.put(volume, chunk.id, [chunk.data])

    def path(self, chunk: Sealed, volume: VolumeId = VOLUME) -> Path:
        return self.root / "chunks" / f"{volume:016x}" / chunk.id.hex()[:2] / chunk.id.hex()[2:]

    async def round(self) -> Scrub:
        """Work until a round has ended or there is nothing to do."""
        ended_s = self.scrub.state().finished_s
        while await self.scrub.work() is not Progress.IDLE and self.scrub.state().finished_s == ended_s:
            pass
        return self.scrub.state()

    async def steps_until(self, done: int) -> None:
        while self.scrub.state().done < done:
            assert await self.scrub.work() is Progress.BUSY


@pytest.fixture
async def peer(tmp_path: Path) -> Peer:
    return await Peer(tmp_path, Watched(), SimulatedClock()).start()


CHUNKS = sorted((sealed(seed, 1000) for seed in range(12)), key=lambda chunk: chunk.id)
NAMES = [chunk.id.hex() for chunk in CHUNKS]


# ---- a round --------------------------------------------------------------------------------------------------------


async def test_a_round_reads_every_chunk_once_in_order(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*reversed(CHUNKS))
    await peer.put(*CHUNKS, volume=OTHER_VOLUME)
    state = await peer.round()
    assert peer.disk.names == NAMES + NAMES
    assert (state.state, state.done, state.total, state.damaged) == ("idle", 24, 24, 0)
    assert state.done_bytes == state.total_bytes == peer.store.usage().used
    assert state.finished_s >= state.started_s > 0


async def test_an_empty_store_is_a_round_too(autojump_clock: MockClock, peer: Peer) -> None:
    state = await peer.round()
    assert (state.state, state.done, state.total) == ("idle", 0, 0)
    assert state.finished_s > 0


@pytest.mark.parametrize("at", [100, HEADER_BYTES + 5], ids=["header", "body"])
async def test_damage_is_found_though_the_chunk_was_read_before(
    autojump_clock: MockClock, at: int, peer: Peer, claim_logs: Claims
) -> None:
    claim_logs("moved to quarantine", count=1)
    await peer.put(*CHUNKS)
    rotten = CHUNKS[5]
    await peer.store.get(VOLUME, rotten.id, rotten.size, rotten.whole)
    peer.path(rotten).write_bytes(flipped(peer.path(rotten).read_bytes(), 8 * at))
    state = await peer.round()
    assert (state.done, state.damaged) == (11, 1)
    assert peer.store.damaged() == [(VOLUME, rotten.id)]


async def test_what_is_put_or_deleted_meanwhile_is_no_trouble(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*CHUNKS[2:])
    await peer.steps_until(3)
    await peer.put(CHUNKS[0], CHUNKS[1])  # behind it
    await peer.store.delete(VOLUME, CHUNKS[6].id, 1 << 60)
    await peer.put(*CHUNKS, volume=VolumeId(VOLUME + 1))  # before it
    state = await peer.round()
    assert peer.disk.names.count(NAMES[6]) == 2  # by the delete, and of the other volume
    assert (state.done, state.damaged) == (9 + 12, 0)


async def test_rounds_begin_a_period_apart(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*CHUNKS[:3])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer.scrub)
        await trio.sleep(3.5 * PERIOD_S)
        nursery.cancel_scope.cancel()
    times = [time_s for name, time_s in peer.disk.reads if name == NAMES[0]]
    assert times == pytest.approx([0, PERIOD_S, 2 * PERIOD_S, 3 * PERIOD_S], abs=60)
    assert len(peer.disk.reads) == 12


# ---- pace -----------------------------------------------------------------------------------------------------------


async def test_a_round_takes_its_time_but_ends_within_the_period(autojump_clock: MockClock, tmp_path: Path) -> None:
    peer = Peer(tmp_path, Watched(), SimulatedClock())
    peer.period_s = 100.0
    await peer.start()
    big = [sealed(seed) for seed in range(100, 116)]
    for volume in range(1, 17):
        await peer.put(*big, volume=VolumeId(volume))
    state = await peer.round()  # 257 MiB in 80 s: a fifth of what is allowed
    assert state.done == 256
    assert SPREAD * peer.period_s == pytest.approx(trio.current_time(), rel=0.05)
    halfway_s = peer.disk.reads[128][1]
    assert halfway_s == pytest.approx(SPREAD * peer.period_s / 2, rel=0.1)


async def test_a_small_store_is_read_slowly_and_not_for_weeks(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*[sealed(seed) for seed in range(100, 110)])
    state = await peer.round()
    assert trio.current_time() == pytest.approx(state.done_bytes / SLOWEST, abs=1.5)


async def test_no_more_is_read_than_allowed_even_if_it_takes_longer_than_the_period(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    peer = Peer(tmp_path, Watched(), SimulatedClock())
    peer.rate, peer.period_s = 100 * KIB, 10.0
    await peer.start()
    await peer.put(*[sealed(seed) for seed in range(100, 110)])
    state = await peer.round()
    assert trio.current_time() == pytest.approx(state.done_bytes / peer.rate, rel=0.15)
    assert await peer.scrub.work() is Progress.BUSY  # late, so the next one begins at once


async def test_a_round_begun_by_hand_is_as_fast_as_allowed(autojump_clock: MockClock, tmp_path: Path) -> None:
    peer = Peer(tmp_path, Watched(), SimulatedClock())
    peer.rate = 4 * MIB
    await peer.start()
    await peer.put(*[sealed(seed) for seed in range(100, 120)])
    peer.scrub.steer("start")
    state = await peer.round()
    assert trio.current_time() == pytest.approx(state.done_bytes / peer.rate, abs=1.1)
    peer.rate = None
    await peer.start()
    began_s = trio.current_time()
    peer.scrub.steer("start")
    await peer.round()
    assert trio.current_time() == began_s


async def test_a_round_that_fell_behind_catches_up(autojump_clock: MockClock, tmp_path: Path) -> None:
    peer = Peer(tmp_path, Watched(), SimulatedClock())
    peer.period_s = 200.0
    await peer.start()
    for volume in range(1, 21):
        await peer.put(*[sealed(seed) for seed in range(100, 110)], volume=VolumeId(volume))
    await peer.steps_until(20)
    await trio.sleep(100)  # the machine slept
    await peer.round()
    assert trio.current_time() <= SPREAD * peer.period_s + 5


async def test_a_clock_set_back_does_not_put_the_next_round_off(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.round()
    peer.clock._start_s -= 365 * DAY_S
    assert await peer.scrub.work() is Progress.BUSY
    assert peer.scrub.state().started_s == peer.clock.time()


# ---- restarts -------------------------------------------------------------------------------------------------------


async def test_a_restart_goes_on_where_it_was(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*CHUNKS)
    await peer.put(*CHUNKS, volume=OTHER_VOLUME)
    await peer.steps_until(15)
    await trio.sleep(60)
    await peer.steps_until(17)  # kept with the first step of these
    began_s = peer.scrub.state().started_s
    await peer.start()
    state = peer.scrub.state()
    assert (state.state, state.total, state.started_s) == ("running", 24, began_s)
    assert state.done in (15, 16)
    del peer.disk.reads[:]
    kept, state = state.done, await peer.round()
    assert peer.disk.names == NAMES[kept - 12 :]
    assert (state.done, state.done_bytes) == (24, peer.store.usage().used)
    await peer.start()
    assert peer.scrub.state() == state
    assert await peer.scrub.work() is Progress.IDLE


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: flipped(data, 8 * 90)])
async def test_a_damaged_position_begins_anew(
    autojump_clock: MockClock, damage: Callable[[bytes], bytes], peer: Peer, claim_logs: Claims
) -> None:
    claim_logs("the scrub begins anew", count=1)
    await peer.put(*CHUNKS)
    await peer.round()
    (peer.root / "scrub").write_bytes(damage((peer.root / "scrub").read_bytes()))
    await peer.start()
    assert (await peer.round()).done == 12
    assert peer.disk.names == NAMES + NAMES


async def test_a_position_that_cannot_be_kept_does_not_stop_the_scrub(
    autojump_clock: MockClock, peer: Peer, claim_logs: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NoSpace("no space left")

    claim_logs("cannot keep how far the scrub has got", count=1)
    monkeypatch.setattr("p2pfs_peerd.kept.write_durably", full)
    await peer.put(*CHUNKS)
    for _ in range(3):
        peer.scrub.steer("start")
        assert (await peer.round()).done == 12


# ---- a disk that fails ----------------------------------------------------------------------------------------------


async def test_one_chunk_that_cannot_be_read_does_not_keep_the_others_waiting(
    autojump_clock: MockClock, peer: Peer, claim_logs: Claims
) -> None:
    claim_logs("worker scrub: the disk fails", count=1)
    claim_logs("left to the next scrub", count=1)
    await peer.put(*CHUNKS)
    peer.disk.broken.add(peer.path(CHUNKS[4]))
    with trio.move_on_after(DAY_S):
        await run(peer.scrub)
    state = peer.scrub.state()
    assert (state.state, state.done, state.total) == ("idle", 11, 12)
    assert peer.disk.names.count(NAMES[4]) == 3
    assert peer.store.damaged() == []
    peer.disk.broken.clear()
    await trio.sleep(PERIOD_S)
    assert (await peer.round()).done == 12


# ---- orders ---------------------------------------------------------------------------------------------------------


async def test_a_pause_holds_everything_back_until_resumed_across_restarts(
    autojump_clock: MockClock, peer: Peer
) -> None:
    await peer.put(*CHUNKS)
    await peer.steps_until(5)
    peer.scrub.steer("pause")
    for _ in range(2):
        state = await peer.round()
        assert (state.state, state.done, state.total) == ("paused", 5, 12)
        await trio.sleep(2 * PERIOD_S)
        await peer.start()
    peer.scrub.steer("resume")
    peer.scrub.steer("resume")
    assert (await peer.round()).done == 12
    assert peer.disk.names == NAMES


async def test_a_pause_between_rounds_holds_back_the_next(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*CHUNKS)
    await peer.round()
    peer.scrub.steer("pause")
    await trio.sleep(PERIOD_S)
    assert await peer.scrub.work() is Progress.IDLE
    peer.scrub.steer("resume")
    assert await peer.scrub.work() is Progress.BUSY


async def test_a_cancelled_round_is_skipped_and_the_next_comes_in_its_time(
    autojump_clock: MockClock, peer: Peer
) -> None:
    await peer.put(*CHUNKS)
    await peer.steps_until(5)
    peer.scrub.steer("cancel")
    state = await peer.round()
    assert (state.state, state.done, state.finished_s) == ("idle", 5, 0)
    await peer.start()
    assert await peer.scrub.work() is Progress.IDLE
    await trio.sleep(PERIOD_S)
    assert (await peer.round()).done == 12
    assert peer.disk.names == NAMES[:5] + NAMES


async def test_start_begins_a_round_once_however_often_it_is_said(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*CHUNKS)
    await peer.steps_until(5)
    peer.scrub.steer("start")  # not the one under way, which is as old as it is
    await peer.steps_until(3)
    peer.scrub.steer("start")
    peer.scrub.steer("start")
    assert (await peer.round()).done == 12
    assert peer.disk.names == NAMES[:5] + NAMES


async def test_orders_are_heard_while_it_waits(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*CHUNKS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer.scrub)
        await trio.sleep(DAY_S)
        assert len(peer.disk.reads) == 12
        peer.scrub.steer("start")
        await trio.sleep(1)
        assert len(peer.disk.reads) == 24
        nursery.cancel_scope.cancel()


async def test_start_speeds_up_a_round_that_waits_for_its_slow_pace(autojump_clock: MockClock, peer: Peer) -> None:
    await peer.put(*[sealed(seed) for seed in range(100, 120)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, peer.scrub)
        await trio.sleep(5.5)
        peer.scrub.steer("start")
        await trio.sleep(2)
        assert peer.scrub.state().done == 20
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("action", ["start", "cancel"])
@pytest.mark.parametrize("moment", ["volumes", "names", "verify"])
async def test_an_order_at_any_moment_is_obeyed(
    autojump_clock: MockClock, action: str, moment: str, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a step's beginning and its end another round may have begun, or this one ended."""
    await peer.put(CHUNKS[0])
    await peer.scrub.work()
    target = peer.store if moment == "verify" else peer.store.inventory
    original = getattr(target, moment)
    calls = 0

    async def interrupted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        found = await original(*arguments)
        if calls == 1:
            peer.scrub.steer(action)
        return found

    if moment == "volumes":  # at the end of the round
        await peer.steps_until(1)
    monkeypatch.setattr(target, moment, interrupted)
    state = await peer.round()
    assert calls
    if action == "start":
        assert (state.state, state.done, state.damaged) == ("idle", 1, 0)
        assert state.finished_s >= state.started_s
    else:
        assert (state.state, state.finished_s) == ("idle", 0)
        await trio.sleep(PERIOD_S)
        assert (await peer.round()).done == 1


async def test_other_orders_are_misuse(autojump_clock: MockClock, peer: Peer) -> None:
    with pytest.raises(Misuse):
        peer.scrub.steer("faster")


def test_ids_are_ordered_as_their_names() -> None:
    """The position is kept as numbers and bytes, the walk goes by names."""
    ids = [ChunkId(bytes([first]) * 32) for first in (0, 9, 10, 15, 16, 255)]
    assert sorted(ids) == [ChunkId(bytes.fromhex(name)) for name in sorted(each.hex() for each in ids)]
