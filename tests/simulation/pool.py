"""A whole pool in one event loop: the coordinator as composed in production, peers, and mounts without FUSE.

What is real: services, database engine, workers, handlers, servers without TLS, the peers' app, store, token book and
heartbeat, the mounts' file system, namespace, replicated store and reservations. Simulated: network, disks, clocks.
"""

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.limited import LimitedStore
from p2pfs.chunks.peers import PeerStores
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.chunks.traffic import Traffic
from p2pfs.coordinator import membership
from p2pfs.coordinator.authority import Authority
from p2pfs.coordinator.composition import compose
from p2pfs.coordinator.handlers import Handlers
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.coordinator.services import Services
from p2pfs.coordinator.sessions import MAX_SESSIONS, Expiry, Reaper
from p2pfs.errors import PoolError, Unavailable
from p2pfs.format.heads import Head, seal_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta import members, volumes
from p2pfs.meta.database import InlineDatabase
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.meta.rounds import Rounds
from p2pfs.net.client import Endpoint
from p2pfs.net.identity import Revocations
from p2pfs.net.server import Limits as ServerLimits
from p2pfs.net.server import Server
from p2pfs.placement.policy import copies_wanted
from p2pfs.runtime import worker
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeRecord
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import MIB, ROOT_INODE, Kind, NodeId, PeerNumber, PoolId, Role, VolumeId
from p2pfs.vfs.attach import _leave, _maintain
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.news import NoKernelCache
from p2pfs.vfs.places import Places
from p2pfs.vfs.space import ReservedSpace
from p2pfs.vfs.surroundings import Surroundings
from p2pfs.vfs.uploads import LateCopies
from p2pfs.wire.membership import HeartbeatAnswer, PoolMap, Scrub, ScrubState
from p2pfs.wire.routes import COORDINATOR_ROUTES, PEER_ROUTES
from p2pfs.wire.volumes import CreateVolume, KeySlot, OpenSession
from p2pfs_peerd.absence import Absence
from p2pfs_peerd.app import PeerApp
from p2pfs_peerd.fetches import FETCH_S, IDLE_S, Fetches
from p2pfs_peerd.heartbeat import Pulse
from p2pfs_peerd.orders import OrderRunner
from p2pfs_peerd.pulling import Fellows, MapPuller
from p2pfs_peerd.signer import Signer
from p2pfs_peerd.tokens import TokenBook

from .disk import SimDisk
from .network import Host, Network, SimClient, SimClock, identity

T = TypeVar("T")

POOL = PoolId("5eed" * 8)
VOLUME = VolumeId(0x0123456789ABCDEF)
KEYS = VolumeKeys.derive(bytes(range(32)))
SMALL_FILE = 128
"""Bytes up to which a file lives in the metadata: nearly everything becomes chunks."""
SETTINGS = Settings(
    heartbeat=120.0,
    suspect=360.0,
    down=720.0,
    repair_delay=900.0,
    elect_after=1200.0,
    session_lifetime=480.0,
    delegation=240.0,
    audit_interval=400.0,
    inventory_interval=3600.0,
    orphan_grace=3600.0,
    purge_grace=600.0,
    purge_latest=600.0,
    trash_keep=1800.0,
    small_file=SMALL_FILE,
)
NO_SCRUB = Scrub(ScrubState.IDLE.value, 0, 0, 0, 0, 0.0, 0.0, 0)
TRASH_S = 300.0
"""How long removed files can be brought back."""
TIDY_S = 600.0
"""How often a peer empties its trash of what is old enough."""
_WAITED_FOR = 0.3
"""Share of commits that take time before, and after: every wait costs the run more than the commit."""
_SECRETS = PoolSecrets(b"r" * 32, b"t" * 32)
_COORDINATOR, _FIRST_PEER, _FIRST_CLIENT = 1, 100, 1000


@lru_cache(maxsize=1)
def _authority() -> Authority:
    return Authority.create(POOL, 1_800_000_000.0)


