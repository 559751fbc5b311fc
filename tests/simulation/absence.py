"""`python -m tests.simulation.absence --seeds 0-299`: the coordinator is away for a week while peers come, go and die.

    files are written, all is well ─▶ the coordinator stops ─▶ trouble, calm, a disk dies ─▶ … a week … ─▶ it is back

In *trouble* peers are killed, cut off, hung, slowed and turned off; nothing that destroys copies. In the *calm* behind
it nothing changes for as long as the elected coordinator needs at most, some peers staying off. After it every chunk of
which a running peer has a copy must have as many as are wanted on running peers: then a disk dies for good, which costs
nothing. In a week so many die that without anybody to ask for copies chunks are lost.

Nothing may be deleted meanwhile. When the coordinator is back it must find all, and come to exactly the wanted copies.
In some weeks few disks die, so that those that return leave copies to trim; in some a peer lists chunks that there are
not; and some coordinators come back in the middle of trouble.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final
from unittest import mock

import msgspec
import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.files import Held
from p2pfs.chunks.inventory import Listing
from p2pfs.format.inventory import digest
from p2pfs.runtime.config import Settings
from p2pfs.types import MIB, ChunkId
from p2pfs_peerd.watch import MISSED, ROUNDS

from . import invariants, pool, run
from .determinism import Bugs, PoolTime, controlled
from .faults import Faults
from .load import Load
from .pool import VOLUME, SimPeer, SimPool
from .run import _first, _in_time
from .world import Violation, World

DAY_S: Final = 86400.0
WEEK_S: Final = 7 * DAY_S
SETTINGS: Final = msgspec.structs.replace(
    pool.SETTINGS,
    heartbeat=1200.0,
    suspect=3600.0,
    down=7200.0,
    repair_delay=3600.0,
    elect_after=7200.0,
    elect_share=0.1,
    session_lifetime=4800.0,
    delegation=1200.0,
    audit_interval=1200.0,
    inventory_interval=DAY_S,
)
"""Everything slower than in `pool`: a week is what a run costs."""
CALM_S: Final = SETTINGS.elect_after * (1 + (MISSED + 2) / ROUNDS) + SETTINGS.repair_delay + 5 * SETTINGS.elect_after
"""Until a peer that was just started follows a leader; one that just stopped is neither heard nor waited for; copies
asked for in vain are asked for again, at the look after that; and those are there."""
PATIENCE_S: Final = 600
"""Of the process's own time; a week is a few seconds of a core that has nothing else to do."""
_RETURN_S: Final = 4 * DAY_S


@dataclass
class Outcome:
    """What became of one seed."""

    seed: int
    failure: str = ""
    journal: list[str] = field(default_factory=list)
    chunks: int = 0
    died: int = 0
    copied: int = 0  # while the coordinator was away
    surplus: int = 0  # copies beyond those wanted when it came back

    @property
    def is_good(self) -> bool:
        return not self.failure


class MakesUp:
    """A peer that lists, while no coordinator is there, more chunks than anybody has room for, and has none of them."""

    MADE_UP: ClassVar = [Held(VOLUME, ChunkId(bytes([0, 0]) + n.to_bytes(30, "big")), MIB, 1, 0) for n in range(1, 301)]

    def __init__(self, peer: SimPeer, is_away: Callable[[], bool]) -> None:
        self._is_away = is_away
        peer.dress = self._dress
        if peer.store is not None:
            self._dress(peer.store)

    def _dress(self, store: DirectoryStore) -> DirectoryStore:
        store.digests = partial(self._digests, store.digests)  # type: ignore[method-assign]
        store.listed = partial(self._listed, store.listed)  # type: ignore[method-assign]
        return store

    async def _digests(self, real: Callable[[], Awaitable[list[bytes]]]) -> list[bytes]:
        found = await real()
        if self._is_away():
            found[0] = digest(((one.volume, one.chunk) for one in self.MADE_UP), found[0])
        return found

    async def _listed(self, real: Callable[..., Awaitable[Listing]], bucket: int, *more: Any) -> Listing:  # noqa: ANN401
        true = await real(bucket, *more)
        if bucket or not self._is_away() or (more and more[0]):
            return true
        entries = sorted([*true.entries, *self.MADE_UP], key=lambda one: (one.volume, one.chunk))
        return Listing(true.settled_seq, entries, true.more)


