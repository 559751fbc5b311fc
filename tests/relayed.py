"""A coordinator over real sockets and a peer without any address, which only its relay reaches."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from chunk_pool import TokenMaker
from coordination import Live, live
from sealed import VOLUME

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.chunks.remote import RemoteStore
from p2pfs.coordinator.relay import Relay
from p2pfs.net.addresses import RELAY
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.identity import Credentials, server_context
from p2pfs.net.server import Server
from p2pfs.runtime.clocks import SystemClock
from p2pfs.types import GIB, NodeId, PeerNumber, Role
from p2pfs.wire.routes import PEER_ROUTES
from p2pfs_peerd.app import PeerApp
from p2pfs_peerd.relay import RelayListener
from p2pfs_peerd.tokens import TokenBook


@dataclass
class Relayed:
    """The peer's ends and a client's."""

    pool: Live
    peer: NodeId
    peer_credentials: Credentials
    sender: NodeId
    sender_credentials: Credentials
    server: Server
    listener: RelayListener
    maker: TokenMaker

    @property
    def relay(self) -> Relay:
        return self.pool.running.services.relay

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.peer, Role.PEER, (RELAY,))

    def client(self) -> Client:
        return self.pool.client(self.sender_credentials, relay=self.pool.endpoint)

    def store(self, client: Client) -> RemoteStore:
        return RemoteStore(client, self.endpoint, PeerNumber(1), lambda peer, _: self.maker.make(VOLUME, peer))


@asynccontextmanager
async def relayed(path: Path, *, mode: str = "on") -> AsyncIterator[Relayed]:
    async with live(path) as pool:
        node, credentials = await pool.join("anna@nas", Role.PEER)
        sender, sender_credentials = await pool.join("bob@laptop", Role.CLIENT)
        record = pool.running.record
        maker = TokenMaker(record.pool, sender, (VOLUME,))
        tokens = TokenBook(record.pool, PeerNumber(1), SystemClock())
        tokens.trust(maker.public)
        sign = ReceiptKey(record.pool, PeerNumber(1), bytes(32)).sign
        directory = await DirectoryStore.open(path / "chunks", sign=sign, capacity=GIB)
        server = Server(
            PEER_ROUTES, PeerApp(directory, tokens).handlers(), context=server_context(credentials), pool=record.pool
        )
        async with pool.client(credentials) as client, trio.open_nursery() as nursery:
            listener = RelayListener(client, pool.endpoint, server.accept, mode=mode)
            nursery.start_soon(listener.run)
            yield Relayed(pool, node, credentials, sender, sender_credentials, server, listener, maker)
            nursery.cancel_scope.cancel()
