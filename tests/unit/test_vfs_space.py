"""Room reserved ahead: when a mount asks for more, and that attempts which stored nothing cost none of it."""

from collections.abc import Sequence
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.remote import RemoteStore
from p2pfs.errors import CoordinatorAway, NoSpace, OverQuota, PoolError
from p2pfs.meta.memory import MemoryVolume
from p2pfs.net.client import Client, Endpoint
from p2pfs.types import MIB, ROOT_INODE, ChunkId, NodeId, PeerNumber, Role, VolumeId
from p2pfs.vfs.space import (
    FIRST_ROOM,
    LATE_S,
    LOW_ROOM,
    MARGIN_S,
    MISSED_S,
    MOST_ROOM,
    SETTLING_S,
    ReservedSpace,
    rolling,
)
from p2pfs.vfs.tree import Owner
from p2pfs.wire.chunks import Token

pytestmark = pytest.mark.l0

ONE, TWO, THREE = PeerNumber(1), PeerNumber(2), PeerNumber(3)
LIFETIME_S = 600
CHUNK = ChunkId(bytes(32))


class Coordinator:
    """Grants what peers have left, as the real one does."""

    def __init__(self, **rooms: int) -> None:
        self.rooms = {PeerNumber(int(name.removeprefix("p"))): room for name, room in rooms.items()}
        self.now_s = 1000.0
        self.asked: list[int] = []
        self.is_away = False

    async def reserve(self, room: int, _returned: list[int]) -> list[Token]:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise CoordinatorAway("away")
        self.asked.append(room)
        roomy = [peer for peer, left in self.rooms.items() if left >= room]
        if len(roomy) < 2:
            raise NoSpace("full")
        expires_s = int(self.now_s) + LIFETIME_S
        return [Token(len(self.asked) * 10 + peer, "", 1, peer, room, expires_s) for peer in roomy]

    def space(self, *, by_kernel: bool = False) -> ReservedSpace:
        return ReservedSpace(self.reserve, lambda: 2, lambda: self.now_s, by_kernel=by_kernel)


