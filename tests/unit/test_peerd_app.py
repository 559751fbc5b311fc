"""A peer over real TLS: what it takes, what it gives, and to whom."""

from collections import Counter
from pathlib import Path

import pytest
import trio
from chunk_pool import ServingPeer, TokenMaker, serving_peer
from plugins.checklogs import Claims
from sealed import OTHER_VOLUME, VOLUME, Sealed, sealed

from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.chunks.protocol import Blocks
from p2pfs.chunks.remote import RemoteStore
from p2pfs.errors import Corrupt, Denied, Invalid, Misuse, NoSpace, NotFound, Unavailable
from p2pfs.net.client import Client, Reply
from p2pfs.net.tls import TlsStream
from p2pfs.types import KIB, MIB, NodeId, PeerNumber, Role
from p2pfs.wire import codec
from p2pfs.wire.chunks import RESERVATION_HEADER, Receipt, Token
from p2pfs_peerd.budget import Places, ReadBudget, Turns

pytestmark = pytest.mark.l1


def path_of(chunk: Sealed, volume: int = VOLUME) -> str:
    return f"/volumes/{volume:016x}/chunks/{chunk.id.hex()}"


async def ask(peer: ServingPeer, method: str, path: str, **options: object) -> Reply:
    return await peer.client.request(peer.endpoint, method, path, timeout_s=5, **options)  # type: ignore[arg-type]


def reservation(token: Token) -> tuple[tuple[str, str], ...]:
    return ((RESERVATION_HEADER, codec.encode(token).hex()),)


async def test_a_put_answers_with_a_receipt_the_key_made(tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1)
        token = peer.tokens.make(VOLUME, PeerNumber(1))
        reply = await ask(peer, "PUT", path_of(chunk), parts=[chunk.data], headers=reservation(token))
        receipt = codec.decode(reply.body, Receipt)
        assert receipt.peer == 1
        assert len(receipt.mac) == 16
        data = next(peer.root.glob("????????????????/*/*")).read_bytes()
        assert data[HEADER_BYTES:] == chunk.data


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 65552), (65551, 65553), (1, 1_048_832), (1_048_831, 1_048_832), (500_000, 700_001)]
)
async def test_any_range_is_served_exactly(start: int, stop: int, tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1)
        await peer.store.put(VOLUME, chunk.id, [chunk.data])
        reply = await ask(peer, "GET", path_of(chunk), headers=(("Range", f"bytes={start}-{stop - 1}"),))
        assert reply.status == 206
        assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{chunk.size}"
        assert reply.body == chunk.data[start:stop]


async def test_without_a_range_the_whole_chunk_comes(tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1, 70_000)
        await peer.store.put(VOLUME, chunk.id, [chunk.data])
        reply = await ask(peer, "GET", path_of(chunk))
        assert (reply.status, bytes(reply.body)) == (200, chunk.data)
        head = await ask(peer, "HEAD", path_of(chunk))
        assert (head.status, head.headers["content-length"]) == (200, str(chunk.size))


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=-5", "bytes=5-", "bytes=0-1,3-4", "lines=1-2", "bytes=1-2x"])
async def test_other_forms_of_ranges_are_misuse(header: str, tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1, 70_000)
        await peer.store.put(VOLUME, chunk.id, [chunk.data])
        with pytest.raises(Misuse):
            await ask(peer, "GET", path_of(chunk), headers=(("Range", header),))


