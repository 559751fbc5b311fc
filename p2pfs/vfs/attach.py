"""From a node's home to a working `Filesystem`: connections, session, keys, stores, wired in one place.

Used by the mount and by commands that read a volume without mounting it. Nothing here knows FUSE.
"""

import logging
import math
import os
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from p2pfs.chunks.cached import CachedStore
from p2pfs.chunks.limited import LimitedStore
from p2pfs.chunks.peers import PeerStores
from p2pfs.chunks.protocol import ChunkStore
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.chunks.traffic import Traffic
from p2pfs.errors import PoolError
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.calls import CoordinatorCalls
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.enrolment import keep_renewed
from p2pfs.net.forwarding import KNOWN_PEERS, Forwarding, KnownPeers, endpoints
from p2pfs.net.identity import Credentials, client_context
from p2pfs.placement.policy import copies_wanted
from p2pfs.runtime.clocks import SystemClock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.retry import backoff
from p2pfs.runtime.terminal import printable
from p2pfs.types import GIB, MIB, Distribution, PeerNumber, PoolId, Role, SessionId, VolumeId
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.journal.journal import NoJournal
from p2pfs.vfs.journal.recovery import Recovery, recovering, warn_of_left
from p2pfs.vfs.limits import AGE_S, PROMPT_AGE_S, Durability, Limits, WriteLimits
from p2pfs.vfs.places import Places
from p2pfs.vfs.pool import Pool
from p2pfs.vfs.shared_keys import shared_keys
from p2pfs.vfs.space import EndlessSpace, ReservedSpace, Space
from p2pfs.vfs.surroundings import Surroundings
from p2pfs.vfs.uploads import LateCopies, seals_slowly
from p2pfs.vfs.volume_settings import configure, vouched
from p2pfs.wire.membership import PoolMap
from p2pfs.wire.namespace import Applied, Batch
from p2pfs.wire.volumes import OpenSession, VolumeInfo, VolumeSettings

log = logging.getLogger(__name__)

REQUESTS: Final = 64
"""Chunks under way to or from peers at once, copies not counted."""
TRANSFER_BYTES: Final = 48 * MIB
"""Sealed bytes they may hold together."""
CACHE_BYTES: Final = 10 * GIB
CACHE_SHARE: Final = 10
"""The disk cache's default: a tenth of the disk, at most `CACHE_BYTES`."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A volume in use."""

    filesystem: Filesystem
    volume: VolumeInfo
    map: Callable[[], PoolMap]
    fetched_bytes: Callable[[], int]
    """Sealed bytes that came from peers, not from the disk cache."""
    cached: CachedStore | None
    replicated: ReplicatedStore
    holding: Holding
    """Whoever gives it to a kernel says what the kernel believes."""
    session: SessionId
    calls: CoordinatorCalls
    configure: Callable[[VolumeSettings], Awaitable[VolumeInfo]]


@asynccontextmanager
async def connect(home: NodeHome, settings: Settings) -> AsyncIterator[Pool]:
    """A node's connection to its pool, with the map fetched once."""
    record = home.record()
    credentials = Credentials(home.ca_path, home.certificate_path, home.key_path)
    context = client_context(credentials)
    coordinator = Endpoint(record.coordinator, Role.COORDINATOR, tuple(record.addresses))
    known = KnownPeers(home.path / KNOWN_PEERS)
    before = await trio.to_thread.run_sync(known.load)
    client = Client(
        context,
        PoolId(record.pool),
        clock=SystemClock(),
        relay=coordinator,
        forwarding=Forwarding(record.node, lambda: before if pool.is_new else endpoints(pool.map)),
        connections_per_node=max(2, settings.connections_per_node),  # one to the coordinator waits for events
    )
    pool = Pool(client, coordinator, settings.io_timeout, contexts=(context,), known=known)
    try:
        await pool.fetch_map()
        yield pool
    finally:
        with trio.move_on_after(2, shield=True):
            await client.aclose()


