"""Writes over real reservations in simulated time: peers that are away make a write wait, not fail for want of room."""

from collections.abc import Sequence
from typing import cast

import pytest
import trio
from chunk_pool import pool_map
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.remote import RemoteStore
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.errors import Unavailable
from p2pfs.net.client import Client, Endpoint, Reply
from p2pfs.types import MIB, ChunkId, NodeId, PeerNumber, Role, VolumeId
from p2pfs.vfs.space import FIRST_ROOM, ReservedSpace
from p2pfs.wire import codec
from p2pfs.wire.chunks import RESERVATION_HEADER, Receipt, Token

pytestmark = pytest.mark.l3

PEERS = tuple(PeerNumber(number) for number in (1, 2, 3))
AWAY = PEERS[1:]
AWAY_S = 25.0


class Network:
    """In place of a client: peers that count reservations as `p2pfs_peerd` does, and some that are away at first."""

    def __init__(self) -> None:
        self.refused = 0
        self.used: dict[int, int] = {}

    async def request(
        self,
        endpoint: Endpoint,
        _method: str,
        _path: str,
        *,
        parts: Sequence[bytes],
        headers: tuple[tuple[str, str], ...],
        **_: object,
    ) -> Reply:
        await trio.sleep(0.002)
        peer = PeerNumber(int(endpoint.node, 16))
        if peer in AWAY and trio.current_time() < AWAY_S:
            self.refused += 1
            raise Unavailable("connection refused")
        token = codec.decode(bytes.fromhex(dict(headers)[RESERVATION_HEADER]), Token)
        self.used[token.id] = self.used.get(token.id, 0) + sum(map(len, parts))
        assert self.used[token.id] <= token.room_bytes
        return Reply(200, {}, memoryview(codec.encode(Receipt(peer, 1, bytes(16)))))


async def reserve(room: int, _returned: list[int]) -> list[Token]:
    await trio.lowlevel.checkpoint()
    return [Token(room + peer, "", VOLUME, peer, room, 1 << 40) for peer in PEERS]


async def nowhere(_volume: VolumeId, _chunk: ChunkId) -> list[PeerNumber]:
    await trio.lowlevel.checkpoint()
    return []


async def test_peers_that_are_away_for_a_while_are_not_taken_for_full(autojump_clock: trio.testing.MockClock) -> None:
    network, space = Network(), ReservedSpace(reserve, lambda: 2, trio.current_time)
    client = cast("Client", network)
    stores = {
        peer: RemoteStore(
            client, Endpoint(NodeId(f"{peer:032x}"), Role.PEER, ()), peer, space.token, unspent=space.unspent
        )
        for peer in PEERS
    }
    chunks = [sealed(seed) for seed in range(8)]
    async with trio.open_nursery() as nursery:
        store = ReplicatedStore(stores.get, map=lambda: pool_map(PEERS), locate=nowhere, nursery=nursery)

        async def write(chunk: Sealed) -> None:
            await space.promise(MIB)
            await space.cover(chunk.size)
            receipts = await store.put(VOLUME, chunk.id, [chunk.data])
            assert len({receipt.peer for receipt in receipts}) == 2

        async with trio.open_nursery() as writing:
            for chunk in chunks:
                writing.start_soon(write, chunk)
        assert AWAY_S <= trio.current_time() < AWAY_S + 3
        assert network.refused * MIB > FIRST_ROOM, "too few attempts to use a reservation up"
        nursery.cancel_scope.cancel()