@pytest.mark.parametrize(
    "path",
    [
        "/volumes/1/chunks/" + "ab" * 32,
        "/volumes/00000000000000AB/chunks/" + "ab" * 32,
        "/volumes/00000000000000ab/chunks/" + "AB" * 32,
        "/volumes/00000000000000ab/chunks/" + "ab" * 31,
        "/volumes/..%2f..%2f00000000/chunks/" + "ab" * 32,
        "/volumes/../../etc/chunks/" + "ab" * 32,
    ],
)
async def test_names_are_written_in_one_way_only(path: str, tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        for method in ("GET", "HEAD"):
            with pytest.raises((Misuse, NotFound)):
                await ask(peer, method, path)


async def test_a_put_needs_a_reservation_of_its_sender(tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1, 1000)
        with pytest.raises(Denied):
            await ask(peer, "PUT", path_of(chunk), parts=[chunk.data])
        stolen = peer.tokens.sign(Token(5, NodeId("ab" * 16), VOLUME, PeerNumber(1), MIB, 1 << 40))
        with pytest.raises(Denied):
            await ask(peer, "PUT", path_of(chunk), parts=[chunk.data], headers=reservation(stolen))
        other_volume = peer.tokens.make(OTHER_VOLUME, PeerNumber(1))
        with pytest.raises(Denied):
            await ask(peer, "PUT", path_of(chunk), parts=[chunk.data], headers=reservation(other_volume))
        assert not await peer.store.has(VOLUME, chunk.id)


async def test_wrong_bytes_are_refused_and_cost_no_room(tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1, 1000)
        headers = reservation(peer.tokens.make(VOLUME, PeerNumber(1), room=chunk.size))
        for body in (chunk.data[:-1], chunk.data[:-1] + b"x", sealed(2, 1000).data):
            with pytest.raises(Misuse):
                await ask(peer, "PUT", path_of(chunk), parts=[body], headers=headers)
        assert not await peer.store.has(VOLUME, chunk.id)
        await ask(peer, "PUT", path_of(chunk), parts=[chunk.data], headers=headers)
        with pytest.raises(NoSpace):
            await ask(peer, "PUT", path_of(chunk), parts=[chunk.data], headers=headers)


async def test_a_receipt_of_another_peer_is_no_receipt(tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1, 1000)
        token = peer.tokens.make(VOLUME, PeerNumber(1))
        store = RemoteStore(peer.client, peer.endpoint, PeerNumber(2), lambda *_: token)
        with pytest.raises(Unavailable):
            await store.put(VOLUME, chunk.id, [chunk.data])


async def test_a_full_peer_says_so(tmp_path: Path) -> None:
    async with serving_peer(tmp_path, capacity=100 * KIB) as peer:
        chunk, large = sealed(1, 1000), sealed(2)
        with pytest.raises(NoSpace):
            await peer.store.put(VOLUME, large.id, [large.data])
        await peer.store.put(VOLUME, chunk.id, [chunk.data])
        assert peer.directory._buffers.lent == 0


async def test_damage_is_told_and_never_served(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=1)
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1)
        await peer.store.put(VOLUME, chunk.id, [chunk.data])
        path = next(peer.root.glob("????????????????/*/*"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            await peer.store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
        with pytest.raises(NotFound):
            await peer.store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
        assert peer.directory.damaged() == [(VOLUME, chunk.id)]


async def test_the_health_route_tells_how_full_it_is(tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1, 1000)
        await peer.store.put(VOLUME, chunk.id, [chunk.data])
        health = codec.decode((await ask(peer, "GET", "/health")).body, dict[str, int])
        assert (health["chunks"], health["used"]) == (1, chunk.size + HEADER_BYTES)


async def test_memory_for_reads_is_given_back_when_answers_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[ReadBudget] = []

    def small() -> ReadBudget:
        budgets.append(ReadBudget(total=3 * MIB, per_node=2 * MIB))
        return budgets[0]

    monkeypatch.setattr("p2pfs_peerd.app.ReadBudget", small)
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1)
        await peer.store.put(VOLUME, chunk.id, [chunk.data])

        async def read() -> None:
            assert await peer.store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data
            with pytest.raises(NotFound):
                await peer.store.get(OTHER_VOLUME, chunk.id, chunk.size, chunk.whole)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(read)
            while budgets[0].taken:
                await trio.lowlevel.checkpoint()


async def test_one_node_cannot_take_all_the_memory(autojump_clock: trio.testing.MockClock) -> None:
    budget = ReadBudget(total=4 * MIB, per_node=2 * MIB)
    greedy, modest = NodeId("aa" * 16), NodeId("bb" * 16)
    leases = [await budget.take(greedy, MIB) for _ in range(2)]
    with trio.move_on_after(1) as scope:
        await budget.take(greedy, MIB)
    assert scope.cancelled_caught
    (await budget.take(modest, MIB)).end()
    for lease in leases:
        lease.end()
        lease.end()
    assert budget.taken == 0
    (await budget.take(greedy, 2 * MIB)).end()


async def test_a_range_beyond_the_end_is_no_damage(tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        chunk = sealed(1, 1000)
        await peer.store.put(VOLUME, chunk.id, [chunk.data])
        with pytest.raises(Invalid):
            await ask(peer, "GET", path_of(chunk), headers=(("Range", f"bytes=0-{chunk.size}"),))
        with pytest.raises(Corrupt):  # for whoever believes that the chunk is longer
            await peer.store.get(VOLUME, chunk.id, chunk.size + 10, Blocks(0, 1))
        assert peer.directory.damaged() == []
        assert await peer.store.has(VOLUME, chunk.id)


@pytest.mark.parametrize("begun", [1, 70_000], ids=["announced only", "begun"])
async def test_slow_senders_leave_buffers_to_others(begun: int, tmp_path: Path) -> None:
    async with serving_peer(tmp_path) as peer:
        slow, chunk = sealed(2), sealed(1)
        token = peer.tokens.make(VOLUME, PeerNumber(1))
        head = (
            f"PUT {path_of(slow)} HTTP/1.1\r\nhost: x\r\ncontent-length: {slow.size}\r\n"
            f"{RESERVATION_HEADER}: {codec.encode(token).hex()}\r\n\r\n"
        )
        port = int(peer.endpoint.addresses[0].rpartition(":")[2])
        streams = []
        for _ in range(20):
            socket = await trio.open_tcp_stream("127.0.0.1", port)
            streams.append(TlsStream(socket, peer.sender.client(), server_side=False))
            await streams[-1].do_handshake()
            await streams[-1].send_all((head.encode(), slow.data[:begun]))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert peer.directory._buffers.lent == (0 if begun < 65_536 else 4)
        other = peer.authority.issue(roles=(Role.CLIENT,))
        maker = TokenMaker(peer.authority.pool, other.node, (VOLUME,), peer.tokens.key)
        room = maker.sign(Token(77, other.node, VOLUME, PeerNumber(1), 4 * MIB, 1 << 40))
        async with Client(other.client(), peer.authority.pool) as client:
            store = RemoteStore(client, peer.endpoint, PeerNumber(1), lambda *_: room)
            with trio.fail_after(5):
                await store.put(VOLUME, chunk.id, [chunk.data])
        for stream in streams:
            await stream.send_all((slow.data[begun:],))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            await stream.aclose()
        assert peer.directory._buffers.lent == 0


async def test_turns_are_given_back_and_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    turns, node = Turns(2), NodeId("ab" * 16)
    async with turns.taken(node), turns.taken(node) as second:
        with trio.move_on_after(1) as scope:
            async with turns.taken(node):
                raise AssertionError("a third turn")
        assert scope.cancelled_caught
        async with turns.taken(NodeId("cd" * 16)):
            second.end()
            async with turns.taken(node):
                pass
    assert turns._nodes == {}


async def test_who_has_places_leaves_as_many_free(autojump_clock: trio.testing.MockClock) -> None:
    places, taken = Places(8), Counter[str]()

    async def take(node: str) -> None:
        async with places.taken(NodeId(node * 32)):
            taken[node] += 1
            await trio.sleep(10 if node == "a" else 20)
            taken[node] -= 1

    async with trio.open_nursery() as nursery:
        for node in ("a", "b"):
            for _ in range(6):
                nursery.start_soon(take, node)
            await trio.testing.wait_all_tasks_blocked()
        assert taken == {"a": 4, "b": 2}
        nursery.start_soon(take, "c")
        await trio.testing.wait_all_tasks_blocked()
        assert taken == {"a": 4, "b": 2, "c": 1}
        await trio.sleep(11)
        assert taken["a"] + taken["b"] > 2  # what was given back is taken by who waited
    assert (places._free, places._taken) == (8, {})