@asynccontextmanager
async def attach(
    home: NodeHome,
    settings: Settings,
    volume: str,
    passphrase: Callable[[], str],
    *,
    read_only: bool = False,
    access_times: bool = True,
    hard: bool = False,
    mount_point: str = "",
    by_kernel: bool = False,
    succeeds: Callable[[], str] = str,
) -> AsyncIterator[Attached]:
    """A volume ready to use. Whoever leaves the block has settled what was written or does not want to. If it is
    `hard`, what is asked of it waits without end for a pool that does not answer; single requests to peers end by
    `io_timeout` all the same. A mount says its `mount_point`: only mounts count when the volume is delegated to the one
    that is alone. `by_kernel`: writes will come from the kernel's cache, so that nobody else may have the volume;
    `succeeds` names a session of this node whose process is dead, or none (""), and is asked when all else is known.

    Raises:
        UserError: No such volume, wrong passphrase.
        Busy: Another mount has it.
        PoolError: The coordinator does not answer or refuses.
    """
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(connect(home, settings))
        info = await pool.volume(volume)
        number = VolumeId(info.volume)
        if info.access:
            keys = await shared_keys(home, pool, info, read_only=read_only)
        else:
            keys = await pool.keys(home, info, passphrase())
        indexing = vouched(home.path, keys, info)
        durability = Durability(settings.durability)
        recovery = Recovery(NoJournal())
        if mount_point and not read_only:
            recovery = await stack.enter_async_context(
                _recovering(home, settings, pool, number, keys, keeps=durability is Durability.FSYNC)
            )
        elif mount_point:
            warn_of_left(home.path, number)
        journal = recovery.journal
        nursery = await stack.enter_async_context(trio.open_nursery())
        remote = await RemoteNamespace.open(
            pool.client, pool.coordinator, number,
            request=OpenSession(printable(platform.node()), printable(mount_point), read_only, by_kernel, succeeds()),
            io_timeout_s=settings.io_timeout, endless=hard,
            on_map_version=lambda _: nursery.start_soon(_follow_map, pool), map_version=pool.map.version,
            on_batch=journal.sending, traffic=(traffic := Traffic[PeerNumber](time.time, for_all=True)),
        )  # fmt: skip
        journal.opened(remote.session)
        nursery.start_soon(journal.run)
        nursery.start_soon(_maintain, remote)
        nursery.start_soon(_keep_renewed, home, pool)
        namespace = Delegated(
            remote, now=_boot_time_s, io_timeout_s=math.inf if hard else settings.io_timeout, journal=journal
        )
        holding = Holding(namespace, _boot_time_s)
        places = Places(namespace)
        space = ReservedSpace(remote.reserve, lambda: copies_wanted(pool.map)[1], time.time, by_kernel=by_kernel)
        copies = LateCopies(namespace, nursery)
        store, replicated = await _store(home, settings, pool, info, places, space, copies, nursery, traffic)
        limits = Limits(
            write=WriteLimits(
                settings.write_buffer,
                info.small_file_bytes,
                info.dedup,
                age_s=PROMPT_AGE_S if durability is Durability.FSYNC else AGE_S,
                io_timeout_s=settings.io_timeout,
                hard=hard,
                seal_in_thread=not read_only and seals_slowly(keys),
                by_kernel=by_kernel,
            ),
            memory_cache=settings.memory_cache,
            durability=durability,
            has_trash=info.trash_removed_s > 0,
            access_times=access_times and not read_only,
        )
        writing: Space = EndlessSpace() if read_only else space
        async with Filesystem.serve(
            keys, number, namespace, store, places, writing,
            limits=limits, now_ns=time.time_ns,
            around=Surroundings(
                copies=copies, trust=namespace.trust_s, holds=lambda: namespace.holds,
                apply_now=namespace.apply_now, known_page=namespace.known_page,
                hurry=namespace.changes.hurry, journal=journal,
                index=(indexing.names, indexing.prefixes), moved_s=replicated.uplink.moved_s,
            ),
        ) as filesystem:  # fmt: skip
            await recovery.restore(filesystem)
            nursery.start_soon(recovery.salvage, filesystem)
            holding.store = filesystem.recalled
            if mount_point and not read_only:
                nursery.start_soon(holding.hold)
            yield Attached(
                filesystem, info, lambda: pool.map, lambda: _fetched(store),
                store if isinstance(store, CachedStore) else None, replicated, holding, remote.session, remote.calls,
                partial(configure, home.path, pool, keys, number),
            )  # fmt: skip
        await _leave(remote, space)
        nursery.cancel_scope.cancel()