class Absence:
    """One run of it."""

    def __init__(self, world: World, load: Load, faults: Faults, bugs: Bugs, outcome: Outcome) -> None:
        self.world, self.load, self.faults, self.bugs, self.outcome = world, load, faults, bugs, outcome
        self.chance = world.chance
        self.dead: set[SimPeer] = set()
        self.is_away = False
        self.most_dead = 1 if world.seed // 2 % 2 else len(world.pool.peers)
        self.liar: SimPeer | None = None  # who makes up chunks: its disk does not die
        self.is_hasty = world.seed % 3 == 0
        if world.seed % 5 == 1:
            self.liar = world.pool.peers[-1]
            MakesUp(self.liar, lambda: self.is_away)
        for peer in world.pool.peers:
            peer.disk.trashing = partial(self._trashing, peer, peer.disk.trashing)

    def _trashing(self, peer: SimPeer, checked: object, path: Path) -> None:
        if self.is_away:
            self.world.violated("P5", f"{peer.host.name} deletes {path.name[:8]} and no coordinator is there to say so")
        checked(path)  # type: ignore[operator]

    # ---- before -----------------------------------------------------------------------------------------------------

    async def fill(self) -> None:
        """Files are written, and every chunk has its copies."""
        await self.faults.start_all()
        await trio.sleep(SETTINGS.heartbeat * 2)
        for _ in range(80):
            self.load.start()
            await trio.sleep(3 * self.chance.random())
        await trio.sleep(600)
        for mount in self.world.pool.mounts:
            mount.leave()
        await trio.sleep(SETTINGS.down * 3)
        self._check()
        short = [chunk for chunk in self._named() if len(self.world.valid(chunk)) < self._wanted]
        if short:
            raise Violation(f"{len(short)} chunks are short before anything happened")

    # ---- the week ---------------------------------------------------------------------------------------------------

    async def week(self) -> None:
        """Seven days without the coordinator."""
        self._wanted_now = self._wanted
        self.world.note("the coordinator is gone for a week")
        self.world.pool.coordinator.host.stop()
        self.is_away = True
        named = self._named()
        self.outcome.chunks = len(named)
        before = self._copies(named)
        ends_s = trio.current_time() + WEEK_S
        while trio.current_time() + CALM_S < ends_s:
            await self._trouble(DAY_S * (0.1 + 0.4 * self.chance.random()))
            await self._calm(named)
            self._fell()
        await trio.sleep(max(0.0, ends_s - trio.current_time()))
        lost = self._lost_with_disks
        self.outcome.copied = self._copies(named) + lost - before
        self._fell()
        self.is_away = False

    _lost_with_disks = 0
    _wanted_now = 0

    async def _trouble(self, lasts_s: float) -> None:
        faults = self.faults
        kinds = (
            faults._kill_peer, faults._kill_peer, faults._cut_power, faults._mine_disk, faults._hang, faults._resume,
            faults._partition, faults._heal, faults._slow, faults._lossy, faults._calm, faults._fill, faults._empty,
            faults._stick, faults._unstick, faults._turn_clock, self._start_some, self._start_some, self._start_some,
        )  # fmt: skip
        ends_s = trio.current_time() + lasts_s
        while trio.current_time() < ends_s:
            result = self.chance.choice(kinds)()
            if result is not None:
                await result
            await trio.sleep(4 * SETTINGS.repair_delay * self.chance.random() ** 2)

    async def _start_some(self) -> None:
        for peer in self.world.pool.peers:
            if peer not in self.dead and self.chance.random() < 0.7:
                await self.faults.start_peer(peer)

    async def _calm(self, named: list[ChunkId]) -> None:
        """Nothing changes for long enough; then what runs has all it can have, and one disk dies."""
        self.faults.relieve()
        for peer in self.world.pool.peers:
            if peer not in self.dead and self.chance.random() < 0.85:
                await self.faults.start_peer(peer)
        self.world.note("it is calm")
        await trio.sleep(CALM_S)
        self._fell()
        running = [peer for peer in self.world.pool.peers if peer.host.is_up]
        wanted = min(self._wanted_now, len(running))
        for chunk in named:
            holders = [peer for peer in running if peer.disk.holds((VOLUME, chunk))]
            copies = len(holders)
            if 0 < copies < wanted and holders != [self.liar]:  # what only a liar has goes short at its own expense
                told = f"has {copies} copies on running peers and should have {wanted}"
                raise Violation(f"short: chunk {chunk.hex()[:8]} {told}")
        alive = len(self.world.pool.peers) - len(self.dead)
        can_die = len(running) > 1 and alive > self._wanted_now and len(self.dead) < self.most_dead
        if can_die and self.chance.random() < 0.9:
            self._dies(self.chance.choice([peer for peer in running if peer is not self.liar]))

    def _dies(self, peer: SimPeer) -> None:
        self.dead.add(peer)
        self.outcome.died += 1
        copies = list(peer.disk.copies())
        self._lost_with_disks += len(copies)
        self.world.destroyed.update((peer.number, copy[1]) for copy in copies)
        self.world.unreliable.add(peer.number)
        peer.host.stop()
        self.world.note(f"the disk of {peer.host.name} dies")

    # ---- afterwards -------------------------------------------------------------------------------------------------

    async def back(self) -> None:
        """The coordinator is there again: nothing is lost, and there will be as many copies as are wanted."""
        if not self.is_hasty:
            await self._relieve()
        named = self._named()
        lost = [chunk for chunk in named if not self.world.valid(chunk)]
        if lost:
            raise Violation(f"P1: {len(lost)} of {len(named)} chunks are lost, {lost[0].hex()[:8]} for one")
        self.outcome.surplus = sum(max(0, len(self.world.valid(chunk)) - self._wanted_now) for chunk in named)
        coordinator = self.world.pool.coordinator
        await self.faults._start(coordinator.host, coordinator.run)
        if self.is_hasty:
            await self._trouble(DAY_S / 4)
            await self._relieve()
        ends_s = trio.current_time() + _RETURN_S
        while trio.current_time() < ends_s:
            await trio.sleep(3600)
            self._check()
            if self._is_settled():
                break
        for chunk in self._named():
            copies, known = len(self.world.valid(chunk)), self.world.copies[chunk]
            if not copies == known == self._wanted:
                told = f"{copies} copies, {known} of them known, and {self._wanted} are wanted"
                raise Violation(f"P5: chunk {chunk.hex()[:8]} has {told} long after")
        await self._read_all()
        self._check()
        invariants.check_rows(self.world)

    def _is_settled(self) -> bool:
        copies = self.world.copies  # those the coordinator knows of
        return all(len(self.world.valid(chunk)) == copies[chunk] == self._wanted for chunk in self._named())

    async def _read_all(self) -> None:
        mount = self.world.pool.mounts[0]
        mount.host.stop()
        await self.faults.start_mount(mount)
        await trio.sleep(60)
        done = trio.Event()

        async def read() -> None:
            await self.load.read_all(mount)
            done.set()

        if mount.mounted is None:
            raise Violation("P8: nobody can mount although all is well")
        mount.start_soon(read)
        with trio.move_on_after(3600):
            await done.wait()
        if not done.is_set():
            raise Violation("P8: reading what is stored does not end")

    async def _relieve(self) -> None:
        """All is well but for the dead."""
        self.faults.relieve()
        for peer in self.world.pool.peers:
            if peer not in self.dead:
                await self.faults.start_peer(peer)

    # ---- looking ----------------------------------------------------------------------------------------------------

    @property
    def _wanted(self) -> int:
        return self.world.wanted()

    def _named(self) -> list[ChunkId]:
        rows = self.world.pool.database.read(
            lambda connection: connection.execute("SELECT id FROM chunk WHERE refs > 0 ORDER BY number").fetchall()
        )
        return [ChunkId(identity) for (identity,) in rows]

    def _copies(self, named: list[ChunkId]) -> int:
        return sum(len(self.world.valid(chunk)) for chunk in named)

    def _check(self) -> None:
        invariants.check(self.world, self.load, self.bugs)

    def _fell(self) -> None:
        """Raises what was found on the way."""
        for bug in self.bugs.found:
            self.world.violated("bug", bug)
        if self.world.violations:
            raise Violation(self.world.violations[0])


