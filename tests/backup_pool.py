"""A coordinator's database, the worker that backs it up, and peers over real sockets that keep it; a clock that tests
move. Nothing happens but what a test asks for."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import trio
from coordination import ROOMY, certificate_request

from p2pfs.coordinator.authority import key_pem, new_key, to_pem
from p2pfs.coordinator.backup.restore import Found, Restore
from p2pfs.coordinator.backup.worker import Backup
from p2pfs.coordinator.composition import compose
from p2pfs.coordinator.daemon import backup_worker
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.init import initialise
from p2pfs.coordinator.services import Services
from p2pfs.format.invites import decode_invite
from p2pfs.format.kits import Kit
from p2pfs.meta import settings as rows
from p2pfs.meta.database import ThreadedDatabase, open_database
from p2pfs.meta.rounds import Rounds
from p2pfs.net.addresses import bound_addresses, open_listeners
from p2pfs.net.client import Client
from p2pfs.net.identity import Credentials, Identity, Revocations, client_context, server_context
from p2pfs.net.server import Server
from p2pfs.runtime.clocks import FakeClock
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.parts import PartFiles
from p2pfs.types import GIB, NodeId, Role
from p2pfs.wire.membership import Heartbeat, InviteRequest, JoinRequest
from p2pfs.wire.routes import PEER_ROUTES
from p2pfs_peerd.backups import Backups

INTERVAL_S = 5.0


@dataclass
class Keeper:
    """One peer: its backups, and the server in front of them."""

    node: NodeId
    root: Path
    backups: Backups
    server: Server
    credentials: Credentials
    address: str = ""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def files(self) -> PartFiles:
        """What lies there, read anew."""
        return PartFiles(self.root)

    def part(self, generation: int, number: int) -> Path:
        (path,) = (self.root / f"{generation:016x}").glob(f"{number:08d}.*")
        return path

    def stop(self) -> None:
        self.scope.cancel()


@dataclass
class BackupPool:
    home: NodeHome
    kit: Kit
    clock: FakeClock
    database: ThreadedDatabase
    services: Services
    worker: Backup
    nursery: trio.Nursery
    directory: Path
    keepers: list[Keeper] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    async def add_keeper(self, name: str, *, offered: int = GIB) -> Keeper:
        """A peer joins, serves and is heard of."""
        record, membership = self.home.record(), self.services.membership
        invite = await membership.invite(InviteRequest(name, ["peer"]), record.node)
        key = new_key()
        answer = await membership.join(JoinRequest(decode_invite(invite.invite).secret, certificate_request(key)))
        credentials = self.keep_credentials(name, to_pem(answer.certificate), key_pem(key))
        root = self.directory / name / "backups"
        root.parent.mkdir()
        backups = Backups(root, record.pool, offered=lambda: offered, reserve=0, clock=self.clock)
        handlers = backups.handlers()
        server = Server(PEER_ROUTES, handlers, context=server_context(credentials), pool=record.pool, clock=self.clock)
        keeper = Keeper(NodeId(answer.node), root, backups, server, credentials)
        await self.nursery.start(self._serve, keeper)
        self.keepers.append(keeper)
        await self.beat()
        return keeper

    def keep_credentials(self, name: str, certificate: bytes, key: bytes) -> Credentials:
        path = self.directory / name
        path.with_suffix(".pem").write_bytes(certificate)
        path.with_suffix(".key").write_bytes(key)
        return Credentials(self.home.ca_path, path.with_suffix(".pem"), path.with_suffix(".key"))

    async def _serve(self, keeper: Keeper, task_status: trio.TaskStatus[None]) -> None:
        listeners = await open_listeners("127.0.0.1:0")
        keeper.address = bound_addresses(listeners)[0]
        with keeper.scope:
            await keeper.server.serve(listeners, task_status=task_status)

    async def beat(self) -> None:
        """Every peer that serves is heard of."""
        for keeper in self.keepers:
            if not keeper.scope.cancel_called:
                beat = Heartbeat([keeper.address], 10 * GIB, 0, 0, 0, self.clock.time(), ROOMY, 0, 0)
                identity = Identity(self.home.record().pool, keeper.node, frozenset({Role.PEER}), "1", 1e12)
                await self.services.pulse.heartbeat(identity, beat)

    async def pass_time(self, seconds: float = INTERVAL_S) -> None:
        """The worker's next turn, after so long."""
        self.clock.advance(seconds)
        await self.beat()
        await self.worker.work()

    async def write(self, key: str, value: str) -> None:
        """Something to find again."""
        await self.database.write(lambda connection: rows.write(connection, key, value=value))

    async def fill(self, count: int, size: int = 3000) -> None:
        """Incompressible rows."""

        def fill(connection: sqlite3.Connection) -> None:
            for number in range(count):
                connection.execute(
                    "INSERT OR REPLACE INTO setting VALUES (?, randomblob(?))", (f"filler {number}", size)
                )

        await self.database.write(fill)

    async def find(self, *keepers: Keeper, kit: Kit | None = None) -> Found:
        """What a restore finds, knowing these peers; all by default."""
        directory = self.directory / f"restore-{len(list(self.directory.iterdir()))}"
        directory.mkdir()
        restore = Restore(kit or self.kit, directory, clock=self.clock, say=self.said.append)
        return await restore.find([keeper.address for keeper in keepers or self.keepers])


def value(found: Found, key: str) -> str | None:
    """What was written under this key, in a backup that was found."""
    connection = sqlite3.connect(found.database)
    try:
        return rows.read(connection, key, str)
    finally:
        connection.close()


@asynccontextmanager
async def backup_pool(path: Path, *, keepers: int = 3, **settings: str) -> AsyncIterator[BackupPool]:
    """A pool with peers of as many owners. Entering again is a restart of the coordinator, without the peers."""
    clock, kits, home = FakeClock(), list[Kit](), NodeHome(path / "coordinator-node")
    initialise(
        home.path,
        pool_name="test",
        name="root@server",
        settings={"listen": "127.0.0.1:0", **settings},
        clock=clock,
        hand_over=kits.append,
    )
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        pool = await start(stack, nursery, home, kits[0], clock, path)
        for number in range(keepers):
            await pool.add_keeper(f"owner{number}@host")
        yield pool
        nursery.cancel_scope.cancel()


async def start(
    stack: AsyncExitStack, nursery: trio.Nursery, home: NodeHome, kit: Kit, clock: FakeClock, directory: Path
) -> BackupPool:
    """The coordinator's services and worker on this home."""
    files, record, settings = CoordinatorFiles(home), home.record(), home.settings()
    authority, secrets = files.load(record.pool)
    database = await stack.enter_async_context(open_database(files.database))
    revocations = Revocations()
    rounds = stack.enter_context(closing(Rounds()))
    services = await compose(
        record,
        settings,
        database=database,
        authority=authority,
        secrets=secrets,
        revocations=revocations,
        clock=clock,
        rounds=rounds,
    )
    credentials = Credentials(home.ca_path, home.certificate_path, home.key_path)
    client = Client(client_context(credentials), record.pool, clock=clock, revocations=revocations)
    await stack.enter_async_context(client)
    worker = backup_worker(home, settings, database, services, client=client, secrets=secrets, clock=clock)
    assert worker is not None
    return BackupPool(home, kit, clock, database, services, worker, nursery, directory)
