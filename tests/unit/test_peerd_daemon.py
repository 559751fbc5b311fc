"""A whole peer daemon in this process, with a coordinator that only hears heartbeats."""

import math
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import trio
from chunk_pool import TokenMaker
from peer_processes import peer_home
from pki import Issued, TestAuthority, make_ca
from plugins.checklogs import Claims
from sealed import VOLUME, sealed
from trio.testing import wait_all_tasks_blocked
from wired import everything

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.remote import RemoteStore
from p2pfs.chunks.tally import Figures, Tally
from p2pfs.errors import Corrupt, Denied, NoSpace, PoolError, Unavailable, UserError
from p2pfs.net.addresses import RELAY, bound_addresses, open_listeners
from p2pfs.net.advertising import advertised
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.raw import RawStream, Upgrade
from p2pfs.net.server import Request, Response, Server
from p2pfs.net.tls import TlsStream
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.types import GIB, PeerNumber, Role, volume_name
from p2pfs.wire import codec
from p2pfs.wire.chunks import RESERVATION_HEADER
from p2pfs.wire.membership import Heartbeat, HeartbeatAnswer, Listen, Revocations
from p2pfs.wire.routes import COORDINATOR_ROUTES
from p2pfs_peerd import composition
from p2pfs_peerd.composition import Peerd, assemble
from p2pfs_peerd.relay import SPARES
from p2pfs_peerd.revoked import RevocationFile

pytestmark = pytest.mark.l1

CHUNK = sealed(1, 70_000)
SETTINGS = Settings(listen="127.0.0.1:0", heartbeat=0.05, reserve=0)


@dataclass
class Coordinator:
    """Remembers heartbeats; what it answers can be changed."""

    authority: TestAuthority
    maker: TokenMaker
    heartbeats: list[Heartbeat] = field(default_factory=list)
    capacity: int = GIB
    receipt_key: bytes = bytes(32)
    revocations: Revocations | None = None
    refuse: PoolError | None = None
    is_dialable: bool = True
    listens: list[float] = field(default_factory=list)
    dialler: Upgrade | None = None  # who comes through the relay
    beat: trio.Event = field(default_factory=trio.Event)

    async def hear(self, request: Request) -> Response:
        self.heartbeats.append(await request.message(Heartbeat))
        self.beat.set()
        self.beat = trio.Event()
        if self.refuse is not None:
            raise self.refuse
        answer = HeartbeatAnswer(
            1,
            1,
            self.receipt_key,
            self.maker.public,
            self.capacity,
            0.05,
            self.revocations,
            is_dialable=self.is_dialable,
        )
        return Response.of(answer)

    async def listen(self, request: Request) -> Response:
        """The relay, where nobody ever comes."""
        self.listens.append((await request.message(Listen)).wait_s)
        if not self.listens[-1]:
            return Response(204)
        if self.dialler is None:
            await trio.sleep_forever()
        assert self.dialler is not None
        dialler, self.dialler = self.dialler, None
        return Response.switching(dialler)

    async def beats(self, count: int) -> Heartbeat:
        """The last of `count` heartbeats from now on; every answer before it was taken over."""
        with trio.fail_after(10):
            for _ in range(count):
                await self.beat.wait()
        return self.heartbeats[-1]


@dataclass
class Running:
    peerd: Peerd
    coordinator: Coordinator
    store: RemoteStore
    client: Client
    sender: Issued
    root: Path
    boss: Issued


