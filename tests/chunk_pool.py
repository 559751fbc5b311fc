"""Pools for tests of chunk stores: maps of made-up peers, and one real peer in this process over TLS."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from pki import Issued, TestAuthority, make_ca

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.chunks.remote import RemoteStore
from p2pfs.net.addresses import bound_addresses, open_listeners
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.server import Server
from p2pfs.runtime.clocks import SystemClock
from p2pfs.types import GIB, NodeId, PeerNumber, PeerState, PoolId, Role, VolumeId
from p2pfs.wire.chunks import Token, token_message
from p2pfs.wire.membership import PeerInfo, PoolMap
from p2pfs.wire.routes import PEER_ROUTES
from p2pfs_peerd.app import PeerApp
from p2pfs_peerd.fetches import Fetches
from p2pfs_peerd.tokens import TokenBook


def pool_map(
    peers: Iterable[int],
    *,
    replicas: int = 2,
    min_replicas: int = 2,
    states: dict[int, PeerState] | None = None,
    version: int = 1,
) -> PoolMap:
    """Equal peers, each of an owner of its own."""
    infos = [
        PeerInfo(
            number=number,
            node=f"{number:032x}",
            name=f"owner{number}@host",
            owner=f"owner{number}",
            zone="",
            addresses=["127.0.0.1:1"],
            capacity=GIB,
            free=GIB,
            state=(states or {}).get(number, PeerState.UP),
        )
        for number in peers
    ]
    return PoolMap("0" * 32, version, 1, replicas, min_replicas, infos)


@dataclass
class TokenMaker:
    """Stands in for the coordinator's reservations."""

    pool: PoolId
    sender: NodeId
    volumes: tuple[VolumeId, ...]
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def make(self, volume: VolumeId, peer: PeerNumber, *, room: int = GIB, expires_s: int = 1 << 40) -> Token:
        token = Token(len(self.volumes) + room, self.sender, volume, peer, room, expires_s)
        return self.sign(token)

    def sign(self, token: Token) -> Token:
        return replace(token, signature=self.key.sign(token_message(self.pool, token)))


@dataclass
class ServingPeer:
    """A peer of one pool, served in this process, and a client that uses it."""

    store: RemoteStore
    directory: DirectoryStore
    client: Client
    endpoint: Endpoint
    tokens: TokenMaker
    sender: Issued
    root: Path
    authority: TestAuthority
    issued: Issued
    fetches: Fetches


@asynccontextmanager
async def serving_peer(
    tmp_path: Path, *, volume: VolumeId | None = None, capacity: int = GIB, authority: TestAuthority | None = None
) -> AsyncIterator[ServingPeer]:
    """Real TLS over loopback, real files; only the coordinator is missing."""
    from sealed import VOLUME

    ca = authority or make_ca(tmp_path)
    number = PeerNumber(1)
    peer, sender = ca.issue(roles=(Role.PEER,)), ca.issue(roles=(Role.CLIENT,))
    maker = TokenMaker(ca.pool, sender.node, (volume or VOLUME,))
    tokens = TokenBook(ca.pool, number, SystemClock())
    tokens.trust(maker.public)
    root = tmp_path / "chunks"
    sign = ReceiptKey(ca.pool, number, bytes(32)).sign
    directory = await DirectoryStore.open(root, sign=sign, capacity=capacity)
    app = PeerApp(directory, tokens)
    fetches = Fetches(app, tokens, number=number)
    handlers = {**app.handlers(), **fetches.handlers()}
    server = Server(PEER_ROUTES, handlers, context=peer.server(), pool=ca.pool)
    listeners = await open_listeners("127.0.0.1:0")
    endpoint = Endpoint(peer.node, Role.PEER, tuple(bound_addresses(listeners)))
    async with trio.open_nursery() as nursery, Client(sender.client(), ca.pool) as client:
        await nursery.start(server.serve, listeners)
        store = RemoteStore(client, endpoint, number, lambda peer, _size: maker.make(volume or VOLUME, peer))
        yield ServingPeer(store, directory, client, endpoint, maker, sender, root, ca, peer, fetches)
        await server.stop(1)
        nursery.cancel_scope.cancel()
