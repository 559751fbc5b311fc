"""Promises never exceed a peer's room: rolling ones of writers and named ones, over storing, giving back, releasing,
running out, heartbeats that come late, and crashes; and nobody else's doings make a named one short."""

import contextlib
import itertools
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import trio
from coordination import FakeClock, Pool, pool, volume_message
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs.coordinator.booked import room_for
from p2pfs.coordinator.ledger import disk_bytes
from p2pfs.errors import NoSpace, NotFound, OverQuota
from p2pfs.types import MIB, SEALED_CHUNK_BYTES, PeerNumber, Role, SessionId, VolumeId
from p2pfs.wire.bookings import Book
from p2pfs.wire.membership import JoinAnswer
from p2pfs.wire.volumes import Reserve

pytestmark = pytest.mark.l2

CHUNK = SEALED_CHUNK_BYTES
ON_DISK = disk_bytes(CHUNK)
CAPACITY = 40 * ON_DISK
QUIET, BUSY = VolumeId(7), VolumeId(8)
"""The first only books; the second stores, too."""

few = st.integers(0, 3)
step = st.one_of(
    st.tuples(st.just("book"), st.sampled_from([QUIET, BUSY]), st.integers(1, 40), st.sampled_from([50.0, 5000.0])),
    st.tuples(st.just("release"), few),
    st.tuples(st.just("reserve"), few, st.integers(0, 16)),
    st.tuples(st.just("reserve"), few, st.integers(1, 16)),
    st.tuples(st.just("put"), few, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("put"), few, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("commit")),
    st.tuples(st.just("commit_one"), few),
    st.tuples(st.just("measure"), few),
    st.tuples(st.just("hear"), few),
    st.tuples(st.just("beat")),
    st.tuples(st.just("over"), few),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 100.0, 700.0])),
    st.tuples(st.just("crash")),
)


@cache
def template() -> tuple[Path, list[JoinAnswer]]:
    """A pool of four peers and two volumes to copy."""
    path = Path(tempfile.mkdtemp(prefix="p2pfs-reservations-"))

    async def make() -> list[JoinAnswer]:
        async with pool(path / "pool", clock=FakeClock(), replicas="3", min_replicas="2") as p:
            peers = await p.peers(4, capacity=CAPACITY)
            for volume, owner in zip((QUIET, BUSY), peers, strict=False):
                identity = p.identity(owner.node, [Role.CLIENT])
                await p.services.volumes.create(identity, volume_message(volume, f"volume-{volume}"))
            return peers

    return path / "pool", trio.run(make)


@dataclass
class Token:
    """One a mount has, as its peer counts it."""

    session: int
    peer: int  # from 0
    expires_s: float
    left: int  # chunks
    number: int
    is_refused: bool = False


