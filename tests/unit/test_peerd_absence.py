"""A peer without its coordinator: whom it believes, whom it obeys, what it takes, and that all of it ends at once."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
from chunk_pool import pool_map
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from plugins.checklogs import Claims
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.files import Held
from p2pfs.chunks.inventory import Listing
from p2pfs.chunks.ledger import Usage
from p2pfs.errors import Denied, Misuse, NoSpace, NotFound, Unavailable
from p2pfs.format.inventory import EMPTY, digest
from p2pfs.net.addresses import RELAY
from p2pfs.net.client import Endpoint
from p2pfs.net.server import Response
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import MIB, ChunkId, NodeId, PeerNumber, PoolId, Role, VolumeId
from p2pfs.wire import codec
from p2pfs.wire.fellows import Copy, CopyRequest, Greeting, Roll, SignedRoll, members_digest, roll_message
from p2pfs.wire.membership import HeartbeatAnswer
from p2pfs.wire.orders import Digest, Listed
from p2pfs_peerd.absence import Absence
from p2pfs_peerd.app import PeerApp
from p2pfs_peerd.copies import MOST_WAITING, Copies
from p2pfs_peerd.inventories import checked
from p2pfs_peerd.pulling import FAILURES
from p2pfs_peerd.roll import RollBook, verified
from p2pfs_peerd.tokens import TokenBook
from p2pfs_peerd.watch import IDLE, SELDOM, Watch

pytestmark = pytest.mark.l0

POOL = PoolId("0" * 32)
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
ELECT_S = 120.0
COORDINATOR = Endpoint(NodeId("c" * 32), Role.COORDINATOR, ("127.0.0.1:1",))
FREE = 8 * MIB


class Clock:
    """Of a mock clock's time."""

    def time(self) -> float:
        return 1_800_000_000 + trio.current_time()

    def monotonic(self) -> float:
        return trio.current_time()

    def time_ns(self) -> int:
        return int(self.time() * 1e9)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads cannot live under a mock clock."""

    async def run_sync(work: Callable[..., Any], *arguments: object, **_: object) -> Any:  # noqa: ANN401
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


def roll(*peers: int, pool: PoolId = POOL, expires_s: int = 1_900_000_000, version: int = 1) -> Roll:
    members = msgspec.structs.replace(pool_map(peers or (1, 2, 3), version=version), pool=pool)
    return Roll(1_800_000_000, expires_s, ELECT_S, 600.0, members)


def signed(value: Roll, *, key: Ed25519PrivateKey = KEY, pool: PoolId = POOL) -> SignedRoll:
    body = codec.encode(value)
    return SignedRoll(body, key.sign(roll_message(pool, body)))


def answer(version: int = 1, members: Roll | None = None) -> HeartbeatAnswer:
    now = members or roll()
    told = members_digest(now.map, now.elect_after_s)
    return HeartbeatAnswer(2, version, b"r" * 32, PUBLIC, capacity=1 << 40, interval_s=5.0, members=told)


class Store:
    """As much of a directory store as is needed, in memory."""

    def __init__(self, *chunks: Sealed) -> None:
        self.chunks = {(VOLUME, chunk.id): chunk.data for chunk in chunks}
        self.deleted = 0

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        await trio.lowlevel.checkpoint()
        return (volume, chunk) in self.chunks

    async def put(self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Any]) -> list[Any]:
        from p2pfs.format.chunk import block_hashes, chunk_id

        data = b"".join(bytes(part) for part in parts)
        if chunk_id(block_hashes(data)) != chunk:
            raise Misuse("these are not the bytes of this chunk")
        self.chunks[volume, chunk] = data
        return [None]  # a receipt

    async def get(self, volume: VolumeId, chunk: ChunkId, *_: object) -> memoryview:
        await trio.sleep(0.1)
        if (volume, chunk) not in self.chunks:
            raise NotFound("no such chunk here")
        return memoryview(self.chunks[volume, chunk])

    async def digests(self) -> list[bytes]:
        found = [EMPTY] * 256
        for key in self.chunks:
            found[key[1][0]] = digest([key], found[key[1][0]])
        return found

    async def listed(self, bucket: int, *_: object) -> Listing:
        held = [Held(*key, len(data), 1, 0) for key, data in sorted(self.chunks.items()) if key[1][0] == bucket]
        return Listing(1, held, more=False)

    def usage(self) -> Usage:
        return Usage(FREE, sum(map(len, self.chunks.values())), 0, len(self.chunks))

    async def delete(self, *_: object) -> None:
        self.deleted += 1


# ---- the list -------------------------------------------------------------------------------------------------------


def test_only_the_coordinators_list_of_this_pool_is_believed() -> None:
    assert verified(signed(roll()), POOL, PUBLIC) == roll()
    other = PoolId("1" * 32)
    with pytest.raises(Denied):
        verified(signed(roll(), key=Ed25519PrivateKey.generate()), POOL, PUBLIC)
    with pytest.raises(Denied):
        verified(signed(roll(pool=other), pool=other), POOL, PUBLIC)  # the same key in another pool
    with pytest.raises(Misuse):
        verified(signed(roll(pool=other)), POOL, PUBLIC)
    good = signed(roll())
    with pytest.raises(Denied):
        verified(SignedRoll(good.body[:-1] + b"\0", good.signature), POOL, PUBLIC)


class Net:
    """A coordinator that gives out `roll`."""

    def __init__(self) -> None:
        self.asked, self.roll = 0, roll()

    async def call(self, *_: object, **__: object) -> SignedRoll:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return signed(self.roll)


async def test_the_list_survives_a_restart_and_damage_is_noticed(
    tmp_path: Path, autojump_clock: object, claim_logs: Claims
) -> None:
    path = tmp_path / "roll"

    net = Net()
    book = RollBook(path, POOL, Clock())
    assert book.recall() == b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run, net, COORDINATOR)
        for _ in range(20):  # heartbeats: the list is fetched once
            book.hear(answer())
            await trio.sleep(5)
        assert net.asked == 1
        book.hear(answer(members=roll(1, 2)))
        await trio.sleep(5)
        assert net.asked == 2
        nursery.cancel_scope.cancel()
    again = RollBook(path, POOL, Clock())
    assert again.recall() == b"r" * 32
    assert again.roll == roll()
    path.write_bytes(path.read_bytes().replace(b"e", b"f"))
    claim_logs("the list of members cannot be used", count=1)
    damaged = RollBook(path, POOL, Clock())
    assert damaged.recall() == b""
    assert damaged.roll is None


async def test_the_list_is_not_fetched_for_each_version_of_the_map(tmp_path: Path, autojump_clock: object) -> None:
    """In a large pool somebody comes or goes each minute."""
    net, book = Net(), RollBook(tmp_path / "roll", POOL, Clock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run, net, COORDINATOR)
        for beat in range(720):  # an hour
            book.hear(answer(version=1 + beat // 12))
            await trio.sleep(5)
        assert net.asked == 4
        net.roll = roll(1, 2, 3, 4)
        for _ in range(30):
            book.hear(answer(version=60, members=net.roll))
            await trio.sleep(5)
        assert net.asked == 5
        assert book.lists(NodeId(f"{4:032x}"))
        nursery.cancel_scope.cancel()


async def test_a_list_that_cannot_be_kept_is_not_fetched_with_every_heartbeat(
    tmp_path: Path, autojump_clock: object
) -> None:
    net, book = Net(), RollBook(tmp_path / "nowhere" / "roll", POOL, Clock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run, net, COORDINATOR)
        for _ in range(60):
            book.hear(answer())
            await trio.sleep(5)
        assert net.asked == 1
        assert book.roll is not None
        nursery.cancel_scope.cancel()


async def test_where_nobody_is_elected_the_list_is_fetched_once(tmp_path: Path, autojump_clock: object) -> None:
    net, book = Net(), RollBook(tmp_path / "roll", POOL, Clock())

    def nobody(*peers: int) -> Roll:
        return msgspec.structs.replace(roll(*peers), elect_after_s=0.0)

    net.roll = nobody()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run, net, COORDINATOR)
        for beat in range(720):
            book.hear(answer(version=beat, members=nobody(1, 2, 3 + beat)))
            await trio.sleep(5)
        assert net.asked == 1
        net.roll = roll()
        for _ in range(30):
            book.hear(answer(version=721))
            await trio.sleep(5)
        assert net.asked == 2
        nursery.cancel_scope.cancel()


# ---- what is taken in -----------------------------------------------------------------------------------------------


def copy(chunk: Sealed, *sources: int) -> Copy:
    return Copy(VOLUME, chunk.id, chunk.size, list(sources))


async def test_copies_are_pulled_verified_and_kept_within_the_limit(autojump_clock: object) -> None:
    chunks = [sealed(seed, 200_000) for seed in range(10)]
    liar, honest, own = Store(), Store(*chunks), Store()
    liar.chunks = {(VOLUME, chunk.id): sealed(99, 200_000).data for chunk in chunks}
    sources = {1: liar, 2: honest}
    limit = 4 * chunks[0].size
    copies = Copies(own, sources.get, rate=RateLimit(None, Clock()), limit_bytes=limit)  # type: ignore[arg-type]
    assert await copies.ask(CopyRequest([copy(chunk, 9, 1, 2) for chunk in chunks])) == 4
    assert await copies.ask(CopyRequest([copy(chunks[0], 9, 2), copy(chunks[5], 9, 2)])) == 1  # it is in line already
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copies.run)
        await trio.sleep(60)
        assert own.chunks == {(VOLUME, chunk.id): chunk.data for chunk in chunks[:4]}
        assert (copies.taken, copies.failed, copies.room()) == (4, 0, 0)
        assert await copies.ask(CopyRequest([copy(chunks[5], 2)])) == 0  # for the whole absence
        nursery.cancel_scope.cancel()


async def test_what_no_source_has_takes_no_room(autojump_clock: object) -> None:
    own = Store()
    copies = Copies(own, {1: Store()}.get, rate=RateLimit(None, Clock()), limit_bytes=MIB)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copies.run)
        assert await copies.ask(CopyRequest([copy(sealed(1, 5000), 1), copy(sealed(2, 5000), 7)])) == 2
        await trio.sleep(60)
        assert (copies.taken, copies.failed, copies.room()) == (0, 2, MIB)
        nursery.cancel_scope.cancel()


class Hanging(Store):
    """Lists what it has not got, and does not answer when it is asked for it."""

    asked = 0

    async def get(self, volume: VolumeId, chunk: ChunkId, *_: object) -> memoryview:
        self.asked += 1
        if (volume, chunk) in self.chunks:
            return memoryview(self.chunks[volume, chunk])
        await trio.sleep(1)  # without a byte
        raise Unavailable("nothing comes")


async def test_made_up_chunks_keep_nothing_else_from_being_taken(autojump_clock: object) -> None:
    """Not while they fill the line, nor while they are being asked for, nor for long at all."""
    chunks = [sealed(seed, 5000) for seed in range(40)]
    liar, honest, own = Hanging(), Store(*chunks), Store()
    sources = {1: liar, 2: honest}
    copies = Copies(own, sources.get, rate=RateLimit(None, Clock()), limit_bytes=FREE)  # type: ignore[arg-type]

    async def make_up(seed: int) -> int:
        batch = [Copy(VOLUME, (seed + number).to_bytes(32, "big"), 5000, [1]) for number in range(64)]
        return await copies.ask(CopyRequest(batch))

    assert sum([await make_up(seed) for seed in range(0, 512, 64)]) == MOST_WAITING
    assert await copies.ask(CopyRequest([copy(chunk, 2) for chunk in chunks])) == len(chunks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copies.run)
        await trio.sleep(5)
        assert copies.taken == len(chunks)
        await trio.sleep(5)
        assert liar.asked >= FAILURES
        late = [sealed(seed, 5000) for seed in range(50, 90)]
        honest.chunks |= {(VOLUME, chunk.id): chunk.data for chunk in late}
        assert await copies.ask(CopyRequest([copy(chunk, 1, 2) for chunk in late])) == len(late)
        await trio.sleep(5)  # it is the last to be asked by now
        assert copies.taken == len(chunks) + len(late)
        only = sealed(100, 5000)
        liar.chunks[VOLUME, only.id] = only.data
        await copies.ask(CopyRequest([copy(only, 1)]))
        await trio.sleep(300)
        assert (VOLUME, only.id) in own.chunks
        nursery.cancel_scope.cancel()


async def test_made_up_chunks_take_no_room_from_others(autojump_clock: object) -> None:
    chunks = [sealed(seed, 5000) for seed in range(3)]
    own = Store()
    copies = Copies(own, {}.get, rate=RateLimit(None, Clock()), limit_bytes=8 * chunks[0].size)  # type: ignore[arg-type]
    made_up = [Copy(VOLUME, bytes(31) + bytes([number]), chunks[0].size, [1]) for number in range(9)]
    assert await copies.ask(CopyRequest(made_up)) == 8
    assert await copies.ask(CopyRequest([copy(chunk, 2) for chunk in chunks])) == 3
    assert await copies.ask(CopyRequest(made_up[:1])) == 1  # in line still
    assert copies.room() == 0


async def test_requests_are_bounded_and_checked(autojump_clock: object) -> None:
    own = Store()
    copies = Copies(own, {}.get, rate=RateLimit(None, Clock()), limit_bytes=FREE)  # type: ignore[arg-type]
    chunk = sealed(1, 1000)
    for wrong in (
        Copy(-1, chunk.id, chunk.size, [1]),
        Copy(VOLUME, b"short", chunk.size, [1]),
        Copy(VOLUME, chunk.id, 5 * MIB, [1]),
        Copy(VOLUME, chunk.id, chunk.size, [1] * 17),
    ):
        with pytest.raises(Misuse):
            await copies.ask(CopyRequest([wrong]))
    with pytest.raises(Misuse):
        await copies.ask(CopyRequest([copy(chunk, 1)] * 65))
    taken = 0
    for start in range(0, 2 * MOST_WAITING, 64):
        batch = [Copy(VOLUME, number.to_bytes(32, "big"), 1000, [1]) for number in range(start, start + 64)]
        taken += await copies.ask(CopyRequest(batch))
    assert taken == MOST_WAITING


def test_an_impossible_listing_is_refused() -> None:
    def listed(*entries: tuple[int, bytes, int]) -> Listed:
        from p2pfs.wire.orders import Entry

        return Listed(0, 0, [Entry(volume, chunk, size, 1, 0) for volume, chunk, size in entries], more=False)

    one, two = b"\7" + bytes(31), b"\7" + bytes(30) + b"\1"
    assert [found.chunk for found in checked(7, None, listed((1, one, 1000), (1, two, 1000)))] == [one, two]
    for wrong in (
        listed((1, two, 1000), (1, one, 1000)),
        listed((1, one, 1000), (1, one, 1000)),
        listed((1, b"\x08" + bytes(31), 1000)),
        listed((1, b"\7", 1000)),
        listed((-1, one, 1000)),
        listed((1, one, 5 * MIB)),
    ):
        with pytest.raises(Misuse):
            checked(7, None, wrong)
    with pytest.raises(Misuse):
        checked(7, (1, two), listed((1, one, 1000)))


# ---- whom it obeys --------------------------------------------------------------------------------------------------


class Fellows:
    """What the others of the list answer: those in `there` say that the coordinator has been silent for so long."""

    def __init__(self) -> None:
        self.there: dict[int, float] = {}
        self.leader: dict[int, int] = {}
        self.greeted = Counter[int]()

    async def call(self, endpoint: Endpoint, _method: str, path: str, *_: object, **__: object) -> object:
        await trio.lowlevel.checkpoint()
        if path == "/roll":
            return signed(roll())
        number = int(endpoint.node, 16)
        self.greeted[number] += path == "/fellows"
        if path == "/fellows" and number in self.there:
            return Greeting(self.there[number], self.leader.get(number, 0), MIB, [])
        raise Unavailable("nobody answers")


class Rig:
    """Peer 2 of three."""

    def __init__(self, absence: Absence, fellows: Fellows, store: Store, app: PeerApp) -> None:
        self.absence, self.fellows, self.store, self.app = absence, fellows, store, app

    async def ask(self, route: str, message: object, sender: int = 1) -> Response:
        async def given(_kind: object) -> object:
            await trio.lowlevel.checkpoint()
            return message

        request = SimpleNamespace(caller=SimpleNamespace(node=NodeId(f"{sender:032x}")), message=given)
        return await self.absence.handlers()[route](request)  # type: ignore[arg-type]

    async def obeys(self, sender: int) -> bool:
        try:
            await self.ask("fellow_inventory", Digest(0), sender)
        except Denied:
            return False
        return True


@asynccontextmanager
async def rig(path: Path) -> AsyncIterator[Rig]:
    """After the coordinator was heard once."""
    store, fellows = Store(sealed(1, 1000)), Fellows()
    app = PeerApp(store, TokenBook(POOL, PeerNumber(2), Clock()))  # type: ignore[arg-type]
    absence = Absence(
        POOL, PeerNumber(2), store, app, path=path / "roll", free=lambda: FREE, share=0.5, clock=Clock()  # type: ignore[arg-type]
    )  # fmt: skip
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await absence.run(
                fellows, COORDINATOR, rate=RateLimit(None, Clock()), addresses=lambda: ["127.0.0.1:9"]  # type: ignore[arg-type]
            )  # fmt: skip

        nursery.start_soon(run)
        absence.hear(answer())
        await trio.sleep(1)
        yield Rig(absence, fellows, store, app)
        nursery.cancel_scope.cancel()


async def test_nobody_is_obeyed_while_the_coordinator_answers_or_fell_silent_just_now(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with rig(tmp_path) as peer:
        peer.fellows.there = {1: 1000.0, 3: 1000.0}
        for _ in range(100):
            peer.absence.hear(answer())
            await trio.sleep(5)
            assert not await peer.obeys(1)
        await trio.sleep(ELECT_S - 10)
        assert not await peer.obeys(1)
        await trio.sleep(60)
        assert await peer.obeys(1)
        assert not await peer.obeys(3)
        assert not await peer.obeys(4)  # not on the list
        assert peer.absence.state()["leader"] == 1


async def test_everything_ends_when_the_coordinator_answers(tmp_path: Path, autojump_clock: object) -> None:
    async with rig(tmp_path) as peer:
        peer.fellows.there = {1: 1000.0}
        await trio.sleep(2 * ELECT_S)
        assert await peer.obeys(1)
        await peer.ask("fellow_copies", CopyRequest([copy(sealed(7, 1000), 3)]))
        peer.absence.hear(answer())
        await trio.sleep(0.01)
        assert not await peer.obeys(1)
        assert peer.absence.state()["leader"] == 0
        await trio.sleep(50)  # silent again, but for a short while
        assert not await peer.obeys(1)
        assert peer.store.deleted == 0


async def test_it_leads_alone_and_follows_who_comes(tmp_path: Path, autojump_clock: object) -> None:
    async with rig(tmp_path) as peer:
        await trio.sleep(2 * ELECT_S)
        assert peer.absence.state()["leads"]
        peer.fellows.there = {3: 1000.0}
        await trio.sleep(ELECT_S)
        assert peer.absence.state()["leads"]
        peer.fellows.there = {1: 1000.0, 3: 1000.0}
        peer.fellows.leader = {1: 1, 3: 1}
        await trio.sleep(ELECT_S)
        assert peer.absence.state()["leader"] == 1


async def test_nothing_begins_if_most_are_answered_by_the_coordinator(tmp_path: Path, autojump_clock: object) -> None:
    async with rig(tmp_path) as peer:
        peer.fellows.there = {1: 2.0, 3: 2.0}
        await trio.sleep(5 * ELECT_S)
        assert peer.absence.state()["leader"] == 0
        assert not await peer.obeys(1)
        peer.fellows.there = {1: 1000.0, 3: 2.0}  # one of two may lie
        await trio.sleep(ELECT_S)
        assert peer.absence.state()["leader"] == 1


async def test_a_leader_that_never_looks_is_passed_over(tmp_path: Path, autojump_clock: object) -> None:
    async with rig(tmp_path) as peer:
        peer.fellows.there = {1: 1000.0, 3: 1000.0}
        await trio.sleep(2 * ELECT_S)
        for _ in range(2 * IDLE):
            await trio.sleep(ELECT_S)
            assert await peer.obeys(1)  # it looks
        await trio.sleep((IDLE + 2) * ELECT_S)
        assert peer.absence.state()["leads"]
        assert not await peer.obeys(1)


async def test_a_stranger_is_not_greeted(tmp_path: Path, autojump_clock: object) -> None:
    (tmp_path / "answered").mkdir()
    async with rig(tmp_path) as peer:
        await trio.sleep(2 * ELECT_S)
        greeting = Greeting(1000.0, 0, MIB, [])
        await peer.ask("fellows", greeting, 1)
        with pytest.raises(Denied):
            await peer.ask("fellows", greeting, 4)

    async with rig(tmp_path / "answered") as peer:  # its coordinator answers
        assert (await peer.ask("fellows", greeting, 1)).body
        with pytest.raises(Denied):
            await peer.ask("fellows", greeting, 4)


async def test_who_leaves_takes_nothing_in_and_who_is_not_sure_whom_to_refuse_shows_nothing(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with rig(tmp_path) as peer:
        peer.fellows.there = {1: 1000.0}
        peer.app.is_leaving = True
        await trio.sleep(2 * ELECT_S)
        assert await peer.obeys(1)
        with pytest.raises(NoSpace):
            await peer.ask("fellow_copies", CopyRequest([copy(sealed(7, 1000), 3)]))
        assert peer.absence.state()["room_bytes"] == 0
        peer.app.is_open = False
        with pytest.raises(Unavailable):
            await peer.ask("fellow_inventory", Digest(0))


async def test_who_is_not_heard_is_greeted_seldom(tmp_path: Path, autojump_clock: object) -> None:
    async with rig(tmp_path) as peer:
        await trio.sleep(ELECT_S / 2)
        peer.fellows.there = {1: 1000.0}
        await trio.sleep(20 * ELECT_S)
        greeted = peer.fellows.greeted
        assert SELDOM * greeted[3] < 1.3 * greeted[1] + 2 * SELDOM**2
        peer.fellows.there[3] = 1000.0
        await trio.sleep(2 * ELECT_S)
        assert peer.absence.state()["fellows_heard"] == 2


async def test_who_is_reached_through_the_relay_only_is_not_greeted() -> None:
    members = roll(1, 2, 3)
    members.map.peers[2] = msgspec.structs.replace(members.map.peers[2], addresses=[RELAY])
    watch = Watch(
        PeerNumber(2), members, client=None, silent_s=lambda: 0.0, room=lambda: 0, addresses=list, clock=Clock()  # type: ignore[arg-type]
    )  # fmt: skip
    assert watch._due() == [1]
