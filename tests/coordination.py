"""A coordinator for tests: its services in this process over an inline database, or the whole of it over TLS."""

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from p2pfs.coordinator.authority import key_pem, new_key, to_pem
from p2pfs.coordinator.composition import compose
from p2pfs.coordinator.daemon import Running, open_coordinator
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.init import initialise
from p2pfs.coordinator.ledger import REST_S
from p2pfs.coordinator.receipts import sign
from p2pfs.coordinator.services import Services
from p2pfs.format.invites import decode_invite
from p2pfs.meta.database import InlineDatabase
from p2pfs.meta.rounds import Rounds
from p2pfs.net.client import Client, Endpoint, joining_client
from p2pfs.net.identity import Credentials, Identity, Revocations, client_context
from p2pfs.runtime.clocks import FakeClock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import GIB, NODE_ROLES, ChunkId, NodeId, PeerNumber, Role, VolumeId
from p2pfs.wire.chunks import Receipt, receipt_message
from p2pfs.wire.membership import (
    Heartbeat,
    HeartbeatAnswer,
    InviteAnswer,
    InviteRequest,
    JoinAnswer,
    JoinRequest,
    Resources,
)
from p2pfs.wire.namespace import NewChunk
from p2pfs.wire.volumes import CreateVolume, KeySlot

Told = Callable[[Any], None] | None
ROOMY = Resources(1 << 50, 1 << 50, GIB, GIB, 2, 0.1, 0, 0)


def certificate_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#10, DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2pfs")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def new_pool(path: Path, clock: FakeClock | None = None, **settings: str) -> NodeHome:
    """A pool whose coordinator is root@server and listens on some free port."""
    return initialise(
        path, pool_name="test", name="root@server", settings={"listen": "127.0.0.1:0", **settings}, clock=clock
    )


def volume_message(volume: int = 7, name: str = "photos", *, trash_s: float = 0.0) -> CreateVolume:
    """Without trash, unless a test is about it."""
    slots = [KeySlot("passphrase", b"wrapped")]
    return CreateVolume(
        volume, name, b"check", slots, b"root head", 0o755, 0, 0, 1, trash_removed_s=trash_s, trash_expired_s=trash_s
    )


def chunk_id(number: int) -> ChunkId:
    return ChunkId(hashlib.sha256(b"%d" % number).digest())