async def test_attempts_that_stored_nothing_use_up_nothing() -> None:
    """Peers that are away for long are tried again and again; that must not turn into a full pool."""
    coordinator = Coordinator(p1=1 << 40, p2=1 << 40, p3=1 << 40)
    space = coordinator.space()
    await space.promise(MIB)
    for _ in range(10 * FIRST_ROOM // MIB):
        token = space.token(ONE, MIB)
        assert token is not None
        space.unspent(ONE, token, MIB)
    assert len(coordinator.asked) == 1


async def test_a_token_that_is_nearly_used_up_is_replaced_before_the_next_chunk() -> None:
    """One peer is enough for that: if the others are away, the copies have to go to it."""
    coordinator = Coordinator(p1=1 << 40, p2=1 << 40, p3=1 << 40)
    space = coordinator.space()
    await space.promise(MIB)
    while (token := space.token(ONE, MIB)) is not None:
        pass
    await space.cover(MIB)
    assert len(coordinator.asked) == 2
    token = space.token(ONE, MIB)
    assert token is not None
    space.unspent(ONE, token, MIB)
    await space.cover(MIB)
    assert len(coordinator.asked) == 2


@pytest.mark.parametrize(
    ("lasted_s", "is_spent", "times"),
    [(1, True, 2), (29, True, 2), (31, True, 1), (1, False, 1), (119, True, 1), (121, True, 0.5), (121, False, 0.5)],
)
def test_who_writes_fast_is_promised_more_and_who_writes_slowly_less(
    lasted_s: float, is_spent: bool, times: float
) -> None:
    assert rolling(4 * FIRST_ROOM, lasted_s, is_spent=is_spent) == 4 * FIRST_ROOM * times
    assert rolling(FIRST_ROOM, LATE_S + 1, is_spent=is_spent) == FIRST_ROOM
    assert rolling(MOST_ROOM, 1, is_spent=True) == MOST_ROOM


async def test_a_writer_that_takes_its_time_never_sits_on_much() -> None:
    coordinator = Coordinator(p1=1 << 40, p2=1 << 40)
    space = coordinator.space()
    for _ in range(10 * FIRST_ROOM // MIB):
        await space.promise(MIB)
        for peer in (ONE, TWO):
            assert space.token(peer, MIB) is not None
        space.settle(MIB, is_stored=True)
        coordinator.now_s += 1.0
    assert set(coordinator.asked) == {FIRST_ROOM}


async def test_what_was_stored_under_earlier_tokens_asks_for_none_of_the_room_of_later_ones() -> None:
    """A mount that writes ten times what was reserved first asks a few times, for more each time, and not ever more
    often."""
    coordinator = Coordinator(p1=1 << 40, p2=1 << 40)
    space = coordinator.space()
    for _ in range(10 * FIRST_ROOM // MIB):
        await space.promise(MIB)
        for peer in (ONE, TWO):
            assert space.token(peer, MIB) is not None
        space.settle(MIB, is_stored=True)
    assert len(coordinator.asked) == 4


async def test_a_token_of_an_earlier_reservation_gives_nothing_back() -> None:
    coordinator = Coordinator(p1=FIRST_ROOM * 2, p2=FIRST_ROOM * 2)
    space = coordinator.space()
    await space.promise(MIB)
    old = space.token(ONE, MIB)
    assert old is not None
    coordinator.now_s += LIFETIME_S - MARGIN_S + 1
    await space.cover(MIB)
    space.unspent(ONE, old, MIB)
    room = 0
    while space.token(ONE, MIB) is not None:
        room += MIB
    assert room <= coordinator.asked[-1]


async def test_expired_tokens_are_replaced_before_a_chunk_is_sent() -> None:
    coordinator = Coordinator(p1=1 << 40, p2=1 << 40)
    space = coordinator.space()
    await space.promise(MIB)
    coordinator.now_s += LIFETIME_S + 1
    assert space.token(ONE, MIB) is None
    await space.cover(MIB)
    assert space.token(ONE, MIB) is not None


@pytest.mark.parametrize("why", ["full", "away"])
async def test_what_was_promised_is_sent_though_no_more_can_be_reserved(why: str, autojump_clock: MockClock) -> None:
    coordinator = Coordinator(p1=FIRST_ROOM, p2=FIRST_ROOM)
    space = coordinator.space()
    await space.promise(MIB)
    for peer in (ONE, TWO):
        for _ in range((FIRST_ROOM - LOW_ROOM) // MIB + 1):
            assert space.token(peer, MIB) is not None
    coordinator.rooms = {ONE: 0, TWO: 0}
    coordinator.is_away = why == "away"
    await space.cover(MIB)
    assert space.token(ONE, MIB) is not None


async def test_a_pool_without_room_is_no_space_at_once() -> None:
    coordinator = Coordinator(p1=0, p2=1 << 40)
    space = coordinator.space()
    with pytest.raises(NoSpace):
        await space.promise(MIB)
    with pytest.raises(NoSpace):
        await space.cover(MIB)


@pytest.mark.parametrize(("by_kernel", "waits_s"), [(True, (SETTLING_S, 0, 0)), (False, (SETTLING_S, SETTLING_S))])
async def test_a_pool_that_was_asked_again_for_long_is_full_without_to_a_kernel_that_goes_on(
    by_kernel: bool, waits_s: Sequence[float], autojump_clock: MockClock
) -> None:
    """Programs are told late each time: room that was just freed is seen with the next heartbeat."""
    coordinator = Coordinator(p1=FIRST_ROOM, p2=FIRST_ROOM)
    space = coordinator.space(by_kernel=by_kernel)
    await space.promise(MIB)
    assert space.token(ONE, MIB) is not None  # its peers may count what was stored twice
    coordinator.rooms = {ONE: 0, TWO: 0}
    for waited_s in waits_s:
        began_s = trio.current_time()
        with pytest.raises(NoSpace):
            await space.promise(FIRST_ROOM)
        assert trio.current_time() == began_s + waited_s
    await trio.sleep(SETTLING_S)
    coordinator.rooms = {ONE: 1 << 40, TWO: 1 << 40}
    await space.promise(FIRST_ROOM)


@pytest.mark.parametrize(("is_away", "askers"), [(True, 1), (False, 2)])
async def test_one_asks_for_all_who_wait_for_as_much(is_away: bool, askers: int) -> None:
    """A coordinator that is away is waited for once, not by each in turn; what is smaller may find room."""
    needs: list[int] = []
    all_wait = trio.Event()

    async def reserve(room: int, _returned: list[int]) -> list[Token]:
        needs.append(room)
        await all_wait.wait()
        raise CoordinatorAway("away") if is_away else NoSpace("full")

    space = ReservedSpace(reserve, lambda: 2, lambda: 0.0)
    errors: list[PoolError] = []

    async def promise(size: int) -> None:
        try:
            await space.promise(size)
        except PoolError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for size in (2 * MIB, 2 * MIB, MIB):
            nursery.start_soon(promise, size)
            await wait_all_tasks_blocked()
        all_wait.set()
    assert len(errors) == 3
    assert needs.count(FIRST_ROOM) == askers


async def test_a_peer_that_is_new_or_has_room_again_is_soon_used() -> None:
    coordinator = Coordinator(p1=1 << 40, p2=1 << 40)
    space = coordinator.space()
    await space.promise(MIB)
    assert space.token(THREE, MIB) is None
    coordinator.rooms[THREE] = 1 << 40
    await space.cover(MIB)
    assert len(coordinator.asked) == 1, "a full peer must not make every chunk wait for the coordinator"
    coordinator.now_s += MISSED_S
    await space.cover(MIB)
    assert space.token(THREE, MIB) is not None
    coordinator.now_s += MISSED_S
    await space.cover(MIB)
    assert len(coordinator.asked) == 2, "nobody is missed any more"


async def test_bytes_that_an_earlier_mount_was_promised_settle_nobody_elses() -> None:
    space, volume = Coordinator(p1=1 << 40, p2=1 << 40).space(), MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(volume.session(), MemoryStore(), space=space) as fs:
        restored, other = [await fs.create(ROOT_INODE, name, 0o644, Owner(0, 0)) for name in (b"a", b"b")]
        await fs.write(other, 0, b"x" * 1000)
        fs.writer.restore(restored.inode, 1, 10**18, [(0, b"y" * MIB)])
        await fs.fsync(restored)
        assert space._promised == 1000
        await fs.fsync(other)
        assert space._promised == 0


async def test_a_share_that_is_used_up_is_told_when_it_has_settled_and_what_was_promised_stays(
    autojump_clock: MockClock,
) -> None:
    coordinator = Coordinator(p1=1 << 40, p2=1 << 40)
    left = 3 * MIB

    async def reserve(room: int, returned: list[int]) -> list[Token]:
        if room > left:
            raise OverQuota("anna may place 3 MiB more")
        return await coordinator.reserve(room, returned)

    space = ReservedSpace(reserve, lambda: 2, lambda: coordinator.now_s)
    await space.promise(MIB)
    assert coordinator.asked  # less than is usual was asked for
    assert space.token(ONE, MIB) is not None
    space.settle(MIB)
    began_s = trio.current_time()
    with pytest.raises(OverQuota):
        await space.promise(4 * MIB)
    assert trio.current_time() - began_s < SETTLING_S + 2  # what was stored has been committed by then, or never is
    await space.cover(MIB)
    assert space.token(TWO, MIB) is not None


async def test_a_cancelled_fetch_stays_spent_and_a_cancelled_put_does_not(autojump_clock: MockClock) -> None:
    """The peer goes on fetching when its caller has gone; a PUT that breaks off stores nothing."""
    space = Coordinator(p1=1 << 40, p2=1 << 40).space()
    await space.promise(MIB)

    class Slow:
        async def request(self, *_: object, **__: object) -> None:
            await trio.sleep(100)

    client = cast("Client", Slow())
    store = RemoteStore(client, Endpoint(NodeId("a"), Role.PEER, ()), ONE, space.token, unspent=space.unspent)
    for asked, spent in (
        (store.put(VolumeId(1), CHUNK, [bytes(MIB)]), 0),
        (store.fetch(VolumeId(1), CHUNK, MIB, [TWO]), MIB),
    ):
        before = space._left[ONE]
        with trio.move_on_after(1):
            await asked
        assert before - space._left[ONE] == spent


async def test_a_full_pool_is_waited_for_while_what_was_promised_is_on_its_way(autojump_clock: MockClock) -> None:
    """Who is refused keeps the room it has; when that is enough again, nobody needs to be told."""
    coordinator = Coordinator(p1=FIRST_ROOM, p2=FIRST_ROOM)
    space = coordinator.space()
    await space.promise(60 * MIB)
    coordinator.rooms = {ONE: 0, TWO: 0}
    assert space.token(ONE, MIB) is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(space.promise, 10 * MIB)
        await trio.sleep(2)
        space.settle(20 * MIB)
    assert space._promised == 50 * MIB
    assert trio.current_time() < SETTLING_S
    with pytest.raises(NoSpace):
        await space.promise(30 * MIB)
    assert space.token(TWO, MIB) is not None


@pytest.mark.parametrize("share", [8 * MIB, 20 * MIB, 37 * MIB])
@pytest.mark.parametrize("commit_s", [0.0, 0.9, 2.5, 4.0])
async def test_what_is_on_its_way_when_tokens_are_replaced_is_within_the_share(
    autojump_clock: MockClock, share: int, commit_s: float
) -> None:
    """A share is judged by what is committed. What is stored and not committed yet counts all the same."""
    coordinator = Coordinator(p1=share, p2=share)
    space = coordinator.space()
    accepted = 0

    async def store() -> None:
        await space.cover(MIB)
        for peer in (ONE, TWO):
            assert space.token(peer, MIB) is not None
        await trio.sleep(commit_s)
        coordinator.rooms = {peer: left - MIB for peer, left in coordinator.rooms.items()}
        space.settle(MIB, is_stored=True)

    async with trio.open_nursery() as nursery:
        is_refused = False
        while not is_refused:
            try:
                await space.promise(MIB)
            except NoSpace:
                is_refused = True
            else:
                accepted += MIB
                nursery.start_soon(store)
                await trio.sleep(0.3)
    assert share - 3 * MIB <= accepted <= share


async def test_bytes_overwritten_before_they_were_stored_draw_on_nothing() -> None:
    coordinator = Coordinator(p1=1 << 40, p2=1 << 40)
    space = coordinator.space()
    for _ in range(3 * FIRST_ROOM // MIB):
        await space.promise(MIB)
        space.settle(MIB)
    assert len(coordinator.asked) == 1