@contextlib.contextmanager
def _slowly(settings: Settings) -> Iterator[None]:
    with (
        mock.patch.object(pool, "SETTINGS", settings),
        mock.patch.object(pool, "TIDY_S", DAY_S),
        mock.patch.object(run, "PATIENCE_S", PATIENCE_S),
    ):
        yield


def simulate(seed: int, *, verbose: bool = False) -> Outcome:
    """Run one seed to its end or its first violation."""
    outcome = Outcome(seed)
    shared = Path("/dev/shm")
    memory = tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None, prefix="p2pfs-simulation-")
    settings = msgspec.structs.replace(SETTINGS, replicas=2 + seed % 2)
    with memory as directory, _slowly(settings), controlled(seed, verbose=verbose) as bugs:
        simulated = SimPool(seed, Path(directory), peers=5 + seed % 3, mounts=2)
        world = World(seed, simulated, verbose=verbose)
        try:
            trio.run(_main, world, bugs, outcome, clock=PoolTime())
        except BaseException as error:
            outcome.failure = _first(error)
        finally:
            simulated.database.close()
        outcome.journal = list(world.journal)
    return outcome


async def _main(world: World, bugs: Bugs, outcome: Outcome) -> None:
    async with _in_time(), trio.open_nursery() as nursery:
        absence = Absence(world, Load(world), Faults(world, nursery), bugs, outcome)
        await absence.fill()
        await absence.week()
        await absence.back()
        nursery.cancel_scope.cancel()