class LifeDatabase:
    """The database as one life of the coordinator uses it: it waits where a disk would, tells in the order of commits,
    and does nothing any more once the process is dead. What was committed stays."""

    def __init__(self, inner: InlineDatabase, host: Host, chance: random.Random) -> None:
        self._inner, self._host, self._chance = inner, host, chance
        self._turn = trio.Lock()

    async def write(
        self, change: Callable[[sqlite3.Connection], T], *, committed: Callable[[T], None] | None = None
    ) -> T:
        async with self._turn:
            if self._chance.random() < _WAITED_FOR:
                await trio.sleep(0.001 * self._chance.random())
            self._expect_life()
            result = self._inner.write_now(change)
            if self._chance.random() < _WAITED_FOR:
                with trio.CancelScope(shield=True):  # the writer's thread goes on whoever is cancelled
                    await trio.sleep(0.001 * self._chance.random())
            if committed is not None:
                committed(result)
        await trio.lowlevel.checkpoint_if_cancelled()
        return result

    def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        self._expect_life()
        return self._inner.read(question)

    async def scan(self, question: Callable[[sqlite3.Connection], T]) -> T:
        await trio.sleep(0.01 * self._chance.random())
        return self.read(question)

    def _expect_life(self) -> None:
        if not self._host.is_up:
            raise Unavailable("this coordinator is dead")


class SimCoordinator:
    """The coordinator's machine. `services` are those of the present life."""

    def __init__(self, network: Network, database: InlineDatabase, chance: random.Random) -> None:
        self.host = network.add(Host("coordinator", identity(POOL, _COORDINATOR, *Role), SimClock()))
        self.database = database
        self.services: Services | None = None
        self._chance = chance
        node = self.host.identity.node
        self.record = NodeRecord(
            pool=POOL, node=node, name="root@server", owner="root", roles=list(Role), coordinator=node,
            addresses=["192.0.2.1:9470"],
        )  # fmt: skip

    async def run(self) -> None:
        """One life."""
        database, revocations, clock = (
            LifeDatabase(self.database, self.host, self._chance),
            Revocations(),
            self.host.clock,
        )
        with contextlib.closing(Rounds()) as rounds:
            services = self.services = await compose(
                self.record, SETTINGS, database=database, authority=_authority(), secrets=_SECRETS,
                revocations=revocations, clock=clock, rounds=rounds,
            )  # fmt: skip
            self.host.server = Server(
                COORDINATOR_ROUTES, Handlers(services).table(), context=None, pool=POOL,  # type: ignore[arg-type]
                limits=ServerLimits(waiting_per_node=MAX_SESSIONS), revocations=revocations, clock=clock,
                authorise=services.authorise,
            )  # fmt: skip
            async with trio.open_nursery() as nursery:
                for one in (
                    services.pulse,
                    Reaper(services.sessions),
                    Expiry(services.sessions, services.reservations),
                    *services.workers,
                ):
                    nursery.start_soon(worker.run, one)