@asynccontextmanager
async def running(tmp_path: Path, settings: Settings = SETTINGS, *, deaf: bool = False) -> AsyncIterator[Running]:
    authority = make_ca(tmp_path)
    node, sender = authority.issue(roles=(Role.PEER,)), authority.issue(roles=(Role.CLIENT,))
    boss = authority.issue(roles=(Role.COORDINATOR,))
    coordinator = Coordinator(authority, TokenMaker(authority.pool, sender.node, (VOLUME,)))
    if deaf:
        coordinator.refuse = Unavailable("not now")
    listeners = await open_listeners("127.0.0.1:0")
    home = peer_home(tmp_path / "peer", authority, node, 1, boss.node, bound_addresses(listeners))
    handlers = {"heartbeat": coordinator.hear, "relay_listen": coordinator.listen}
    server = Server(COORDINATOR_ROUTES, handlers, context=boss.server(), pool=authority.pool)
    peerd = await assemble(home, settings)
    async with Client(sender.client(), authority.pool) as client, trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        addresses = await nursery.start(peerd.serve)
        endpoint = Endpoint(node.node, Role.PEER, tuple(addresses))
        store = RemoteStore(client, endpoint, PeerNumber(1), lambda peer, _: coordinator.maker.make(VOLUME, peer))
        await coordinator.beats(2)
        yield Running(peerd, coordinator, store, client, sender, home.path / "chunks", boss)
        await peerd.server.stop(1)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def again(run: Running) -> AsyncIterator[tuple[Peerd, RemoteStore]]:
    """The peer of a pool that has ended, started again; the coordinator answers it when it is told to."""
    run.coordinator.refuse = Unavailable("not now")
    home = NodeHome(run.root.parent)
    authority, record = run.coordinator.authority, home.record()
    listeners = await open_listeners(record.addresses[0])
    server = Server(
        COORDINATOR_ROUTES, {"heartbeat": run.coordinator.hear}, context=run.boss.server(), pool=record.pool
    )
    peerd = await assemble(home, SETTINGS)
    async with Client(run.sender.client(), authority.pool) as client, trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        addresses = await nursery.start(peerd.serve)
        endpoint = Endpoint(record.node, Role.PEER, tuple(addresses))
        yield (
            peerd,
            RemoteStore(client, endpoint, PeerNumber(1), lambda peer, _: run.coordinator.maker.make(VOLUME, peer)),
        )
        await peerd.server.stop(1)
        nursery.cancel_scope.cancel()