def explore(seeds: range, *, plant: str = "", verbose: bool = False) -> Iterator[Outcome]:
    """Outcomes as they come."""
    from .absence_planted import PLANTED

    for seed in seeds:
        with PLANTED[plant]() if plant else nullcontext():
            yield simulate(seed, verbose=verbose)


def main() -> int:
    from .run import _seeds

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(20), help="17 or 0-299")
    parser.add_argument("--plant", default="", help="a planted bug: see tests/simulation/absence_planted.py")
    parser.add_argument("--verbose", action="store_true", help="print everything that happens")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    options = parser.parse_args()
    began, count, failures, died, copied, surplus = time.monotonic(), 0, 0, 0, 0, 0
    for outcome in explore(options.seeds, plant=options.plant, verbose=options.verbose):
        count, died = count + 1, died + outcome.died
        copied, surplus = copied + outcome.copied, surplus + outcome.surplus
        if count % 20 == 0:
            print(f"{count} seeds", file=sys.stderr, flush=True)
        if not outcome.is_good:
            failures += 1
            print(f"\nseed {outcome.seed} fails: {outcome.failure}", flush=True)
            if not options.keep_going:
                print(*outcome.journal[-40:], sep="\n")
                break
    took_s = time.monotonic() - began
    print(
        f"{count} weeks without a coordinator in {took_s:.0f} s: {failures} failures; {died} disks died,"
        f" {copied} copies were made, {surplus} of them surplus in the end"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