def _recovering(
    home: NodeHome, settings: Settings, pool: Pool, volume: VolumeId, keys: VolumeKeys, *, keeps: bool
) -> AbstractAsyncContextManager[Recovery]:
    def calls() -> CoordinatorCalls:  # anew each time: a session that is over says nothing about others
        return CoordinatorCalls(pool.client, pool.coordinator, io_timeout_s=settings.io_timeout)

    async def send(session: str, batch: Batch) -> Applied:
        return await calls().ask("POST", f"/sessions/{session}/batches", batch, Applied)

    async def end(session: str) -> None:
        await calls().tell("DELETE", f"/sessions/{session}")

    @asynccontextmanager
    async def open_namespace() -> AsyncIterator[RemoteNamespace]:
        request = OpenSession(platform.node(), "", False)
        namespace = await RemoteNamespace.open(
            pool.client, pool.coordinator, volume, request=request, io_timeout_s=settings.io_timeout
        )
        try:
            yield namespace
        finally:
            await namespace.aclose()

    return recovering(
        home.path, keys, volume,
        keeps=keeps, budget_bytes=settings.write_buffer, send=send, end=end, open_namespace=open_namespace,
    )  # fmt: skip


def _boot_time_s() -> float:
    """Seconds that count while the machine is suspended: the coordinator's go on too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def _store(
    home: NodeHome,
    settings: Settings,
    pool: Pool,
    info: VolumeInfo,
    places: Places,
    space: ReservedSpace,
    copies: LateCopies,
    nursery: trio.Nursery,
    traffic: Traffic[PeerNumber],
) -> tuple[ChunkStore, ReplicatedStore]:
    peers = PeerStores(pool.client, lambda: pool.map, space.token, unspent=space.unspent, timeout_s=settings.io_timeout)

    known = info.distribution in list(Distribution)
    replicated = ReplicatedStore(
        peers, map=lambda: pool.map, locate=places.locate, refresh=places.refresh, nursery=nursery, late=copies.late,
        count=traffic.count, io_timeout_s=settings.io_timeout,
        distribution=Distribution(info.distribution if known else "auto"),
    )  # fmt: skip
    limited = LimitedStore(replicated, requests=REQUESTS, bytes_held=TRANSFER_BYTES)
    budget = settings.cache_size
    if budget is None:
        budget = min(CACHE_BYTES, _disk_bytes(home.path) // CACHE_SHARE)
    if not budget:
        return limited, replicated
    return await CachedStore.open(limited, home.path / "cache", budget=budget, nursery=nursery), replicated


def _disk_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


async def _maintain(namespace: RemoteNamespace) -> None:
    """Keep the session alive. A coordinator that refuses us (a revoked node) does not take the mount away: what is
    asked of it is refused then, and who wrote there must not find a plain local directory instead."""
    try:
        await namespace.maintain()
    except* PoolError as refusals:
        log.warning("the coordinator refuses this mount: %s", refusals.exceptions[0])


async def _follow_map(pool: Pool) -> None:
    """Fetch the map after it changed, as soon as the coordinator lets us."""
    for pause_s in backoff(0.5, 15.0):
        try:
            return await pool.fetch_map()
        except PoolError as error:
            log.info("the pool map is not fetched: %s", error)
        await trio.sleep(pause_s)


async def _keep_renewed(home: NodeHome, pool: Pool) -> None:
    await keep_renewed(home, pool.client, pool.coordinator, contexts=pool.contexts, clock=SystemClock())


def _fetched(store: ChunkStore) -> int:
    return store.bytes_fetched if isinstance(store, CachedStore) else 0


async def _leave(namespace: RemoteNamespace, space: ReservedSpace) -> None:
    """Good manners at the end; a coordinator that misses them notices by itself."""
    with trio.move_on_after(3):
        try:
            await space.give_back()
        except PoolError as error:
            log.info("the coordinator did not hear that reservations are free: %s", error)
    await namespace.aclose()