class SimPeer:
    """A peer's machine with its disk, which outlives its lives."""

    def __init__(self, network: Network, number: int, root: Path, chance: random.Random, coordinator: Endpoint) -> None:
        clock = SimClock()
        disk = SimDisk(root / f"{number}", root / f"{number}.attic", chance, clock)
        self.number = PeerNumber(number)
        self.disk = disk
        self.host = network.add(Host(f"peer {number}", identity(POOL, _FIRST_PEER + number, Role.PEER), clock, disk))
        self._network, self._coordinator = network, coordinator
        self.record = NodeRecord(
            pool=POOL, node=self.host.identity.node, name=f"owner{number}@host", owner=f"owner{number}",
            roles=[Role.PEER], coordinator=coordinator.node, addresses=[], peer=self.number,
        )  # fmt: skip
        self.capacity = 2048 * MIB
        self.store: DirectoryStore | None = None
        self.absence: Absence | None = None
        self.dress: Callable[[DirectoryStore], DirectoryStore] = lambda store: store  # for liars

    async def run(self) -> None:
        """One life: what `p2pfs_peerd.composition` puts together."""
        host, clock = self.host, self.host.clock
        signer, tokens, revocations = Signer(self.record), TokenBook(POOL, self.number, clock), Revocations()
        store = self.store = self.dress(await DirectoryStore.open(
            self.disk.root, sign=signer.sign, capacity=self.capacity, clock=clock, disk=self.disk,
            early_purge=SETTINGS.early_purge,
        ))  # fmt: skip
        traffic = Traffic[str](clock.time)
        app = PeerApp(store, tokens, traffic.count)
        fetches = Fetches(app, tokens, number=self.number)
        absence = self.absence = Absence(
            POOL, self.number, store, app, path=self.disk.root.with_suffix(".roll"), free=lambda: self.capacity,
            share=SETTINGS.elect_share, clock=clock,
        )  # fmt: skip
        receipt_key = absence.recall()
        if receipt_key:
            signer.trust(receipt_key)
        handlers = {**app.handlers(), **fetches.handlers(), **absence.handlers()}
        host.server = Server(PEER_ROUTES, handlers, context=None, pool=POOL, revocations=revocations, clock=clock)  # type: ignore[arg-type]

        client = SimClient(self._network, host)
        fellows = Fellows(client, self._coordinator)
        fetches.puller = MapPuller(client, fellows, store, timeout_s=FETCH_S, idle_s=IDLE_S)
        rate = RateLimit(SETTINGS.repair_rate, clock)
        orders = OrderRunner(client, self._coordinator, store, fellows=fellows, rate=rate, scrub=None)

        async def hear(answer: HeartbeatAnswer) -> None:
            signer.trust(answer.receipt_key)
            tokens.trust(answer.token_key)
            tokens.withdraw(answer.withdrawn_seq, answer.withdrawn)
            store.limit(answer.capacity)
            app.hear(answer.state)
            absence.hear(answer)
            if answer.revocations is not None:
                revocations.update(answer.revocations)
            if answer.has_orders:
                orders.wake(map_version=answer.map_version)

        def addresses() -> list[str]:
            return [f"192.0.2.{self.number}:9471"]

        pulse = Pulse(
            client, self._coordinator, store=store, root=self.disk.root,
            addresses=addresses, offered=lambda: self.capacity, scrub=lambda: NO_SCRUB, withdrawn=tokens.withdrawn,
            revocations=revocations, hear=hear, traffic=traffic, interval_s=SETTINGS.heartbeat, clock=clock,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pulse.run)
            nursery.start_soon(orders.run)
            nursery.start_soon(partial(absence.run, client, self._coordinator, rate=rate, addresses=addresses))
            nursery.start_soon(self._tidy, store)

    @staticmethod
    async def _tidy(store: DirectoryStore) -> None:
        while True:
            with contextlib.suppress(PoolError):
                await store.empty_trash(SETTINGS.trash_keep)
            await trio.sleep(TIDY_S)


@dataclass(eq=False)
class Mounted:
    """What a mount in use gives to the load."""

    filesystem: Filesystem
    namespace: RemoteNamespace
    delegated: Delegated

    @property
    def is_over(self) -> bool:
        """Whether some of what it acknowledged may be lost for good, and it does nothing any more."""
        return self.namespace.is_fenced or self.delegated.changes.error is not None

    def fell_back(self, since_s: float) -> bool:
        """Whether something was answered from what the mount knew since then, because the coordinator did not."""
        return self.filesystem.tree.patience._not_before > since_s