@dataclass
class Pool:
    """The services of one coordinator, called directly, with a clock that tests move."""

    home: NodeHome
    record: NodeRecord
    settings: Settings
    clock: FakeClock
    database: InlineDatabase
    services: Services
    revocations: Revocations
    withdrawn: dict[str, int] = field(default_factory=dict)  # as each peer heard last

    def identity(self, node: str | None = None, roles: Iterable[Role] = tuple(NODE_ROLES)) -> Identity:
        """What the server would say of a caller."""
        return Identity(
            self.record.pool, NodeId(node or self.record.node), frozenset(roles), "1", self.clock.time() + 1000
        )

    async def join(self, name: str, *roles: Role, **options: Any) -> JoinAnswer:  # noqa: ANN401 - InviteRequest's
        """Invite and join in one."""
        roles = roles or (Role.PEER, Role.CLIENT)
        answer = await self.services.membership.invite(
            InviteRequest(name, [str(role) for role in roles], **options), self.record.node
        )
        secret = decode_invite(answer.invite).secret
        return await self.services.membership.join(JoinRequest(secret, certificate_request(new_key())))

    async def beat(
        self,
        node: str,
        *,
        capacity: int = 10 * GIB,
        used: int = 0,
        put_seq: int = -1,
        **more: Any,  # noqa: ANN401
    ) -> HeartbeatAnswer:
        """A heartbeat of this node."""
        fields: dict[str, Any] = {
            "addresses": ["192.0.2.1:9471"],
            "trash": 0,
            "chunks": 0,
            "clock_s": self.clock.time(),
            "resources": ROOMY,
            "map_version": 0,
            "revocations_version": 0,
            "withdrawn_seq": self.withdrawn.get(node, 0),
            **more,
        }
        beat = Heartbeat(capacity=capacity, used=used, put_seq=put_seq, **fields)
        answer = await self.services.pulse.heartbeat(self.identity(node, [Role.PEER]), beat)
        self.withdrawn[node] = answer.withdrawn_seq
        return answer

    async def rest(self, *nodes: str, **fields: Any) -> None:  # noqa: ANN401 - beat's
        """Some seconds in which these hear of the tokens that were given back, and say so."""
        self.clock.advance(REST_S)
        for node in nodes * 2:
            await self.beat(node, **fields)

    async def peers(self, count: int, **options: Any) -> list[JoinAnswer]:  # noqa: ANN401 - beat's
        """So many peers of different owners that have served."""
        joined = [await self.join(f"owner{number}@host", Role.PEER, Role.CLIENT) for number in range(1, count + 1)]
        for answer in joined:
            await self.beat(answer.node, **options)
        return joined

    def ahead(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """Have the next write find this committed just before it; nobody was told."""
        write = self.database.write

        async def second(wanted: Callable[[sqlite3.Connection], Any], *, committed: Told = None) -> Any:  # noqa: ANN401
            self.database.write = write  # type: ignore[method-assign]
            self.database.write_now(change)
            return await write(wanted, committed=committed)

        self.database.write = second  # type: ignore[method-assign, assignment]

    async def give_up(self, act: Callable[[], Awaitable[object]]) -> None:
        """Do this until it writes; whoever waits for that gives up before it is committed."""
        write, told = self.database.write, list[Callable[[], None]]()

        async def late(change: Callable[[sqlite3.Connection], Any], *, committed: Told = None) -> None:
            def commit() -> None:
                done = self.database.write_now(change)
                if committed is not None:
                    committed(done)

            self.database.write = write  # type: ignore[method-assign]
            told.append(commit)
            scope.cancel()
            await trio.lowlevel.checkpoint()

        self.database.write = late  # type: ignore[method-assign, assignment]
        with trio.CancelScope() as scope:
            await act()
        assert scope.cancelled_caught
        told.pop()()

    def receipt(self, peer: int, volume: int, chunk: bytes, *, size: int = 1000, put_seq: int = 1) -> Receipt:
        """A genuine one."""
        key = self.services.roster.receipt_keys[peer]
        message = receipt_message(self.record.pool, PeerNumber(peer), VolumeId(volume), ChunkId(chunk), size, put_seq)
        return Receipt(peer, put_seq, sign(key, message))

    def stored(self, volume: int, number: int, peers: Iterable[int], *, size: int = 1000, put_seq: int = 1) -> NewChunk:
        """Chunk `number` with genuine receipts of these peers."""
        chunk = chunk_id(number)
        receipts = [self.receipt(peer, volume, chunk, size=size, put_seq=put_seq) for peer in peers]
        return NewChunk(chunk, size, receipts)


@asynccontextmanager
async def pool(path: Path, *, clock: FakeClock | None = None, **settings: str) -> AsyncIterator[Pool]:
    """A pool at `path`, made when it is not there; entering again is a restart."""
    clock = clock or FakeClock()
    home = NodeHome(path)
    if not home.exists():
        new_pool(path, clock, **settings)
    files, record, loaded = CoordinatorFiles(home), home.record(), home.settings(settings)
    authority, secrets = files.load(record.pool)
    revocations = Revocations()
    with closing(InlineDatabase(files.database)) as database, closing(Rounds()) as rounds:
        services = await compose(
            record,
            loaded,
            database=database,
            authority=authority,
            secrets=secrets,
            revocations=revocations,
            clock=clock,
            rounds=rounds,
        )
        yield Pool(home, record, loaded, clock, database, services, revocations)


@dataclass
class Live:
    """A whole coordinator over TLS on loopback, and nodes that joined it the way nodes do."""

    home: NodeHome
    running: Running
    directory: Path

    @property
    def endpoint(self) -> Endpoint:
        record = self.running.record
        return Endpoint(record.coordinator, Role.COORDINATOR, tuple(record.addresses))

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.home.ca_path, self.home.certificate_path, self.home.key_path)

    def client(self, credentials: Credentials | None = None, **options: Any) -> Client:  # noqa: ANN401 - Client's
        """A client with these credentials, or the coordinator node's own."""
        return Client(client_context(credentials or self.credentials), self.running.record.pool, **options)

    async def invite(self, name: str, *roles: Role) -> str:
        async with self.client() as client:
            message = InviteRequest(name, [str(role) for role in roles])
            return (await client.call(self.endpoint, "POST", "/invites", message, InviteAnswer)).invite

    async def join(self, name: str, *roles: Role) -> tuple[NodeId, Credentials]:
        """A new node with its files."""
        invite, key = decode_invite(await self.invite(name, *roles)), new_key()
        async with joining_client(invite.ca_key, invite.pool) as client:
            endpoint = Endpoint(invite.coordinator, Role.COORDINATOR, invite.addresses)
            message = JoinRequest(invite.secret, certificate_request(key))
            answer = await client.call(endpoint, "POST", "/join", message, JoinAnswer)
        return NodeId(answer.node), self.keep(answer.node, answer.certificate, key)

    def keep(self, stem: str, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> Credentials:
        """Files for a certificate (DER) of this pool and its key."""
        path = self.directory / stem
        path.with_suffix(".pem").write_bytes(to_pem(certificate))
        path.with_suffix(".key").write_bytes(key_pem(key))
        return Credentials(self.home.ca_path, path.with_suffix(".pem"), path.with_suffix(".key"))


@asynccontextmanager
async def live(path: Path, **settings: str) -> AsyncIterator[Live]:
    """A coordinator in this process over real sockets; entering again is a restart."""
    home = NodeHome(path / "coordinator-node")
    if not home.exists():
        new_pool(home.path, **settings)
    async with open_coordinator(home, home.settings({"stop_timeout": "2s"})) as running:
        yield Live(home, running, path)