@dataclass
class World:
    """What is really there, beside what the coordinator believes."""

    path: Path
    nodes: list[str]
    clock: FakeClock
    stored: list[int] = field(default_factory=lambda: [0] * 4)  # bytes on each peer's disk
    put_seq: list[int] = field(default_factory=lambda: [0] * 4)
    heeded: list[int] = field(default_factory=lambda: [0] * 4)  # withdrawals that each peer heard of
    measured: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)
    uncommitted: list[tuple[int, int, int]] = field(default_factory=list)  # session, peer, put_seq
    heard: Counter[int] | None = None  # heartbeats of each peer since the last crash

    async def run(self, steps: list[Any]) -> None:
        for is_crash, some in itertools.groupby(steps, lambda one: one[0] == "crash"):
            if is_crash:
                self.heard = Counter()
                continue
            self.measured.clear()  # heartbeats under way to the one that died are lost
            async with pool(self.path, clock=self.clock) as p:
                self.check(p)
                for name, *arguments in some:
                    await getattr(self, name)(p, *arguments)
                    self.check(p)

    def check(self, p: Pool) -> None:
        reservations = p.services.reservations
        shares, _ = reservations._set_aside()
        for at, node in enumerate(self.nodes):
            peer = p.services.roster.peer_of(node)  # type: ignore[arg-type]
            assert peer is not None
            to_come = sum(one.left * ON_DISK for one in self.tokens if one.peer == at and self.is_taken(one))
            assert self.stored[at] + to_come <= CAPACITY
            really_free = CAPACITY - self.stored[at] - to_come
            booked = sum(share.get(peer.number, 0) for share in shares.values())
            assert booked <= reservations.free(peer) <= really_free
        # After a crash what was given back counts until its peer was told of it, with one heartbeat, and said so with
        # another: that it had said so before the crash need not have been kept.
        if self.heard is None or min(self.heard[peer] for peer in range(4)) >= 2:
            assert QUIET not in reservations.short()

    def is_taken(self, one: Token) -> bool:
        """Whether the peer stores more under it, whatever its owner did with it."""
        return one.expires_s > self.clock.time() and not one.is_refused

    async def book(self, p: Pool, volume: VolumeId, chunks: int, for_s: float) -> None:
        owner = self.nodes[0 if volume == QUIET else 1]
        could = p.services.reservations.bookable()
        try:
            await p.services.bookings.book(p.identity(owner, [Role.CLIENT]), volume, Book(chunks * MIB, for_s))
        except (NoSpace, OverQuota):
            return
        assert room_for(chunks * MIB) <= could

    async def release(self, p: Pool, number: int) -> None:
        with contextlib.suppress(NotFound):
            await p.services.bookings.release(p.identity(), str(number))

    async def reserve(self, p: Pool, session: int, chunks: int) -> None:
        identity, request = SessionId(f"{session:032x}"), Reserve(chunks * CHUNK)
        try:
            made = await p.services.reservations.reserve(identity, self.nodes[1], BUSY, request=request)  # type: ignore[arg-type]
        except NoSpace:
            return
        numbers = [p.services.roster.peer_of(node).number for node in self.nodes]  # type: ignore[arg-type, union-attr]
        self.tokens += [
            Token(session, numbers.index(PeerNumber(one.peer)), one.expires_s, chunks, one.id) for one in made.tokens
        ]

    async def put(self, p: Pool, session: int, peer: int, is_committed: bool) -> None:
        for one in self.tokens:  # the oldest first: also those that it gave back
            if one.session == session and one.peer == peer and one.left and self.is_taken(one):
                one.left -= 1
                self.stored[peer] += ON_DISK
                self.put_seq[peer] += 1
                self.uncommitted.append((session, peer, self.put_seq[peer]))
                break
        if is_committed:
            await self.commit(p)

    async def commit_one(self, p: Pool, at: int) -> None:
        """Out of turn: the others come late."""
        late = self.uncommitted[:at] + self.uncommitted[at + 1 :]
        self.uncommitted = self.uncommitted[at : at + 1]
        await self.commit(p)
        self.uncommitted = late

    async def commit(self, p: Pool) -> None:
        for session, peer, put_seq in self.uncommitted:
            number = p.services.roster.peer_of(self.nodes[peer]).number  # type: ignore[arg-type, union-attr]
            p.services.reservations.stored(SessionId(f"{session:032x}"), [(number, put_seq, CHUNK)])
            p.services.reservations.drawn([(BUSY, CHUNK)] if peer < 2 else [])
        self.uncommitted = []

    async def measure(self, _p: Pool, peer: int) -> None:
        self.measured[peer] = (self.stored[peer], self.put_seq[peer], self.heeded[peer])

    async def hear(self, p: Pool, peer: int) -> None:
        if peer in self.measured:
            used, put_seq, heeded = self.measured[peer]
            if self.heard is not None:
                self.heard[peer] += 1
            answer = await p.beat(self.nodes[peer], capacity=CAPACITY, used=used, put_seq=put_seq, withdrawn_seq=heeded)
            self.heeded[peer] = answer.withdrawn_seq
            refused = {number for number, _ in answer.withdrawn}
            for one in self.tokens:
                one.is_refused |= one.number in refused

    async def beat(self, p: Pool) -> None:
        for peer in range(4):
            await self.measure(p, peer)
            await self.hear(p, peer)

    async def over(self, p: Pool, session: int) -> None:
        await self.reserve(p, session, 0)
        p.services.reservations.session_over(SessionId(f"{session:032x}"))

    async def wait(self, p: Pool, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.beat(p)  # peers are heard each few seconds
        await p.services.reservations.expire()
        await p.services.bookings.work()


@settings(max_examples=60, deadline=None)
@given(st.lists(step, min_size=20, max_size=60))
def test_promises_never_exceed_room(steps: list[Any]) -> None:
    source, peers = template()
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(source, Path(directory) / "pool")
        world = World(Path(directory) / "pool", [peer.node for peer in peers], FakeClock())
        trio.run(partial(world.run, steps))
