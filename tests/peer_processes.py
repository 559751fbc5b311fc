"""Real peer daemons as processes, and as much of a coordinator as they need, for tests that kill and stop them."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from chunk_pool import TokenMaker
from cryptography.hazmat.primitives import serialization
from pki import Issued, TestAuthority, make_ca
from sealed import VOLUME

from p2pfs.net.addresses import bound_addresses, open_listeners
from p2pfs.net.client import Client
from p2pfs.net.server import Request, Response, Server
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId, PeerNumber, PeerState, Role
from p2pfs.wire.chunks import Token
from p2pfs.wire.membership import Heartbeat, HeartbeatAnswer, PeerInfo, PoolMap
from p2pfs.wire.routes import COORDINATOR_ROUTES

_TREE = Path(__file__).parent.parent
_PROGRAM = """
import sys
from pathlib import Path
from p2pfs.runtime import log
from p2pfs.runtime.home import NodeHome
from p2pfs_peerd.daemon import run
log.setup("info")
home = NodeHome(Path(sys.argv[1]))
sys.exit(run(home, home.settings(dict(pair.split("=", 1) for pair in sys.argv[2:]))))
"""


@dataclass
class PeerProcess:
    """One peer daemon."""

    number: PeerNumber
    node: Issued
    home: NodeHome
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (_TREE, _TREE / "peerd")))}
        with (self.home.path / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(self.home.path), "listen=127.0.0.1:0", "stop_timeout=2s",
                 "reserve=0", "heartbeat=200ms"],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> int:
        """kill -9, and wait."""
        assert self.process is not None
        self.process.kill()
        return self.process.wait(10)

    @property
    def log(self) -> str:
        return (self.home.path / "log").read_text()


@dataclass
class Processes:
    """Peers, the coordinator's part in this process, and a client."""

    authority: TestAuthority
    peers: dict[PeerNumber, PeerProcess]
    client: Client
    maker: TokenMaker
    heartbeats: dict[PeerNumber, Heartbeat] = field(default_factory=dict)
    beat: trio.Event = field(default_factory=trio.Event)
    map: PoolMap = field(default_factory=lambda: PoolMap("", 0, 1, 2, 2, []))

    async def hear(self, request: Request) -> Response:
        """The heartbeat route."""
        (peer,) = (peer for peer in self.peers.values() if peer.node.node == request.caller.node)
        heartbeat = self.heartbeats[peer.number] = await request.message(Heartbeat)
        self._draw_map()
        self.beat.set()
        return Response.of(
            HeartbeatAnswer(peer.number, self.map.version, bytes(32), self.maker.public, heartbeat.capacity, 0.2)
        )

    def _draw_map(self) -> None:
        infos = [
            PeerInfo(number, self.peers[number].node.node, f"{number}", f"{number}", "", beat.addresses, 1 << 30,
                     1 << 30, PeerState.UP)
            for number, beat in sorted(self.heartbeats.items())
        ]  # fmt: skip
        if infos != self.map.peers:
            self.map = PoolMap(self.authority.pool, self.map.version + 1, 1, 2, 2, infos)

    async def all_heard(self) -> None:
        """Wait until every peer that was started anew has beaten."""
        with trio.fail_after(30):
            while self.heartbeats.keys() != self.peers.keys():
                self.beat = trio.Event()
                await self.beat.wait()

    async def counted(self, number: PeerNumber, chunks: int) -> None:
        """Wait until a peer says that it holds so many chunks, or more: after a start it counts beside its service."""
        with trio.fail_after(30):
            while self.heartbeats[number].chunks < chunks:
                self.beat = trio.Event()
                await self.beat.wait()

    def token(self, peer: PeerNumber, _size: int) -> Token:
        return self.maker.make(VOLUME, peer, room=1 << 40)

    async def restart(self, number: PeerNumber) -> None:
        """After a kill: the same home again, heard at its new address; a last word of the old one may still come."""
        old = self.heartbeats[number].addresses
        self.peers[number].start()
        with trio.fail_after(30):
            while self.heartbeats[number].addresses == old:
                self.beat = trio.Event()
                await self.beat.wait()


def peer_home(
    directory: Path,
    authority: TestAuthority,
    node: Issued,
    number: int,
    coordinator: str,
    addresses: list[str],
    *,
    roles: Sequence[Role] = (Role.PEER,),
) -> NodeHome:
    """What `p2pfs join` leaves behind."""
    home = NodeHome(directory)
    record = NodeRecord(
        pool=authority.pool, node=node.node, name=f"owner{number}@host", owner=f"owner{number}", roles=list(roles),
        coordinator=NodeId(coordinator), addresses=addresses, peer=PeerNumber(number),
    )  # fmt: skip
    home.create(
        record,
        ca=node.credentials.ca_pem.read_bytes(),
        certificate=node.certificate.public_bytes(serialization.Encoding.PEM),
        key=node.credentials.key_pem.read_bytes(),
    )
    return home


def lone_peer(directory: Path, *roles: Role) -> Path:
    """The home of a peer (or of something else) that does not run, and whose coordinator nobody answers for."""
    authority, given = make_ca(directory), roles or (Role.PEER,)
    node = authority.issue(roles=given)
    return peer_home(directory / "peer", authority, node, 1, "ff" * 16, ["127.0.0.1:1"], roles=given).path


@asynccontextmanager
async def peer_processes(directory: Path, count: int) -> AsyncIterator[Processes]:
    """`count` peers that have been heard; all of them are ended afterwards."""
    authority = make_ca(directory)
    coordinator, sender = authority.issue(roles=(Role.COORDINATOR,)), authority.issue(roles=(Role.CLIENT,))
    listeners = await open_listeners("127.0.0.1:0")
    peers = {}
    for number in range(1, count + 1):
        node = authority.issue(roles=(Role.PEER,))
        home = peer_home(
            directory / f"peer-{number}", authority, node, number, coordinator.node, bound_addresses(listeners)
        )
        peers[PeerNumber(number)] = PeerProcess(PeerNumber(number), node, home)
    async with Client(sender.client(), authority.pool) as client, trio.open_nursery() as nursery:
        processes = Processes(authority, peers, client, TokenMaker(authority.pool, sender.node, (VOLUME,)))
        server = Server(
            COORDINATOR_ROUTES,
            {"heartbeat": processes.hear},
            context=coordinator.server(),
            pool=authority.pool,
        )
        await nursery.start(server.serve, listeners)
        try:
            for peer in peers.values():
                peer.start()
            await processes.all_heard()
            yield processes
        finally:
            for peer in peers.values():
                if peer.process is not None:
                    peer.end()
            nursery.cancel_scope.cancel()
