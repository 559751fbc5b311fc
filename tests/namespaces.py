"""Worlds for tests of the namespace: one volume behind each implementation, with sessions that come and go."""

import itertools
import sqlite3
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio
from broken_rows import broken_invariants
from pki import make_ca

from p2pfs.coordinator.delegations import Delegations
from p2pfs.errors import Misuse
from p2pfs.meta import chunks_index, engine, members, open_inodes, reaper, sessions, settings, volumes
from p2pfs.meta.database import Database, InlineDatabase, open_database
from p2pfs.meta.events import Listeners
from p2pfs.meta.local import LocalNamespace
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.meta.protocol import Namespace
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.net.addresses import bound_addresses, open_listeners
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.server import Request, Response, Server
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import ROOT_INODE, ChunkId, Kind, NodeId, PeerState, Role, SessionId, VolumeId
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.wire import answers
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.delegations import AskDelegation, Delegation, ReturnDelegation
from p2pfs.wire.events import WaitEvents
from p2pfs.wire.membership import Heartbeat, Resources
from p2pfs.wire.namespace import (
    Attributes,
    Batch,
    Commit,
    Entry,
    ExtentRow,
    Link,
    Make,
    NewChunk,
    Question,
    Rename,
    Unlink,
)
from p2pfs.wire.routes import COORDINATOR_ROUTES
from p2pfs.wire.volumes import CreateVolume, GrantIds, OpenSession, SessionGrant

__all__ = ["broken_invariants"]

VOLUME = VolumeId(0x0123456789ABCDEF)
GENUINE = b"a true receipt.."
WANTED_MIN = 2
PEER_BYTES = 1000
NODE = NodeId("ab" * 16)
OPEN_S = 3600.0


def verify(volume: VolumeId, new: NewChunk) -> None:
    """A receipt is genuine when it says so."""
    if volume != VOLUME or any(receipt.mac != GENUINE for receipt in new.receipts):
        raise Misuse("this receipt is not genuine")


def chunk_id(number: int) -> ChunkId:
    return ChunkId(number.to_bytes(32, "big"))


def new_chunk(number: int, *peers: int, size: int = 1000) -> NewChunk:
    """A chunk with genuine receipts of some peers."""
    return NewChunk(chunk_id(number), size, [Receipt(peer, 1, GENUINE) for peer in peers or (1, 2)])


def extent(index: int, seq: int, chunk: int | None) -> ExtentRow:
    return ExtentRow(index, seq, None if chunk is None else chunk_id(chunk), b"sealed %d %d" % (index, seq))


def create_volume(*, trash_s: float = 0.0) -> CreateVolume:
    """Without trash: what is removed goes at once."""
    return CreateVolume(
        VOLUME,
        "home",
        b"c" * 16,
        [],
        b"root head",
        0o755,
        1000,
        1000,
        1,
        trash_removed_s=trash_s,
        trash_expired_s=trash_s,
    )


class World(Protocol):
    """One volume. `reap` finishes what is deferred; `purge` makes a chunk one that is being deleted; `fall_asleep` lets
    time pass in which a session is not renewed, though it lives on; `lapse` lets two lifetimes pass."""

    async def mount(
        self, *, read_only: bool = False, exclusive: bool = False, succeeds: Namespace | None = None
    ) -> Namespace: ...

    async def end(self, namespace: Namespace) -> None: ...

    async def purge(self, chunk: ChunkId) -> None: ...

    async def reap(self) -> None: ...

    async def fall_asleep(self, namespace: Namespace) -> None: ...

    async def lapse(self) -> None: ...


class MemoryWorld:
    def __init__(self, *, trash_s: float = 0.0) -> None:
        self.volume = MemoryVolume(
            trash_s=trash_s,
            root_head=b"root head",
            volume=VOLUME,
            verify=verify,
            wanted_min=WANTED_MIN,
            room=(1500, 1500),
            time_ns=1,
            uid=1000,
            gid=1000,
        )

    async def mount(
        self, *, read_only: bool = False, exclusive: bool = False, succeeds: Namespace | None = None
    ) -> Namespace:
        assert succeeds is None or isinstance(succeeds, MemoryNamespace)
        number = succeeds.number if succeeds else None
        return self.volume.session(read_only=read_only, exclusive=exclusive, succeeds=number)

    async def end(self, namespace: Namespace) -> None:
        assert isinstance(namespace, MemoryNamespace)
        self.volume.end(namespace.number)

    async def purge(self, chunk: ChunkId) -> None:
        self.volume.purging.add(chunk)

    async def reap(self) -> None:
        return

    async def fall_asleep(self, namespace: Namespace) -> None:
        assert isinstance(namespace, MemoryNamespace)
        self.volume.asleep.add(namespace.number)

    async def lapse(self) -> None:
        self.volume.lapse()