class SimMount:
    """A client's machine with one mount. `mounted` is None while it is off."""

    def __init__(self, network: Network, number: int, coordinator: Endpoint) -> None:
        self.host = network.add(
            Host(f"client {number}", identity(POOL, _FIRST_CLIENT + number, Role.CLIENT), SimClock())
        )
        self.number = number
        self.mounted: Mounted | None = None
        self._client = SimClient(network, self.host)
        self._coordinator = coordinator
        self._map: PoolMap | None = None
        self._leaving = trio.Event()
        self._programs: trio.Nursery | None = None

    def start_soon(self, program: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run something that uses the mount; it ends with it at the latest."""
        if self._programs is not None and self.mounted is not None:
            self._programs.start_soon(program, *arguments)

    async def run(self) -> None:
        """One mount: what `vfs.attach` puts together, until `leave` or the machine stops."""
        self._leaving = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                await self._mount(nursery)
                nursery.cancel_scope.cancel()
        except* PoolError:
            pass  # the coordinator was away: it stays unmounted
        finally:
            self.mounted = None

    def leave(self) -> None:
        """Unmount as a person does."""
        self._leaving.set()

    async def _mount(self, nursery: trio.Nursery) -> None:
        clock, timeout_s = self.host.clock, SETTINGS.io_timeout
        await self._fetch_map()
        remote = await RemoteNamespace.open(
            self._client, self._coordinator, VOLUME,
            request=OpenSession(self.host.name, "/mnt"), io_timeout_s=timeout_s,
            on_map_version=lambda _: nursery.start_soon(self._follow_map), map_version=self.map.version,
        )  # fmt: skip
        nursery.start_soon(_maintain, remote)
        namespace = Delegated(remote, now=trio.current_time, io_timeout_s=timeout_s)
        holding = Holding(namespace, trio.current_time)
        places = Places(namespace)
        space = ReservedSpace(remote.reserve, lambda: copies_wanted(self.map)[1], clock.time)
        copies = LateCopies(namespace, nursery)
        peers = PeerStores(self._client, lambda: self.map, space.token, unspent=space.unspent, timeout_s=timeout_s)
        replicated = ReplicatedStore(
            peers, map=lambda: self.map, locate=places.locate, refresh=places.refresh, nursery=nursery,
            late=copies.late, io_timeout_s=timeout_s,
        )  # fmt: skip
        store = LimitedStore(replicated, requests=64, bytes_held=48 * MIB)
        limits = Limits(write=WriteLimits(8 * MIB, SMALL_FILE, io_timeout_s=timeout_s), memory_cache=64 * 1024)
        async with (
            Filesystem.serve(
                KEYS,
                VOLUME,
                namespace,
                store,
                places,
                space,
                limits=limits,
                now_ns=clock.time_ns,
                around=Surroundings(
                    copies=copies,
                    trust=namespace.trust_s,
                    holds=lambda: namespace.holds,
                    apply_now=namespace.apply_now,
                ),
            ) as filesystem,
            trio.open_nursery() as following,
        ):
            holding.store = filesystem.recalled
            following.start_soon(filesystem.follow, NoKernelCache())
            following.start_soon(holding.hold)
            self.mounted = Mounted(filesystem, remote, namespace)
            async with trio.open_nursery() as self._programs:
                await self._leaving.wait()
                self.mounted = None
                self._programs.cancel_scope.cancel()
            with contextlib.suppress(PoolError):
                await filesystem.settle_all()
            following.cancel_scope.cancel()
        await _leave(remote, space)

    @property
    def map(self) -> PoolMap:
        assert self._map is not None
        return self._map

    async def _fetch_map(self) -> None:
        self._map = await self._client.call(self._coordinator, "GET", "/map", None, PoolMap, timeout_s=30.0)

    async def _follow_map(self) -> None:
        for _ in range(5):
            try:
                return await self._fetch_map()
            except PoolError:
                await trio.sleep(3.0)


class SimPool:
    """Everything; `root` is where the peers' disks are."""

    def __init__(self, seed: int, root: Path, *, peers: int, mounts: int) -> None:
        self.root = root
        self.settings = SETTINGS
        self.network = Network(random.Random(f"network {seed}"))
        self.database = InlineDatabase()
        chance = random.Random(f"disks {seed}")
        self.coordinator = SimCoordinator(self.network, self.database, chance)
        record = self.coordinator.record
        endpoint = Endpoint(record.node, Role.COORDINATOR, tuple(record.addresses))
        self.peers = [SimPeer(self.network, number, root, chance, endpoint) for number in range(1, peers + 1)]
        self.mounts = [SimMount(self.network, number, endpoint) for number in range(mounts)]
        self.database.write_now(self._fill)

    def _fill(self, connection: sqlite3.Connection) -> None:
        """Nodes and the volume, as `init`, `join` and `volume create` leave them."""
        for peer in self.peers:
            number = membership.enrol(connection, _node(peer.host, peer.record.owner))
            assert number == peer.number
        for host in (self.coordinator.host, *(mount.host for mount in self.mounts)):
            members.add_node(connection, _node(host, "anna"))
        head = seal_head(KEYS, VOLUME, ROOT_INODE, Head(0, 0, Kind.DIRECTORY))
        slots = [KeySlot("passphrase", b"wrapped")]
        message = CreateVolume(
            VOLUME,
            "home",
            KEYS.check,
            slots,
            head,
            0o755,
            0,
            0,
            1,
            small_file_bytes=SMALL_FILE,
            trash_removed_s=TRASH_S,
        )
        volumes.create_volume(connection, message, owner="anna", now_s=1_800_000_000.0)

    def hosts(self) -> list[Host]:
        return list(self.network.hosts.values())

    def close(self) -> None:
        """After the run: nothing of it stays."""
        self.database.close()
        shutil.rmtree(self.root, ignore_errors=True)


def _node(host: Host, owner: str) -> members.Node:
    return members.Node(
        NodeId(host.identity.node), f"{owner}@{host.name.replace(' ', '')}", owner, "", host.identity.roles,
        capacity_limit=0, joined_s=1_800_000_000.0,
    )  # fmt: skip