async def test_a_heartbeat_says_where_it_is_and_how_full(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        chunk = sealed(1, 70_000)
        (receipt,) = await run.store.put(VOLUME, chunk.id, [chunk.data])
        heartbeat = await run.coordinator.beats(2)
        assert heartbeat.addresses == list(run.store.endpoint.addresses)
        assert (heartbeat.chunks, heartbeat.used) == (1, chunk.size + 4096)
        assert heartbeat.put_seq == receipt.put_seq
        assert heartbeat.version
        resources = heartbeat.resources
        assert resources.disk_total >= resources.disk_free > 0
        assert resources.memory_total >= resources.memory_available > 0
        assert resources.cpu_count >= 1
        assert heartbeat.capacity > heartbeat.used


async def test_a_heartbeat_says_who_read_how_much_once_a_chunk(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        chunk = sealed(1, 70_000)
        await run.store.put(VOLUME, chunk.id, [chunk.data])
        for _ in range(3):
            await run.store.get(VOLUME, chunk.id, chunk.size, runs.whole(chunk.size))
        await run.coordinator.beats(2)
        told = [row for heartbeat in run.coordinator.heartbeats for row in heartbeat.served]
        assert [(node, size) for _, node, size in told] == [(run.sender.node, chunk.size)]
        await run.coordinator.beats(2)
        assert not run.coordinator.heartbeats[-1].served  # it was heard


async def test_a_stopped_peer_has_kept_how_full_it_is(tmp_path: Path) -> None:
    chunk = sealed(1, 70_000)
    async with running(tmp_path) as run:
        await run.store.put(VOLUME, chunk.id, [chunk.data])
    tally = Tally(run.root)
    assert tally.load()
    assert tally.total() == Figures(1, chunk.size + 4096)


async def test_a_peer_scrubs_and_says_how_far_it_is(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=1)
    async with running(tmp_path) as run:
        await run.store.put(VOLUME, CHUNK.id, [CHUNK.data])
        run.peerd.scrubber.steer("start")
        with trio.fail_after(30):  # until that round is over: while it is under way, starting one begins no other
            while (seen := (await run.coordinator.beats(2)).scrub) is None or not seen.done or seen.state != "idle":
                pass
        path = next(run.root.glob("????????????????/*/*"))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        run.peerd.scrubber.steer("start")
        with trio.fail_after(10):
            while not any(heartbeat.corrupt for heartbeat in run.coordinator.heartbeats):
                await run.coordinator.beats(1)
        scrub = (await run.coordinator.beats(2)).scrub
        assert scrub is not None
        assert scrub.damaged == 1
        assert (run.root.parent / "scrub").exists()


async def test_damage_is_reported_until_the_coordinator_knows(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=1)
    claim_logs("does not take this peer's heartbeat")
    async with running(tmp_path) as run:
        chunk = sealed(1, 70_000)
        await run.store.put(VOLUME, chunk.id, [chunk.data])
        path = next(run.root.glob("????????????????/*/*"))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        run.coordinator.refuse = Unavailable("not now")
        await run.coordinator.beats(1)
        with pytest.raises(Corrupt):
            await run.store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
        assert (await run.coordinator.beats(3)).corrupt == [(VOLUME, chunk.id)]
        run.coordinator.refuse = None
        assert (await run.coordinator.beats(1)).corrupt == [(VOLUME, chunk.id)]
        assert (await run.coordinator.beats(2)).corrupt == []


async def test_the_pool_limits_what_a_peer_keeps(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.coordinator.capacity = 1000
        await run.coordinator.beats(2)
        chunk = sealed(1, 70_000)
        with pytest.raises(PoolError):
            await run.store.put(VOLUME, chunk.id, [chunk.data])
        run.coordinator.capacity = GIB
        await run.coordinator.beats(2)
        await run.store.put(VOLUME, chunk.id, [chunk.data])


async def test_a_coordinator_cannot_widen_what_the_trash_may_lose_a_day(tmp_path: Path) -> None:
    chunk, more = sealed(1, 70_000), sealed(2, 70_000)
    room = 160_000  # for two, and a quarter of it is less than one
    async with running(tmp_path, msgspec.structs.replace(SETTINGS, capacity=room, early_purge=0.25)) as run:
        run.coordinator.capacity = 1 << 60
        await run.coordinator.beats(2)
        for each in (chunk, sealed(3, 70_000)):
            (receipt,) = await run.store.put(VOLUME, each.id, [each.data])
            await run.peerd._store.delete(VOLUME, each.id, receipt.put_seq)
        with pytest.raises(NoSpace):
            await run.store.put(VOLUME, more.id, [more.data])
        assert run.peerd._store.usage().purge_bound


async def test_a_revoked_node_is_cut_off_with_the_next_heartbeat(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        chunk = sealed(1, 70_000)
        await run.store.put(VOLUME, chunk.id, [chunk.data])
        assert run.peerd.server.connections == 1
        run.coordinator.revocations = Revocations(1, [run.sender.node], [])
        await run.coordinator.beats(3)
        assert run.peerd.server.connections == 0
        with pytest.raises(PoolError):
            await run.store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
        assert run.coordinator.heartbeats[-1].revocations_version == 1


async def test_without_keys_it_serves_but_stores_nothing(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("does not take this peer's heartbeat", count=1)
    async with running(tmp_path, deaf=True) as run:
        chunk = sealed(1, 70_000)
        with pytest.raises(Unavailable):
            await run.store.put(VOLUME, chunk.id, [chunk.data])
        assert not await run.store.has(VOLUME, chunk.id)
        run.coordinator.refuse = None
        await run.coordinator.beats(2)
        await run.store.put(VOLUME, chunk.id, [chunk.data])


async def test_a_receipt_key_that_is_none_ends_nothing(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("does not take this peer's heartbeat: the coordinator's receipt key is none", count=1)
    async with running(tmp_path) as run:
        run.coordinator.receipt_key = b"short"
        await run.coordinator.beats(2)
        (receipt,) = await run.store.put(VOLUME, CHUNK.id, [CHUNK.data])  # signed with the last one that was good
        assert receipt.peer == 1


async def test_a_capacity_that_is_set_is_what_is_offered(tmp_path: Path) -> None:
    async with running(tmp_path, Settings(listen="127.0.0.1:0", heartbeat=0.05, capacity=5000, reserve=0)) as run:
        assert run.coordinator.heartbeats[-1].capacity == 5000


async def test_a_node_without_the_role_is_refused(tmp_path: Path) -> None:
    authority = make_ca(tmp_path)
    node = authority.issue(roles=(Role.CLIENT,))
    home = peer_home(tmp_path / "peer", authority, node, 1, node.node, ["127.0.0.1:1"], roles=[Role.CLIENT])
    with pytest.raises(UserError, match="role peer"):
        await assemble(home, SETTINGS)


async def test_strangers_and_other_pools_get_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        (tmp_path / "other").mkdir()
        other = make_ca(tmp_path / "other", run.coordinator.authority.pool).issue(roles=(Role.CLIENT,))
        async with Client(other.client(), run.coordinator.authority.pool) as client:
            with pytest.raises((Denied, Unavailable)):
                await client.request(run.store.endpoint, "GET", "/health", timeout_s=5)


@pytest.mark.parametrize(
    ("bound", "advertise", "expected"),
    [
        (["127.0.0.1:5"], "", ["127.0.0.1:5"]),
        (["0.0.0.0:5"], "", ["127.0.0.1:5"]),
        (["[::]:5", "0.0.0.0:5"], "", ["127.0.0.1:5"]),
        (["192.0.2.1:5", "192.0.2.2:6"], "", ["192.0.2.1:5", "192.0.2.2:6"]),
        (["0.0.0.0:5"], "peer.example", ["peer.example:5"]),
        (["0.0.0.0:5"], "peer.example:7, 192.0.2.9", ["peer.example:7", "192.0.2.9:5"]),
        (["0.0.0.0:5"], "[2001:db8::1]:7,2001:db8::2", ["[2001:db8::1]:7", "[2001:db8::2]:5"]),
    ],
)
def test_what_others_are_told_to_dial(bound: list[str], advertise: str, expected: list[str]) -> None:
    assert advertised(bound, advertise, towards=["127.0.0.1:9470"]) == expected


def test_the_answer_of_a_coordinator_is_bounded() -> None:
    """A silly interval neither floods the coordinator nor silences the peer."""
    from p2pfs_peerd.heartbeat import bounded

    assert [bounded(value) for value in (0.0, -1.0, 5.0, 1e9, math.nan)] == [0.05, 0.05, 5.0, 300.0, 0.05]


async def test_a_peer_that_starts_again_remembers_who_was_revoked(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("does not take this peer's heartbeat", count=1)
    async with running(tmp_path) as run:
        await run.store.put(VOLUME, CHUNK.id, [CHUNK.data])
        run.coordinator.revocations = Revocations(1, [run.sender.node], [])
        await run.coordinator.beats(3)
    saved = tmp_path / "peer" / "revocations"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    async with again(run) as (peerd, store):
        assert peerd.server.requests == 0
        with pytest.raises(PoolError):
            await store.get(VOLUME, CHUNK.id, CHUNK.size, CHUNK.whole)
        assert peerd._revocations.nodes == {run.sender.node}
        await run.coordinator.beats(2)
        assert run.coordinator.heartbeats[-1].revocations_version == 0  # it wants to hear them in any case


async def test_a_damaged_list_of_revocations_closes_the_peer_until_it_hears_the_list(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("chunks are served again when the coordinator has said who is revoked", count=1)
    claim_logs("does not take this peer's heartbeat", count=1)
    async with running(tmp_path) as run:
        await run.store.put(VOLUME, CHUNK.id, [CHUNK.data])
        run.coordinator.revocations = Revocations(1, ["ab" * 16], [])
        await run.coordinator.beats(3)
    saved = tmp_path / "peer" / "revocations"
    saved.write_bytes(saved.read_bytes().replace(b"ab", b"ac", 1))
    async with again(run) as (_peerd, store):
        await run.coordinator.beats(2)  # refused
        for attempt in (
            lambda: store.get(VOLUME, CHUNK.id, CHUNK.size, CHUNK.whole),
            lambda: store.put(VOLUME, CHUNK.id, [CHUNK.data]),
            lambda: store.has(VOLUME, CHUNK.id),
        ):
            with pytest.raises(Unavailable):
                await attempt()
        run.coordinator.refuse = None
        await run.coordinator.beats(3)
        assert await store.get(VOLUME, CHUNK.id, CHUNK.size, CHUNK.whole) == CHUNK.data
    assert RevocationFile(saved).load() == Revocations(1, ["ab" * 16], [])


@pytest.mark.parametrize("content", [b"", b"\n", b"00\n{}", b"{}"])
def test_what_is_no_list_of_revocations_is_corrupt(content: bytes, tmp_path: Path) -> None:
    file = RevocationFile(tmp_path / "revocations")
    assert file.load() == Revocations(0, [], [])
    file.save(Revocations(3, ["ab" * 16], ["1f"]))
    assert file.load() == Revocations(3, ["ab" * 16], ["1f"])
    file.path.write_bytes(content)
    with pytest.raises(Corrupt):
        file.load()
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(Corrupt):
        file.load()


async def test_a_heartbeat_names_no_more_addresses_than_a_coordinator_takes(tmp_path: Path) -> None:
    many = ",".join(f"192.0.2.{number}:9" for number in range(1, 40))
    async with running(tmp_path, Settings(listen="127.0.0.1:0", advertise=many, heartbeat=0.05, reserve=0)) as run:
        assert len(run.coordinator.heartbeats[-1].addresses) == 16


# ---- where it is reached --------------------------------------------------------------------------------------------


async def beats_until(run: Running, is_so: Callable[[Heartbeat], bool]) -> None:
    with trio.fail_after(10):
        while not is_so(run.coordinator.heartbeats[-1]):
            await run.coordinator.beats(1)


async def test_a_peer_that_nobody_can_dial_listens_at_the_relay_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        assert (run.coordinator.listens, RELAY in run.coordinator.heartbeats[-1].addresses) == ([], False)
        run.coordinator.is_dialable = False
        await beats_until(run, lambda beat: beat.addresses[-1] == RELAY)
        with trio.fail_after(10):
            while sum(wait_s > 0 for wait_s in run.coordinator.listens) < SPARES:
                await trio.lowlevel.checkpoint()
        run.coordinator.is_dialable = True
        await beats_until(run, lambda beat: RELAY not in beat.addresses)


@pytest.mark.parametrize(("mode", "listens"), [("on", True), ("off", False)])
async def test_the_setting_decides_whatever_the_coordinator_finds(tmp_path: Path, mode: str, listens: bool) -> None:
    settings = Settings(listen="127.0.0.1:0", heartbeat=0.05, reserve=0, relay=mode)
    async with running(tmp_path, settings) as run:
        run.coordinator.is_dialable = not listens
        await run.coordinator.beats(3)
        await beats_until(run, lambda beat: (RELAY in beat.addresses) is listens)
        assert bool(run.coordinator.listens) is listens


async def test_a_machine_that_moves_tells_its_new_addresses_with_the_next_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ["127.0.0.1:5"]
    monkeypatch.setattr(composition, "advertised", lambda *_arguments, **_options: list(places))
    settings = Settings(listen="127.0.0.1:0", heartbeat=0.05, reserve=0, relay="on")
    async with running(tmp_path, settings) as run:
        await beats_until(run, lambda beat: beat.addresses == ["127.0.0.1:5", RELAY])
        before = len(run.coordinator.listens)
        places[:] = ["127.0.0.1:6", "127.0.0.1:7"]
        await beats_until(run, lambda beat: beat.addresses == ["127.0.0.1:6", "127.0.0.1:7", RELAY])
        with trio.fail_after(10):  # what waited at the relay from the old place is given up for new connections
            while len(run.coordinator.listens) < before + SPARES:
                await trio.lowlevel.checkpoint()


async def test_a_stopping_peer_lets_requests_through_the_relay_finish(tmp_path: Path) -> None:
    answers = []

    async with running(tmp_path, Settings(listen="127.0.0.1:0", heartbeat=0.05, reserve=0)) as run:
        begun, stopping, over = trio.Event(), trio.Event(), trio.Event()

        async def dial(raw: RawStream) -> None:
            stream = TlsStream(raw, run.sender.client(), server_side=False)
            await stream.do_handshake()
            token = codec.encode(run.coordinator.maker.make(VOLUME, PeerNumber(1))).hex()
            head = (
                f"PUT /volumes/{volume_name(VOLUME)}/chunks/{CHUNK.id.hex()} HTTP/1.1\r\nhost: x\r\n"
                f"content-length: {CHUNK.size}\r\n{RESERVATION_HEADER}: {token}\r\n\r\n"
            )
            await stream.send_all((head.encode(), CHUNK.data[:1000]))
            begun.set()
            await stopping.wait()
            await stream.send_all((CHUNK.data[1000:],))
            answers.append(await everything(stream))
            await stream.aclose()
            over.set()

        run.coordinator.dialler = dial
        run.coordinator.is_dialable = False
        with trio.fail_after(10):
            await begun.wait()
            while "1 busy" not in repr(run.peerd.server):
                await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.peerd.server.stop, 5)
                await wait_all_tasks_blocked()
                stopping.set()
                await over.wait()
    assert answers[0].startswith(b"HTTP/1.1 200 ")