class SqlWorld:
    """Over any Database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FakeClock()
        self.listeners = Listeners()
        self.delegations = Delegations(database=database, listeners=self.listeners, lasts_s=30.0, clock=self.clock)

    @classmethod
    def in_memory(cls) -> "SqlWorld":
        """Over a database in memory, closed when nobody has the world any more."""
        database = InlineDatabase()
        world = cls(database)
        weakref.finalize(world, database.close)
        return world

    async def prepare(self, *, trash_s: float = 0.0) -> None:
        message = create_volume(trash_s=trash_s)
        await self.database.write(lambda c: volumes.create_volume(c, message, owner="anna", now_s=0.0))
        await self.database.write(_add_peers)

    async def open_session(self, request: OpenSession) -> SessionGrant:
        def begin(connection: sqlite3.Connection) -> SessionGrant:
            awake = {row.id for row in sessions.sessions(connection) if row.expires_s >= self.clock.time()}
            sessions.make_way(
                connection, VOLUME, node=NODE, request=request, is_silent=lambda session: session not in awake
            )
            return sessions.open_session(
                connection,
                VOLUME,
                node=NODE,
                owner="anna",
                request=request,
                now_s=self.clock.time(),
                lifetime_s=OPEN_S,
            )

        return await self.database.write(begin)

    async def mount(
        self, *, read_only: bool = False, exclusive: bool = False, succeeds: Namespace | None = None
    ) -> Namespace:
        grant = await self.open_session(OpenSession("host", "/mnt", read_only, exclusive, _session(succeeds)))
        return LocalNamespace(
            self.database,
            VOLUME,
            SessionId(grant.session),
            verify=verify,
            wanted_min=lambda: WANTED_MIN,
            clock=self.clock,
            listeners=self.listeners,
        )

    async def end(self, namespace: Namespace) -> None:
        session: SessionId = namespace.session  # type: ignore[attr-defined]
        await self.database.write(lambda c: sessions.close_session(c, session))
        self.listeners.ended(session)
        self.delegations.ended(session)

    async def purge(self, chunk: ChunkId) -> None:
        def purge(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE chunk SET doomed_s = -1 WHERE id = ? AND refs = 0", (chunk,))
            assert chunks_index.purge(connection, doomed_before_s=0.0, now_s=1.0).chunks == 1

        await self.database.write(purge)

    async def reap(self) -> None:
        while await self.database.write(lambda c: reaper.reap(c, now_s=1.0, limit=2)):
            pass

    async def fall_asleep(self, namespace: Namespace) -> None:
        session: SessionId = namespace.session  # type: ignore[attr-defined]
        before_s = self.clock.time() - 1
        await self.database.write(lambda c: sessions.renew_session(c, session, now_s=before_s, lifetime_s=0.0))

    async def lapse(self) -> None:
        self.clock.advance(sessions.HOLD_S + 1)
        while await self.database.write(lambda c: open_inodes.lapse(c, now_s=self.clock.time(), limit=1)):
            pass


class RemoteWorld(SqlWorld):
    """The same behind a server with just the routes of a mount."""

    def __init__(self, database: Database, client: Client, coordinator: Endpoint) -> None:
        super().__init__(database)
        self.client = client
        self.coordinator = coordinator
        self._places = itertools.count(1)

    async def mount(
        self, *, read_only: bool = False, exclusive: bool = False, succeeds: Namespace | None = None
    ) -> Namespace:
        return await RemoteNamespace.open(
            self.client,
            self.coordinator,
            VOLUME,
            request=OpenSession("host", f"/mnt/{next(self._places)}", read_only, exclusive, _session(succeeds)),
            io_timeout_s=10.0,
        )


def _session(namespace: Namespace | None) -> str:
    return "" if namespace is None else namespace.session  # type: ignore[attr-defined]


def _add_peers(connection: sqlite3.Connection) -> None:
    resources = Resources(0, 0, 0, 0, 0, 0.0, 0, 0)
    for number in range(3):
        node = NodeId(f"{number:032x}")
        members.add_node(connection, members.Node(node, "p", "p", "", frozenset({Role.PEER}), 0, 0.0))
        peer = members.add_peer(connection, node, now_s=0.0)
        beat = Heartbeat([], PEER_BYTES, 0, 0, 0, 0.0, resources, 0, 0)
        members.record_heartbeat(connection, peer, heartbeat=beat, capacity=PEER_BYTES, now_s=0.0)
        members.set_peer_state(connection, peer, state=PeerState.UP, now_s=0.0)
    settings.write(connection, settings.REPLICAS, value=2)


def handlers(world: SqlWorld) -> dict[str, Any]:
    """What a coordinator answers to a mount, without its policies."""

    def session(request: Request) -> SessionId:
        return SessionId(request.parameters["session"])

    async def open_session(request: Request) -> Response:
        grant = await world.open_session(await request.message(OpenSession))
        world.listeners.opened(SessionId(grant.session), VOLUME)
        world.delegations.opened(SessionId(grant.session))
        return Response.of(grant)

    async def questions(request: Request) -> Response:
        asked = await request.message(list[Question])
        return Response.of(world.database.read(lambda c: engine.answer_all(c, VOLUME, asked)))

    async def batch(request: Request) -> Response:
        message = await request.message(Batch)

        def change(fences: int, connection: sqlite3.Connection) -> sessions.Outcome:
            return sessions.apply_batch(
                connection,
                session(request),
                batch=message,
                verify=verify,
                wanted_min=WANTED_MIN,
                now_s=world.clock.time(),
                fences=fences,
            )

        async def attempt(fences: int) -> sessions.Outcome:
            return await world.database.write(
                partial(change, fences),
                committed=lambda outcome: world.listeners.publish(session(request), outcome.news),
            )

        outcome = await world.delegations.in_turn(session(request), attempt)
        return Response(body=answers.value_of(outcome.answer))

    async def grant_ids(request: Request) -> Response:
        message = await request.message(GrantIds)
        return Response.of(
            await world.database.write(lambda c: sessions.grant_ids(c, session(request), count=message.count))
        )

    async def close_session(request: Request) -> Response:
        await world.database.write(lambda c: sessions.close_session(c, session(request)))
        world.listeners.ended(session(request))
        world.delegations.ended(session(request))
        return Response()

    async def events(request: Request) -> Response:
        asked = await request.message(WaitEvents)
        volume = world.database.read(lambda c: sessions.volume_of_session(c, session(request)))
        return Response.of(await world.listeners.wait(session(request), volume, asked))

    async def held(request: Request) -> Response:
        return Response.of(world.database.read(lambda c: sessions.held(c, session(request))))

    async def delegate(request: Request) -> Response:
        message = await request.message(AskDelegation)
        return Response.of(await world.delegations.ask(session(request), message.epoch))

    async def return_delegation(request: Request) -> Response:
        message = await request.message(ReturnDelegation)
        return Response.of(await world.delegations.give_back(session(request), message))

    return {
        "open_session": open_session,
        "questions": questions,
        "batch": batch,
        "grant_ids": grant_ids,
        "close_session": close_session,
        "events": events,
        "held": held,
        "delegate": delegate,
        "return_delegation": return_delegation,
    }


@asynccontextmanager
async def served(directory: Path, *, trash_s: float = 0.0) -> AsyncIterator[RemoteWorld]:
    """A remote world over loopback TLS."""
    ca = make_ca(directory)
    server_node, mount_node = ca.issue(roles=(Role.COORDINATOR,)), ca.issue(roles=(Role.CLIENT,))
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(directory / "pool.db"))
        nursery = await stack.enter_async_context(trio.open_nursery())
        listeners = await open_listeners("127.0.0.1:0")
        client = await stack.enter_async_context(Client(mount_node.client(), ca.pool))
        address = tuple(bound_addresses(listeners))
        world = RemoteWorld(database, client, Endpoint(server_node.node, Role.COORDINATOR, address))
        server = Server(
            COORDINATOR_ROUTES,
            handlers(world),
            context=server_node.server(),
            pool=ca.pool,
            authorise=lambda route, identity, parameters: None,
        )
        await nursery.start(server.serve, listeners)
        await world.prepare(trash_s=trash_s)
        yield world
        await client.aclose()
        await server.stop(1.0)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def world(kind: str, directory: Path, *, trash_s: float = 0.0) -> AsyncIterator[World]:
    """A world of one of KINDS."""
    if kind == "memory":
        yield MemoryWorld(trash_s=trash_s)
    elif kind == "delegated":
        async with trio.open_nursery() as nursery:
            yield DelegatedWorld(MemoryWorld(trash_s=trash_s), nursery)
            nursery.cancel_scope.cancel()
    elif kind == "delegated-remote":
        async with served(directory, trash_s=trash_s) as far, trio.open_nursery() as nursery:
            yield DelegatedWorld(far, nursery)
            nursery.cancel_scope.cancel()
    elif kind == "inline":
        database = InlineDatabase()
        inline = SqlWorld(database)
        await inline.prepare(trash_s=trash_s)
        yield inline
        database.close()
    elif kind == "sqlite":
        async with open_database(directory / "pool.db") as threaded:
            local = SqlWorld(threaded)
            await local.prepare(trash_s=trash_s)
            yield local
    else:
        async with served(directory, trash_s=trash_s) as remote:
            yield remote


class Asking:
    """A session that asks for the delegation only while its world has no other mount."""

    def __init__(self, inner: Namespace, world: "DelegatedWorld") -> None:
        self.inner, self._world = inner, world
        self.asks = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the session has
        return getattr(self.inner, name)

    async def delegate(self, epoch: int) -> Delegation:
        if self._world.is_shared:
            await trio.lowlevel.checkpoint()
            return Delegation(0, 10.0)
        self.asks += 1
        try:
            told: Delegation = await self.inner.delegate(epoch)  # type: ignore[attr-defined]
            if told.epoch and self._world.is_shared:
                await self.inner.return_delegation(told.epoch, 0.0)  # type: ignore[attr-defined]
                told = Delegation(0, 10.0)
        finally:  # the session may have ended
            self.asks -= 1
        return told


class DelegatedWorld:
    """A world whose first mount holds the delegation while it is alone. Mounts run as long as the nursery."""

    def __init__(self, base: World, nursery: trio.Nursery) -> None:
        self.base, self._nursery = base, nursery
        self._mounts: list[Delegated] = []

    @property
    def is_shared(self) -> bool:
        return len(self._mounts) > 1

    async def mount(
        self, *, read_only: bool = False, exclusive: bool = False, succeeds: Namespace | None = None
    ) -> Namespace:
        dead = None if succeeds is None else _inner(succeeds)
        inner = Asking(await self.base.mount(read_only=read_only, exclusive=exclusive, succeeds=dead), self)
        delegated = Delegated(inner, now=trio.current_time, io_timeout_s=10.0)  # type: ignore[arg-type]
        self._mounts.append(delegated)
        self._nursery.start_soon(Holding(delegated, trio.current_time).hold)
        while not (self.is_shared or read_only or delegated.holds):
            await trio.lowlevel.checkpoint()
        while self.is_shared and any(mount.epoch or mount.inner.asks for mount in self._mounts):  # type: ignore[attr-defined]
            for mount in self._mounts:
                if mount.epoch:
                    mount.recalled.set()  # as the coordinator says with events, which the test may not ask for
            await trio.lowlevel.checkpoint()
        return delegated

    async def end(self, namespace: Namespace) -> None:
        await namespace.settle()
        await self.base.end(_inner(namespace))
        assert isinstance(namespace, Delegated)
        namespace.let_go()  # as once it was refused a renewal

    async def purge(self, chunk: ChunkId) -> None:
        await self._settled()
        await self.base.purge(chunk)

    async def reap(self) -> None:
        await self._settled()
        await self.base.reap()

    async def fall_asleep(self, namespace: Namespace) -> None:
        await self.base.fall_asleep(_inner(namespace))

    async def lapse(self) -> None:
        await self._settled()
        await self.base.lapse()

    async def _settled(self) -> None:
        for mount in self._mounts:
            await mount.settle()


def _inner(namespace: Namespace) -> Namespace:
    assert isinstance(namespace, Delegated)
    inner: Namespace = namespace.inner.inner  # type: ignore[attr-defined]
    return inner


KINDS = ("memory", "inline", "sqlite", "remote", "delegated", "delegated-remote")


class Hand:
    """Makes operations with numbers from a namespace and times that never repeat."""

    def __init__(self, namespace: Namespace, *, now: Callable[[], int] | None = None) -> None:
        self.namespace = namespace
        ticks = itertools.count(1000)
        self.now = now or (lambda: next(ticks))

    async def number(self) -> int:
        return (await self.namespace.new_ids(1))[0]

    async def make_operation(
        self,
        name: bytes,
        *,
        parent: int = ROOT_INODE,
        kind: Kind = Kind.FILE,
        **more: Any,  # noqa: ANN401 - fields of Make
    ) -> Make:
        target = b"sealed target" if kind == Kind.SYMLINK else None
        dentry, inode = await self.namespace.new_ids(2)
        fields = {"mode": 0o644, "uid": 1, "gid": 2, "rdev": 0, "time_ns": self.now(), "target": target} | more
        return Make(
            parent=parent,
            name=name,
            dentry=dentry,
            dentry_tag=b"tag of " + name,
            inode=inode,
            kind=kind,
            head=b"head 0",
            **fields,
        )

    async def make(self, name: bytes, *, parent: int = ROOT_INODE, kind: Kind = Kind.FILE, **more: Any) -> int:  # noqa: ANN401
        operation = await self.make_operation(name, parent=parent, kind=kind, **more)
        await self.namespace.apply([operation])
        return operation.inode

    async def directory(self, name: bytes, *, parent: int = ROOT_INODE) -> int:
        return await self.make(name, parent=parent, kind=Kind.DIRECTORY)

    async def link(self, inode: int, name: bytes, *, parent: int = ROOT_INODE) -> None:
        await self.namespace.apply([Link(parent, name, await self.number(), b"link tag", inode, self.now())])

    async def unlink(self, name: bytes, inode: int, *, parent: int = ROOT_INODE, directory: bool = False) -> list[int]:
        applied = await self.namespace.apply([Unlink(parent, name, inode, directory, self.now())])
        return applied.removed

    async def rename(
        self,
        name: bytes,
        inode: int,
        new_name: bytes,
        *,
        parent: int = ROOT_INODE,
        new_parent: int = ROOT_INODE,
        replaced: int = 0,
        flags: int = 0,
    ) -> list[int]:
        operation = Rename(
            parent=parent,
            name=name,
            inode=inode,
            new_parent=new_parent,
            new_name=new_name,
            dentry=await self.number(),
            dentry_tag=b"moved " + new_name,
            replaced=replaced,
            flags=flags,
            time_ns=self.now(),
            back_tag=b"back " + name,
        )
        return (await self.namespace.apply([operation])).removed

    async def commit(self, inode: int, base_change: int, **more: Any) -> Attributes:  # noqa: ANN401
        """A commit with a head that names its change."""
        fields = {"size": 0, "head": b"head %d" % (base_change + 1), "time_ns": self.now()} | more
        applied = await self.namespace.apply([Commit(inode, base_change, **fields)])
        return next(row for row in applied.attributes if row.inode == inode)

    async def names(self, inode: int = ROOT_INODE, limit: int = 1000) -> list[bytes]:
        return [entry.name for entry in await self.entries(inode, limit)]

    async def entries(self, inode: int = ROOT_INODE, limit: int = 1000, *, content: bool = False) -> list[Entry]:
        """All entries of a directory, page by page."""
        found: list[Entry] = []
        while True:
            after = found[-1].dentry if found else 0
            page = await self.namespace.directory(inode, after, limit, content=content)  # type: ignore[arg-type]
            assert len(page.entries) <= limit
            found += page.entries
            if page.complete:
                return found
            assert page.entries

    async def layers(self, inode: int, range_number: int = 0) -> list[tuple[int, int]]:
        """(index, seq) of the live extents of a range."""
        page = await self.namespace.extents(inode, range_number)  # type: ignore[arg-type]
        return [(row.index, row.seq) for row in page.extents]
